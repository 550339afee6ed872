//! What the benchmarks of this workspace reach of the inside; no part of the interface.

use bytes::Bytes;

use crate::wire::message::{self, MessageDecoder};
use crate::{Codec, Encoding, Status};

/// A message with its prefix.
///
/// # Errors
/// `RESOURCE_EXHAUSTED` at 4 GiB.
pub fn frame<T>(codec: Codec<T>, message: &T) -> Result<Bytes, Status> {
    message::encode(codec, message, Encoding::Identity)
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
