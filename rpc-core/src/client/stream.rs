//! Streaming calls of a client: how they start, and the sending halves.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::call::{AttemptGuard, Opened, Plan};
use super::channel::Core;
use super::interceptor::{ClientCall, Payload};
use super::upload::{Resend, Upload};
use crate::codec::Encoder;
use crate::stream::RecvStream;
use crate::transport::stream::{RecvHalf, SendHalf};
use crate::wire::compression::Encoding;
use crate::wire::message;
use crate::{Deadline, Method, Response, Status};

/// The receiving half of an open call, with what a retry needs.
pub(crate) struct OpenedRecv {
    pub(crate) plan: Plan,
    pub(crate) recv: Box<dyn RecvHalf>,
    pub(crate) guard: AttemptGuard,
    pub(crate) body: Body,
}

/// The requests of an open call, for another attempt.
pub(crate) enum Body {
    /// The plan has the only one; the half is kept so that the stream is not reset.
    Sent(#[expect(dead_code, reason = "its drop would reset the stream")] Box<dyn SendHalf>),
    /// They come one by one.
    Stream(Resend),
}

impl Body {
    pub(crate) fn can_resend(&self) -> bool {
        match self {
            Self::Sent(_) => true,
            Self::Stream(resend) => resend.0.can_resend(),
        }
    }

    /// The server has begun to answer.
    pub(crate) fn commit(&self) {
        if let Self::Stream(resend) = self {
            resend.0.commit();
        }
    }

    /// Goes on with another stream.
    pub(crate) fn resend(self, send: Box<dyn SendHalf>) -> Self {
        match self {
            Self::Sent(_) => Self::Sent(send),
            Self::Stream(resend) => {
                resend.0.resend(send);
                Self::Stream(resend)
            }
        }
    }
}

type Starting<T> = oneshot::Receiver<Result<T, Status>>;

/// Starts a streaming call at once: in place when a connection is ready, in a task of its own when
/// it has to wait for one.
pub(crate) fn start<Q, R>(
    core: &Arc<Core>,
    method: &Method<Q, R>,
    call: ClientCall,
) -> (RequestStream<Q>, RecvStream<R>) {
    let single = call.body.is_some();
    let deadline = call.deadline;
    let path: Arc<str> = (&*call.path).into();
    let (send_started, sender) = oneshot::channel();
    let (recv_started, receiver) = oneshot::channel();
    let starting = {
        let core = Arc::clone(core);
        async move {
            let reply = core.run(call).await;
            let opened = reply.and_then(|reply| match reply.payload {
                Payload::Stream(opened) => Ok(opened),
                Payload::Message(_) => Err(Status::internal(
                    "an interceptor answered a streaming call with a message",
                )),
            });
            // A half whose receiver is gone is dropped, which resets the stream.
            match opened {
                Ok(opened) => {
                    let Opened { plan, halves } = *opened;
                    let body = if single {
                        Body::Sent(halves.send)
                    } else {
                        let upload = Upload::new(halves.send);
                        if send_started.send(Ok(Arc::clone(&upload))).is_err() {
                            // The caller has dropped the requests meanwhile.
                            upload.cancel();
                        }
                        Body::Stream(Resend(upload))
                    };
                    let _ = recv_started.send(Ok(OpenedRecv {
                        plan,
                        recv: halves.recv,
                        guard: halves.guard,
                        body,
                    }));
                }
                Err(status) => {
                    let _ = send_started.send(Err(status.clone()));
                    let _ = recv_started.send(Err(status));
                }
            }
        }
    };
    let mut starting = Box::pin(starting);
    let _runtime = core.runtime.enter();
    if starting
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
        .is_pending()
    {
        core.runtime.spawn(starting);
    }
    let requests = RequestStream {
        state: SendState::Starting(sender),
        encoder: method.request.encoder,
        encoding: core.encoding,
        deadline: sleep_until(deadline),
        path,
        finished: single,
    };
    (
        requests,
        RecvStream::client(
            receiver,
            Arc::new(method.response.decoder),
            core.receive_limit,
            deadline,
        ),
    )
}

enum SendState {
    Starting(Starting<Arc<Upload>>),
    Open(Arc<Upload>),
    Failed(Status),
}

/// The requests of a streaming call.
///
/// Dropping it without [`finish`](Self::finish) cancels the call, so that an early return never
/// looks like a complete upload.
pub struct RequestStream<T> {
    state: SendState,
    encoder: Encoder<T>,
    encoding: Encoding,
    deadline: Option<Pin<Box<Sleep>>>,
    path: Arc<str>,
    finished: bool,
}

impl<T> std::fmt::Debug for RequestStream<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestStream")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl<T> RequestStream<T> {
    /// Waits for room, then encodes and queues a message whole.
    ///
    /// # Errors
    /// When the call has ended; how it ended is what the receiving half says.
    ///
    /// # Cancel safety
    /// A cancelled send has sent nothing; the message is dropped. [`reserve`](Self::reserve) keeps it.
    pub async fn send(&mut self, message: T) -> Result<(), Status> {
        self.reserve().await?.send(message)
    }

