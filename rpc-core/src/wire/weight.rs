//! How much work a protobuf message is, seen before it is decoded.
//!
//! Strings and bytes are copied in one go. All else may take a hundred times the time and memory of
//! its octets: 4 MiB can be two million messages. A message alone does not say which of its fields are
//! what, so its type is asked: it decodes a few octets in the same place that are no message and no
//! packed numbers.

use std::panic::AssertUnwindSafe;

/// A message with no more than this besides its long strings and bytes is decoded in passing: at 90 ns
/// for an element of two octets that is 3 ms.
pub(crate) const LIGHT: usize = 64 * 1024;
/// Strings and bytes from this size on are long.
const LONG: usize = 4096;
/// What it counts to ask for a field: there are at most so many questions.
const QUESTION: usize = LIGHT / 256;
/// How deep in each other the messages are that are looked into.
const DEEPEST: usize = 8;
/// A text that is no message, since its tag is cut short, and no packed numbers, since its last number
/// is.
const TEXT: [u8; 2] = [0xc3, 0xbf];
/// The same with another length: packed numbers of fixed size have one of the two at most.
const LONGER_TEXT: [u8; 3] = [b'A', 0xc3, 0xbf];

/// Whether a message is heavy to decode into a type, which says whether it `takes` a message.
pub(crate) fn is_heavy(octets: &[u8], takes: impl Fn(&[u8]) -> bool) -> bool {
    octets.len() > LIGHT
        && Scale {
            takes,
            left: LIGHT,
            path: Vec::new(),
        }
        .add(octets)
        .is_none()
}

struct Scale<F> {
    takes: F,
    /// What it may still have.
    left: usize,
    /// The tags of the fields around what is looked at.
    path: Vec<u64>,
}

impl<F: Fn(&[u8]) -> bool> Scale<F> {
    /// Nothing when it is heavy, or no message at all.
    fn add(&mut self, mut octets: &[u8]) -> Option<()> {
        while !octets.is_empty() {
            let before = octets.len();
            let tag = number(&mut octets)?;
            let length = match tag & 7 {
                0 => {
                    number(&mut octets)?;
                    0
                }
                1 => 8,
                2 => usize::try_from(number(&mut octets)?).ok()?,
                5 => 4,
                _ => return None,
            };
            let head = before - octets.len();
            let (content, rest) = octets.split_at_checked(length)?;
            octets = rest;
            if length < LONG {
                self.count(head + length)?;
                continue;
            }
            self.count(head + QUESTION)?;
            if self.path.len() == DEEPEST {
                return None;
            }
            self.path.push(tag);
            if !self.is_text() {
                self.add(content)?;
            }
            self.path.pop();
        }
        Some(())
    }

    fn count(&mut self, octets: usize) -> Option<()> {
        self.left = self.left.checked_sub(octets)?;
        Some(())
    }

    /// Whether the field at the end of the path is a string or bytes, or one that is passed over.
    fn is_text(&self) -> bool {
        let mut probe = self.around(&TEXT);
        probe.extend(self.around(&LONGER_TEXT));
        // A type may be anybody's, and this is not the place for its panics.
        std::panic::catch_unwind(AssertUnwindSafe(|| (self.takes)(&probe))).unwrap_or(false)
    }

    /// A message with nothing but this at the end of the path.
    fn around(&self, content: &[u8]) -> Vec<u8> {
        let mut octets = content.to_vec();
        for tag in self.path.iter().rev() {
            let mut field = Vec::with_capacity(octets.len() + 12);
            prost::encoding::encode_varint(*tag, &mut field);
            prost::encoding::encode_varint(octets.len() as u64, &mut field);
            field.append(&mut octets);
            octets = field;
        }
        octets
    }
}

