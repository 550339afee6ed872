//! A channel to a server in the same process, over an in-memory pipe.

use std::io;

use super::{Address, ChannelBuilder};
use crate::request::PeerAddr;
use crate::server::connection::Served;
use crate::server::{ServerBuilder, ShutdownHandle};
use crate::transport::connector::{Connector, Io};
use crate::{BoxFuture, Channel, Status};

/// How many bytes the pipe holds in each direction.
const PIPE: usize = 256 * 1024;
/// What the pipe is called.
const TARGET: &str = "http://in-process:1";

struct InProcess(Served);

impl Connector for InProcess {
    fn connect<'a>(&'a self, _address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        let (ours, theirs) = tokio::io::duplex(PIPE);
        let served = self.0.clone();
        let end = ShutdownHandle::new();
        tokio::spawn(served.serve(Box::new(theirs), PeerAddr::InProcess, end));
        Box::pin(std::future::ready(Ok(Box::new(ours) as Box<dyn Io>)))
    }
}

impl Channel {
    /// A channel to services in this process, for tests: the whole call path but for the socket.
    ///
    /// Takes a [`Router`](crate::server::Router), or a [`ServerBuilder`] for a server with settings;
    /// [`ChannelBuilder::in_process`] is for a channel with settings.
    ///
    /// # Errors
    /// As [`ChannelBuilder::in_process`].
    pub fn in_process(server: impl Into<ServerBuilder>) -> Result<Self, Status> {
        Self::builder().in_process(server)
    }
}

impl ChannelBuilder {
    /// A channel with these settings to a server in this process, over a pipe in memory.
    ///
    /// Settings of the server's calls hold as on a socket: services, interceptors, observers, limits,
    /// compression, health. Those of its sockets and of its end have nothing to be about: how many
    /// connections and accept loops there are, the drain timeout, and hooks, which never run.
    ///
    /// ```
    /// # async fn example(router: rpc_core::server::Router) -> Result<(), rpc_core::Status> {
    /// use std::time::Duration;
    /// use rpc_core::{Channel, Server};
    /// let server = Server::builder().router(router).max_receive_message_size(64 * 1024);
    /// let channel = Channel::builder().timeout(Duration::from_secs(1)).in_process(server)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when something was given twice, or with TLS or a connector, for which a
    /// pipe has no use; `FAILED_PRECONDITION` outside a tokio runtime.
    pub fn in_process(self, server: impl Into<ServerBuilder>) -> Result<Channel, Status> {
        let server = server.into();
        server
            .check()
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        #[cfg(feature = "tls")]
        if server.tls.is_some() {
            return Err(Status::invalid_argument(
                "the server has TLS, and a channel in its process has no connection to protect",
            ));
        }
        let connector = InProcess(Served::new(server.router, server.options));
        self.connector(connector).lazy(TARGET)
    }
}
