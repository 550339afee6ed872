//! What is known of an endpoint from the calls to it: [`Standing`].

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::tracker::{Attempt, AttemptEnd, CallTracker};
use crate::Code;

/// How fast an old latency is forgotten.
const DECAY: Duration = Duration::from_secs(10);
/// Latencies below this count as this much: differences of microseconds are noise, not load.
const FLOOR: Duration = Duration::from_millis(1);
/// A failure counts as this many times what the endpoint cost before …
const PENALTY: f64 = 8.0;
/// … but not as more than this.
const PENALTY_MAX: Duration = Duration::from_secs(1);
/// Over this time the rate of errors is measured.
const ERRORS: Duration = Duration::from_secs(1);

/// An endpoint that calls wait for is silent when it has said nothing for this long, or for three
/// times as long as its calls take.
const SILENCE: Duration = Duration::from_millis(250);
const SILENCE_LATENCIES: f64 = 3.0;

/// What failures in a row must add up to until an endpoint is avoided. A code that only a server that
/// is not well answers with counts twice.
const SUSPECT: u32 = 8;
const GRAVE: u32 = 2;
const SLIGHT: u32 = 1;

/// An avoided endpoint is tried again after this time …
const TRY_AFTER: Duration = Duration::from_secs(1);
/// … and as much later as its share of the calls demands, but not later than this.
const TRY_BY: Duration = Duration::from_secs(10);

/// What a balancer knows of one endpoint from the calls to it: how long good answers take, how many
/// calls are in flight, and whether it is to be avoided until it has proven itself.
///
/// It follows the calls as their [`CallTracker`]. An endpoint is avoided when it says nothing while
/// calls wait for it, and when it fails every call with codes that are its own fault. An answer of the
/// service, be it OK or a refusal of the request, ends that. Only OK is a latency; an error never is
/// a good one.
///
/// Values and their stamps are atomics apart: a reader that sees one of them older by a call is off by
/// what one call weighs, which a choice between endpoints can bear.
#[derive(Debug)]
pub struct Standing {
    origin: Instant,
    /// The peak-sensitive moving average of good answers in seconds, as the bits of an `f64`; zero as
    /// long as there was none.
    latency: AtomicU64,
    /// Nanoseconds since the origin at which `latency` held.
    latency_stamp: AtomicU64,
    /// Errors, each worth less as time passes, and how long they took; as the bits of an `f64`.
    errors: AtomicU64,
    errors_took: AtomicU64,
    errors_stamp: AtomicU64,
    /// The last answer was an error.
    erring: AtomicBool,
    /// Unary calls, from which an answer is expected, and others.
    waiting: AtomicUsize,
    streams: AtomicUsize,
    /// When there was an answer last, or the first of the waiting calls began if that is later.
    heard: AtomicU64,
    /// What failures in a row add up to.
    failures: AtomicU32,
    /// The last answer came after a silence.
    late: AtomicBool,
    /// When it has proven itself last: what began before says nothing of how fast it is now.
    proven: AtomicU64,
    /// How often it was passed over since it was tried last, and when it is tried next; zero while
    /// nobody has asked.
    passed: AtomicU32,
    next_try: AtomicU64,
}

