//! An attempt under way, as its endpoint's tracker sees it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::tracker::{Attempt, AttemptEnd, CallTracker};
use crate::lock::outside;

/// Tells the balancer's tracker when the attempt ends, however it ends.
pub(crate) struct AttemptGuard {
    tracker: Option<Arc<dyn CallTracker>>,
    attempt: Attempt,
    end: AttemptEnd,
}

impl AttemptGuard {
    #[inline]
    pub(crate) fn new(
        tracker: Option<Arc<dyn CallTracker>>,
        began: Instant,
        is_unary: bool,
    ) -> Self {
        let attempt = Attempt::new(began, is_unary);
        if let Some(tracker) = &tracker {
            outside("a tracker of calls");
            tracker.started(&attempt);
        }
        Self {
            tracker,
            attempt,
            end: AttemptEnd::Abandoned,
        }
    }

    pub(crate) fn tracker(&self) -> Option<&Arc<dyn CallTracker>> {
        self.tracker.as_ref()
    }

    pub(crate) fn attempt(&self) -> &Attempt {
        &self.attempt
    }

    /// The server has begun to answer a streaming call.
    pub(crate) fn answered(&mut self) {
        if self.attempt.answered {
            return;
        }
        if let Some(tracker) = &self.tracker {
            outside("a tracker of calls");
            tracker.answered(&self.attempt, Instant::now());
        }
        self.attempt.answered = true;
    }

    /// Nothing has come for too long.
    pub(crate) fn overdue(&self) {
        if let Some(tracker) = &self.tracker {
            outside("a tracker of calls");
            tracker.overdue(&self.attempt, Instant::now());
        }
    }

    /// Sets how the attempt ended.
    pub(crate) fn end(&mut self, end: AttemptEnd) {
        self.end = end;
    }
}

impl Drop for AttemptGuard {
    fn drop(&mut self) {
        if let Some(tracker) = &self.tracker {
            outside("a tracker of calls");
            tracker.finished(&self.attempt, Instant::now(), self.end);
        }
    }
}

/// How long a call waits for an endpoint that says nothing.
pub(crate) struct Patience {
    tracker: Arc<dyn CallTracker>,
    attempt: Attempt,
    most: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl Patience {
    /// Nothing when the attempt is to be waited for, however long it takes.
    pub(crate) fn new(
        tracker: Arc<dyn CallTracker>,
        attempt: Attempt,
        now: Instant,
        most: Duration,
    ) -> Option<Self> {
        let due = tracker.overdue_at(&attempt, now, most)?;
        Some(Self {
            tracker,
            attempt,
            most,
            sleep: Box::pin(tokio::time::sleep_until(due)),
        })
    }

    /// Ready when the attempt is overdue: an answer to another call puts that off.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            match self.tracker.overdue_at(&self.attempt, now, self.most) {
                Some(due) if due <= now => return Poll::Ready(()),
                Some(due) => self.sleep.as_mut().reset(due),
                None => return Poll::Pending,
            }
        }
    }
}
