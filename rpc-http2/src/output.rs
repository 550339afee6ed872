//! What is to be written: small pieces joined, large ones as they are.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;

/// Pieces below this size are copied behind each other; larger ones are written from where they are.
const COPY_BELOW: usize = 4096;
/// Memory that is kept while there is nothing to write.
const KEPT: usize = 64 * 1024;

/// Octets on their way to the socket, in order.
#[derive(Debug, Default)]
pub struct Output {
    small: Vec<u8>,
    /// How much of `small` is written.
    written: usize,
    /// Large pieces, and where in `small` they belong.
    large: VecDeque<(usize, Bytes)>,
    length: usize,
    /// The most that has waited since it was empty.
    most: usize,
}

impl Output {
    /// How many octets wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Fills slices with what comes next and says how many it filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        let mut start = self.written;
        let mut put = |piece: &'a [u8]| {
            if piece.is_empty() {
                return true;
            }
            match slices.get_mut(filled) {
                Some(slice) => {
                    *slice = IoSlice::new(piece);
                    filled = filled.saturating_add(1);
                    true
                }
                None => false,
            }
        };
        for (place, piece) in &self.large {
            let small = self.small.get(start..*place).unwrap_or_default();
            if !put(small) || !put(piece) {
                return filled;
            }
            start = *place;
        }
        put(self.small.get(start..).unwrap_or_default());
        filled
    }

    /// What comes next in one piece, when there is nothing large in it.
    #[must_use]
    pub fn plain(&self) -> Option<&[u8]> {
        if !self.large.is_empty() {
            return None;
        }
        self.small.get(self.written..)
    }

    /// Takes away what has been written.
    pub fn advance(&mut self, count: usize) {
        self.most = self.most.max(self.length);
        self.length = self.length.saturating_sub(count);
        if self.length == 0 {
            self.small.clear();
            self.written = 0;
            self.large.clear();
            // A connection that goes on writing much keeps what it needs for that.
            if self.small.capacity() > KEPT && self.most < KEPT {
                self.small.shrink_to(KEPT);
            }
            self.most = 0;
            return;
        }
        let mut left = count;
        while left > 0 {
            let small = match self.large.front() {
                Some((place, _)) => place.saturating_sub(self.written),
                None => self.small.len().saturating_sub(self.written),
            };
            let taken = small.min(left);
            self.written = self.written.saturating_add(taken);
            left = left.saturating_sub(taken);
            let Some((_, piece)) = self.large.front_mut() else {
                break;
            };
            if left >= piece.len() {
                left = left.saturating_sub(piece.len());
                self.large.pop_front();
            } else {
                bytes::Buf::advance(piece, left);
                left = 0;
            }
        }
    }

    /// Gives memory back before it is swapped with an output that needs less.
    pub(crate) fn make_like(&mut self, next: &Self) {
        if self.small.capacity() > KEPT && next.small.len() < KEPT {
            self.small.shrink_to(KEPT);
        }
    }

    /// Where the next small octet goes, to be patched later.
    pub(crate) fn position(&self) -> usize {
        self.small.len()
    }

    pub(crate) fn put(&mut self, octets: &[u8]) {
        self.small.extend_from_slice(octets);
        self.length = self.length.saturating_add(octets.len());
    }

    /// Lets a function append.
    pub(crate) fn put_with<R>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let before = self.small.len();
        let result = write(&mut self.small);
        self.length = self
            .length
            .saturating_add(self.small.len().saturating_sub(before));
        result
    }

    /// Changes octets that are not written yet.
    pub(crate) fn patch(&mut self, position: usize, octets: &[u8]) {
        let end = position.saturating_add(octets.len());
        if let Some(place) = self.small.get_mut(position..end) {
            place.copy_from_slice(octets);
        }
    }

    /// Removes the octets from a place on.
    pub(crate) fn cut(&mut self, position: usize) -> Vec<u8> {
        let cut = self.small.split_off(position.min(self.small.len()));
        self.length = self.length.saturating_sub(cut.len());
        cut
    }

    /// Appends a piece, by copying it or by keeping it.
    pub(crate) fn put_bytes(&mut self, piece: Bytes) {
        if piece.len() < COPY_BELOW {
            self.put(&piece);
            return;
        }
        self.length = self.length.saturating_add(piece.len());
        self.large.push_back((self.small.len(), piece));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::{Config, Connection, Role};

    #[test]
    fn a_connection_gives_back_memory_for_much_when_it_has_little_to_say() {
        let now = Instant::now();
        let mut connection = Connection::new(Role::Client, Config::default(), now);
        let mut much = Output::default();
        much.put(&[7; 4 * KEPT]);
        much.advance(4 * KEPT);
        // Its preface for what was written; the memory of that is what it fills next.
        connection.take_output(&mut much, now);
        assert!(!much.is_empty());
        connection.shut_down(now);
        let mut next = Output::default();
        connection.take_output(&mut next, now);
        assert!(next.small.capacity() <= KEPT, "{}", next.small.capacity());
    }

    #[test]
    fn pieces_leave_in_order_however_they_are_taken() {
        for step in [1, 3, 4096, 10_000, 100_000] {
            let mut output = Output::default();
            let mut expected = Vec::new();
            for round in 0..10u8 {
                output.put(&[round; 10]);
                expected.extend([round; 10]);
                let piece = vec![round | 0x80; usize::from(round) * 1000];
                expected.extend(&piece);
                output.put_bytes(piece.into());
            }
            assert_eq!(output.len(), expected.len());
            let mut taken: Vec<u8> = Vec::new();
            while !output.is_empty() {
                let mut slices = [IoSlice::new(&[]); 3];
                let count = output.slices(&mut slices);
                assert!(count > 0);
                let next: Vec<u8> = slices[..count]
                    .iter()
                    .flat_map(|slice| slice.to_vec())
                    .collect();
                let part = next.len().min(step);
                taken.extend(&next[..part]);
                output.advance(part);
            }
            assert!(taken == expected, "steps of {step}");
        }
    }

    #[test]
    fn large_pieces_are_not_copied() {
        let piece = Bytes::from(vec![1; 100_000]);
        let mut output = Output::default();
        output.put_bytes(piece.clone());
        let mut slices = [IoSlice::new(&[]); 3];
        assert_eq!(output.slices(&mut slices), 1);
        assert_eq!(slices[0].as_ptr(), piece.as_ptr());
    }

    #[test]
    fn memory_is_given_back_by_the_next_that_needs_less() {
        let mut output = Output::default();
        let mut write = |length: usize| {
            output.put(&vec![1; length]);
            output.advance(length);
            assert!(output.is_empty());
            output.small.capacity()
        };
        assert!(write(200_000) >= 200_000);
        // One that goes on writing much does not allocate again and again.
        assert!(write(100_000) >= 200_000);
        assert!(write(17) <= KEPT);
    }
}
