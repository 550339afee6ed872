//! The gRPC protocol over HTTP/2 as plain functions: no I/O, no clock, no HTTP library's types.
//!
//! Source: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.

pub(crate) mod binary;
pub(crate) mod compression;
pub(crate) mod head;
pub(crate) mod message;
pub(crate) mod outcome;
pub(crate) mod percent;
pub(crate) mod timeout;
pub(crate) mod weight;
