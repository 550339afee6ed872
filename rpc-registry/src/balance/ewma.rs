//! What calls to one endpoint cost: [`Cost`].

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use rpc_core::Code;
use rpc_core::client::CallTracker;
use tokio::time::Instant;

/// How fast an old latency is forgotten.
pub(crate) const DECAY: Duration = Duration::from_secs(10);
/// Latencies below this count as this much: differences of microseconds are noise, not load.
pub(crate) const FLOOR: Duration = Duration::from_millis(1);
/// A failure counts as this many times what the endpoint cost before …
const PENALTY: f64 = 8.0;
/// … but not as more than this, so that an endpoint that has recovered comes back within a minute.
const PENALTY_MAX: Duration = Duration::from_secs(1);

/// The peak-sensitive moving average of an endpoint's latency, and its calls in flight.
///
/// A latency above the average replaces it; one below pulls it down with a half-life of seconds.
/// The average sinks with time, so that an endpoint nobody calls is tried again.
///
/// Value and stamp are two atomics: a reader that sees one of them older by a call is off by what
/// one call weighs, which a choice between two endpoints can bear.
#[derive(Debug)]
pub(crate) struct Cost {
    origin: Instant,
    /// Seconds, as the bits of an `f64`.
    latency: AtomicU64,
    /// Nanoseconds since the origin at which `latency` held.
    stamp: AtomicU64,
    in_flight: AtomicUsize,
}

impl Cost {
    /// An endpoint whose calls are thought to take this long.
    pub(crate) fn new(latency: f64, now: Instant) -> Self {
        let latency = AtomicU64::new(latency.max(FLOOR.as_secs_f64()).to_bits());
        Self {
            origin: now,
            latency,
            stamp: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
        }
    }

    fn nanoseconds(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX)
    }

    /// The average now, in seconds.
    pub(crate) fn latency(&self, now: Instant) -> f64 {
        let value = f64::from_bits(self.latency.load(Ordering::Relaxed));
        let age = self
            .nanoseconds(now)
            .saturating_sub(self.stamp.load(Ordering::Relaxed));
        (value * weight_of(Duration::from_nanos(age))).max(FLOOR.as_secs_f64())
    }

    /// What one more call costs: the latency times the calls that it shares the endpoint with.
    pub(crate) fn of_one_more(&self, now: Instant) -> f64 {
        #[allow(clippy::cast_precision_loss)] // nobody has 2^52 calls in flight
        let sharing = (self.in_flight.load(Ordering::Relaxed) + 1) as f64;
        self.latency(now) * sharing
    }

    fn observe(&self, now: Instant, sample: f64) {
        let before = self.latency(now);
        let stamp = self.nanoseconds(now);
        let age = stamp.saturating_sub(self.stamp.load(Ordering::Relaxed));
        let kept = weight_of(Duration::from_nanos(age));
        let value = if sample >= before {
            sample
        } else {
            // `before` has sunk by `kept` already: what time took away the sample fills up.
            (before + sample * (1.0 - kept)).max(FLOOR.as_secs_f64())
        };
        self.latency.store(value.to_bits(), Ordering::Relaxed);
        self.stamp.store(stamp, Ordering::Relaxed);
    }
}

/// What is left of a value after this time.
fn weight_of(age: Duration) -> f64 {
    (-age.as_secs_f64() / DECAY.as_secs_f64()).exp()
}

/// Whether a call that ended so says something bad of the endpoint, not of the request.
fn is_failure(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::ResourceExhausted
            | Code::DeadlineExceeded
            | Code::Internal
            | Code::Unknown
    )
}

impl CallTracker for Cost {
    fn started(&self, _now: Instant) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    fn finished(&self, now: Instant, latency: Duration, code: Code) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let (took, before) = (latency.as_secs_f64(), self.latency(now));
        if is_failure(code) {
            self.observe(
                now,
                took.max((before * PENALTY).min(PENALTY_MAX.as_secs_f64())),
            );
        } else if code != Code::Cancelled || took > before {
            // A cancelled call would have taken longer: it can only make the average worse.
            self.observe(now, took);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn call(cost: &Cost, now: Instant, latency: Duration, code: Code) {
        cost.started(now);
        cost.finished(now, latency, code);
    }

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-6
    }

    #[test]
    fn a_peak_counts_at_once() {
        let now = Instant::now();
        let cost = Cost::new(0.001, now);
        call(&cost, now, 50 * MS, Code::Ok);
        assert!(close(cost.latency(now), 0.050));
    }

    #[test]
    fn it_sinks_by_a_factor_of_e_in_ten_seconds() {
        let now = Instant::now();
        let cost = Cost::new(0.1, now);
        assert!(close(cost.latency(now + DECAY), 0.1 / std::f64::consts::E));
        assert!(
            close(cost.latency(now + 100 * DECAY), 0.001),
            "never below the floor"
        );
    }

    #[test]
    fn fast_calls_pull_it_down_towards_them() {
        let mut now = Instant::now();
        let cost = Cost::new(0.1, now);
        call(&cost, now, 10 * MS, Code::Ok);
        assert!(cost.latency(now) > 0.09, "one fast call proves little");
        for _ in 0..600 {
            now += 100 * MS;
            call(&cost, now, 10 * MS, Code::Ok);
        }
        assert!(
            (0.010..0.0105).contains(&cost.latency(now)),
            "{}",
            cost.latency(now)
        );
    }

    #[test]
    fn calls_in_flight_multiply_it() {
        let now = Instant::now();
        let cost = Cost::new(0.01, now);
        cost.started(now);
        cost.started(now);
        assert!(close(cost.of_one_more(now), 0.03));
        cost.finished(now, 10 * MS, Code::Ok);
        assert!(close(cost.of_one_more(now), 0.02));
    }

    #[test]
    fn a_failure_is_a_penalty_even_when_it_is_fast() {
        let now = Instant::now();
        let cost = Cost::new(0.01, now);
        call(&cost, now, Duration::ZERO, Code::Unavailable);
        assert!(close(cost.latency(now), 0.08));
        for _ in 0..20 {
            call(&cost, now, Duration::ZERO, Code::Unavailable);
        }
        assert!(close(cost.latency(now), 1.0), "at most a second");
    }

    #[test]
    fn the_callers_own_mistakes_are_no_failures() {
        let now = Instant::now();
        let cost = Cost::new(0.01, now);
        for code in [
            Code::NotFound,
            Code::InvalidArgument,
            Code::PermissionDenied,
            Code::Cancelled,
        ] {
            call(&cost, now, MS, code);
        }
        assert!(cost.latency(now) <= 0.01);
    }

    #[test]
    fn a_cancelled_call_only_makes_it_worse() {
        let now = Instant::now();
        let cost = Cost::new(0.01, now);
        call(&cost, now + MS, Duration::ZERO, Code::Cancelled);
        assert!(cost.latency(now) > 0.0099);
        call(&cost, now + MS, 70 * MS, Code::Cancelled);
        assert!(close(cost.latency(now + MS), 0.07));
    }
}
