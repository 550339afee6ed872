//! What one read brings: calls are taken in under the lock, run without it, and answered under it.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rpc_http2::hpack::Block;
use rpc_http2::{ConnectionError, Event, StreamKey};
use tokio::time::Instant;

use super::Shared;
use super::calls::{Call, Gathering, Inbox, More, Stage, State};
use super::driver::{reason, wake_roomy};
use super::halves::{Hold, Requests};
use super::heads::{Heads, RequestHead, Target};
use super::report::Report;
use super::unary;
use crate::lock::Wakers;
use crate::server::handler::{Handler, IncomingCall, ServerRecv, Single};
use crate::server::load::{Admission, Held};
use crate::server::slot::Answer;
use crate::transport::http2::assembler::Assembler;
use crate::wire::compression::Unpacking;
use crate::wire::message::{Next, PREFIX};
use crate::{BoxFuture, Deadline, Extensions, Metadata, Status};

/// What one read has brought.
pub(super) struct Batch {
    pub(super) heads: Heads,
    pub(super) ready: Vec<Ready>,
    pub(super) wakers: Wakers,
    /// Handlers that become tasks once the lock has been given back.
    pub(super) starting: Vec<Starting>,
    /// Where small responses are encoded.
    pub(super) arena: BytesMut,
    pub(super) ran: Vec<Polled>,
    /// The last of `ready` awaits its message, or the end of its stream.
    awaits: bool,
    /// When the read was.
    pub(super) now: Instant,
    /// Calls, and pieces of those that are open, that have come.
    came: u32,
    /// Handlers that may be busy for long have become tasks.
    pub(super) has_slow: bool,
}

/// A unary call whose request is whole.
pub(super) struct Ready {
    pub(super) key: StreamKey,
    pub(super) route: usize,
    pub(super) call: Option<IncomingCall>,
    pub(super) message: Message,
    pub(super) report: Option<Box<Report>>,
    /// What the message takes when it did not come in one piece; in a box, since most did.
    pub(super) held: Option<Box<Held>>,
}

/// Where a request's message is.
pub(super) enum Message {
    /// Only the head of the call has arrived, and nothing since.
    Awaited,
    /// In what was read.
    Read(Range<usize>),
    Own(Bytes),
    /// Large, and compressed.
    Packed(Box<Unpacking>),
}

/// A call of this batch that has run.
pub(super) struct Polled {
    pub(super) key: StreamKey,
    pub(super) deadline: Option<Deadline>,
    pub(super) outcome: Outcome,
    pub(super) report: Option<Box<Report>>,
    pub(super) held: Option<Box<Held>>,
}

/// A handler that becomes a task; its call is in the table already.
pub(super) struct Starting {
    pub(super) hold: Hold,
    pub(super) what: Start,
}

pub(super) enum Start {
    /// A streaming handler, from its beginning.
    Handler(Handler, Box<IncomingCall>),
    /// A unary one that waits.
    Future {
        future: BoxFuture<'static, Result<Single, Status>>,
        held: Option<Box<Held>>,
    },
}

