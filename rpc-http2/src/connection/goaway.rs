//! Why a peer takes no more streams: RFC 9113 section 6.8.

use std::fmt;

use crate::error::ErrorCode;

/// What a peer's GOAWAY says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoAway {
    /// Why.
    pub code: ErrorCode,
    /// Its debug data as text: up to 128 characters, and nothing that could not be printed.
    pub text: String,
}

impl GoAway {
    const LONGEST: usize = 128;

    pub(super) fn new(code: ErrorCode, debug: &[u8]) -> Self {
        let text = String::from_utf8_lossy(debug.get(..4 * Self::LONGEST).unwrap_or(debug));
        let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
        let text: String = printable.take(Self::LONGEST).collect();
        Self {
            code,
            text: text.trim().to_owned(),
        }
    }
}

impl fmt::Display for GoAway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the peer sent GOAWAY with {}", self.code)?;
        if !self.text.is_empty() {
            write!(f, " ({:?})", self.text)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_says_is_bounded_and_printable() {
        for (debug, told) in [
            (&b""[..], "the peer sent GOAWAY with ENHANCE_YOUR_CALM"),
            (
                b"too_many_pings",
                "the peer sent GOAWAY with ENHANCE_YOUR_CALM (\"too_many_pings\")",
            ),
            (
                b" \x1b[1m\r\nx\0",
                "the peer sent GOAWAY with ENHANCE_YOUR_CALM (\"[1m  x\")",
            ),
        ] {
            let goaway = GoAway::new(ErrorCode::ENHANCE_YOUR_CALM, debug);
            assert_eq!(goaway.to_string(), told);
        }
        for debug in [
            vec![b'x'; 16_384],
            vec![0xff; 16_384],
            "\u{e9}".repeat(8000).into(),
        ] {
            let goaway = GoAway::new(ErrorCode::NO_ERROR, &debug);
            assert_eq!(goaway.text.chars().count(), GoAway::LONGEST);
            assert!(goaway.text.capacity() <= 8 * GoAway::LONGEST);
        }
    }
}
