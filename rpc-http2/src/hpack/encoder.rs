//! Fields into header blocks.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::dynamic_table::{DynamicTable, Entry};
use super::hashed::{Hashed, mix};
use super::{huffman, integer, static_table};
use crate::fields::Fields;

/// The largest table that is used, whatever the peer allows.
const MAX_TABLE: usize = 4096;
/// A full table is emptied for what has no room in it, but only after so many blocks.
const PAUSE: u64 = 4096;
/// How many fields that were seen once are known.
const SEEN: usize = 128;
/// How many of the last block's fields are tried before they are looked up.
const RECENT: usize = 128;
/// Behind so many fields that the table does not know all others stay in order.
const LATER: usize = 8;
const TIMEOUT: &[u8] = b"grpc-timeout";

/// Fields that many blocks begin with, and how they are encoded as long as the table stays as it is.
#[derive(Clone, Debug, Default)]
pub struct Template {
    fields: Fields,
    encoded: Vec<u8>,
    /// The state of the table that `encoded` is for; nothing when there is none.
    state: Option<u64>,
}

impl Template {
    /// A template of these fields, which must be the same in many blocks.
    #[must_use]
    pub fn new(fields: Fields) -> Self {
        Self {
            fields,
            encoded: Vec::new(),
            state: None,
        }
    }

    /// The fields.
    #[must_use]
    pub fn fields(&self) -> &Fields {
        &self.fields
    }
}

/// What encodes the blocks of one connection.
#[derive(Debug)]
pub struct Encoder {
    table: DynamicTable,
    /// Where entries are: by a hash of name and value, and by a hash of the name.
    places: HashMap<u64, u64, BuildHasherDefault<Hashed>>,
    seen: Vec<u64>,
    chance: u64,
    /// The entries that the last block with fields of its own referred to, in order.
    recent: Vec<u64>,
    /// The fields of a block that come behind those that the table knows.
    later: Vec<usize>,
    /// Sizes that the next block has to tell the peer (section 4.2).
    resized: Option<(usize, usize)>,
    blocks: u64,
    /// The block before which the table was emptied.
    emptied: u64,
    /// Since then something had no room.
    crowded: bool,
    /// Where the table has the name [`TIMEOUT`], as of a version of it.
    timeout: Option<(u64, Option<usize>)>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            table: DynamicTable::new(MAX_TABLE),
            places: HashMap::default(),
            seen: Vec::new(),
            chance: 1,
            recent: Vec::new(),
            later: Vec::new(),
            resized: None,
            blocks: 0,
            emptied: 0,
            crowded: false,
            timeout: None,
        }
    }
}

impl Encoder {
    /// Takes in what the peer's SETTINGS_HEADER_TABLE_SIZE allows.
    pub fn set_max_table_size(&mut self, size: usize) {
        let size = size.min(MAX_TABLE);
        if size == self.table.max_size() && self.resized.is_none() {
            return;
        }
        let smallest = self
            .resized
            .map_or(size, |(smallest, _)| smallest.min(size));
        self.resized = Some((smallest, size));
        let places = &mut self.places;
        for size in [smallest, size] {
            self.table
                .resize(size, |entry, sequence| forget(places, entry, sequence));
        }
    }

