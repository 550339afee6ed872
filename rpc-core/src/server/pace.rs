//! Whether the calls of a method run in place on their connection or as tasks.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How the handlers of a service are run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dispatch {
    /// Handlers that have shown to be fast run in place, on the task of their connection; one that
    /// waits goes on as a task of its own, and one that was slow starts as a task from then on.
    #[default]
    Adaptive,
    /// Each call is a task. For handlers that are fast most of the time and sometimes busy for long.
    Task,
}

/// A poll that takes longer than this would hold up the connection.
pub(crate) const SLOW: Duration = Duration::from_millis(1);
/// So many fast polls promote a method for the first time.
const FIRST: u32 = 16;
/// However often it was slow, so many promote it again.
const MOST: u32 = 1 << 20;

/// What is known of the polls of one method, on all connections.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Fast polls since the last slow one.
    fast: AtomicU32,
    /// How many it takes; twice as many after each slow one.
    needed: AtomicU32,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            fast: AtomicU32::new(0),
            needed: AtomicU32::new(FIRST),
        }
    }
}

impl Pace {
    /// Whether the next call runs in place.
    pub(crate) fn is_in_place(&self) -> bool {
        self.fast.load(Ordering::Relaxed) >= self.needed.load(Ordering::Relaxed)
    }

    /// Takes in how long the first poll of a task took.
    pub(crate) fn polled(&self, took: Duration) {
        if took >= SLOW {
            self.slow();
        } else if self.fast.load(Ordering::Relaxed) < MOST {
            self.fast.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A poll was slow.
    pub(crate) fn slow(&self) {
        if self.is_in_place() {
            let needed = self.needed.load(Ordering::Relaxed);
            self.needed
                .store(needed.saturating_mul(2).min(MOST), Ordering::Relaxed);
        }
        self.fast.store(0, Ordering::Relaxed);
    }

    /// Never runs in place.
    pub(crate) fn forbid(&self) {
        self.needed.store(u32::MAX, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_polls_promote_and_a_slow_one_demotes_for_longer_each_time() {
        let pace = Pace::default();
        for round in 0..5 {
            let mut polls = 0;
            while !pace.is_in_place() {
                pace.polled(Duration::from_micros(1));
                polls += 1;
            }
            assert_eq!(polls, FIRST << round);
            pace.slow();
            assert!(!pace.is_in_place());
        }
        pace.forbid();
        for _ in 0..10_000_000 {
            pace.polled(Duration::ZERO);
        }
        assert!(!pace.is_in_place());
    }
}
