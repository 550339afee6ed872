//! How calls ended, for those who observe it.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Inner, Shared};
use crate::Status;
use crate::client::FinishedCall;
use crate::lock::outside;
use crate::request::Peer;

/// Tells the observers how a call ended, if there are any.
///
/// The state of a connection owns it, so that it must not own the connection.
pub(super) struct Report {
    served: Arc<Inner>,
    peer: Arc<Peer>,
    path: Arc<str>,
    started: Instant,
    told: bool,
}

impl Report {
    pub(super) fn new(shared: &Shared, path: &Arc<str>) -> Option<Box<Self>> {
        if shared.served.options.observers.is_empty() {
            return None;
        }
        let path = if shared.served.router.has(path) {
            Arc::clone(path)
        } else {
            FinishedCall::OTHER.into()
        };
        Some(Box::new(Self {
            served: Arc::clone(&shared.served),
            peer: Arc::clone(&shared.peer),
            path,
            started: Instant::now(),
            told: false,
        }))
    }

    pub(super) fn finished(&mut self, status: Option<&Status>) {
        outside("an observer");
        self.told = true;
        let peer = self.peer.to_string();
        let elapsed = self.started.elapsed();
        let call = FinishedCall::new(&self.path, status, elapsed, Some(&peer), 1);
        for observer in &self.served.options.observers {
            observer.call_finished(&call);
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if !self.told {
            self.finished(Some(&Status::cancelled("the client ended the call")));
        }
    }
}