    /// Begins a block.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        self.blocks = self.blocks.wrapping_add(1);
        if self.crowded && self.blocks.wrapping_sub(self.emptied) >= PAUSE {
            self.empty();
        }
        if let Some((smallest, last)) = self.resized.take() {
            if smallest < last {
                integer::encode(smallest, 5, 0x20, out);
            }
            integer::encode(last, 5, 0x20, out);
        }
    }

    /// Appends the fields of a template.
    pub fn template(&mut self, template: &mut Template, out: &mut Vec<u8>) {
        let state = self.table.version();
        if template.state == Some(state) {
            out.extend_from_slice(&template.encoded);
            return;
        }
        for (name, value) in template.fields.iter() {
            self.field(name, value, true, out);
        }
        // What was inserted just now is an index the next time.
        let state = self.table.version();
        template.encoded.clear();
        for (name, value) in template.fields.iter() {
            self.field(name, value, false, &mut template.encoded);
        }
        template.state = Some(state);
    }

    /// Appends fields that only this block has: what the table knows first, so that the peer finds
    /// the beginning again, and what is another each time last. Fields of one name stay in order.
    /// Pseudo-header fields belong into a template.
    pub fn rest(&mut self, fields: &Fields, out: &mut Vec<u8>) {
        // Most calls have a deadline and nothing else.
        if fields.len() == 1
            && let Some((TIMEOUT, value)) = fields.get(0)
        {
            return self.volatile(TIMEOUT, value, out);
        }
        let mut later = std::mem::take(&mut self.later);
        let mut known = 0;
        for (place, (name, value)) in fields.iter().enumerate() {
            let stays =
                later.len() >= LATER || later.iter().any(|place| is_of_name(fields, *place, name));
            let index = match stays {
                true => None,
                false => self.known(known, name, value),
            };
            if let Some(index) = index {
                integer::encode(index, 7, 0x80, out);
                known = known.saturating_add(1);
            } else {
                later.push(place);
            }
        }
        for (name, value) in later.iter().filter_map(|place| fields.get(*place)) {
            match Kind::of(name) {
                Kind::Stable => self.stable(name, value, out),
                Kind::Volatile => self.volatile(name, value, out),
                Kind::Sensitive => self.sensitive(name, value, out),
            }
        }
        later.clear();
        self.later = later;
    }

    /// The index of a field that the table has, where so many were known before in the same block:
    /// mostly it is the one that came there the last time.
    fn known(&mut self, place: usize, name: &[u8], value: &[u8]) -> Option<usize> {
        if let Some(sequence) = self.recent.get(place)
            && let Some((place, entry)) = self.at(*sequence)
            && entry.parts() == (name, value)
        {
            return Some(index_of(place));
        }
        if name == TIMEOUT {
            return None;
        }
        let sequence = *self.places.get(&hash(name, value))?;
        let (found, entry) = self.at(sequence)?;
        if entry.parts() != (name, value) {
            return None;
        }
        match self.recent.get_mut(place) {
            Some(recent) => *recent = sequence,
            None if place < RECENT => self.recent.push(sequence),
            None => {}
        }
        Some(index_of(found))
    }

    /// Appends a field that was the same in an earlier block, or may be.
    pub fn stable(&mut self, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        let known = self.has_seen(hash(name, value));
        self.field(name, value, known, out);
    }

    /// Appends a field whose value is another one each time; its name may be an index from the
    /// second time on.
    pub fn volatile(&mut self, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        let place = self.find_name(name);
        if place.is_none() && name == TIMEOUT && self.has_room(name, value) {
            literal(None, name, value, 6, 0x40, out);
            self.insert(name, value);
            return;
        }
        // Section 6.2.2.
        literal(place, name, value, 4, 0x00, out);
    }

    /// Appends a field that no table on the way may keep.
    pub fn sensitive(&mut self, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        // Section 6.2.3.
        literal(self.find_name(name), name, value, 4, 0x10, out);
    }

    fn field(&mut self, name: &[u8], value: &[u8], insert: bool, out: &mut Vec<u8>) {
        if let Some(index) = self.find(name, value) {
            integer::encode(index, 7, 0x80, out);
        } else if insert && self.has_room(name, value) {
            literal(self.find_name(name), name, value, 6, 0x40, out);
            self.insert(name, value);
        } else {
            literal(self.find_name(name), name, value, 4, 0x00, out);
        }
    }

    fn find(&self, name: &[u8], value: &[u8]) -> Option<usize> {
        if let Some((index, true)) = static_table::find(name, value) {
            return Some(index);
        }
        let (place, entry) = self.entry(hash(name, value))?;
        (entry.parts() == (name, value)).then(|| index_of(place))
    }

    fn find_name(&mut self, name: &[u8]) -> Option<usize> {
        if name != TIMEOUT {
            return self.look_up_name(name);
        }
        // Nearly each request has it, and nothing else that changes.
        let version = self.table.version();
        match self.timeout {
            Some((known, index)) if known == version => index,
            _ => {
                let index = self.look_up_name(name);
                self.timeout = Some((version, index));
                index
            }
        }
    }

    fn look_up_name(&self, name: &[u8]) -> Option<usize> {
        if let Some((place, entry)) = self.entry(hash_name(name))
            && entry.parts().0 == name
        {
            return Some(index_of(place));
        }
        static_table::find(name, b"").map(|(index, _)| index)
    }

    fn entry(&self, hash: u64) -> Option<(usize, &Entry)> {
        self.at(*self.places.get(&hash)?)
    }

    /// The entry that was inserted as the one with this number.
    fn at(&self, sequence: u64) -> Option<(usize, &Entry)> {
        let behind = self.table.inserted().wrapping_sub(sequence);
        let place = behind.checked_sub(1)? as usize;
        Some((place, self.table.get(place)?))
    }

    /// A full table keeps what it has for a while: changing it each time would change the indices of
    /// all other fields too.
    fn has_room(&mut self, name: &[u8], value: &[u8]) -> bool {
        let size = name
            .len()
            .saturating_add(value.len())
            .saturating_add(super::dynamic_table::OVERHEAD);
        let fits = size <= self.table.room();
        self.crowded |= !fits && size <= self.table.max_size() / 4;
        fits
    }

    /// Begins the table again: what is in use comes back at once, what was there a few times only
    /// does not. To evict the oldest entries instead would be to lose what all blocks begin with.
    fn empty(&mut self) {
        self.emptied = self.blocks;
        self.crowded = false;
        let last = self.table.max_size();
        let places = &mut self.places;
        for size in [0, last] {
            self.table
                .resize(size, |entry, sequence| forget(places, entry, sequence));
        }
        self.resized = Some((0, last));
    }

    fn insert(&mut self, name: &[u8], value: &[u8]) {
        let sequence = self.table.inserted();
        let places = &mut self.places;
        self.table
            .insert(Entry::new(name, value), |entry, sequence| {
                forget(places, entry, sequence);
            });
        self.places.insert(hash(name, value), sequence);
        self.places.insert(hash_name(name), sequence);
    }

    /// Whether a field came before; it may be known from now on.
    ///
    /// Of two that share a slot and come in each block either would put the other out before it
    /// comes again, so it is left to chance whether one does.
    fn has_seen(&mut self, hash: u64) -> bool {
        if self.seen.is_empty() {
            self.seen.resize(SEEN, 0);
        }
        let slot = (hash >> 32) as usize % SEEN;
        let Some(seen) = self.seen.get_mut(slot) else {
            return false;
        };
        if *seen == hash {
            return true;
        }
        self.chance = mix(self.chance, &[]);
        if *seen == 0 || self.chance >> 63 == 0 {
            *seen = hash;
        }
        false
    }
}

