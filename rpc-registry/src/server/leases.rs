//! One stream of leases: [`serve`].

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rpc_core::{RecvStream, SendStream, Status};

use super::access::Caller;
use super::{TTL_RANGE, closing};
use crate::convert;
use crate::generated::register_request::Step as Asked;
use crate::generated::register_response::Step as Answer;
use crate::generated::{Announce, Deregister, Deregistered, Granted, KeptAlive, Lost, Refused};
use crate::generated::{RegisterRequest, RegisterResponse};
use crate::hub::Hub;
use crate::identity;
use crate::store::Refusal;

/// How many leases one stream holds.
const MOST_LEASES: usize = 10_000;

/// The leases of one stream; its end, however it comes, leaves each entry its TTL.
struct Leases<'a> {
    hub: &'a Arc<Hub>,
    caller: &'a Caller,
    stream: u64,
    held: HashMap<u64, Held>,
    /// Goodbyes that are on their way to the disk, in the order of their revisions.
    parting: VecDeque<(u64, u64)>,
}

struct Held {
    service: String,
    ttl: Duration,
}

impl Drop for Leases<'_> {
    fn drop(&mut self) {
        for (instance, held) in &self.held {
            self.hub.detach(&held.service, *instance, self.stream);
        }
    }
}

pub(crate) async fn serve(
    hub: &Arc<Hub>,
    caller: &Caller,
    mut requests: RecvStream<RegisterRequest>,
    responses: &mut SendStream<RegisterResponse>,
) -> Result<(), Status> {
    let mut leases = Leases {
        hub,
        caller,
        stream: hub.stream(),
        held: HashMap::new(),
        parting: VecDeque::new(),
    };
    let mut closed = std::pin::pin!(hub.closed());
    loop {
        let patience = leases.patience();
        let first = leases.parting.front().map(|(revision, _)| *revision);
        let asked = tokio::select! {
            asked = tokio::time::timeout(patience, requests.recv()) => asked,
            () = hub.saved(first.unwrap_or(0)), if first.is_some() => {
                if let Some((revision, instance)) = leases.parting.pop_front() {
                    let gone = Answer::Deregistered(Deregistered { revision });
                    responses.send(answer(instance, gone)).await?;
                }
                continue;
            }
            () = &mut closed => return Err(closing()),
        };
        let Ok(asked) = asked else {
            // Before the leases are dropped: a silent stream has had its TTL.
            hub.expire();
            return Err(Status::aborted(format!(
                "nothing heard for {patience:?}; announce again"
            )));
        };
        let Some(asked) = asked? else { return Ok(()) };
        for answer in leases.step(asked)? {
            tokio::select! {
                sent = responses.send(answer) => sent?,
                () = &mut closed => return Err(closing()),
            }
        }
    }
}

fn answer(instance_id: u64, step: Answer) -> RegisterResponse {
    RegisterResponse {
        instance_id,
        step: Some(step),
    }
}

impl Leases<'_> {
    /// How long the stream may be silent: a lease expires by itself before.
    fn patience(&self) -> Duration {
        let longest = self.held.values().map(|held| held.ttl).max();
        longest.unwrap_or(self.hub.ttl.max(Duration::from_secs(1)))
    }

    fn step(&mut self, asked: RegisterRequest) -> Result<Vec<RegisterResponse>, Status> {
        match asked.step {
            Some(Asked::Announce(announce)) => {
                let instance = announce.instance.as_ref().map_or(0, |one| one.id);
                let service = announce.service.clone();
                let step = match self.announce(announce) {
                    Ok(granted) => Answer::Granted(granted),
                    Err(status) => self.refused(&service, instance, &status),
                };
                Ok(vec![answer(instance, step)])
            }
            Some(Asked::KeepAlive(_)) => {
                let (hub, stream) = (self.hub, self.stream);
                let mut answers = Vec::new();
                self.held.retain(|instance, held| {
                    let alive = hub.keep_alive(&held.service, *instance, stream);
                    if !alive {
                        answers.push(answer(*instance, Answer::Lost(Lost {})));
                    }
                    alive
                });
                answers.push(answer(0, Answer::KeptAlive(KeptAlive {})));
                Ok(answers)
            }
            Some(Asked::Deregister(who)) => {
                let (service, instance) = (who.service.clone(), who.instance_id);
                Ok(match self.deregister(&who) {
                    Ok(revision) => {
                        self.parting.push_back((revision, instance));
                        Vec::new()
                    }
                    Err(status) => {
                        vec![answer(instance, self.refused(&service, instance, &status))]
                    }
                })
            }
            None => Err(Status::unimplemented(
                "this registry does not know that step",
            )),
        }
    }

    fn announce(&mut self, announce: Announce) -> Result<Granted, Status> {
        convert::valid_service(&announce.service)?;
        let instance = announce
            .instance
            .ok_or_else(|| Status::invalid_argument("the announcement names no instance"))?;
        convert::valid_metadata(&instance.metadata)?;
        let id = instance.id;
        owned(&announce.secret, id)?;
        if self.held.len() >= MOST_LEASES && !self.held.contains_key(&id) {
            return Err(Status::resource_exhausted(format!(
                "one stream holds at most {MOST_LEASES} leases: register the others through another Registry"
            )));
        }
        let endpoint = convert::to_endpoint(instance)?;
        let ttl = match announce.ttl_ms {
            0 => self.hub.ttl,
            asked => Duration::from_millis(asked.into()).clamp(TTL_RANGE.0, TTL_RANGE.1),
        };
        let address = endpoint.address.to_string();
        let grant = self
            .hub
            .announce(&announce.service, endpoint, Some(ttl), self.stream)
            .map_err(|refusal| match refusal {
                Refusal::Departed => {
                    Status::failed_precondition("the instance has deregistered itself")
                }
                Refusal::Full => Status::resource_exhausted(
                    "the registry has as many instances, or as much of their metadata, as it takes",
                ),
            })?;
        let what = match (grant.new, grant.changed) {
            (true, _) => "registered",
            (false, true) => "registered with other content",
            (false, false) => "registered again",
        };
        tracing::info!(
            service = announce.service,
            address,
            instance = id,
            peer = &*self.caller.name,
            revision = grant.revision,
            "{what}"
        );
        self.held.insert(
            id,
            Held {
                service: announce.service,
                ttl,
            },
        );
        Ok(Granted {
            revision: grant.revision,
            incarnation: self.hub.incarnation,
            ttl_ms: convert::to_milliseconds(ttl),
        })
    }

    fn deregister(&mut self, who: &Deregister) -> Result<u64, Status> {
        convert::valid_service(&who.service)?;
        owned(&who.secret, who.instance_id)?;
        let revision = self.hub.deregister(&who.service, who.instance_id);
        self.held.remove(&who.instance_id);
        tracing::info!(
            service = who.service,
            instance = who.instance_id,
            peer = &*self.caller.name,
            revision,
            "deregistered"
        );
        Ok(revision)
    }

    fn refused(&self, service: &str, instance: u64, status: &Status) -> Answer {
        tracing::warn!(
            service,
            instance,
            peer = &*self.caller.name,
            %status,
            "refused"
        );
        Answer::Refused(refusal(status))
    }
}

pub(crate) fn refusal(status: &Status) -> Refused {
    Refused {
        code: status.code() as u32,
        message: status.message().to_owned(),
    }
}

fn owned(secret: &[u8], instance: u64) -> Result<(), Status> {
    if identity::owns(secret, instance) {
        return Ok(());
    }
    Err(Status::permission_denied(format!(
        "instance {instance} belongs to who announced it: only the lease that holds its secret can change or end it"
    )))
}