impl Standing {
    /// An endpoint that nothing is known of.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            // A nanosecond back, so that no moment is zero.
            origin: now.checked_sub(Duration::from_nanos(1)).unwrap_or(now),
            latency: AtomicU64::new(0),
            latency_stamp: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            errors_took: AtomicU64::new(0),
            errors_stamp: AtomicU64::new(0),
            erring: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            heard: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            late: AtomicBool::new(false),
            proven: AtomicU64::new(0),
            passed: AtomicU32::new(0),
            next_try: AtomicU64::new(0),
        }
    }

    /// How long good answers take now, in seconds, at least a millisecond; nothing as long as there
    /// was none.
    #[must_use]
    pub fn latency(&self, now: Instant) -> Option<f64> {
        let value = f64::from_bits(self.latency.load(Ordering::Relaxed));
        if value == 0.0 {
            return None;
        }
        let age = self.age(now, &self.latency_stamp);
        Some((value * left(age, DECAY)).max(FLOOR.as_secs_f64()))
    }

    /// Whether its last answer was an error, so that its latency may be that of a time long past.
    #[must_use]
    pub fn is_erring(&self) -> bool {
        self.erring.load(Ordering::Relaxed)
    }

    /// The calls in flight if good answers took so many seconds. Calls that have failed fast count as
    /// if they had taken as long, so that failing is not the same as being idle.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // nobody has 2^52 calls in flight
    pub fn load(&self, latency: f64, now: Instant) -> f64 {
        let waiting = self.waiting.load(Ordering::Relaxed);
        let in_flight = (waiting + self.streams.load(Ordering::Relaxed)) as f64;
        let errors = f64::from_bits(self.errors.load(Ordering::Relaxed));
        if errors == 0.0 {
            return in_flight;
        }
        let rate = errors * left(self.age(now, &self.errors_stamp), ERRORS) / ERRORS.as_secs_f64();
        let took = f64::from_bits(self.errors_took.load(Ordering::Relaxed));
        in_flight + rate * (latency - took).max(0.0)
    }

    /// Whether calls should go elsewhere if they can.
    #[must_use]
    pub fn is_suspect(&self, now: Instant) -> bool {
        self.failures.load(Ordering::Relaxed) >= SUSPECT || self.is_silent(now)
    }

    /// Asked of an endpoint that is suspect when it would have been a call's turn: whether this call is
    /// to find out how it is. That is once in `turns` turns and a second, or in ten seconds.
    #[must_use]
    pub fn is_tried(&self, now: Instant, turns: u32) -> bool {
        let moment = self.moment(now);
        let due = self.next_try.load(Ordering::Relaxed);
        let next = moment.saturating_add(nanoseconds(TRY_AFTER));
        if due == 0 {
            self.next_try.store(next, Ordering::Relaxed);
            return false;
        }
        let passed = self
            .passed
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        let late = nanoseconds(TRY_BY - TRY_AFTER);
        if moment < due || (passed < turns && moment < due.saturating_add(late)) {
            return false;
        }
        // Of several that ask at once, one goes.
        let taken = self
            .next_try
            .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed);
        if taken.is_ok() {
            self.passed.store(0, Ordering::Relaxed);
        }
        taken.is_ok()
    }

    /// Whether it has said nothing for longer than calls that wait for it should take.
    fn is_silent(&self, now: Instant) -> bool {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let age = self.age(now, &self.heard);
        age >= SILENCE && age >= self.patience(now)
    }

    /// How long it may say nothing.
    fn patience(&self, now: Instant) -> Duration {
        let latency = self.latency(now).unwrap_or(0.0);
        SILENCE.max(Duration::from_secs_f64(
            (latency * SILENCE_LATENCIES).min(3600.0),
        ))
    }

    fn moment(&self, now: Instant) -> u64 {
        nanoseconds(now.saturating_duration_since(self.origin))
    }

    fn age(&self, now: Instant, stamp: &AtomicU64) -> Duration {
        let stamp = stamp.load(Ordering::Relaxed);
        Duration::from_nanos(self.moment(now).saturating_sub(stamp))
    }

    /// An answer, whatever it says.
    fn on_answer(&self, now: Instant) {
        self.heard.store(self.moment(now), Ordering::Relaxed);
        if self.next_try.load(Ordering::Relaxed) != 0 {
            self.next_try.store(0, Ordering::Relaxed);
            self.passed.store(0, Ordering::Relaxed);
        }
    }

    /// The service is there.
    fn prove(&self, now: Instant) {
        if self.failures.load(Ordering::Relaxed) == 0 {
            return;
        }
        if self.failures.swap(0, Ordering::Relaxed) >= SUSPECT {
            self.proven.store(self.moment(now), Ordering::Relaxed);
            self.latency.store(0, Ordering::Relaxed);
            self.errors.store(0, Ordering::Relaxed);
        }
    }

    fn on_good_answer(&self, attempt: &Attempt, now: Instant) {
        let late = self.is_silent(now);
        self.prove(now);
        self.on_answer(now);
        if self.is_erring() {
            self.erring.store(false, Ordering::Relaxed);
        }
        let late_again = if late || self.late.load(Ordering::Relaxed) {
            self.late.swap(late, Ordering::Relaxed)
        } else {
            false
        };
        if late && !late_again && self.latency(now).is_some() {
            // It took this long because the endpoint stood still, and those that began meanwhile did
            // too. When the next one takes as long, it is slow.
            self.proven.store(self.moment(now), Ordering::Relaxed);
            return;
        }
        if self.moment(attempt.began) >= self.proven.load(Ordering::Relaxed) {
            let took = now.saturating_duration_since(attempt.began);
            self.observe(now, took.as_secs_f64());
        }
    }

    fn on_error(&self, attempt: &Attempt, now: Instant) {
        self.on_answer(now);
        self.erring.store(true, Ordering::Relaxed);
        let took = now.saturating_duration_since(attempt.began).as_secs_f64();
        let before = f64::from_bits(self.errors.load(Ordering::Relaxed));
        let before = before * left(self.age(now, &self.errors_stamp), ERRORS);
        let known = f64::from_bits(self.errors_took.load(Ordering::Relaxed));
        let mean = known + (took - known) / (before + 1.0);
        self.errors
            .store((before + 1.0).to_bits(), Ordering::Relaxed);
        self.errors_took.store(mean.to_bits(), Ordering::Relaxed);
        self.errors_stamp.store(self.moment(now), Ordering::Relaxed);
    }

    /// Something that is the endpoint's fault.
    fn on_failure(&self, attempt: &Attempt, now: Instant, gravity: u32) {
        // What began before it has proven itself says nothing of it now.
        if self.moment(attempt.began) < self.proven.load(Ordering::Relaxed) {
            return;
        }
        if self.failures.load(Ordering::Relaxed) < SUSPECT {
            self.failures.fetch_add(gravity, Ordering::Relaxed);
        }
        let Some(latency) = self.latency(now) else {
            return;
        };
        let took = now.saturating_duration_since(attempt.began).as_secs_f64();
        let penalty = (latency * PENALTY).min(PENALTY_MAX.as_secs_f64());
        self.observe(now, took.min(PENALTY_MAX.as_secs_f64()).max(penalty));
    }

    fn suspect(&self) {
        self.failures.fetch_max(SUSPECT, Ordering::Relaxed);
    }

    fn observe(&self, now: Instant, sample: f64) {
        let age = self.age(now, &self.latency_stamp);
        let value = match self.latency(now) {
            // `before` has sunk already: what time took away the sample fills up.
            Some(before) if sample < before => before + sample * (1.0 - left(age, DECAY)),
            _ => sample,
        };
        let value = value.max(FLOOR.as_secs_f64());
        self.latency.store(value.to_bits(), Ordering::Relaxed);
        self.latency_stamp
            .store(self.moment(now), Ordering::Relaxed);
    }
}

