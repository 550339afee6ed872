//! Sockets that listen, and why there is none.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};

use super::bound::BoundAddr;
#[cfg(unix)]
use super::socket_file::{self, SocketFile};
use crate::causes;
use crate::client::Address;
use crate::request::PeerAddr;
#[cfg(any(target_os = "linux", target_os = "android"))]
use crate::transport::connector::abstract_path;
use crate::transport::connector::{Io, prepare};

/// How many connections the system may hold for one socket until they are accepted.
const BACKLOG: u32 = 1024;

/// Why a server could not be started. `Display` tells it in one line, with every cause once.
#[derive(Debug)]
pub struct ServeError {
    pub(super) address: String,
    pub(super) what: &'static str,
    pub(super) source: Box<dyn std::error::Error + Send + Sync>,
}

impl ServeError {
    /// The error that is behind it, such as an [`io::Error`] of the kind `AddrInUse`.
    #[must_use]
    pub fn cause(&self) -> &(dyn std::error::Error + 'static) {
        &*self.source
    }

    /// What was said to a builder cannot all be done.
    pub(crate) fn contradiction(what: impl fmt::Display) -> Self {
        Self {
            address: "the server".to_owned(),
            what: "building",
            source: what.to_string().into(),
        }
    }
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("{} {} failed", self.what, self.address);
        causes::append(&mut text, Some(self.cause()));
        f.write_str(&text)
    }
}

/// Its text has all causes; see [`ServeError::cause`].
impl std::error::Error for ServeError {}

pub(crate) enum Listener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix {
        listener: UnixListener,
        /// Removed with the listener; an abstract socket has none.
        _file: Option<SocketFile>,
    },
}

impl Listener {
    /// Opens so many sockets at one address; more than one of TCP share it by `SO_REUSEPORT`.
    pub(crate) async fn bind(
        text: &str,
        count: usize,
    ) -> Result<(Vec<Self>, BoundAddr), ServeError> {
        let error = |source: Box<dyn std::error::Error + Send + Sync>| ServeError {
            address: text.to_owned(),
            what: "listening on",
            source,
        };
        let address: Address = text.parse().map_err(|why| error(Box::new(why)))?;
        match address {
            Address::Tcp { host, port } => {
                let first = TcpListener::bind((&*host, port));
                let (listeners, address) = if count > 1 {
                    shared((&host, port), count).await
                } else {
                    first.await.and_then(|first| {
                        let address = first.local_addr()?;
                        Ok((vec![first], address))
                    })
                }
                .map_err(|why| error(why.into()))?;
                let listeners = listeners.into_iter().map(Self::Tcp).collect();
                Ok((listeners, BoundAddr::Tcp(address)))
            }
            #[cfg(unix)]
            Address::Unix(path) => {
                let (listener, file) = socket_file::listen(&path)
                    .await
                    .map_err(|why| error(why.into()))?;
                let address = BoundAddr::Unix(path.to_path_buf());
                let listener = Self::Unix {
                    listener,
                    _file: Some(file),
                };
                Ok((vec![listener], address))
            }
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Address::UnixAbstract(name) => {
                let listener = UnixListener::bind(abstract_path(&name));
                let listener = listener.map_err(|why| error(why.into()))?;
                let address = BoundAddr::UnixAbstract(name);
                let listener = Self::Unix {
                    listener,
                    _file: None,
                };
                Ok((vec![listener], address))
            }
            _ => Err(error(
                "a server needs host:port, unix:/path or, on Linux, unix-abstract:name".into(),
            )),
        }
    }

    pub(crate) fn tcp(listener: TcpListener) -> Result<(Vec<Self>, BoundAddr), ServeError> {
        let address = listener.local_addr().map_err(|why| ServeError {
            address: "the given socket".to_owned(),
            what: "reading the address of",
            source: why.into(),
        })?;
        Ok((vec![Self::Tcp(listener)], BoundAddr::Tcp(address)))
    }

    /// The connections that the system has accepted and nobody has taken; the socket is closed.
    ///
    /// Asks the system and not the runtime, which may not have heard of them yet.
    pub(super) fn into_waiting(
        self,
        user_timeout: Option<Duration>,
    ) -> Vec<(Box<dyn Io>, PeerAddr)> {
        match self {
            Self::Tcp(listener) => {
                let Ok(listener) = listener.into_std() else {
                    return Vec::new();
                };
                waiting(|| {
                    let (stream, peer) = listener.accept()?;
                    stream.set_nonblocking(true)?;
                    let stream = TcpStream::from_std(stream)?;
                    prepare(&stream, user_timeout)?;
                    Ok((Box::new(stream), PeerAddr::Tcp(peer)))
                })
            }
            #[cfg(unix)]
            Self::Unix { listener, _file } => {
                let Ok(listener) = listener.into_std() else {
                    return Vec::new();
                };
                waiting(|| {
                    let (stream, _) = listener.accept()?;
                    stream.set_nonblocking(true)?;
                    Ok((Box::new(UnixStream::from_std(stream)?), PeerAddr::Unix))
                })
            }
        }
    }

    pub(super) async fn accept(
        &self,
        user_timeout: Option<Duration>,
    ) -> io::Result<(Box<dyn Io>, PeerAddr)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                prepare(&stream, user_timeout)?;
                Ok((Box::new(stream), PeerAddr::Tcp(peer)))
            }
            #[cfg(unix)]
            Self::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                Ok((Box::new(stream), PeerAddr::Unix))
            }
        }
    }
}

/// Accepts what there is, and no more than the system may hold.
fn waiting(
    mut accept: impl FnMut() -> io::Result<(Box<dyn Io>, PeerAddr)>,
) -> Vec<(Box<dyn Io>, PeerAddr)> {
    let mut waiting = Vec::new();
    for _ in 0..BACKLOG {
        match accept() {
            Ok(accepted) => waiting.push(accepted),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // It was gone before it was accepted.
            Err(error) => tracing::debug!(%error, "a connection ended before it was accepted"),
        }
    }
    waiting
}

/// Several sockets at one address; the system spreads the connections over them.
async fn shared(name: (&str, u16), count: usize) -> io::Result<(Vec<TcpListener>, SocketAddr)> {
    let mut failure = None;
    for address in tokio::net::lookup_host(name).await? {
        match share(address, count) {
            Ok(shared) => return Ok(shared),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| io::Error::other("the name has no address")))
}

fn share(mut address: SocketAddr, count: usize) -> io::Result<(Vec<TcpListener>, SocketAddr)> {
    let mut listeners = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        #[cfg(unix)]
        socket.set_reuseport(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        // The others take the port that the system chose for the first.
        address = listener.local_addr()?;
        listeners.push(listener);
        if cfg!(not(unix)) {
            break;
        }
    }
    Ok((listeners, address))
}
