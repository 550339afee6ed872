//! How many retries a channel may make.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// The window, in seconds.
const SLOTS: usize = 10;
/// A call that succeeds earns a tenth of a retry, and everything is counted in tenths.
const RETRY: u64 = 10;
/// Two retries: what a channel starts with, and what one with few calls may save.
const RESERVE: u64 = 2 * RETRY;
/// Retries of answered calls that are allowed within two seconds, however few calls there are.
const FEW: u64 = 2;

/// Allows one retry for ten calls that have succeeded, of which those of the last ten seconds can be
/// saved up, or two retries.
///
/// When everything fails, nothing is earned, so that what is saved ends: over time a channel makes at
/// most 1.1 attempts a call, at any rate. What a server has answered is repeated no faster than that
/// either, so that the savings of a busy channel are no burst; what was lost with a connection or a
/// silent server is repeated at once, since it is one endpoint's trouble and others wait for it.
///
/// Successes come from all threads, and each is one addition; only retries, which are few, take turns.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    start: Instant,
    /// For each second of the window which one it is, above, and its successes, below.
    successes: [AtomicU64; SLOTS],
    /// Successes that have left the window.
    older: AtomicU64,
    savings: Mutex<Savings>,
}

#[derive(Debug)]
struct Savings {
    /// Tenths of retries.
    saved: u64,
    /// How many successes are counted in it.
    counted: u64,
    /// The last second with retries of answered calls, how many they were, and how many those of the
    /// second before.
    second: u64,
    now: u64,
    before: u64,
}

impl RetryBudget {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            start: now,
            successes: Default::default(),
            older: AtomicU64::new(0),
            savings: Mutex::new(Savings {
                saved: RESERVE,
                counted: 0,
                second: 0,
                now: 0,
                before: 0,
            }),
        }
    }

    /// Counts a call that has succeeded.
    pub(crate) fn succeeded(&self, now: Instant) {
        let second = self.second(now);
        let slot = &self.successes[place(second)];
        let mut counted = slot.load(Ordering::Relaxed);
        loop {
            if second_of(counted) == second {
                slot.fetch_add(1, Ordering::Relaxed);
                return;
            }
            if second_of(counted) > second {
                // It began before the window.
                self.older.fetch_add(1, Ordering::Relaxed);
                return;
            }
            let first = (second << 32) | 1;
            match slot.compare_exchange(counted, first, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    self.older.fetch_add(count_of(counted), Ordering::Relaxed);
                    return;
                }
                Err(other) => counted = other,
            }
        }
    }

    /// Takes a retry out of the budget if there is one; `answered` when a server has said that the
    /// call failed.
    pub(crate) fn try_retry(&self, now: Instant, answered: bool) -> bool {
        let second = self.second(now);
        let within = |seconds: u64| {
            let slots = self
                .successes
                .iter()
                .map(|slot| slot.load(Ordering::Relaxed));
            let recent = slots.filter(|counted| second_of(*counted) + seconds > second);
            recent.map(count_of).sum::<u64>()
        };
        let mut savings = self.lock();
        let total = within(u64::MAX / 2) + self.older.load(Ordering::Relaxed);
        let earned = total.saturating_sub(savings.counted);
        savings.counted = savings.counted.max(total);
        let most = within(SLOTS as u64).max(RESERVE);
        savings.saved = savings.saved.saturating_add(earned).min(most);
        if savings.saved < RETRY {
            return false;
        }
        if answered {
            savings.turn_to(second);
            if savings.now + savings.before >= (within(2) / RETRY).max(FEW) {
                return false;
            }
            savings.now += 1;
        }
        savings.saved -= RETRY;
        true
    }

    /// The number of a second, so large that none is that of a slot which was never used.
    fn second(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.start).as_secs();
        since.min(u64::from(u32::MAX) - SLOTS as u64) + SLOTS as u64
    }

    fn lock(&self) -> MutexGuard<'_, Savings> {
        self.savings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Savings {
    fn turn_to(&mut self, second: u64) {
        if second > self.second {
            self.before = if second == self.second + 1 {
                self.now
            } else {
                0
            };
            self.now = 0;
            self.second = second;
        }
    }
}

fn second_of(counted: u64) -> u64 {
    counted >> 32
}

fn count_of(counted: u64) -> u64 {
    counted & u64::from(u32::MAX)
}

fn place(second: u64) -> usize {
    (second % SLOTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Retries granted when each failed call asks for two, at so many calls a second.
    fn granted(budget: &RetryBudget, from: Instant, rate: u32, seconds: u32) -> u32 {
        let calls = 0..rate * seconds;
        let asked = calls.flat_map(|call| [call, call]);
        let times = asked.map(|call| from + Duration::from_secs(1) * call / rate);
        times.filter(|now| budget.try_retry(*now, true)).count() as u32
    }

    fn succeed(budget: &RetryBudget, from: Instant, rate: u32, seconds: u32) {
        for call in 0..rate * seconds {
            budget.succeeded(from + Duration::from_secs(1) * call / rate);
        }
    }

    #[test]
    fn when_everything_fails_there_are_1_1_attempts_a_call_at_every_rate() {
        for rate in [1, 5, 50, 300, 5_000] {
            let start = Instant::now();
            let cold = granted(&RetryBudget::new(start), start, rate, 20);
            assert!(cold <= rate * 2, "{rate} a second: {cold}");
            let budget = RetryBudget::new(start);
            succeed(&budget, start, rate, 60);
            let failing = start + Duration::from_secs(60);
            let warm = granted(&budget, failing, rate, 20);
            assert!(warm <= rate * 2, "{rate} a second: {warm}");
        }
    }

    #[test]
    fn what_a_busy_channel_has_saved_is_no_burst() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        succeed(&budget, start, 1_000, 30);
        for second in 30..40 {
            let from = start + Duration::from_secs(second);
            let granted = granted(&budget, from, 1_000, 1);
            assert!(granted <= 100, "{granted} in second {second}");
        }
    }

    #[test]
    fn what_a_lost_connection_took_with_it_is_repeated_at_once() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        succeed(&budget, start, 1_000, 30);
        let now = start + Duration::from_secs(30);
        let granted = (0..2_000).filter(|_| budget.try_retry(now, false)).count();
        assert!((900..=1_000).contains(&granted), "{granted}");
    }

    #[test]
    fn a_quiet_channel_repeats_a_call_that_fails_now_and_then() {
        let mut now = Instant::now();
        let budget = RetryBudget::new(now);
        for _ in 0..10 {
            assert!(budget.try_retry(now, true) && budget.try_retry(now, true));
            for _ in 0..20 {
                now += Duration::from_secs(60);
                budget.succeeded(now);
            }
        }
    }

    #[test]
    fn a_third_that_fails_gets_a_tenth_of_retries() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        let mut retries = 0;
        for call in 0..30_000u32 {
            let now = start + Duration::from_millis(u64::from(call));
            if call % 3 == 0 {
                retries += u32::from(budget.try_retry(now, true));
            } else {
                budget.succeeded(now);
            }
        }
        assert!((1_900..=2_010).contains(&retries), "{retries}");
    }

    #[test]
    fn successes_of_all_threads_count() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for call in 0..10_000u64 {
                        budget.succeeded(start + Duration::from_micros(call * 2_000));
                    }
                });
            }
        });
        let later = start + Duration::from_secs(20);
        let granted = (0..10_000)
            .filter(|_| budget.try_retry(later, false))
            .count();
        assert!((1_800..=2_000).contains(&granted), "{granted}");
    }
}
