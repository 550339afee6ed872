//! How calls ended, for those who observe it.

use std::sync::Arc;

use tokio::time::Instant;

use super::Shared;
use crate::Status;
use crate::client::FinishedCall;

/// Tells the observers how a call ended, if there are any.
pub(super) struct Report {
    shared: Arc<Shared>,
    path: Arc<str>,
    started: Instant,
    told: bool,
}

impl Report {
    pub(super) fn new(shared: &Arc<Shared>, path: &Arc<str>) -> Option<Box<Self>> {
        if shared.served.options.observers.is_empty() {
            return None;
        }
        let path = if shared.served.router.has(path) {
            Arc::clone(path)
        } else {
            FinishedCall::OTHER.into()
        };
        Some(Box::new(Self {
            shared: Arc::clone(shared),
            path,
            started: Instant::now(),
            told: false,
        }))
    }

    pub(super) fn finished(&mut self, status: Option<&Status>) {
        self.told = true;
        let peer = self.shared.peer.to_string();
        let elapsed = self.started.elapsed();
        let call = FinishedCall::new(&self.path, status, elapsed, Some(&peer), 1);
        for observer in &self.shared.served.options.observers {
            observer.call_finished(&call);
        }
    }
}

/// Reports of calls that have ended, to be told without a lock.
pub(super) type Reports = Vec<(Box<Report>, Option<Status>)>;

/// Tells the observers.
pub(super) fn tell(reports: Reports) {
    for (mut report, status) in reports {
        report.finished(status.as_ref());
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if !self.told {
            self.finished(Some(&Status::cancelled("the client ended the call")));
        }
    }
}
