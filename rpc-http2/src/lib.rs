//! HTTP/2 and HPACK for RPC as plain state machines.
//!
//! Octets in, events out; calls in, octets out. No sockets, no clock, no runtime: time is an
//! argument, so that everything here can be tested, fuzzed and simulated as functions. Whoever has a
//! socket drives a [`Connection`].

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]

mod config;
mod connection;
mod error;
mod fields;
pub mod frame;
pub mod hpack;
mod output;
mod rate;
mod streams;
mod validate;

pub use config::{Config, Keepalive, Limits, PingPolicy, Rate, Role};
pub use connection::{Connection, Event, GoAway, Payload, ResetCause, Unsent};
pub use error::{ConnectionError, ErrorCode};
pub use fields::Fields;
pub use output::Output;
pub use streams::StreamKey;
pub use validate::without_padding;
