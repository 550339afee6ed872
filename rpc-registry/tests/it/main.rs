//! The registry, leases, resolvers and failover over real sockets.
#![allow(clippy::unwrap_used)]

mod access;
mod backends;
mod failover;
mod faults;
mod leases;
mod program;
mod scale;
mod silent;
mod support;

/// The protocol, to be on the other side of this crate.
#[allow(unreachable_pub, dead_code, missing_docs, clippy::all)]
mod protocol {
    include!("../../src/generated/rpc.registry.v1.rs");
}