/// Takes a number off the front.
fn number(octets: &mut &[u8]) -> Option<u64> {
    prost::encoding::decode_varint(octets).ok()
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[derive(Clone, PartialEq, Message)]
    struct Any {
        #[prost(string, tag = "1")]
        text: String,
        #[prost(bytes = "vec", tag = "2")]
        octets: Vec<u8>,
        #[prost(message, repeated, tag = "3")]
        inner: Vec<Any>,
        #[prost(uint64, repeated, tag = "4")]
        numbers: Vec<u64>,
        #[prost(float, repeated, tag = "5")]
        floats: Vec<f32>,
        #[prost(double, repeated, tag = "6")]
        doubles: Vec<f64>,
        #[prost(bool, repeated, tag = "7")]
        switches: Vec<bool>,
        #[prost(string, repeated, tag = "8")]
        texts: Vec<String>,
        #[prost(map = "uint32, string", tag = "9")]
        pairs: std::collections::HashMap<u32, String>,
    }

    fn heavy(octets: &[u8]) -> bool {
        is_heavy(octets, |probe| Any::decode(probe).is_ok())
    }

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut field = vec![number << 3 | 2];
        prost::encoding::encode_varint(content.len() as u64, &mut field);
        field.extend(content);
        field
    }

    const MUCH: usize = 1 << 20;

    #[test]
    fn long_strings_and_bytes_are_light_wherever_they_are() {
        let text = field(1, &[b'a'; MUCH]);
        // What would be two million messages elsewhere.
        let octets = field(2, &[26, 0].repeat(MUCH / 2));
        // Nobody knows it, so it is passed over.
        let unknown = field(15, &[26, 0].repeat(MUCH / 2));
        for content in [text, octets, unknown, field(8, &[b'a'; MUCH])] {
            assert!(!heavy(&content));
            assert!(!heavy(&field(3, &content)));
            assert!(!heavy(&field(3, &field(3, &content))));
            let mut two = content.clone();
            two.extend(&content);
            assert!(!heavy(&two));
        }
        let rows = field(3, &field(2, &[7; 10_000])).repeat(100);
        assert!(!heavy(&rows), "100 messages of 10,000 bytes");
    }

    #[test]
    fn what_is_short_is_light_whatever_it_is() {
        assert!(!heavy(&[]));
        assert!(!heavy(&[26, 0].repeat(LIGHT / 2)));
        assert!(!heavy(&vec![0xff; LIGHT]));
    }

    #[test]
    fn many_elements_are_heavy_wherever_they_are() {
        let seven_bits = (0..MUCH / 8).flat_map(|_| [8, 1]).collect::<Vec<_>>();
        let kinds = [
            [26, 0].repeat(MUCH / 2),
            [66, 0].repeat(MUCH / 2),
            [32, 1].repeat(MUCH / 2),
            [74, 2, 8, 1].repeat(MUCH / 4),
            field(4, &[1; MUCH]),
            field(5, &[1; MUCH]),
            field(6, &[1; MUCH]),
            field(7, &[1; MUCH]),
            field(4, &seven_bits),
            // Short enough to be no question each.
            field(2, &[7; 1000]).repeat(1000),
        ];
        for (place, content) in kinds.iter().enumerate() {
            assert!(heavy(content), "{place}");
            assert!(heavy(&field(3, content)), "{place} in another");
            assert!(heavy(&field(3, &field(3, content))), "{place} in two");
        }
    }

    #[test]
    fn packed_numbers_are_heavy_though_they_look_like_a_message_with_bytes() {
        for number in [4, 5, 6, 7] {
            for inner in [1, 2, 3, 8, 15] {
                let disguised = field(inner, &[1; MUCH]);
                let padded = &disguised[..disguised.len() & !7];
                for content in [&disguised[..], padded] {
                    assert!(heavy(&field(number, content)), "{number} {inner}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_message_is_heavy() {
        assert!(heavy(&vec![0xff; MUCH]));
        assert!(heavy(&[0x0b; MUCH]), "groups");
        assert!(heavy(&field(1, &[b'a'; MUCH])[..MUCH]), "cut short");
    }

    #[test]
    fn a_type_that_panics_makes_messages_heavy() {
        assert!(is_heavy(&field(2, &[7; MUCH]), |_| panic!("no message")));
    }
}
