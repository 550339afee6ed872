//! The streams of a connection in one piece of memory.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

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
    #[inline]
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// From so many streams on, memory for them grows by a quarter.
const MANY: usize = 1024;
/// Memory for so many streams is kept.
const KEPT: usize = 64;
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
#[derive(Debug, Default)]
pub(crate) struct QueuedHead {
    pub(crate) template: Template,
    pub(crate) rest: Fields,
    /// Its neighbours among those that wait.
    pub(crate) before: Option<StreamKey>,
    pub(crate) behind: Option<StreamKey>,
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
    /// How large the window for the peer is when all has been given back.
    pub(crate) window: u32,
    /// What `content-length` says is still to come.
    pub(crate) content_left: Option<u64>,
    pub(crate) queue: VecDeque<Bytes>,
    /// Small pieces behind the queue, joined.
    pub(crate) tail: Vec<u8>,
    pub(crate) queued: usize,
    pub(crate) end: End,
    pub(crate) head: Option<Box<QueuedHead>>,
    /// Milliseconds after the connection's beginning.
    pub(crate) opened_at: u32,
    /// What was sent since the last look at what is unsent.
    pub(crate) progress: u32,
    /// Looks at what is unsent, one after the other, that have found no progress.
    pub(crate) stalled: u8,
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
    /// It is in the list of those that wait for room within their windows.
    pub(crate) crowded: bool,
    /// It is in the list of those that wait for room behind their windows.
    pub(crate) blocked: bool,
}

impl Stream {
    /// Whether nothing is left to send.
    #[inline]
    pub(crate) fn is_drained(&self) -> bool {
        self.is_empty() && matches!(self.end, End::Open) && self.head.is_none()
    }

    /// Whether no data is left to send.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.tail.is_empty()
    }

    /// What of the queue is behind the window (RFC 9113 section 6.9.1), and waits for its reader.
    #[inline]
    pub(crate) fn behind(&self) -> usize {
        let window = usize::try_from(self.send_window).unwrap_or(0);
        self.queued.saturating_sub(window)
    }

    /// Whether the window is open for what would come behind the queue.
    pub(crate) fn lets_more_through(&self) -> bool {
        usize::try_from(self.send_window).is_ok_and(|window| window > self.queued)
    }

    /// Puts a piece behind the others.
    pub(crate) fn push(&mut self, piece: Payload<'_>) {
        self.queued = self.queued.saturating_add(piece.len());
        match piece {
            Payload::Copied(octets) if octets.len() < JOINED => self.join(octets),
            piece => {
                self.flush_tail();
                let piece = piece.into_bytes();
                if !piece.is_empty() {
                    self.queue.push_back(piece);
                }
            }
        }
    }

    /// Puts a small piece behind the others. All buffers but the last one are full: what is queued
    /// counts by its length.
    fn join(&mut self, octets: &[u8]) {
        let room = JOINED.saturating_sub(self.tail.len());
        let (fits, rest) = octets.split_at(octets.len().min(room));
        let needed = self.tail.len().saturating_add(fits.len());
        if needed > self.tail.capacity() {
            // One that has filled a buffer will fill another.
            let fills = self.queue.back().is_some_and(|last| last.len() == JOINED);
            let doubled = self.tail.capacity().saturating_mul(2);
            let capacity = if fills {
                JOINED
            } else {
                doubled.clamp(needed, JOINED)
            };
            self.tail
                .reserve_exact(capacity.saturating_sub(self.tail.len()));
        }
        self.tail.extend_from_slice(fits);
        if !rest.is_empty() {
            self.flush_tail();
            self.join(rest);
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
            self.queue.push_back(std::mem::take(&mut self.tail).into());
        }
    }

    /// As [`Stream::default`], which would move all of it for what is nothing in most streams.
    fn make_new(&mut self) {
        self.clear();
        // A small ring serves the next stream, a large one was an exception.
        if self.queue.capacity() > 16 {
            self.queue.shrink_to(16);
        }
        let Self {
            id,
            generation,
            send_window,
            recv_window,
            unconsumed,
            returnable,
            window,
            content_left,
            queue: _,
            tail: _,
            queued: _,
            end,
            head,
            opened_at,
            progress,
            stalled,
            flags,
        } = self;
        (*id, *generation, *opened_at) = (0, 0, 0);
        (*send_window, *recv_window) = (0, 0);
        (*unconsumed, *returnable, *window, *content_left) = (0, 0, 0, None);
        (*progress, *stalled) = (0, 0);
        *flags = Flags::default();
        if !matches!(end, End::Open) {
            *end = End::Open;
        }
        if head.is_some() {
            *head = None;
        }
    }

    /// Drops all pieces.
    #[inline]
    pub(crate) fn clear(&mut self) {
        if self.queued > 0 || self.tail.capacity() > 0 {
            self.queue.clear();
            self.tail = Vec::new();
            self.queued = 0;
        }
    }
}

