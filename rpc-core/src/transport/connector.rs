//! Opening byte streams: [`Connector`].

use std::io;

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

/// TCP (with `TCP_NODELAY`) and unix sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketConnector;

impl Connector for SocketConnector {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            match address {
                Address::Tcp { host, port } => {
                    let stream = TcpStream::connect((&**host, *port)).await?;
                    stream.set_nodelay(true)?;
                    Ok(Box::new(stream) as Box<dyn Io>)
                }
                #[cfg(unix)]
                Address::Unix(path) => {
                    Ok(Box::new(UnixStream::connect(path).await?) as Box<dyn Io>)
                }
                other => Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    format!("{other} is not an address that sockets can reach"),
                )),
            }
        })
    }
}
