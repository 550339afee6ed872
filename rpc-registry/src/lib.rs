//! Names, discovery, load balancing and failover for [`rpc_core`].
//!
//! Servers register under a name, clients find them by it and spread their calls over them:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // A server, once it listens:
//! let server = rpc_core::Server::builder().bind("127.0.0.1:0").await?;
//! let registry = rpc_registry::Registry::connect("registry://127.0.0.1:50100")?;
//! let address: rpc_core::client::Address = server.local_addr().to_string().parse()?;
//! let lease = registry.register("route-guide", address)?;
//! // It leaves the registry first when it is told to end.
//! server.on_shutdown(lease).serve_until_terminated().await?;
//!
//! // A client:
//! let channel = rpc_registry::connect("registry://127.0.0.1:50100/route-guide").await?;
//! # Ok(())
//! # }
//! ```
//!
//! The registry is an ordinary service, [`RegistryServer`], that runs inside any process or as the
//! program `rpc-registry`. Several of them are independent of each other: servers register with all
//! of them and clients follow any one, so that one that lives is enough.
//!
//! When all are down, clients go on with the servers that they know, and a dead one among these
//! stops being picked as its connection breaks. When one is back, it is told everything within
//! seconds, and nobody is forgotten in between. What a registry says of servers that still answer is
//! not believed without doubt: [`Registry::resolver`].
//!
//! A registry on another machine needs a token, and should have TLS: `registry+tls://host:port`, with
//! the token in the variable `RPC_REGISTRY_TOKEN` or given to [`Registry::builder`].

pub mod balance;
mod client;
mod convert;
mod generated;
mod hub;
mod identity;
mod resolve;
mod server;
mod state_file;
mod store;
mod target;

use rpc_core::client::{ChannelBuilder, StaticResolver};
use rpc_core::{Channel, Status};

pub use client::{Lease, Registry, RegistryBuilder};
pub use server::{DEFAULT_TTL, RegistryServer, RegistryServerBuilder};

use target::Target;

/// A channel to a name, once one of its endpoints is connected:
/// `registry://host:port,host:port/service` (`registry+tls://…` for registries with TLS), `static:host:port,host:port` or `memory:service`.
///
/// Calls are balanced by [`balance::LeastRequest`].
///
/// # Errors
/// `INVALID_ARGUMENT` for a target that is none; `UNAVAILABLE` naming target and cause when no
/// registry can be reached, nobody is registered, or no endpoint can be reached.
///
/// # Cancel safety
/// Dropping the future closes what it had opened.
pub async fn connect(uri: &str) -> Result<Channel, Status> {
    let channel = channel(uri)?;
    channel.ready().await?;
    Ok(channel)
}

/// A channel to a name that looks it up when the first call is made; for the rest as [`connect`].
///
/// # Errors
/// `INVALID_ARGUMENT` for a target that is none, `FAILED_PRECONDITION` outside a tokio runtime.
pub fn channel(uri: &str) -> Result<Channel, Status> {
    builder(uri, channel_builder())
}

/// What [`channel`] starts from: a [`ChannelBuilder`] that balances by [`balance::LeastRequest`].
#[must_use]
pub fn channel_builder() -> ChannelBuilder {
    Channel::builder().balancer(balance::LeastRequest::new())
}

/// A channel to a name with settings of its own, best made from [`channel_builder`]: a plain
/// [`ChannelBuilder`] sends every call to one endpoint.
///
/// # Errors
/// As [`channel`].
pub fn builder(uri: &str, settings: ChannelBuilder) -> Result<Channel, Status> {
    match Target::parse(uri)? {
        Target::Registry {
            uri: servers,
            service,
        } => settings.resolver(Registry::connect(&servers)?.resolver(&service), uri),
        Target::Static(endpoints) => {
            settings.resolver(Box::new(StaticResolver::new(endpoints)), uri)
        }
        Target::Memory(service) => {
            settings.resolver(Registry::memory_default().resolver(&service), uri)
        }
    }
}
