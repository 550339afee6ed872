//! Handlers without their types, and what guards every one of them.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::connection::{Requests, Responses};
use super::load::Account;
use super::router::read_and_start;
use super::slot::UnaryHandler;
use crate::lock::outside;
use crate::request::Peer;
use crate::transport::stream::{Event, RecvHalf, SendHalf, StreamError};
use crate::wire::compression::{Encoding, EncodingSet};
use crate::{BoxFuture, Deadline, Extensions, Metadata, Request, Status};

/// A call on its way to a handler.
pub(crate) struct IncomingCall {
    pub(crate) path: Arc<str>,
    pub(crate) metadata: Metadata,
    /// What interceptors add to the response.
    pub(crate) response_metadata: Metadata,
    pub(crate) extensions: Extensions,
    pub(crate) deadline: Option<Deadline>,
    pub(crate) peer: Option<Arc<Peer>>,
    pub(crate) encoding: Encoding,
    pub(crate) accept: EncodingSet,
    pub(crate) compress: Encoding,
    pub(crate) limit: usize,
    pub(crate) recv: ServerRecv,
}

impl IncomingCall {
    /// The encoding of the responses: the server's, if the client takes it.
    pub(crate) fn response_encoding(&self) -> Encoding {
        if self.accept.accepts(self.compress) {
            self.compress
        } else {
            Encoding::Identity
        }
    }

    pub(crate) fn into_request<T>(self, message: impl FnOnce(ServerRecv) -> T) -> Request<T> {
        let mut request = Request::new(message(self.recv));
        request.metadata = self.metadata;
        request.extensions = self.extensions;
        request.deadline = self.deadline;
        request.peer = self.peer;
        request
    }
}

/// The receiving half of a call.
pub(crate) enum ServerRecv {
    /// In place, since a box for it would be memory of every open stream.
    Http2(Requests),
    Boxed(Box<dyn RecvHalf>),
    /// It was taken, or all of it has arrived.
    Ended,
}

impl RecvHalf for ServerRecv {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, StreamError>> {
        match self {
            Self::Http2(recv) => recv.poll_recv(cx),
            Self::Boxed(recv) => recv.poll_recv(cx),
            Self::Ended => Poll::Ready(Ok(Event::End)),
        }
    }

    fn account(&self) -> Option<Arc<Account>> {
        match self {
            Self::Http2(recv) => recv.account(),
            Self::Boxed(recv) => recv.account(),
            Self::Ended => None,
        }
    }
}

/// The sending half of a call.
pub(crate) enum ServerSend {
    /// In place, as [`ServerRecv::Http2`].
    Http2(Responses),
    Boxed(Box<dyn SendHalf>),
}

impl ServerSend {
    pub(crate) fn half(&mut self) -> &mut dyn SendHalf {
        match self {
            Self::Http2(send) => send,
            Self::Boxed(send) => &mut **send,
        }
    }
}

/// The one response of a unary or client-streaming call.
pub(crate) struct Single {
    pub(crate) metadata: Metadata,
    pub(crate) encoding: Encoding,
    pub(crate) message: Bytes,
    pub(crate) trailers: Metadata,
}

/// How a streaming handler ended; made by [`SendStream::finish`](super::SendStream::finish).
#[derive(Debug)]
pub struct Finished(pub(crate) Result<Metadata, Status>);

pub(crate) type SingleFn =
    dyn Fn(IncomingCall) -> BoxFuture<'static, Result<Single, Status>> + Send + Sync;
pub(crate) type StreamingFn =
    dyn Fn(IncomingCall, ServerSend) -> BoxFuture<'static, Finished> + Send + Sync;

/// A handler of one method.
#[derive(Clone)]
pub(crate) enum Handler {
    Unary(Arc<dyn UnaryHandler>),
    /// One response, to a stream of requests or behind an interceptor.
    Single(Arc<SingleFn>),
    Streaming(Arc<StreamingFn>),
}

impl Handler {
    /// What answers once, or else what streams.
    pub(crate) fn by_kind(self) -> Result<Arc<SingleFn>, Arc<StreamingFn>> {
        match self {
            Self::Unary(handler) => Ok(Arc::new(move |call| {
                Box::pin(read_and_start(Arc::clone(&handler), call))
            })),
            Self::Single(handler) => Ok(handler),
            Self::Streaming(handler) => Err(handler),
        }
    }
}

/// Runs a handler under its deadline; a panic ends this call only.
pub(crate) async fn guarded<T>(
    path: &str,
    deadline: Option<Deadline>,
    handler: BoxFuture<'static, T>,
) -> Result<T, Status> {
    let handler = Deadline::scope(deadline, CatchPanic(handler));
    let outcome = match deadline {
        None => handler.await,
        Some(deadline) => match tokio::time::timeout_at(deadline.instant(), handler).await {
            Ok(outcome) => outcome,
            Err(_) => {
                return Err(Status::deadline_exceeded(format!(
                    "the handler of {path} did not end by the deadline"
                )));
            }
        },
    };
    outcome.map_err(|panic| panicked(path, &*panic))
}

/// Takes a step of a handler; its panic is a failure of its method.
pub(crate) fn step<T>(
    path: &str,
    poll: impl FnOnce() -> Poll<Result<T, Status>>,
) -> Poll<Result<T, Status>> {
    match std::panic::catch_unwind(AssertUnwindSafe(poll)) {
        Ok(polled) => polled,
        Err(panic) => Poll::Ready(Err(panicked(path, &*panic))),
    }
}

/// The status of a call whose handler has panicked.
pub(crate) fn panicked(path: &str, panic: &(dyn std::any::Any + Send)) -> Status {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(
        path,
        panic = message.unwrap_or("(not text)"),
        "a handler panicked"
    );
    Status::internal(format!("the handler of {path} panicked"))
}

/// A future whose panic is its outcome.
pub(crate) struct CatchPanic<T>(pub(crate) BoxFuture<'static, T>);

impl<T> Future for CatchPanic<T> {
    type Output = std::thread::Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        outside("a handler");
        // The future is dropped, never polled again, after a panic.
        match std::panic::catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}
