//! Registering and finding: [`Registry`].

mod backoff;
mod lease;
mod peer;
mod view;
mod watch;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rpc_core::Status;
use rpc_core::client::{Endpoint, Resolver};

use crate::convert;
use crate::hub::Hub;
use crate::resolve::MemoryResolver;
use crate::target::Target;
use peer::Peer;

pub use lease::Lease;

/// Where servers register under a name and clients find them by it.
///
/// Cheap to clone; the clones share their connections.
///
/// The registry servers of one URI are independent of each other: a server registers with all of
/// them, a client follows one and turns to the next when it fails.
#[derive(Clone, Debug)]
pub struct Registry {
    backend: Backend,
    ttl: Option<Duration>,
}

#[derive(Clone, Debug)]
enum Backend {
    Local(Arc<Hub>),
    Remote(Arc<[Arc<Peer>]>),
}

impl Registry {
    /// The registry servers at `registry://host:port,host:port`.
    ///
    /// Does not wait for them: connections are opened when they are needed, and again for as long
    /// as something is registered or watched.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for what is no such URI.
    pub fn connect(uri: &str) -> Result<Self, Status> {
        let servers = Target::parse_registry(uri)?;
        let peers = servers
            .into_iter()
            .map(|address| Arc::new(Peer::new(address)))
            .collect();
        Ok(Self {
            backend: Backend::Remote(peers),
            ttl: None,
        })
    }

    /// A registry of this process, without a server.
    #[must_use]
    pub fn memory() -> Self {
        Self::local(Arc::new(Hub::memory()))
    }

    /// The registry of this process that `memory:service` means.
    #[must_use]
    pub fn memory_default() -> Self {
        static DEFAULT: OnceLock<Registry> = OnceLock::new();
        DEFAULT.get_or_init(Self::memory).clone()
    }

    pub(crate) fn local(hub: Arc<Hub>) -> Self {
        Self {
            backend: Backend::Local(hub),
            ttl: None,
        }
    }

    /// How long what is registered through this handle stays listed when its process is gone; from
    /// 100 ms to an hour, by default what the registry says (5 s).
    #[must_use]
    pub fn lease_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Registers an endpoint of a service. Returns at once and registers in the background, again
    /// whenever a registry server is lost: [`Lease::ready`] waits for it.
    ///
    /// The endpoint's `instance` is replaced by a random one that stands for this registration.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for an address that clients cannot connect to, such as `0.0.0.0`, and for
    /// an empty name; `FAILED_PRECONDITION` outside a tokio runtime.
    pub fn register(&self, service: &str, endpoint: impl Into<Endpoint>) -> Result<Lease, Status> {
        convert::valid_service(service)?;
        let mut endpoint = endpoint.into();
        convert::advertisable(&endpoint.address)?;
        endpoint.instance = fastrand::u64(1..);
        match &self.backend {
            Backend::Local(hub) => Ok(Lease::local(Arc::clone(hub), service.to_owned(), endpoint)),
            Backend::Remote(peers) => {
                tokio::runtime::Handle::try_current().map_err(|error| {
                    Status::failed_precondition("registering needs a tokio runtime to run in")
                        .with_source(error)
                })?;
                Ok(Lease::remote(peers, service.to_owned(), endpoint, self.ttl))
            }
        }
    }

    /// Follows the endpoints of a service, to give to
    /// [`ChannelBuilder::resolver`](rpc_core::client::ChannelBuilder::resolver).
    ///
    /// While no registry server can be reached, the last list stays. After a reconnect a member
    /// that is missing stays for the registry's TTL and a second more, as it may not have come back
    /// yet; one that deregistered goes at once.
    #[must_use]
    pub fn resolver(&self, service: &str) -> Box<dyn Resolver> {
        match &self.backend {
            Backend::Local(hub) => Box::new(MemoryResolver::new(hub.watch(service))),
            Backend::Remote(peers) => Box::new(watch::RemoteResolver::new(
                peers.to_vec(),
                service.to_owned(),
            )),
        }
    }
}
