//! The wait between attempts that fail: [`Backoff`].

use std::time::Duration;

/// From this wait on, and up to that one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) floor: Duration,
    pub(crate) ceiling: Duration,
}

impl Range {
    /// What connecting takes unless a channel is told otherwise.
    pub(crate) const CONNECT: Self = Self {
        floor: Duration::from_secs(1),
        ceiling: Duration::from_secs(120),
    };
    /// What asking a resolver takes: it begins earlier, since nothing can be called meanwhile.
    pub(crate) const RESOLVE: Self = Self {
        floor: Duration::from_millis(100),
        ceiling: Duration::from_secs(30),
    };
}

/// Waits that grow by 1.6 each, give or take a fifth, from one start of an attempt to the next.
///
/// Source: <https://github.com/grpc/grpc/blob/master/doc/connection-backoff.md>.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    range: Range,
    failures: i32,
}

impl Backoff {
    pub(crate) fn new(range: Range) -> Self {
        Self { range, failures: 0 }
    }

    /// The next wait, by a random number from 0 to 1.
    pub(crate) fn next(&mut self, random: f64) -> Duration {
        let (floor, ceiling) = (
            self.range.floor.as_secs_f64(),
            self.range.ceiling.as_secs_f64(),
        );
        let base = (floor * 1.6f64.powi(self.failures)).min(ceiling.max(floor));
        self.failures = self.failures.saturating_add(1);
        Duration::from_secs_f64(base * (0.8 + 0.4 * random))
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_to_two_minutes_with_jitter() {
        let mut backoff = Backoff::new(Range::CONNECT);
        let waits: Vec<f64> = (0..15).map(|_| backoff.next(0.5).as_secs_f64()).collect();
        assert!(
            (waits[0] - 1.0).abs() < 1e-9
                && (waits[1] - 1.6).abs() < 1e-9
                && (waits[2] - 2.56).abs() < 1e-9
        );
        assert!((waits[14] - 120.0).abs() < 1e-9);
        backoff.reset();
        assert_eq!(backoff.next(0.0), Duration::from_millis(800));
        backoff.reset();
        assert_eq!(backoff.next(1.0), Duration::from_millis(1200));
    }

    #[test]
    fn it_stays_within_what_it_is_told() {
        let (floor, ceiling) = (Duration::from_millis(50), Duration::from_millis(100));
        let mut backoff = Backoff::new(Range { floor, ceiling });
        let waits: Vec<_> = (0..4).map(|_| backoff.next(0.5).as_millis()).collect();
        assert_eq!(waits, [50, 80, 100, 100]);
    }
}