fn forget(
    places: &mut HashMap<u64, u64, BuildHasherDefault<Hashed>>,
    entry: &Entry,
    sequence: u64,
) {
    let (name, value) = entry.parts();
    for hash in [hash(name, value), hash_name(name)] {
        if places.get(&hash) == Some(&sequence) {
            places.remove(&hash);
        }
    }
}

/// How a field is encoded, by its name.
#[derive(Clone, Copy)]
enum Kind {
    /// It may be the same in many blocks.
    Stable,
    /// Its value is another one in each block.
    Volatile,
    /// Nobody should keep it.
    Sensitive,
}

impl Kind {
    fn of(name: &[u8]) -> Self {
        match name {
            TIMEOUT
            | b"grpc-message"
            | b"grpc-status-details-bin"
            | b"traceparent"
            | b"tracestate" => Self::Volatile,
            b"authorization" | b"proxy-authorization" | b"cookie" => Self::Sensitive,
            _ => Self::Stable,
        }
    }
}

fn is_of_name(fields: &Fields, place: usize, name: &[u8]) -> bool {
    fields.get(place).is_some_and(|(other, _)| other == name)
}

fn index_of(place: usize) -> usize {
    place.saturating_add(static_table::LENGTH).saturating_add(1)
}

/// Section 6.2, with the name by its index or as it is.
fn literal(place: Option<usize>, name: &[u8], value: &[u8], bits: u32, tag: u8, out: &mut Vec<u8>) {
    integer::encode(place.unwrap_or(0), bits, tag, out);
    if place.is_none() {
        string(name, out);
    }
    string(value, out);
}

/// A few octets saved are not worth their decoding.
const WORTH: usize = 8;
/// The shortest text of which Huffman's code, of five bits at least, can save as much.
const SHORTEST: usize = 22;

/// Section 5.2; Huffman when that is shorter.
fn string(text: &[u8], out: &mut Vec<u8>) {
    if text.len() >= SHORTEST {
        let length = huffman::encoded_length(text);
        if length.saturating_add(WORTH) < text.len() {
            integer::encode(length, 7, 0x80, out);
            huffman::encode(text, out);
            return;
        }
    }
    integer::encode(text.len(), 7, 0x00, out);
    out.extend_from_slice(text);
}

fn hash_name(name: &[u8]) -> u64 {
    mix(1, name)
}

fn hash(name: &[u8], value: &[u8]) -> u64 {
    mix(mix(2, name), value)
}

#[cfg(test)]
mod tests;
