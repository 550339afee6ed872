//! One HTTP/2 connection as a state machine: octets in, events out; calls in, octets out.

mod data;
mod goaway;
mod heads;
mod ignored;
mod keepalive;
mod lifetime;
mod receive;
mod room;
mod send;
mod settings;
mod timers;
mod waiting;
mod windows;

use std::collections::VecDeque;
use std::time::Instant;

use crate::config::{Config, Limits, Role};
use crate::error::{ConnectionError, ErrorCode};
use crate::frame::{self, FrameHeader, flag, kind};
use crate::hpack::{Block, Decoder, Encoder};
use crate::output::Output;
use crate::rate::{Clock, RateCounter, TokenBucket};
use crate::streams::{End, StreamKey, Streams};

pub use goaway::GoAway;
use ignored::Ignored;
use keepalive::Watch;
use lifetime::Lifetime;
pub use room::Unsent;
pub use send::Payload;
use settings::PeerSettings;
use timers::{Drain, Growth};
use waiting::Waiting;

/// Lists of streams keep memory for so many.
const KEPT: usize = 64;

/// What has happened on a connection: heads are in its memory, data is in what was read.
#[derive(Debug)]
pub enum Event<'s, 'i> {
    /// The peer has shown that it speaks HTTP/2.
    Ready,
    /// The head of a request or of a response.
    Head {
        /// Its stream.
        stream: StreamKey,
        /// Its fields.
        block: Block<'s>,
        /// Nothing follows.
        end: bool,
    },
    /// A piece of a body. It counts against the window of its stream until [`Connection::consume`].
    Data {
        /// Its stream.
        stream: StreamKey,
        /// The octets.
        data: &'i [u8],
        /// Nothing follows.
        end: bool,
    },
    /// Trailers, which end the peer's side of the stream.
    Trailers {
        /// Its stream.
        stream: StreamKey,
        /// Its fields.
        block: Block<'s>,
    },
    /// A stream is over before its end. Its user still has to let go of it.
    Reset {
        /// The stream.
        stream: StreamKey,
        /// The code that was received or sent.
        code: ErrorCode,
        /// Who reset it.
        cause: ResetCause,
    },
    /// The peer takes no more streams; those that it will not process are reset as refused.
    GoAway {
        /// Why.
        code: ErrorCode,
    },
    /// The peer has answered [`Connection::ping`].
    Pong,
}

/// Who has reset a stream, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetCause {
    /// The peer.
    Peer,
    /// The peer, or its GOAWAY, which say that it did not look at the stream.
    Refused,
    /// A GOAWAY of the peer, before anything of the stream was sent.
    Unsent,
    /// This side, because of what the peer did.
    Violation(&'static str),
}

/// An event without what it borrows.
#[derive(Clone, Copy, Debug)]
enum Notice {
    Ready,
    Reset {
        stream: StreamKey,
        code: ErrorCode,
        cause: ResetCause,
    },
    GoAway(ErrorCode),
    Pong,
}

/// A payload that is passed on, or skipped, while it arrives.
#[derive(Clone, Copy, Debug)]
enum Arriving {
    Nothing,
    Data {
        stream: StreamKey,
        left: u32,
        padding: u32,
        end: bool,
    },
    Skipped(u32),
}

/// A header block whose end has not arrived.
#[derive(Debug)]
struct PartialBlock {
    stream: u32,
    end: bool,
    octets: Vec<u8>,
    continuations: u32,
    since: Instant,
}

/// A DATA frame at the end of the output that can still grow.
#[derive(Clone, Copy, Debug)]
struct OpenFrame {
    stream: StreamKey,
    header: usize,
    length: u32,
}

/// One connection of either role.
///
/// The user passes in what it has read ([`receive`](Self::receive)), acts on the events, opens and
/// answers streams, and writes what [`take_output`](Self::take_output) gives. Time is an argument;
/// nothing here knows a socket or a clock, and nothing blocks.
#[derive(Debug)]
pub struct Connection {
    role: Role,
    config: Config,
    clock: Clock,
    error: Option<ConnectionError>,

    preface_left: usize,
    ready: bool,
    settings_acknowledged: bool,
    arriving: Arriving,
    block: Option<PartialBlock>,
    /// Since when a frame that has begun is waited for: since its first octet, or in the middle of a
    /// payload that is passed on as it arrives since the last one.
    partial_since: Option<Instant>,
    /// What is waited for is a piece of a header block.
    partial_block: bool,
    decoder: Decoder,
    notices: VecDeque<Notice>,
    recv_window: i64,
    returnable: u32,
    growth: Growth,

