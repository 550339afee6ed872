//! One call from its first attempt to its end.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::attempt::{Attempts, Decision, Failure, Pushback};
use super::balancer::CallTracker;
use super::channel::{Core, Picked};
use super::interceptor::{ClientCall, Payload, Reply};
use super::observer::FinishedCall;
use crate::transport::stream::{Event, RecvHalf, SendHalf, StreamError};
use crate::wire::head::RequestHead;
use crate::wire::message::MessageDecoder;
use crate::{Code, Metadata, MethodKind, Status};

/// What every attempt of a call shares.
pub(crate) struct Plan {
    pub(crate) core: Arc<Core>,
    pub(crate) head: RequestHead,
    pub(crate) deadline: Option<crate::Deadline>,
    hash_key: Option<u64>,
    wait_for_ready: bool,
    body: Option<Bytes>,
    end: bool,
    attempts: Attempts,
    avoid: Vec<u64>,
    endpoint: Option<Arc<str>>,
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
    fn new(tracker: Option<Arc<dyn CallTracker>>) -> Self {
        let started = Instant::now();
        if let Some(tracker) = &tracker {
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
            let now = Instant::now();
            tracker.finished(now, now - self.started, self.code);
        }
    }
}

/// A failed attempt.
pub(crate) struct Failed {
    pub(crate) status: Status,
    pub(crate) unprocessed: bool,
}

impl From<StreamError> for Failed {
    fn from(error: StreamError) -> Self {
        Self {
            unprocessed: error.is_unprocessed(),
            status: error.into_status(),
        }
    }
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self {
            status,
            unprocessed: false,
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
    let outcome = match plan.deadline {
        None => plan.unary().await,
        Some(deadline) => match tokio::time::timeout_at(deadline.instant(), plan.unary()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(plan.expired()),
        },
    };
    plan.report(outcome.as_ref().err());
    outcome
}

/// The two halves of an open stream and the guard of its attempt.
pub(crate) struct Halves {
    pub(crate) send: Box<dyn SendHalf>,
    pub(crate) recv: Box<dyn RecvHalf>,
    pub(crate) guard: AttemptGuard,
}

impl Plan {
    fn new(core: Arc<Core>, call: ClientCall) -> Self {
        let now = Instant::now();
        core.budget.call(now);
        Self {
            head: RequestHead {
                path: call.path,
                previous_attempts: 0,
                encoding: core.encoding,
                metadata: call.metadata,
            },
            deadline: call.deadline,
            hash_key: call.options.hash_key,
            wait_for_ready: call.options.wait_for_ready,
            body: call.body,
            end: call.end,
            attempts: Attempts::new(call.repeatable, !call.options.no_retry),
            avoid: Vec::new(),
            endpoint: None,
            started: now,
            reported: false,
            core,
        }
    }

    async fn unary(&mut self) -> Result<Reply, Status> {
        loop {
            let failed = match self.open_once().await? {
                Ok(mut halves) => {
                    match read_unary(&mut *halves.recv, self.core.receive_limit).await {
                        Ok(reply) => {
                            halves.guard.end(Code::Ok);
                            return Ok(reply);
                        }
                        Err(failed) => {
                            halves.guard.end(failed.status.code());
                            failed
                        }
                    }
                }
                Err(failed) => failed,
            };
            self.after(failed).await?;
        }
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
        let picked = self
            .core
            .pick(
                &self.head.path,
                self.hash_key,
                &self.avoid,
                self.wait_for_ready,
            )
            .await;
        let Picked {
            subchannel,
            connection,
            tracker,
        } = picked.map_err(|status| self.annotated(status))?;
        self.attempts.begin();
        self.head.previous_attempts = self.attempts.processed();
        self.endpoint = Some(Arc::clone(subchannel.name()));
        self.avoid.push(subchannel.id());
        let mut guard = AttemptGuard::new(tracker);
        let opened = connection
            .open(&self.head, self.deadline)
            .and_then(|(mut send, recv)| {
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
                guard.end(Code::Unavailable);
                Err(error.into())
            }
        })
    }

    /// Waits for the moment of the next attempt, or ends the call.
    pub(crate) async fn after(&mut self, failed: Failed) -> Result<(), Status> {
        let failure = Failure {
            code: failed.status.code(),
            unprocessed: failed.unprocessed,
            pushback: Pushback::parse(failed.status.metadata().get("grpc-retry-pushback-ms")),
        };
        let status = self.annotated(failed.status);
        let wait = match self.attempts.failed(failure, self.core.random.fraction()) {
            Decision::Fail => return Err(status),
            Decision::Again => std::time::Duration::ZERO,
            Decision::Budgeted(_) if !self.core.budget.try_retry(Instant::now()) => {
                return Err(status);
            }
            Decision::Budgeted(wait) => wait,
        };
        tracing::debug!(%status, ?wait, "trying again");
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    pub(crate) fn annotated(&self, status: Status) -> Status {
        let status = status.with_path(&self.head.path);
        match &self.endpoint {
            Some(endpoint) => status.with_attempt(endpoint, self.attempts.made()),
            None => status,
        }
    }

    pub(crate) fn expired(&self) -> Status {
        let spent = self.started.elapsed();
        let what = match &self.endpoint {
            Some(_) => "the call did not end by its deadline",
            None => "no endpoint was ready by the deadline",
        };
        self.annotated(Status::deadline_exceeded(format!(
            "{what}, {spent:.1?} after it started"
        )))
    }

    /// Tells the observers that the call has ended; the first time counts.
    pub(crate) fn report(&mut self, status: Option<&Status>) {
        if std::mem::replace(&mut self.reported, true) {
            return;
        }
        let call = FinishedCall::new(
            &self.head.path,
            status,
            self.started.elapsed(),
            self.endpoint.as_deref(),
            self.attempts.made(),
        );
        for observer in &self.core.observers {
            observer.call_finished(&call);
        }
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        if !self.reported && !self.core.observers.is_empty() {
            let status = self.annotated(Status::cancelled("the caller dropped the call"));
            self.report(Some(&status));
        }
    }
}

async fn read_unary(recv: &mut dyn RecvHalf, limit: usize) -> Result<Reply, Failed> {
    let mut decoder = MessageDecoder::new(Default::default(), limit);
    let mut metadata = Metadata::new();
    let mut message = None;
    loop {
        match poll_fn(|cx| recv.poll_recv(cx)).await? {
            Event::Head(head) => {
                metadata = head.metadata;
                decoder.set_encoding(head.encoding);
            }
            Event::Data(data) => {
                decoder.push(data);
                while let Some(next) = decoder.next()? {
                    if message.replace(next).is_some() {
                        return Err(Status::internal(
                            "the server answered a unary call with more than one message",
                        )
                        .into());
                    }
                }
            }
            Event::Trailers(trailers) => {
                let trailers = trailers.into_result()?;
                decoder.finish()?;
                let Some(message) = message else {
                    return Err(Status::internal(
                        "the server ended a unary call with OK and without a message",
                    )
                    .into());
                };
                return Ok(Reply {
                    metadata,
                    trailers,
                    payload: Payload::Message(message),
                });
            }
            Event::End => {
                return Err(
                    Status::unknown("the server ended the call without a grpc-status").into(),
                );
            }
        }
    }
}