/// What came of a call in this batch.
pub(super) enum Outcome {
    /// Its response is in the arena.
    Answer(Answer, Range<usize>),
    Large(Answer, Bytes),
    Failed(Status),
    /// It goes on as a task.
    Task(BoxFuture<'static, Result<Single, Status>>),
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            heads: Heads::default(),
            ready: Vec::new(),
            wakers: Wakers::default(),
            starting: Vec::new(),
            arena: BytesMut::new(),
            ran: Vec::new(),
            awaits: false,
            now: Instant::now(),
            came: 0,
            has_slow: false,
        }
    }

    /// Takes in what was read.
    pub(super) fn receive(
        &mut self,
        shared: &Arc<Shared>,
        input: &mut &[u8],
    ) -> Result<(), ConnectionError> {
        self.now = Instant::now();
        let now = self.now.into_std();
        let whole = *input;
        let mut state = shared.lock();
        let state = &mut *state;
        loop {
            match state.machine.receive(input, now)? {
                None => break,
                Some(Event::Data { stream, data, end }) => {
                    // The data of a call's head in the same read is one with it.
                    self.came += u32::from(!self.awaits);
                    self.on_data(state, stream, data, whole, end);
                }
                Some(Event::Head { stream, block, end }) => {
                    self.came += 1;
                    let oversized = block.oversized;
                    let head = self.read_head(shared, block);
                    self.gather(state, whole);
                    self.on_head(shared, state, stream, head, oversized, end);
                }
                Some(Event::Trailers { stream, .. }) => {
                    self.on_data(state, stream, &[], whole, true);
                }
                Some(Event::Reset { stream, cause, .. }) => {
                    self.gather(state, whole);
                    state.on_reset(stream, reason(cause));
                }
                Some(Event::Ready | Event::GoAway { .. } | Event::Pong) => {}
            }
        }
        self.gather(state, whole);
        state.settle();
        wake_roomy(state, &mut self.wakers);
        Ok(())
    }

    /// Spawns the tasks of this batch.
    pub(super) fn start(&mut self, shared: &Shared) {
        if self.starting.is_empty() {
            return;
        }
        let spawn = |Starting { hold, what }: Starting| (hold.key, what.spawn(hold));
        let spawned: Vec<_> = self.starting.drain(..).map(spawn).collect();
        let mut state = shared.lock();
        for (key, task) in spawned {
            state.spawned(key, task);
        }
    }

    /// How many calls, or pieces of open ones, have come since it was asked last.
    pub(super) fn take_came(&mut self) -> u32 {
        std::mem::take(&mut self.came)
    }

    fn read_head(&mut self, shared: &Shared, block: Block<'_>) -> RequestHead {
        self.heads.read(block, &shared.served.router)
    }

    fn on_head(
        &mut self,
        shared: &Arc<Shared>,
        state: &mut State,
        key: StreamKey,
        head: RequestHead,
        oversized: bool,
        end: bool,
    ) {
        let RequestHead {
            target,
            is_post,
            is_grpc,
            metadata,
            timeout,
            encoding,
            accept,
            error,
        } = head;
        if !is_post {
            return state.refuse_http(key, "405", &[("allow", "POST")]);
        }
        if !is_grpc && !oversized {
            return state.refuse_http(key, "415", &[]);
        }
        let options = &shared.served.options;
        let path: Arc<str> = match &target {
            Some(Target::Route(number)) => {
                let route = &self.heads.routes[*number];
                state.heads.name(key, route.codecs.response);
                Arc::clone(&route.path)
            }
            Some(Target::Once(path, _) | Target::Missing(path, _)) => Arc::clone(path),
            None => "".into(),
        };
        let report = Report::new(shared, &path);
        let refusal = if oversized {
            Some(Status::resource_exhausted(format!(
                "the head of the request is more than the {} octets of header list (max_header_list_size of the server) or the 128 fields that this server takes",
                options.max_header_list
            )))
        } else {
            error
        };
        let target = match (refusal, target) {
            (Some(status), _) | (None, Some(Target::Missing(_, status))) => Err(status),
            (None, None) => Err(Status::unimplemented("the call has no path")),
            (None, Some(target)) => Ok(target),
        };
        let admission = target.and_then(|target| {
            if state.account.is_pressed() {
                return Err(state.account.too_much());
            }
            let load = &shared.served.load;
            let admission = Admission::try_new(load).ok_or_else(|| load.too_many())?;
            Ok((target, admission))
        });
        let (target, admission) = match admission {
            Ok(admitted) => admitted,
            Err(status) => {
                state.refuse(key, &status, false);
                state.machine.release(key);
                state.ended(report, Some(status));
                return;
            }
        };
        let deadline = timeout.map(|timeout| Deadline::after_instant(self.now, timeout));
        let mut call = IncomingCall {
            path,
            metadata,
            response_metadata: Metadata::new(),
            extensions: Extensions::default(),
            deadline,
            peer: Some(Arc::clone(&shared.peer)),
            encoding,
            accept,
            compress: options.compress,
            limit: options.receive_limit,
            recv: ServerRecv::Ended,
        };
        let handler = match target {
            Target::Route(route) => match &self.heads.routes[route].handler {
                Handler::Unary(_) => {
                    // It counts as running from the moment that it runs.
                    drop(admission);
                    self.ready.push(Ready {
                        key,
                        route,
                        call: Some(call),
                        message: Message::Awaited,
                        report,
                        held: None,
                    });
                    self.awaits = true;
                    if end {
                        self.on_data(state, key, &[], &[], true);
                    }
                    return;
                }
                handler => handler.clone(),
            },
            Target::Once(_, handler) => handler,
            Target::Missing(..) => return,
        };
        call.recv = ServerRecv::Http2(Requests {
            shared: Arc::clone(shared),
            key,
        });
        self.starting.push(Starting {
            hold: Hold {
                shared: Arc::clone(shared),
                key,
                admission: Some(admission),
            },
            what: Start::Handler(handler, Box::new(call)),
        });
        if let Some(deadline) = deadline {
            state.wheel.set(key.index(), deadline.instant().into_std());
        }
        state.insert(Call {
            key,
            stage: Stage::Task {
                abort: None,
                inbox: Inbox::new(options.receive_limit, end),
                sender: None,
            },
            report,
            head_sent: false,
            turn: false,
        });
    }

    /// Lets the latest unary call wait for the rest of its request, which may be only the end of it.
    fn gather(&mut self, state: &mut State, whole: &[u8]) {
        if !std::mem::replace(&mut self.awaits, false) {
            return;
        }
        let Some(Ready {
            key,
            route,
            call: Some(call),
            message,
            report,
            ..
        }) = self.ready.pop()
        else {
            return;
        };
        if let Some(deadline) = call.deadline {
            state.wheel.set(key.index(), deadline.instant().into_std());
        }
        let mut assembler = Assembler::new(call.limit);
        let mut held = Held::new(&state.account);
        if let Message::Read(place) = message {
            assembler.push(&whole[place.start - PREFIX..place.end]);
        }
        let has_room = held.set(assembler.len());
        let gathering = Gathering {
            route,
            call,
            assembler,
            held,
        };
        state.insert(Call {
            key,
            stage: Stage::Gathering(Box::new(gathering)),
            report,
            head_sent: false,
            turn: false,
        });
        if !has_room {
            let status = state.account.too_much();
            state.end(key.index(), status);
        }
    }

    /// Takes in the whole request of the latest unary call, or the end behind it, when this is it.
    fn complete_latest(
        &mut self,
        state: &mut State,
        key: StreamKey,
        data: &[u8],
        whole: &[u8],
        end: bool,
    ) -> bool {
        let latest = self.ready.last_mut().filter(|latest| latest.key == key);
        let Some(latest) = latest.filter(|_| self.awaits) else {
            return false;
        };
        let limit = latest.call.as_ref().map_or(0, |call| call.limit);
        match latest.message {
            Message::Awaited if is_message_within(data, limit) => {
                latest.message = Message::Read(place_of(data, whole));
                state.machine.consume(key, data.len());
            }
            // Many clients end the stream with a frame of its own.
            Message::Read(_) if data.is_empty() && end => {}
            _ => return false,
        }
        self.awaits = !end;
        true
    }

    /// Takes in the whole request of a unary call whose head came in an earlier read.
    fn complete_gathering(
        &mut self,
        state: &mut State,
        key: StreamKey,
        data: &[u8],
        whole: &[u8],
        end: bool,
    ) -> bool {
        let Some(Stage::Gathering(gathering)) = state.call(key).map(|call| &call.stage) else {
            return false;
        };
        if gathering.assembler.len() > 0 || !is_message_within(data, gathering.call.limit) {
            return false;
        }
        state.machine.consume(key, data.len());
        self.gathered(state, key, Ok(Message::Read(place_of(data, whole))));
        self.awaits = !end;
        true
    }

    fn on_data(&mut self, state: &mut State, key: StreamKey, data: &[u8], whole: &[u8], end: bool) {
        if self.complete_latest(state, key, data, whole, end) {
            return;
        }
        self.gather(state, whole);
        if self.complete_gathering(state, key, data, whole, end) {
            return;
        }
        let Some(Some(call)) = state.calls.get_mut(key.index()) else {
            state.machine.consume(key, data.len());
            return;
        };
        match &mut call.stage {
            Stage::Task { inbox, .. } => {
                if let More::Unwanted = inbox.more {
                    return;
                }
                inbox.assembler.push(data);
                inbox.unconsumed += data.len();
                let has_room = inbox.hold(&state.account);
                if end {
                    self.wakers.push(inbox.end(More::Ended));
                } else if inbox.assembler.has_whole() {
                    self.wakers.push(inbox.take_reader());
                } else {
                    // A message that is not whole must not wait for the window.
                    let count = std::mem::take(&mut inbox.unconsumed);
                    state.machine.consume(key, count);
                }
                if !has_room {
                    let status = state.account.too_much();
                    state.end(key.index(), status);
                }
            }
            Stage::Gathering(gathering) => {
                state.machine.consume(key, data.len());
                gathering.assembler.push(data);
                if end || gathering.assembler.is_over() {
                    let body = gathering.assembler.take_all().unwrap_or_default();
                    let message = unary::single(&gathering.call, body).map(|next| match next {
                        Next::Message(message) => Message::Own(message),
                        Next::Packed(unpacking) => Message::Packed(unpacking),
                        Next::Missing => Message::Awaited,
                    });
                    self.gathered(state, key, message);
                } else if !gathering.held.set(gathering.assembler.len()) {
                    // Waiting for room would be waiting for others that wait as well.
                    let status = state.account.too_much();
                    state.end(key.index(), status);
                }
            }
            Stage::InPlace | Stage::Ended => state.machine.consume(key, data.len()),
        }
    }

    /// The request of a unary call is whole, or will never be.
    fn gathered(&mut self, state: &mut State, key: StreamKey, message: Result<Message, Status>) {
        let Some(call) = state.call(key) else {
            return;
        };
        let stage = std::mem::replace(&mut call.stage, Stage::InPlace);
        let Stage::Gathering(gathering) = stage else {
            return;
        };
        match message {
            Ok(message) => {
                let report = call.report.take();
                let Gathering {
                    route, call, held, ..
                } = *gathering;
                let held = match message {
                    Message::Read(_) => None,
                    _ => Some(Box::new(held)),
                };
                self.ready.push(Ready {
                    key,
                    route,
                    call: Some(call),
                    message,
                    report,
                    held,
                });
            }
            Err(status) => {
                let report = call.report.take();
                state.fail(key, &status);
                state.forget(key);
                state.ended(report, Some(status));
            }
        }
    }
}

/// Whether these octets are one message of up to this size that is not compressed, and nothing else.
fn is_message_within(octets: &[u8], limit: usize) -> bool {
    match octets.split_first_chunk::<PREFIX>() {
        Some(([0, l0, l1, l2, l3], message)) => {
            let length = u32::from_be_bytes([*l0, *l1, *l2, *l3]) as usize;
            length == message.len() && length <= limit
        }
        _ => false,
    }
}

/// Where the message of a piece is in what was read.
fn place_of(piece: &[u8], whole: &[u8]) -> Range<usize> {
    let start = piece.as_ptr() as usize - whole.as_ptr() as usize;
    start + PREFIX..start + piece.len()
}
