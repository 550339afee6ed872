//! Pieces of a stream into whole messages, each octet copied once.

use bytes::{Bytes, BytesMut};

use crate::wire::message::PREFIX;

/// Who has sent this much of a message gets memory for the rest of it.
const EARNEST: usize = 64 * 1024;

/// Collects the body of a stream up to the end of a message.
///
/// Memory grows with what has arrived, not with what a prefix announces.
#[derive(Debug)]
pub(crate) struct Assembler {
    buffer: BytesMut,
    /// How much of the buffer is whole messages.
    whole: usize,
    /// No message is longer than 4 GiB.
    limit: u32,
    oversized: bool,
}

impl Assembler {
    /// An assembler of messages up to a size.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            whole: 0,
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
            oversized: false,
        }
    }

    /// The message that a piece is, when it is just one and nothing came before.
    pub(crate) fn single<'a>(&self, piece: &'a [u8]) -> Option<&'a [u8]> {
        (self.buffer.is_empty() && length_of(piece) == Some(piece.len())).then_some(piece)
    }

    /// Takes a piece in; nothing more once a message is too large.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        if self.oversized {
            return;
        }
        let wanted = self.missing().unwrap_or(0);
        if wanted > piece.len() {
            // A peer that announces much and sends little gets little.
            let most = if self.buffer.len() >= EARNEST {
                wanted
            } else {
                self.buffer.len().max(PREFIX + piece.len())
            };
            self.buffer.reserve(wanted.min(most).max(piece.len()));
        }
        self.buffer.extend_from_slice(piece);
        while let Some(rest) = self.buffer.get(self.whole..)
            && let Some(length) = length_of(rest)
        {
            if length > self.most() {
                // Whoever decodes it says what is wrong with it.
                self.whole = self.buffer.len();
                self.oversized = true;
                break;
            }
            if length > rest.len() {
                break;
            }
            self.whole += length;
        }
    }

    /// Whether there is more than one message of the largest size, or the prefix of a larger one.
    pub(crate) fn is_over(&self) -> bool {
        self.oversized || self.buffer.len() > self.most()
    }

    /// How many octets have arrived and were not taken.
    pub(crate) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether a whole message can be taken.
    pub(crate) fn has_whole(&self) -> bool {
        self.whole > 0
    }

    /// The whole messages that have arrived, with their prefixes.
    pub(crate) fn take(&mut self) -> Option<Bytes> {
        if self.whole == 0 {
            return None;
        }
        let whole = std::mem::take(&mut self.whole);
        if whole == self.buffer.len() {
            return Some(std::mem::take(&mut self.buffer).freeze());
        }
        Some(self.buffer.split_to(whole).freeze())
    }

    /// All that has arrived, a message that is not whole too.
    pub(crate) fn take_all(&mut self) -> Option<Bytes> {
        self.whole = 0;
        let all = std::mem::take(&mut self.buffer);
        (!all.is_empty()).then(|| all.freeze())
    }

    /// The length of the largest message, with its prefix.
    fn most(&self) -> usize {
        (self.limit as usize).saturating_add(PREFIX)
    }

    /// How much of a message is still to come, when one has begun.
    fn missing(&self) -> Option<usize> {
        let rest = self.buffer.get(self.whole..)?;
        length_of(rest)?.checked_sub(rest.len())
    }
}

/// The length of the message that begins here, with its prefix.
fn length_of(octets: &[u8]) -> Option<usize> {
    let [_, l0, l1, l2, l3] = *octets.first_chunk::<PREFIX>()?;
    Some((u32::from_be_bytes([l0, l1, l2, l3]) as usize).saturating_add(PREFIX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let mut message = vec![0];
        message.extend((length as u32).to_be_bytes());
        message.extend((0..length).map(|place| place as u8));
        message
    }

    #[test]
    fn whole_messages_come_out_however_they_are_cut() {
        let stream: Vec<u8> = [0, 1, 300, 5, 10_000]
            .into_iter()
            .flat_map(message)
            .collect();
        for size in [1, 2, 4, 5, 6, 7, 100, 5000, stream.len()] {
            let mut assembler = Assembler::new(20_000);
            let mut out = Vec::new();
            for piece in stream.chunks(size) {
                assembler.push(piece);
                while let Some(whole) = assembler.take() {
                    let mut rest = &whole[..];
                    while let Some(length) = length_of(rest) {
                        rest = &rest[length..];
                    }
                    assert!(rest.is_empty());
                    out.extend(whole);
                }
            }
            assert!(out == stream, "pieces of {size}");
            assert_eq!(assembler.take_all(), None);
        }
    }

    #[test]
    fn an_announced_length_is_no_reason_to_allocate() {
        let mut assembler = Assembler::new(4 << 20);
        assembler.push(&[0, 0, 0x40, 0, 0]);
        assembler.push(&[1; 100]);
        assert!(assembler.buffer.capacity() < 1024);
    }

    #[test]
    fn what_is_too_long_is_passed_on_at_once() {
        let mut assembler = Assembler::new(10);
        assembler.push(&[0, 0, 0, 0, 11]);
        assert_eq!(assembler.take().unwrap().len(), 5);
    }
}
