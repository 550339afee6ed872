//! How calls are spread over endpoints: [`LeastRequest`], [`RoundRobin`] and [`Rendezvous`].
//!
//! All connect to every endpoint that has a weight and choose among those that are connected. All
//! prefer one that the call has not failed on yet, and pass over what fails every call or says nothing.

mod known;
mod least_request;
mod rendezvous;
mod round_robin;

use std::sync::Arc;

use rpc_core::Status;
use rpc_core::client::{Candidate, ConnectivityState, Pick, PickContext, Picker};

pub use least_request::LeastRequest;
pub use rendezvous::Rendezvous;
pub use round_robin::RoundRobin;

/// How many endpoints a failure lists.
const LISTED: usize = 5;

fn takes_load(candidate: &&Candidate) -> bool {
    candidate.endpoint.weight > 0
}

fn is_ready(candidate: &&Candidate) -> bool {
    takes_load(candidate) && candidate.state == ConnectivityState::Ready
}

fn to_connect(candidates: &[Candidate]) -> Vec<u64> {
    candidates
        .iter()
        .filter(takes_load)
        .map(|candidate| candidate.id)
        .collect()
}

/// The picker for when nothing is ready: wait while something may become so, else fail.
fn none_ready(candidates: &[Candidate]) -> Arc<dyn Picker> {
    let may_come = candidates
        .iter()
        .filter(takes_load)
        .any(|candidate| candidate.state != ConnectivityState::TransientFailure);
    Arc::new(NoneReady(if may_come {
        None
    } else {
        Some(failure(candidates))
    }))
}

struct NoneReady(Option<Status>);

impl Picker for NoneReady {
    fn pick(&self, _context: &PickContext<'_>) -> Pick {
        match &self.0 {
            Some(status) => Pick::Fail(status.clone()),
            None => Pick::Wait,
        }
    }
}

/// What a call is told: how many endpoints there are, and why each cannot be reached.
fn failure(candidates: &[Candidate]) -> Status {
    if candidates.is_empty() {
        return Status::unavailable("the name resolves to no endpoint");
    }
    let usable: Vec<_> = candidates.iter().filter(takes_load).collect();
    if usable.is_empty() {
        return Status::unavailable(format!("all {} endpoints have weight 0", candidates.len()));
    }
    let mut message = format!("none of {} endpoints can be reached", usable.len());
    for (index, candidate) in usable.iter().take(LISTED).enumerate() {
        message.push_str(if index == 0 { ": " } else { "; " });
        message.push_str(&candidate.endpoint.address.to_string());
        if let Some(error) = &candidate.last_error {
            message.push_str(&format!(" ({})", error.message()));
        }
    }
    if usable.len() > LISTED {
        message.push_str(&format!("; and {} more", usable.len() - LISTED));
    }
    let status = Status::unavailable(message);
    match usable
        .iter()
        .find_map(|candidate| candidate.last_error.clone())
    {
        Some(cause) => status.with_source(cause),
        None => status,
    }
}

#[cfg(test)]
mod tests;
