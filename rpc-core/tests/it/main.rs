//! Calls over real sockets.
#![allow(missing_docs, clippy::unwrap_used)]

mod adapters;
mod attempts;
mod bad_input;
mod bad_server;
mod balancing;
mod budget;
mod building;
mod calls;
mod connections;
mod dropped;
mod engine;
mod first_bytes;
mod h2_crate;
mod h2_streams;
mod health;
mod heavy;
mod interceptors;
mod lifecycle;
mod paths;
mod pieces;
mod scripted;
mod shutdown;
mod streams;
mod stuck;
mod unsent;