/// Streams by key and by identifier.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    slots: Vec<Stream>,
    free: Vec<u32>,
    ids: Ids,
    used: usize,
    generation: u32,
    /// How many streams have to end before all places are looked at again.
    pause: usize,
}

impl Streams {
    /// How many there have been; it begins anew once there were 2^32.
    pub(crate) fn opened(&self) -> u32 {
        self.generation
    }

    /// How many there are.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.used
    }

    /// A new stream and the place that it has, which is as [`Stream::default`] but for its identifier.
    pub(crate) fn insert(&mut self, id: u32) -> (StreamKey, &mut Stream) {
        self.used = self.used.saturating_add(1);
        // 0 is a slot that is free.
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        let generation = self.generation;
        let index = self.free_place();
        if id != 0 {
            self.ids.insert(id, index, self.used);
        }
        let place = index as usize;
        if place >= self.slots.len() {
            if place >= self.slots.capacity() && place >= MANY {
                // Twice as many would leave half of the memory for nothing.
                self.slots.reserve_exact(place / 4);
            }
            self.slots
                .resize_with(place.saturating_add(1), Stream::default);
        }
        let stream = self
            .slots
            .get_mut(place)
            .expect("the slot was there or was made just now");
        stream.id = id;
        stream.generation = generation;
        (StreamKey { index, generation }, stream)
    }

    #[inline]
    fn free_place(&mut self) -> u32 {
        while let Some(index) = self.free.pop() {
            // Some that were free are forgotten, or were and are used again.
            let slot = self.slots.get(index as usize);
            if slot.is_some_and(|slot| slot.generation == 0) {
                return index;
            }
        }
        self.slots.len() as u32
    }

    /// Gives a stream that has waited its identifier.
    pub(crate) fn set_id(&mut self, key: StreamKey, id: u32) {
        let used = self.used;
        if let Some(stream) = self.get_mut(key) {
            stream.id = id;
            self.ids.insert(id, key.index, used);
        }
    }

    /// Removes a stream; true when memory was given back since many have ended.
    pub(crate) fn remove(&mut self, key: StreamKey) -> bool {
        let Some(stream) = self.get_mut(key) else {
            return false;
        };
        let id = stream.id;
        stream.make_new();
        if id != 0 {
            self.ids.remove(id);
        }
        self.used = self.used.saturating_sub(1);
        self.free.push(key.index);
        self.pause = self.pause.saturating_sub(1);
        self.slots.len() > KEPT && self.used < self.slots.len() / 4 && self.shrink()
    }

    /// Of many streams few are left: forgets the places behind the last one, and gives their memory
    /// back when that is most of it. A stream that goes on keeps the places below its own.
    ///
    /// Each place is forgotten once, and looking at all of them waits until a quarter as many streams
    /// have ended.
    fn shrink(&mut self) -> bool {
        if self.used == 0 {
            *self = Self {
                generation: self.generation,
                ..Self::default()
            };
            return true;
        }
        while self.slots.last().is_some_and(|slot| slot.generation == 0) {
            self.slots.pop();
        }
        let kept = self.slots.len().max(KEPT);
        let gives_back = self.slots.capacity() / 4 > kept;
        if gives_back {
            self.slots.shrink_to(kept);
        }
        if gives_back || self.pause == 0 {
            self.pause = kept / 4;
            self.ids.shrink(self.used);
            self.sort_free();
        }
        gives_back
    }

    /// Has new streams come to the lowest places, so that those above get free.
    fn sort_free(&mut self) {
        let slots = &self.slots;
        let is_free = |index: &u32| {
            let slot = slots.get(*index as usize);
            slot.is_some_and(|slot| slot.generation == 0)
        };
        let indices = (0..slots.len() as u32).rev();
        self.free.clear();
        self.free.extend(indices.filter(is_free));
        self.free.shrink_to(KEPT);
    }

    /// How many places there are: all indices are below.
    pub(crate) fn places(&self) -> usize {
        self.slots.len()
    }

    #[inline]
    pub(crate) fn get(&self, key: StreamKey) -> Option<&Stream> {
        self.slots
            .get(key.index as usize)
            .filter(|stream| stream.generation == key.generation)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: StreamKey) -> Option<&mut Stream> {
        self.slots
            .get_mut(key.index as usize)
            .filter(|stream| stream.generation == key.generation)
    }

    #[inline]
    pub(crate) fn find(&self, id: u32) -> Option<StreamKey> {
        let index = self.ids.find(id)?;
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

/// Slots by the identifiers of streams.
///
/// Identifiers are consecutive odd numbers, so that each of the latest ones has a place of its own in
/// a table of twice their number. A stream that lives so long that another one comes to its place
/// moves to a map.
#[derive(Debug, Default)]
struct Ids {
    /// Identifier and slot; the length is a power of two, or 0.
    places: Vec<(u32, u32)>,
    old: HashMap<u32, u32>,
}

impl Ids {
    #[inline]
    fn place(&self, id: u32) -> usize {
        (id >> 1) as usize & self.places.len().wrapping_sub(1)
    }

    #[inline]
    fn find(&self, id: u32) -> Option<u32> {
        match self.places.get(self.place(id)) {
            Some((known, index)) if *known == id => Some(*index),
            _ if self.old.is_empty() => None,
            _ => self.old.get(&id).copied(),
        }
    }

    /// Takes in an identifier when there are so many of them.
    fn insert(&mut self, id: u32, index: u32, used: usize) {
        if used.saturating_mul(2) > self.places.len() {
            self.grow(used);
        }
        self.put(id, index);
    }

    fn grow(&mut self, used: usize) {
        let length = used.saturating_mul(2).max(8).next_power_of_two();
        let before = std::mem::replace(&mut self.places, vec![(0, 0); length]);
        for (id, index) in before.into_iter().filter(|(id, _)| *id != 0) {
            self.put(id, index);
        }
    }

    fn put(&mut self, id: u32, index: u32) {
        let place = self.place(id);
        if let Some(entry) = self.places.get_mut(place) {
            let (before, at) = std::mem::replace(entry, (id, index));
            if before != 0 {
                self.old.insert(before, at);
            }
        }
    }

    /// Makes the tables as small as they can be for so many.
    fn shrink(&mut self, used: usize) {
        self.grow(used);
        self.old.shrink_to_fit();
    }

    fn remove(&mut self, id: u32) {
        let place = self.place(id);
        match self.places.get_mut(place) {
            Some(entry) if entry.0 == id => *entry = (0, 0),
            _ => {
                self.old.remove(&id);
                if self.old.is_empty() {
                    self.old = HashMap::new();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_fill_their_buffers() {
        for size in [1, 100, 1029, 4095, 9000, JOINED - 1] {
            let mut stream = Stream::default();
            let mut pushed = Vec::new();
            while pushed.len() < 20 * JOINED {
                let piece = vec![pushed.len() as u8; size];
                stream.push(Payload::Copied(&piece));
                pushed.extend(piece);
                let tail = stream.tail.capacity();
                assert!(tail <= JOINED);
                assert!(stream.queue.iter().all(|piece| piece.len() == JOINED));
                assert_eq!(stream.queued, pushed.len());
            }
            let mut popped = Vec::new();
            while let Some(front) = stream.front() {
                popped.extend_from_slice(front);
                stream.queue.pop_front();
            }
            assert!(popped == pushed, "pieces of {size}");
        }
    }

    /// Streams of which some stay, against a map.
    #[test]
    fn a_stream_is_found_by_its_identifier_however_long_it_lives() {
        let mut streams = Streams::default();
        let mut open: HashMap<u32, StreamKey> = HashMap::new();
        for round in 0..10_000u32 {
            let id = round * 2 + 1;
            open.insert(id, streams.insert(id).0);
            // Every tenth stays for long, the others for a while.
            let short = id.checked_sub(64).filter(|id| id % 20 != 1);
            let long = id.checked_sub(4000).filter(|id| id % 20 == 1);
            for id in [short, long].into_iter().flatten() {
                let key = open.remove(&id).unwrap();
                streams.remove(key);
                assert_eq!(streams.find(id), None);
                assert!(streams.get(key).is_none());
            }
            if round % 100 == 0 {
                for (id, key) in &open {
                    assert_eq!(streams.find(*id), Some(*key));
                }
            }
            assert_eq!(streams.len(), open.len());
        }
        for (_, key) in open.drain() {
            streams.remove(key);
        }
        assert_eq!(streams.len(), 0);
        assert!(streams.ids.old.is_empty());
        assert!(streams.slots.len() <= KEPT && streams.ids.places.len() <= 4 * KEPT);
    }

    /// Whatever is left of a crowd, and wherever it is, memory follows it soon.
    #[test]
    fn memory_for_many_streams_is_given_back_while_some_go_on() {
        const CROWD: u32 = 20_000;
        for stays in [0, CROWD / 2, CROWD - 1] {
            let mut streams = Streams::default();
            let mut id = 1;
            let mut open = |streams: &mut Streams| {
                id += 2;
                streams.insert(id).0
            };
            let mut crowd: Vec<StreamKey> = (0..CROWD).map(|_| open(&mut streams)).collect();
            let long = crowd.remove(stays as usize);
            let mut looks = 0;
            for key in crowd {
                looks += u32::from(streams.remove(key));
            }
            // Halving again and again is all the work there is.
            assert!(looks <= 20, "{looks}");
            for _ in 0..CROWD {
                let key = open(&mut streams);
                streams.remove(key);
            }
            let id = streams.get(long).expect("it is still open").id;
            assert_eq!(streams.find(id), Some(long));
            let places = streams.places();
            assert!(places <= KEPT.max(long.index() + 1), "{places}");
            assert!(streams.ids.places.len() + streams.ids.old.len() <= 64);
            streams.remove(long);
            for _ in 0..CROWD {
                let key = open(&mut streams);
                streams.remove(key);
            }
            assert!(streams.places() <= KEPT && streams.free.len() <= KEPT);
            assert!(streams.slots.capacity() <= KEPT, "{stays}");
        }
    }
}
