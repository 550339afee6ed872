//! The requests of a streaming call, kept until the server has shown that it looked at them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;

use super::attempt::Repeat;
use crate::Status;
use crate::transport::stream::{ErrorCode, SendHalf, StreamError};
use crate::wire::head::{ResponseHead, Trailers};

/// How many bytes of requests are kept to be sent again. A call that has sent more stays with the
/// endpoint that it has.
const KEPT: usize = 256 * 1024;

/// The sending half of a call that may move from one stream to another.
///
/// While the call may be made again, a stream that breaks is no failure of sending: the receiving
/// half hears of it too and decides. Anything else that ends the call ends sending at once, an answer
/// first of all.
pub(crate) struct Upload(Mutex<State>);

struct State {
    send: Box<dyn SendHalf>,
    repeat: Repeat,
    /// What was sent so far, as long as it may have to be sent again.
    kept: Option<Vec<Bytes>>,
    bytes: usize,
    finished: bool,
    broken: bool,
}

impl Upload {
    pub(crate) fn new(send: Box<dyn SendHalf>, repeat: Repeat) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            send,
            repeat,
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
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => Poll::Ready(state.failed(error)),
        }
    }

    /// Whether what is sent waits for another attempt, which the receiving half has to make.
    pub(crate) fn is_broken(&self) -> bool {
        let state = self.lock();
        state.broken && state.kept.is_some()
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
        let kept = state.kept.take();
        let mut send = std::mem::replace(&mut state.send, Box::new(Gone));
        drop(state);
        // This wakes the one who receives, which may come back here.
        send.reset(ErrorCode::CANCEL);
        drop((send, kept));
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
        let last = std::mem::replace(&mut state.send, send);
        state.broken = false;
        for message in state.kept.clone().unwrap_or_default() {
            // A stream that breaks at once is heard of by the receiving half.
            let _ = state.pass(message, false);
        }
        if state.finished {
            let _ = state.pass(Bytes::new(), true);
        }
        drop(state);
        // The end of the last stream may wake its caller.
        drop(last);
    }
}

/// The sending half of a call whose caller has given up.
struct Gone;

impl SendHalf for Gone {
    fn send_head(&mut self, _head: ResponseHead) {}

    fn poll_ready(
        &mut self,
        _cx: &mut Context<'_>,
        _length: usize,
    ) -> Poll<Result<(), StreamError>> {
        Poll::Ready(Err(StreamError::Reset(ErrorCode::CANCEL)))
    }

    fn send(&mut self, _data: Bytes, _end: bool) -> Result<(), StreamError> {
        Err(StreamError::Reset(ErrorCode::CANCEL))
    }

    fn send_trailers(&mut self, _trailers: Trailers) {}

    fn reset(&mut self, _code: ErrorCode) {}
}

impl State {
    fn pass(&mut self, data: Bytes, end: bool) -> Result<(), Status> {
        if self.broken && self.kept.is_some() {
            return Ok(());
        }
        match self.send.send(data, end) {
            Ok(()) => Ok(()),
            // There is nothing that the server would miss, and the receiving half has its answer.
            Err(StreamError::Answered(_)) if end => Ok(()),
            Err(error) => self.failed(error),
        }
    }

    /// The stream takes nothing any more.
    fn failed(&mut self, error: StreamError) -> Result<(), Status> {
        let again = self.repeat.may_follow(error.code(), error.reached());
        if self.kept.is_some() && again && !self.send.has_begun() {
            self.broken = true;
            return Ok(());
        }
        self.kept = None;
        Err(error.into_status())
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

    /// Writes down what it is given; breaks when it is told.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Written>>);

    #[derive(Default)]
    struct Written {
        sent: Vec<(Bytes, bool)>,
        broken: Option<StreamError>,
        begun: bool,
    }

    impl Log {
        fn sent(&self) -> Vec<(Bytes, bool)> {
            self.0.lock().unwrap().sent.clone()
        }

        fn break_down(&self) {
            self.break_with(StreamError::Refused("as asked".to_owned()));
        }

        fn break_with(&self, error: StreamError) {
            self.0.lock().unwrap().broken = Some(error);
        }

        fn check(&self) -> Result<(), StreamError> {
            let broken = self
                .0
                .lock()
                .unwrap()
                .broken
                .as_ref()
                .map(StreamError::again);
            broken.map_or(Ok(()), Err)
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

        fn has_begun(&self) -> bool {
            self.0.lock().unwrap().begun
        }

        fn send_trailers(&mut self, _trailers: Trailers) {}

        fn reset(&mut self, _code: ErrorCode) {
            self.break_down();
        }
    }

    fn upload(log: &Log) -> Arc<Upload> {
        let repeat = Repeat {
            repeatable: false,
            allowed: true,
        };
        Upload::new(Box::new(log.clone()), repeat)
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
        let upload = upload(&first);
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
        let upload = upload(&log);
        upload.send(ONE).unwrap();
        upload.commit();
        log.break_down();
        assert!(!upload.can_resend());
        assert!(matches!(ready(&upload), Poll::Ready(Err(_))));
        assert!(upload.send(TWO).is_err());
    }

    #[test]
    fn what_no_attempt_follows_ends_sending_at_once() {
        let lost = || StreamError::Lost("as asked".into());
        let answers = [
            StreamError::Answered(None),
            StreamError::Answered(Some(Status::not_found("here"))),
            StreamError::Answered(Some(Status::unavailable("here"))),
            StreamError::Deadline,
            StreamError::Reset(ErrorCode::CANCEL),
            lost(),
        ];
        for error in answers {
            let log = Log::default();
            let upload = upload(&log);
            upload.send(ONE).unwrap();
            let code = error.code();
            log.break_with(error);
            assert_eq!(upload.send(TWO).unwrap_err().code(), code);
            assert!(!upload.can_resend() && !upload.is_broken());
            assert!(matches!(ready(&upload), Poll::Ready(Err(status)) if status.code() == code));
        }
    }

    #[test]
    fn a_response_that_has_begun_is_no_other_attempts() {
        let log = Log::default();
        let upload = upload(&log);
        log.0.lock().unwrap().begun = true;
        log.break_down();
        assert!(upload.send(ONE).is_err() && !upload.can_resend());
    }

    #[test]
    fn the_end_of_the_requests_of_an_answered_call_is_no_failure() {
        let log = Log::default();
        let upload = upload(&log);
        log.break_with(StreamError::Answered(None));
        upload.finish().unwrap();
    }

    #[test]
    fn what_is_too_long_is_not_kept() {
        let upload = upload(&Log::default());
        upload.send(Bytes::from(vec![0; KEPT])).unwrap();
        assert!(upload.can_resend());
        upload.send(ONE).unwrap();
        assert!(!upload.can_resend());
    }

    #[test]
    fn without_a_receiver_nothing_is_sent_again() {
        let log = Log::default();
        let upload = upload(&log);
        drop(Resend(Arc::clone(&upload)));
        log.break_down();
        assert!(upload.send(ONE).is_err());
    }
}
