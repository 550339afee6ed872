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
    fn broken_escapes_stay() {
        assert_eq!(decode(b"%zz%4"), "%zz%4");
        assert_eq!(decode(b"%ff"), "\u{fffd}");
        assert_eq!(decode(b"%e2%98%ba"), "\u{263a}");
    }
}
