//! How many retries a channel may make.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// The window, in seconds.
const SLOTS: usize = 10;
/// Retries allowed beside the share of the calls.
const PER_SECOND: u64 = 10;
/// One retry for so many calls.
const CALLS_PER_RETRY: u64 = 10;

/// Allows retries up to 10 % of the calls of the last 10 seconds plus 10 a second.
///
/// Calls come from all threads, and each is one addition; only retries, which are few, take turns.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    start: Instant,
    /// For each second of the window which one it is, above, and its calls, below.
    calls: [AtomicU64; SLOTS],
    /// The same of the retries.
    retries: Mutex<[(u64, u64); SLOTS]>,
}

impl RetryBudget {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            start: now,
            calls: Default::default(),
            retries: Mutex::default(),
        }
    }

    /// Counts a call.
    pub(crate) fn call(&self, now: Instant) {
        let second = self.second(now);
        let slot = &self.calls[place(second)];
        let mut counted = slot.load(Ordering::Relaxed);
        loop {
            if second_of(counted) == second {
                slot.fetch_add(1, Ordering::Relaxed);
                return;
            }
            if second_of(counted) > second {
                // Another thread is ahead by a whole window; a call less makes no difference.
                return;
            }
            let first = (second << 32) | 1;
            match slot.compare_exchange(counted, first, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) => counted = other,
            }
        }
    }

    /// Takes a retry out of the budget if there is one.
    pub(crate) fn try_retry(&self, now: Instant) -> bool {
        let second = self.second(now);
        let recent = |other: u64| other <= second && second - other < SLOTS as u64;
        let mut retries = self.lock();
        let calls: u64 = self
            .calls
            .iter()
            .map(|slot| slot.load(Ordering::Relaxed))
            .filter(|counted| recent(second_of(*counted)))
            .map(|counted| counted & u64::from(u32::MAX))
            .sum();
        let made: u64 = retries
            .iter()
            .filter(|(other, _)| recent(*other))
            .map(|(_, count)| count)
            .sum();
        if made >= calls / CALLS_PER_RETRY + PER_SECOND * SLOTS as u64 {
            return false;
        }
        let slot = &mut retries[place(second)];
        if slot.0 != second {
            *slot = (second, 0);
        }
        slot.1 += 1;
        true
    }

    /// The number of a second, so large that none is that of a slot which was never used.
    fn second(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.start).as_secs();
        since.min(u64::from(u32::MAX) - SLOTS as u64) + SLOTS as u64
    }

    fn lock(&self) -> MutexGuard<'_, [(u64, u64); SLOTS]> {
        self.retries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn second_of(counted: u64) -> u64 {
    counted >> 32
}

fn place(second: u64) -> usize {
    (second % SLOTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_tenth_of_the_calls_and_a_floor() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        let granted = (0..500).filter(|_| budget.try_retry(start)).count();
        assert_eq!(granted, 100);
        let later = start + Duration::from_secs(60);
        for _ in 0..1000 {
            budget.call(later);
        }
        let granted = (0..1000).filter(|_| budget.try_retry(later)).count();
        assert_eq!(granted, 200);
    }

    #[test]
    fn retries_come_back_as_the_window_moves() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        while budget.try_retry(start) {}
        assert!(!budget.try_retry(start + Duration::from_millis(9_900)));
        assert!(budget.try_retry(start + Duration::from_millis(10_000)));
    }

    #[test]
    fn calls_of_all_threads_count() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for call in 0..10_000u64 {
                        budget.call(start + Duration::from_micros(call * 200));
                    }
                });
            }
        });
        let later = start + Duration::from_secs(2);
        let granted = (0..10_000).filter(|_| budget.try_retry(later)).count();
        assert_eq!(granted, 4_000 + 100);
    }
}
