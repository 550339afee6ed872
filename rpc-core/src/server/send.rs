//! The responses of a streaming call: [`SendStream`].

use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::BytesMut;

use super::handler::Finished;
use crate::codec::Codec;
use crate::transport::stream::SendHalf;
use crate::wire::compression::Encoding;
use crate::wire::head::ResponseHead;
use crate::wire::message;
use crate::{Metadata, Status};

/// Messages below this size are copied to where they are written.
const SMALL: usize = 4096;

/// Where a handler puts the responses of a streaming call.
///
/// The head goes out with the first message or by [`send_headers`](Self::send_headers); a handler
/// that fails before that answers with its status alone.
pub struct SendStream<T>(Box<Sending<T>>);

/// What a [`SendStream`] points to.
struct Sending<T> {
    send: Box<dyn SendHalf>,
    codec: Codec<T>,
    encoding: Encoding,
    metadata: Metadata,
    trailers: Metadata,
    head_sent: bool,
    /// Where small messages are encoded.
    scratch: BytesMut,
}

impl<T> fmt::Debug for SendStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendStream")
            .field("head_sent", &self.0.head_sent)
            .finish_non_exhaustive()
    }
}

impl<T> SendStream<T> {
    pub(crate) fn new(
        send: Box<dyn SendHalf>,
        codec: Codec<T>,
        encoding: Encoding,
        metadata: Metadata,
    ) -> Self {
        Self(Box::new(Sending {
            send,
            codec,
            encoding,
            metadata,
            trailers: Metadata::new(),
            head_sent: false,
            scratch: BytesMut::new(),
        }))
    }

    /// Waits for room, then encodes and queues a message whole.
    ///
    /// # Errors
    /// `CANCELLED` when the client has gone.
    ///
    /// # Cancel safety
    /// A cancelled send has sent nothing; the message is dropped. [`reserve`](Self::reserve) keeps it.
    pub async fn send(&mut self, message: T) -> Result<(), Status> {
        self.reserve().await?.send(message)
    }

    /// Waits for room for one message.
    ///
    /// # Errors
    /// `CANCELLED` when the client has gone.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn reserve(&mut self) -> Result<ResponsePermit<'_, T>, Status> {
        poll_fn(|cx| self.poll_reserve(cx)).await?;
        Ok(ResponsePermit(self))
    }

    pub(crate) fn poll_reserve(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.0
            .send
            .poll_ready(cx, 1)
            .map_err(|error| error.into_status())
    }

    /// Encodes and queues a message that there is room for.
    pub(crate) fn send_now(&mut self, message: T) -> Result<(), Status> {
        self.send_headers();
        message::encode_into(self.0.codec, &message, self.0.encoding, &mut self.0.scratch)?;
        let sent = if self.0.scratch.len() < SMALL {
            let sent = self.0.send.send_copied(&self.0.scratch);
            self.0.scratch.clear();
            sent
        } else {
            self.0.send.send(self.0.scratch.split().freeze(), false)
        };
        sent.map_err(|error| error.into_status())
    }

    /// The metadata that goes out before the first message; later changes have no effect.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.0.metadata
    }

    /// The metadata that goes out after the last message.
    pub fn trailers_mut(&mut self) -> &mut Metadata {
        &mut self.0.trailers
    }

    /// Sends the head now, before there is a message.
    pub fn send_headers(&mut self) {
        if !std::mem::replace(&mut self.0.head_sent, true) {
            let metadata = std::mem::take(&mut self.0.metadata);
            self.0.send.send_head(ResponseHead {
                encoding: self.0.encoding,
                metadata,
            });
        }
    }

    /// Ends the responses with the handler's outcome; generated code calls it.
    #[must_use]
    pub fn finish(mut self, result: Result<(), Status>) -> Finished {
        if result.is_ok() {
            self.send_headers();
        }
        Finished(result.map(|()| self.0.trailers))
    }
}

/// Room for one message.
#[derive(Debug)]
pub struct ResponsePermit<'a, T>(&'a mut SendStream<T>);

impl<T> ResponsePermit<'_, T> {
    /// Encodes and queues the message; does not wait.
    ///
    /// # Errors
    /// `CANCELLED` when the client has gone.
    pub fn send(self, message: T) -> Result<(), Status> {
        self.0.send_now(message)
    }
}
