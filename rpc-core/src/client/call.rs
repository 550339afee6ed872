//! One call from its first attempt to its end.

use std::borrow::Cow;
use std::future::poll_fn;
use std::ops::Deref;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use super::attempt::{Attempts, Decision, Failure, Pushback, Reached, Repeat};
use super::channel::{Core, Picked};
use super::guard::{AttemptGuard, Patience};
use super::interceptor::{ClientCall, Payload, Reply};
use super::observer::FinishedCall;
use super::subchannel::Subchannel;
use super::tracker::AttemptEnd;
use crate::lock::outside;
use crate::request::CallOptions;
use crate::status::PUSHBACK;
use crate::transport::http2::client::{Connection, UnaryCall, WholeReply};
use crate::transport::stream::{RecvHalf, SendHalf, StreamError};
use crate::wire::compression::Encoding;
use crate::wire::head::{RequestHead, Trailers};
use crate::wire::message::{MessageDecoder, plain_message};
use crate::{BoxFuture, Code, Metadata, MethodKind, Status};

/// What every attempt of a call shares. A stream has a hold on the core of its channel, a unary call
/// looks at it.
pub(crate) struct Plan<C: Deref<Target = Core> + Send + Sync = Arc<Core>> {
    pub(crate) core: C,
    pub(crate) head: RequestHead,
    pub(crate) deadline: Option<crate::Deadline>,
    hash_key: Option<u64>,
    wait_for_ready: bool,
    body: Option<Bytes>,
    end: bool,
    attempts: Attempts,
    avoid: Vec<u64>,
    endpoint: Option<Subchannel>,
    started: Instant,
    reported: bool,
}

/// A stream that has been opened.
pub(crate) struct Opened {
    pub(crate) plan: Plan,
    pub(crate) halves: Halves,
}

/// A failed attempt.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) status: Status,
    pub(crate) reached: Reached,
}

impl Failed {
    /// What it says of the endpoint.
    pub(crate) fn end(&self) -> AttemptEnd {
        match self.reached {
            Reached::Nothing => AttemptEnd::Unsent,
            Reached::Library => AttemptEnd::Refused,
            Reached::Perhaps => AttemptEnd::Lost,
            Reached::Server => AttemptEnd::Answered(self.status.code()),
        }
    }
}

impl From<StreamError> for Failed {
    fn from(error: StreamError) -> Self {
        Self {
            reached: error.reached(),
            status: error.into_status(),
        }
    }
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self {
            status,
            reached: Reached::Server,
        }
    }
}

/// Makes a call: to its end for a unary one, until the stream is open for others.
pub(crate) async fn run(core: &Arc<Core>, call: ClientCall) -> Result<Reply, Status> {
    let kind = call.kind;
    let mut plan = Plan::new(Arc::clone(core), call);
    if kind != MethodKind::Unary {
        let halves = plan.open_until_deadline().await?;
        let payload = Payload::Stream(Box::new(Opened { plan, halves }));
        return Ok(Reply {
            metadata: Metadata::new(),
            trailers: Metadata::new(),
            payload,
        });
    }
    let outcome = plan.unary().await;
    plan.report(outcome.as_ref().err());
    outcome
}

/// The two halves of an open stream and the guard of its attempt.
pub(crate) struct Halves {
    pub(crate) send: Box<dyn SendHalf>,
    pub(crate) recv: Box<dyn RecvHalf>,
    pub(crate) guard: AttemptGuard,
}

/// What has become of an attempt that was overdue.
enum Overtaken {
    /// It has ended.
    No(Result<WholeReply, StreamError>),
    /// Another one was faster, and this is what the call comes to.
    By(Result<Reply, Status>),
}

