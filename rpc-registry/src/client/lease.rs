//! A server's place on the lists of the registries: [`Lease`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rpc_core::client::Endpoint;
use rpc_core::server::ShutdownHook;
use rpc_core::{BoxFuture, Code, Status};
use tokio::sync::watch;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::peer::{PATIENCE, Peer, ended, within};
use crate::convert;
use crate::generated::{
    Announce, Deregister, KeepAlive, RegisterRequest, register_request, register_response,
};
use crate::hub::Hub;

/// The TTL that is taken for granted before the registry has told it.
const LIKELY_TTL: Duration = Duration::from_secs(5);

/// Keeps an endpoint registered for as long as it lives.
///
/// It is registered with every registry server of the URI, again and again for as long as one
/// cannot be reached. Dropping it deregisters in the background; a server that ends should call
/// [`Self::deregister`] instead, or give the lease to
/// [`BoundServer::on_shutdown`](rpc_core::server::BoundServer::on_shutdown), so that no client
/// comes any more when it closes.
#[must_use = "dropping a lease deregisters"]
pub struct Lease {
    service: String,
    endpoint: Endpoint,
    kind: Kind,
}

enum Kind {
    Local(Arc<Hub>),
    Remote {
        standing: Arc<watch::Sender<Vec<Standing>>>,
        end: watch::Sender<bool>,
    },
}

/// Where one registry server stands with a lease.
#[derive(Clone, Debug)]
enum Standing {
    Trying(Option<Status>),
    Listed,
    Ended(Result<(), Status>),
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("service", &self.service)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl Lease {
    pub(crate) fn local(hub: Arc<Hub>, service: String, endpoint: Endpoint) -> Self {
        hub.announce(&service, endpoint.clone(), None);
        Self {
            service,
            endpoint,
            kind: Kind::Local(hub),
        }
    }

    pub(crate) fn remote(
        peers: &[Arc<Peer>],
        service: String,
        endpoint: Endpoint,
        ttl: Option<Duration>,
    ) -> Self {
        let standing = Arc::new(watch::Sender::new(vec![
            Standing::Trying(None);
            peers.len()
        ]));
        let (end, ends) = watch::channel(false);
        let announce = Announce {
            service: service.clone(),
            instance: Some(convert::to_instance(&endpoint)),
            ttl_ms: ttl.map_or(0, convert::to_milliseconds),
        };
        for (index, peer) in peers.iter().enumerate() {
            let holder = Holder {
                peer: Arc::clone(peer),
                announce: announce.clone(),
                standing: Arc::clone(&standing),
                index,
                backoff: Backoff::default(),
                ttl: ttl.unwrap_or(LIKELY_TTL),
                listed_until: None,
            };
            tokio::spawn(holder.run(ends.clone()));
        }
        Self {
            service,
            endpoint,
            kind: Kind::Remote { standing, end },
        }
    }

    /// The name of the service.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The endpoint as it is registered; its instance was chosen by [`Registry::register`](crate::Registry::register).
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether a registry server lists the endpoint now, as far as is known here.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        match &self.kind {
            Kind::Local(_) => true,
            Kind::Remote { standing, .. } => standing
                .borrow()
                .iter()
                .any(|standing| matches!(standing, Standing::Listed)),
        }
    }

    /// Waits until a registry server has acknowledged the registration; for as long as it takes,
    /// while none can be reached.
    ///
    /// # Errors
    /// What every registry server refuses it for, or `FAILED_PRECONDITION` after [`Self::deregister`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn ready(&self) -> Result<(), Status> {
        let Kind::Remote { standing, .. } = &self.kind else {
            return Ok(());
        };
        let mut changes = standing.subscribe();
        loop {
            if let Some(settled) = settled(&changes.borrow_and_update()) {
                return settled;
            }
            if changes.changed().await.is_err() {
                return Err(deregistered());
            }
        }
    }

    /// Takes the endpoint off the lists and waits until the registry servers have acknowledged it.
    /// Clients have been told by then, or are being told.
    ///
    /// # Errors
    /// Names a registry server that has not answered within 2 seconds and may still list the
    /// endpoint, until its TTL is over.
    ///
    /// # Cancel safety
    /// Cancel safe; deregistering goes on in the background.
    pub async fn deregister(&self) -> Result<(), Status> {
        let (standing, end) = match &self.kind {
            Kind::Local(hub) => {
                let revision = hub.deregister(&self.service, self.endpoint.instance);
                hub.saved(revision).await;
                return Ok(());
            }
            Kind::Remote { standing, end } => (standing, end),
        };
        end.send_replace(true);
        let mut changes = standing.subscribe();
        let all = changes
            .wait_for(|all| {
                all.iter()
                    .all(|standing| matches!(standing, Standing::Ended(_)))
            })
            .await;
        // The sender is in `self`, so that waiting cannot fail.
        let Ok(all) = all else {
            return Err(deregistered());
        };
        all.iter().try_for_each(|standing| match standing {
            Standing::Ended(Err(status)) => Err(status.clone()),
            _ => Ok(()),
        })
    }
}

