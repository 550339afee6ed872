//! What streams may hold unsent, and who waits for room.
//!
//! What is queued is on one side of its stream's window or the other (RFC 9113 section 6.9.1). What is
//! within it leaves as fast as the connection goes; what is behind it waits for one reader, maybe for
//! long. Each side has room of its own, so that readers that stand still take nothing from streams that
//! are read; and behind the windows there is some that only streams have which have sent something
//! lately, so that they need not wait for their senders whenever a window opens.

use super::Connection;
use crate::streams::{Stream, StreamKey};

/// The part of the room that there is while memory is short.
const TIGHT: usize = 16;
/// What a stream that is read may hold behind its window although others have filled the room there.
const AHEAD: usize = 64 * 1024;

/// What a stream holds that its peer has not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsent {
    /// The stream. Its user may have let go of it already, when only its end is to be sent.
    pub stream: StreamKey,
    /// How many octets it holds.
    pub octets: usize,
    /// How many looks, one after the other, have found no progress to speak of.
    pub looks: u8,
}

impl Connection {
    /// Whether a stream has room for another message. When not, it is among
    /// [`roomy`](Self::roomy) once it has.
    pub fn has_room(&mut self, key: StreamKey) -> bool {
        self.room(key) > 0
    }

    /// For how many octets a stream has room; a message may be longer. When there is none, the
    /// stream is among [`roomy`](Self::roomy) once there is.
    pub fn room(&mut self, key: StreamKey) -> usize {
        let Some(stream) = self.streams.get(key) else {
            return usize::MAX;
        };
        let room = self.room_of(stream);
        if room == 0 {
            if stream.flags.send_closed {
                // Whoever waits for it hears that it is over.
                return usize::MAX;
            }
            if let Some(stream) = self.streams.get_mut(key) {
                stream.flags.wants_room = true;
            }
            self.list(key);
        }
        room
    }

    /// Streams that have room again, or are over, after [`has_room`](Self::has_room) said no.
    pub fn roomy(&mut self) -> Option<StreamKey> {
        while self.roomy.is_empty() {
            let within = self.within_room() > 0;
            if let Some(key) = within.then(|| self.crowded.pop()).flatten() {
                if let Some(stream) = self.streams.get_mut(key) {
                    stream.flags.crowded = false;
                }
                self.look_for_room(key);
            } else if self.behind_room() > 0 {
                let key = self.blocked.pop()?;
                if let Some(stream) = self.streams.get_mut(key) {
                    stream.flags.blocked = false;
                }
                self.look_for_room(key);
            } else {
                return None;
            }
        }
        self.roomy.pop()
    }

    /// How many octets all streams hold unsent.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.buffered
    }

    /// Leaves streams little room to hold something unsent as long as memory is short.
    pub fn tighten(&mut self, tight: bool) {
        self.tight = tight;
    }

    /// Looks at each stream that holds something unsent. It makes progress when at least so many
    /// octets have gone since the look before.
    pub fn look_at_unsent(&mut self, enough: u32, mut see: impl FnMut(Unsent)) {
        self.streams.for_each_open(|stream, held| {
            let sent = std::mem::take(&mut held.progress);
            if held.is_drained() || sent >= enough {
                held.stalled = 0;
            } else {
                held.stalled = held.stalled.saturating_add(1);
            }
            if !held.is_drained() {
                see(Unsent {
                    stream,
                    octets: held.queued,
                    looks: held.stalled,
                });
            }
        });
    }

    /// Drops what a stream holds unsent and how it was to end. As a part of a message may have gone,
    /// trailers with an error or a reset have to follow.
    pub fn drop_unsent(&mut self, key: StreamKey) {
        self.drop_queue(key);
    }

    /// For how many octets a stream has room.
    fn room_of(&self, stream: &Stream) -> usize {
        let own = self.config.stream_buffer.saturating_sub(stream.queued);
        if stream.head.is_some() {
            return own;
        }
        if stream.lets_more_through() {
            return own.min(self.within_room());
        }
        let behind = self.behind_room();
        if behind > 0 || stream.progress == 0 {
            return own.min(behind);
        }
        let pool = self.pool();
        let ahead = pool.saturating_add(pool / 2).saturating_sub(self.behind);
        own.min(AHEAD.saturating_sub(stream.behind())).min(ahead)
    }

    fn pool(&self) -> usize {
        let pool = self.config.connection_buffer;
        if self.tight {
            pool.checked_div(TIGHT).unwrap_or(pool).max(1)
        } else {
            pool
        }
    }

    /// What may be queued within the windows of streams: at least half as much, whatever is behind.
    fn within_room(&self) -> usize {
        let within = self.buffered.saturating_sub(self.behind);
        let pool = self.pool();
        let taken = self.behind.min(pool / 2);
        pool.saturating_sub(taken).saturating_sub(within)
    }

    /// What may be queued behind the windows of streams.
    fn behind_room(&self) -> usize {
        self.pool().saturating_sub(self.behind)
    }

    /// Sees to it that a stream whose user waits is found once there is room of the connection. One
    /// that is full itself is looked at when something of it has gone.
    fn list(&mut self, key: StreamKey) {
        let full = self.config.stream_buffer;
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if stream.queued >= full {
            return;
        }
        if stream.lets_more_through() {
            if !std::mem::replace(&mut stream.flags.crowded, true) {
                self.crowded.push(key);
            }
        } else if !std::mem::replace(&mut stream.flags.blocked, true) {
            self.blocked.push(key);
        }
    }

    /// Something has changed for a stream: gives its user room when it waits and there is some now.
    pub(super) fn look_for_room(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        if !stream.flags.wants_room {
            return;
        }
        if self.room_of(stream) == 0 {
            self.list(key);
        } else if let Some(stream) = self.streams.get_mut(key) {
            stream.flags.wants_room = false;
            self.roomy.push(key);
        }
    }

    /// In debug builds: what is counted is what there is.
    pub(super) fn check_unsent(&mut self) {
        #[cfg(debug_assertions)]
        if self.streams.len() <= 64 {
            let (mut all, mut behind) = (0usize, 0usize);
            self.streams.for_each_open(|_, stream| {
                all = all.saturating_add(stream.queued);
                behind = behind.saturating_add(stream.behind());
                assert!(stream.queued > 0 || stream.is_empty());
            });
            assert_eq!((self.buffered, self.behind), (all, behind));
        }
    }
}
