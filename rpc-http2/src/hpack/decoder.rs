//! Header blocks into fields, with a memory of what blocks begin with.

use super::dynamic_table::{DynamicTable, Entry};
use super::steady::{self, Steady};
use super::{HpackError, huffman, integer, static_table};
use crate::fields::Fields;
use crate::validate::Summary;

/// The size that tables begin with.
const INITIAL_TABLE: usize = 4096;
/// How many prefixes are remembered.
const PREFIXES: usize = 64;
/// A longer run of fields is not remembered.
const LONGEST_PREFIX: usize = 128;
/// Nor is one that stands for more than a full table and some of what needs none.
const LARGEST_PREFIX: usize = INITIAL_TABLE + 1024;
/// All are forgotten when those remembered since then stand for more than this: a prefix is a few
/// octets, and what is made of it stays.
const LARGEST_MEMORY: usize = 128 * 1024;

/// A block that has been decoded.
///
/// An RPC peer begins each block with the same run of indexed fields, and many send the path among
/// them as a literal. Such a run stands for the same fields as long as nothing is inserted into the
/// table, so it is decoded once and then compared.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// The fields that the block begins with.
    pub prefix: Option<Prefix<'a>>,
    /// The fields behind.
    pub rest: &'a Fields,
    /// The fields were more than the limit allows; those above it are not there.
    pub oversized: bool,
}

impl<'a> Block<'a> {
    /// All fields in order.
    pub fn fields(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let prefix = self.prefix.map(|prefix| prefix.fields.iter());
        prefix.into_iter().flatten().chain(self.rest.iter())
    }
}

/// The remembered beginning of a block.
#[derive(Clone, Copy, Debug)]
pub struct Prefix<'a> {
    /// Where it is remembered: what a caller has made of the fields can be kept under this number.
    pub slot: usize,
    /// Never the same for other fields: what is kept under the slot is about these fields only if it
    /// was kept with this number.
    pub serial: u64,
    /// Its fields.
    pub fields: &'a Fields,
}

/// Where a decoded block is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decoded {
    prefix: Option<usize>,
    oversized: bool,
}

#[derive(Debug, Default)]
struct Remembered {
    serial: u64,
    octets: Vec<u8>,
    fields: Fields,
    summary: Summary,
    version: u64,
}

/// What decodes the blocks of one connection.
#[derive(Debug)]
pub struct Decoder {
    table: DynamicTable,
    /// What SETTINGS_HEADER_TABLE_SIZE says.
    setting: usize,
    /// What the peer may use: it may not have seen the setting.
    allowed: usize,
    /// The next block has to make the table smaller.
    resize_due: bool,
    max_list: usize,
    max_fields: usize,
    prefixes: Vec<Option<Box<Remembered>>>,
    /// How many prefixes have been remembered.
    remembered: u64,
    /// What those stand for that were remembered since all were forgotten.
    held: usize,
    /// The slot of the prefix that was there last.
    last: usize,
    rest: Fields,
}

impl Decoder {
    /// A decoder whose table has at most this size and whose lists have at most these limits.
    ///
    /// Until the peer has [acknowledged](Self::acknowledge) a smaller size it may use 4,096 (RFC 9113
    /// section 6.5.2).
    #[must_use]
    pub fn new(table_size: usize, max_list: usize, max_fields: usize) -> Self {
        Self {
            table: DynamicTable::new(INITIAL_TABLE),
            setting: table_size,
            allowed: table_size.max(INITIAL_TABLE),
            resize_due: false,
            max_list,
            max_fields,
            prefixes: Vec::new(),
            remembered: 0,
            held: 0,
            last: 0,
            rest: Fields::new(),
        }
    }

    /// The peer has seen the size of the table. When it has used more until now, its next block
    /// begins with a smaller size (RFC 9113 section 4.3.1).
    pub fn acknowledge(&mut self) {
        self.allowed = self.setting;
        self.resize_due = self.table.max_size() > self.allowed;
    }