fn deregistered() -> Status {
    Status::failed_precondition("the lease has been deregistered")
}

/// What [`Lease::ready`] says, if it can say something.
fn settled(all: &[Standing]) -> Option<Result<(), Status>> {
    if all
        .iter()
        .any(|standing| matches!(standing, Standing::Listed))
    {
        return Some(Ok(()));
    }
    if all
        .iter()
        .any(|standing| matches!(standing, Standing::Ended(_)))
    {
        return Some(Err(deregistered()));
    }
    let refusal = |standing: &Standing| match standing {
        Standing::Trying(Some(status)) if is_refusal(status) => Some(status.clone()),
        _ => None,
    };
    let refusals: Vec<_> = all.iter().filter_map(refusal).collect();
    if refusals.len() == all.len() {
        refusals.into_iter().next().map(Err)
    } else {
        None
    }
}

/// Whether trying again is of little use.
fn is_refusal(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::Unimplemented
            | Code::PermissionDenied
            | Code::Unauthenticated
    )
}

impl Drop for Lease {
    fn drop(&mut self) {
        match &self.kind {
            Kind::Local(hub) => {
                hub.deregister(&self.service, self.endpoint.instance);
            }
            Kind::Remote { end, .. } => {
                end.send_replace(true);
            }
        }
    }
}

impl ShutdownHook for Lease {
    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if let Err(status) = self.deregister().await {
                tracing::warn!(service = self.service, %status, "not deregistered everywhere");
            }
        })
    }
}

/// Holds the lease with one registry server.
struct Holder {
    peer: Arc<Peer>,
    announce: Announce,
    standing: Arc<watch::Sender<Vec<Standing>>>,
    index: usize,
    backoff: Backoff,
    ttl: Duration,
    /// Until when the registry may list the endpoint without hearing from here again.
    listed_until: Option<Instant>,
}

impl Holder {
    async fn run(mut self, mut ends: watch::Receiver<bool>) {
        tokio::select! {
            // An error means that the lease is gone, which ends it too.
            _ = ends.wait_for(|end| *end) => {}
            () = self.hold() => {}
        }
        let result = self.farewell().await;
        if let Err(status) = &result {
            tracing::warn!(service = self.announce.service, registry = %self.peer.address, %status, "not deregistered");
        }
        self.note(Standing::Ended(result));
    }

    fn note(&self, standing: Standing) {
        self.standing.send_modify(|all| {
            if let Some(own) = all.get_mut(self.index) {
                *own = standing;
            }
        });
    }

    /// Registers, and again whenever that is lost.
    async fn hold(&mut self) {
        loop {
            let Err(status) = self.session().await;
            let wait = self.backoff.next(fastrand::f64());
            tracing::warn!(service = self.announce.service, registry = %self.peer.address, %status, ?wait, "not registered");
            self.note(Standing::Trying(Some(status)));
            tokio::time::sleep(wait).await;
        }
    }

    async fn session(&mut self) -> Result<std::convert::Infallible, Status> {
        let peer = Arc::clone(&self.peer);
        let (number, client) = peer.client().await?;
        let Err(status) = self.stream(&client).await;
        peer.discard(number, &status).await;
        Err(status)
    }

