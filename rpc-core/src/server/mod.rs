//! The server: [`Server`], [`Router`] and the services on it.

mod bound;
mod builder;
mod handler;
mod interceptor;
mod router;
mod send;
mod shutdown;
mod stateful;

pub use bound::{BoundAddr, BoundServer, ServeError};
pub use builder::{Server, ServerBuilder};
pub use handler::Finished;
pub use interceptor::{ServerCall, ServerInterceptor, ServerNext, ServerReply};
pub use router::{RawCall, Router, Service};
pub use send::{ResponsePermit, SendStream};
pub use shutdown::{ShutdownHandle, ShutdownHook};
pub use stateful::StatefulService;

pub(crate) use builder::Options;
pub(crate) use handler::{Handler, IncomingCall, Single, guarded};
