//! The halves of a call that a handler has, and its hold on the call.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use rpc_http2::{Payload, StreamKey};

use super::Shared;
use super::calls::{More, Stage, State, payload};
use super::report::Report;
use crate::Status;
use crate::lock::watch;
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
        // An outcome that comes too late is dropped where there is no lock.
        let _late = act(&self.shared, |state| {
            let Some(report) = end(state, self.key) else {
                return Some(outcome);
            };
            let failure = match outcome {
                Ok(single) => state.answer_single(self.key, single),
                Err(status) => {
                    state.fail(self.key, &status);
                    Some(status)
                }
            };
            state.ended(report, failure);
            None
        });
    }

    /// Ends a call that has a stream of responses.
    fn finish_stream(&self, outcome: Finished) {
        let _late = act(&self.shared, |state| {
            let Some(report) = end(state, self.key) else {
                return Some(outcome);
            };
            let failure = match outcome.0 {
                Ok(metadata) => state.finish(self.key, &metadata),
                Err(status) => {
                    state.fail(self.key, &status);
                    Some(status)
                }
            };
            state.ended(report, failure);
            None
        });
    }
}

/// The report of a call that ends now; nothing when it has ended already.
fn end(state: &mut State, key: StreamKey) -> Option<Option<Box<Report>>> {
    let call = state.call(key)?;
    if matches!(call.stage, Stage::Ended) {
        return None;
    }
    let stage = std::mem::replace(&mut call.stage, Stage::Ended);
    let report = call.report.take();
    if let Stage::Task {
        mut inbox, sender, ..
    } = stage
    {
        state.after.forget(inbox.take_reader());
        state.after.forget(sender);
    }
    Some(report)
}

impl Drop for Hold {
    fn drop(&mut self) {
        drop(self.admission.take());
        // A report that is dropped calls its observers, which is not for under the lock.
        let _call = act(&self.shared, |state| state.remove(self.key));
    }
}

/// Does something under the lock that the driver has to write out; gives what came of it without the
/// lock.
fn act<R>(shared: &Shared, act: impl FnOnce(&mut State) -> R) -> R {
    let mut state = shared.lock();
    let result = act(&mut state);
    state.call_needed_driver();
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
            if state.machine.has_output() {
                state.call_driver();
            }
            return Poll::Ready(Ok(Event::Data(data)));
        }
        match &mut inbox.more {
            More::Ended | More::Unwanted => Poll::Ready(Ok(Event::End)),
            More::Broken(why) => Poll::Ready(Err(StreamError::Lost((*why).into()))),
            More::Open(reader) => {
                state.after.forget(watch(reader, cx));
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
        if state.machine.has_output() || state.has_unseen() {
            state.call_driver();
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
                let stale = watch(sender, cx);
                state.after.forget(stale);
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
