//! The calls of one connection, and how they are answered.

use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use rpc_http2::hpack::Template;
use rpc_http2::{Connection as Machine, ErrorCode, Fields, Payload, StreamKey};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::after::After;
use super::report::Report;
use super::response_heads::ResponseHeads;
use crate::lock::Guarded;
use crate::server::handler::{IncomingCall, Single};
use crate::server::load::{Account, Held};
use crate::server::slot::Answer;
use crate::transport::http2::assembler::Assembler;
use crate::transport::http2::fields;
use crate::transport::http2::wheel::{CLOCKS_DIFFER, Wheel};
use crate::wire::compression::{ACCEPT, Encoding};
use crate::wire::head::ResponseHead;
use crate::{Code, Metadata, Status};

/// From so many calls on, memory for them grows by a quarter.
const MANY: usize = 1024;
/// Tables of calls keep memory for so many.
const KEPT: usize = 64;
/// Messages below this size are copied into the output; larger ones are shared with it.
const COPIED: usize = 16 * 1024;
/// What a stream may hold of whole messages that its handler has not taken before they count: one that
/// keeps up costs nothing.
const UNREAD: usize = 4 * 1024;
/// What is unsent on a connection counts in steps of this size.
const STEP: usize = 16 * 1024;

pub(super) struct State {
    pub(super) machine: Machine,
    /// By the indices of streams.
    pub(super) calls: Vec<Option<Call>>,
    pub(super) wheel: Wheel,
    pub(super) driver: Option<Waker>,
    /// When the driver looks at the time next, whatever else happens.
    pub(super) armed: Option<std::time::Instant>,
    /// What is done once the lock has been given back.
    pub(super) after: After,
    pub(super) account: Arc<Account>,
    /// What all streams hold unsent.
    unsent: Held,
    /// When there is a look at what makes no progress.
    pub(super) look: Option<std::time::Instant>,
    pub(super) heads: ResponseHeads,
    ok: Template,
    empty: Template,
    /// Fields of the answer that is being written; kept for its memory.
    rest: Fields,
    none: Fields,
}

/// A call that has not been answered whole.
pub(super) struct Call {
    pub(super) key: StreamKey,
    pub(super) stage: Stage,
    pub(super) report: Option<Box<Report>>,
    pub(super) head_sent: bool,
    /// Something was received since the last message was sent.
    pub(super) turn: bool,
}

/// How far a call is.
pub(super) enum Stage {
    /// The request of a unary call is on its way.
    Gathering(Box<Gathering>),
    /// Its handler is about to run on the driver.
    InPlace,
    /// Its handler is a task.
    Task {
        /// Nothing before the task is spawned, which is not for under the lock.
        abort: Option<AbortHandle>,
        inbox: Inbox,
        sender: Option<Waker>,
    },
    /// It is answered; the handler is not gone yet.
    Ended,
}

/// A unary call whose request is not whole.
pub(super) struct Gathering {
    pub(super) route: usize,
    pub(super) call: IncomingCall,
    pub(super) assembler: Assembler,
    pub(super) held: Held,
}

/// What has arrived for a handler.
pub(super) struct Inbox {
    pub(super) assembler: Assembler,
    pub(super) more: More,
    /// What counts against the windows.
    pub(super) unconsumed: usize,
    /// What is held: of a message that is not whole, whose octets have been given back to the window,
    /// or of whole ones that the handler has not taken.
    pub(super) held: Option<Box<Held>>,
}

/// Whether there is more of a request to come.
pub(super) enum More {
    /// There may be; who waits for it.
    Open(Option<Waker>),
    Ended,
    /// It ended before its end, and why.
    Broken(&'static str),
    /// The handler wants nothing more of it: what comes is dropped. Its window is not given back, so
    /// that the client stops.
    Unwanted,
}

impl Inbox {
    pub(super) fn new(limit: usize, ended: bool) -> Self {
        Self {
            assembler: Assembler::new(limit),
            more: if ended { More::Ended } else { More::Open(None) },
            unconsumed: 0,
            held: None,
        }
    }

    /// Whoever waits for more.
    pub(super) fn take_reader(&mut self) -> Option<Waker> {
        match &mut self.more {
            More::Open(reader) => reader.take(),
            More::Ended | More::Broken(_) | More::Unwanted => None,
        }
    }

    /// There is no more to come; gives whoever waits for it.
    pub(super) fn end(&mut self, how: More) -> Option<Waker> {
        let reader = self.take_reader();
        if let More::Open(_) = self.more {
            self.more = how;
        }
        reader
    }

