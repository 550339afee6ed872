//! Streaming calls of a client: how they start, and the sending halves.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use tokio::sync::oneshot;
use tokio::task::coop::poll_proceed;
use tokio::time::Sleep;

use super::call::{Opened, Plan};
use super::channel::Core;
use super::guard::AttemptGuard;
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
                        let upload = Upload::new(halves.send, plan.repeat());
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
    /// When the call has ended, which [`Status::is_call_ended`] says: at the latest at its deadline, and
    /// as soon as the server has answered. How it ended, which may be success, is what the receiving
    /// half says. Otherwise the message could not be encoded.
    ///
    /// # Cancel safety
    /// A cancelled send has sent nothing; the message is dropped. [`reserve`](Self::reserve) keeps it.
    pub async fn send(&mut self, message: T) -> Result<(), Status> {
        self.reserve().await?.send(message)
    }

    /// Waits for room for one message.
    ///
    /// # Errors
    /// As [`send`](Self::send), when the call has ended.
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
    /// When the call has failed before, other than by an answer of the server, which the receiving half
    /// has.
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
            SendState::Open(upload) => upload.finish().map_err(|status| self.ended(status)),
            _ => Ok(()),
        })
    }

    pub(crate) fn poll_reserve(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let turn = ready!(poll_proceed(cx));
        let polled = self.poll_ready(cx);
        if polled.is_ready() {
            turn.made_progress();
        }
        polled.map_err(|status| self.ended(status))
    }

    /// The status of what cannot be sent any more.
    fn ended(&self, status: Status) -> Status {
        status.with_path(&self.path).of_ended_call()
    }

    /// Whether what is sent waits for another attempt, which the receiving half has to make.
    fn is_broken(&self) -> bool {
        matches!(&self.state, SendState::Open(upload) if upload.is_broken())
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
            SendState::Open(upload) => upload.send(bytes).map_err(|status| self.ended(status)),
            SendState::Failed(status) => Err(self.ended(status.clone())),
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
                Poll::Ready(Err(_)) => SendState::Failed(not_started()),
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
        match &self.state {
            // The connection ends the call by its deadline.
            SendState::Open(upload) => upload.poll_ready(cx),
            _ => Poll::Pending,
        }
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
    /// What has arrived while requests were sent: the answer, and what is too much.
    arrived: Vec<R>,
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
            arrived: Vec::new(),
        }
    }

    /// Waits for room, then encodes and queues a message whole.
    ///
    /// # Errors
    /// When the call has ended, which [`Status::is_call_ended`] says: at the latest at its deadline, and
    /// as soon as the server has answered. The status is that of the call if it has failed, and
    /// `CANCELLED` if it has succeeded; [`finish`](Self::finish) gives the answer in either case.
    /// Otherwise the message could not be encoded.
    ///
    /// # Cancel safety
    /// A cancelled send has sent nothing; the message is dropped.
    pub async fn send(&mut self, message: Q) -> Result<(), Status> {
        poll_fn(|cx| self.poll_reserve(cx)).await?;
        self.requests.send_now(message)
    }

    fn poll_reserve(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        loop {
            if let Err(status) = ready!(self.requests.poll_reserve(cx)) {
                return Poll::Ready(Err(self.why_ended(status, cx)));
            }
            if !self.requests.is_broken() {
                return Poll::Ready(Ok(()));
            }
            // Nobody else moves the receiving half, which makes the next attempt or has none.
            let polled = self.poll_responses(cx);
            if polled.is_pending() && self.requests.is_broken() {
                return Poll::Pending;
            }
        }
    }

    /// Takes in what has arrived, for `finish`.
    fn poll_responses(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        // The third one says nothing new: there may be one.
        while self.arrived.len() < 2 {
            match ready!(self.responses.poll_recv(cx))? {
                Some(message) => self.arrived.push(message),
                None => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The status of a call that takes no more requests.
    fn why_ended(&mut self, status: Status, cx: &mut Context<'_>) -> Status {
        match self.poll_responses(cx) {
            Poll::Ready(Err(failure)) => failure.of_ended_call(),
            Poll::Ready(Ok(())) | Poll::Pending => status,
        }
    }

    /// Says that no more requests follow and waits for the response, which may be there already.
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
            arrived,
        } = self;
        let mut arrived = arrived.into_iter();
        // When the server has ended the call already, its answer says more than this error.
        let finished = requests.finish().await;
        let message = match arrived.next() {
            Some(message) => Some(message),
            None => responses.recv().await?,
        };
        let message = match message {
            Some(message) => message,
            None => {
                finished?;
                return Err(Status::internal(
                    "the server ended the call with OK and without a message",
                ));
            }
        };
        if arrived.next().is_some() || responses.recv().await?.is_some() {
            return Err(Status::internal(
                "the server answered with more than one message",
            ));
        }
        Ok(responses.into_response(message))
    }
}

/// Why a call that was to start elsewhere never did.
pub(crate) fn not_started() -> Status {
    Status::unavailable(
        "the call was not started: the runtime that its channel was made on has ended, or an \
         interceptor has panicked",
    )
}

pub(crate) fn sleep_until(deadline: Option<Deadline>) -> Option<Pin<Box<Sleep>>> {
    deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline.instant())))
}
