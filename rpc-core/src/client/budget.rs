//! How many retries a channel may make.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

const SLOTS: usize = 10;
const SLOT: Duration = Duration::from_secs(1);
/// Retries allowed beside the share of the calls.
const PER_SECOND: u64 = 10;
/// One retry for so many calls.
const CALLS_PER_RETRY: u64 = 10;

/// Allows retries up to 10 % of the calls of the last 10 seconds plus 10 a second.
#[derive(Debug)]
pub(crate) struct RetryBudget(Mutex<Window>);

#[derive(Debug)]
struct Window {
    calls: [u64; SLOTS],
    retries: [u64; SLOTS],
    current: usize,
    current_since: Instant,
}

impl RetryBudget {
    pub(crate) fn new(now: Instant) -> Self {
        Self(Mutex::new(Window {
            calls: [0; SLOTS],
            retries: [0; SLOTS],
            current: 0,
            current_since: now,
        }))
    }

    /// Counts a call.
    pub(crate) fn call(&self, now: Instant) {
        let mut window = self.lock();
        window.advance(now);
        let current = window.current;
        window.calls[current] += 1;
    }

    /// Takes a retry out of the budget if there is one.
    pub(crate) fn try_retry(&self, now: Instant) -> bool {
        let mut window = self.lock();
        window.advance(now);
        let calls: u64 = window.calls.iter().sum();
        let retries: u64 = window.retries.iter().sum();
        let allowed = calls / CALLS_PER_RETRY + PER_SECOND * SLOTS as u64;
        if retries >= allowed {
            return false;
        }
        let current = window.current;
        window.retries[current] += 1;
        true
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Window> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Window {
    fn advance(&mut self, now: Instant) {
        let mut steps = 0;
        while now.saturating_duration_since(self.current_since) >= SLOT {
            if steps == SLOTS {
                self.current_since = now;
                return;
            }
            steps += 1;
            self.current_since += SLOT;
            self.current = (self.current + 1) % SLOTS;
            self.calls[self.current] = 0;
            self.retries[self.current] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
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
}
