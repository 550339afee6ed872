//! What a random generator and an input of a fuzzer have in common: they choose.

use std::ops::{Bound, RangeBounds};

use fastrand::Rng;

/// Chooses by an input as long as there is one, and then by a seed.
#[derive(Debug)]
pub(crate) struct Choices {
    /// There is an input, be it empty.
    fuzzed: bool,
    input: Vec<u8>,
    place: usize,
    random: Rng,
}

impl Choices {
    /// Choices of a generator.
    #[allow(dead_code, reason = "a fuzzer has no seed")]
    pub(crate) fn seeded(seed: u64) -> Self {
        Self {
            fuzzed: false,
            input: Vec::new(),
            place: 0,
            random: Rng::with_seed(seed),
        }
    }

    /// Choices of an input, two octets each; what it begins decides what is behind its end.
    #[allow(dead_code, reason = "the simulation has no input")]
    pub(crate) fn of(input: &[u8]) -> Self {
        let seed = input
            .iter()
            .take(8)
            .fold(1, |seed, octet| seed << 8 | u64::from(*octet));
        Self {
            fuzzed: true,
            input: input.to_vec(),
            place: 0,
            random: Rng::with_seed(seed),
        }
    }

    /// Whether an input chooses: it may let minutes pass in which nothing moves.
    pub(crate) fn is_fuzzed(&self) -> bool {
        self.fuzzed
    }

    /// How much of something there is at most: a fuzzer learns more from many small inputs.
    pub(crate) fn at_most(&self, simulated: usize, fuzzed: usize) -> usize {
        if self.fuzzed { fuzzed } else { simulated }
    }

    fn below(&mut self, count: u64) -> u64 {
        match self.input.get(self.place..self.place + 2) {
            Some(octets) => {
                self.place += 2;
                u64::from(u16::from_le_bytes([octets[0], octets[1]])) % count
            }
            None => self.random.u64(..count),
        }
    }

    pub(crate) fn usize(&mut self, range: impl RangeBounds<usize>) -> usize {
        let (start, end) = bounds(&range, |bound| *bound as u64);
        (start + self.below(end - start)) as usize
    }

    pub(crate) fn u64(&mut self, range: impl RangeBounds<u64>) -> u64 {
        let (start, end) = bounds(&range, |bound| *bound);
        start + self.below(end - start)
    }

    pub(crate) fn u32(&mut self, range: impl RangeBounds<u32>) -> u32 {
        let (start, end) = bounds(&range, |bound| u64::from(*bound));
        (start + self.below(end - start)) as u32
    }

    pub(crate) fn u8(&mut self, range: impl RangeBounds<u8>) -> u8 {
        let (start, end) = bounds(&range, |bound| u64::from(*bound));
        (start + self.below(end - start)) as u8
    }

    pub(crate) fn bool(&mut self) -> bool {
        self.below(2) == 1
    }
}

/// The first of a range and what is behind its last.
fn bounds<T>(range: &impl RangeBounds<T>, number: impl Fn(&T) -> u64) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => number(start),
        _ => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => number(end) + 1,
        Bound::Excluded(end) => number(end),
        Bound::Unbounded => 1 << 16,
    };
    (start, end)
}
