//! The requests of a streaming call, kept until the server has shown that it looked at them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::Status;
use crate::transport::stream::{ErrorCode, SendHalf};

/// How many bytes of requests are kept to be sent again. A call that has sent more stays with the
/// endpoint that it has.
const KEPT: usize = 256 * 1024;

/// The sending half of a call that may move from one stream to another.
///
/// While the call may be made again, a stream that breaks is no failure of sending: the receiving
/// half hears of it too and decides.
pub(crate) struct Upload(Mutex<State>);

struct State {
    send: Box<dyn SendHalf>,
    /// What was sent so far, as long as it may have to be sent again.
    kept: Option<Vec<Bytes>>,
    bytes: usize,
    finished: bool,
    broken: bool,
}

impl Upload {
    pub(crate) fn new(send: Box<dyn SendHalf>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            send,
            kept: Some(Vec::new()),
            bytes: 0,
            finished: false,
            broken: false,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock leaves the state half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let mut state = self.lock();
        if state.broken && state.kept.is_some() {
            return Poll::Ready(Ok(()));
        }
        match state.send.poll_ready(cx, 1) {
            Poll::Ready(Err(_)) if state.kept.is_some() => {
                state.broken = true;
                Poll::Ready(Ok(()))
            }
            polled => polled.map_err(|error| error.into_status()),
        }
    }

    pub(crate) fn send(&self, message: Bytes) -> Result<(), Status> {
        let mut state = self.lock();
        state.bytes = state.bytes.saturating_add(message.len());
        if state.bytes > KEPT {
            state.kept = None;
        }
        if let Some(kept) = &mut state.kept {
            kept.push(message.clone());
        }
        state.pass(message, false)
    }

    pub(crate) fn finish(&self) -> Result<(), Status> {
        let mut state = self.lock();
        state.finished = true;
        state.pass(Bytes::new(), true)
    }

    /// The caller has given up: the call ends, and is not made again.
    pub(crate) fn cancel(&self) {
        let mut state = self.lock();
        state.kept = None;
        state.send.reset(ErrorCode::CANCEL);
    }

    /// Whether everything that was sent is still here.
    pub(crate) fn can_resend(&self) -> bool {
        self.lock().kept.is_some()
    }

    /// The server has begun to answer, or there will be no other stream: nothing is kept any more.
    pub(crate) fn commit(&self) {
        self.lock().kept = None;
    }

    /// Goes on with another stream, which gets all that the last one got.
    pub(crate) fn resend(&self, send: Box<dyn SendHalf>) {
        let mut state = self.lock();
        state.send = send;
        state.broken = false;
        for message in state.kept.clone().unwrap_or_default() {
            // A stream that breaks at once is heard of by the receiving half.
            let _ = state.pass(message, false);
        }
        if state.finished {
            let _ = state.pass(Bytes::new(), true);
        }
    }
}

impl State {
    fn pass(&mut self, data: Bytes, end: bool) -> Result<(), Status> {
        if self.broken && self.kept.is_some() {
            return Ok(());
        }
        match self.send.send(data, end) {
            Err(_) if self.kept.is_some() => {
                self.broken = true;
                Ok(())
            }
            sent => sent.map_err(|error| error.into_status()),
        }
    }
}

/// The receiving half's hold on the requests; without it nobody would send them again.
pub(crate) struct Resend(pub(crate) Arc<Upload>);

impl Drop for Resend {
    fn drop(&mut self) {
        self.0.commit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::stream::StreamError;
    use crate::wire::head::{ResponseHead, Trailers};

    /// Writes down what it is given; breaks when it is told.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Written>>);

    #[derive(Default)]
    struct Written {
        sent: Vec<(Bytes, bool)>,
        broken: bool,
    }

    impl Log {
        fn sent(&self) -> Vec<(Bytes, bool)> {
            self.0.lock().unwrap().sent.clone()
        }

        fn break_down(&self) {
            self.0.lock().unwrap().broken = true;
        }

        fn check(&self) -> Result<(), StreamError> {
            if self.0.lock().unwrap().broken {
                return Err(StreamError::Refused("as asked".to_owned()));
            }
            Ok(())
        }
    }

    impl SendHalf for Log {
        fn send_head(&mut self, _head: ResponseHead) {}

        fn poll_ready(&mut self, _: &mut Context<'_>, _: usize) -> Poll<Result<(), StreamError>> {
            Poll::Ready(self.check())
        }

        fn send(&mut self, data: Bytes, end: bool) -> Result<(), StreamError> {
            self.check()?;
            self.0.lock().unwrap().sent.push((data, end));
            Ok(())
        }

        fn send_trailers(&mut self, _trailers: Trailers) {}

        fn reset(&mut self, _code: ErrorCode) {
            self.break_down();
        }
    }

    fn ready(upload: &Upload) -> Poll<Result<(), Status>> {
        upload.poll_ready(&mut Context::from_waker(std::task::Waker::noop()))
    }

    const ONE: Bytes = Bytes::from_static(b"1");
    const TWO: Bytes = Bytes::from_static(b"2");
    const END: (Bytes, bool) = (Bytes::new(), true);

    #[test]
    fn another_stream_gets_everything_again() {
        let (first, second) = (Log::default(), Log::default());
        let upload = Upload::new(Box::new(first.clone()));
        upload.send(ONE).unwrap();
        first.break_down();
        assert!(matches!(ready(&upload), Poll::Ready(Ok(()))));
        upload.send(TWO).unwrap();
        upload.finish().unwrap();
        assert_eq!(first.sent(), [(ONE, false)]);
        assert!(upload.can_resend());
        upload.resend(Box::new(second.clone()));
        assert_eq!(second.sent(), [(ONE, false), (TWO, false), END]);
    }

    #[test]
    fn once_committed_a_broken_stream_is_a_failure() {
        let log = Log::default();
        let upload = Upload::new(Box::new(log.clone()));
        upload.send(ONE).unwrap();
        upload.commit();
        log.break_down();
        assert!(!upload.can_resend());
        assert!(matches!(ready(&upload), Poll::Ready(Err(_))));
        assert!(upload.send(TWO).is_err());
    }

    #[test]
    fn what_is_too_long_is_not_kept() {
        let upload = Upload::new(Box::new(Log::default()));
        upload.send(Bytes::from(vec![0; KEPT])).unwrap();
        assert!(upload.can_resend());
        upload.send(ONE).unwrap();
        assert!(!upload.can_resend());
    }

    #[test]
    fn without_a_receiver_nothing_is_sent_again() {
        let log = Log::default();
        let upload = Upload::new(Box::new(log.clone()));
        drop(Resend(Arc::clone(&upload)));
        log.break_down();
        assert!(upload.send(ONE).is_err());
    }
}
