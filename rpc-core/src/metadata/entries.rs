//! The fields of a map, one behind the other in one piece of memory, and split when they are read.

use super::MetadataValue;

/// Fields in order; however many there are, they are a few allocations.
#[derive(Clone, Default)]
pub(super) struct Entries {
    /// Each key, and behind it its value when that is text.
    text: String,
    /// For each field where its key ends in `text`, and where what is behind the key ends.
    ends: Vec<(usize, usize)>,
    /// The values of keys that end in `-bin`, decoded, each behind its length.
    binary: Vec<u8>,
}

impl Entries {
    /// Makes room for so many fields and so much text.
    pub(super) fn reserve(&mut self, fields: usize, text: usize) {
        self.ends.reserve(fields);
        self.text.reserve(text);
    }

    /// Adds a text value; its key does not end in `-bin`.
    pub(super) fn push_text(&mut self, key: &str, value: &str) {
        debug_assert!(!is_binary(key));
        self.push(key, value);
    }

    /// Adds a binary value; its key ends in `-bin`.
    pub(super) fn push_binary(&mut self, key: &str, value: &[u8]) {
        debug_assert!(is_binary(key));
        self.push(key, "");
        self.binary.extend_from_slice(&value.len().to_ne_bytes());
        self.binary.extend_from_slice(value);
    }

    fn push(&mut self, key: &str, text: &str) {
        self.text.push_str(key);
        let key_end = self.text.len();
        self.text.push_str(text);
        self.ends.push((key_end, self.text.len()));
    }

    /// Adds the fields of another behind these.
    pub(super) fn append(&mut self, other: &Self) {
        let start = self.text.len();
        let behind = |end: usize| end.saturating_add(start);
        self.text.push_str(&other.text);
        let ends = other.ends.iter();
        self.ends
            .extend(ends.map(|&(key_end, end)| (behind(key_end), behind(end))));
        self.binary.extend_from_slice(&other.binary);
    }

    /// Whether there is one of this key, which is lower case.
    pub(super) fn has(&self, key: &str) -> bool {
        let (text, key) = (self.text.as_bytes(), key.as_bytes());
        let mut start = 0;
        self.ends.iter().any(|&(key_end, end)| {
            let key_start = std::mem::replace(&mut start, end);
            // Keys that begin alike are told apart by how they end.
            key_end.wrapping_sub(key_start) == key.len()
                && text.get(key_end.wrapping_sub(1)) == key.last()
                && text.get(key_start..key_end) == Some(key)
        })
    }

    /// Those of other keys than this one, which is lower case.
    pub(super) fn without(&self, key: &str) -> Self {
        let mut others = Self::default();
        for (other, value) in self.iter().filter(|(other, _)| *other != key) {
            match value {
                MetadataValue::Text(text) => others.push_text(other, text),
                MetadataValue::Binary(bytes) => others.push_binary(other, bytes),
            }
        }
        others
    }

    /// Gives back memory for fields that will not come.
    pub(super) fn shrink(&mut self) {
        self.text.shrink_to_fit();
        self.ends.shrink_to_fit();
        self.binary.shrink_to_fit();
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn iter(&self) -> Iter<'_> {
        Iter {
            text: &self.text,
            start: 0,
            ends: self.ends.iter(),
            binary: &self.binary,
        }
    }
}

/// The fields that are left.
#[derive(Default)]
pub(super) struct Iter<'a> {
    text: &'a str,
    start: usize,
    ends: std::slice::Iter<'a, (usize, usize)>,
    binary: &'a [u8],
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, MetadataValue<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let &(key_end, end) = self.ends.next()?;
        let key = self.text.get(self.start..key_end)?;
        self.start = end;
        if !is_binary(key) {
            return Some((key, MetadataValue::Text(self.text.get(key_end..end)?)));
        }
        let (length, rest) = self.binary.split_first_chunk()?;
        let (bytes, rest) = rest.split_at_checked(usize::from_ne_bytes(*length))?;
        self.binary = rest;
        Some((key, MetadataValue::Binary(bytes)))
    }
}

/// Whether the values of a key are bytes.
pub(super) fn is_binary(key: &str) -> bool {
    key.ends_with("-bin")
}
