//! Header blocks.

use rpc_http2::hpack::{Decoder, Encoder};

use crate::reader::Reader;

const MAX_LIST: usize = 16 * 1024;
const MAX_FIELDS: usize = 128;

type List = Vec<(Vec<u8>, Vec<u8>)>;

/// Blocks one after the other on one decoder: the limits hold, and what was decoded is the same once
/// it is encoded and decoded again.
pub fn hpack_decode(input: &[u8]) {
    let mut reader = Reader(input);
    let mut decoder = Decoder::new(reader.number(), MAX_LIST, MAX_FIELDS);
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
}

fn owned<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> List {
    fields
        .map(|(name, value)| (name.to_vec(), value.to_vec()))
        .collect()
}

/// The same blocks for another implementation: whenever both take a block, they find the same in it.
///
/// It takes more than this one, such as sizes of the table anywhere, and less in one thing: a block
/// that has nothing but sizes (RFC 7541 section 4.2 has nothing against it).
pub fn hpack_differential(input: &[u8]) {
    let mut reader = Reader(input);
    let mut ours = Decoder::new(4096, usize::MAX >> 1, usize::MAX);
    let mut other = loona_hpack::Decoder::new();
    other.set_max_allowed_table_size(4096);
    while !reader.is_empty() {
        let length = reader.number();
        let block = reader.piece(length);
        let Ok(decoded) = ours.decode(block) else {
            return;
        };
        let fields = owned(decoded.fields());
        match other.decode(block) {
            Ok(others) => assert_eq!(others, fields),
            Err(error) if fields.is_empty() => {
                assert_eq!(format!("{error:?}"), "SizeUpdateAtEnd");
                return;
            }
            Err(error) => panic!("{error:?} instead of {fields:?}"),
        }
    }
}
