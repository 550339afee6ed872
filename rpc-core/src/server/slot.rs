//! Unary handlers that run in place, one call after the other in the same memory.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use tokio::task::futures::TaskLocalFuture;

use super::handler::{IncomingCall, Single, panicked, step};
use super::pace::Pace;
use super::router::Head;
use crate::codec::Codec;
use crate::lock::outside;
use crate::stream::Large;
use crate::wire::message;
use crate::{BoxFuture, Deadline, Metadata, Request, Response, Status};

/// A unary method without the types of its messages and its future.
pub(crate) trait UnaryHandler: Send + Sync {
    /// A place to run calls in.
    fn slot(&self) -> Box<dyn Slot>;

    /// A call as a future of its own; the message is without its prefix.
    fn start(
        &self,
        call: IncomingCall,
        message: Bytes,
    ) -> BoxFuture<'static, Result<Single, Status>>;

    /// Whether a message takes so long to decode that the call has to be [started](Self::start).
    fn is_heavy(&self, message: &[u8]) -> bool;

    /// How fast its polls were.
    fn pace(&self) -> &Pace;
}

/// A place in which calls of one method run.
pub(crate) trait Slot: Send {
    /// Polls a call once. Its response is appended with its prefix.
    fn run(&mut self, call: &mut Option<IncomingCall>, message: &[u8], out: &mut BytesMut) -> Ran;
}

/// What came of the first poll of a call.
pub(crate) enum Ran {
    Done(Result<Answer, Status>),
    /// It waits for something and has to be polled again, elsewhere.
    Waits(BoxFuture<'static, Result<Single, Status>>),
}

/// A response without its message.
pub(crate) struct Answer {
    pub(crate) metadata: Metadata,
    pub(crate) encoding: crate::Encoding,
    pub(crate) trailers: Metadata,
}

/// The handler of a unary method, as a service registers it.
pub(super) struct Unary<S, Q, R, F> {
    pub(super) state: Arc<S>,
    pub(super) handler: Arc<F>,
    pub(super) request: Codec<Q>,
    pub(super) response: Codec<R>,
    pub(super) pace: Pace,
}

type Scoped<Fut> = TaskLocalFuture<Option<Deadline>, Fut>;

struct UnarySlot<S, Q, R, F, Fut> {
    state: Arc<S>,
    handler: Arc<F>,
    request: Codec<Q>,
    response: Codec<R>,
    place: Pin<Box<Option<Scoped<Fut>>>>,
}

impl<S, Q, R, F, Fut> UnaryHandler for Unary<S, Q, R, F>
where
    S: Send + Sync + 'static,
    Q: Send + 'static,
    R: Send + 'static,
    F: Fn(Arc<S>, Request<Q>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Response<R>, Status>> + Send + 'static,
{
    fn slot(&self) -> Box<dyn Slot> {
        Box::new(UnarySlot {
            state: Arc::clone(&self.state),
            handler: Arc::clone(&self.handler),
            request: self.request,
            response: self.response,
            place: Box::pin(None),
        })
    }

    fn start(
        &self,
        mut call: IncomingCall,
        message: Bytes,
    ) -> BoxFuture<'static, Result<Single, Status>> {
        let (state, handler) = (Arc::clone(&self.state), Arc::clone(&self.handler));
        let (request, response) = (self.request, self.response);
        Box::pin(async move {
            let head = Head::of(&mut call);
            let decoded = if (request.decoder.is_heavy)(&message) {
                (request.decoder.decode_apart)(request.decoder, Large::Heavy(message)).await
            } else {
                message::decode(&request.decoder, message)
            };
            let outcome = match decoded {
                Ok(message) => handler(state, call.into_request(|_| message)).await,
                Err(status) => Err(status),
            };
            head.outcome(outcome, response.encoder)
        })
    }

    fn is_heavy(&self, message: &[u8]) -> bool {
        (self.request.decoder.is_heavy)(message)
    }

    fn pace(&self) -> &Pace {
        &self.pace
    }
}

impl<S, Q, R, F, Fut> Slot for UnarySlot<S, Q, R, F, Fut>
where
    S: Send + Sync + 'static,
    Q: Send + 'static,
    R: Send + 'static,
    F: Fn(Arc<S>, Request<Q>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Response<R>, Status>> + Send + 'static,
{
    fn run(&mut self, place: &mut Option<IncomingCall>, message: &[u8], out: &mut BytesMut) -> Ran {
        let Some(call) = place else {
            return Ran::Done(Err(Status::internal("a call was run twice")));
        };
        let mut head = Some(Head::of(call));
        let deadline = call.deadline;
        let path = Arc::clone(&call.path);
        // Codecs are the user's as handlers are.
        outside("a handler");
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let Some(call) = place.take() else {
                return Poll::Pending;
            };
            let message = match message::decode_slice(&self.request.decoder, message) {
                Ok(message) => message,
                Err(status) => {
                    let status = match head.take() {
                        Some(head) => head.failure(status),
                        None => status,
                    };
                    return Poll::Ready(Err(status));
                }
            };
            let future = (self.handler)(Arc::clone(&self.state), call.into_request(|_| message));
            self.place
                .as_mut()
                .set(Some(Deadline::scope(deadline, future)));
            // A call that waits is polled again at once by the task that it moves to.
            let mut unwatched = Context::from_waker(Waker::noop());
            let Some(future) = self.place.as_mut().as_pin_mut() else {
                return Poll::Pending;
            };
            match future.poll(&mut unwatched) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(outcome) => match (outcome, head.take()) {
                    (Ok(answer), Some(head)) => {
                        Poll::Ready(head.answer(answer, self.response, out))
                    }
                    (Err(status), Some(head)) => Poll::Ready(Err(head.failure(status))),
                    (_, None) => Poll::Pending,
                },
            }
        }));
        match polled {
            Ok(Poll::Ready(answer)) => {
                self.place.as_mut().set(None);
                Ran::Done(answer)
            }
            Ok(Poll::Pending) => {
                let place = std::mem::replace(&mut self.place, Box::pin(None));
                Ran::Waits(Box::pin(Moved {
                    place,
                    head,
                    response: self.response,
                    path,
                }))
            }
            Err(panic) => {
                self.place.as_mut().set(None);
                Ran::Done(Err(panicked(&path, &*panic)))
            }
        }
    }
}

/// A call that has left its slot, with the memory that it runs in.
struct Moved<Fut, R> {
    place: Pin<Box<Option<Scoped<Fut>>>>,
    head: Option<Head>,
    response: Codec<R>,
    path: Arc<str>,
}

impl<Fut, R> Future for Moved<Fut, R>
where
    Fut: Future<Output = Result<Response<R>, Status>>,
{
    type Output = Result<Single, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self {
            place,
            head,
            response,
            path,
        } = self.get_mut();
        step(path, || {
            let Some(future) = place.as_mut().as_pin_mut() else {
                return Poll::Pending;
            };
            let Poll::Ready(outcome) = future.poll(cx) else {
                return Poll::Pending;
            };
            place.as_mut().set(None);
            let Some(head) = head.take() else {
                return Poll::Pending;
            };
            Poll::Ready(head.outcome(outcome, response.encoder))
        })
    }
}
