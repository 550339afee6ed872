//! What must hold for any input: each check takes octets and panics when it does not.
//!
//! The targets in `targets` hand them to a fuzzer; the corpora that it has found are played
//! again by `cargo test`.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

mod headers;
mod machine;
mod messages;
#[allow(unreachable_pub, reason = "shared with the simulation")]
#[path = "../../rpc-http2/tests/pair/mod.rs"]
mod pair;
mod reader;

pub use headers::{hpack_decode, hpack_differential};
pub use machine::{client_machine, frame_reader, server_machine};
pub use messages::message_framer;

/// A client and a server joined by a wire that cuts anywhere: every call ends, nothing is lost.
pub fn two_machines(input: &[u8]) {
    pair::Pair::new(pair::Choices::of(input)).run();
}

/// A check.
pub type Check = fn(&[u8]);

/// All checks by the names of their targets.
pub const CHECKS: [(&str, Check); 7] = [
    ("frame_reader", frame_reader),
    ("hpack_decode", hpack_decode),
    ("hpack_differential", hpack_differential),
    ("server_machine", server_machine),
    ("client_machine", client_machine),
    ("two_machines", two_machines),
    ("message_framer", message_framer),
];
