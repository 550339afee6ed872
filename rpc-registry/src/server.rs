//! The registry as a service: [`RegistryServer`].

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rpc_core::server::{Service, ShutdownHook};
use rpc_core::{BoxFuture, RecvStream, Request, Response, SendStream, Status};

use crate::Registry;
use crate::convert;
use crate::generated::{self, register_request, register_response};
use crate::generated::{Announce, Deregistered, Granted, KeptAlive, ListRequest, ListResponse};
use crate::generated::{RegisterRequest, RegisterResponse, WatchRequest, WatchResponse};
use crate::hub::Hub;
use crate::store::Snapshot;

/// How long an instance stays listed without its stream.
pub const DEFAULT_TTL: Duration = Duration::from_secs(5);

/// The TTLs that a lease can have; others are moved into this range.
const TTL_RANGE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3600));

/// How much metadata one instance can have, keys and values together.
const METADATA_LIMIT: usize = 16 * 1024;

/// The registry as a service to add to any [`Server`](rpc_core::Server).
///
/// Cheap to clone; all clones are one registry. As a [`ShutdownHook`] it ends the streams of its
/// clients, so that they turn to another registry and the server need not wait for them:
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let registry = rpc_registry::RegistryServer::builder().state_file("/var/lib/rpc-registry/state").build()?;
/// let server = rpc_core::Server::builder().add_service(registry.clone()).on_shutdown(registry).bind("[::]:50100").await?;
/// server.serve_until_terminated().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RegistryServer(Arc<Hub>);

/// Settings of a [`RegistryServer`].
#[derive(Clone, Debug)]
pub struct RegistryServerBuilder {
    ttl: Duration,
    state_file: Option<PathBuf>,
}

impl RegistryServer {
    /// A registry that forgets everything when it ends.
    #[must_use]
    pub fn new() -> Self {
        // Only the state file could fail.
        Self(Arc::new(
            Hub::new(DEFAULT_TTL, None).unwrap_or_else(|_| Hub::memory()),
        ))
    }

    /// A registry with settings of its own.
    #[must_use]
    pub fn builder() -> RegistryServerBuilder {
        RegistryServerBuilder {
            ttl: DEFAULT_TTL,
            state_file: None,
        }
    }

    /// This registry for the process that it runs in, without a connection.
    #[must_use]
    pub fn registry(&self) -> Registry {
        Registry::local(Arc::clone(&self.0))
    }
}

impl Default for RegistryServer {
    fn default() -> Self {
        Self::new()
    }
}

impl RegistryServerBuilder {
    /// How long an instance that asks for no other TTL stays listed without its stream; 5 s by default.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl.clamp(TTL_RANGE.0, TTL_RANGE.1);
        self
    }

    /// Keeps the list in a file, so that a restarted registry knows it; its entries then have their
    /// TTL, counted from the restart, to be taken up again.
    #[must_use]
    pub fn state_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_file = Some(path.into());
        self
    }

    /// Reads the state file. A damaged one is logged, renamed to `….damaged-…` and started without.
    ///
    /// # Errors
    /// When the file exists and cannot be read or set aside.
    pub fn build(self) -> io::Result<RegistryServer> {
        let file = self.state_file.clone();
        Hub::new(self.ttl, self.state_file)
            .map(|hub| RegistryServer(Arc::new(hub)))
            .map_err(|error| {
                let file = file.unwrap_or_default();
                io::Error::new(
                    error.kind(),
                    format!("the state file {} cannot be used: {error}", file.display()),
                )
            })
    }
}

impl From<RegistryServer> for Service {
    fn from(server: RegistryServer) -> Self {
        generated::RegistryServer::new(Handler(server.0)).into()
    }
}

impl ShutdownHook for RegistryServer {
    fn shutdown(&self) -> BoxFuture<'_, ()> {
        self.0.close();
        Box::pin(std::future::ready(()))
    }
}

struct Handler(Arc<Hub>);

/// A lease in force; its end, however it comes, leaves the entry its TTL.
struct Held {
    hub: Arc<Hub>,
    service: String,
    instance: u64,
    lease: u64,
    ttl: Duration,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.hub.detach(&self.service, self.instance, self.lease);
    }
}

fn closing() -> Status {
    Status::unavailable("the registry shuts down")
}

