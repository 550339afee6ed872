//! Frames that arrive: RFC 9113 sections 4 to 6.

use std::time::Instant;

use super::keepalive::went;
use super::{Arriving, Connection, Event, GoAway, Notice, PartialBlock, ResetCause, timers};
use crate::config::Role;
use crate::error::{ConnectionError, ErrorCode};
use crate::frame::{self, FrameHeader, flag, kind};
use crate::hpack::Decoded;
use crate::rate::WHOLE;
use crate::streams::StreamKey;

/// A reset this soon after the beginning of a stream, and before an answer, is an early one.
const EARLY_MS: u32 = 1000;
/// The most resets that may come too late, for streams that have ended, without being counted.
pub(super) const LATE_RESETS: u32 = 10_000;

/// What came of one step.
pub(super) enum Step<'a> {
    /// More octets are needed.
    Starved,
    /// A frame was taken in.
    Done,
    Head(StreamKey, Decoded, bool),
    Trailers(StreamKey, Decoded),
    Data(StreamKey, &'a [u8], bool),
}

/// What a frame's stream is.
pub(super) enum Found {
    Open(StreamKey),
    /// This side has reset it: what comes late is ignored.
    Ignored,
    Closed,
    Idle,
}

impl Connection {
    /// Takes in octets that were read, up to the next event; nothing is left to do once there is none.
    ///
    /// What is not taken from `input` has to be passed in again with more behind it.
    ///
    /// # Errors
    /// When the peer broke the protocol: what is in the output says so to it, and the connection has
    /// to end.
    pub fn receive<'s, 'i>(
        &'s mut self,
        input: &mut &'i [u8],
        now: Instant,
    ) -> Result<Option<Event<'s, 'i>>, ConnectionError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        self.watch.heard = now;
        let step = loop {
            if let Some(event) = self.poll_event() {
                return Ok(Some(event));
            }
            match self.step(input, now) {
                Ok(Step::Starved) => return Ok(None),
                Ok(Step::Done) => {}
                Ok(step) => break step,
                Err(error) => {
                    self.fail(error);
                    return Err(error);
                }
            }
        };
        Ok(match step {
            Step::Head(stream, decoded, end) => Some(Event::Head {
                stream,
                block: self.decoder.block(decoded),
                end,
            }),
            Step::Trailers(stream, decoded) => Some(Event::Trailers {
                stream,
                block: self.decoder.block(decoded),
            }),
            Step::Data(stream, data, end) => Some(Event::Data { stream, data, end }),
            Step::Starved | Step::Done => None,
        })
    }

    /// The next event that is not about octets that were read.
    pub fn poll_event(&mut self) -> Option<Event<'static, 'static>> {
        loop {
            let notice = self.notices.pop_front()?;
            if let Notice::Reset { stream, .. } = notice
                && !self.streams.get(stream).is_some_and(|one| one.flags.held)
            {
                // Its user has let go of it since, and does not want to hear of it.
                continue;
            }
            return Some(event_of(notice));
        }
    }

    fn step<'a>(
        &mut self,
        input: &mut &'a [u8],
        now: Instant,
    ) -> Result<Step<'a>, ConnectionError> {
        match self.arriving {
            Arriving::Nothing => {}
            Arriving::Data {
                stream,
                left,
                padding,
                end,
            } => {
                self.watch_frame(input, left.saturating_add(padding), now);
                return Ok(self.pass_data(input, stream, left, padding, end));
            }
            Arriving::Skipped(left) => {
                self.watch_frame(input, left, now);
                let taken = (left as usize).min(input.len());
                *input = input.get(taken..).unwrap_or_default();
                let left = left.saturating_sub(taken as u32);
                if left > 0 {
                    self.arriving = Arriving::Skipped(left);
                    return Ok(Step::Starved);
                }
                self.arriving = Arriving::Nothing;
                return Ok(Step::Done);
            }
        }
        if self.preface_left > 0 {
            return self.take_preface(input);
        }
        let Some((header, rest)) = input.split_first_chunk::<{ frame::HEADER }>() else {
            if !input.is_empty() {
                self.partial_since.get_or_insert(now);
                self.partial_block = false;
            }
            return Ok(Step::Starved);
        };
        let header = FrameHeader::parse(header);
        self.check_header(header)?;
        if header.kind == kind::DATA {
            self.partial_since = None;
            self.went |= went::COME;
            return self.begin_data(header, input, rest, now);
        }
        if header.kind > kind::CONTINUATION {
            // Section 5.5: unknown frames are ignored.
            self.partial_since = None;
            *input = rest;
            self.arriving = Arriving::Skipped(header.length);
            self.count_idle(now)?;
            return Ok(Step::Done);
        }
        let Some((payload, rest)) = rest.split_at_checked(header.length as usize) else {
            self.partial_since.get_or_insert(now);
            self.partial_block = matches!(header.kind, kind::HEADERS | kind::CONTINUATION);
            return Ok(Step::Starved);
        };
        *input = rest;
        let since = self.partial_since.take().unwrap_or(now);
        match header.kind {
            kind::HEADERS => self.receive_headers(header, payload, since, now),
            kind::CONTINUATION => self.receive_continuation(header, payload, now),
            other => {
                match other {
                    kind::PRIORITY => self.receive_priority(header, now)?,
                    kind::RST_STREAM => self.receive_reset(header, payload, now)?,
                    kind::SETTINGS => self.receive_settings(header, payload, now)?,
                    kind::PING => self.receive_ping(header, payload, now)?,
                    kind::GOAWAY => self.receive_goaway(payload)?,
                    kind::WINDOW_UPDATE => self.receive_window_update(header, payload, now)?,
                    // Section 8.4: nobody may push to us, and clients cannot.
                    _ => {
                        return Err(ConnectionError::protocol(
                            "PUSH_PROMISE is not allowed here",
                        ));
                    }
                }
                Ok(Step::Done)
            }
        }
    }

    /// The rest of a frame, of which so much is missing, is waited for unless all of it is there; anew
    /// when some of it is.
    pub(super) fn watch_frame(&mut self, input: &[u8], missing: u32, now: Instant) {
        if input.len() >= missing as usize {
            self.partial_since = None;
        } else if !input.is_empty() {
            self.partial_since = Some(now);
        } else {
            self.partial_since.get_or_insert(now);
        }
    }

    /// Section 3.4.
    fn take_preface<'a>(&mut self, input: &mut &'a [u8]) -> Result<Step<'a>, ConnectionError> {
        let start = frame::PREFACE.len().saturating_sub(self.preface_left);
        let expected = frame::PREFACE.get(start..).unwrap_or_default();
        let length = expected.len().min(input.len());
        let (octets, rest) = input.split_at_checked(length).unwrap_or((input, &[]));
        if expected.get(..length) != Some(octets) {
            return Err(ConnectionError::protocol(
                "the connection does not begin with the HTTP/2 preface",
            ));
        }
        *input = rest;
        self.preface_left = self.preface_left.saturating_sub(length);
        Ok(if self.preface_left > 0 {
            Step::Starved
        } else {
            Step::Done
        })
    }

    /// What the header of a frame alone can have wrong.
    fn check_header(&self, header: FrameHeader) -> Result<(), ConnectionError> {
        if header.length > self.config.max_frame {
            return Err(ConnectionError::frame_size(
                "a frame is larger than MAX_FRAME_SIZE",
            ));
        }
        if !self.ready && header.kind != kind::SETTINGS {
            return Err(ConnectionError::protocol("the first frame is not SETTINGS"));
        }
        if !self.ready && header.has(flag::ACK) {
            return Err(ConnectionError::protocol(
                "the first frame is an acknowledgement",
            ));
        }
        if let Some(block) = &self.block
            && (header.kind != kind::CONTINUATION || header.stream != block.stream)
        {
            // Section 4.3.
            return Err(ConnectionError::protocol(
                "another frame is inside a header block",
            ));
        }
        let fixed = match header.kind {
            kind::PING => 8,
            kind::RST_STREAM | kind::WINDOW_UPDATE => 4,
            _ => header.length,
        };
        if header.length != fixed {
            return Err(ConnectionError::frame_size("a frame has the wrong length"));
        }
        let whole = self.config.limits.header_block as u32;
        if header.kind != kind::DATA && header.kind <= kind::CONTINUATION && header.length > whole {
            return Err(ConnectionError::calm(
                "a frame is larger than it needs to be",
            ));
        }
        let of_connection = matches!(header.kind, kind::SETTINGS | kind::PING | kind::GOAWAY);
        let of_both = header.kind == kind::WINDOW_UPDATE || header.kind > kind::CONTINUATION;
        if !of_both && of_connection != (header.stream == 0) {
            return Err(ConnectionError::protocol(
                "a frame is on a stream where it may not be",
            ));
        }
        Ok(())
    }

    pub(super) fn find(&self, id: u32) -> Found {
        if let Some(key) = self.streams.find(id) {
            return Found::Open(key);
        }
        let idle = match self.role {
            Role::Server => id > self.last_peer_id || id.is_multiple_of(2),
            Role::Client => id >= self.next_id || id.is_multiple_of(2),
        };
        if self.ignored.contains(id) {
            Found::Ignored
        } else if idle {
            Found::Idle
        } else {
            Found::Closed
        }
    }

    /// Section 6.2.
    fn receive_headers<'a>(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        since: Instant,
        now: Instant,
    ) -> Result<Step<'a>, ConnectionError> {
        self.went |= went::COME;
        let mut fragment = payload;
        if header.has(flag::PADDED) {
            let (padding, rest) = fragment
                .split_first()
                .ok_or(ConnectionError::frame_size("a padded frame is empty"))?;
            let length = rest.len().checked_sub(usize::from(*padding));
            fragment =
                length
                    .and_then(|length| rest.get(..length))
                    .ok_or(ConnectionError::protocol(
                        "the padding is longer than the frame",
                    ))?;
        }
        if header.has(flag::PRIORITY) {
            // Section 5.3.2: read and ignored.
            fragment = fragment.get(5..).ok_or(ConnectionError::frame_size(
                "HEADERS with priority is too short",
            ))?;
        }
        let end = header.has(flag::END_STREAM);
        if header.has(flag::END_HEADERS) {
            let decoded = self.decoder.take(fragment)?;
            return self.receive_block(header.stream, decoded, end, now);
        }
        self.block = Some(PartialBlock {
            stream: header.stream,
            end,
            octets: fragment.to_vec(),
            continuations: 0,
            since,
        });
        Ok(Step::Done)
    }

    /// Section 6.10.
    fn receive_continuation<'a>(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        now: Instant,
    ) -> Result<Step<'a>, ConnectionError> {
        let limits = self.config.limits;
        let Some(block) = &mut self.block else {
            return Err(ConnectionError::protocol(
                "CONTINUATION without a header block",
            ));
        };
        block.continuations = block.continuations.saturating_add(1);
        let length = block.octets.len().saturating_add(payload.len());
        if block.continuations > limits.continuations || length > limits.header_block {
            return Err(ConnectionError::calm("a header block does not end"));
        }
        block.octets.extend_from_slice(payload);
        if !header.has(flag::END_HEADERS) {
            return Ok(Step::Done);
        }
        let Some(block) = self.block.take() else {
            return Ok(Step::Done);
        };
        let decoded = self.decoder.take(&block.octets)?;
        self.receive_block(block.stream, decoded, block.end, now)
    }

    /// Section 6.3: deprecated; only its form is looked at.
    fn receive_priority(
        &mut self,
        header: FrameHeader,
        now: Instant,
    ) -> Result<(), ConnectionError> {
        if header.length != 5 {
            return match self.find(header.stream) {
                Found::Open(key) => self.violation(
                    key,
                    ErrorCode::FRAME_SIZE_ERROR,
                    "PRIORITY has the wrong length",
                    now,
                ),
                _ => Err(ConnectionError::frame_size("PRIORITY has the wrong length")),
            };
        }
        self.count_idle(now)
    }

    /// Section 6.4.
    fn receive_reset(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), ConnectionError> {
        let code = ErrorCode(u32::from_be_bytes(
            *payload.first_chunk().unwrap_or(&[0; 4]),
        ));
        let key = match self.find(header.stream) {
            Found::Open(key) => key,
            Found::Idle => {
                return Err(ConnectionError::protocol(
                    "RST_STREAM on a stream that is idle",
                ));
            }
            // The caller has given up while its answer was on the way: once for each stream.
            _ => match self.late_resets.checked_sub(1) {
                Some(left) => {
                    self.late_resets = left;
                    return Ok(());
                }
                None => return self.count_idle(now),
            },
        };
        let age = self.clock.since(now).as_millis() as u32;
        let Some(stream) = self.streams.get(key) else {
            return Ok(());
        };
        if stream.flags.reset {
            return self.count_idle(now);
        }
        let flags = stream.flags;
        let age = age.saturating_sub(stream.opened_at);
        let early = age < EARLY_MS && !flags.head_sent;
        self.drop_queue(key);
        self.mark_reset(key);
        if flags.held && !(self.role == Role::Client && flags.recv_closed) {
            let cause = match code {
                ErrorCode::REFUSED_STREAM => ResetCause::Refused,
                _ => ResetCause::Peer,
            };
            self.notices.push_back(Notice::Reset {
                stream: key,
                code,
                cause,
            });
        }
        self.remove_if_over(key);
        if early && self.role == Role::Server {
            self.count_early_reset(age, now)?;
        }
        Ok(())
    }

    /// Counts a stream that was reset at this age before it was answered.
    fn count_early_reset(&mut self, age: u32, now: Instant) -> Result<(), ConnectionError> {
        let Some(rate) = self.config.limits.early_resets else {
            return Ok(());
        };
        // The longer they take, the fewer there can be: `Limits::early_resets`.
        let time = u64::from(age).saturating_add(1);
        let counts = WHOLE.checked_div(time.saturating_mul(time)).unwrap_or(0);
        let since_start = self.clock.since(now);
        // An answered call has cost its peer what a call costs.
        let answered = u64::from(std::mem::take(&mut self.answered));
        self.early_resets.give(answered.saturating_mul(WHOLE / 2));
        if !self.early_resets.take(rate, counts, since_start) {
            return Err(ConnectionError::calm(
                "too many streams are reset as soon as they are opened",
            ));
        }
        Ok(())
    }

    /// Section 6.7.
    fn receive_ping(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), ConnectionError> {
        let payload: [u8; 8] = *payload.first_chunk().unwrap_or(&[0; 8]);
        if !header.has(flag::ACK) {
            self.put_ping(flag::ACK, payload);
            self.count_ping(now)?;
            // A peer that measures the round trip may do so with everything that is exchanged.
            if self.went & went::BETWEEN == 0 {
                self.count_idle(now)?;
            }
            self.went &= !went::BETWEEN;
            return self.count_answer();
        }
        match payload {
            timers::MEASURE => self.measured(),
            timers::DRAINING => self.finish_drain(),
            timers::KEEPALIVE => self.notices.push_back(Notice::Pong),
            // An answer to nothing is as good as none.
            _ => return self.count_idle(now),
        }
        self.on_pong(now);
        Ok(())
    }

    /// Section 6.8.
    fn receive_goaway(&mut self, payload: &[u8]) -> Result<(), ConnectionError> {
        let Some((head, debug)) = payload.split_first_chunk::<8>() else {
            return Err(ConnectionError::frame_size("GOAWAY is too short"));
        };
        let [l0, l1, l2, l3, c0, c1, c2, c3] = *head;
        let last = u32::from_be_bytes([l0, l1, l2, l3]) & 0x7fff_ffff;
        let code = ErrorCode(u32::from_be_bytes([c0, c1, c2, c3]));
        if self.peer_last.is_some_and(|before| last > before) {
            return Err(ConnectionError::protocol(
                "a GOAWAY takes back what an earlier one said",
            ));
        }
        self.peer_last = Some(last);
        self.watch.too_many |=
            code == ErrorCode::ENHANCE_YOUR_CALM && debug == timers::TOO_MANY_PINGS.as_bytes();
        // The last one counts, but what announces a graceful end need not say why.
        if self.goaway.is_none() || code != ErrorCode::NO_ERROR || !debug.is_empty() {
            self.goaway = Some(Box::new(GoAway::new(code, debug)));
        }
        self.notices.push_back(Notice::GoAway(code));
        if self.role == Role::Client {
            self.refuse_above(last);
        }
        // A client speaks of streams that are pushed, and may go on opening its own.
        Ok(())
    }

    /// Streams that the peer will not look at are over.
    pub(super) fn refuse_above(&mut self, last: u32) {
        let mut refused = Vec::new();
        while let Some(key) = self.waiting.first() {
            self.waiting.remove(&mut self.streams, key);
            refused.push((key, ResetCause::Unsent));
        }
        self.streams.for_each_open(|key, stream| {
            if stream.id > last && !stream.flags.reset {
                refused.push((key, ResetCause::Refused));
            }
        });
        for (key, cause) in refused {
            self.drop_queue(key);
            if let Some(stream) = self.streams.get_mut(key) {
                stream.head = None;
            }
            self.mark_reset(key);
            self.notices.push_back(Notice::Reset {
                stream: key,
                code: ErrorCode::REFUSED_STREAM,
                cause,
            });
        }
    }
}

fn event_of(notice: Notice) -> Event<'static, 'static> {
    match notice {
        Notice::Ready => Event::Ready,
        Notice::Reset {
            stream,
            code,
            cause,
        } => Event::Reset {
            stream,
            code,
            cause,
        },
        Notice::GoAway(code) => Event::GoAway { code },
        Notice::Pong => Event::Pong,
    }
}
