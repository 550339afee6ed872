//! How much of a status goes out.

use std::borrow::Cow;

use super::percent;

/// What the text and the details of a status may be together, as they are sent: with the other fields
/// that is less than the 8 KiB of header list that every gRPC library takes.
const TOGETHER: usize = 7 * 1024;
/// What the text may be alone.
pub(crate) const TEXT: usize = 4096;
/// What is left to it beside details of any length, which cannot be cut.
const LEAST: usize = 128;

/// The text of a status as `grpc-message`, beside details of so many octets.
///
/// A longer one could pass a peer's limit on header lists and turn a failed call into a broken stream.
pub(crate) fn text(message: &str, details: usize) -> Cow<'_, str> {
    let room = TOGETHER.saturating_sub(details).clamp(LEAST, TEXT);
    percent::encode_within(message, room)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_details_are_bounded_together() {
        let long = "\u{3042}".repeat(4000);
        for (details, most) in [
            (0, TEXT),
            (3072, TEXT),
            (5000, 2168),
            (7168, LEAST),
            (20_000, LEAST),
        ] {
            let text = text(&long, details);
            assert!(
                text.len() <= most && text.len() + 9 > most,
                "{details}: {}",
                text.len()
            );
        }
        assert_eq!(text("short", 20_000), "short");
    }
}
