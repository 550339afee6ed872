//! The calls of a read that are ready: run one after the other, and answered together.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::Shared;
use super::batch::{Batch, Message, Outcome, Polled, Ready, Start};
use super::unary::{Timed, go_on, unpack_and_start};
use crate::server::handler::{Handler, Single};
use crate::server::pace::SLOW;
use crate::server::slot::Ran;
use crate::wire::weight::LIGHT;
use crate::{Deadline, Status};

/// What is kept of the memory for responses.
const ARENA: usize = 64 * 1024;
/// A crowded read leaves memory for so many calls of the next.
const KEPT: usize = 32;
/// A message from this size on is not copied with others.
const LARGE: usize = 16 * 1024;

impl Batch {
    /// Runs the calls that are ready, without the lock, and answers those that are done.
    pub(super) fn run(&mut self, shared: &Arc<Shared>, input: &[u8]) {
        if self.ready.is_empty() {
            return;
        }
        let mut last = Instant::now();
        let mut late = false;
        let mut ready = std::mem::take(&mut self.ready);
        for Ready {
            key,
            route,
            call: place,
            message,
            report,
            held,
        } in &mut ready
        {
            let (key, route, report) = (*key, *route, report.take());
            let held = held.take();
            let Some(call) = place else {
                continue;
            };
            let route = &mut self.heads.routes[route];
            let Handler::Unary(handler) = &route.handler else {
                continue;
            };
            let deadline = call.deadline;
            let whole = octets(message, input);
            let heavy = whole.len() > LIGHT && handler.is_heavy(whole);
            let outcome = match message {
                Message::Awaited => continue,
                Message::Packed(_) => {
                    let handler = Arc::clone(handler);
                    let (Some(call), Message::Packed(unpacking)) =
                        (place.take(), std::mem::replace(message, Message::Awaited))
                    else {
                        continue;
                    };
                    let future = unpack_and_start(handler, call, unpacking);
                    Outcome::Task(Box::pin(Deadline::scope(deadline, future)))
                }
                _ if heavy || late || !handler.pace().is_in_place() => {
                    let Some(call) = place.take() else {
                        continue;
                    };
                    let message = match message {
                        Message::Own(message) => message.clone(),
                        _ => Bytes::copy_from_slice(octets(message, input)),
                    };
                    let timed = Timed {
                        future: handler.start(call, message),
                        handler: Arc::clone(handler),
                        path: Arc::clone(&route.path),
                        // A heavy message is not decoded in the first poll, so that says nothing.
                        first: !heavy,
                    };
                    self.has_slow = true;
                    Outcome::Task(Box::pin(Deadline::scope(deadline, timed)))
                }
                // It has waited behind the others of its batch for as long as it had.
                _ if deadline.is_some_and(|deadline| deadline.instant() <= last) => {
                    let text = "the deadline had passed before the handler ran";
                    Outcome::Failed(Status::deadline_exceeded(text))
                }
                _ => {
                    let slot = route.slot.get_or_insert_with(|| handler.slot());
                    let start = self.arena.len();
                    let ran = slot.run(place, octets(message, input), &mut self.arena);
                    let now = Instant::now();
                    if now.duration_since(last) >= SLOW {
                        handler.pace().slow();
                        // The others have waited long enough.
                        late = true;
                    }
                    last = now;
                    match ran {
                        Ran::Done(Ok(answer)) if self.arena.len() - start >= LARGE => {
                            Outcome::Large(answer, self.arena.split_off(start).freeze())
                        }
                        Ran::Done(Ok(answer)) => Outcome::Answer(answer, start..self.arena.len()),
                        Ran::Done(Err(status)) => Outcome::Failed(status),
                        Ran::Waits(future) => Outcome::Task(future),
                    }
                }
            };
            self.ran.push(Polled {
                key,
                deadline,
                outcome,
                report,
                held,
            });
        }
        ready.clear();
        ready.shrink_to(KEPT);
        self.ready = ready;
        self.answer(shared);
    }

    fn answer(&mut self, shared: &Arc<Shared>) {
        let mut state = shared.lock();
        for Polled {
            key,
            deadline,
            outcome,
            report,
            held,
        } in self.ran.drain(..)
        {
            let status = match outcome {
                Outcome::Answer(answer, range) => {
                    let message = self.arena.get(range).unwrap_or_default();
                    state.answer(key, &answer, message)
                }
                Outcome::Large(answer, message) => {
                    let single = Single {
                        metadata: answer.metadata,
                        encoding: answer.encoding,
                        message,
                        trailers: answer.trailers,
                    };
                    state.answer_single(key, single)
                }
                Outcome::Failed(status) => {
                    state.refuse(key, &status, false);
                    Some(status)
                }
                Outcome::Task(future) => {
                    let what = Start::Future { future, held };
                    let starting = go_on(shared, &mut state, key, deadline, what, report);
                    self.starting.extend(starting);
                    continue;
                }
            };
            state.forget(key);
            state.ended(report, status);
        }
        drop(state);
        self.start(shared);
        self.ran.shrink_to(KEPT);
        self.arena.clear();
        if self.arena.capacity() > ARENA {
            self.arena = BytesMut::new();
        }
    }
}

/// A message that is not compressed, where it is.
fn octets<'a>(message: &'a Message, input: &'a [u8]) -> &'a [u8] {
    match message {
        Message::Read(range) => input.get(range.clone()).unwrap_or_default(),
        Message::Own(message) => message,
        Message::Packed(_) | Message::Awaited => &[],
    }
}
