//! The server: [`Server`], [`Router`] and the services on it.

mod accept;
mod bound;
mod builder;
pub(crate) mod connection;
mod function;
mod handler;
mod interceptor;
mod listener;
mod load;
mod pace;
mod places;
mod router;
mod send;
mod shutdown;
mod slot;
#[cfg(unix)]
mod socket_file;

pub use bound::{BoundAddr, BoundServer, HeldMemory};
pub use builder::{Server, ServerBuilder};
#[doc(hidden)]
pub use function::{Answers, Streams};
pub use handler::Finished;
pub use interceptor::{ServerCall, ServerInterceptor, ServerNext, ServerReply};
pub use listener::ServeError;
pub use pace::Dispatch;
pub use router::{RawCall, Router, Service};
pub use rpc_http2::{Limits, Rate};
pub use send::{ResponsePermit, SendStream};
pub use shutdown::{ServerDraining, ShutdownHandle, ShutdownHook};

pub(crate) use builder::Options;
pub(crate) use handler::{IncomingCall, ServerRecv, ServerSend, Single, guarded};
pub(crate) use load::{Account, Admission, Held, Load};
