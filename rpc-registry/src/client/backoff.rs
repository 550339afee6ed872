//! The wait between attempts to reach a registry: [`Backoff`].

use std::time::Duration;

/// 100 ms, doubled each time up to 500 ms, give or take a quarter.
///
/// Short, because with a registry that is back a new server should have its first call within a
/// second; the jitter keeps them from coming all at once.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next wait, by a random number from 0 to 1.
    pub(crate) fn next(&mut self, random: f64) -> Duration {
        let base = (0.1 * f64::from(1u32 << self.failures.min(4))).min(0.5);
        self.failures = self.failures.saturating_add(1);
        Duration::from_secs_f64(base * (0.75 + 0.5 * random))
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_from_a_tenth_of_a_second_to_half_of_one() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..8).map(|_| backoff.next(0.5).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 500, 500, 500, 500, 500]);
        backoff.reset();
        assert_eq!(backoff.next(0.0).as_millis(), 75);
        assert_eq!(Backoff::default().next(1.0).as_millis(), 125);
    }
}
