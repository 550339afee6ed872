//! Percent-encoding of `grpc-message`.

use std::borrow::Cow;

/// Printable ASCII except `%` stands for itself, every other byte of the UTF-8 text as `%XX`; spaces at
/// the ends too, since no field value may have them (RFC 9113 section 8.2.1).
pub(crate) fn encode(message: &str) -> Cow<'_, str> {
    let plain = |byte: u8| (0x20..=0x7e).contains(&byte) && byte != b'%';
    let inside = message.trim_matches(' ');
    if inside.len() == message.len() && message.bytes().all(plain) {
        return Cow::Borrowed(message);
    }
    let start = message.len() - message.trim_start_matches(' ').len();
    let inside = start..start + inside.len();
    const HEX: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    let mut encoded = String::with_capacity(message.len() + 32);
    for (place, byte) in message.bytes().enumerate() {
        if plain(byte) && inside.contains(&place) {
            encoded.push(byte as char);
        } else {
            encoded.push('%');
            encoded.push(HEX[usize::from(byte >> 4)]);
            encoded.push(HEX[usize::from(byte & 15)]);
        }
    }
    Cow::Owned(encoded)
}

/// As much of a message, encoded, as is so many octets long; cut between two characters.
pub(crate) fn encode_within(message: &str, octets: usize) -> Cow<'_, str> {
    if message.len() <= octets / 3 {
        return encode(message);
    }
    let (mut length, mut begun) = (0, false);
    let cut = message.char_indices().find(|(_, character)| {
        begun |= *character != ' ';
        let plain = begun && matches!(character, ' '..='~') && *character != '%';
        length += if plain { 1 } else { 3 * character.len_utf8() };
        length > octets
    });
    let Some((cut, _)) = cut else {
        // Spaces at its end are longer than they were taken for.
        return match encode(message) {
            encoded if encoded.len() <= octets => encoded,
            _ => encode(message.trim_end_matches(' ')),
        };
    };
    encode(message[..cut].trim_end_matches(' '))
}

/// Never fails: an escape that is not one stays as it is, bytes that are not UTF-8 become U+FFFD.
pub(crate) fn decode(message: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(message.len());
    let mut rest = message;
    while let [first, tail @ ..] = rest {
        if let [b'%', high, low, after @ ..] = rest
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            bytes.push(high << 4 | low);
            rest = after;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        for text in [
            "",
            "plain",
            "50% off",
            "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n",
            "%",
            "%4",
            "\u{7f}",
            " ",
            "  failed: ",
        ] {
            let encoded = encode(text);
            assert!(encoded.bytes().all(|byte| (0x20..=0x7e).contains(&byte)));
            assert_eq!(encoded, encoded.trim());
            assert_eq!(decode(encoded.as_bytes()), text);
        }
        assert_eq!(encode("a%b"), "a%25b");
    }

    #[test]
    fn what_goes_out_is_bounded_and_ends_with_a_character() {
        for text in [
            "a".repeat(5000),
            "\u{3042}".repeat(4000),
            "50% ".repeat(2000),
            " ".repeat(3000),
            format!("  x{}", "\u{1f608} ".repeat(1000)),
            "a ".repeat(2048),
        ] {
            for bound in [0, 1, 2, 3, 8, 9, 10, 4095, 4096, 100_000] {
                let encoded = encode_within(&text, bound);
                assert!(encoded.len() <= bound, "{} above {bound}", encoded.len());
                assert!(text.starts_with(&decode(encoded.as_bytes())));
                if bound == 100_000 {
                    assert_eq!(decode(encoded.as_bytes()), text);
                } else if bound > 4000 && !text.starts_with(' ') {
                    assert!(encoded.len() + 20 > bound, "{} of {bound}", encoded.len());
                }
            }
        }
        assert_eq!(encode_within("\u{3042}\u{3042}", 17), "%E3%81%82");
    }

    #[test]
    fn broken_escapes_stay() {
        assert_eq!(decode(b"%zz%4"), "%zz%4");
        assert_eq!(decode(b"%ff"), "\u{fffd}");
        assert_eq!(decode(b"%e2%98%ba"), "\u{263a}");
    }
}
