//! The instant by which a call must have ended.

use std::future::Future;
use std::time::Duration;

use tokio::task::futures::TaskLocalFuture;
use tokio::time::Instant;

tokio::task_local! {
    static CURRENT: Option<Deadline>;
}

/// The absolute instant by which a call must have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// A deadline this long from now.
    #[must_use]
    pub fn after(timeout: Duration) -> Self {
        Self::after_instant(Instant::now(), timeout)
    }

    /// A deadline this long after an instant.
    pub(crate) fn after_instant(now: Instant, timeout: Duration) -> Self {
        // A timeout past what the clock can hold is as good as a century.
        const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
        Self(now.checked_add(timeout).unwrap_or_else(|| now + CENTURY))
    }

    /// A deadline at an instant.
    #[must_use]
    pub const fn at(instant: Instant) -> Self {
        Self(instant)
    }

    /// The instant.
    #[must_use]
    pub const fn instant(self) -> Instant {
        self.0
    }

    /// How long is left; zero when it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// The deadline of the call whose handler runs in this task, if it has one.
    ///
    /// Client calls made inside a handler inherit it. A task that the handler spawns does not
    /// see it.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(|deadline| *deadline).ok().flatten()
    }

    /// Runs a future in which [`Deadline::current`] is this one.
    pub(crate) fn scope<F: Future>(
        deadline: Option<Self>,
        future: F,
    ) -> TaskLocalFuture<Option<Self>, F> {
        CURRENT.scope(deadline, future)
    }

    /// Runs a function in which [`Deadline::current`] is this one.
    pub(crate) fn scope_sync<R>(deadline: Option<Self>, run: impl FnOnce() -> R) -> R {
        CURRENT.sync_scope(deadline, run)
    }

    /// The earlier of two deadlines where there are any.
    pub(crate) fn earlier(left: Option<Self>, right: Option<Self>) -> Option<Self> {
        match (left, right) {
            (Some(left), Some(right)) => Some(left.min(right)),
            (left, right) => left.or(right),
        }
    }
}
