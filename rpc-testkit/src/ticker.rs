//! How long the machine stood still: [`Ticker`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_millis(1);
/// A tick that comes later than this is a stall; the scheduler's usual lateness is not.
const STALL: Duration = Duration::from_millis(4);

/// A thread that does nothing but look at the clock.
///
/// When it is late, the machine was: a test that measures time subtracts what it saw, or its
/// bound would be about the neighbours on the machine.
#[derive(Debug)]
pub struct Ticker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stalls: Mutex<Vec<(Instant, Instant)>>,
    ended: AtomicBool,
}

impl Ticker {
    /// Starts looking.
    #[must_use]
    pub fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.tick()
        });
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// A ticker that has seen these stalls and looks no more.
    #[must_use]
    pub fn of(stalls: Vec<(Instant, Instant)>) -> Self {
        let shared = Shared {
            stalls: Mutex::new(stalls),
            ended: AtomicBool::new(true),
        };
        Self {
            shared: Arc::new(shared),
            thread: None,
        }
    }

    /// What is to be said of the machine between these two moments: nothing, or for how long it stood
    /// still.
    #[must_use]
    pub fn remark(&self, from: Instant, to: Instant) -> Option<String> {
        let stalled = self.stalled(from, to);
        let all = to.saturating_duration_since(from);
        (stalled > Duration::ZERO).then(|| {
            format!(
                "the machine stood still for {stalled:.1?} of {all:.1?}: what took its time then says little"
            )
        })
    }

    /// The time between these two moments that the machine stood still.
    #[must_use]
    pub fn stalled(&self, from: Instant, to: Instant) -> Duration {
        let stalls = self
            .shared
            .stalls
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        overlap(&stalls, from, to)
    }

    /// The time since a moment, less the time that the machine stood still.
    #[must_use]
    pub fn elapsed(&self, since: Instant) -> Duration {
        let now = Instant::now();
        now.saturating_duration_since(since)
            .saturating_sub(self.stalled(since, now))
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It can only have panicked in a lock that is not poisoned.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn tick(&self) {
        let mut last = Instant::now();
        while !self.ended.load(Ordering::Relaxed) {
            std::thread::sleep(PERIOD);
            let now = Instant::now();
            if now.duration_since(last) > STALL {
                let mut stalls = self.stalls.lock().unwrap_or_else(PoisonError::into_inner);
                stalls.push((last + PERIOD, now));
            }
            last = now;
        }
    }
}

fn overlap(stalls: &[(Instant, Instant)], from: Instant, to: Instant) -> Duration {
    stalls
        .iter()
        .map(|(start, end)| (*end).min(to).saturating_duration_since((*start).max(from)))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_between_counts() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let stalls = [(at(10), at(20)), (at(30), at(50))];
        let between = |from, to| overlap(&stalls, at(from), at(to)).as_millis();
        assert_eq!(between(0, 100), 30);
        assert_eq!(between(15, 40), 15);
        assert_eq!(between(20, 30), 0);
        assert_eq!(between(60, 100), 0);
    }

    #[test]
    fn only_a_machine_that_stood_still_is_remarked_on() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let ticker = Ticker::of(vec![(at(10), at(260))]);
        assert_eq!(ticker.remark(at(300), at(400)), None);
        assert_eq!(
            ticker.remark(at(0), at(2_000)).unwrap(),
            "the machine stood still for 250.0ms of 2.0s: what took its time then says little"
        );
    }

    #[test]
    fn elapsed_is_never_more_than_the_clock_says() {
        let ticker = Ticker::start();
        let start = Instant::now();
        assert!(ticker.elapsed(start) <= start.elapsed());
    }
}