impl Handler {
    fn announce(&self, announce: Announce) -> Result<(Held, Granted), Status> {
        convert::valid_service(&announce.service)?;
        let instance = announce
            .instance
            .ok_or_else(|| Status::invalid_argument("the announcement names no instance"))?;
        let metadata: usize = instance
            .metadata
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        if metadata > METADATA_LIMIT {
            return Err(Status::invalid_argument(format!(
                "{metadata} bytes of metadata are more than {METADATA_LIMIT}"
            )));
        }
        let endpoint = convert::to_endpoint(instance)?;
        let ttl = match announce.ttl_ms {
            0 => self.0.ttl,
            asked => Duration::from_millis(asked.into()).clamp(TTL_RANGE.0, TTL_RANGE.1),
        };
        let (address, instance) = (endpoint.address.to_string(), endpoint.instance);
        let grant = self.0.announce(&announce.service, endpoint, Some(ttl));
        let grant = grant
            .ok_or_else(|| Status::failed_precondition("the instance has deregistered itself"))?;
        tracing::info!(
            service = announce.service,
            address,
            instance,
            revision = grant.revision,
            "registered"
        );
        let granted = Granted {
            lease_id: grant.lease,
            revision: grant.revision,
            incarnation: self.0.incarnation,
            ttl_ms: convert::to_milliseconds(ttl),
        };
        Ok((
            Held {
                hub: Arc::clone(&self.0),
                service: announce.service,
                instance,
                lease: grant.lease,
                ttl,
            },
            granted,
        ))
    }

    fn state(&self, snapshot: &Snapshot) -> WatchResponse {
        WatchResponse {
            incarnation: self.0.incarnation,
            revision: snapshot.revision,
            ttl_ms: convert::to_milliseconds(self.0.ttl),
            unchanged: false,
            instances: snapshot
                .endpoints
                .iter()
                .map(convert::to_instance)
                .collect(),
            departed: snapshot.departed.clone(),
        }
    }
}

impl generated::Registry for Handler {
    async fn register(
        &self,
        request: Request<RecvStream<RegisterRequest>>,
        responses: &mut SendStream<RegisterResponse>,
    ) -> Result<(), Status> {
        use {register_request::Step as Asked, register_response::Step as Answer};
        self.0.start_keeper();
        let mut requests = request.into_inner();
        let mut held: Option<Held> = None;
        loop {
            let patience = held.as_ref().map_or(self.0.ttl, |held| held.ttl);
            let asked = tokio::select! {
                asked = tokio::time::timeout(patience, requests.recv()) => asked,
                () = self.0.closed() => return Err(closing()),
            };
            let Ok(asked) = asked else {
                // Before the lease is dropped: a silent one has had its TTL.
                self.0.expire();
                return Err(Status::aborted(format!(
                    "nothing heard for {patience:?}; announce again"
                )));
            };
            let Some(asked) = asked? else { return Ok(()) };
            let answer = match asked.step {
                Some(Asked::Announce(announce)) => {
                    let (new, granted) = self.announce(announce)?;
                    held = Some(new);
                    Answer::Granted(granted)
                }
                Some(Asked::KeepAlive(_)) => {
                    let alive = held.as_ref().is_some_and(|held| {
                        self.0.keep_alive(&held.service, held.instance, held.lease)
                    });
                    if !alive {
                        return Err(Status::aborted("the lease is not in force; announce again"));
                    }
                    Answer::KeptAlive(KeptAlive {})
                }
                Some(Asked::Deregister(who)) => {
                    convert::valid_service(&who.service)?;
                    let revision = self.0.deregister(&who.service, who.instance_id);
                    tracing::info!(
                        service = who.service,
                        instance = who.instance_id,
                        revision,
                        "deregistered"
                    );
                    self.0.saved(revision).await;
                    Answer::Deregistered(Deregistered { revision })
                }
                None => {
                    return Err(Status::unimplemented(
                        "this registry does not know that step",
                    ));
                }
            };
            responses
                .send(RegisterResponse { step: Some(answer) })
                .await?;
        }
    }

    async fn watch(
        &self,
        request: Request<WatchRequest>,
        responses: &mut SendStream<WatchResponse>,
    ) -> Result<(), Status> {
        self.0.start_keeper();
        let service = request.into_inner().service;
        convert::valid_service(&service)?;
        let mut list = self.0.watch(&service);
        loop {
            let snapshot = Arc::clone(&list.borrow_and_update());
            responses.send(self.state(&snapshot)).await?;
            loop {
                tokio::select! {
                    changed = list.changed() => match changed {
                        Ok(()) => break,
                        // The last watcher of a service may find its sender replaced: it asks anew.
                        Err(_) => { list = self.0.watch(&service); break }
                    },
                    () = tokio::time::sleep(self.0.ttl) => {
                        let sign = WatchResponse { unchanged: true, instances: Vec::new(), departed: Vec::new(), ..self.state(&Snapshot::default()) };
                        responses.send(WatchResponse { revision: snapshot.revision, ..sign }).await?;
                    }
                    () = self.0.closed() => return Err(closing()),
                }
            }
        }
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        self.0.start_keeper();
        Ok(Response::new(self.0.list(&request.into_inner().service)))
    }
}
