//! The task that moves a client's connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rpc_http2::{ConnectionError, ErrorCode, Event, ResetCause};
use tokio::io::AsyncWrite as _;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use super::busy_poll::BusyPoll;
use super::client::{Lost, Shared, State, understand, understand_trailers};
use super::socket::{self, Wire};
use crate::lock::{Wakers, watch as watch_for};
use crate::transport::sniff;
use crate::transport::stream::StreamError;

/// How many reads there are before others have their turn.
const READS: u32 = 8;

/// Reads, writes and keeps the time of one connection.
pub(super) struct Driver {
    shared: Arc<Shared>,
    alive: watch::Sender<bool>,
    /// Those who wait for the end of the connection know of it.
    told: bool,
    sleep: Option<Pin<Box<Sleep>>>,
    /// It has let others run since it has something to write.
    yielded: bool,
    busy_poll: BusyPoll,
    /// Callers to wake, kept for the memory.
    wakers: Wakers,
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>, alive: watch::Sender<bool>) -> Self {
        Self {
            shared,
            alive,
            told: false,
            sleep: None,
            yielded: true,
            busy_poll: BusyPoll::new(),
            wakers: Wakers::default(),
        }
    }

    /// Drives until the peer has shown that it speaks HTTP/2.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.yielded = true;
        let polled = self.poll_driver(cx);
        let mut state = self.shared.lock();
        if let Some(lost) = &state.lost {
            return Poll::Ready(Err(io::Error::new(lost.kind, lost.text.clone())));
        }
        if state.machine.is_ready() {
            // The timer knows the task that has dialled; the one that drives from now on sets its own.
            self.sleep = None;
            state.armed = None;
            return Poll::Ready(Ok(()));
        }
        drop(state);
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
        }
    }

    fn poll_driver(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let shared = Arc::clone(&self.shared);
        let mut wire = shared.wire.wait();
        let read = match self.poll_read(&mut wire, cx) {
            Ok(read) => read,
            Err(lost) => {
                self.lose(lost, &mut wire, cx);
                return Poll::Ready(());
            }
        };
        let now = Instant::now();
        {
            let mut state = shared.lock();
            if read > 0 {
                self.busy_poll.came(state.sent.take(), now, true);
            }
            if state.unheld {
                state.machine.shut_down(now.into_std());
            }
            keep_time(&mut state, now);
            shared.note_end(&state);
            if let Some(error) = state.machine.error() {
                // Of what the peer does not take nothing is waited for.
                let lost = Lost::given_up(&state.machine, error);
                drop(state);
                self.lose(lost, &mut wire, cx);
                return Poll::Ready(());
            }
            let stale = watch_for(&mut state.driver, cx);
            state.woken.forget(stale);
            // Callers that were woken, or that come now, share one write.
            let more = state.machine.has_output() || read > 0;
            let crowd = state.machine.stream_count() > 1;
            if more
                && crowd
                && wire.writing.is_empty()
                && !std::mem::replace(&mut self.yielded, true)
            {
                drop(state);
                self.tell();
                self.wakers.wake();
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        self.tell();
        self.wakers.wake();
        self.yielded = false;
        if let Err(error) = self.poll_write(&mut wire, cx) {
            let lost = Lost {
                kind: error.kind(),
                text: error.to_string(),
            };
            self.lose(lost, &mut wire, cx);
            return Poll::Ready(());
        }
        let mut state = shared.lock();
        if wire.writing.is_empty() && state.machine.is_finished() {
            let lost = Lost {
                kind: io::ErrorKind::ConnectionAborted,
                text: match state.machine.error() {
                    Some(error) => format!("the connection was given up: {error}"),
                    None => "the connection was closed".to_owned(),
                },
            };
            drop(state);
            self.lose(lost, &mut wire, cx);
            return Poll::Ready(());
        }
        self.arm(&mut state, cx);
        state.polls_soon = self.busy_poll.is_on();
        let sent = state.sent;
        drop(state);
        if let Some(sent) = sent {
            self.busy_poll.look_again(sent, cx);
        }
        Poll::Pending
    }

    /// Reads what there is; how many reads that took.
    fn poll_read(&mut self, wire: &mut Wire, cx: &mut Context<'_>) -> Result<u32, Lost> {
        let mut reads = 0;
        loop {
            let shared = &self.shared;
            let wakers = &mut self.wakers;
            let polled = socket::poll_read(&mut *wire.io, &mut wire.carried, cx, |input| {
                let (mut state, whole) = (shared.lock(), *input);
                let state = &mut *state;
                // Callers are woken once all has been read; the memory stays with the driver.
                std::mem::swap(&mut state.woken, wakers);
                let received = receive(state, input);
                std::mem::swap(&mut state.woken, wakers);
                shared.note_end(state);
                received.map_err(|error| {
                    let other = match state.machine.is_ready() {
                        true => None,
                        false => sniff::not_http2(sniff::first(whole)),
                    };
                    other.unwrap_or_else(|| format!("the peer broke the protocol: {error}"))
                })
            });
            match polled {
                Poll::Pending => return Ok(reads),
                Poll::Ready(Err(error)) => {
                    return Err(Lost {
                        kind: error.kind(),
                        text: error.to_string(),
                    });
                }
                Poll::Ready(Ok((_, Err(error)))) => {
                    return Err(Lost {
                        kind: io::ErrorKind::InvalidData,
                        text: error,
                    });
                }
                Poll::Ready(Ok((0, Ok(())))) => {
                    let ready = self.shared.lock().machine.is_ready();
                    let text = match ready {
                        true => "the peer closed the connection".to_owned(),
                        // It may have said less than the header of a frame.
                        false => sniff::not_http2(wire.carried.octets()).unwrap_or_else(|| {
                            "the peer closed the connection before it had answered as an HTTP/2 server".to_owned()
                        }),
                    };
                    return Err(Lost {
                        kind: io::ErrorKind::ConnectionAborted,
                        text,
                    });
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
            wake_roomy(&mut state);
        }
    }

    /// Sees to it that the next deadline is looked at.
    fn arm(&mut self, state: &mut State, cx: &mut Context<'_>) {
        let next = [state.machine.next_timeout(), state.wheel.next()];
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

    /// Tells those who wait for it that calls have to go elsewhere, once they have to.
    fn tell(&mut self) {
        if !self.told && !self.shared.takes_calls() {
            self.told = true;
            self.alive.send_replace(false);
        }
    }

    /// The connection is over: tells all calls, and the peer why, as far as it can hear it.
    fn lose(&mut self, lost: Lost, wire: &mut Wire, cx: &mut Context<'_>) {
        tracing::debug!(error = lost.text, "connection closed");
        let mut last = self.shared.lose(lost);
        self.wakers.wake();
        self.tell();
        if socket::poll_write(&mut *wire.io, &mut wire.writing, cx).is_ready() {
            // What the peer does with it is of no interest any more.
            let _ = socket::poll_write(&mut *wire.io, &mut last, cx);
        }
        // The peer sees the end of the stream once it is dropped; TLS says so first.
        let _ = Pin::new(&mut wire.io).poll_shutdown(cx);
        wire.close();
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.get_mut().poll_driver(cx)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Whoever has lost it already is not told again.
        let _ = self.shared.lose(Lost {
            kind: io::ErrorKind::ConnectionAborted,
            text: "the runtime of the connection has ended".to_owned(),
        });
        self.tell();
        self.shared.wire.wait().close();
    }
}

/// Deadlines of calls and of the connection.
fn keep_time(state: &mut State, now: Instant) {
    if state.armed.is_none_or(|armed| now.into_std() < armed) {
        return;
    }
    state.armed = None;
    // A failure leaves its GOAWAY to write.
    let _ = state.machine.on_timeout(now.into_std());
    let mut due = Vec::new();
    state.wheel.expire(now.into_std(), |index| due.push(index));
    for index in due {
        state.expire(index);
    }
    receive_events(state, now.into_std());
}

/// Takes in what was read.
fn receive(state: &mut State, input: &mut &[u8]) -> Result<(), ConnectionError> {
    let now = Instant::now().into_std();
    loop {
        match state.machine.receive(input, now)? {
            None => break,
            Some(Event::Data { stream, data, end }) => state.on_data(stream, data, end),
            Some(Event::Head { stream, block, end }) => {
                let (known, decoded) = understand(&mut state.known, block, end);
                state.on_head(stream, known, decoded, end);
            }
            Some(Event::Trailers { stream, block }) => {
                let trailers = understand_trailers(&mut state.known, block);
                state.on_trailers(stream, trailers);
            }
            Some(Event::Reset {
                stream,
                code,
                cause,
            }) => reset(state, stream, code, cause, now),
            Some(Event::Ready | Event::GoAway { .. } | Event::Pong) => {}
        }
    }
    wake_roomy(state);
    Ok(())
}

/// Acts on what has happened without anything being read.
fn receive_events(state: &mut State, now: std::time::Instant) {
    while let Some(event) = state.machine.poll_event() {
        if let Event::Reset {
            stream,
            code,
            cause,
        } = event
        {
            reset(state, stream, code, cause, now);
        }
    }
}

fn reset(
    state: &mut State,
    stream: rpc_http2::StreamKey,
    code: ErrorCode,
    cause: ResetCause,
    now: std::time::Instant,
) {
    let error = match cause {
        ResetCause::Peer => StreamError::Reset(code),
        ResetCause::Refused => StreamError::Refused(match state.machine.peer_goaway() {
            Some(goaway) => format!("the server did not process the call: {goaway}"),
            None => "the server did not process the call: it has too many".to_owned(),
        }),
        ResetCause::Unsent => StreamError::Unsent(match state.machine.peer_goaway() {
            Some(goaway) => format!("the call was not sent: {goaway}"),
            None => "the server is going away and takes no more calls".to_owned(),
        }),
        ResetCause::Violation(reason) => StreamError::Violation(reason),
    };
    state.on_broken(stream, error, now);
}

/// Wakes senders that have room now.
fn wake_roomy(state: &mut State) {
    while let Some(key) = state.machine.roomy() {
        if let Some(call) = state.call(key) {
            let sender = call.take_sender();
            state.woken.push(sender);
        }
    }
}
