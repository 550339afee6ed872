//! What is known of endpoints across updates: [`Known`].

use std::collections::HashMap;
use std::sync::Arc;

use rpc_core::client::{Candidate, Pick, Standing, Subchannel};
use tokio::time::Instant;

use super::is_ready;

/// Of all the calls this share, as one in so many, goes to an endpoint that is to be avoided.
const ONE_IN: usize = 100;

/// The standings of endpoints. What is known of one ends with its connection, whose loss has failed
/// the calls on it, and with the process that was there.
#[derive(Debug, Default)]
pub(crate) struct Known(HashMap<u64, Entry>);

#[derive(Debug)]
struct Entry {
    standing: Arc<Standing>,
    instance: u64,
    ready: bool,
}

impl Entry {
    /// Whether what is known of an endpoint still holds for it.
    fn holds(&self, candidate: &Candidate) -> bool {
        self.instance == candidate.endpoint.instance && (self.ready || !is_ready(&candidate))
    }
}

impl Known {
    /// Takes in a list, and gives the endpoints of it that calls may go to.
    pub(crate) fn update(&mut self, candidates: &[Candidate], now: Instant) -> Vec<Choice> {
        let mut before = std::mem::take(&mut self.0);
        let mut choices = Vec::new();
        for candidate in candidates {
            let ready = is_ready(&candidate);
            let known = before
                .remove(&candidate.id)
                .filter(|known| known.holds(candidate));
            let standing = match known {
                Some(known) => known.standing,
                None => Arc::new(Standing::new(now)),
            };
            if ready {
                choices.push(Choice {
                    subchannel: candidate.subchannel.clone(),
                    standing: Arc::clone(&standing),
                    weight: candidate.endpoint.weight,
                });
            }
            let entry = Entry {
                standing,
                instance: candidate.endpoint.instance,
                ready,
            };
            self.0.insert(candidate.id, entry);
        }
        choices
    }
}

/// An endpoint that a call may go to.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    pub(crate) subchannel: Subchannel,
    pub(crate) standing: Arc<Standing>,
    pub(crate) weight: u32,
}

impl Choice {
    /// The call goes here. Where there is one endpoint only, there is nothing to know.
    pub(crate) fn pick(&self, alone: bool) -> Pick {
        let tracker = (!alone).then(|| Arc::clone(&self.standing) as _);
        Pick::To(self.subchannel.clone(), tracker)
    }

    /// Whether it can take a call that has been to the endpoints in `avoid`.
    pub(crate) fn is_fresh(&self, avoid: &[u64]) -> bool {
        self.subchannel.is_ready() && !avoid.contains(&self.subchannel.id())
    }

    pub(crate) fn is_trusted(&self, now: Instant) -> bool {
        !self.standing.is_suspect(now)
    }

    /// Whether the call whose turn it is goes here, though it may be to find out how the endpoint is;
    /// asked when it is this one of `count`, as often as `looks` of them are looked at for each call.
    pub(crate) fn takes(&self, now: Instant, count: usize, looks: usize) -> bool {
        if self.is_trusted(now) {
            return true;
        }
        let turns = ONE_IN * looks / count.max(1);
        self.standing
            .is_tried(now, u32::try_from(turns).unwrap_or(u32::MAX))
    }
}
