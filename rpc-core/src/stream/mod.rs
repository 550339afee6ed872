//! Streams of messages.

mod recv;

pub use recv::RecvStream;
