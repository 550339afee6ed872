//! A quick hash of short texts. Whoever finds something by it compares what it has found.

use std::hash::Hasher;

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

pub(super) fn mix(mut hash: u64, text: &[u8]) -> u64 {
    let (words, rest) = text.as_chunks::<8>();
    for word in words {
        hash = (hash.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(SEED);
    }
    for octet in rest {
        hash = (hash.rotate_left(5) ^ u64::from(*octet)).wrapping_mul(SEED);
    }
    (hash.rotate_left(5) ^ text.len() as u64).wrapping_mul(SEED)
}

/// For texts, and for keys that are hashes already.
#[derive(Default)]
pub(super) struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, octets: &[u8]) {
        self.0 = mix(self.0, octets);
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write_usize(&mut self, _length: usize) {}
}
