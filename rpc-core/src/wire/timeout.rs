//! `grpc-timeout`: at most eight digits and a unit.

use std::io::Write as _;
use std::time::Duration;

/// Parses `TimeoutValue TimeoutUnit`; nothing when it is not one.
pub(crate) fn parse(value: &[u8]) -> Option<Duration> {
    let (&unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits
        .iter()
        .fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
pub(crate) fn format(timeout: Duration) -> String {
    let mut text = Vec::with_capacity(9);
    write(timeout, &mut text);
    String::from_utf8(text).unwrap_or_default()
}

/// What eight digits cannot say.
const LIMIT: u64 = 100_000_000;

/// Writes whole seconds and milliseconds as such, anything else in the finest unit that fits in eight
/// digits, rounded up so that a server never gives up first.
pub(crate) fn write(timeout: Duration, text: &mut Vec<u8>) {
    // What was set by hand is mostly whole, and short for both sides.
    let (seconds, rest) = (timeout.as_secs(), timeout.subsec_nanos());
    if rest == 0 && seconds < LIMIT {
        return write_digits(seconds, b'S', text);
    }
    if rest % 1_000_000 == 0 && seconds < LIMIT / 1000 {
        let milliseconds = seconds * 1000 + u64::from(rest / 1_000_000);
        return write_digits(milliseconds, b'm', text);
    }
    let nanoseconds = timeout.as_nanos();
    // Wide divisions are slow, and most timeouts are far from needing them.
    if let Ok(nanoseconds) = u64::try_from(timeout.as_nanos()) {
        for (unit, letter) in [(1u64, b'n'), (1_000, b'u'), (1_000_000, b'm')] {
            let amount = nanoseconds.div_ceil(unit);
            if amount < LIMIT {
                return write_digits(amount, letter, text);
            }
        }
    }
    let units: [(u128, char); 6] = [
        (1, 'n'),
        (1_000, 'u'),
        (1_000_000, 'm'),
        (1_000_000_000, 'S'),
        (60_000_000_000, 'M'),
        (3_600_000_000_000, 'H'),
    ];
    for (unit, letter) in units {
        let amount = nanoseconds.div_ceil(unit);
        if amount < u128::from(LIMIT) {
            // Writing to a Vec cannot fail.
            let _ = write!(text, "{amount}{letter}");
            return;
        }
    }
    text.extend_from_slice(b"99999999H");
}

fn write_digits(mut amount: u64, letter: u8, text: &mut Vec<u8>) {
    let mut digits = [b'0'; 9];
    let mut start = digits.len() - 1;
    digits[start] = letter;
    loop {
        start -= 1;
        digits[start] = b'0' + (amount % 10) as u8;
        amount /= 10;
        if amount == 0 || start == 0 {
            break;
        }
    }
    text.extend_from_slice(&digits[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_parses() {
        for (text, duration) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("6n", Duration::from_nanos(6)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
            ("0n", Duration::ZERO),
        ] {
            assert_eq!(parse(text.as_bytes()), Some(duration), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "S",
            "1",
            "-1S",
            "+1S",
            "1.5S",
            "123456789S",
            "1s",
            "1 S",
            "S1",
            "\u{661}S",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn whole_seconds_and_milliseconds_are_short() {
        for (duration, text) in [
            (Duration::ZERO, "0S"),
            (Duration::from_secs(2), "2S"),
            (Duration::from_secs(99_999_999), "99999999S"),
            (Duration::from_millis(200), "200m"),
            (Duration::from_millis(99_999_999), "99999999m"),
            (Duration::from_millis(100_000_001), "100001S"),
            (Duration::from_micros(1_500), "1500000n"),
            (Duration::from_nanos(1_999_999_999), "2000000u"),
        ] {
            assert_eq!(format(duration), text);
        }
    }

    #[test]
    fn formatting_never_shortens_and_loses_little() {
        for duration in [
            Duration::ZERO,
            Duration::from_nanos(99_999_999),
            Duration::from_nanos(100_000_001),
            Duration::from_millis(200),
            Duration::from_secs(86_400),
            Duration::from_secs(u64::from(u32::MAX)),
            Duration::MAX,
        ] {
            let text = format(duration);
            assert!(text.len() <= 9, "{text}");
            let back = parse(text.as_bytes()).unwrap();
            if duration < Duration::from_secs(1 << 40) && text != "99999999H" {
                assert!(back >= duration);
                assert!(
                    back.as_secs_f64() <= duration.as_secs_f64() * 1.000_1 + 1e-9,
                    "{duration:?} {text}"
                );
            }
        }
    }
}
