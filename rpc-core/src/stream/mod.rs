//! Streams of messages.

mod adapters;
mod recv;
mod unpack;

pub use recv::RecvStream;

pub(crate) use unpack::unpack;
