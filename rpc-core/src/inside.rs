//! What the benchmarks and the fuzz checks of this workspace reach of the inside; no part of the
//! interface.

use bytes::Bytes;

use crate::request::PeerAddr;
use crate::server::connection::Served;
use crate::server::{ServerBuilder, ShutdownHandle};
use crate::wire::message::{self, MessageDecoder};
use crate::{BoxFuture, Codec, Encoding, Io, Status};

/// Serves one connection over any byte stream, until it closes or until the calls that were open at the
/// shutdown are done.
pub fn serve(builder: ServerBuilder, io: impl Io) -> (ShutdownHandle, BoxFuture<'static, ()>) {
    let served = Served::new(builder.router, builder.options);
    let shutdown = ShutdownHandle::new();
    let serving = served.serve(Box::new(io), PeerAddr::InProcess, shutdown.clone());
    (shutdown, Box::pin(serving))
}

/// A message with its prefix.
///
/// # Errors
/// `RESOURCE_EXHAUSTED` at 4 GiB.
pub fn frame<T>(codec: Codec<T>, message: &T) -> Result<Bytes, Status> {
    message::encode(codec.encoder, message, Encoding::Identity)
}

/// Cuts a chunk into messages and counts their bytes.
///
/// # Errors
/// What is wrong with the chunk.
pub fn cut(chunk: Bytes) -> Result<usize, Status> {
    let mut decoder = MessageDecoder::new(Encoding::Identity, message::DEFAULT_RECEIVE_LIMIT);
    decoder.push(chunk);
    let mut length = 0;
    while let Some(message) = decoder.next()? {
        length += message.len();
    }
    decoder.finish()?;
    Ok(length)
}

/// The messages of a stream, out of the pieces that it comes in.
#[allow(missing_debug_implementations)]
pub struct Messages(MessageDecoder);

impl Messages {
    /// Messages up to a size, compressed by gzip or not at all.
    #[must_use]
    pub fn new(encoding: Encoding, limit: usize) -> Self {
        Self(MessageDecoder::new(encoding, limit))
    }

    /// A piece has come.
    pub fn push(&mut self, piece: Bytes) {
        self.0.push(piece);
    }

    /// The next message that is whole.
    ///
    /// # Errors
    /// What is wrong with the stream.
    pub fn take(&mut self) -> Result<Option<Bytes>, Status> {
        self.0.next()
    }

    /// Whether the stream may end here.
    ///
    /// # Errors
    /// When it is in the middle of a message.
    pub fn finish(&self) -> Result<(), Status> {
        self.0.finish()
    }
}
