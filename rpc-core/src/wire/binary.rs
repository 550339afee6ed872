//! Base64 of `-bin` metadata: sent without padding, accepted with or without.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

pub(crate) fn encode(bytes: &[u8]) -> String {
    ENGINE.encode(bytes)
}

/// The bytes of one value, or nothing when it is not base64.
pub(crate) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    ENGINE.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_optional_when_decoding_and_absent_when_encoding() {
        assert_eq!(encode(&[1]), "AQ");
        assert_eq!(decode(b"AQ"), Some(vec![1]));
        assert_eq!(decode(b"AQ=="), Some(vec![1]));
        assert_eq!(decode(b""), Some(vec![]));
        assert_eq!(decode(b"*"), None);
    }
}
