//! The wait between attempts to reach a registry: [`Backoff`].

use std::time::Duration;

/// The longest wait for a registry that cannot be reached: short, because with one that is back a
/// new server should have its first call within a second and the others be known within three.
pub(crate) const UNREACHABLE: Duration = Duration::from_secs(1);
/// The longest wait for a registry that answers and refuses: trying again is of little use there,
/// and many who do it are a burden.
pub(crate) const REFUSED: Duration = Duration::from_secs(30);

/// 100 ms, doubled each time up to a bound, and half of it at random, so that the many clients of a
/// registry that is back do not come all at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next wait, at most this long, by a random number from 0 to 1.
    pub(crate) fn next(&mut self, most: Duration, random: f64) -> Duration {
        let doubled = Duration::from_millis(100) * (1 << self.failures.min(9));
        self.failures = self.failures.saturating_add(1);
        doubled
            .min(most)
            .mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0))
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_to_its_bound_and_half_of_it_is_random() {
        let mut backoff = Backoff::default();
        let mut next = |most, random| backoff.next(most, random).as_millis();
        let waits: Vec<_> = (0..6).map(|_| next(UNREACHABLE, 1.0)).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(next(UNREACHABLE, 0.0), 500);
        assert_eq!(next(REFUSED, 1.0), 12_800);
        assert_eq!(next(REFUSED, 1.0), 25_600);
        assert_eq!((0..9).map(|_| next(REFUSED, 1.0)).max(), Some(30_000));
        backoff.reset();
        assert_eq!(backoff.next(REFUSED, 0.0).as_millis(), 50);
    }
}
