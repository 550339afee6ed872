//! What the calls of a connection put off until its lock has been given back.

use std::any::Any;
use std::task::Waker;

use tokio::task::AbortHandle;

use super::report::Report;
use crate::Status;
use crate::lock::{Wakers, outside};

/// What is put off; its drop does it.
#[derive(Default)]
pub(super) struct After {
    wakers: Wakers,
    /// In a box, since an answer of a handler that runs in place has nothing of it.
    rest: Option<Box<Rest>>,
}

#[derive(Default)]
struct Rest {
    aborts: Vec<AbortHandle>,
    ended: Vec<(Option<Box<Report>>, Option<Status>)>,
    /// What users have made, or may hold.
    gone: Vec<Box<dyn Any + Send>>,
}

impl After {
    /// Wakes a task.
    pub(super) fn wake(&mut self, waker: Option<Waker>) {
        self.wakers.push(waker);
    }

    /// Lets go of a waker.
    pub(super) fn forget(&mut self, waker: Option<Waker>) {
        self.wakers.forget(waker);
    }

    /// Ends a handler.
    pub(super) fn abort(&mut self, task: AbortHandle) {
        self.rest.get_or_insert_default().aborts.push(task);
    }

    /// Has the observers told how a call ended. The status may have a source that is the handler's.
    #[inline]
    pub(super) fn ended(&mut self, report: Option<Box<Report>>, status: Option<Status>) {
        if report.is_some() || status.is_some() {
            let rest = self.rest.get_or_insert_default();
            rest.ended.push((report, status));
        }
    }

    /// Drops something.
    pub(super) fn gone(&mut self, what: Box<dyn Any + Send>) {
        self.rest.get_or_insert_default().gone.push(what);
    }

    /// Takes what there is out of its place.
    pub(super) fn take(&mut self) -> Option<Self> {
        let wakers = self.wakers.take();
        if wakers.is_none() && self.rest.is_none() {
            return None;
        }
        Some(Self {
            wakers: wakers.unwrap_or_default(),
            rest: self.rest.take(),
        })
    }
}

impl Drop for After {
    fn drop(&mut self) {
        self.wakers.wake();
        let Some(rest) = self.rest.take() else {
            return;
        };
        outside("what was put off");
        rest.aborts.iter().for_each(AbortHandle::abort);
        for (report, status) in rest.ended {
            if let Some(mut report) = report {
                report.finished(status.as_ref());
            }
        }
    }
}
