//! What the processes of a fleet do: a server of the `Orders` service, or a registry.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rpc_core::client::Address;
use rpc_core::server::ShutdownHook;
use rpc_core::{BoxFuture, Request, Response, SendStream, Server, Status};
use rpc_registry::{Lease, Registry, RegistryServer};

use crate::ledger::{Act, Ledger};
use crate::orders::{Event, FollowRequest, Order, Orders, OrdersServer, Receipt};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// What a process of a fleet is started as.
#[derive(Clone, Debug)]
pub enum Role {
    /// `server LISTEN REGISTRY LEDGER`
    Server {
        /// Where it listens; port 0 chooses one.
        listen: String,
        /// Where it registers.
        registry: String,
        /// What it has done.
        ledger: PathBuf,
    },
    /// `registry LISTEN STATE`
    Registry {
        /// Where it listens; port 0 chooses one.
        listen: String,
        /// Its state file.
        state: PathBuf,
    },
}

/// The name that servers register under.
pub const SERVICE: &str = "orders";

impl Role {
    pub(crate) fn arguments(&self) -> Vec<String> {
        let text = |path: &PathBuf| path.display().to_string();
        match self {
            Self::Server {
                listen,
                registry,
                ledger,
            } => vec![
                "server".into(),
                listen.clone(),
                registry.clone(),
                text(ledger),
            ],
            Self::Registry { listen, state } => {
                vec!["registry".into(), listen.clone(), text(state)]
            }
        }
    }

    /// The role of this process, if it was started for one.
    #[must_use]
    pub fn of_this_process() -> Option<Self> {
        let mut words = std::env::args().skip(1);
        match (
            words.next()?.as_str(),
            words.next()?,
            words.next()?,
            words.next(),
        ) {
            ("server", listen, registry, Some(ledger)) => Some(Self::Server {
                listen,
                registry,
                ledger: ledger.into(),
            }),
            ("registry", listen, state, None) => Some(Self::Registry {
                listen,
                state: state.into(),
            }),
            _ => None,
        }
    }

    /// Plays the role until SIGTERM, or until the process that started this one is gone.
    pub fn play(self) -> ExitCode {
        std::thread::spawn(|| {
            // Nothing is ever written to it: it ends when the starting process does.
            let _ = std::io::stdin().read(&mut [0]);
            std::process::exit(3);
        });
        let played = tokio::runtime::Runtime::new()
            .map_err(Into::into)
            .and_then(|runtime| {
                runtime.block_on(async {
                    match self {
                        Self::Server {
                            listen,
                            registry,
                            ledger,
                        } => serve(&listen, &registry, ledger).await,
                        Self::Registry { listen, state } => keep_registry(&listen, state).await,
                    }
                })
            });
        match played {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        }
    }
}

fn say_listening(address: impl std::fmt::Display) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "listening on {address}")?;
    out.flush()
}

async fn keep_registry(listen: &str, state: PathBuf) -> Outcome {
    let registry = RegistryServer::builder().state_file(state).build()?;
    let server = Server::builder()
        .add_service(registry.clone())
        .on_shutdown(registry)
        .bind(listen)
        .await?;
    say_listening(server.local_addr())?;
    Ok(server.serve_until_terminated().await?)
}

async fn serve(listen: &str, registry: &str, ledger: PathBuf) -> Outcome {
    let ledger = Arc::new(Ledger::open(&ledger)?);
    let server = Server::builder()
        .add_service(OrdersServer::new(Book(Arc::clone(&ledger))))
        .bind(listen)
        .await?;
    let address: Address = server.local_addr().to_string().parse()?;
    let lease = Registry::connect(registry)?.register(SERVICE, address)?;
    let place = Arc::new(Place { lease, ledger });
    let server = server.on_shutdown(Leaving(Arc::clone(&place)));
    say_listening(server.local_addr())?;
    let registered = tokio::spawn(async move {
        place.lease.ready().await?;
        place.write(Act::Registered, 0)
    });
    server.serve_until_terminated().await?;
    registered.abort();
    Ok(())
}

struct Place {
    lease: Lease,
    ledger: Arc<Ledger>,
}

impl Place {
    fn write(&self, act: Act, id: u64) -> Result<(), Status> {
        written(&self.ledger, act, id)
    }
}

/// Writes down when the registries have let go of the server.
struct Leaving(Arc<Place>);

impl ShutdownHook for Leaving {
    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let left = self.0.lease.deregister().await;
            if let Err(status) = left.and_then(|()| self.0.write(Act::Deregistered, 0)) {
                eprintln!("leaving the registry: {status}");
            }
        })
    }
}

fn written(ledger: &Ledger, act: Act, id: u64) -> Result<(), Status> {
    ledger
        .write(act, id)
        .map_err(|error| Status::internal(format!("writing the ledger: {error}")))
}

/// The time that one step of the service takes: long enough that calls are in flight at any moment.
const WORK: Duration = Duration::from_millis(2);

/// The service: everything is in the ledger before it is in the reply.
struct Book(Arc<Ledger>);

impl Orders for Book {
    async fn look(&self, request: Request<Order>) -> Result<Response<Receipt>, Status> {
        let id = request.get_ref().id;
        tokio::time::sleep(WORK).await;
        written(&self.0, Act::Looked, id)?;
        Ok(Response::new(Receipt { id }))
    }

    async fn place(&self, request: Request<Order>) -> Result<Response<Receipt>, Status> {
        let id = request.get_ref().id;
        tokio::time::sleep(WORK).await;
        written(&self.0, Act::Placed, id)?;
        Ok(Response::new(Receipt { id }))
    }

    async fn follow(
        &self,
        request: Request<FollowRequest>,
        events: &mut SendStream<Event>,
    ) -> Result<(), Status> {
        let FollowRequest { id, first, last } = request.into_inner();
        written(&self.0, Act::Followed, id)?;
        for index in first..=last {
            tokio::time::sleep(WORK).await;
            events.send(Event { index }).await?;
        }
        Ok(())
    }
}
