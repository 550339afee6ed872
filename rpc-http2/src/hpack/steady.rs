//! What blocks have in common: fields that are read and change nothing.

use super::{HpackError, integer};

/// A field of which the octets say the same as long as the table is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Steady<'a> {
    /// Section 6.1.
    Indexed(usize),
    /// A path that is not put into the table (sections 6.2.2 and 6.2.3), by its value's octets.
    Path(&'a [u8]),
}

impl<'a> Steady<'a> {
    /// Takes such a field off; nothing when what comes next is none.
    pub(super) fn take(input: &mut &'a [u8]) -> Option<Result<Self, HpackError>> {
        let first = *input.first()?;
        if first & 0x80 != 0 {
            return Some(integer::decode(input, 7).map(Self::Indexed));
        }
        // The static table has `:path` at 4 and 5.
        if !matches!(first, 0x04 | 0x05 | 0x14 | 0x15) {
            return None;
        }
        let value = input.get(1..)?;
        let mut behind = value;
        let behind = integer::decode(&mut behind, 7)
            .and_then(|length| behind.get(length..).ok_or(HpackError::Truncated));
        Some(behind.map(|behind| {
            let length = value.len().saturating_sub(behind.len());
            *input = behind;
            Self::Path(value.get(..length).unwrap_or_default())
        }))
    }
}

/// How many octets of such fields a block begins with; a path that ends behind `longest` is none.
pub(super) fn run(block: &[u8], longest: usize) -> usize {
    let mut input = block;
    loop {
        // Most are indices of one octet.
        let short = input
            .iter()
            .take_while(|octet| matches!(octet, 0x80..=0xfe));
        input = input.get(short.count()..).unwrap_or_default();
        let run = block.len().saturating_sub(input.len());
        let mut behind = input;
        match Steady::take(&mut behind) {
            Some(Ok(Steady::Path(_))) if block.len().saturating_sub(behind.len()) > longest => {
                return run;
            }
            Some(Ok(_)) => input = behind,
            Some(Err(_)) | None => return run,
        }
    }
}