impl<C: Deref<Target = Core> + Send + Sync> Plan<C> {
    pub(crate) fn new(core: C, call: ClientCall) -> Self {
        let options = call
            .options
            .map_or_else(CallOptions::default, |options| *options);
        Self {
            head: RequestHead {
                path: call.path,
                deadline: call.deadline,
                previous_attempts: 0,
                encoding: core.encoding,
                codecs: call.codecs,
                metadata: call.metadata,
            },
            deadline: call.deadline,
            hash_key: options.hash_key,
            wait_for_ready: options.wait_for_ready,
            body: call.body,
            end: call.end,
            attempts: Attempts::new(call.repeatable, !options.no_retry),
            avoid: Vec::new(),
            endpoint: None,
            started: call.started,
            reported: false,
            core,
        }
    }

    /// Makes the attempts of a unary call.
    pub(crate) async fn unary(&mut self) -> Result<Reply, Status> {
        loop {
            let picked = match self.pick_now() {
                Ok(picked) => picked,
                Err(_) => Box::pin(self.pick_until_deadline()).await,
            };
            let picked = picked.map_err(|status| self.not_picked(status))?;
            let (connection, mut guard, now) = self.begin(picked, true);
            let mut patience = self.patience(&guard, now);
            let empty = Bytes::new();
            let body = self.body.as_ref().unwrap_or(&empty);
            let mut call = None;
            let replied = poll_fn(|cx| {
                let polled = match &mut call {
                    Some(call) => UnaryCall::poll_reply(call, cx),
                    None => match connection.unary(&self.head, body, now, cx) {
                        Ok(opened) => {
                            call = Some(opened);
                            Poll::Pending
                        }
                        Err(error) => Poll::Ready(Err(error)),
                    },
                };
                match (polled, &mut patience) {
                    (Poll::Ready(replied), _) => Poll::Ready(Some(replied)),
                    (Poll::Pending, Some(patience)) => patience.poll_end(cx).map(|()| None),
                    (Poll::Pending, None) => Poll::Pending,
                }
            });
            let replied = match replied.await {
                Some(replied) => replied,
                None => {
                    let Some(call) = &mut call else { continue };
                    // Boxed, as below.
                    match Box::pin(self.overtake(call, &mut guard)).await {
                        Overtaken::No(replied) => replied,
                        Overtaken::By(outcome) => return outcome,
                    }
                }
            };
            let failed = match self.judge(replied, &mut guard) {
                Ok(reply) => return Ok(reply),
                Err(None) => return Err(self.expired()),
                Err(Some(failed)) => failed,
            };
            drop(guard);
            // Boxed, since the calls that do not come here would have to carry it.
            Box::pin(self.after_until_deadline(failed)).await?;
        }
    }

    /// What has come of an attempt; a failure is nothing when it is the deadline.
    #[inline(always)]
    fn judge(
        &self,
        replied: Result<WholeReply, StreamError>,
        guard: &mut AttemptGuard,
    ) -> Result<Reply, Option<Failed>> {
        let failed = match replied {
            Ok(whole) => match unary_reply(whole, self.core.receive_limit) {
                Ok(reply) => {
                    guard.end(AttemptEnd::Answered(Code::Ok));
                    self.succeeded();
                    return Ok(reply);
                }
                Err(failed) => failed,
            },
            Err(StreamError::Deadline) => {
                guard.end(AttemptEnd::Expired);
                return Err(None);
            }
            Err(error) => error.into(),
        };
        guard.end(failed.end());
        Err(Some(failed))
    }

    /// How long the attempt is waited for before another one is made beside it: of what is left until
    /// the deadline the half at most, so that the other one has time too.
    fn patience(&self, guard: &AttemptGuard, now: Instant) -> Option<Patience> {
        let tracker = guard.tracker()?;
        if !self.attempts.may_overtake() {
            return None;
        }
        let most = match self.deadline {
            Some(deadline) => deadline.instant().saturating_duration_since(now) / 2,
            None => std::time::Duration::MAX,
        };
        Patience::new(Arc::clone(tracker), *guard.attempt(), now, most)
    }

