//! Opening byte streams: [`Connector`].

use std::io;
use std::net::{IpAddr, SocketAddr};
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

use crate::BoxFuture;
use crate::client::Address;

/// A byte stream in both directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// Opens byte streams to addresses; TLS and HTTP/2 are put on top of what it returns.
pub trait Connector: Send + Sync + 'static {
    /// Opens one stream. Must be cancel safe: the channel bounds it in time.
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Io>>>;

    /// The addresses behind a name, each of which is an attempt to connect of its own, one beginning
    /// 250 ms after the other and the first that speaks HTTP/2 winning; by default the address alone.
    /// Must be cancel safe.
    fn resolve<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Vec<Address>>> {
        Box::pin(std::future::ready(Ok(vec![address.clone()])))
    }
}

/// Sets what every TCP connection of ours has, on both sides: how long its peer may leave data
/// unacknowledged, or its window shut, before the connection is given up (gRFC A18).
#[cfg_attr(
    not(any(target_os = "linux", target_os = "android")),
    allow(unused_variables)
)]
pub(crate) fn prepare(stream: &TcpStream, user_timeout: Option<Duration>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if user_timeout.is_some() {
        socket2::SockRef::from(stream).set_tcp_user_timeout(user_timeout)?;
    }
    Ok(())
}

/// A name of the abstract namespace as tokio takes it: behind a NUL (unix(7)).
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn abstract_path(name: &str) -> PathBuf {
    format!("\0{name}").into()
}

/// TCP and unix sockets.
///
/// TCP connections have `TCP_NODELAY` and, on Linux, what is set of `TCP_USER_TIMEOUT`: nothing by
/// default. The one that a channel makes for itself has what its builder says.
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketConnector {
    user_timeout: Option<Duration>,
}

impl SocketConnector {
    /// Gives a connection up once its peer has left data unacknowledged, or its window shut, for so
    /// long; of Linux only.
    #[must_use]
    pub fn tcp_user_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.user_timeout = timeout.into();
        self
    }
}

impl Connector for SocketConnector {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            match address {
                Address::Tcp { host, port } => {
                    let stream = TcpStream::connect((&**host, *port)).await?;
                    prepare(&stream, self.user_timeout)?;
                    Ok(Box::new(stream) as Box<dyn Io>)
                }
                #[cfg(unix)]
                Address::Unix(path) => {
                    Ok(Box::new(UnixStream::connect(path).await?) as Box<dyn Io>)
                }
                #[cfg(any(target_os = "linux", target_os = "android"))]
                Address::UnixAbstract(name) => {
                    let stream = UnixStream::connect(abstract_path(name)).await?;
                    Ok(Box::new(stream) as Box<dyn Io>)
                }
                other => Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    format!("{other} is not an address that sockets can reach"),
                )),
            }
        })
    }

    fn resolve<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Vec<Address>>> {
        Box::pin(async move {
            let Address::Tcp { host, port } = address else {
                return Ok(vec![address.clone()]);
            };
            // With a zone behind it, it is an address too.
            if host.contains(':') || host.parse::<IpAddr>().is_ok() {
                return Ok(vec![address.clone()]);
            }
            let found = tokio::net::lookup_host((&**host, *port)).await?;
            Ok(in_turn(found.collect()))
        })
    }
}

/// The addresses of a name, each once, the families in turn (RFC 8305, section 4).
fn in_turn(found: Vec<SocketAddr>) -> Vec<Address> {
    let mut unique: Vec<SocketAddr> = Vec::new();
    for address in found {
        if !unique.contains(&address) {
            unique.push(address);
        }
    }
    let first = unique.first().is_some_and(SocketAddr::is_ipv6);
    let (ones, others): (Vec<_>, Vec<_>) = unique
        .into_iter()
        .partition(|address| address.is_ipv6() == first);
    let (mut ones, mut others) = (ones.into_iter(), others.into_iter());
    let mut all = Vec::new();
    loop {
        let pair = [ones.next(), others.next()];
        if pair.iter().all(Option::is_none) {
            return all;
        }
        all.extend(pair.into_iter().flatten().map(address_of));
    }
}

fn address_of(socket: SocketAddr) -> Address {
    let host = match socket {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
        _ => socket.ip().to_string(),
    };
    Address::Tcp {
        host: host.into(),
        port: socket.port(),
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_has_the_user_timeout_that_is_set() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        for timeout in [None, Some(Duration::from_secs(20))] {
            let address = listener.local_addr().unwrap();
            let stream = TcpStream::connect(address).await.unwrap();
            prepare(&stream, timeout).unwrap();
            let socket = socket2::SockRef::from(&stream);
            assert_eq!(socket.tcp_user_timeout().unwrap(), timeout);
            assert!(stream.nodelay().unwrap());
        }
    }
}