/// What is left of a value after this time.
fn left(age: Duration, decay: Duration) -> f64 {
    (-age.as_secs_f64() / decay.as_secs_f64()).exp()
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// How much a code says against the endpoint that answers with it; nothing when it is about the
/// request, or what the caller wants.
fn gravity(code: Code) -> Option<u32> {
    match code {
        Code::Unavailable | Code::Unimplemented | Code::DataLoss => Some(GRAVE),
        Code::Unknown
        | Code::Internal
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Unauthenticated => Some(SLIGHT),
        _ => None,
    }
}

impl CallTracker for Standing {
    fn started(&self, attempt: &Attempt) {
        if !attempt.is_unary {
            self.streams.fetch_add(1, Ordering::Relaxed);
        } else if self.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
            let began = self.moment(attempt.began);
            self.heard.fetch_max(began, Ordering::Relaxed);
        }
    }

    fn answered(&self, attempt: &Attempt, now: Instant) {
        self.on_good_answer(attempt, now);
    }

    fn overdue_at(&self, attempt: &Attempt, now: Instant, most: Duration) -> Option<Instant> {
        let heard = self.origin + Duration::from_nanos(self.heard.load(Ordering::Relaxed));
        Some(heard.max(attempt.began) + self.patience(now).min(most))
    }

    fn overdue(&self, _attempt: &Attempt, _now: Instant) {
        self.suspect();
    }

    fn finished(&self, attempt: &Attempt, now: Instant, end: AttemptEnd) {
        match end {
            AttemptEnd::Answered(Code::Ok) if attempt.answered => self.on_answer(now),
            AttemptEnd::Answered(Code::Ok) => self.on_good_answer(attempt, now),
            AttemptEnd::Answered(code) => {
                self.on_error(attempt, now);
                match gravity(code) {
                    Some(gravity) => self.on_failure(attempt, now, gravity),
                    None => self.prove(now),
                }
            }
            AttemptEnd::Refused => {
                self.on_error(attempt, now);
                self.on_failure(attempt, now, SLIGHT);
            }
            AttemptEnd::Lost => self.on_failure(attempt, now, GRAVE),
            AttemptEnd::Expired if attempt.answered => {}
            AttemptEnd::Expired if self.is_silent(now) => self.suspect(),
            AttemptEnd::Expired => self.on_failure(attempt, now, GRAVE),
            // Giving up says nothing of the endpoint, its silence until then does.
            AttemptEnd::Abandoned if attempt.is_unary && self.is_silent(now) => {
                self.on_failure(attempt, now, GRAVE);
            }
            AttemptEnd::Abandoned | AttemptEnd::Unsent => {}
        }
        let counted = if attempt.is_unary {
            &self.waiting
        } else {
            &self.streams
        };
        counted.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
