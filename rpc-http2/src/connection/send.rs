//! Streams that are opened and answered, and what goes out when.

use std::time::Instant;

use bytes::{Buf, Bytes};

use super::keepalive::went;
use super::{Connection, OpenFrame};
use crate::fields::Fields;
use crate::frame::{self, FrameHeader, flag, kind};
use crate::hpack::Template;
use crate::output::Output;
use crate::streams::{End, QueuedHead, StreamKey};

/// What is taken out of the queues at a time: enough for one large write.
const BATCH: usize = 256 * 1024;
/// The largest frame that is sent when other streams wait too.
const FAIR: u32 = 16 * 1024;
/// The largest frame that is sent.
const LARGEST: u32 = 256 * 1024;
/// Small messages of one stream go into one frame up to this size.
const JOINED: u32 = 16 * 1024;

/// A piece of a body.
#[derive(Debug)]
pub enum Payload<'a> {
    /// To be copied.
    Copied(&'a [u8]),
    /// To be kept until it is written, and copied only when it is small.
    Shared(Bytes),
}

impl Payload<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Copied(octets) => octets.len(),
            Self::Shared(octets) => octets.len(),
        }
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        match self {
            Self::Copied(octets) => Bytes::copy_from_slice(octets),
            Self::Shared(octets) => octets,
        }
    }
}

impl Connection {
    /// Opens a stream with a request's head; it waits when the peer allows no more streams now.
    ///
    /// Nothing comes back when the connection takes no streams any more.
    pub fn open(&mut self, head: &mut Template, rest: &Fields, now: Instant) -> Option<StreamKey> {
        if !self.takes_streams() {
            return None;
        }
        self.wake_keepalive();
        let full = self.streams.len() >= self.peer.max_streams as usize || !self.waiting.is_empty();
        let id = if full { 0 } else { self.next_id };
        let opened_at = self.clock.since(now).as_millis() as u32;
        let (key, stream) = self.streams.insert(id);
        stream.send_window = i64::from(self.peer.initial_window);
        stream.recv_window = i64::from(self.config.stream_window);
        stream.window = self.config.stream_window;
        stream.opened_at = opened_at;
        stream.flags.held = true;
        stream.flags.head_sent = !full;
        if full {
            stream.head = Some(Box::new(QueuedHead {
                template: head.clone(),
                rest: rest.clone(),
                before: None,
                behind: None,
            }));
            self.waiting.push(&mut self.streams, key);
            return Some(key);
        }
        self.next_id = self.next_id.saturating_add(2);
        self.put_head(id, head, rest, false);
        Some(key)
    }

    /// Whether nothing of a stream was sent because the peer allows no more streams now.
    #[must_use]
    pub fn is_waiting(&self, key: StreamKey) -> bool {
        self.streams
            .get(key)
            .is_some_and(|stream| stream.head.is_some())
    }

    /// Whether something can still be sent on a stream.
    #[must_use]
    pub fn is_open(&self, key: StreamKey) -> bool {
        self.streams
            .get(key)
            .is_some_and(|stream| !stream.flags.send_closed && matches!(stream.end, End::Open))
    }

    /// Answers a stream with a response's head; false when the stream is over.
    pub fn respond(
        &mut self,
        key: StreamKey,
        head: &mut Template,
        rest: &Fields,
        end: bool,
    ) -> bool {
        let Some(stream) = self.streams.get_mut(key) else {
            return false;
        };
        if stream.flags.send_closed || stream.flags.head_sent {
            return false;
        }
        stream.flags.head_sent = true;
        stream.flags.send_closed = end;
        let id = stream.id;
        self.put_head(id, head, rest, end);
        if end {
            self.remove_if_over(key);
        }
        true
    }