    /// Waits for room for one message.
    ///
    /// # Errors
    /// When the call has ended.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn reserve(&mut self) -> Result<SendPermit<'_, T>, Status> {
        poll_fn(|cx| self.poll_reserve(cx)).await?;
        Ok(SendPermit(self))
    }

    /// Says that no more requests follow; the responses go on.
    ///
    /// # Errors
    /// When the call has ended before.
    ///
    /// # Cancel safety
    /// A cancelled finish cancels the call.
    pub async fn finish(mut self) -> Result<(), Status> {
        poll_fn(|cx| self.poll_finish(cx)).await
    }

    pub(crate) fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        if self.finished {
            return Poll::Ready(Ok(()));
        }
        match self.poll_started(cx) {
            Poll::Ready(Ok(())) => {}
            other => return other,
        }
        self.finished = true;
        Poll::Ready(match &self.state {
            SendState::Open(upload) => upload
                .finish()
                .map_err(|status| status.with_path(&self.path)),
            _ => Ok(()),
        })
    }

    pub(crate) fn poll_reserve(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.poll_ready(cx)
            .map_err(|status| status.with_path(&self.path))
    }

    /// Encodes and queues a message that there is room for.
    pub(crate) fn send_now(&mut self, message: T) -> Result<(), Status> {
        if self.finished {
            return Err(Status::failed_precondition(
                "the requests have been finished",
            ));
        }
        let bytes = message::encode(self.encoder, &message, self.encoding)?;
        match &self.state {
            SendState::Open(upload) => upload
                .send(bytes)
                .map_err(|status| status.with_path(&self.path)),
            SendState::Failed(status) => Err(status.clone()),
            SendState::Starting(_) => Err(Status::internal(
                "a permit was given before the call had started",
            )),
        }
    }

    fn poll_started(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        if let SendState::Starting(started) = &mut self.state {
            let state = match Pin::new(started).poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(Ok(send))) => SendState::Open(send),
                Poll::Ready(Ok(Err(status))) => SendState::Failed(status),
                Poll::Ready(Err(_)) => {
                    SendState::Failed(Status::cancelled("the call ended before it had started"))
                }
            };
            self.state = state;
        }
        match &self.state {
            SendState::Failed(status) => Poll::Ready(Err(status.clone())),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        match self.poll_started(cx) {
            Poll::Ready(Ok(())) => {}
            other => return self.or_deadline(other, cx),
        }
        let SendState::Open(upload) = &self.state else {
            return Poll::Pending;
        };
        let polled = upload.poll_ready(cx);
        self.or_deadline(polled, cx)
    }

    fn or_deadline(
        &mut self,
        polled: Poll<Result<(), Status>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Status>> {
        if polled.is_pending()
            && let Some(sleep) = &mut self.deadline
            && sleep.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(Status::deadline_exceeded(
                "the request could not be sent by the deadline",
            )));
        }
        polled
    }
}

impl<T> Drop for RequestStream<T> {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        match &mut self.state {
            SendState::Open(upload) => upload.cancel(),
            SendState::Starting(started) => {
                started.close();
                if let Ok(Ok(upload)) = started.try_recv() {
                    upload.cancel();
                }
            }
            SendState::Failed(_) => {}
        }
    }
}

/// Room for one message.
#[derive(Debug)]
pub struct SendPermit<'a, T>(&'a mut RequestStream<T>);

impl<T> SendPermit<'_, T> {
    /// Encodes and queues the message; does not wait.
    ///
    /// # Errors
    /// When the call has ended.
    pub fn send(self, message: T) -> Result<(), Status> {
        self.0.send_now(message)
    }
}

/// A call with a stream of requests and one response.
pub struct ClientStream<Q, R> {
    requests: RequestStream<Q>,
    responses: RecvStream<R>,
}

impl<Q, R> std::fmt::Debug for ClientStream<Q, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientStream")
            .field("requests", &self.requests)
            .finish_non_exhaustive()
    }
}

impl<Q, R> ClientStream<Q, R> {
    pub(crate) fn new(requests: RequestStream<Q>, responses: RecvStream<R>) -> Self {
        Self {
            requests,
            responses,
        }
    }

    /// Waits for room, then encodes and queues a message whole.
    ///
    /// # Errors
    /// The status of the call when the server has ended it.
    ///
    /// # Cancel safety
    /// A cancelled send has sent nothing; the message is dropped.
    pub async fn send(&mut self, message: Q) -> Result<(), Status> {
        match self.requests.send(message).await {
            Ok(()) => Ok(()),
            Err(error) => match self.responses.recv().await {
                Err(status) => Err(status),
                Ok(_) => Err(error),
            },
        }
    }

    /// Says that no more requests follow and waits for the response.
    ///
    /// # Errors
    /// The status of the call.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call.
    pub async fn finish(self) -> Result<Response<R>, Status> {
        let Self {
            requests,
            mut responses,
        } = self;
        // When the server has ended the call already, its answer says more than this error.
        let finished = requests.finish().await;
        let message = match responses.recv().await? {
            Some(message) => message,
            None => {
                finished?;
                return Err(Status::internal(
                    "the server ended the call with OK and without a message",
                ));
            }
        };
        if responses.recv().await?.is_some() {
            return Err(Status::internal(
                "the server answered with more than one message",
            ));
        }
        Ok(responses.into_response(message))
    }
}

pub(crate) fn sleep_until(deadline: Option<Deadline>) -> Option<Pin<Box<Sleep>>> {
    deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline.instant())))
}
