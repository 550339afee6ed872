//! Integers with a prefix: RFC 7541 section 5.1.

use super::HpackError;

/// The largest value that is taken: every length, index and table size of a block is far below.
const LIMIT: u64 = 1 << 28;

/// Reads an integer whose prefix has so many bits; the bits above the prefix are ignored.
pub(super) fn decode(input: &mut &[u8], prefix_bits: u32) -> Result<usize, HpackError> {
    let mask = (1u64 << prefix_bits).wrapping_sub(1);
    let (first, mut rest) = input.split_first().ok_or(HpackError::Truncated)?;
    let mut value = u64::from(*first) & mask;
    if value < mask {
        *input = rest;
        return Ok(value as usize);
    }
    let mut shift = 0u32;
    loop {
        let (next, behind) = rest.split_first().ok_or(HpackError::Truncated)?;
        rest = behind;
        value = value.saturating_add(u64::from(next & 0x7f) << shift);
        // Four octets reach the limit; zeros behind them would go on for ever.
        if value > LIMIT || (shift >= 21 && next & 0x80 != 0) {
            return Err(HpackError::Integer);
        }
        if next & 0x80 == 0 {
            *input = rest;
            return Ok(value as usize);
        }
        shift = shift.saturating_add(7);
    }
}

/// Appends an integer; `tag` fills the bits above the prefix.
pub(super) fn encode(value: usize, prefix_bits: u32, tag: u8, out: &mut Vec<u8>) {
    let mask = (1usize << prefix_bits).wrapping_sub(1);
    if value < mask {
        out.push(tag | value as u8);
        return;
    }
    out.push(tag | mask as u8);
    let mut rest = value.saturating_sub(mask);
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_of_the_rfc() {
        // C.1.1, C.1.2, C.1.3.
        for (value, bits, bytes) in [
            (10, 5, &[0b0000_1010][..]),
            (1337, 5, &[0b0001_1111, 0b1001_1010, 0b0000_1010]),
            (42, 8, &[0b0010_1010]),
        ] {
            let mut out = Vec::new();
            encode(value, bits, 0, &mut out);
            assert_eq!(out, bytes);
            let mut input = &out[..];
            assert_eq!(decode(&mut input, bits), Ok(value));
            assert!(input.is_empty());
        }
    }

    #[test]
    fn all_lengths_come_back() {
        for bits in 4..=7 {
            for value in (0..1000).chain((0..28).map(|shift| 1 << shift)) {
                let mut out = Vec::new();
                encode(value, bits, 0, &mut out);
                assert_eq!(decode(&mut &out[..], bits), Ok(value));
                let cut = &out[..out.len() - 1];
                assert_eq!(decode(&mut &cut[..], bits), Err(HpackError::Truncated));
            }
        }
    }

    #[test]
    fn large_and_endless_integers_are_refused() {
        assert_eq!(
            decode(&mut &[0x7f, 0xff, 0xff, 0xff, 0xff, 0x0f][..], 7),
            Err(HpackError::Integer)
        );
        let mut endless = vec![0x7f];
        endless.extend([0x80; 100]);
        assert_eq!(decode(&mut &endless[..], 7), Err(HpackError::Integer));
    }
}
