//! The streams of a connection in one piece of memory.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use bytes::{Bytes, BytesMut};

use crate::connection::Payload;
use crate::fields::Fields;
use crate::hpack::Template;

/// A stream as the user of a connection names it; never two the same on one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamKey {
    index: u32,
    generation: u32,
}

impl StreamKey {
    /// A small number that no other stream has at the same time.
    #[must_use]
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// Small pieces are joined up to this size.
const JOINED: usize = 16 * 1024;

/// What follows the messages of a stream.
#[derive(Debug, Default)]
pub(crate) enum End {
    /// More messages may come.
    #[default]
    Open,
    /// The end itself.
    Data,
    /// Trailers.
    Trailers(Box<(Template, Fields)>),
}

/// A head that waits until the peer allows another stream.
#[derive(Debug)]
pub(crate) struct QueuedHead {
    pub(crate) template: Template,
    pub(crate) rest: Fields,
}

/// One stream.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// 0 as long as it waits to be opened.
    pub(crate) id: u32,
    pub(crate) generation: u32,
    /// What may be sent; below zero after the peer has made its windows smaller (RFC 9113 section 6.9.2).
    pub(crate) send_window: i64,
    /// What the peer may send.
    pub(crate) recv_window: i64,
    /// What has arrived and is not consumed.
    pub(crate) unconsumed: u32,
    /// What has been consumed and not been given back.
    pub(crate) returnable: u32,
    /// What `content-length` says is still to come.
    pub(crate) content_left: Option<u64>,
    pub(crate) queue: VecDeque<Bytes>,
    /// Small pieces behind the queue, joined.
    pub(crate) tail: BytesMut,
    pub(crate) queued: usize,
    pub(crate) end: End,
    pub(crate) head: Option<Box<QueuedHead>>,
    /// Milliseconds after the connection's beginning.
    pub(crate) opened_at: u32,
    /// What was sent since the last look at stalled streams.
    pub(crate) progress: u32,
    /// Looks at stalled streams without progress.
    pub(crate) stalled: u32,
    pub(crate) flags: Flags,
}

/// What a stream is and was.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flags {
    /// Its user has not let go of it.
    pub(crate) held: bool,
    /// The peer may send no more: END_STREAM or a reset.
    pub(crate) recv_closed: bool,
    /// This side may send no more: END_STREAM was sent, or a reset.
    pub(crate) send_closed: bool,
    /// A head has arrived.
    pub(crate) head_received: bool,
    /// A head was sent.
    pub(crate) head_sent: bool,
    /// It is over for both sides by a reset.
    pub(crate) reset: bool,
    /// It is in the list of those that can send.
    pub(crate) ready: bool,
    /// Its user waits for room.
    pub(crate) wants_room: bool,
}

impl Stream {
    /// Whether nothing is left to send.
    pub(crate) fn is_drained(&self) -> bool {
        self.is_empty() && matches!(self.end, End::Open) && self.head.is_none()
    }

    /// Whether no data is left to send.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.tail.is_empty()
    }

    /// Puts a piece behind the others.
    pub(crate) fn push(&mut self, piece: Payload<'_>) {
        self.queued = self.queued.saturating_add(piece.len());
        match piece {
            Payload::Copied(octets) if octets.len() < JOINED => {
                if self.tail.len().saturating_add(octets.len()) > JOINED {
                    self.flush_tail();
                }
                self.tail.extend_from_slice(octets);
            }
            piece => {
                self.flush_tail();
                let piece = piece.into_bytes();
                if !piece.is_empty() {
                    self.queue.push_back(piece);
                }
            }
        }
    }

    /// The next piece, to be shortened or taken.
    pub(crate) fn front(&mut self) -> Option<&mut Bytes> {
        if self.queue.is_empty() {
            self.flush_tail();
        }
        self.queue.front_mut()
    }

    fn flush_tail(&mut self) {
        if !self.tail.is_empty() {
            self.queue.push_back(self.tail.split().freeze());
        }
    }

    /// Drops all pieces.
    pub(crate) fn clear(&mut self) {
        self.queue.clear();
        self.tail = BytesMut::new();
        self.queued = 0;
    }
}

/// Streams by key and by identifier.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    slots: Vec<Stream>,
    free: Vec<u32>,
    by_id: HashMap<u32, u32, BuildHasherDefault<IdHasher>>,
    used: usize,
    generation: u32,
}

impl Streams {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.used
    }

    pub(crate) fn insert(&mut self, stream: Stream) -> StreamKey {
        self.used = self.used.saturating_add(1);
        // 0 is a slot that is free.
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        let generation = self.generation;
        let id = stream.id;
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.slots.push(Stream::default());
                (self.slots.len() as u32).saturating_sub(1)
            }
        };
        if let Some(slot) = self.slots.get_mut(index as usize) {
            // The queue's memory is worth keeping.
            let queue = std::mem::take(&mut slot.queue);
            *slot = Stream {
                generation,
                queue,
                ..stream
            };
        }
        if id != 0 {
            self.by_id.insert(id, index);
        }
        StreamKey { index, generation }
    }

    /// Gives a stream that has waited its identifier.
    pub(crate) fn set_id(&mut self, key: StreamKey, id: u32) {
        if let Some(stream) = self.get_mut(key) {
            stream.id = id;
            self.by_id.insert(id, key.index);
        }
    }

    pub(crate) fn remove(&mut self, key: StreamKey) {
        let Some(stream) = self.get_mut(key) else {
            return;
        };
        let id = std::mem::take(&mut stream.id);
        stream.generation = 0;
        stream.clear();
        // A small ring serves the next stream, a large one was an exception.
        stream.queue.shrink_to(16);
        stream.end = End::Open;
        stream.head = None;
        if id != 0 {
            self.by_id.remove(&id);
        }
        self.used = self.used.saturating_sub(1);
        if self.used == 0 && self.slots.len() > 64 {
            *self = Self {
                generation: self.generation,
                ..Self::default()
            };
        } else {
            self.free.push(key.index);
        }
    }

    pub(crate) fn get(&self, key: StreamKey) -> Option<&Stream> {
        self.slots
            .get(key.index as usize)
            .filter(|stream| stream.generation == key.generation)
    }

    pub(crate) fn get_mut(&mut self, key: StreamKey) -> Option<&mut Stream> {
        self.slots
            .get_mut(key.index as usize)
            .filter(|stream| stream.generation == key.generation)
    }

    pub(crate) fn find(&self, id: u32) -> Option<StreamKey> {
        let index = *self.by_id.get(&id)?;
        let generation = self.slots.get(index as usize)?.generation;
        Some(StreamKey { index, generation })
    }

    /// Does something with each stream that has an identifier.
    pub(crate) fn for_each_open(&mut self, mut act: impl FnMut(StreamKey, &mut Stream)) {
        for (index, stream) in (0..).zip(&mut self.slots) {
            if stream.id != 0 {
                let generation = stream.generation;
                act(StreamKey { index, generation }, stream);
            }
        }
    }
}

/// Identifiers are consecutive odd numbers; a multiplication spreads them.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {}

    fn write_u32(&mut self, id: u32) {
        self.0 = u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
