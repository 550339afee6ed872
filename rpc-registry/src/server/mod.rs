//! The registry as a service: [`RegistryServer`].

mod access;
mod leases;
mod watches;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rpc_core::server::{Service, ShutdownHook};
use rpc_core::{BoxFuture, Method, RecvStream, Request, SendStream, Status};

use crate::Registry;
use crate::generated::registry_service::{LIST, REGISTER};
use crate::generated::{self, ListRequest, ListResponse, ServiceEntries};
use crate::generated::{RegisterRequest, RegisterResponse, WatchRequest};
use crate::hub::Hub;
use access::Access;
use watches::Piece;

/// How long an instance stays listed without its stream.
pub const DEFAULT_TTL: Duration = Duration::from_secs(5);

/// The TTLs that a lease can have; others are moved into this range.
const TTL_RANGE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3600));

/// How many octets of entries are in one piece of a [`ListResponse`], about.
const LIST_PIECE: usize = 256 * 1024;

/// [`generated::registry_service::WATCH`] with instances that are encoded already.
const WATCH: Method<WatchRequest, Piece> =
    Method::bidi_streaming_prost("/rpc.registry.v1.Registry/Watch");

/// The registry as a service to add to any [`Server`](rpc_core::Server).
///
/// Callers on the same machine (loopback, unix sockets, the process itself) need no token unless one
/// is set; callers from elsewhere are refused until there is one:
/// [`RegistryServerBuilder::token`]. The server should have TLS then, so that nobody on the way reads
/// the token.
///
/// A registry that has just started says for a TTL and a second that servers may not have come back
/// to it yet: clients keep whom they know meanwhile, and a client that knows nobody waits for the
/// first one.
///
/// Cheap to clone; all clones are one registry. As a [`ShutdownHook`] it ends the streams of its
/// clients, so that they turn to another registry and the server need not wait for them:
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let token = std::fs::read_to_string("/etc/rpc-registry/token")?;
/// let registry = rpc_registry::RegistryServer::builder()
///     .state_file("/var/lib/rpc-registry/state")
///     .token(token)
///     .build()?;
/// let tls = rpc_core::ServerTls::from_files("/etc/rpc-registry/chain.pem", "/etc/rpc-registry/key.pem")?;
/// let server = rpc_core::Server::builder()
///     .tls(tls)
///     .add_service(registry.clone())
///     .on_shutdown(registry)
///     .bind("[::]:50100")
///     .await?;
/// server.serve_until_terminated().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RegistryServer {
    hub: Arc<Hub>,
    access: Arc<Access>,
}

/// Settings of a [`RegistryServer`].
#[derive(Clone, Debug)]
pub struct RegistryServerBuilder {
    ttl: Duration,
    state_file: Option<PathBuf>,
    access: Access,
}

impl RegistryServer {
    /// A registry that forgets everything when it ends, for callers on the same machine.
    #[must_use]
    pub fn new() -> Self {
        // Only the state file could fail.
        let hub = Hub::new(DEFAULT_TTL, None).unwrap_or_else(|_| Hub::memory());
        Self {
            hub: Arc::new(hub),
            access: Arc::default(),
        }
    }

    /// A registry with settings of its own.
    #[must_use]
    pub fn builder() -> RegistryServerBuilder {
        RegistryServerBuilder {
            ttl: DEFAULT_TTL,
            state_file: None,
            access: Access::default(),
        }
    }

    /// This registry for the process that it runs in, without a connection.
    #[must_use]
    pub fn registry(&self) -> Registry {
        Registry::local(Arc::clone(&self.hub))
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

    /// Demands this token of all callers, white space at its ends left out. Each further call of this
    /// adds one that is taken too, so that a token can be replaced while servers and clients still
    /// have the old one.
    #[must_use]
    pub fn token(mut self, token: impl AsRef<str>) -> Self {
        self.access.add_token(token.as_ref());
        self
    }

    /// Lets everyone who can reach this registry list and unlist servers, also from other machines.
    /// Only for networks where everyone is trusted; has no meaning beside a token.
    #[must_use]
    pub fn dangerous_open(mut self) -> Self {
        self.access.open = true;
        self
    }

    /// Reads the state file. A damaged one is logged, renamed to `….damaged-…` and started without.
    ///
    /// # Errors
    /// When the file exists and cannot be read or set aside, or a token is empty.
    pub fn build(self) -> io::Result<RegistryServer> {
        self.access.check()?;
        let file = self.state_file.clone();
        Hub::new(self.ttl, self.state_file)
            .map(|hub| RegistryServer {
                hub: Arc::new(hub),
                access: Arc::new(self.access),
            })
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
        let handler = Arc::new(server);
        Service::new(generated::RegistryServer::NAME)
            .bidi_streaming_fn(&REGISTER, &handler, RegistryServer::serve_register)
            .bidi_streaming_fn(&WATCH, &handler, RegistryServer::serve_watch)
            .server_streaming_fn(&LIST, &handler, RegistryServer::serve_list)
    }
}

impl ShutdownHook for RegistryServer {
    fn shutdown(&self) -> BoxFuture<'_, ()> {
        self.hub.close();
        Box::pin(std::future::ready(()))
    }
}

fn closing() -> Status {
    Status::unavailable("the registry shuts down")
}

impl RegistryServer {
    async fn serve_register(
        &self,
        request: Request<RecvStream<RegisterRequest>>,
        responses: &mut SendStream<RegisterResponse>,
    ) -> Result<(), Status> {
        let caller = self.access.admit(&request, "Register")?;
        self.hub.start_keeper();
        leases::serve(&self.hub, &caller, request.into_inner(), responses).await
    }

    async fn serve_watch(
        &self,
        request: Request<RecvStream<WatchRequest>>,
        responses: &mut SendStream<Piece>,
    ) -> Result<(), Status> {
        let caller = self.access.admit(&request, "Watch")?;
        self.hub.start_keeper();
        watches::serve(&self.hub, &caller, request.into_inner(), responses).await
    }

    async fn serve_list(
        &self,
        request: Request<ListRequest>,
        responses: &mut SendStream<ListResponse>,
    ) -> Result<(), Status> {
        self.access.admit(&request, "List")?;
        self.hub.start_keeper();
        let (revision, services) = self.hub.list(&request.into_inner().service);
        for services in in_pieces(services) {
            let piece = ListResponse {
                incarnation: self.hub.incarnation,
                revision,
                services,
            };
            tokio::select! {
                sent = responses.send(piece) => sent?,
                () = self.hub.closed() => return Err(closing()),
            }
        }
        Ok(())
    }
}

/// The same entries in pieces of about [`LIST_PIECE`]; one piece where there are none.
fn in_pieces(services: Vec<ServiceEntries>) -> Vec<Vec<ServiceEntries>> {
    use prost::Message;
    let (mut pieces, mut piece, mut size) = (Vec::new(), Vec::new(), 0);
    for ServiceEntries { service, entries } in services {
        let mut part = Vec::new();
        for entry in entries {
            size += entry.encoded_len();
            part.push(entry);
            if size >= LIST_PIECE {
                piece.push(ServiceEntries {
                    service: service.clone(),
                    entries: std::mem::take(&mut part),
                });
                pieces.push(std::mem::take(&mut piece));
                size = 0;
            }
        }
        if !part.is_empty() {
            size += service.len();
            piece.push(ServiceEntries {
                service,
                entries: part,
            });
        }
    }
    if !piece.is_empty() || pieces.is_empty() {
        pieces.push(piece);
    }
    pieces
}
