//! The dynamic table: RFC 7541 sections 2.3.2 and 4.

use std::collections::VecDeque;

/// What an entry costs beside its octets (section 4.1).
pub(super) const OVERHEAD: usize = 32;

/// A field in a table.
#[derive(Debug)]
pub(super) struct Entry {
    octets: Box<[u8]>,
    name_length: usize,
}

impl Entry {
    pub(super) fn new(name: &[u8], value: &[u8]) -> Self {
        Self {
            octets: [name, value].concat().into_boxed_slice(),
            name_length: name.len(),
        }
    }

    /// The name and the value.
    pub(super) fn parts(&self) -> (&[u8], &[u8]) {
        self.octets
            .split_at_checked(self.name_length)
            .unwrap_or_default()
    }

    pub(super) fn size(&self) -> usize {
        self.octets.len().saturating_add(OVERHEAD)
    }
}

/// Entries from the newest to the oldest, within a size.
#[derive(Debug)]
pub(super) struct DynamicTable {
    entries: VecDeque<Entry>,
    size: usize,
    max_size: usize,
    /// How many entries there have ever been.
    inserted: u64,
    /// How often the table has changed: what an index means depends on it.
    version: u64,
}

impl DynamicTable {
    pub(super) fn new(max_size: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            max_size,
            inserted: 0,
            version: 0,
        }
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn inserted(&self) -> u64 {
        self.inserted
    }

    pub(super) fn max_size(&self) -> usize {
        self.max_size
    }

    /// How much fits without an eviction.
    pub(super) fn room(&self) -> usize {
        self.max_size.saturating_sub(self.size)
    }

    /// The entry that is so many places behind the newest.
    pub(super) fn get(&self, place: usize) -> Option<&Entry> {
        self.entries.get(place)
    }

    /// Adds an entry, evicting what has no room beside it; one that is too large empties the table
    /// (section 4.4). Gives the evicted ones to the caller.
    pub(super) fn insert(&mut self, entry: Entry, evicted: impl FnMut(&Entry, u64)) {
        let size = entry.size();
        self.evict(self.max_size.saturating_sub(size), evicted);
        self.version = self.version.wrapping_add(1);
        if size <= self.max_size {
            self.inserted = self.inserted.wrapping_add(1);
            self.size = self.size.saturating_add(size);
            self.entries.push_front(entry);
        }
    }

    /// Changes the size (section 4.3).
    pub(super) fn resize(&mut self, max_size: usize, evicted: impl FnMut(&Entry, u64)) {
        self.max_size = max_size;
        self.version = self.version.wrapping_add(1);
        self.evict(max_size, evicted);
    }

    fn evict(&mut self, fits: usize, mut evicted: impl FnMut(&Entry, u64)) {
        while self.size > fits {
            let oldest = self.inserted.wrapping_sub(self.entries.len() as u64);
            let Some(entry) = self.entries.pop_back() else {
                break;
            };
            self.size = self.size.saturating_sub(entry.size());
            evicted(&entry, oldest);
        }
    }
}
