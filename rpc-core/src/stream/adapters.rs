//! Streams and sinks of the `futures` crates, for those who have them already.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_sink::Sink;

use crate::client::RequestStream;
use crate::server::SendStream;
use crate::{RecvStream, Status};

/// The messages until the end or the first error, which is the last item.
impl<T> Stream for RecvStream<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let stream = self.get_mut();
        if stream.has_failed() {
            return Poll::Ready(None);
        }
        stream.poll_recv(cx).map(Result::transpose)
    }
}

/// Closing is [`RequestStream::finish`]; a message counts as flushed once it is queued.
impl<T> Sink<T> for RequestStream<T> {
    type Error = Status;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.get_mut().poll_reserve(cx)
    }

    fn start_send(self: Pin<&mut Self>, message: T) -> Result<(), Status> {
        self.get_mut().send_now(message)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.get_mut().poll_finish(cx)
    }
}

/// Closing does nothing: the responses end when the handler returns.
impl<T> Sink<T> for SendStream<T> {
    type Error = Status;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.get_mut().poll_reserve(cx)
    }

    fn start_send(self: Pin<&mut Self>, message: T) -> Result<(), Status> {
        self.get_mut().send_now(message)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }
}
