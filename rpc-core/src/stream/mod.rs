//! Streams of messages.

mod adapters;
mod recv;

pub use recv::RecvStream;
