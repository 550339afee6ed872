//! Between a streaming handler's task and the response body that HTTP polls.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use crate::lock::{Guarded, Lock, Wakers, watch};
use crate::transport::stream::{ErrorCode, SendHalf, StreamError};
use crate::wire::head::{ResponseHead, Trailers};

/// A message is admitted while less than this is unsent, so the overshoot is at most one message.
const ADMIT_BELOW: usize = 64 * 1024;

#[derive(Default)]
struct State {
    head: Option<ResponseHead>,
    queue: VecDeque<Bytes>,
    queued: usize,
    trailers: Option<Trailers>,
    reset: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Tasks to wake once the lock has been given back.
    woken: Wakers,
}

impl Guarded for State {
    type After = Wakers;

    fn take_after(&mut self) -> Option<Wakers> {
        self.woken.take()
    }
}

/// The handler's end.
pub(super) struct Outbox(Arc<Lock<State>>);

/// The body's end. Dropping it tells the handler that the client has gone.
pub(super) struct Inbox(Arc<Lock<State>>);

/// What the body sends next.
pub(super) enum Next {
    Data(Bytes),
    Trailers(Trailers),
    Reset,
}

pub(super) fn pair() -> (Outbox, Inbox) {
    let state = Arc::new(Lock::new(State::default()));
    (Outbox(Arc::clone(&state)), Inbox(state))
}

impl Outbox {
    /// A second handle, for the one who ends the stream after the handler.
    pub(super) fn clone_handle(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl SendHalf for Outbox {
    fn send_head(&mut self, head: ResponseHead) {
        let mut state = self.0.lock();
        state.head = Some(head);
        let reader = state.reader.take();
        state.woken.push(reader);
    }

    fn poll_ready(
        &mut self,
        cx: &mut Context<'_>,
        _length: usize,
    ) -> Poll<Result<(), StreamError>> {
        let mut state = self.0.lock();
        if state.reset {
            return Poll::Ready(Err(StreamError::Reset(ErrorCode::CANCEL)));
        }
        if state.queued < ADMIT_BELOW {
            return Poll::Ready(Ok(()));
        }
        let stale = watch(&mut state.writer, cx);
        state.woken.forget(stale);
        Poll::Pending
    }

    fn send(&mut self, data: Bytes, _end: bool) -> Result<(), StreamError> {
        let mut state = self.0.lock();
        if state.reset {
            return Err(StreamError::Reset(ErrorCode::CANCEL));
        }
        state.queued += data.len();
        state.queue.push_back(data);
        let reader = state.reader.take();
        state.woken.push(reader);
        Ok(())
    }

    fn send_trailers(&mut self, trailers: Trailers) {
        let mut state = self.0.lock();
        state.trailers = Some(trailers);
        let reader = state.reader.take();
        state.woken.push(reader);
    }

    fn reset(&mut self, _code: ErrorCode) {
        let mut state = self.0.lock();
        state.reset = true;
        let reader = state.reader.take();
        state.woken.push(reader);
    }
}

impl Inbox {
    /// Waits until it is known how the response begins: with a head, or with the end.
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ResponseHead, Trailers>> {
        let mut state = self.0.lock();
        if let Some(head) = state.head.take() {
            return Poll::Ready(Ok(head));
        }
        if let Some(trailers) = state.trailers.take() {
            return Poll::Ready(Err(trailers));
        }
        let stale = watch(&mut state.reader, cx);
        state.woken.forget(stale);
        Poll::Pending
    }

    /// The next piece; small messages that wait together leave together.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        const JOIN_UP_TO: usize = 16 * 1024;
        let mut state = self.0.lock();
        if let Some(first) = state.queue.pop_front() {
            let mut data = first;
            if state
                .queue
                .front()
                .is_some_and(|next| data.len() + next.len() <= JOIN_UP_TO)
            {
                let mut joined = bytes::BytesMut::with_capacity(JOIN_UP_TO.min(state.queued));
                joined.extend_from_slice(&data);
                while let Some(next) = state
                    .queue
                    .pop_front_if(|next| joined.len() + next.len() <= JOIN_UP_TO)
                {
                    joined.extend_from_slice(&next);
                }
                data = joined.freeze();
            }
            state.queued -= data.len();
            if state.queued < ADMIT_BELOW {
                let writer = state.writer.take();
                state.woken.push(writer);
            }
            return Poll::Ready(Next::Data(data));
        }
        if state.reset {
            return Poll::Ready(Next::Reset);
        }
        if let Some(trailers) = state.trailers.take() {
            return Poll::Ready(Next::Trailers(trailers));
        }
        let stale = watch(&mut state.reader, cx);
        state.woken.forget(stale);
        Poll::Pending
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.reset = true;
        let writer = state.writer.take();
        state.woken.push(writer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    #[test]
    fn a_full_outbox_admits_again_once_it_is_drained() {
        let (mut outbox, mut inbox) = pair();
        let mut admitted = 0;
        while outbox.poll_ready(&mut context(), 1).is_ready() {
            outbox.send(Bytes::from(vec![0; 20_000]), false).unwrap();
            admitted += 1;
        }
        assert_eq!(admitted, 4);
        assert!(
            matches!(inbox.poll_next(&mut context()), Poll::Ready(Next::Data(data)) if data.len() == 20_000)
        );
        assert!(outbox.poll_ready(&mut context(), 1).is_ready());
    }

    #[test]
    fn small_messages_leave_together_and_in_order() {
        let (mut outbox, mut inbox) = pair();
        for byte in 0..10u8 {
            outbox.send(Bytes::from(vec![byte; 100]), false).unwrap();
        }
        outbox.send_trailers(Trailers::ok(Default::default()));
        let Poll::Ready(Next::Data(data)) = inbox.poll_next(&mut context()) else {
            panic!("no data")
        };
        assert_eq!(data.len(), 1000);
        assert!(data.windows(2).all(|pair| pair[0] <= pair[1]));
        assert!(matches!(
            inbox.poll_next(&mut context()),
            Poll::Ready(Next::Trailers(_))
        ));
    }

    #[test]
    fn a_client_that_has_gone_is_an_error() {
        let (mut outbox, inbox) = pair();
        drop(inbox);
        assert!(matches!(
            outbox.poll_ready(&mut context(), 1),
            Poll::Ready(Err(_))
        ));
        assert!(outbox.send(Bytes::new(), false).is_err());
    }
}
