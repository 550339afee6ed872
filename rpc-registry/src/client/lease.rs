//! A server's place on the lists of the registries: [`Lease`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rpc_core::client::Endpoint;
use rpc_core::server::ShutdownHook;
use rpc_core::{BoxFuture, Status};
use tokio::sync::watch;

use super::peer::{Peer, is_refusal};
use crate::convert;
use crate::generated::Announce;
use crate::hub::Hub;
use crate::identity::Secret;

/// Keeps an endpoint registered for as long as it lives.
///
/// It is registered with every registry server of the URI, again and again for as long as one
/// cannot be reached. Dropping it deregisters in the background; a server that ends should call
/// [`Self::deregister`] instead, or give the lease to
/// [`BoundServer::on_shutdown`](rpc_core::server::BoundServer::on_shutdown), so that no client
/// comes any more when it closes.
///
/// The registration is the lease's own: it has a secret that registries ask for, so that nobody else
/// can change or end it.
#[must_use = "dropping a lease deregisters"]
pub struct Lease {
    service: String,
    endpoint: Mutex<Endpoint>,
    instance: u64,
    kind: Kind,
}

enum Kind {
    Local(Arc<Hub>),
    Remote {
        peers: Arc<[Arc<Peer>]>,
        standing: Arc<watch::Sender<Vec<Standing>>>,
        secret: Secret,
        ttl_ms: u32,
    },
}

/// Where one registry server stands with a lease.
#[derive(Clone, Debug)]
pub(crate) enum Standing {
    Trying(Option<Status>),
    Listed,
    Ended(Result<(), Status>),
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("service", &self.service)
            .field("endpoint", &self.endpoint())
            .finish_non_exhaustive()
    }
}

impl Lease {
    pub(crate) fn local(
        hub: Arc<Hub>,
        service: String,
        endpoint: Endpoint,
    ) -> Result<Self, Status> {
        hub.announce(&service, endpoint.clone(), None, 0)
            .map_err(|_| {
                Status::resource_exhausted("the registry has as many instances as it takes")
            })?;
        Ok(Self {
            service,
            instance: endpoint.instance,
            endpoint: Mutex::new(endpoint),
            kind: Kind::Local(hub),
        })
    }

    pub(crate) fn remote(
        peers: &Arc<[Arc<Peer>]>,
        service: String,
        endpoint: Endpoint,
        secret: Secret,
        ttl: Option<Duration>,
    ) -> Self {
        let trying = vec![Standing::Trying(None); peers.len()];
        let lease = Self {
            service,
            instance: endpoint.instance,
            endpoint: Mutex::new(endpoint),
            kind: Kind::Remote {
                peers: Arc::clone(peers),
                standing: Arc::new(watch::Sender::new(trying)),
                secret,
                ttl_ms: ttl.map_or(0, convert::to_milliseconds),
            },
        };
        lease.announce(&lease.endpoint(), |peer, announce, standing, index| {
            peer.hold(announce, standing, index);
        });
        lease
    }

    /// Gives what the lease says of itself to each registry.
    fn announce(
        &self,
        endpoint: &Endpoint,
        give: impl Fn(&Arc<Peer>, Announce, &Arc<watch::Sender<Vec<Standing>>>, usize),
    ) {
        if let Kind::Remote {
            peers,
            standing,
            secret,
            ttl_ms,
        } = &self.kind
        {
            for (index, peer) in peers.iter().enumerate() {
                let announce = Announce {
                    service: self.service.clone(),
                    instance: Some(convert::to_instance(endpoint)),
                    ttl_ms: *ttl_ms,
                    secret: secret.to_vec(),
                };
                give(peer, announce, standing, index);
            }
        }
    }

    /// The name of the service.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The endpoint as it is registered; its instance was chosen by [`Registry::register`](crate::Registry::register).
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Endpoint> {
        // Nothing that could panic runs while it is held.
        self.endpoint.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the weight, in place: clients see it without connecting anew. Returns at once; the
    /// registries are told in the background.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` after [`Self::deregister`].
    pub fn set_weight(&self, weight: u32) -> Result<(), Status> {
        self.update(|endpoint| endpoint.weight = weight)
    }

    /// Changes what the server says of itself, in place; for the rest as [`Self::set_weight`].
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for more than 16 KiB of metadata, `FAILED_PRECONDITION` after
    /// [`Self::deregister`].
    pub fn set_metadata(&self, metadata: BTreeMap<String, String>) -> Result<(), Status> {
        convert::valid_metadata(&metadata)?;
        self.update(|endpoint| endpoint.metadata = metadata)
    }

    fn update(&self, change: impl FnOnce(&mut Endpoint)) -> Result<(), Status> {
        // Announced under the lock, so that the last change is the last that is announced.
        let mut endpoint = self.lock();
        let mut changed = endpoint.clone();
        change(&mut changed);
        match &self.kind {
            Kind::Local(hub) => {
                let announced = hub.announce(&self.service, changed.clone(), None, 0);
                announced.map_err(|_| deregistered())?;
            }
            Kind::Remote { standing, .. } => {
                let ended = |one: &Standing| matches!(one, Standing::Ended(_));
                if standing.borrow().iter().any(ended) {
                    return Err(deregistered());
                }
                self.announce(&changed, |peer, announce, _, _| peer.change(announce));
            }
        }
        *endpoint = changed;
        Ok(())
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
        self.end();
        let standing = match &self.kind {
            Kind::Local(hub) => {
                let revision = hub.deregister(&self.service, self.instance);
                hub.saved(revision).await;
                return Ok(());
            }
            Kind::Remote { standing, .. } => standing,
        };
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

    fn end(&self) {
        match &self.kind {
            Kind::Local(hub) => {
                hub.deregister(&self.service, self.instance);
            }
            Kind::Remote { peers, .. } => peers.iter().for_each(|peer| peer.let_go(self.instance)),
        }
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

impl Drop for Lease {
    fn drop(&mut self) {
        self.end();
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
