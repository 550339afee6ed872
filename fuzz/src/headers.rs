//! Header blocks.

use rpc_http2::hpack::{Decoder, Encoder, HpackError};

use crate::reader::Reader;

const MAX_LIST: usize = 16 * 1024;
const MAX_FIELDS: usize = 128;

type List = Vec<(Vec<u8>, Vec<u8>)>;

/// Blocks one after the other on one decoder: the limits hold, and what was decoded is the same once
/// it is encoded and decoded again.
pub fn hpack_decode(input: &[u8]) {
    let mut reader = Reader(input);
    let allowed = reader.number();
    let mut decoder = Decoder::new(allowed, MAX_LIST, MAX_FIELDS);
    let mut encoder = Encoder::default();
    let mut again = Decoder::new(4096, usize::MAX >> 1, usize::MAX);
    while !reader.is_empty() {
        let length = reader.number();
        let Ok(block) = decoder.decode(reader.piece(length)) else {
            return;
        };
        let size: usize = block
            .fields()
            .map(|(name, value)| name.len() + value.len() + 32)
            .sum();
        assert!(size <= MAX_LIST && block.fields().count() <= MAX_FIELDS);
        let fields = owned(block.fields());
        let mut octets = Vec::new();
        encoder.begin(&mut octets);
        for (place, (name, value)) in fields.iter().enumerate() {
            match place % 3 {
                0 => encoder.stable(name, value, &mut octets),
                1 => encoder.volatile(name, value, &mut octets),
                _ => encoder.sensitive(name, value, &mut octets),
            }
        }
        let decoded = again.decode(&octets).unwrap();
        assert!(!decoded.oversized);
        assert_eq!(owned(decoded.fields()), fields);
    }
    table_holds(&mut decoder, allowed.max(4096));
}

/// Section 4.1: all entries of the dynamic table, which begins behind the static one, fit into it.
fn table_holds(decoder: &mut Decoder, allowed: usize) {
    let mut size = 0;
    for index in 62usize.. {
        // An indexed field, whose integer has a prefix of seven bits.
        let mut block = vec![0x80 | index.min(127) as u8];
        if let Some(mut rest) = index.checked_sub(127) {
            while rest >= 0x80 {
                block.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            block.push(rest as u8);
        }
        let Ok(entry) = decoder.decode(&block) else {
            return;
        };
        // An entry above the limit of a list is not given out; it is larger than that limit.
        size += match entry.oversized {
            true => MAX_LIST,
            false => entry
                .fields()
                .map(|(name, value)| name.len() + value.len() + 32)
                .sum(),
        };
        assert!(size <= allowed, "{size} octets in a table of {allowed}");
    }
}

fn owned<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> List {
    fields
        .map(|(name, value)| (name.to_vec(), value.to_vec()))
        .collect()
}

/// The same blocks for another implementation: whenever both take a block, they find the same in it.
///
/// What only one of them takes is of a kind that is known:
/// - a block of nothing but table sizes is refused by the other one, though RFC 7541 section 4.2 has
///   nothing against it;
/// - a table size behind a field is refused by this one, as section 4.2 wants it, and taken by the
///   other;
/// - an integer with more zeros behind it than it needs is refused by this one, which section 5.1
///   allows, and taken by the other.
pub fn hpack_differential(input: &[u8]) {
    let mut reader = Reader(input);
    let mut ours = Decoder::new(4096, usize::MAX >> 1, usize::MAX);
    let mut other = loona_hpack::Decoder::new();
    other.set_max_allowed_table_size(4096);
    while !reader.is_empty() {
        let length = reader.number();
        let block = reader.piece(length);
        let others = other.decode(block);
        match (ours.decode(block), others) {
            (Ok(decoded), Ok(others)) => assert_eq!(others, owned(decoded.fields())),
            (Ok(decoded), Err(error)) => {
                let fields = owned(decoded.fields());
                assert!(fields.is_empty(), "{error:?} instead of {fields:?}");
                assert_eq!(format!("{error:?}"), "SizeUpdateAtEnd");
                return;
            }
            (Err(HpackError::TableSize | HpackError::Integer), Ok(_)) | (Err(_), Err(_)) => return,
            (Err(error), Ok(others)) => panic!("{error:?} instead of {others:?}"),
        }
    }
}
