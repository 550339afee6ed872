//! gRPC calls for Rust: typed clients and servers over HTTP/2.
//!
//! A `.proto` file becomes a client and a server trait at build time by `rpc-codegen`; this crate
//! is what both stand on: [`Channel`], [`Server`], [`Request`], [`Response`], [`Status`],
//! [`Metadata`] and streams.

mod causes;
mod codec;
mod deadline;
mod lock;
mod metadata;
mod request;
mod status;
mod stream;
mod transport;
mod wire;

pub mod client;
pub mod compat;
pub mod health;
#[doc(hidden)]
pub mod inside;
pub mod server;

pub use client::{Channel, ClientStream, RequestStream};
pub use codec::{Codec, DecodeError, Idempotency, Method, MethodKind};
pub use deadline::Deadline;
pub use metadata::{Metadata, MetadataError, MetadataValue};
pub use request::{Extensions, IntoRequest, PeerAddr, Request, Response};
pub use server::{SendStream, Server};
pub use status::{Code, Status};
pub use stream::RecvStream;
pub use transport::connector::{Connector, Io, SocketConnector};
pub use transport::keepalive::Keepalive;
#[cfg(feature = "tls")]
pub use transport::tls::{ClientTls, ServerTls};
pub use wire::compression::Encoding;

#[doc(hidden)]
pub use {prost, prost_types};

/// A boxed future that can move between threads.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Includes the code that `rpc-codegen` generated for a protobuf package.
#[macro_export]
macro_rules! include_proto {
    ($package:literal) => {
        include!(concat!(env!("OUT_DIR"), "/", $package, ".rs"));
    };
}
