//! HPACK: RFC 7541.

mod decoder;
mod dynamic_table;
mod encoder;
mod hashed;
mod huffman;
mod integer;
mod static_table;
mod steady;

pub(crate) use decoder::Decoded;
pub use decoder::{Block, Decoder, Prefix};
pub use encoder::{Encoder, Template};

use std::fmt;

/// What is wrong with a header block; the connection cannot go on (RFC 9113 section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HpackError {
    /// The block ends in the middle of a field.
    Truncated,
    /// An integer is larger than anything it could count.
    Integer,
    /// An index that neither table has.
    Index,
    /// A Huffman code that is none, or wrong padding.
    Huffman,
    /// A table size above the one that was allowed, in the wrong place, or missing where it is due.
    TableSize,
}

impl fmt::Display for HpackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "the header block ends in the middle of a field",
            Self::Integer => "an integer of the header block is too large",
            Self::Index => "the header block has an index that no table has",
            Self::Huffman => "the header block has a wrong Huffman code",
            Self::TableSize => "the header block has a wrong size of the table, or lacks one",
        })
    }
}

impl std::error::Error for HpackError {}