    /// Holds what has arrived and was not taken; false when the budget has no room for it.
    pub(super) fn hold(&mut self, account: &Arc<Account>) -> bool {
        let length = self.assembler.len();
        let counted = self.held.as_ref().map_or(0, |held| held.octets());
        if self.assembler.has_whole() && length <= counted + UNREAD {
            return true;
        }
        let held = self
            .held
            .get_or_insert_with(|| Box::new(Held::new(account)));
        held.set(length)
    }

    /// Holds no more than is left after the reader has taken something.
    pub(super) fn taken(&mut self) {
        if let Some(held) = &mut self.held {
            held.taken(self.assembler.len());
        }
    }

    /// Nobody takes anything more; gives whoever has waited for it.
    pub(super) fn discard(&mut self) -> Option<Waker> {
        self.assembler = Assembler::new(0);
        self.held = None;
        self.end(More::Unwanted)
    }
}

impl Guarded for State {
    type After = After;

    #[inline]
    fn take_after(&mut self) -> Option<After> {
        self.after.take()
    }
}

impl State {
    pub(super) fn new(machine: Machine, account: Arc<Account>, now: std::time::Instant) -> Self {
        Self {
            unsent: Held::new(&account),
            machine,
            calls: Vec::new(),
            wheel: Wheel::new(now),
            driver: None,
            armed: None,
            after: After::default(),
            account,
            look: None,
            heads: ResponseHeads::new(),
            ok: fields::ok_template(),
            empty: Template::default(),
            rest: Fields::new(),
            none: Fields::new(),
        }
    }

    pub(super) fn call(&mut self, key: StreamKey) -> Option<&mut Call> {
        self.calls
            .get_mut(key.index())?
            .as_mut()
            .filter(|call| call.key == key)
    }

    pub(super) fn insert(&mut self, call: Call) {
        let index = call.key.index();
        if index >= self.calls.len() {
            if index >= self.calls.capacity() && index >= MANY {
                // Twice as many would leave half of the memory for nothing.
                self.calls.reserve_exact(index / 4);
            }
            self.calls.resize_with(index + 1, || None);
        }
        self.calls[index] = Some(call);
    }

    /// Wakes the driver.
    pub(super) fn call_driver(&mut self) {
        self.after.wake(self.driver.take());
    }

    /// Wakes the driver when there is something for it to do now.
    pub(super) fn call_needed_driver(&mut self) {
        if self.machine.has_output() || self.machine.is_finished() || self.has_unseen() {
            self.call_driver();
        }
    }

    /// The task of a call has been spawned; the call may have ended since.
    pub(super) fn spawned(&mut self, key: StreamKey, task: AbortHandle) {
        if self.machine.is_open(key)
            && let Some(Stage::Task { abort, .. }) = self.call(key).map(|call| &mut call.stage)
        {
            *abort = Some(task);
        } else {
            self.after.abort(task);
        }
    }

    /// Forgets a call whose handler is gone.
    #[must_use = "it must not be dropped under the lock"]
    pub(super) fn remove(&mut self, key: StreamKey) -> Option<Call> {
        self.call(key)?;
        self.wheel.clear(key.index());
        let call = self.calls.get_mut(key.index())?.take();
        self.machine.release(key);
        self.fit_tables();
        call
    }

    /// Gives back the memory of tables that have grown with many calls, once the machine has done so.
    fn fit_tables(&mut self) {
        let places = self.machine.places();
        if self.calls.len() > KEPT && places < self.calls.len() / 2 {
            self.calls.truncate(places);
            self.calls.shrink_to(KEPT);
            self.wheel.shrink(places);
        }
    }

    /// Forgets a call that was answered in place.
    pub(super) fn forget(&mut self, key: StreamKey) {
        match self.remove(key) {
            None => self.machine.release(key),
            Some(call) if matches!(call.stage, Stage::InPlace) && call.report.is_none() => {}
            Some(call) => self.after.gone(Box::new(call)),
        }
    }

    /// Sends the head of a response.
    pub(super) fn send_head(&mut self, key: StreamKey, head: &ResponseHead) {
        if self.call(key).is_none_or(|call| call.head_sent) {
            return;
        }
        if let Err(status) = self.put_head(key, head.encoding, &head.metadata) {
            return self.end(key.index(), status);
        }
        if let Some(call) = self.call(key) {
            call.head_sent = true;
        }
    }

    /// Sends a head, unless the client does not take one so large.
    #[inline]
    fn put_head(
        &mut self,
        key: StreamKey,
        encoding: Encoding,
        metadata: &Metadata,
    ) -> Result<(), Status> {
        let template = self.heads.of(key, encoding);
        if metadata.is_empty() {
            self.machine.respond(key, template, &self.none, false);
            return Ok(());
        }
        self.rest.clear();
        fields::push_metadata(&mut self.rest, metadata);
        let size = self.rest.size() + template.fields().size();
        let limit = self.machine.peer_header_list();
        if size > limit {
            return Err(fields::too_large("head of the response", size, limit));
        }
        self.machine.respond(key, template, &self.rest, false);
        Ok(())
    }