    /// Sends a piece of the body; false when the stream is over.
    pub fn send(&mut self, key: StreamKey, data: Payload<'_>, end: bool) -> bool {
        let idle = self.sendable.is_empty() && self.output.len() < BATCH;
        let room = self.send_window;
        let Some(stream) = self.streams.get_mut(key) else {
            return false;
        };
        if stream.flags.send_closed || !matches!(stream.end, End::Open) {
            return false;
        }
        let fits = data.len() as i64 <= room.min(stream.send_window);
        if idle && stream.is_drained() && fits {
            if end {
                stream.flags.send_closed = true;
            }
            match data {
                Payload::Copied(octets) if octets.len() <= JOINED as usize => {
                    self.put_small(key, octets, end);
                }
                data => self.put_data(key, data.into_bytes(), end),
            }
            if end {
                self.remove_if_over(key);
            }
            return true;
        }
        let (length, before) = (data.len(), stream.behind());
        stream.push(data);
        // What waits to be opened may not take the room of what is open, which it waits for.
        if stream.head.is_none() {
            let behind = stream.behind().saturating_sub(before);
            self.buffered = self.buffered.saturating_add(length);
            self.behind = self.behind.saturating_add(behind);
        }
        if end {
            stream.end = End::Data;
        }
        self.make_sendable(key);
        true
    }

    /// Ends a stream with trailers; false when it is over already.
    pub fn trailers(&mut self, key: StreamKey, head: &mut Template, rest: &Fields) -> bool {
        let Some(stream) = self.streams.get_mut(key) else {
            return false;
        };
        if stream.flags.send_closed || !matches!(stream.end, End::Open) {
            return false;
        }
        if !stream.is_empty() {
            stream.end = End::Trailers(Box::new((head.clone(), rest.clone())));
            return true;
        }
        stream.flags.send_closed = true;
        let id = stream.id;
        self.put_head(id, head, rest, true);
        self.remove_if_over(key);
        true
    }

    /// Whether there is something to write.
    #[must_use]
    pub fn has_output(&self) -> bool {
        // A connection that has failed has its GOAWAY to write, and nothing of its streams.
        let queued = self.error.is_none() && self.send_window > 0 && !self.sendable.is_empty();
        queued || !self.output.is_empty()
    }

    /// Takes what is to be written next, which is all of it or a large batch; `output` must be empty.
    pub fn take_output(&mut self, output: &mut Output, _now: Instant) {
        if self.error.is_none() {
            self.pump();
        }
        self.check_unsent();
        self.open_frame = None;
        self.unsent_answers = 0;
        output.make_like(&self.output);
        std::mem::swap(&mut self.output, output);
    }

    /// Moves queued data to the output, a frame of each stream in turn.
    fn pump(&mut self) {
        while self.output.len() < BATCH && self.send_window > 0 {
            let Some(key) = self.sendable.pop_front() else {
                break;
            };
            self.pump_stream(key);
        }
    }

    fn pump_stream(&mut self, key: StreamKey) {
        let alone = self.sendable.is_empty();
        let room = self.send_window;
        let most = i64::from(if alone { LARGEST } else { FAIR });
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        stream.flags.ready = false;
        if stream.flags.send_closed {
            return;
        }
        let window = room.min(stream.send_window).max(0);
        let Some(front) = stream.front() else {
            self.pump_end(key);
            return;
        };
        let size = window.min(most).min(front.len() as i64) as usize;
        if size == 0 {
            return;
        }
        let piece = if size == front.len() {
            stream.queue.pop_front().unwrap_or_default()
        } else {
            front.split_to(size)
        };
        stream.queued = stream.queued.saturating_sub(size);
        self.buffered = self.buffered.saturating_sub(size);
        let end = stream.is_empty() && matches!(stream.end, End::Data);
        if end {
            stream.end = End::Open;
            stream.flags.send_closed = true;
        }
        self.put_data(key, piece, end);
        self.look_for_room(key);
        if end {
            self.remove_if_over(key);
            return;
        }
        self.pump_end(key);
        self.make_sendable(key);
    }

    /// Sends the end of a stream whose queue is empty.
    fn pump_end(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if !stream.is_empty() || matches!(stream.end, End::Open) {
            return;
        }
        let id = stream.id;
        stream.flags.send_closed = true;
        match std::mem::take(&mut stream.end) {
            End::Trailers(trailers) => {
                let (mut head, rest) = *trailers;
                self.put_head(id, &mut head, &rest, true);
            }
            _ => self.put_data(key, Bytes::new(), true),
        }
        self.remove_if_over(key);
    }

