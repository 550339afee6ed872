//! A channel to a router in the same process, over an in-memory pipe.

use std::io;

use super::Address;
use crate::request::PeerAddr;
use crate::server::connection::Served;
use crate::server::{Options, Router, ShutdownHandle};
use crate::transport::connector::{Connector, Io};
use crate::{BoxFuture, Channel, Status};

/// How many bytes the pipe holds in each direction.
const PIPE: usize = 256 * 1024;

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
    /// # Errors
    /// `FAILED_PRECONDITION` outside a tokio runtime.
    pub fn in_process(router: Router) -> Result<Self, Status> {
        let connector = InProcess(Served::new(router, Options::default()));
        Self::builder()
            .connector(connector)
            .lazy("http://in-process:1")
    }
}
