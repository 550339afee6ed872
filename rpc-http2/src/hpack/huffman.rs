//! The Huffman code of RFC 7541 Appendix B.
//!
//! The code is canonical, so the lengths of its 257 codes say all of it.

use super::HpackError;

/// How many bits the code of each octet has; the last one is the end-of-string symbol.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

const END_OF_STRING: usize = 256;
const LONGEST: usize = 30;
/// Codes of up to this many bits are looked up at once.
const SHORT: u32 = 8;

struct Tables {
    codes: [u32; 257],
    /// Per length: the first code behind the codes of this length, aligned to 32 bits.
    limits: [u64; LONGEST + 1],
    /// Per length: the first code, and where its symbol is in `symbols`.
    firsts: [(u32, u16); LONGEST + 1],
    symbols: [u16; 257],
    /// By the next eight bits: the octet and the length of its code, or length 0.
    short: [(u8, u8); 1 << SHORT],
}

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "evaluated by the compiler, where a mistake is an error"
)]
const fn tables() -> Tables {
    let mut tables = Tables {
        codes: [0; 257],
        limits: [0; LONGEST + 1],
        firsts: [(0, 0); LONGEST + 1],
        symbols: [0; 257],
        short: [(0, 0); 1 << SHORT],
    };
    let (mut code, mut position, mut length) = (0u32, 0usize, 1usize);
    while length <= LONGEST {
        code <<= 1;
        tables.firsts[length] = (code, position as u16);
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                tables.codes[symbol] = code;
                tables.symbols[position] = symbol as u16;
                if length <= SHORT as usize {
                    let free = SHORT as usize - length;
                    let mut low = 0;
                    while low < 1 << free {
                        tables.short[((code as usize) << free) | low] =
                            (symbol as u8, length as u8);
                        low += 1;
                    }
                }
                code += 1;
                position += 1;
            }
            symbol += 1;
        }
        tables.limits[length] = (code as u64) << (32 - length);
        length += 1;
    }
    tables
}

static TABLES: Tables = tables();

/// How many octets the code of a string takes.
pub(super) fn encoded_length(text: &[u8]) -> usize {
    let bits: usize = text
        .iter()
        .map(|byte| usize::from(LENGTHS.get(usize::from(*byte)).copied().unwrap_or(0)))
        .fold(0, usize::saturating_add);
    bits.div_ceil(8)
}

/// Appends the code of a string, padded with ones (section 5.2).
pub(super) fn encode(text: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut filled) = (0u64, 0u32);
    for byte in text {
        let symbol = usize::from(*byte);
        let (Some(code), Some(length)) = (TABLES.codes.get(symbol), LENGTHS.get(symbol)) else {
            continue;
        };
        bits = (bits << length) | u64::from(*code);
        filled = filled.saturating_add(u32::from(*length));
        while filled >= 8 {
            filled = filled.saturating_sub(8);
            out.push((bits >> filled) as u8);
        }
    }
    if filled > 0 {
        let free = 8u32.saturating_sub(filled);
        out.push(((bits << free) as u8) | ((1u16 << free).wrapping_sub(1) as u8));
    }
}

/// Appends the string that a code stands for.
///
/// Fails on the end-of-string symbol and on padding that is longer than 7 bits or not all ones
/// (section 5.2).
pub(super) fn decode(code: &[u8], out: &mut Vec<u8>) -> Result<(), HpackError> {
    // The next bits are at the top.
    let (mut bits, mut filled) = (0u64, 0u32);
    let mut rest = code.iter();
    loop {
        while filled <= 56 {
            let Some(byte) = rest.next() else { break };
            let shift = 56u32.saturating_sub(filled);
            bits |= u64::from(*byte) << shift;
            filled = filled.saturating_add(8);
        }
        if filled == 0 {
            return Ok(());
        }
        let next = TABLES
            .short
            .get((bits >> (64 - SHORT)) as usize)
            .copied()
            .unwrap_or((0, 0));
        let (symbol, length) = match next {
            (symbol, length) if length > 0 => (usize::from(symbol), u32::from(length)),
            _ => long(bits).ok_or(HpackError::Huffman)?,
        };
        if length > filled {
            // No code is a prefix of the padding, which is the start of the end-of-string code.
            let padding = (1u64 << filled).wrapping_sub(1) << 64u32.saturating_sub(filled);
            if filled < 8 && bits == padding {
                return Ok(());
            }
            return Err(HpackError::Huffman);
        }
        if symbol == END_OF_STRING {
            return Err(HpackError::Huffman);
        }
        out.push(symbol as u8);
        bits <<= length;
        filled = filled.saturating_sub(length);
    }
}

/// The symbol at the top of the bits when its code is a long one.
fn long(bits: u64) -> Option<(usize, u32)> {
    let top = bits >> 32;
    let length = (SHORT as usize..=LONGEST)
        .find(|length| TABLES.limits.get(*length).is_some_and(|limit| top < *limit))?;
    let (first, position) = TABLES.firsts.get(length).copied()?;
    let shift = 32usize.checked_sub(length)?;
    let offset = (top >> shift).checked_sub(u64::from(first))?;
    let index = usize::from(position).checked_add(offset as usize)?;
    let symbol = TABLES.symbols.get(index).copied()?;
    Some((usize::from(symbol), length as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(code: &[u8]) -> Result<Vec<u8>, HpackError> {
        let mut out = Vec::new();
        decode(code, &mut out).map(|()| out)
    }

    #[test]
    fn every_octet_comes_back() {
        for byte in 0..=255u8 {
            for count in 1..20 {
                let text = vec![byte; count];
                let mut code = Vec::new();
                encode(&text, &mut code);
                assert_eq!(code.len(), encoded_length(&text));
                assert_eq!(decoded(&code).unwrap(), text, "{byte} times {count}");
            }
        }
        let all: Vec<u8> = (0..=255).collect();
        let mut code = Vec::new();
        encode(&all, &mut code);
        assert_eq!(decoded(&code).unwrap(), all);
    }

    #[test]
    fn known_codes() {
        // RFC 7541 C.4.1 and C.6.1.
        for (text, code) in [
            ("www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
            ("302", "6402"),
            ("private", "aec3771a4b"),
            (
                "Mon, 21 Oct 2013 20:13:21 GMT",
                "d07abe941054d444a8200595040b8166e082a62d1bff",
            ),
        ] {
            let mut out = Vec::new();
            encode(text.as_bytes(), &mut out);
            let hex: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, code, "{text}");
        }
    }

    #[test]
    fn bad_padding_is_refused() {
        // 'a' is 00011; the rest has to be ones.
        assert_eq!(decoded(&[0b0001_1111]).unwrap(), b"a");
        assert!(decoded(&[0b0001_1110]).is_err());
        assert!(decoded(&[0b0001_1111, 0xff]).is_err());
        assert!(decoded(&[0xff]).is_err());
        assert!(decoded(&[0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(decoded(&[0xff, 0xff, 0xff, 0xfc]).is_err());
    }
}
