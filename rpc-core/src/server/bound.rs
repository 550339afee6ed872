//! A server with its socket open: [`BoundServer`].

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::builder::ServerBuilder;
use super::connection::Served;
use super::shutdown::{ShutdownHandle, ShutdownHook};
use crate::client::Address;
use crate::request::PeerAddr;
use crate::transport::connector::{Io, prepare};

/// Why a server could not be started.
#[derive(Debug)]
pub struct ServeError {
    address: String,
    what: &'static str,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} failed: {}", self.what, self.address, self.source)
    }
}

impl std::error::Error for ServeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BoundAddr {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl BoundAddr {
    /// The TCP port; 0 for a unix socket.
    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            Self::Tcp(address) => address.port(),
            Self::Unix(_) => 0,
        }
    }
}

impl fmt::Display for BoundAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

pub(crate) enum Listener {
    Tcp(TcpListener, SocketAddr),
    #[cfg(unix)]
    Unix(UnixListener, PathBuf),
}

impl Listener {
    pub(crate) async fn bind(text: &str) -> Result<Self, ServeError> {
        let error = |what, source: Box<dyn std::error::Error + Send + Sync>| ServeError {
            address: text.to_owned(),
            what,
            source,
        };
        let address: Address = text
            .parse()
            .map_err(|why| error("listening on", Box::new(why)))?;
        match address {
            Address::Tcp { host, port } => {
                let listener = TcpListener::bind((&*host, port))
                    .await
                    .map_err(|why| error("listening on", why.into()))?;
                Self::tcp(listener)
            }
            #[cfg(unix)]
            Address::Unix(path) => {
                // A socket file that nobody listens on any more is in the way of the next process.
                if std::os::unix::net::UnixStream::connect(&path)
                    .is_err_and(|why| why.kind() == io::ErrorKind::ConnectionRefused)
                {
                    let _ = std::fs::remove_file(&path);
                }
                let listener =
                    UnixListener::bind(&path).map_err(|why| error("listening on", why.into()))?;
                Ok(Self::Unix(listener, path.to_path_buf()))
            }
            _ => Err(error(
                "listening on",
                "a server needs host:port or unix:/path".into(),
            )),
        }
    }

    pub(crate) fn tcp(listener: TcpListener) -> Result<Self, ServeError> {
        let address = listener.local_addr().map_err(|why| ServeError {
            address: "the given socket".to_owned(),
            what: "reading the address of",
            source: why.into(),
        })?;
        Ok(Self::Tcp(listener, address))
    }

    async fn accept(&self) -> io::Result<(Box<dyn Io>, PeerAddr)> {
        match self {
            Self::Tcp(listener, _) => {
                let (stream, peer) = listener.accept().await?;
                prepare(&stream)?;
                Ok((Box::new(stream), PeerAddr::Tcp(peer)))
            }
            #[cfg(unix)]
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((Box::new(stream), PeerAddr::Unix))
            }
        }
    }
}

/// A server whose socket is open; connections wait until it serves.
pub struct BoundServer {
    builder: ServerBuilder,
    listener: Listener,
    address: BoundAddr,
    shutdown: ShutdownHandle,
}

impl fmt::Debug for BoundServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl BoundServer {
    pub(crate) fn new(builder: ServerBuilder, listener: Listener) -> Self {
        let address = match &listener {
            Listener::Tcp(_, address) => BoundAddr::Tcp(*address),
            #[cfg(unix)]
            Listener::Unix(_, path) => BoundAddr::Unix(path.clone()),
        };
        Self {
            builder,
            listener,
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
            BoundAddr::Tcp(address) => format!("{scheme}://{address}"),
            BoundAddr::Unix(_) => self.address.to_string(),
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

    /// Serves until SIGTERM or ctrl-c, then ends gracefully.
    ///
    /// # Errors
    /// When the signals cannot be listened for.
    ///
    /// # Cancel safety
    /// Dropping the future closes the server abruptly.
    pub async fn serve_until_terminated(self) -> Result<(), ServeError> {
        let address = self.address.to_string();
        let failed = |source: io::Error| ServeError {
            address,
            what: "listening for SIGTERM at",
            source: source.into(),
        };
        #[cfg(unix)]
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
                .map_err(failed)?;
        let handle = self.shutdown_handle();
        let signals = async move {
            #[cfg(unix)]
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            #[cfg(not(unix))]
            let _ = tokio::signal::ctrl_c().await;
            tracing::info!("terminating");
            handle.shutdown();
            std::future::pending::<()>().await;
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
            listener,
            address,
            shutdown,
        } = self;
        let slots = Arc::new(Semaphore::new(
            builder.max_connections.min(Semaphore::MAX_PERMITS),
        ));
        let served = Served::new(builder.router.clone(), builder.options.clone());
        let goaway = ShutdownHandle::new();
        let mut connections = JoinSet::new();
        tracing::info!(%address, "listening");
        let accepting = async {
            loop {
                let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                    break;
                };
                match listener.accept().await {
                    Ok((io, peer)) => {
                        while connections.try_join_next().is_some() {}
                        let served = served.clone();
                        let goaway = goaway.clone();
                        #[cfg(feature = "tls")]
                        let tls = builder.tls.clone();
                        connections.spawn(async move {
                            let _slot = slot;
                            #[cfg(feature = "tls")]
                            if let Some(tls) = tls {
                                match tokio::time::timeout(Duration::from_secs(10), tls.accept(io))
                                    .await
                                {
                                    Ok(Ok(io)) => served.serve(io, peer, goaway).await,
                                    Ok(Err(error)) => {
                                        tracing::debug!(%error, "a TLS handshake failed")
                                    }
                                    Err(_) => {
                                        tracing::debug!("a TLS handshake took longer than 10 s")
                                    }
                                }
                                return;
                            }
                            served.serve(io, peer, goaway).await;
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "accepting a connection failed; accepting goes on");
                        // Out of descriptors, the next accept would fail at once.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        };
        // Clients that still find this server by name are served until the hooks have taken it out.
        let leaving = async {
            shutdown.requested().await;
            for hook in &builder.hooks {
                hook.shutdown().await;
            }
        };
        tokio::select! {
            () = accepting => {}
            () = leaving => {}
        }
        if let Some(health) = &builder.health {
            health.shutdown();
        }
        tracing::info!(connections = connections.len(), "draining");
        drop(listener);
        goaway.shutdown();
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(builder.drain_timeout, drained)
            .await
            .is_err()
        {
            tracing::warn!(timeout = ?builder.drain_timeout, "calls were still open when the drain timeout passed");
        }
        if let BoundAddr::Unix(path) = &address {
            let _ = std::fs::remove_file(path);
        }
        Ok(())
    }
}