    /// Makes another attempt beside one whose endpoint says nothing, if there are another endpoint and
    /// a retry for it. The first answer counts.
    async fn overtake(&mut self, call: &mut UnaryCall<'_>, guard: &mut AttemptGuard) -> Overtaken {
        guard.overdue();
        let first = self.endpoint.clone();
        self.avoid.extend(first.as_ref().map(Subchannel::id));
        if !self.has_other_endpoint() || !self.may_retry(Reached::Perhaps) {
            return Overtaken::No(poll_fn(|cx| call.poll_reply(cx)).await);
        }
        self.attempts.overtaken();
        tracing::debug!(
            method = &*self.head.path,
            endpoint = first.as_ref().map(|first| &**first.name()),
            "nothing is heard: trying another endpoint too"
        );
        let replied = {
            let mut other = Some(self.unary_again());
            let mut other_failed = None;
            let ended = poll_fn(|cx| {
                if let Poll::Ready(replied) = call.poll_reply(cx) {
                    return Poll::Ready(Ok(replied));
                }
                let Some(making) = &mut other else {
                    return Poll::Pending;
                };
                let Poll::Ready(outcome) = making.as_mut().poll(cx) else {
                    return Poll::Pending;
                };
                match outcome {
                    // Perhaps the first one is only slow.
                    Err(status) if status.code() == Code::Unavailable => {
                        other = None;
                        other_failed = Some(status);
                        Poll::Pending
                    }
                    outcome => Poll::Ready(Err(outcome)),
                }
            });
            let replied = match ended.await {
                Ok(replied) => replied,
                Err(outcome) => return Overtaken::By(outcome),
            };
            if matches!(replied, Err(StreamError::Lost(_))) {
                guard.end(AttemptEnd::Lost);
                // The other one goes on, or has said what there is to say.
                match (other, other_failed) {
                    (Some(other), _) => return Overtaken::By(other.await),
                    (None, Some(status)) => return Overtaken::By(Err(status)),
                    (None, None) => {}
                }
            }
            replied
        };
        self.endpoint = first;
        Overtaken::No(replied)
    }