    async fn stream(
        &mut self,
        client: &crate::generated::RegistryClient,
    ) -> Result<std::convert::Infallible, Status> {
        use register_response::Step;
        let peer = Arc::clone(&self.peer);
        let (mut requests, mut responses) = client.register(());
        self.heard();
        requests
            .send(step(register_request::Step::Announce(
                self.announce.clone(),
            )))
            .await?;
        let first = within(PATIENCE, &peer.address, responses.recv())
            .await?
            .ok_or_else(|| ended(&peer.address))?;
        let Some(Step::Granted(granted)) = first.step else {
            return Err(Status::internal(
                "the registry has not answered the announcement",
            ));
        };
        self.ttl = Duration::from_millis(granted.ttl_ms.into()).max(Duration::from_millis(10));
        self.heard();
        self.backoff.reset();
        tracing::info!(service = self.announce.service, registry = %peer.address, revision = granted.revision, "registered");
        self.note(Standing::Listed);
        let mut due = tokio::time::interval_at(Instant::now() + self.ttl / 3, self.ttl / 3);
        due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let silent = self.listed_until.unwrap_or_else(Instant::now);
            tokio::select! {
                _ = due.tick() => requests.send(step(register_request::Step::KeepAlive(KeepAlive {}))).await?,
                answer = responses.recv() => {
                    answer?.ok_or_else(|| ended(&peer.address))?;
                    self.heard();
                }
                () = tokio::time::sleep_until(silent) => {
                    return Err(Status::unavailable(format!("the registry {} is silent for {:?}", peer.address, self.ttl)));
                }
            }
        }
    }

    fn heard(&mut self) {
        self.listed_until = Instant::now().checked_add(self.ttl);
    }

    /// Deregisters where the endpoint may be listed.
    async fn farewell(&self) -> Result<(), Status> {
        let Some(listed_until) = self.listed_until else {
            return Ok(());
        };
        let deadline = Instant::now() + PATIENCE;
        let mut backoff = Backoff::default();
        loop {
            // A stream that broke unnoticed has kept the entry up to a TTL longer than was heard of it.
            if Instant::now() > listed_until + self.ttl {
                return Ok(());
            }
            let attempt = tokio::time::timeout_at(deadline, self.say_farewell()).await;
            let status = match attempt {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(status)) => status,
                Err(_) => Status::unavailable("it has not answered in time"),
            };
            let wait = backoff.next(fastrand::f64());
            if Instant::now() + wait >= deadline {
                let message = format!(
                    "the registry {} may still list {}",
                    self.peer.address, self.announce.service
                );
                return Err(Status::unavailable(message).with_source(status));
            }
            tokio::time::sleep(wait).await;
        }
    }

    async fn say_farewell(&self) -> Result<(), Status> {
        let (number, client) = self.peer.client().await?;
        let result = self.farewell_stream(&client).await;
        if let Err(status) = &result {
            self.peer.discard(number, status).await;
        }
        result
    }

    async fn farewell_stream(
        &self,
        client: &crate::generated::RegistryClient,
    ) -> Result<(), Status> {
        let instance_id = self
            .announce
            .instance
            .as_ref()
            .map_or(0, |instance| instance.id);
        let (mut requests, mut responses) = client.register(());
        let deregister = Deregister {
            service: self.announce.service.clone(),
            instance_id,
        };
        requests
            .send(step(register_request::Step::Deregister(deregister)))
            .await?;
        let answer = responses
            .recv()
            .await?
            .ok_or_else(|| ended(&self.peer.address))?;
        match answer.step {
            Some(register_response::Step::Deregistered(_)) => Ok(()),
            _ => Err(Status::internal(
                "the registry has not answered the deregistration",
            )),
        }
    }
}

fn step(step: register_request::Step) -> RegisterRequest {
    RegisterRequest { step: Some(step) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_registry_is_enough_to_be_ready() {
        let down = Standing::Trying(Some(Status::unavailable("refused")));
        assert!(settled(&[Standing::Trying(None), down.clone()]).is_none());
        assert!(settled(&[down, Standing::Listed]).unwrap().is_ok());
    }

    #[test]
    fn only_a_refusal_by_all_is_final() {
        let refused = || Standing::Trying(Some(Status::invalid_argument("no")));
        assert!(settled(&[refused(), Standing::Trying(None)]).is_none());
        let status = settled(&[refused(), refused()]).unwrap().unwrap_err();
        assert_eq!(status.message(), "no");
    }

    #[test]
    fn a_lease_that_has_ended_is_not_ready() {
        assert!(settled(&[Standing::Ended(Ok(()))]).unwrap().is_err());
    }
}