    /// Ends a response with success, unless the client does not take trailers so large.
    #[inline]
    fn put_ok(&mut self, key: StreamKey, metadata: &Metadata) -> Result<(), Status> {
        if metadata.is_empty() {
            self.machine.trailers(key, &mut self.ok, &self.none);
            return Ok(());
        }
        self.rest.clear();
        fields::push_metadata(&mut self.rest, metadata);
        let size = self.rest.size() + self.ok.fields().size();
        let limit = self.machine.peer_header_list();
        if size > limit {
            return Err(fields::too_large("trailers of the response", size, limit));
        }
        self.machine.trailers(key, &mut self.ok, &self.rest);
        Ok(())
    }

    /// Sends a whole response; gives the status that the call ends with instead when its metadata is
    /// larger than the client takes.
    #[inline]
    fn put_all(
        &mut self,
        key: StreamKey,
        encoding: Encoding,
        (metadata, trailers): (&Metadata, &Metadata),
        message: Payload<'_>,
    ) -> Option<Status> {
        if let Err(status) = self.put_head(key, encoding, metadata) {
            self.refuse(key, &status, false);
            return Some(status);
        }
        self.machine.send(key, message, false);
        self.put_end(key, trailers)
    }

    /// Ends a response with success, or with what is given back, behind its head.
    #[inline]
    fn put_end(&mut self, key: StreamKey, trailers: &Metadata) -> Option<Status> {
        let status = self.put_ok(key, trailers).err()?;
        self.refuse(key, &status, true);
        Some(status)
    }

    /// Answers a call that ran in place; gives the status that it ends with instead.
    pub(super) fn answer(
        &mut self,
        key: StreamKey,
        answer: &Answer,
        message: &[u8],
    ) -> Option<Status> {
        if !self.machine.is_open(key) {
            return None;
        }
        let around = (&answer.metadata, &answer.trailers);
        self.put_all(key, answer.encoding, around, Payload::Copied(message))
    }

    /// Answers a call with its one response; gives the status that it ends with instead when the
    /// response would have to wait and cannot be held meanwhile, or has more metadata than the client
    /// takes.
    pub(super) fn answer_single(&mut self, key: StreamKey, single: Single) -> Option<Status> {
        let length = single.message.len();
        let unsent = self.machine.unsent().max(self.unsent.octets());
        if length >= COPIED
            && length > self.machine.room(key)
            && !self.unsent.set(unsent.saturating_add(length))
        {
            let status = self.account.too_much();
            self.refuse(key, &status, false);
            return Some(status);
        }
        let around = (&single.metadata, &single.trailers);
        let status = self.put_all(key, single.encoding, around, payload(&single.message));
        self.settle();
        status
    }

    /// Counts what is unsent, when that has changed by much.
    pub(super) fn settle(&mut self) {
        let (unsent, counted) = (self.machine.unsent(), self.unsent.octets());
        if unsent.abs_diff(counted) >= STEP || (unsent == 0 && counted > 0) {
            self.count_unsent();
        }
    }

    /// Counts what is unsent; while memory is short, little of it may come to that.
    pub(super) fn count_unsent(&mut self) {
        let unsent = self.machine.unsent();
        self.unsent.put(unsent);
        self.machine
            .tighten(unsent > 0 && self.account.is_crowded());
    }

    /// Whether the driver has to look at what makes no progress, and does not know of it yet.
    pub(super) fn has_unseen(&self) -> bool {
        self.look.is_none() && self.unsent.octets() > 0 && self.machine.limits().stall.is_some()
    }

    /// Ends a streaming response with success; gives the status that it ends with instead.
    pub(super) fn finish(&mut self, key: StreamKey, metadata: &Metadata) -> Option<Status> {
        self.send_head(key, &ResponseHead::default());
        self.put_end(key, metadata)
    }

    /// Ends a call with a status, in its head when none was sent.
    pub(super) fn fail(&mut self, key: StreamKey, status: &Status) {
        let head_sent = self.call(key).is_some_and(|call| call.head_sent);
        self.refuse(key, status, head_sent);
    }

    /// Ends a call with a status: in its head, unless one was sent or the status has metadata for it.
    pub(super) fn refuse(&mut self, key: StreamKey, status: &Status, head_sent: bool) {
        let leading = status.leading_metadata();
        if !head_sent && !leading.is_empty() {
            let sent = self.put_head(key, Encoding::Identity, leading);
            return match sent {
                Ok(()) => self.put_status(key, status, true),
                Err(too_large) => self.put_status(key, &too_large, false),
            };
        }
        self.put_status(key, status, head_sent);
    }

