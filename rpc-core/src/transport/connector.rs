//! Opening byte streams: [`Connector`].

use std::io;
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::path::PathBuf;
#[cfg(any(target_os = "linux", target_os = "android"))]
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
}

/// How long a peer may leave data unacknowledged before its connection is given up. A machine that
/// is gone without a word is found by this, and only this.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// Sets what every TCP connection of ours has, on both sides.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(())
}

/// A name of the abstract namespace as tokio takes it: behind a NUL (unix(7)).
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn abstract_path(name: &str) -> PathBuf {
    format!("\0{name}").into()
}

/// TCP and unix sockets.
///
/// TCP connections have `TCP_NODELAY` and, on Linux, a `TCP_USER_TIMEOUT` of 10 s.
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketConnector;

impl Connector for SocketConnector {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            match address {
                Address::Tcp { host, port } => {
                    let stream = TcpStream::connect((&**host, *port)).await?;
                    prepare(&stream)?;
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
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_silent_peer_is_given_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        prepare(&stream).unwrap();
        assert_eq!(
            socket2::SockRef::from(&stream).tcp_user_timeout().unwrap(),
            Some(UNACKNOWLEDGED)
        );
        assert!(stream.nodelay().unwrap());
    }
}
