//! The `pick_first` policy: one connection, to the first endpoint that answers.

use std::sync::Arc;

use tokio::time::Instant;

use super::balancer::{
    Candidate, ConnectivityState, LoadBalancer, Pick, PickContext, Picker, Update,
};
use super::subchannel::Subchannel;
use crate::Status;

/// Sends every call to the first endpoint, in the resolver's order, that can be reached.
#[derive(Debug, Default)]
pub struct PickFirst {
    current: Option<u64>,
}

impl LoadBalancer for PickFirst {
    fn name(&self) -> &'static str {
        "pick_first"
    }

    fn update(&mut self, candidates: &[Candidate], _now: Instant) -> Update {
        let ready = |candidate: &&Candidate| candidate.state == ConnectivityState::Ready;
        let chosen = candidates
            .iter()
            .find(|candidate| {
                Some(candidate.id) == self.current && candidate.state == ConnectivityState::Ready
            })
            .or_else(|| candidates.iter().find(ready));
        if let Some(chosen) = chosen {
            self.current = Some(chosen.id);
            return Update {
                connect: vec![chosen.id],
                picker: Arc::new(One(chosen.subchannel.clone())),
            };
        }
        self.current = None;
        // One after the other: the first that has not failed, with those that failed kept trying.
        let mut connect = Vec::new();
        let mut waiting = false;
        for candidate in candidates {
            connect.push(candidate.id);
            if candidate.state != ConnectivityState::TransientFailure {
                waiting = true;
                break;
            }
        }
        let picker: Arc<dyn Picker> = if waiting {
            Arc::new(Waiting)
        } else {
            Arc::new(Failing(failure(candidates)))
        };
        Update { connect, picker }
    }
}

/// What a call is told when no candidate can be reached.
fn failure(candidates: &[Candidate]) -> Status {
    let Some(first) = candidates.first() else {
        return Status::unavailable("the name resolves to no endpoint");
    };
    let mut message = format!("none of {} endpoints can be reached", candidates.len());
    if candidates.len() == 1 {
        message = format!("{} cannot be reached", first.endpoint.address);
    }
    let cause = candidates
        .iter()
        .rev()
        .find_map(|candidate| candidate.last_error.clone());
    let status = Status::unavailable(message);
    match cause {
        Some(cause) => {
            let message = format!("{}: {}", status.message(), cause.message());
            Status::unavailable(message).with_source(cause)
        }
        None => status,
    }
}

struct One(Subchannel);

impl Picker for One {
    fn pick(&self, _context: &PickContext<'_>) -> Pick {
        Pick::To(self.0.clone(), None)
    }
}

struct Waiting;

impl Picker for Waiting {
    fn pick(&self, _context: &PickContext<'_>) -> Pick {
        Pick::Wait
    }
}

struct Failing(Status);

impl Picker for Failing {
    fn pick(&self, _context: &PickContext<'_>) -> Pick {
        Pick::Fail(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Endpoint;

    fn candidate(id: u64, state: ConnectivityState) -> Candidate {
        let endpoint = Endpoint::new(format!("127.0.0.1:{id}").parse().unwrap());
        Candidate {
            id,
            endpoint: Arc::new(endpoint.clone()),
            state,
            last_error: Some(Status::unavailable("refused")),
            subchannel: Subchannel::detached(endpoint, state == ConnectivityState::Ready),
        }
    }

    fn context() -> PickContext<'static> {
        PickContext {
            path: "/a/B",
            hash_key: None,
            avoid: &[],
            random: 0,
            now: Instant::now(),
        }
    }

    #[test]
    fn connects_one_after_the_other() {
        use ConnectivityState::{Connecting, Idle, TransientFailure};
        let mut policy = PickFirst::default();
        let update = policy.update(&[candidate(1, Idle), candidate(2, Idle)], Instant::now());
        assert_eq!(update.connect, [1]);
        assert!(matches!(update.picker.pick(&context()), Pick::Wait));
        let update = policy.update(
            &[candidate(1, TransientFailure), candidate(2, Connecting)],
            Instant::now(),
        );
        assert_eq!(update.connect, [1, 2]);
    }

    #[test]
    fn keeps_the_connection_it_has() {
        use ConnectivityState::{Connecting, Ready};
        let mut policy = PickFirst::default();
        policy.update(
            &[candidate(1, Connecting), candidate(2, Ready)],
            Instant::now(),
        );
        let update = policy.update(&[candidate(1, Ready), candidate(2, Ready)], Instant::now());
        assert_eq!(update.connect, [2]);
    }

    #[test]
    fn a_failure_names_the_endpoint_and_the_cause() {
        let mut policy = PickFirst::default();
        let update = policy.update(
            &[candidate(7, ConnectivityState::TransientFailure)],
            Instant::now(),
        );
        let Pick::Fail(status) = update.picker.pick(&context()) else {
            panic!("picked")
        };
        let text = status.to_string();
        assert!(
            text.contains("127.0.0.1:7") && text.contains("refused"),
            "{text}"
        );
        let update = policy.update(&[], Instant::now());
        let Pick::Fail(status) = update.picker.pick(&context()) else {
            panic!("picked")
        };
        assert!(status.message().contains("no endpoint"));
    }
}
