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
use super::balancer::CallTracker;
use super::channel::{Core, Picked};
use super::interceptor::{ClientCall, Payload, Reply};
use super::observer::FinishedCall;
use super::subchannel::Subchannel;
use crate::lock::outside;
use crate::request::CallOptions;
use crate::status::PUSHBACK;
use crate::transport::http2::client::{Connection, UnaryCall, WholeReply};
use crate::transport::stream::{RecvHalf, SendHalf, StreamError};
use crate::wire::compression::Encoding;
use crate::wire::head::{RequestHead, Trailers};
use crate::wire::message::{MessageDecoder, plain_message};
use crate::{Code, Metadata, MethodKind, Status};

/// What every attempt of a call shares. A stream has a hold on the core of its channel, a unary call
/// looks at it.
pub(crate) struct Plan<C: Deref<Target = Core> = Arc<Core>> {
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

/// An attempt under way; tells the balancer's tracker when it ends, however it ends.
pub(crate) struct AttemptGuard {
    tracker: Option<Arc<dyn CallTracker>>,
    started: Instant,
    code: Code,
}

impl AttemptGuard {
    fn new(tracker: Option<Arc<dyn CallTracker>>, started: Instant) -> Self {
        if let Some(tracker) = &tracker {
            outside("a tracker of calls");
            tracker.started(started);
        }
        Self {
            tracker,
            started,
            code: Code::Cancelled,
        }
    }

    /// Sets how the attempt ended.
    pub(crate) fn end(&mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for AttemptGuard {
    fn drop(&mut self) {
        if let Some(tracker) = &self.tracker {
            outside("a tracker of calls");
            let now = Instant::now();
            tracker.finished(now, now - self.started, self.code);
        }
    }
}

/// A failed attempt.
pub(crate) struct Failed {
    pub(crate) status: Status,
    pub(crate) reached: Reached,
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

impl<C: Deref<Target = Core>> Plan<C> {
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
            let (connection, mut guard, now) = self.begin(picked);
            let empty = Bytes::new();
            let body = self.body.as_ref().unwrap_or(&empty);
            let mut call = None;
            let replied = poll_fn(|cx| match &mut call {
                Some(call) => UnaryCall::poll_reply(call, cx),
                None => match connection.unary(&self.head, body, now, cx) {
                    Ok(opened) => {
                        call = Some(opened);
                        Poll::Pending
                    }
                    Err(error) => Poll::Ready(Err(error)),
                },
            });
            let failed = match replied.await {
                Ok(whole) => match unary_reply(whole, self.core.receive_limit) {
                    Ok(reply) => {
                        guard.end(Code::Ok);
                        self.succeeded();
                        return Ok(reply);
                    }
                    Err(failed) => failed,
                },
                Err(StreamError::Deadline) => {
                    guard.end(Code::DeadlineExceeded);
                    return Err(self.expired());
                }
                Err(error) => error.into(),
            };
            if failed.reached != Reached::Nothing {
                guard.end(failed.status.code());
            }
            drop(guard);
            // Boxed, since the calls that do not come here would have to carry it.
            Box::pin(self.after_until_deadline(failed)).await?;
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
    fn begin(&mut self, picked: Picked) -> (Arc<Connection>, AttemptGuard, Instant) {
        let now = self.now();
        self.attempts.begin();
        self.head.previous_attempts = self.attempts.processed();
        self.endpoint = Some(picked.subchannel);
        let guard = AttemptGuard::new(picked.tracker, now);
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
        let (connection, mut guard, _) = self.begin(picked);
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
                if error.reached() != Reached::Nothing {
                    guard.end(Code::Unavailable);
                }
                Err(error.into())
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
    pub(crate) fn report(&mut self, status: Option<&Status>) {
        if std::mem::replace(&mut self.reported, true) || self.core.observers.is_empty() {
            return;
        }
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

impl<C: Deref<Target = Core>> Drop for Plan<C> {
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