    streams: Streams,
    /// The highest identifier that the peer has opened.
    last_peer_id: u32,
    /// The next identifier that this side opens.
    next_id: u32,
    ignored: Ignored,
    /// Streams that wait for the peer's limit.
    waiting: Waiting,

    peer: PeerSettings,
    encoder: Encoder,
    output: Output,
    open_frame: Option<OpenFrame>,
    send_window: i64,
    /// Streams that have something to send and a window for it, in turn.
    sendable: VecDeque<StreamKey>,
    /// What all streams hold unsent.
    buffered: usize,
    /// What of it is behind the windows of its streams.
    behind: usize,
    /// Memory is short, so that streams hold little.
    tight: bool,
    /// Streams whose users wait for room and have it now.
    roomy: Vec<StreamKey>,
    /// Users that wait for room of the connection, for what the windows of their streams let through.
    crowded: Vec<StreamKey>,
    /// Users that wait for room of the connection behind the windows of their streams.
    blocked: Vec<StreamKey>,
    /// Streams that are over and may still be in one of these lists.
    left_behind: usize,

    drain: Drain,
    /// The last stream that the peer said it would look at.
    peer_last: Option<u32>,
    /// What the peer's GOAWAY says.
    goaway: Option<Box<GoAway>>,
    unsent_answers: u32,
    empty_data: u32,
    /// What has gone either way, by the bits of [`keepalive::went`].
    went: u8,
    watch: Watch,
    lifetime: Lifetime,
    /// When there is something to look at for keepalive or the lifetime.
    alarm: Option<Instant>,
    idle_frames: RateCounter,
    early_resets: TokenBucket,
    /// Streams that have ended without a reset since the last early one.
    answered: u32,
    /// How many resets may come for streams that have ended.
    late_resets: u32,
    caused_resets: RateCounter,
}

impl Connection {
    /// A connection that begins now.
    #[must_use]
    pub fn new(role: Role, config: Config, now: Instant) -> Self {
        let mut connection = Self {
            role,
            config,
            clock: Clock::new(now),
            error: None,
            preface_left: match role {
                Role::Client => 0,
                Role::Server => frame::PREFACE.len(),
            },
            ready: false,
            settings_acknowledged: false,
            arriving: Arriving::Nothing,
            block: None,
            partial_since: None,
            partial_block: false,
            decoder: Decoder::new(
                config.header_table as usize,
                config.max_header_list as usize,
                config.max_fields,
            ),
            notices: VecDeque::new(),
            recv_window: i64::from(config.connection_window),
            returnable: 0,
            growth: Growth::new(&config),
            streams: Streams::default(),
            last_peer_id: 0,
            next_id: 1,
            ignored: Ignored::default(),
            waiting: Waiting::default(),
            peer: PeerSettings::default(),
            encoder: Encoder::default(),
            output: Output::default(),
            open_frame: None,
            send_window: i64::from(frame::DEFAULT_WINDOW),
            sendable: VecDeque::new(),
            buffered: 0,
            behind: 0,
            tight: false,
            roomy: Vec::new(),
            crowded: Vec::new(),
            blocked: Vec::new(),
            left_behind: 0,
            drain: Drain::No,
            peer_last: None,
            goaway: None,
            unsent_answers: 0,
            empty_data: 0,
            went: 0,
            watch: Watch::new(config.keepalive, now),
            lifetime: Lifetime::new(role, &config, now),
            alarm: None,
            idle_frames: RateCounter::default(),
            early_resets: TokenBucket::default(),
            answered: 0,
            late_resets: 0,
            caused_resets: RateCounter::default(),
        };
        connection.set_alarm();
        connection.greet();
        connection
    }

    /// Whether the peer has shown that it speaks HTTP/2.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Why the connection has to end, once it has to.
    #[must_use]
    pub fn error(&self) -> Option<ConnectionError> {
        self.error
    }

    /// Why the peer takes no more streams, once it has said so.
    #[must_use]
    pub fn peer_goaway(&self) -> Option<&GoAway> {
        self.goaway.as_deref()
    }

    /// Whether streams can still be opened, now or later.
    #[must_use]
    pub fn takes_streams(&self) -> bool {
        self.error.is_none()
            && self.peer_last.is_none()
            && matches!(self.drain, Drain::No)
            && self.next_id <= frame::LARGEST_WINDOW
    }

