//! Connections: the seam between calls and HTTP/2, sockets, TLS.

pub(crate) mod connector;
pub(crate) mod h2_client;
pub(crate) mod http_fields;
pub(crate) mod stream;
pub(crate) mod target;
#[cfg(feature = "tls")]
pub(crate) mod tls;
