//! The task that moves a server's connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rpc_http2::{Event, ResetCause};
use tokio::io::AsyncWrite as _;
use tokio::time::{Instant, Sleep};

use super::Shared;
use super::batch::Batch;
use super::calls::{Stage, State};
use crate::lock::{Wakers, watch};
use crate::transport::connector::Io;
use crate::transport::http2::busy_poll::BusyPoll;
use crate::transport::http2::socket::{self, Wire};

/// How many reads there are before others have their turn.
const READS: u32 = 8;
/// A client that leaves so much unread is not read from either: its requests ask for more answers.
const UNREAD: usize = 1024 * 1024;

/// The end of a connection for its client.
pub(super) enum Last {
    /// It was told, and can hear it if it goes on being read from.
    Said(Box<dyn Io>),
    /// It is gone, or does not listen.
    Nothing,
}

/// Reads, runs, writes and keeps the time of one connection.
pub(super) struct Driver {
    shared: Arc<Shared>,
    sleep: Option<Pin<Box<Sleep>>>,
    /// It has let others run since it has something to write.
    yielded: bool,
    /// It did not read what there may be, since the client does not.
    held_back: bool,
    busy_poll: BusyPoll,
    batch: Batch,
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            sleep: None,
            yielded: true,
            held_back: false,
            busy_poll: BusyPoll::new(),
            batch: Batch::new(),
        }
    }

    /// Begins the graceful end.
    pub(super) fn shut_down(&mut self) {
        let now = Instant::now().into_std();
        self.shared.lock().machine.shut_down(now);
    }

    /// Drives until the connection is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Last> {
        let shared = Arc::clone(&self.shared);
        let mut wire = shared.wire.wait();
        let read = match self.poll_read(&mut wire, cx) {
            Ok(read) => read,
            Err(why) => {
                return Poll::Ready(self.lose(&why, &mut wire, cx));
            }
        };
        if std::mem::take(&mut self.batch.has_slow) {
            // This worker may be about to run one of them. Something to do besides wakes another one,
            // which looks at the sockets meanwhile.
            cx.waker().wake_by_ref();
        }
        if read > 0 {
            let single = self.batch.take_came() <= 1;
            let since = self.busy_poll.since();
            self.busy_poll.came(since, self.batch.now, single);
        }
        {
            let mut state = shared.lock();
            if std::mem::take(&mut self.held_back) {
                state.machine.not_reading(Instant::now().into_std());
            }
            self.keep_time(&mut state);
            if let Some(error) = state.machine.error() {
                // Of what the client does not take nothing is waited for.
                drop(state);
                return Poll::Ready(self.lose(&error.to_string(), &mut wire, cx));
            }
            let stale = watch(&mut state.driver, cx);
            state.after.forget(stale);
            // Handlers that are tasks and answer about now share one write.
            let crowd = read == 0 && state.machine.stream_count() > 1 && state.machine.has_output();
            if crowd && wire.writing.is_empty() && !std::mem::replace(&mut self.yielded, true) {
                drop(state);
                self.batch.wakers.wake();
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        self.batch.wakers.wake();
        self.yielded = false;
        let held_back = self.leaves_unread(&wire);
        if let Err(error) = self.poll_write(&mut wire, cx) {
            return Poll::Ready(self.lose(&error.to_string(), &mut wire, cx));
        }
        if held_back && !self.leaves_unread(&wire) {
            // Nobody waits for the socket to be readable.
            cx.waker().wake_by_ref();
        }
        let mut state = shared.lock();
        if wire.writing.is_empty() && state.machine.is_finished() {
            drop(state);
            self.shared.lose();
            return Poll::Ready(Last::Said(wire.close()));
        }
        self.arm(&mut state, cx);
        let alone = state.machine.stream_count() <= 1;
        drop(state);
        if alone {
            let since = self.busy_poll.since().unwrap_or_else(Instant::now);
            self.busy_poll.look_again(since, cx);
        }
        Poll::Pending
    }

    /// Reads what there is and runs what it brings; how many reads that took.
    fn poll_read(&mut self, wire: &mut Wire, cx: &mut Context<'_>) -> Result<u32, String> {
        let mut reads = 0;
        loop {
            if self.leaves_unread(wire) {
                self.held_back = true;
                return Ok(reads);
            }
            let (shared, batch) = (&self.shared, &mut self.batch);
            let polled = socket::poll_read(&mut *wire.io, &mut wire.carried, cx, |input| {
                let whole = *input;
                let received = batch.receive(shared, input);
                batch.start(shared);
                batch.run(shared, whole);
                received
            });
            match polled {
                Poll::Pending => return Ok(reads),
                Poll::Ready(Err(error)) => return Err(error.to_string()),
                Poll::Ready(Ok((_, Err(error)))) => return Err(error.to_string()),
                Poll::Ready(Ok((0, Ok(())))) => {
                    return Err("the client closed the connection".to_owned());
                }
                Poll::Ready(Ok(_)) => {}
            }
            reads += 1;
            if reads == READS {
                cx.waker().wake_by_ref();
                return Ok(reads);
            }
        }
    }

    /// Whether the client does not read what it was sent. What waits for a window does not count.
    fn leaves_unread(&self, wire: &Wire) -> bool {
        let writing = wire.writing.len();
        writing > 0 && writing.saturating_add(self.shared.lock().machine.output_length()) > UNREAD
    }

    fn poll_write(&mut self, wire: &mut Wire, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            match socket::poll_write(&mut *wire.io, &mut wire.writing, cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(result) => result?,
            }
            let mut state = self.shared.lock();
            if !state.machine.has_output() {
                drop(state);
                // TLS may have kept something back.
                return match Pin::new(&mut wire.io).poll_flush(cx) {
                    Poll::Ready(result) => result,
                    Poll::Pending => Ok(()),
                };
            }
            let now = Instant::now().into_std();
            state.machine.take_output(&mut wire.writing, now);
            state.settle();
            wake_roomy(&mut state, &mut self.batch.wakers);
            drop(state);
            self.batch.wakers.wake();
        }
    }

    /// Deadlines of calls and of the connection.
    fn keep_time(&mut self, state: &mut State) {
        let Some(armed) = state.armed else {
            return;
        };
        let now = Instant::now().into_std();
        if now < armed {
            return;
        }
        state.armed = None;
        // A failure leaves its GOAWAY to write, and ends the connection after it.
        let _ = state.machine.on_timeout(now);
        let mut due = Vec::new();
        state.wheel.expire(now, |index| due.push(index));
        for index in due {
            state.expire(index);
        }
        while let Some(event) = state.machine.poll_event() {
            if let Event::Reset { stream, cause, .. } = event {
                state.on_reset(stream, reason(cause));
            }
        }
        state.look_at_slow(now);
        state.settle();
    }

    /// Sees to it that the next deadline is looked at.
    fn arm(&mut self, state: &mut State, cx: &mut Context<'_>) {
        let look = state.next_look(|| Instant::now().into_std());
        let next = [state.machine.next_timeout(), state.wheel.next(), look];
        let Some(next) = next.into_iter().flatten().min() else {
            return;
        };
        if state.armed.is_some_and(|armed| armed <= next) {
            return;
        }
        state.armed = Some(next);
        let next = Instant::from_std(next);
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
        sleep.as_mut().reset(next);
        if sleep.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }

    /// The connection is over: tells all handlers, and the client why, as far as it can hear it.
    fn lose(&mut self, why: &str, wire: &mut Wire, cx: &mut Context<'_>) -> Last {
        tracing::debug!(peer = %self.shared.peer, error = why, "a connection ended");
        let (mut last, has_failed) = self.shared.lose();
        self.batch.wakers.wake();
        for output in [&mut wire.writing, &mut last] {
            let Poll::Ready(Ok(())) = socket::poll_write(&mut *wire.io, output, cx) else {
                let _ = Pin::new(&mut wire.io).poll_shutdown(cx);
                return Last::Nothing;
            };
        }
        if has_failed {
            return Last::Said(wire.close());
        }
        let _ = Pin::new(&mut wire.io).poll_shutdown(cx);
        Last::Nothing
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.lose();
        // Whoever still holds a call of the connection does not hold its socket.
        self.shared.wire.wait().close();
    }
}

pub(super) fn reason(cause: ResetCause) -> &'static str {
    match cause {
        ResetCause::Violation(reason) => reason,
        ResetCause::Peer | ResetCause::Refused | ResetCause::Unsent => {
            "the client reset the stream"
        }
    }
}

/// Wakes handlers that have room for another message.
pub(super) fn wake_roomy(state: &mut State, wakers: &mut Wakers) {
    while let Some(key) = state.machine.roomy() {
        if let Some(Stage::Task { sender, .. }) = state.call(key).map(|call| &mut call.stage) {
            wakers.push(sender.take());
        }
    }
}
