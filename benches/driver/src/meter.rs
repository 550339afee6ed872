//! What one task of the load has done: [`Meter`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Latencies up to a minute, in nanoseconds, to two digits.
const HIGHEST: u64 = 60_000_000_000;

/// Counts the calls or messages of one task. Nobody else takes the lock but between two windows.
#[derive(Clone, Debug)]
pub struct Meter(Arc<Mutex<Histogram<u64>>>);

impl Meter {
    pub(crate) fn new() -> Result<Self, crate::Error> {
        let histogram = Histogram::new_with_bounds(1, HIGHEST, 2)?;
        Ok(Self(Arc::new(Mutex::new(histogram))))
    }

    /// A call or message that was started then has come back.
    pub fn done(&self, started: Instant) {
        let nanoseconds = u64::try_from(started.elapsed().as_nanos()).unwrap_or(HIGHEST);
        self.lock().saturating_record(nanoseconds);
    }

    /// What was counted since the last time.
    pub(crate) fn take(&self) -> Histogram<u64> {
        let mut histogram = self.lock();
        let taken = histogram.clone();
        histogram.reset();
        taken
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Histogram<u64>> {
        // A panic in the middle of counting ends the bench anyway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The value that so many per cent stayed below.
pub(crate) fn percentile(histogram: &Histogram<u64>, percent: f64) -> Duration {
    Duration::from_nanos(histogram.value_at_quantile(percent / 100.0))
}
