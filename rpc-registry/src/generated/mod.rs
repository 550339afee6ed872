//! The code of `proto/`, checked in so that nobody compiles a generator to use the registry.
//!
//! `BLESS=1 cargo test -p rpc-registry --test generated` writes it anew.

#[allow(clippy::all, clippy::pedantic, missing_docs, unreachable_pub, dead_code, rustdoc::all)]
#[rustfmt::skip]
mod code {
    include!("rpc.registry.v1.rs");
}

pub(crate) use code::*;
