//! The two halves of a client's streaming call.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use rpc_http2::{ErrorCode, StreamKey};

use super::client::{Call, Shared, payload};
use crate::lock::watch;
use crate::transport::stream::{Event, RecvHalf, SendHalf, StreamError};
use crate::wire::head::{ResponseHead, Trailers};

/// A hold on a stream.
#[derive(Clone)]
pub(super) struct Half {
    pub(super) shared: Arc<Shared>,
    pub(super) key: StreamKey,
}

impl Half {
    /// One of the two halves of a streaming call is gone.
    fn leave(&self, early: bool) {
        self.shared.act(|state| {
            let Some(call) = state.call(self.key) else {
                return;
            };
            call.halves -= 1;
            if call.halves == 0 {
                state.let_go(self.key);
            } else if early {
                state.reset(self.key, ErrorCode::CANCEL);
            }
        });
    }
}

impl Call {
    /// Why nothing more can be sent, if that is so.
    fn ended(&self) -> Option<StreamError> {
        Some(match self.outcome.as_ref()? {
            Err(error) => error.again(),
            Ok(trailers) => {
                let failure = trailers.as_ref().and_then(Trailers::failure);
                StreamError::Answered(failure.and_then(|trailers| trailers.into_result().err()))
            }
        })
    }
}

/// The sending half of a call.
pub(crate) struct Sender {
    pub(super) half: Half,
    pub(super) ended: bool,
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.half.leave(!self.ended);
    }
}

impl SendHalf for Sender {
    fn send_head(&mut self, _head: ResponseHead) {}

    fn poll_ready(
        &mut self,
        cx: &mut Context<'_>,
        _length: usize,
    ) -> Poll<Result<(), StreamError>> {
        let key = self.half.key;
        let mut state = self.half.shared.lock();
        let room = state.machine.has_room(key);
        let Some(call) = state.call(key) else {
            return Poll::Ready(Err(StreamError::Reset(crate::transport::stream::CANCEL)));
        };
        if let Some(error) = call.ended() {
            return Poll::Ready(Err(error));
        }
        if room {
            return Poll::Ready(Ok(()));
        }
        let stale = watch(&mut call.sender, cx);
        state.woken.forget(stale);
        Poll::Pending
    }

    fn send(&mut self, data: Bytes, end: bool) -> Result<(), StreamError> {
        self.ended |= end;
        let key = self.half.key;
        let shared = &self.half.shared;
        let mut state = shared.lock();
        let Some(call) = state.call(key) else {
            return Err(StreamError::Reset(ErrorCode::CANCEL));
        };
        if let Some(error) = call.ended() {
            return Err(error);
        }
        let turn = std::mem::take(&mut call.turn);
        let answers = turn && state.machine.stream_count() == 1 && !state.machine.has_output();
        if !state.machine.send(key, payload(&data), end) {
            // Its outcome comes with what the connection has not been asked for yet.
            return Err(StreamError::Reset(ErrorCode::CANCEL));
        }
        if answers {
            // The peer waits for it, and nobody else has something to write.
            drop(state);
            shared.write_now();
            return Ok(());
        }
        state.call_needed_driver();
        Ok(())
    }

    fn has_begun(&self) -> bool {
        let mut state = self.half.shared.lock();
        state.call(self.half.key).is_some_and(|call| call.begun)
    }

    fn send_trailers(&mut self, _trailers: Trailers) {}

    fn reset(&mut self, code: ErrorCode) {
        self.ended = true;
        let key = self.half.key;
        self.half.shared.act(|state| state.reset(key, code));
    }
}

/// The receiving half of a call.
pub(crate) struct Receiver {
    pub(super) half: Half,
    pub(super) ended: bool,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.half.leave(!self.ended);
    }
}

impl RecvHalf for Receiver {
    fn expire(&mut self) -> bool {
        let key = self.half.key;
        let mut state = self.half.shared.lock();
        if self.ended || state.call(key).is_none() {
            return false;
        }
        state.expire(key.index());
        let call = state.call(key);
        let is_late =
            call.is_some_and(|call| matches!(call.outcome, Some(Err(StreamError::Deadline))));
        state.call_needed_driver();
        is_late
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, StreamError>> {
        if self.ended {
            return Poll::Ready(Ok(Event::End));
        }
        let key = self.half.key;
        let mut guard = self.half.shared.lock();
        let state = &mut *guard;
        let call = state.calls.get_mut(key.index()).and_then(Option::as_mut);
        let Some(call) = call.filter(|call| call.key == key) else {
            return Poll::Ready(Ok(Event::End));
        };
        if let Some(head) = call.head.take() {
            return Poll::Ready(Ok(Event::Head(head)));
        }
        let data = match call.assembler.take() {
            None if call.outcome.is_some() => call.assembler.take_all(),
            data => data,
        };
        if let Some(data) = data {
            let count = std::mem::take(&mut call.unconsumed);
            call.turn = true;
            state.machine.consume(key, count);
            state.call_needed_driver();
            return Poll::Ready(Ok(Event::Data(data)));
        }
        let Some(outcome) = call.outcome.take() else {
            state.woken.forget(watch(&mut call.receiver, cx));
            return Poll::Pending;
        };
        self.ended = true;
        // What asks for it later hears the same.
        call.outcome = Some(match &outcome {
            Ok(trailers) => Ok(trailers.as_ref().and_then(Trailers::failure)),
            Err(error) => Err(error.again()),
        });
        state.woken.push(call.sender.take());
        Poll::Ready(outcome.map(|trailers| trailers.map_or(Event::End, Event::Trailers)))
    }
}
