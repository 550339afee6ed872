//! Calls over real sockets.
#![allow(missing_docs, clippy::unwrap_used)]

mod bad_input;
mod calls;
mod dropped;
mod lifecycle;
mod streams;