    /// Decodes a whole block.
    ///
    /// # Errors
    /// When the block is none; the connection cannot go on.
    pub fn decode(&mut self, block: &[u8]) -> Result<Block<'_>, HpackError> {
        let decoded = self.take(block)?;
        Ok(self.block(decoded))
    }

    /// Decodes a whole block, which stays here until the next one.
    pub(crate) fn take(&mut self, block: &[u8]) -> Result<Decoded, HpackError> {
        self.rest.clear();
        self.rest.shrink(4096);
        if std::mem::take(&mut self.resize_due) && !block.first().is_some_and(is_resize) {
            return Err(HpackError::TableSize);
        }
        let run = steady::run(block, LONGEST_PREFIX);
        let mut prefix = None;
        let mut rest = block;
        if let Some((octets, behind)) = block.split_at_checked(run)
            && (1..=LONGEST_PREFIX).contains(&run)
        {
            let slot = slot_of(octets);
            let known = self
                .prefixes
                .get(slot)
                .and_then(Option::as_deref)
                .is_some_and(|known| {
                    known.version == self.table.version() && known.octets == octets
                });
            let found = match known {
                true => Some(slot),
                false if self.is_last(octets)? => Some(self.last),
                false => self.remember(slot, octets)?.then_some(slot),
            };
            if let Some(slot) = found {
                rest = behind;
                prefix = found;
                self.last = slot;
            }
        }
        let room = match prefix.and_then(|slot| self.prefixes.get(slot)?.as_deref()) {
            Some(known) => (known.fields.size(), known.fields.len()),
            None => (0, 0),
        };
        let oversized = self.decode_rest(rest, room, prefix.is_none())?;
        Ok(Decoded { prefix, oversized })
    }

    /// The block that was decoded last.
    pub(crate) fn block(&self, decoded: Decoded) -> Block<'_> {
        let prefix = decoded.prefix.and_then(|slot| {
            let known = self.prefixes.get(slot)?.as_deref()?;
            Some(Prefix {
                slot,
                serial: known.serial,
                fields: &known.fields,
            })
        });
        Block {
            prefix,
            rest: &self.rest,
            oversized: decoded.oversized,
        }
    }

    /// Whether the block that was decoded last is one that it may be.
    pub(crate) fn summary(&self, decoded: Decoded) -> Summary {
        let prefix = decoded
            .prefix
            .and_then(|slot| self.prefixes.get(slot)?.as_deref());
        Summary::of(prefix.map(|known| known.summary), self.block(decoded))
    }

    /// Whether a run of fields stands for what the last one did.
    ///
    /// A peer that inserts something with each block, as most do with each deadline, has other
    /// indices for the same fields in each block.
    fn is_last(&self, octets: &[u8]) -> Result<bool, HpackError> {
        let Some(last) = self.prefixes.get(self.last).and_then(Option::as_deref) else {
            return Ok(false);
        };
        let mut fields = last.fields.iter();
        let (mut input, mut before) = (octets, &*last.octets);
        while let Some(field) = Steady::take(&mut input) {
            let (known, value) = (Steady::take(&mut before), fields.next());
            let same = match field? {
                Steady::Indexed(index) => value == Some(indexed(&self.table, index)?),
                path @ Steady::Path(_) => known == Some(Ok(path)),
            };
            if !same {
                return Ok(false);
            }
        }
        Ok(fields.next().is_none())
    }

    /// Decodes a run of fields into its slot; false when it is too large for that.
    fn remember(&mut self, slot: usize, octets: &[u8]) -> Result<bool, HpackError> {
        if self.prefixes.is_empty() {
            self.prefixes.resize_with(PREFIXES, || None);
        }
        let Some(place) = self.prefixes.get_mut(slot) else {
            return Ok(false);
        };
        let mut remembered = place.take().unwrap_or_default();
        remembered.fields.clear();
        remembered.summary = Summary::default();
        let largest = self.max_list.min(LARGEST_PREFIX);
        let mut input = octets;
        while let Some(field) = Steady::take(&mut input) {
            match field? {
                Steady::Indexed(index) => {
                    let (name, value) = indexed(&self.table, index)?;
                    remembered.fields.push(name, value);
                }
                Steady::Path(mut value) => {
                    let out = remembered.fields.open();
                    out.extend_from_slice(b":path");
                    let name_end = out.len();
                    string(&mut value, out)?;
                    remembered.fields.seal(name_end);
                }
            }
            if let Some((name, value)) = remembered.fields.last() {
                remembered.summary.field(name, value);
            }
            if remembered.fields.size() > largest || remembered.fields.len() > self.max_fields {
                return Ok(false);
            }
        }
        remembered.octets.clear();
        remembered.octets.extend_from_slice(octets);
        remembered.version = self.table.version();
        self.remembered = self.remembered.wrapping_add(1);
        remembered.serial = self.remembered;
        let size = remembered.fields.size();
        self.held = self.held.saturating_add(size);
        if self.held > LARGEST_MEMORY {
            self.held = size;
            self.prefixes.fill_with(|| None);
        }
        if let Some(place) = self.prefixes.get_mut(slot) {
            *place = Some(remembered);
        }
        Ok(true)
    }

    /// Decodes what is behind the prefix; whether that was too much.
    fn decode_rest(
        &mut self,
        mut input: &[u8],
        (size, count): (usize, usize),
        mut may_resize: bool,
    ) -> Result<bool, HpackError> {
        let mut oversized = false;
        while let Some(&first) = input.first() {
            if is_resize(&first) {
                // Section 4.2: only at the beginning of a block.
                let size = integer::decode(&mut input, 5)?;
                if !may_resize || size > self.allowed {
                    return Err(HpackError::TableSize);
                }
                self.table.resize(size, |_, _| {});
                continue;
            }
            may_resize = false;
            if first & 0x80 != 0 {
                let index = integer::decode(&mut input, 7)?;
                let (name, value) = indexed(&self.table, index)?;
                if !oversized {
                    self.rest.push(name, value);
                }
            } else {
                let indexing = first & 0x40 != 0;
                let index = integer::decode(&mut input, if indexing { 6 } else { 4 })?;
                self.literal(&mut input, index, indexing)?;
                if oversized {
                    self.rest.truncate(self.rest.len().saturating_sub(1));
                }
            }
            if !oversized
                && (self.rest.size().saturating_add(size) > self.max_list
                    || self.rest.len().saturating_add(count) > self.max_fields)
            {
                self.rest.truncate(self.rest.len().saturating_sub(1));
                oversized = true;
            }
        }
        Ok(oversized)
    }

    /// Section 6.2.
    fn literal(
        &mut self,
        input: &mut &[u8],
        index: usize,
        indexing: bool,
    ) -> Result<(), HpackError> {
        let out = self.rest.open();
        if index > 0 {
            out.extend_from_slice(indexed(&self.table, index)?.0);
        } else {
            string(input, out)?;
        }
        let name_end = out.len();
        string(input, out)?;
        self.rest.seal(name_end);
        if indexing && let Some((name, value)) = self.rest.last() {
            self.table.insert(Entry::new(name, value), |_, _| {});
        }
        Ok(())
    }
}

/// Whether an octet begins a new size of the table (section 6.3).
fn is_resize(first: &u8) -> bool {
    first & 0xe0 == 0x20
}

fn slot_of(octets: &[u8]) -> usize {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for octet in octets {
        hash = (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3);
    }
    ((hash >> 32) as usize) % PREFIXES
}

/// The field of an index into both tables (section 2.3.3).
fn indexed(table: &DynamicTable, index: usize) -> Result<(&[u8], &[u8]), HpackError> {
    let found = match index.checked_sub(static_table::LENGTH.saturating_add(1)) {
        None => static_table::get(index),
        Some(place) => table.get(place).map(Entry::parts),
    };
    found.ok_or(HpackError::Index)
}

/// Section 5.2.
fn string(input: &mut &[u8], out: &mut Vec<u8>) -> Result<(), HpackError> {
    let huffman = input.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer::decode(input, 7)?;
    let (text, rest) = input
        .split_at_checked(length)
        .ok_or(HpackError::Truncated)?;
    *input = rest;
    if huffman {
        huffman::decode(text, out)
    } else {
        out.extend_from_slice(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
