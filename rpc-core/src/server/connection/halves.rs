//! The halves of a call that a handler has, and its hold on the call.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use rpc_http2::{Payload, StreamKey};

use super::Shared;
use super::calls::{More, Stage, State, payload};
use super::report::{Report, tell};
use crate::Status;
use crate::server::handler::{Finished, Single};
use crate::server::load::{Account, Admission};
use crate::transport::stream::{CANCEL, ErrorCode, Event, RecvHalf, SendHalf, StreamError};
use crate::wire::head::{ResponseHead, Trailers};

/// A handler's hold on its call: the stream counts as open until it is dropped.
pub(super) struct Hold {
    pub(super) shared: Arc<Shared>,
    pub(super) key: StreamKey,
    pub(super) admission: Option<Admission>,
}

/// How a handler ends, which is the end of its call.
pub(super) trait Outcome: Sized {
    fn finish(hold: &Hold, outcome: Result<Self, Status>);
}

impl Outcome for Result<Single, Status> {
    fn finish(hold: &Hold, outcome: Result<Self, Status>) {
        hold.finish_single(outcome.and_then(|outcome| outcome));
    }
}

impl Outcome for Finished {
    fn finish(hold: &Hold, outcome: Result<Self, Status>) {
        hold.finish_stream(outcome.unwrap_or_else(|status| Self(Err(status))));
    }
}

impl Hold {
    /// Ends a call that has one response.
    pub(super) fn finish_single(&self, outcome: Result<Single, Status>) {
        act(&self.shared, |state| {
            let Some(report) = end(state, self.key) else {
                return;
            };
            let failure = match outcome {
                Ok(single) => state.answer_single(self.key, single),
                Err(status) => {
                    state.fail(self.key, &status);
                    Some(status)
                }
            };
            state.ended(report, failure);
        });
    }

    /// Ends a call that has a stream of responses.
    fn finish_stream(&self, outcome: Finished) {
        act(&self.shared, |state| {
            let Some(report) = end(state, self.key) else {
                return;
            };
            let failure = match outcome.0 {
                Ok(metadata) => state.finish(self.key, &metadata),
                Err(status) => {
                    state.fail(self.key, &status);
                    Some(status)
                }
            };
            state.ended(report, failure);
        });
    }
}

/// The report of a call that ends now; nothing when it has ended already.
fn end(state: &mut State, key: StreamKey) -> Option<Option<Box<Report>>> {
    let call = state.call(key)?;
    if matches!(call.stage, Stage::Ended) {
        return None;
    }
    call.stage = Stage::Ended;
    Some(call.report.take())
}

impl Drop for Hold {
    fn drop(&mut self) {
        drop(self.admission.take());
        // A report that is dropped calls its observers, which is not for under the lock.
        let call = act(&self.shared, |state| state.remove(self.key));
        drop(call);
    }
}

/// Does something under the lock that the driver has to write out.
fn act<R>(shared: &Shared, act: impl FnOnce(&mut State) -> R) -> R {
    let mut state = shared.lock();
    let result = act(&mut state);
    let needed = state.machine.has_output() || state.machine.is_finished() || state.has_unseen();
    let driver = if needed { state.driver.take() } else { None };
    let reports = state.take_reports();
    drop(state);
    if let Some(driver) = driver {
        driver.wake();
    }
    tell(reports);
    result
}

/// The requests of a call.
pub(crate) struct Requests {
    pub(super) shared: Arc<Shared>,
    pub(super) key: StreamKey,
}

impl RecvHalf for Requests {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, StreamError>> {
        let mut guard = self.shared.lock();
        let state = &mut *guard;
        let Some(Some(call)) = state.calls.get_mut(self.key.index()) else {
            return Poll::Ready(Err(StreamError::Reset(CANCEL)));
        };
        if call.key != self.key {
            return Poll::Ready(Err(StreamError::Reset(CANCEL)));
        }
        let Stage::Task { inbox, .. } = &mut call.stage else {
            return Poll::Ready(Err(StreamError::Reset(CANCEL)));
        };
        let data = match inbox.assembler.take() {
            None if !matches!(inbox.more, More::Open(_)) => inbox.assembler.take_all(),
            data => data,
        };
        if let Some(data) = data {
            let count = std::mem::take(&mut inbox.unconsumed);
            inbox.taken();
            call.turn = true;
            state.machine.consume(self.key, count);
            let driver = if state.machine.has_output() {
                state.driver.take()
            } else {
                None
            };
            drop(guard);
            if let Some(driver) = driver {
                driver.wake();
            }
            return Poll::Ready(Ok(Event::Data(data)));
        }
        match &mut inbox.more {
            More::Ended | More::Unwanted => Poll::Ready(Ok(Event::End)),
            More::Broken(why) => Poll::Ready(Err(StreamError::Lost((*why).into()))),
            More::Open(reader) => {
                *reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn account(&self) -> Option<Arc<Account>> {
        Some(Arc::clone(&self.shared.lock().account))
    }
}

impl Drop for Requests {
    /// A handler may go on answering without the rest of its requests.
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let reader = match state.call(self.key).map(|call| &mut call.stage) {
            Some(Stage::Task { inbox, .. }) => inbox.discard(),
            _ => None,
        };
        drop(state);
        drop(reader);
    }
}

/// The responses of a call.
pub(crate) struct Responses {
    pub(super) shared: Arc<Shared>,
    pub(super) key: StreamKey,
}

impl Responses {
    fn put(&mut self, payload: Payload<'_>) -> Result<(), StreamError> {
        let mut state = self.shared.lock();
        let answers = state.machine.stream_count() == 1
            && !state.machine.has_output()
            && state
                .call(self.key)
                .is_some_and(|call| std::mem::take(&mut call.turn));
        if !state.machine.send(self.key, payload, false) {
            return Err(StreamError::Reset(CANCEL));
        }
        if answers {
            // The client waits for it, and nobody else has something to write.
            drop(state);
            self.shared.write_now();
            return Ok(());
        }
        state.settle();
        let driver = if state.machine.has_output() || state.has_unseen() {
            state.driver.take()
        } else {
            None
        };
        drop(state);
        if let Some(driver) = driver {
            driver.wake();
        }
        Ok(())
    }
}

impl SendHalf for Responses {
    fn send_head(&mut self, head: ResponseHead) {
        act(&self.shared, |state| state.send_head(self.key, &head));
    }

    fn poll_ready(
        &mut self,
        cx: &mut Context<'_>,
        _length: usize,
    ) -> Poll<Result<(), StreamError>> {
        // Each message asks anew: what a stream was promised earlier would be room that others fill.
        let mut state = self.shared.lock();
        if !state.machine.is_open(self.key) {
            return Poll::Ready(Err(StreamError::Reset(CANCEL)));
        }
        if state.machine.has_room(self.key) {
            return Poll::Ready(Ok(()));
        }
        match state.call(self.key).map(|call| &mut call.stage) {
            Some(Stage::Task { sender, .. }) => {
                *sender = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(Err(StreamError::Reset(CANCEL))),
        }
    }

    fn send(&mut self, data: Bytes, _end: bool) -> Result<(), StreamError> {
        self.put(payload(&data))
    }

    fn send_copied(&mut self, data: &[u8]) -> Result<(), StreamError> {
        self.put(Payload::Copied(data))
    }

    fn send_trailers(&mut self, _trailers: Trailers) {}

    fn reset(&mut self, code: ErrorCode) {
        act(&self.shared, |state| state.machine.reset(self.key, code));
    }
}