    /// [`Plan::unary`] from within itself.
    fn unary_again(&mut self) -> BoxFuture<'_, Result<Reply, Status>> {
        Box::pin(self.unary())
    }

    /// Whether there is an endpoint that the call has not been to, or may soon be.
    fn has_other_endpoint(&self) -> bool {
        match self.pick_now() {
            Ok(Ok(picked)) => !self.avoid.contains(&picked.subchannel.id()),
            Ok(Err(_)) => false,
            Err(_) => true,
        }
    }

    /// [`Plan::after`] under the deadline.
    pub(crate) async fn after_until_deadline(&mut self, failed: Failed) -> Result<(), Status> {
        let Some(deadline) = self.deadline else {
            return self.after(failed).await;
        };
        match tokio::time::timeout_at(deadline.instant(), self.after(failed)).await {
            Ok(decided) => decided,
            Err(_) => Err(self.expired()),
        }
    }

    /// [`Plan::pick`] under the deadline.
    async fn pick_until_deadline(&self) -> Result<Picked, Status> {
        let Some(deadline) = self.deadline else {
            return self.pick().await;
        };
        match tokio::time::timeout_at(deadline.instant(), self.pick()).await {
            Ok(picked) => picked,
            Err(_) => Err(self.expired()),
        }
    }

    fn pick_now(&self) -> Result<Result<Picked, Status>, u64> {
        self.core.pick_now(
            &self.head.path,
            self.hash_key,
            self.avoid(),
            self.wait_for_ready,
            self.now(),
        )
    }

    /// The time, which is looked at once for a call that has just begun.
    fn now(&self) -> Instant {
        if self.attempts.made() == 0 {
            self.started
        } else {
            Instant::now()
        }
    }

    /// The endpoints that have been tried.
    fn avoid(&self) -> &[u64] {
        &self.avoid
    }

    async fn pick(&self) -> Result<Picked, Status> {
        self.core
            .pick(
                &self.head.path,
                self.hash_key,
                self.avoid(),
                self.wait_for_ready,
            )
            .await
    }

    /// Begins an attempt.
    fn begin(&mut self, picked: Picked, unary: bool) -> (Arc<Connection>, AttemptGuard, Instant) {
        let now = self.now();
        self.attempts.begin();
        self.head.previous_attempts = self.attempts.processed();
        self.endpoint = Some(picked.subchannel);
        let guard = AttemptGuard::new(picked.tracker, now, unary);
        (picked.connection, guard, now)
    }

    /// Opens the stream, however many endpoints that takes.
    pub(crate) async fn open(&mut self) -> Result<Halves, Status> {
        loop {
            match self.open_once().await? {
                Ok(halves) => return Ok(halves),
                Err(failed) => self.after(failed).await?,
            }
        }
    }

    /// [`Plan::open`] under the deadline.
    pub(crate) async fn open_until_deadline(&mut self) -> Result<Halves, Status> {
        let outcome = match self.deadline {
            None => self.open().await,
            Some(deadline) => {
                match tokio::time::timeout_at(deadline.instant(), self.open()).await {
                    Ok(outcome) => outcome,
                    Err(_) => Err(self.expired()),
                }
            }
        };
        if let Err(status) = &outcome {
            self.report(Some(status));
        }
        outcome
    }

    /// One attempt: picks, opens the stream and sends the request if there is one already.
    async fn open_once(&mut self) -> Result<Result<Halves, Failed>, Status> {
        let picked = self.pick().await;
        let picked = picked.map_err(|status| self.not_picked(status))?;
        let (connection, mut guard, _) = self.begin(picked, false);
        let opened = connection.open(&self.head).and_then(|(mut send, recv)| {
            if let Some(body) = &self.body {
                send.send(body.clone(), self.end)?;
            }
            Ok((send, recv))
        });
        Ok(match opened {
            Ok((send, recv)) => Ok(Halves {
                send: Box::new(send),
                recv: Box::new(recv),
                guard,
            }),
            Err(error) => {
                let failed = Failed::from(error);
                guard.end(failed.end());
                Err(failed)
            }
        })
    }

    /// The status of a call that no endpoint could be found for.
    fn not_picked(&self, status: Status) -> Status {
        if self.is_late() {
            return self.expired();
        }
        self.annotated(status)
    }

    /// Whether the deadline has passed: then nothing but an answer is another reason to end.
    fn is_late(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| deadline.instant() <= Instant::now())
    }

    /// Waits for the moment of the next attempt, or ends the call.
    pub(crate) async fn after(&mut self, failed: Failed) -> Result<(), Status> {
        if failed.reached != Reached::Server && self.is_late() {
            return Err(self.expired());
        }
        self.avoid
            .extend(self.endpoint.as_ref().map(Subchannel::id));
        let failure = Failure {
            code: failed.status.code(),
            reached: failed.reached,
            pushback: Pushback::parse(failed.status.metadata().get(PUSHBACK)),
        };
        let status = self.annotated(failed.status);
        let wait = match self.attempts.failed(failure, self.core.random.fraction()) {
            Decision::Fail => return Err(status.with_last(self.attempts.why_last(failure))),
            Decision::Again => std::time::Duration::ZERO,
            Decision::Budgeted(_) if !self.may_retry(failure.reached) => {
                return Err(status.with_last(Some("not repeated: the retry budget is used up")));
            }
            Decision::Budgeted(wait) => wait,
        };
        tracing::debug!(%status, ?wait, "trying again");
        if wait.is_zero() {
            consume_budget().await;
        } else {
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    fn may_retry(&self, reached: Reached) -> bool {
        let answered = matches!(reached, Reached::Server | Reached::Library);
        self.core.budget.try_retry(Instant::now(), answered)
    }

    /// Counts the call for the budget of retries.
    pub(crate) fn succeeded(&self) {
        self.core.budget.succeeded(self.started);
    }

    /// Which failures another attempt may follow.
    pub(crate) fn repeat(&self) -> Repeat {
        self.attempts.repeat()
    }

    pub(crate) fn annotated(&self, status: Status) -> Status {
        let status = status.with_path(&self.head.path);
        match &self.endpoint {
            Some(endpoint) => status.with_attempt(endpoint.name(), self.attempts.made()),
            None => status.with_target(&self.core.target),
        }
    }

    pub(crate) fn expired(&self) -> Status {
        let spent = self.started.elapsed();
        let what = match &self.endpoint {
            Some(_) => "the call did not end by its deadline",
            None => "no endpoint was ready by the deadline",
        };
        let status = Status::deadline_exceeded(format!("{what}, {spent:.1?} after it started"));
        let why = match &self.endpoint {
            Some(_) => None,
            None => self.core.unready(&self.head.path),
        };
        self.annotated(match why {
            Some(why) => status.with_source(why),
            None => status,
        })
    }

    /// Tells the observers that the call has ended; the first time counts.
    #[inline]
    pub(crate) fn report(&mut self, status: Option<&Status>) {
        if !std::mem::replace(&mut self.reported, true) && !self.core.observers.is_empty() {
            self.tell_observers(status);
        }
    }

    fn tell_observers(&self, status: Option<&Status>) {
        outside("an observer");
        // What was made at run time may be made up by a peer.
        let path = match &self.head.path {
            Cow::Borrowed(path) => path,
            Cow::Owned(_) => FinishedCall::OTHER,
        };
        let call = FinishedCall::new(
            path,
            status,
            self.started.elapsed(),
            self.endpoint.as_ref().map(|endpoint| &**endpoint.name()),
            self.attempts.made(),
        );
        for observer in &self.core.observers {
            observer.call_finished(&call);
        }
    }
}

impl<C: Deref<Target = Core> + Send + Sync> Drop for Plan<C> {
    fn drop(&mut self) {
        if !self.reported && !self.core.observers.is_empty() {
            let status = self.annotated(Status::cancelled("the caller dropped the call"));
            self.report(Some(&status));
        }
    }
}

/// The reply in a whole response. What goes wrong with it has the head that came.
fn unary_reply(whole: WholeReply, limit: usize) -> Result<Reply, Failed> {
    let head = whole.head.unwrap_or_default();
    match unary_parts(whole.trailers, head.encoding, whole.data, limit) {
        Ok((trailers, message)) => Ok(Reply {
            metadata: head.metadata,
            trailers,
            payload: Payload::Message(message),
        }),
        Err(status) => Err(status.with_leading(head.metadata).into()),
    }
}

/// The trailing metadata and the message of a whole response.
fn unary_parts(
    trailers: Option<Trailers>,
    encoding: Encoding,
    data: Option<Bytes>,
    limit: usize,
) -> Result<(Metadata, Bytes), Status> {
    let trailers = trailers
        .ok_or_else(|| Status::unknown("the server ended the call without a grpc-status"))?
        .into_result()?;
    let data = match plain_message(data.unwrap_or_default(), limit) {
        Ok(message) => return Ok((trailers, message)),
        Err(data) => data,
    };
    let mut decoder = MessageDecoder::new(encoding, limit);
    decoder.push(data);
    let Some(message) = decoder.next()? else {
        decoder.finish()?;
        return Err(Status::internal(
            "the server ended a unary call with OK and without a message",
        ));
    };
    if decoder.next()?.is_some() {
        return Err(Status::internal(
            "the server answered a unary call with more than one message",
        ));
    }
    decoder.finish()?;
    Ok((trailers, message))
}
