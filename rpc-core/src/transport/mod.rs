//! Connections: the seam between calls and HTTP/2, sockets, TLS.

pub(crate) mod connector;
pub(crate) mod http2;
pub(crate) mod keepalive;
pub(crate) mod race;
pub(crate) mod sniff;
pub(crate) mod stream;
pub(crate) mod target;
#[cfg(feature = "tls")]
pub(crate) mod tls;
