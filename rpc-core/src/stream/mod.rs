//! Streams of messages.

mod adapters;
mod apart;
mod recv;

pub use recv::RecvStream;

pub(crate) use apart::{Large, decode_apart, decode_heavy, unpack};
