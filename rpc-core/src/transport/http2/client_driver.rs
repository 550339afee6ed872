//! The task that moves a client's connection.

use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

use rpc_http2::{ConnectionError, ErrorCode, Event, Output, ResetCause};
use tokio::io::AsyncWrite as _;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use super::busy_poll::BusyPoll;
use super::client::{Lost, Shared, State, understand, understand_trailers};
use super::socket::{self, Wire};
use crate::transport::sniff;
use crate::transport::stream::StreamError;

/// How many reads there are before others have their turn.
const READS: u32 = 8;

/// Reads, writes and keeps the time of one connection.
pub(super) struct Driver {
    shared: Arc<Shared>,
    alive: watch::Sender<bool>,
    sleep: Option<Pin<Box<Sleep>>>,
    /// It has let others run since it has something to write.
    yielded: bool,
    busy_poll: BusyPoll,
    /// Callers to wake, kept for the memory.
    wakers: Vec<Waker>,
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>, alive: watch::Sender<bool>) -> Self {
        Self {
            shared,
            alive,
            sleep: None,
            yielded: true,
            busy_poll: BusyPoll::new(),
            wakers: Vec::new(),
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
        let mut wire = shared.wire.lock().unwrap_or_else(PoisonError::into_inner);
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
            self.keep_time(&mut state, now);
            if let Some(error) = state.machine.error() {
                // Of what the peer does not take nothing is waited for.
                let lost = Lost::given_up(&state.machine, error);
                drop(state);
                self.lose(lost, &mut wire, cx);
                return Poll::Ready(());
            }
            if !state.machine.takes_streams() {
                self.take_no_more();
            }
            match &state.driver {
                Some(waker) if waker.will_wake(cx.waker()) => {}
                _ => state.driver = Some(cx.waker().clone()),
            }
            // Callers that were woken, or that come now, share one write.
            let more = state.machine.has_output() || read > 0;
            let crowd = state.machine.stream_count() > 1;
            if more
                && crowd
                && wire.writing.is_empty()
                && !std::mem::replace(&mut self.yielded, true)
            {
                drop(state);
                self.wake_callers();
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        self.wake_callers();
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
                text: "the connection was closed".to_owned(),
            };
            state.on_lost(lost);
            drop(state);
            self.take_no_more();
            // The peer sees the end of the stream once it is dropped; TLS says so first.
            let _ = Pin::new(&mut wire.io).poll_shutdown(cx);
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
                receive(&mut state, input, wakers).map_err(|error| {
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
            wake_roomy(&mut state, &mut self.wakers);
            drop(state);
            self.wake_callers();
        }
    }

    /// Deadlines of calls and of the connection.
    fn keep_time(&mut self, state: &mut State, now: Instant) {
        if state.armed.is_none_or(|armed| now.into_std() < armed) {
            return;
        }
        state.armed = None;
        // A failure leaves its GOAWAY to write.
        let _ = state.machine.on_timeout(now.into_std());
        let mut due = Vec::new();
        state.wheel.expire(now.into_std(), |index| due.push(index));
        for index in due {
            self.wakers
                .extend(state.expire(index).into_iter().flatten());
        }
        receive_events(state, now.into_std(), &mut self.wakers);
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

    /// Tells whoever makes calls that they have to go elsewhere.
    fn take_no_more(&self) {
        self.shared.takes_calls.store(false, Ordering::Release);
        self.alive
            .send_if_modified(|alive| std::mem::replace(alive, false));
    }

    fn wake_callers(&mut self) {
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
        self.wakers.shrink_to(256);
    }

    /// The connection is over: tells the peer why, as far as it can hear it, and all calls.
    fn lose(&mut self, lost: Lost, wire: &mut Wire, cx: &mut Context<'_>) {
        tracing::debug!(error = lost.text, "connection closed");
        let mut last = Output::default();
        let mut state = self.shared.lock();
        state
            .machine
            .take_output(&mut last, Instant::now().into_std());
        self.wakers.extend(state.on_lost(lost));
        drop(state);
        if socket::poll_write(&mut *wire.io, &mut wire.writing, cx).is_ready() {
            // What the peer does with it is of no interest any more.
            let _ = socket::poll_write(&mut *wire.io, &mut last, cx);
        }
        let _ = Pin::new(&mut wire.io).poll_shutdown(cx);
        self.take_no_more();
        self.wake_callers();
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
        let lost = Lost {
            kind: io::ErrorKind::ConnectionAborted,
            text: "the runtime of the connection has ended".to_owned(),
        };
        let wakers = self.shared.lock().on_lost(lost);
        wakers.into_iter().for_each(Waker::wake);
        self.take_no_more();
    }
}

/// Takes in what was read.
fn receive(
    state: &mut State,
    input: &mut &[u8],
    wakers: &mut Vec<Waker>,
) -> Result<(), ConnectionError> {
    let now = Instant::now().into_std();
    loop {
        let ready = match state.machine.receive(input, now)? {
            None => break,
            Some(Event::Data { stream, data, end }) => state.on_data(stream, data, end),
            Some(Event::Head { stream, block, end }) => {
                let (known, decoded) = understand(&mut state.known, block, end);
                state.on_head(stream, known, decoded, end)
            }
            Some(Event::Trailers { stream, block }) => {
                let trailers = understand_trailers(&mut state.known, block);
                state.on_trailers(stream, trailers)
            }
            Some(Event::Reset {
                stream,
                code,
                cause,
            }) => {
                reset(state, stream, code, cause, now, wakers);
                continue;
            }
            Some(Event::Ready | Event::GoAway { .. } | Event::Pong) => continue,
        };
        let [receiver, sender] = ready;
        wakers.extend(receiver);
        wakers.extend(sender);
    }
    wake_roomy(state, wakers);
    Ok(())
}

/// Acts on what has happened without anything being read.
fn receive_events(state: &mut State, now: std::time::Instant, wakers: &mut Vec<Waker>) {
    while let Some(event) = state.machine.poll_event() {
        if let Event::Reset {
            stream,
            code,
            cause,
        } = event
        {
            reset(state, stream, code, cause, now, wakers);
        }
    }
}

fn reset(
    state: &mut State,
    stream: rpc_http2::StreamKey,
    code: ErrorCode,
    cause: ResetCause,
    now: std::time::Instant,
    wakers: &mut Vec<Waker>,
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
    wakers.extend(state.on_broken(stream, error, now).into_iter().flatten());
}

/// Wakes senders that have room now.
fn wake_roomy(state: &mut State, wakers: &mut Vec<Waker>) {
    while let Some(key) = state.machine.roomy() {
        if let Some(call) = state.call(key) {
            wakers.extend(call.take_sender());
        }
    }
}
