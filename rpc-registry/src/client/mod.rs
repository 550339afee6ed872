//! Registering and finding: [`Registry`].

mod backoff;
mod builder;
mod holder;
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
use crate::identity::Secret;
use crate::resolve::MemoryResolver;
use peer::Peer;

pub use builder::RegistryBuilder;
pub use lease::Lease;

/// Where servers register under a name and clients find them by it.
///
/// Cheap to clone; the clones share their connections: all leases and watches of a handle go over one
/// connection to each registry server.
///
/// The registry servers of one URI are independent of each other: a server registers with all of
/// them, and a client follows all of them, so that one that lives is enough and one that is wrong
/// does no harm.
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
    /// The registry servers at `registry://host:port,host:port`, or `registry+tls://…` for those that
    /// have TLS; for other settings than those of the environment see [`Self::builder`].
    ///
    /// Does not wait for them: connections are opened when they are needed, and again for as long
    /// as something is registered or watched.
    ///
    /// # Errors
    /// As [`RegistryBuilder::build`].
    pub fn connect(uri: &str) -> Result<Self, Status> {
        Self::builder(uri).build()
    }

    /// Settings for the registry servers of a URI as in [`Self::connect`].
    pub fn builder(uri: &str) -> RegistryBuilder {
        RegistryBuilder::new(uri)
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
    /// an empty name or more than 16 KiB of metadata; `FAILED_PRECONDITION` outside a tokio runtime.
    pub fn register(&self, service: &str, endpoint: impl Into<Endpoint>) -> Result<Lease, Status> {
        convert::valid_service(service)?;
        let mut endpoint = endpoint.into();
        convert::advertisable(&endpoint.address)?;
        convert::valid_metadata(&endpoint.metadata)?;
        let (secret, instance) = Secret::random()
            .ok_or_else(|| Status::unavailable("the system gives no random numbers"))?;
        endpoint.instance = instance;
        match &self.backend {
            Backend::Local(hub) => Lease::local(Arc::clone(hub), service.to_owned(), endpoint),
            Backend::Remote(peers) => {
                tokio::runtime::Handle::try_current().map_err(|error| {
                    Status::failed_precondition("registering needs a tokio runtime to run in")
                        .with_source(error)
                })?;
                let service = service.to_owned();
                Ok(Lease::remote(peers, service, endpoint, secret, self.ttl))
            }
        }
    }

    /// Follows the endpoints of a service, to give to
    /// [`ChannelBuilder::resolver`](rpc_core::client::ChannelBuilder::resolver).
    ///
    /// The lists of all registry servers are one. While none can be reached, the last list stays.
    /// Who deregisters goes at once; whom the registries drop without that stays for as long as its
    /// connection holds, and if they drop more than half of the members, they are not believed while
    /// one of these answers. A first list is waited for, also while a registry that has just started
    /// waits for its servers.
    #[must_use]
    pub fn resolver(&self, service: &str) -> Box<dyn Resolver> {
        match &self.backend {
            Backend::Local(hub) => Box::new(MemoryResolver::new(hub, service)),
            Backend::Remote(peers) => {
                Box::new(watch::RemoteResolver::new(peers, service.to_owned()))
            }
        }
    }
}