    /// Puts a stream in the list of those that can send, when it can.
    pub(super) fn make_sendable(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        let window = stream.send_window > 0 || stream.is_empty();
        if stream.head.is_none() && !stream.flags.ready && !stream.is_drained() && window {
            stream.flags.ready = true;
            self.sendable.push_back(key);
        }
    }

    /// A small piece: behind the last one of its stream if that is the last frame.
    fn put_small(&mut self, key: StreamKey, octets: &[u8], end: bool) {
        let added = octets.len() as u32;
        let limit = JOINED.min(self.peer.max_frame);
        if let Some(open) = self.open_frame
            && open.stream == key
            && open.length.saturating_add(added) <= limit
        {
            let length = open.length.saturating_add(added);
            let flags = if end { flag::END_STREAM } else { 0 };
            let [_, l0, l1, l2] = length.to_be_bytes();
            self.output
                .patch(open.header, &[l0, l1, l2, kind::DATA, flags]);
            self.output.put(octets);
            self.take_window(key, added);
            self.open_frame = (!end).then_some(OpenFrame { length, ..open });
            return;
        }
        let header = self.output.position();
        self.put_data_header(key, added, end);
        self.output.put(octets);
        self.take_window(key, added);
        self.open_frame = (!end).then_some(OpenFrame {
            stream: key,
            header,
            length: added,
        });
    }

    /// A piece that the windows have room for, in frames that the peer takes.
    fn put_data(&mut self, key: StreamKey, mut data: Bytes, end: bool) {
        let limit = LARGEST.min(self.peer.max_frame) as usize;
        loop {
            let size = data.len().min(limit);
            let piece = data.split_to(size);
            let last = !data.has_remaining();
            self.put_data_header(key, size as u32, end && last);
            self.take_window(key, size as u32);
            self.output.put_bytes(piece);
            if last {
                break;
            }
        }
        self.open_frame = None;
    }

    fn put_data_header(&mut self, key: StreamKey, length: u32, end: bool) {
        self.went |= went::OUT;
        let stream = self.streams.get(key).map_or(0, |stream| stream.id);
        let header = FrameHeader {
            length,
            kind: kind::DATA,
            flags: if end { flag::END_STREAM } else { 0 },
            stream,
        };
        self.output.put(&header.encode());
    }

    fn take_window(&mut self, key: StreamKey, octets: u32) {
        self.send_window = self.send_window.saturating_sub(i64::from(octets));
        if let Some(stream) = self.streams.get_mut(key) {
            stream.send_window = stream.send_window.saturating_sub(i64::from(octets));
            stream.progress = stream.progress.saturating_add(octets);
        }
    }

    /// A header block in as many frames as it takes. Once it is encoded it has to go out: the
    /// peer's table depends on it.
    pub(super) fn put_head(&mut self, id: u32, template: &mut Template, rest: &Fields, end: bool) {
        self.open_frame = None;
        self.went |= went::OUT;
        let start = self.output.position();
        self.output.put(&[0; frame::HEADER]);
        let encoder = &mut self.encoder;
        let length = self.output.put_with(|out| {
            let before = out.len();
            encoder.begin(out);
            encoder.template(template, out);
            if !rest.is_empty() {
                encoder.rest(rest, out);
            }
            out.len().saturating_sub(before)
        });
        let first = length.min(self.peer.max_frame as usize);
        let mut flags = if end { flag::END_STREAM } else { 0 };
        if first == length {
            flags |= flag::END_HEADERS;
        }
        let header = FrameHeader {
            length: first as u32,
            kind: kind::HEADERS,
            flags,
            stream: id,
        };
        self.output.patch(start, &header.encode());
        if first < length {
            let behind = start.saturating_add(frame::HEADER).saturating_add(first);
            self.put_continuations(id, behind);
        }
    }

    fn put_continuations(&mut self, id: u32, behind: usize) {
        let octets = self.output.cut(behind);
        let mut pieces = octets
            .chunks(self.peer.max_frame.max(1) as usize)
            .peekable();
        while let Some(piece) = pieces.next() {
            let header = FrameHeader {
                length: piece.len() as u32,
                kind: kind::CONTINUATION,
                flags: match pieces.peek() {
                    Some(_) => 0,
                    None => flag::END_HEADERS,
                },
                stream: id,
            };
            self.output.put(&header.encode());
            self.output.put(piece);
        }
    }
}