    fn put_status(&mut self, key: StreamKey, status: &Status, head_sent: bool) {
        let limit = self.machine.peer_header_list();
        self.rest.clear();
        if head_sent {
            fields::push_status_within(&mut self.rest, status, 0, limit);
            self.machine.trailers(key, &mut self.empty, &self.rest);
            return;
        }
        if status.code() == Code::Unimplemented {
            self.rest.push("grpc-accept-encoding", ACCEPT);
        }
        let template = self.heads.of(key, Encoding::Identity);
        let beside = template.fields().size();
        fields::push_status_within(&mut self.rest, status, beside, limit);
        self.machine.respond(key, template, &self.rest, true);
    }

    /// Answers what is no call of gRPC.
    pub(super) fn refuse_http(&mut self, key: StreamKey, status: &str, fields: &[(&str, &str)]) {
        self.rest.clear();
        let mut head = Template::new([(":status", status)].into_iter().collect());
        for (name, value) in fields {
            self.rest.push(name, value);
        }
        self.machine.respond(key, &mut head, &self.rest, true);
        self.machine.release(key);
    }

    /// The deadline of a call has passed.
    pub(super) fn expire(&mut self, index: usize) {
        self.end(index, expired());
    }

    /// Whether a client that goes away now does so because the deadline of the call has passed: by its
    /// own clock, which began earlier.
    fn is_late(&self, key: StreamKey) -> bool {
        let now = Instant::now().into_std();
        self.wheel.is_due(key.index(), now + CLOCKS_DIFFER)
    }

    /// Ends a call whatever its handler does. What waits behind a closed window is not sent: the client
    /// would hear of the end only once it has read all of it.
    pub(super) fn end(&mut self, index: usize, status: Status) {
        let Some(Some(call)) = self.calls.get_mut(index) else {
            return;
        };
        let key = call.key;
        if self.machine.is_open(key) {
            self.machine.drop_unsent(key);
        }
        let stage = std::mem::replace(&mut call.stage, Stage::Ended);
        let report = call.report.take();
        self.fail(key, &status);
        self.ended(report, Some(status));
        match stage {
            Stage::Task {
                abort,
                mut inbox,
                sender,
            } => {
                if let Some(abort) = abort {
                    self.after.abort(abort);
                }
                self.after.forget(inbox.take_reader());
                self.after.forget(sender);
            }
            Stage::Gathering(gathering) => {
                self.after.gone(gathering);
                self.forget(key);
            }
            Stage::InPlace | Stage::Ended => {}
        }
    }

    /// A stream is over before its end: its handler has nobody to answer any more.
    pub(super) fn on_reset(&mut self, key: StreamKey, why: &'static str) {
        if self.call(key).is_none() {
            self.machine.release(key);
            return;
        }
        let is_late = self.is_late(key);
        let Some(call) = self.call(key) else {
            return;
        };
        match &mut call.stage {
            Stage::Task {
                abort,
                inbox,
                sender,
            } => {
                let report = call.report.take_if(|_| is_late);
                let wakers = [inbox.end(More::Broken(why)), sender.take()];
                let abort = abort.take();
                for waker in wakers {
                    self.after.wake(waker);
                }
                if let Some(abort) = abort {
                    self.after.abort(abort);
                }
                if report.is_some() {
                    self.ended(report, Some(expired()));
                }
            }
            Stage::Gathering(_) => {
                let status = if is_late {
                    expired()
                } else {
                    Status::cancelled("the client ended the call")
                };
                if let Some(mut call) = self.remove(key) {
                    self.ended(call.report.take(), Some(status));
                    self.after.gone(Box::new(call));
                }
            }
            Stage::InPlace | Stage::Ended => {}
        }
    }

    /// Has the observers told once the lock is given back.
    pub(super) fn ended(&mut self, report: Option<Box<Report>>, status: Option<Status>) {
        self.after.ended(report, status);
    }

    /// The connection is over. [`Shared::lose`](super::Shared::lose) is the way to this.
    pub(super) fn on_lost(&mut self) {
        let keys: Vec<StreamKey> = self.calls.iter().flatten().map(|call| call.key).collect();
        for key in keys {
            self.machine.reset(key, ErrorCode::CANCEL);
            self.on_reset(key, "the connection was lost");
        }
        // What is left of calls that were answered goes nowhere.
        self.unsent.put(0);
    }
}

fn expired() -> Status {
    Status::deadline_exceeded("the handler did not end by the deadline")
}

/// A message as it goes to the engine.
pub(super) fn payload(message: &Bytes) -> Payload<'_> {
    if message.len() < COPIED {
        Payload::Copied(message)
    } else {
        Payload::Shared(message.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table has one for each stream that is open.
    #[test]
    fn a_call_is_seventeen_words() {
        assert!(size_of::<Option<Call>>() <= 17 * size_of::<u64>());
    }
}
