//! How many events there were of late.

use std::time::{Duration, Instant};

use crate::config::Rate;

/// Into how many parts the time is divided.
const PARTS: u32 = 10;

/// Counts events in a sliding window of time, by tenths of it.
#[derive(Debug, Default)]
pub(crate) struct RateCounter {
    /// For each part of the time: which one since the beginning it is, and its count.
    counts: [(u32, u32); PARTS as usize],
    now: u32,
}

impl RateCounter {
    /// Counts an event that happened so long after the beginning; whether there are too many now.
    pub(crate) fn count(&mut self, rate: Rate, since_start: Duration) -> bool {
        self.add(rate, since_start);
        self.total() >= rate.events
    }

    fn add(&mut self, rate: Rate, since_start: Duration) {
        self.advance(rate.per, since_start);
        let place = self.now.checked_rem(PARTS).unwrap_or(0) as usize;
        if let Some((part, count)) = self.counts.get_mut(place) {
            if *part != self.now {
                (*part, *count) = (self.now, 0);
            }
            *count = count.saturating_add(1);
        }
    }

    /// How many there were in the time before the last look.
    fn total(&self) -> u32 {
        self.counts
            .iter()
            .filter(|(part, _)| self.now.saturating_sub(*part) < PARTS)
            .fold(0, |total, (_, count)| total.saturating_add(*count))
    }

    /// Looks at the time.
    fn advance(&mut self, per: Duration, since_start: Duration) {
        let part = (per.as_millis() as u64)
            .checked_div(u64::from(PARTS))
            .unwrap_or(0)
            .max(1);
        let now = (since_start.as_millis() as u64)
            .checked_div(part)
            .unwrap_or(0);
        self.now = self.now.max(now as u32);
    }
}

/// What is taken away for an event that counts in full, so that others can count for a part.
pub(crate) const WHOLE: u64 = 1_000_000;

/// Lets so many events through at once, and as many again in each period after that.
#[derive(Debug, Default)]
pub(crate) struct TokenBucket {
    /// What is missing from a full bucket, in parts of [`WHOLE`].
    missing: u64,
    /// When it was looked at.
    seen: Duration,
}

impl TokenBucket {
    /// Takes out what an event counts for, so long after the beginning; false when there was not as
    /// much.
    pub(crate) fn take(&mut self, rate: Rate, counts: u64, since_start: Duration) -> bool {
        let passed = since_start.saturating_sub(self.seen);
        self.seen = self.seen.max(since_start);
        let capacity = u64::from(rate.events).saturating_mul(WHOLE);
        let per = rate.per.as_nanos().max(1);
        let back = passed.as_nanos().saturating_mul(u128::from(capacity));
        let back = back.checked_div(per).unwrap_or(0);
        self.missing = self
            .missing
            .saturating_sub(u64::try_from(back).unwrap_or(u64::MAX))
            .saturating_add(counts);
        self.missing < capacity
    }

    /// Gives something back, up to what it holds.
    pub(crate) fn give(&mut self, counts: u64) {
        self.missing = self.missing.saturating_sub(counts);
    }
}

/// How much time has passed since a beginning.
///
/// Many events of one read have the same time, which is subtracted once for all of them.
#[derive(Debug)]
pub(crate) struct Clock {
    pub(crate) start: Instant,
    last: (Instant, Duration),
}

impl Clock {
    pub(crate) fn new(start: Instant) -> Self {
        Self {
            start,
            last: (start, Duration::ZERO),
        }
    }

    #[inline]
    pub(crate) fn since(&mut self, now: Instant) -> Duration {
        if self.last.0 != now {
            self.last = (now, now.saturating_duration_since(self.start));
        }
        self.last.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        events: 100,
        per: Duration::from_secs(10),
    };

    #[test]
    fn a_burst_is_too_much_and_a_trickle_is_not() {
        let mut counter = RateCounter::default();
        let full = (0..100)
            .filter(|_| counter.count(RATE, Duration::from_secs(3)))
            .count();
        assert_eq!(full, 1);
        let mut counter = RateCounter::default();
        for event in 0..100_000u64 {
            assert!(
                !counter.count(RATE, Duration::from_millis(event * 115)),
                "{event}"
            );
        }
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let mut counter = RateCounter::default();
        for _ in 0..99 {
            assert!(!counter.count(RATE, Duration::from_secs(1)));
        }
        assert!(!counter.count(RATE, Duration::from_secs(12)));
        assert_eq!(counter.total(), 1);
    }
    /// 100 at once, and 10 a second.
    #[test]
    fn a_bucket_gives_what_it_holds_and_then_what_comes_back() {
        let ms = Duration::from_millis;
        let mut bucket = TokenBucket::default();
        let at_once = (0..1000).take_while(|_| bucket.take(RATE, WHOLE, ms(5)));
        assert_eq!(at_once.count(), 99);
        let mut bucket = TokenBucket::default();
        assert!((0..10_000).all(|event| bucket.take(RATE, WHOLE, ms(event * 100))));
        assert!((0..99).all(|_| bucket.take(RATE, WHOLE, ms(2_000_000))));
        // A tenth of the weight at ten times the rate.
        let mut bucket = TokenBucket::default();
        assert!((0..100_000).all(|event| bucket.take(RATE, WHOLE / 10, ms(event * 10))));
        // Twice the rate is too much for ever, however long it takes.
        let mut bucket = TokenBucket::default();
        let taken = (0..10_000).take_while(|event| bucket.take(RATE, WHOLE, ms(event * 50)));
        assert_eq!(taken.count(), 198);
    }
}