    /// How many streams there are, with those that wait to be opened.
    #[must_use]
    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// How many streams there have been; it begins anew once there were 2^32.
    #[must_use]
    pub fn opened(&self) -> u32 {
        self.streams.opened()
    }

    /// Whether it has been shut down and nothing is left to do or to write.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        let over = self.error.is_some()
            || (self.streams.len() == 0
                && (matches!(self.drain, Drain::Final) || self.peer_last.is_some()));
        over && self.output.is_empty()
    }

    /// What protects it from its peer.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// How many octets of frames wait to be taken out: what a peer that does not read makes grow.
    #[must_use]
    pub fn output_length(&self) -> usize {
        self.output.len()
    }

    /// Lets go of a stream. What is unsent of an ended stream still goes out; one that has not
    /// ended is reset.
    pub fn release(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        stream.flags.held = false;
        if stream.head.is_some() {
            // Nothing was sent, so there is nothing to end.
            self.waiting.remove(&mut self.streams, key);
            self.forget(key);
            return;
        }
        let ended = stream.flags.send_closed || !matches!(stream.end, End::Open);
        if !ended && !stream.flags.reset {
            self.reset(key, ErrorCode::CANCEL);
            return;
        }
        if self.role == Role::Client && !stream.flags.recv_closed && !stream.flags.reset {
            self.reset(key, ErrorCode::CANCEL);
            return;
        }
        self.remove_if_over(key);
    }

    /// Ends a stream abruptly; what is queued of it is dropped.
    pub fn reset(&mut self, key: StreamKey, code: ErrorCode) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if stream.head.is_some() {
            // Nothing was sent, so there is nothing to end; its user still holds it.
            self.waiting.remove(&mut self.streams, key);
            self.drop_queue(key);
            if let Some(stream) = self.streams.get_mut(key) {
                stream.head = None;
            }
            self.mark_reset(key);
            self.remove_if_over(key);
            return;
        }
        let over = stream.flags.reset
            || (stream.flags.send_closed && stream.is_drained() && stream.flags.recv_closed);
        let id = stream.id;
        if !over {
            self.drop_queue(key);
            self.put_reset(id, code);
            self.mark_reset(key);
        }
        self.remove_if_over(key);
    }

    /// The largest header list that the peer says it takes, with 32 octets for each field (RFC 9113
    /// section 6.5.2): advice, which it may not know itself to be wrong.
    #[must_use]
    pub fn peer_header_list(&self) -> usize {
        self.peer.max_header_list as usize
    }

    /// What a stream still has to send is sent no more.
    fn drop_queue(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get_mut(key) {
            if stream.head.is_none() {
                self.buffered = self.buffered.saturating_sub(stream.queued);
                self.behind = self.behind.saturating_sub(stream.behind());
            }
            stream.clear();
            stream.end = End::Open;
        }
    }

    fn mark_reset(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.flags.reset = true;
            stream.flags.recv_closed = true;
            stream.flags.send_closed = true;
            if std::mem::take(&mut stream.flags.wants_room) {
                self.roomy.push(key);
            }
        }
    }

    fn put_reset(&mut self, id: u32, code: ErrorCode) {
        self.ignored.insert(id);
        self.open_frame = None;
        let header = FrameHeader {
            length: 4,
            kind: kind::RST_STREAM,
            flags: 0,
            stream: id,
        };
        self.output.put(&header.encode());
        self.output.put(&code.0.to_be_bytes());
    }

    /// Removes a stream that its user has let go of and that has nothing left to send.
    fn remove_if_over(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        if stream.flags.held || !stream.flags.send_closed {
            return;
        }
        if !stream.flags.recv_closed {
            // RFC 9113 section 8.1: a complete response needs no more of the request.
            let id = stream.id;
            self.put_reset(id, ErrorCode::NO_ERROR);
        }
        self.forget(key);
    }

    fn forget(&mut self, key: StreamKey) {
        self.drop_queue(key);
        if let Some(stream) = self.streams.get(key) {
            let flags = stream.flags;
            if !flags.reset {
                self.answered = self.answered.saturating_add(1);
            }
            let begins_with = self.config.stream_window;
            self.growth
                .give_back(stream.window.saturating_sub(begins_with));
            if flags.ready || flags.crowded || flags.blocked {
                self.count_left_behind();
            }
        }
        self.late_resets = self.late_resets.saturating_add(1).min(receive::LATE_RESETS);
        if self.streams.remove(key) {
            self.shrink();
        }
        self.open_waiting();
    }

    /// A stream that is over is still in a list of those that can send, or want to. They leave it when
    /// it is their turn, which may never come as long as the peer gives no window.
    fn count_left_behind(&mut self) {
        self.left_behind = self.left_behind.saturating_add(1);
        let waiting = self.crowded.len().saturating_add(self.blocked.len());
        let listed = self.sendable.len().saturating_add(waiting);
        if self.left_behind > KEPT && self.left_behind > listed / 2 {
            self.left_behind = 0;
            self.drop_left_behind();
        }
    }

    fn drop_left_behind(&mut self) {
        let streams = &self.streams;
        self.sendable.retain(|key| streams.get(*key).is_some());
        self.crowded.retain(|key| streams.get(*key).is_some());
        self.blocked.retain(|key| streams.get(*key).is_some());
    }

    /// Many streams have ended: gives back the memory of lists that had an entry for each.
    fn shrink(&mut self) {
        self.drop_left_behind();
        self.sendable.shrink_to(KEPT);
        self.crowded.shrink_to(KEPT);
        self.blocked.shrink_to(KEPT);
        self.roomy.shrink_to(KEPT);
        self.notices.shrink_to(KEPT);
    }

    /// How many places there are for streams: the [index](StreamKey::index) of each is below. When
    /// many streams have ended it gets less, and so can a table of the user's that has as many.
    #[must_use]
    pub fn places(&self) -> usize {
        self.streams.places()
    }

    /// The peer did on a stream what it may not do: resets the stream.
    fn violation(
        &mut self,
        key: StreamKey,
        code: ErrorCode,
        reason: &'static str,
        now: Instant,
    ) -> Result<(), ConnectionError> {
        let Some(stream) = self.streams.get(key) else {
            return Ok(());
        };
        let (id, held) = (stream.id, stream.flags.held);
        self.drop_queue(key);
        self.put_reset(id, code);
        self.mark_reset(key);
        if held {
            self.notices.push_back(Notice::Reset {
                stream: key,
                code,
                cause: ResetCause::Violation(reason),
            });
        }
        self.remove_if_over(key);
        self.count_caused_reset(now)
    }

    fn count_caused_reset(&mut self, now: Instant) -> Result<(), ConnectionError> {
        let Some(rate) = self.config.limits.caused_resets else {
            return Ok(());
        };
        if self.caused_resets.count(rate, self.clock.since(now)) {
            return Err(ConnectionError::calm(
                "too many streams had to be reset for what the peer did on them",
            ));
        }
        Ok(())
    }

    /// Counts a frame that carries nothing.
    fn count_idle(&mut self, now: Instant) -> Result<(), ConnectionError> {
        let Some(rate) = self.config.limits.idle_frames else {
            return Ok(());
        };
        if self.idle_frames.count(rate, self.clock.since(now)) {
            return Err(ConnectionError::calm("too many frames that carry nothing"));
        }
        Ok(())
    }

    /// Counts an answer that the peer has asked for by a frame.
    fn count_answer(&mut self) -> Result<(), ConnectionError> {
        self.unsent_answers = self.unsent_answers.saturating_add(1);
        match self.config.limits.unsent_answers {
            Some(limit) if self.unsent_answers > limit => Err(ConnectionError::calm(
                "too many answers are waiting to be read",
            )),
            _ => Ok(()),
        }
    }

    /// Ends the connection because of an error: says so to the peer, and nothing else any more.
    pub fn fail(&mut self, error: ConnectionError) {
        if self.error.is_some() {
            return;
        }
        self.error = Some(error);
        self.put_goaway(self.last_peer_id, error.code, error.reason.as_bytes());
    }

    fn put_goaway(&mut self, last: u32, code: ErrorCode, debug: &[u8]) {
        self.open_frame = None;
        let header = FrameHeader {
            length: 8u32.saturating_add(debug.len() as u32),
            kind: kind::GOAWAY,
            flags: 0,
            stream: 0,
        };
        self.output.put(&header.encode());
        self.output.put(&last.to_be_bytes());
        self.output.put(&code.0.to_be_bytes());
        self.output.put(debug);
    }

    /// Sends a PING; [`Event::Pong`] is its answer.
    pub fn ping(&mut self) {
        self.send_ping(timers::KEEPALIVE);
    }

    fn put_ping(&mut self, flags: u8, payload: [u8; 8]) {
        self.open_frame = None;
        let header = FrameHeader {
            length: 8,
            kind: kind::PING,
            flags: flags & flag::ACK,
            stream: 0,
        };
        self.output.put(&header.encode());
        self.output.put(&payload);
    }
}
