//! A channel to a router in the same process, over an in-memory pipe.

use std::io;

use super::Address;
use crate::compat::RouterService;
use crate::request::PeerAddr;
use crate::server::{Router, ShutdownHandle};
use crate::transport::connector::{Connector, Io};
use crate::{BoxFuture, Channel, Status};

/// How many bytes the pipe holds in each direction.
const PIPE: usize = 256 * 1024;

struct InProcess(RouterService);

impl Connector for InProcess {
    fn connect<'a>(&'a self, _address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        let (ours, theirs) = tokio::io::duplex(PIPE);
        let service = self.0.clone().with_peer(PeerAddr::InProcess);
        tokio::spawn(service.serve_connection(Box::new(theirs), ShutdownHandle::new()));
        Box::pin(std::future::ready(Ok(Box::new(ours) as Box<dyn Io>)))
    }
}

impl Channel {
    /// A channel to services in this process, for tests: the whole call path but for the socket.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` outside a tokio runtime.
    pub fn in_process(router: Router) -> Result<Self, Status> {
        let connector = InProcess(RouterService::from(router));
        Self::builder()
            .connector(connector)
            .lazy("http://in-process:1")
    }
}
