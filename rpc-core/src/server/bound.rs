//! A server with its socket open: [`BoundServer`].

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::accept::Accepting;
use super::builder::ServerBuilder;
use super::connection::Served;
use super::listener::{Listener, ServeError};
use super::load::Load;
use super::places::Places;
use super::shutdown::{ShutdownHandle, ShutdownHook};
use crate::health::Health;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BoundAddr {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A unix socket. Its file is removed as soon as the server takes no more connections, unless
    /// another server has put its own there.
    Unix(PathBuf),
    /// A unix socket of Linux's abstract namespace, which has no file.
    UnixAbstract(Arc<str>),
}

impl BoundAddr {
    /// The TCP port; 0 for a unix socket.
    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            Self::Tcp(address) => address.port(),
            Self::Unix(_) | Self::UnixAbstract(_) => 0,
        }
    }
}

impl fmt::Display for BoundAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::UnixAbstract(name) => write!(f, "unix-abstract:{name}"),
        }
    }
}

/// What a server holds for its calls at the moment, for a gauge.
#[derive(Clone, Debug)]
pub struct HeldMemory(Arc<Load>);

impl HeldMemory {
    /// How many bytes count against [`ServerBuilder::memory_budget`] now.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.held()
    }
}

/// A server whose socket is open; connections wait until it serves.
pub struct BoundServer {
    builder: ServerBuilder,
    listeners: Vec<Listener>,
    address: BoundAddr,
    shutdown: ShutdownHandle,
    load: Arc<Load>,
}

impl fmt::Debug for BoundServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl BoundServer {
    pub(crate) fn new(
        builder: ServerBuilder,
        listeners: Vec<Listener>,
        address: BoundAddr,
    ) -> Self {
        Self {
            load: Load::new(&builder.options),
            builder,
            listeners,
            address,
            shutdown: ShutdownHandle::new(),
        }
    }

    /// Where it listens, with the port that the system chose.
    #[must_use]
    pub fn local_addr(&self) -> &BoundAddr {
        &self.address
    }

    /// What a client connects to.
    #[must_use]
    pub fn uri(&self) -> String {
        #[cfg(feature = "tls")]
        let scheme = if self.builder.tls.is_some() {
            "https"
        } else {
            "http"
        };
        #[cfg(not(feature = "tls"))]
        let scheme = "http";
        match &self.address {
            // RFC 6874: the zone of a link-local address is behind `%25` there.
            BoundAddr::Tcp(address) => {
                format!("{scheme}://{}", address.to_string().replace('%', "%25"))
            }
            BoundAddr::Unix(_) | BoundAddr::UnixAbstract(_) => self.address.to_string(),
        }
    }

    /// Has something done first when the server ends, like [`ServerBuilder::on_shutdown`]: for what
    /// needs the port that the system chose, such as a registry's lease.
    #[must_use]
    pub fn on_shutdown(mut self, hook: impl ShutdownHook) -> Self {
        self.builder.hooks.push(Box::new(hook));
        self
    }

    /// Starts the graceful end from elsewhere.
    #[must_use]
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.shutdown.clone()
    }

    /// How much the server holds for its calls, to be watched while it serves.
    #[must_use]
    pub fn held_memory(&self) -> HeldMemory {
        HeldMemory(Arc::clone(&self.load))
    }

    /// Serves until SIGTERM or ctrl-c, then ends gracefully; a second signal ends it at once.
    ///
    /// # Errors
    /// When the signals cannot be listened for.
    ///
    /// # Cancel safety
    /// Dropping the future closes the server abruptly.
    pub async fn serve_until_terminated(self) -> Result<(), ServeError> {
        let address = self.address.to_string();
        let failed = |source: io::Error| ServeError {
            address: address.clone(),
            what: "listening for SIGTERM at",
            source: source.into(),
        };
        #[cfg(unix)]
        let (mut terminate, mut interrupt) = {
            use tokio::signal::unix::{SignalKind, signal};
            (
                signal(SignalKind::terminate()).map_err(failed)?,
                signal(SignalKind::interrupt()).map_err(failed)?,
            )
        };
        #[cfg(windows)]
        let mut interrupt = tokio::signal::windows::ctrl_c().map_err(failed)?;
        let handle = self.shutdown_handle();
        let signals = async move {
            loop {
                #[cfg(unix)]
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                #[cfg(windows)]
                interrupt.recv().await;
                tracing::info!("terminating");
                handle.shutdown();
            }
        };
        tokio::select! {
            served = self.serve() => served,
            () = signals => Ok(()),
        }
    }

    /// Serves until [`ShutdownHandle::shutdown`] is called and the open calls are done.
    ///
    /// # Errors
    /// None today; an accept error is logged and accepting goes on.
    ///
    /// # Cancel safety
    /// Dropping the future closes the server abruptly.
    pub async fn serve(self) -> Result<(), ServeError> {
        let Self {
            builder,
            listeners,
            address,
            shutdown,
            load,
        } = self;
        let goaway = ShutdownHandle::new();
        let user_timeout = builder.user_timeout();
        let accepting = Accepting {
            places: Places::new(builder.max_connections),
            served: Served::with_load(builder.router, builder.options, load),
            #[cfg(feature = "tls")]
            tls: builder.tls,
            user_timeout,
            goaway: goaway.clone(),
        };
        tracing::info!(%address, "listening");
        let loops: JoinSet<()> = listeners
            .into_iter()
            .map(|listener| accepting.clone().run(listener))
            .collect();
        shutdown.requested().await;
        let ending = Ending {
            hooks: builder.hooks,
            health: builder.health,
            goaway,
            loops,
            time: builder.drain_timeout,
        };
        tokio::select! {
            () = ending.drain() => {}
            () = shutdown.requested_again() => {
                tracing::warn!("told to end a second time: open calls are cut");
            }
        }
        Ok(())
    }
}

/// The graceful end of a server.
struct Ending {
    hooks: Vec<Box<dyn ShutdownHook>>,
    health: Option<Health>,
    goaway: ShutdownHandle,
    /// The accept loops, with their connections.
    loops: JoinSet<()>,
    /// What all of it may take.
    time: Duration,
}

impl Ending {
    async fn drain(self) {
        let time = self.time;
        if tokio::time::timeout(time, self.drain_slowly())
            .await
            .is_err()
        {
            tracing::warn!(timeout = ?time, "the drain timeout passed: open calls and hooks are cut");
        }
    }

    async fn drain_slowly(mut self) {
        let mut hooks: JoinSet<()> = self
            .hooks
            .into_iter()
            .map(|hook| async move { hook.shutdown().await })
            .collect();
        // Clients that still find this server by name are served until the hooks have taken it out.
        let patience = self.time / 2;
        if tokio::time::timeout(patience, join(&mut hooks))
            .await
            .is_err()
        {
            tracing::warn!(
                hooks = hooks.len(),
                ?patience,
                "shutdown hooks did not end in time: clients are told to go away without them"
            );
        }
        if let Some(health) = &self.health {
            health.shutdown();
        }
        tracing::info!("draining");
        self.goaway.shutdown();
        join(&mut self.loops).await;
        join(&mut hooks).await;
    }
}

/// Waits for all of them; a panic of one is none of the others'.
async fn join(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a part of the server's end panicked");
        }
    }
}
