//! The responses of a streaming call: [`SendStream`].

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::task::coop::poll_proceed;

use super::handler::{Finished, ServerSend};
use crate::codec::Encoder;
use crate::wire::compression::Encoding;
use crate::wire::head::ResponseHead;
use crate::wire::message;
use crate::{Metadata, Status};

/// Messages below this size are copied to where they are written.
const SMALL: usize = 4096;

/// Where a handler puts the responses of a streaming call.
///
/// The head goes out with the first message or by [`send_headers`](Self::send_headers); a handler
/// that fails before that answers with its status alone, unless there is metadata for the head.
pub struct SendStream<T>(Box<Sending<T>>);

/// What a [`SendStream`] points to.
struct Sending<T> {
    send: ServerSend,
    encoder: Encoder<T>,
    encoding: Encoding,
    head_sent: bool,
    /// What goes out around the messages; most calls have none.
    around: Option<Box<Around>>,
}

/// The metadata of a response.
#[derive(Default)]
struct Around {
    metadata: Metadata,
    trailers: Metadata,
}

thread_local! {
    /// Where messages are encoded; a stream that waits holds no memory for its next one.
    static SCRATCH: RefCell<BytesMut> = RefCell::default();
}

/// How much of it is kept.
const KEPT: usize = 64 * 1024;

impl<T> fmt::Debug for SendStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendStream")
            .field("head_sent", &self.0.head_sent)
            .finish_non_exhaustive()
    }
}

impl<T> SendStream<T> {
    pub(crate) fn new(
        send: ServerSend,
        encoder: Encoder<T>,
        encoding: Encoding,
        metadata: Metadata,
    ) -> Self {
        Self(Box::new(Sending {
            send,
            encoder,
            encoding,
            head_sent: false,
            around: (!metadata.is_empty()).then(|| {
                Box::new(Around {
                    metadata,
                    trailers: Metadata::new(),
                })
            }),
        }))
    }

    /// Waits for room, then encodes and queues a message whole.
    ///
    /// # Errors
    /// `CANCELLED` when the client has gone.
    ///
    /// # Cancel safety
    /// A cancelled send has sent nothing; the message is dropped. [`reserve`](Self::reserve) keeps it.
    pub fn send(&mut self, message: T) -> impl Future<Output = Result<(), Status>> {
        // An async function would have room for the message twice, in the future of each handler.
        let mut message = Some(message);
        poll_fn(move |cx| {
            ready!(self.poll_reserve(cx))?;
            // There is nothing to send where it is polled once more after its end.
            let sent = message.take().map(|message| self.send_now(message));
            Poll::Ready(sent.unwrap_or(Ok(())))
        })
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
        let turn = ready!(poll_proceed(cx));
        let polled = self.0.send.half().poll_ready(cx, 1);
        if polled.is_ready() {
            turn.made_progress();
        }
        polled.map_err(|error| error.into_status())
    }

    /// Encodes and queues a message that there is room for.
    pub(crate) fn send_now(&mut self, message: T) -> Result<(), Status> {
        self.send_headers();
        // Taken out, since a codec is the user's and may send something itself.
        let mut scratch = SCRATCH.take();
        let encoded = message::encode_into(self.0.encoder, &message, self.0.encoding, &mut scratch);
        let sent = match encoded {
            Ok(()) if scratch.len() < SMALL => self.0.send.half().send_copied(&scratch),
            Ok(()) => self.0.send.half().send(scratch.split().freeze(), false),
            Err(status) => return Err(status),
        };
        scratch.clear();
        if scratch.capacity() <= KEPT {
            SCRATCH.set(scratch);
        }
        sent.map_err(|error| error.into_status())
    }

    /// The metadata that goes out before the first message; later changes have no effect.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.0.around.get_or_insert_default().metadata
    }

    /// The metadata that goes out after the last message, however the handler ends.
    pub fn trailers_mut(&mut self) -> &mut Metadata {
        &mut self.0.around.get_or_insert_default().trailers
    }

    /// Sends the head now, before there is a message.
    pub fn send_headers(&mut self) {
        if !std::mem::replace(&mut self.0.head_sent, true) {
            let around = self.0.around.as_mut();
            let metadata = around.map(|around| std::mem::take(&mut around.metadata));
            self.0.send.half().send_head(ResponseHead {
                encoding: self.0.encoding,
                metadata: metadata.unwrap_or_default(),
            });
        }
    }

    /// Ends the responses with the handler's outcome; generated code calls it.
    #[must_use]
    pub fn finish(mut self, result: Result<(), Status>) -> Finished {
        let Err(mut status) = result else {
            self.send_headers();
            let trailers = self.0.around.map(|around| around.trailers);
            return Finished(Ok(trailers.unwrap_or_default()));
        };
        if !self.0.head_sent {
            let leading = std::mem::take(status.leading_metadata_mut());
            if !leading.is_empty() {
                self.metadata_mut().extend(leading);
            }
            let has_metadata = |around: &Around| !around.metadata.is_empty();
            if self.0.around.as_deref().is_some_and(has_metadata) {
                self.send_headers();
            }
        }
        if let Some(around) = self.0.around
            && !around.trailers.is_empty()
        {
            let mut trailers = around.trailers;
            trailers.extend(std::mem::take(status.metadata_mut()));
            *status.metadata_mut() = trailers;
        }
        Finished(Err(status))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Each stream that is open holds one of these.
    #[test]
    fn a_stream_that_waits_is_seven_words() {
        assert!(size_of::<Sending<()>>() <= 7 * size_of::<u64>());
    }

    /// The future of each handler that sends has room for one.
    #[test]
    fn the_future_of_a_message_has_it_once() {
        fn size<'a, F>(_: impl Fn(&'a mut SendStream<String>, String) -> F) -> usize {
            size_of::<F>()
        }
        let one = size_of::<String>() + size_of::<&mut SendStream<String>>();
        assert_eq!(size(SendStream::<String>::send), one);
    }
}
