//! A client and a server, calls between them, and what must hold in the end.

mod choices;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use rpc_http2::hpack::Template;
use rpc_http2::{
    Config, Connection, ErrorCode, Event, Fields, Output, Payload, ResetCause, Role, StreamKey,
};

pub(crate) use choices::Choices;

/// How a call is meant to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    Whole,
    /// The client resets it at some time.
    Cancelled,
    /// The server resets it after its head.
    Aborted,
}

/// Who reads nothing of a call until all others have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unread {
    Nobody,
    Client,
    Server,
}

/// How a call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Answered,
    Cancelled,
    Aborted,
    /// The server has not looked at it.
    Refused,
    /// The wire was cut.
    Lost,
}

/// How the connection ends, when it does not just go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    None,
    ServerShutsDown,
    ClientShutsDown,
    Cut,
}

#[derive(Debug)]
struct Call {
    number: usize,
    plan: Plan,
    unread: Unread,
    /// What has arrived and was not given back.
    kept: usize,
    to_send: Vec<u8>,
    sent: usize,
    ended: bool,
    received: Vec<u8>,
    outcome: Option<Outcome>,
}

#[derive(Debug, Default)]
struct Served {
    number: usize,
    /// It reads nothing, and answers nothing.
    pauses: bool,
    /// What has arrived and was not given back.
    kept: usize,
    received: Vec<u8>,
    request_ended: bool,
    answered: usize,
}

/// One side: the machine, what it is writing, and the octets on their way to it.
struct Side {
    machine: Connection,
    writing: Output,
    wire: Vec<u8>,
    input: Vec<u8>,
    /// Streams that were told that there is no room, and not yet that there is.
    waits: HashSet<StreamKey>,
}

impl Side {
    fn new(role: Role, config: Config, now: Instant) -> Self {
        Self {
            machine: Connection::new(role, config, now),
            writing: Output::default(),
            wire: Vec::new(),
            input: Vec::new(),
            waits: HashSet::new(),
        }
    }

    /// Whether a stream has room. One that was told that it has none waits until it hears of some.
    fn has_room(&mut self, key: StreamKey) -> bool {
        if self.waits.contains(&key) {
            return false;
        }
        let has_room = self.machine.has_room(key);
        if !has_room {
            self.waits.insert(key);
        }
        has_room
    }

    fn hear_of_room(&mut self) {
        while let Some(key) = self.machine.roomy() {
            self.waits.remove(&key);
        }
    }
}

pub(crate) struct Pair {
    random: Choices,
    now: Instant,
    client: Side,
    server: Side,
    heads: Vec<Template>,
    respond: Template,
    trailers: Template,
    calls: HashMap<StreamKey, Call>,
    served: HashMap<StreamKey, Served>,
    /// For each number how many heads the server has seen.
    heads_seen: HashMap<usize, usize>,
    /// For each number the whole request that the server has seen.
    requests_seen: HashMap<usize, Vec<u8>>,
    ending: Ending,
    /// After so many turns.
    ends_at: usize,
    started: usize,
    /// So many calls more may be unread: one that is takes a place among those that the server allows.
    may_be_unread: u32,
    /// Everything is read from now on.
    all_read: bool,
    /// The smaller one of those that streams begin with.
    window: usize,
    total: usize,
    trace: u64,
    /// Something of a call has arrived since the last step.
    progressed: bool,
}

/// What a call's body is, both ways.
fn body(number: usize, length: usize) -> Vec<u8> {
    (0..length)
        .map(|place| (place.wrapping_mul(31) ^ number.wrapping_mul(7)) as u8)
        .collect()
}

fn config(random: &mut Choices) -> Config {
    let mut config = Config {
        max_streams: random.u32(1..40),
        stream_window: random.u32(1..100_000),
        connection_window: 65_535 + random.u32(0..100_000),
        max_stream_window: random.u32(1..400_000),
        max_frame: 16_384 + random.u32(0..100_000),
        stream_buffer: random.usize(1..100_000),
        connection_buffer: random.usize(1..300_000),
        header_table: if random.bool() {
            4096
        } else {
            random.u32(0..200)
        },
        ..Config::default()
    };
    // Windows of a few octets make honest peers send many small updates, and little in much time.
    config.limits.idle_frames = None;
    config.limits.stall = None;
    config.limits.unsent_answers = None;
    if random.is_fuzzed() {
        let long = Duration::from_secs(1_000_000);
        config.limits.handshake_time = long;
        config.limits.header_time = long;
    }
    config
}

impl Pair {
    pub(crate) fn new(mut random: Choices) -> Self {
        let now = Instant::now();
        let (of_client, of_server) = (config(&mut random), config(&mut random));
        let window = of_client.stream_window.min(of_server.stream_window) as usize;
        let may_be_unread = of_server.max_streams - 1;
        let client = Side::new(Role::Client, of_client, now);
        let server = Side::new(Role::Server, of_server, now);
        let heads = (0..random.usize(1..20))
            .map(|method| {
                let path = format!("/a.B/Method{method}");
                Template::new(
                    [
                        (":method", "POST"),
                        (":scheme", "http"),
                        (":path", &*path),
                        ("te", "trailers"),
                    ]
                    .into_iter()
                    .collect(),
                )
            })
            .collect();
        Self {
            now,
            client,
            server,
            heads,
            respond: Template::new(
                [(":status", "200"), ("content-type", "application/grpc")]
                    .into_iter()
                    .collect(),
            ),
            trailers: Template::new([("grpc-status", "0")].into_iter().collect()),
            calls: HashMap::new(),
            served: HashMap::new(),
            heads_seen: HashMap::new(),
            requests_seen: HashMap::new(),
            ending: match random.u8(0..8) {
                0 | 1 => Ending::ServerShutsDown,
                2 | 3 => Ending::ClientShutsDown,
                4 => Ending::Cut,
                _ => Ending::None,
            },
            ends_at: random.usize(0..1_000),
            started: 0,
            may_be_unread,
            all_read: false,
            window,
            total: random.usize(1..random.at_most(60, 8)),
            random,
            trace: 0,
            progressed: false,
        }
    }

    /// Plays to the end and says what happened in one number.
    pub(crate) fn run(mut self) -> u64 {
        let mut idle = 0;
        let mut steps = 0u32;
        let mut cut = false;
        for turn in 0.. {
            let mut open = self.calls.values().filter(|call| call.outcome.is_none());
            if self.started == self.total {
                // No call may wait for one that nobody reads.
                if self.all_read && open.next().is_none() {
                    break;
                }
                if !self.all_read && open.all(|call| call.unread != Unread::Nobody) {
                    self.read_all();
                }
            }
            if turn == self.ends_at {
                match self.ending {
                    Ending::None => {}
                    Ending::ServerShutsDown => self.server.machine.shut_down(self.now),
                    Ending::ClientShutsDown => self.client.machine.shut_down(self.now),
                    Ending::Cut => {
                        cut = true;
                        break;
                    }
                }
            }
            steps = if std::mem::take(&mut self.progressed) {
                0
            } else {
                steps + 1
            };
            assert!(
                steps < 20_000,
                "no end: client {:?}\nserver {:?}\n{:?}",
                self.client.machine,
                self.server.machine,
                self.calls
                    .values()
                    .filter(|call| call.outcome.is_none())
                    .take(3)
                    .map(|call| (
                        call.number,
                        call.plan,
                        call.sent,
                        call.to_send.len(),
                        call.received.len()
                    ))
                    .collect::<Vec<_>>()
            );
            let moved = match self.random.u8(0..8) {
                0 => self.start_call(),
                1 => self.client_sends(),
                2 => self.server_answers(),
                3 => self.write(true) | self.write(false),
                4 => self.deliver(true),
                5 => self.deliver(false),
                6 => self.cancel_something(),
                _ => {
                    let pass = self.random.u64(0..50);
                    self.now += Duration::from_millis(if idle > 2000 { 1000 } else { pass });
                    self.client.machine.on_timeout(self.now).unwrap();
                    self.server.machine.on_timeout(self.now).unwrap();
                    false
                }
            };
            idle = if moved { 0 } else { idle + 1 };
        }
        if cut {
            self.cut();
        } else {
            self.settle();
            assert_eq!(self.server.machine.stream_count(), 0);
        }
        assert_eq!(self.client.machine.stream_count(), 0);
        self.check_ledger();
        self.trace
    }

    /// What the client was told is what the server has seen.
    fn check_ledger(&self) {
        for call in self.calls.values() {
            let heads = self.heads_seen.get(&call.number).copied().unwrap_or(0);
            let request = self.requests_seen.get(&call.number);
            let outcome = call.outcome.expect("it is over");
            match outcome {
                Outcome::Answered => {
                    assert_eq!(heads, 1, "call {}", call.number);
                    assert_eq!(request, Some(&call.to_send), "call {}", call.number);
                }
                Outcome::Aborted => assert_eq!(heads, 1, "call {}", call.number),
                Outcome::Refused => assert_eq!(heads, 0, "call {}", call.number),
                Outcome::Cancelled | Outcome::Lost => assert!(heads <= 1, "call {}", call.number),
            }
            assert!(request.is_none_or(|request| *request == call.to_send));
        }
        let seen: usize = self.heads_seen.values().sum();
        assert!(seen <= self.calls.len() && self.requests_seen.len() <= seen);
    }

    /// Those who have read nothing read all of it now, and go on.
    fn read_all(&mut self) {
        self.all_read = true;
        let mut kept: Vec<_> = self.calls.iter_mut().collect();
        kept.sort_by_key(|(key, call)| (call.number, key.index()));
        for (key, call) in kept {
            self.client
                .machine
                .consume(*key, std::mem::take(&mut call.kept));
        }
        let mut kept: Vec<_> = self.served.iter_mut().collect();
        kept.sort_by_key(|(key, served)| (served.number, key.index()));
        for (key, served) in kept {
            served.pauses = false;
            self.server
                .machine
                .consume(*key, std::mem::take(&mut served.kept));
        }
    }

    /// Nothing arrives any more, and everybody lets go; what the server has answered stays unsent.
    fn cut(&mut self) {
        for side in [&mut self.client, &mut self.server] {
            side.wire.clear();
            side.input.clear();
        }
        for (key, call) in &mut self.calls {
            if call.outcome.is_none() {
                call.outcome = Some(Outcome::Lost);
                self.client.machine.release(*key);
            }
        }
        for (key, _) in self.served.drain() {
            self.server.machine.release(key);
        }
    }

    fn note(&mut self, what: u64) {
        self.trace = (self.trace.rotate_left(7) ^ what).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// Lets everything arrive and be let go of.
    fn settle(&mut self) {
        for _ in 0..20_000 {
            self.server_answers();
            self.write(true);
            self.write(false);
            self.deliver(true);
            self.deliver(false);
            let quiet = [&self.client, &self.server].into_iter().all(|side| {
                side.wire.is_empty() && side.writing.is_empty() && !side.machine.has_output()
            });
            if quiet && self.served.is_empty() {
                let shut_down = !self.client.machine.takes_streams();
                assert_eq!(self.client.machine.is_finished(), shut_down);
                assert_eq!(self.server.machine.is_finished(), shut_down);
                return;
            }
        }
        panic!("does not settle: {:?}", self.served);
    }

    fn start_call(&mut self) -> bool {
        if self.started == self.total {
            return false;
        }
        let head = self.random.usize(0..self.heads.len());
        let number = self.started;
        let mut rest = Fields::new();
        rest.push("number", number.to_string());
        if self.random.bool() {
            rest.push("grpc-timeout", format!("{}m", self.random.u32(..)));
        }
        let machine = &mut self.client.machine;
        let Some(key) = machine.open(&mut self.heads[head], &rest, self.now) else {
            assert!(matches!(
                self.ending,
                Ending::ServerShutsDown | Ending::ClientShutsDown
            ));
            self.total = self.started;
            return false;
        };
        self.started += 1;
        let plan = match self.random.u8(0..10) {
            0 => Plan::Cancelled,
            1 => Plan::Aborted,
            _ => Plan::Whole,
        };
        let most = if self.random.u8(0..10) == 0 {
            (self.window * 500).clamp(500, 300_000)
        } else {
            500
        };
        // Octet by octet takes long, and says nothing that a few of them do not say.
        let fuzzed = most.min(20_000).min(self.window * 40);
        let most = self.random.at_most(most, fuzzed);
        let length = self.random.usize(0..most);
        let unread = match self.random.u8(0..10) {
            0 | 1 if plan == Plan::Whole && self.may_be_unread > 0 => Unread::Client,
            2 | 3 if plan == Plan::Whole && self.may_be_unread > 0 => Unread::Server,
            _ => Unread::Nobody,
        };
        self.may_be_unread -= u32::from(unread != Unread::Nobody);
        let call = Call {
            number,
            plan,
            unread,
            kept: 0,
            to_send: body(number, length),
            sent: 0,
            ended: false,
            received: Vec::new(),
            outcome: None,
        };
        self.calls.insert(key, call);
        true
    }

    fn some_key(&mut self) -> Option<StreamKey> {
        let mut open: Vec<StreamKey> = self
            .calls
            .iter()
            .filter(|(_, call)| call.outcome.is_none())
            .map(|(key, _)| *key)
            .collect();
        open.sort_by_key(|key| (self.calls[key].number, key.index()));
        (!open.is_empty()).then(|| open[self.random.usize(0..open.len())])
    }

    fn client_sends(&mut self) -> bool {
        let Some(key) = self.some_key() else {
            return false;
        };
        let Some(call) = self.calls.get_mut(&key) else {
            return false;
        };
        if call.ended || !self.client.has_room(key) {
            return false;
        }
        let machine = &mut self.client.machine;
        let left = call.to_send.len() - call.sent;
        let size = self.random.usize(0..=left);
        let piece = &call.to_send[call.sent..call.sent + size];
        call.sent += size;
        let end = call.sent == call.to_send.len();
        call.ended = end;
        let payload = if self.random.bool() {
            Payload::Copied(piece)
        } else {
            Payload::Shared(piece.to_vec().into())
        };
        machine.send(key, payload, end);
        true
    }

    fn cancel_something(&mut self) -> bool {
        if self.random.u8(0..20) > 0 {
            return false;
        }
        let Some(key) = self.some_key() else {
            return false;
        };
        let Some(call) = self.calls.get_mut(&key) else {
            return false;
        };
        if call.plan != Plan::Cancelled {
            return false;
        }
        call.outcome = Some(Outcome::Cancelled);
        self.client.machine.reset(key, ErrorCode::CANCEL);
        self.client.machine.release(key);
        true
    }

    fn server_answers(&mut self) -> bool {
        let mut keys: Vec<StreamKey> = self.served.keys().copied().collect();
        keys.sort_by_key(|key| (self.served[key].number, key.index()));
        if keys.is_empty() {
            return false;
        }
        let key = keys[self.random.usize(0..keys.len())];
        let Some(served) = self.served.get_mut(&key).filter(|served| !served.pauses) else {
            return false;
        };
        let machine = &mut self.server.machine;
        // The answer is the request, as far as it has come.
        if served.answered == 0 && !served.received.is_empty() {
            machine.respond(key, &mut self.respond, &Fields::new(), false);
        }
        let left = served.received.len() - served.answered;
        let size = self.random.usize(0..=left);
        if size > 0 {
            if !self.server.has_room(key) {
                return false;
            }
            let machine = &mut self.server.machine;
            let piece = served.received[served.answered..served.answered + size].to_vec();
            served.answered += size;
            machine.send(key, Payload::Shared(piece.into()), false);
            return true;
        }
        if served.request_ended && served.answered == served.received.len() {
            let mut rest = Fields::new();
            rest.push("number", served.number.to_string());
            if served.received.is_empty() {
                machine.respond(key, &mut self.respond, &Fields::new(), false);
            }
            assert!(machine.trailers(key, &mut self.trailers, &rest));
            machine.release(key);
            self.served.remove(&key);
            return true;
        }
        false
    }

    /// Writes some of what a side has to write.
    fn write(&mut self, from_client: bool) -> bool {
        let (from, to) = match from_client {
            true => (&mut self.client, &mut self.server),
            false => (&mut self.server, &mut self.client),
        };
        if from.writing.is_empty() {
            from.machine.take_output(&mut from.writing, self.now);
            from.hear_of_room();
        }
        let mut slices = [std::io::IoSlice::new(&[]); 8];
        let count = from.writing.slices(&mut slices);
        let octets: Vec<u8> = slices[..count]
            .iter()
            .flat_map(|slice| slice.to_vec())
            .collect();
        if octets.is_empty() {
            return false;
        }
        let part = match self.random.bool() {
            true => octets.len(),
            false => self.random.usize(1..=octets.len()),
        };
        to.wire.extend(&octets[..part]);
        from.writing.advance(part);
        self.note(part as u64);
        true
    }

    /// Lets some octets arrive and acts on what they say.
    fn deliver(&mut self, to_client: bool) -> bool {
        let side = match to_client {
            true => &mut self.client,
            false => &mut self.server,
        };
        let part = match self.random.u8(0..4) {
            0 => side.wire.len().min(self.random.usize(0..20)),
            1 => side.wire.len().min(self.random.usize(0..2000)),
            _ => side.wire.len(),
        };
        side.input.extend(side.wire.drain(..part));
        let input = std::mem::take(&mut side.input);
        let mut rest = &input[..];
        let mut events = Vec::new();
        loop {
            let side = match to_client {
                true => &mut self.client,
                false => &mut self.server,
            };
            let event = side.machine.receive(&mut rest, self.now);
            let Some(event) = event.unwrap_or_else(|error| {
                panic!("{error} at {}", if to_client { "client" } else { "server" })
            }) else {
                break;
            };
            events.push(Happened::of(event));
            let Some(happened) = events.pop() else { break };
            match to_client {
                true => self.at_client(happened),
                false => self.at_server(happened),
            }
        }
        let rest = rest.to_vec();
        let side = match to_client {
            true => &mut self.client,
            false => &mut self.server,
        };
        side.input = rest;
        side.hear_of_room();
        part > 0
    }

    fn at_client(&mut self, happened: Happened) {
        self.progressed = true;
        let machine = &mut self.client.machine;
        match happened {
            Happened::Head(..) | Happened::Nothing => {}
            Happened::Data(key, data, end) => {
                assert!(!end, "a response ends with trailers");
                let call = self.calls.get_mut(&key).unwrap();
                if call.unread == Unread::Client && !self.all_read {
                    call.kept += data.len();
                } else {
                    machine.consume(key, data.len());
                }
                call.received.extend(data);
                self.note(key.index() as u64);
            }
            Happened::Trailers(key, number) => {
                let call = self.calls.get_mut(&key).unwrap();
                assert_eq!(call.received, call.to_send, "call {}", call.number);
                assert_eq!(number, call.number);
                call.outcome = Some(Outcome::Answered);
                machine.release(key);
            }
            Happened::Reset(key, code, cause) => {
                let call = self.calls.get_mut(&key).unwrap();
                // Refused before the client knew the limit, while a cancelled stream is let go of, or
                // by the last GOAWAY.
                call.outcome = Some(
                    if matches!(cause, ResetCause::Refused | ResetCause::Unsent) {
                        assert!(call.received.is_empty());
                        Outcome::Refused
                    } else {
                        assert_eq!(cause, ResetCause::Peer, "{code}");
                        assert_eq!(call.plan, Plan::Aborted);
                        Outcome::Aborted
                    },
                );
                machine.release(key);
            }
        }
    }

    /// The server has a whole request.
    fn see(&mut self, number: usize, request: Vec<u8>) {
        let before = self.requests_seen.insert(number, request);
        assert_eq!(before, None, "call {number} came twice");
    }

    fn at_server(&mut self, happened: Happened) {
        self.progressed = true;
        let machine = &mut self.server.machine;
        match happened {
            Happened::Nothing => {}
            Happened::Head(key, number, end) => {
                *self.heads_seen.entry(number).or_default() += 1;
                let call = self.calls.values().find(|call| call.number == number);
                let pauses = call.is_some_and(|call| call.unread == Unread::Server);
                let pauses = pauses && !self.all_read;
                if call.is_some_and(|call| call.plan == Plan::Aborted) {
                    machine.reset(key, ErrorCode::INTERNAL_ERROR);
                    machine.release(key);
                    return;
                }
                if end {
                    self.see(number, Vec::new());
                }
                self.served.insert(
                    key,
                    Served {
                        number,
                        pauses,
                        request_ended: end,
                        ..Served::default()
                    },
                );
            }
            Happened::Data(key, data, end) => {
                let served = self.served.get_mut(&key).unwrap();
                served.received.extend(&data);
                served.request_ended = end;
                if served.pauses {
                    served.kept += data.len();
                } else {
                    machine.consume(key, data.len());
                }
                if end {
                    let (number, request) = (served.number, served.received.clone());
                    self.see(number, request);
                }
            }
            Happened::Trailers(..) => panic!("a request has no trailers"),
            Happened::Reset(key, _, cause) => {
                assert_eq!(cause, ResetCause::Peer);
                assert!(self.served.remove(&key).is_some());
                machine.release(key);
            }
        }
    }
}

/// An event without what it borrows.
enum Happened {
    Nothing,
    Head(StreamKey, usize, bool),
    Data(StreamKey, Vec<u8>, bool),
    Trailers(StreamKey, usize),
    Reset(StreamKey, ErrorCode, ResetCause),
}

impl Happened {
    fn of(event: Event<'_, '_>) -> Self {
        let number = |block: rpc_http2::hpack::Block<'_>| {
            block
                .fields()
                .find(|(name, _)| *name == b"number")
                .and_then(|(_, value)| std::str::from_utf8(value).ok()?.parse().ok())
                .unwrap_or(0)
        };
        match event {
            Event::Ready | Event::Pong | Event::GoAway { .. } => Self::Nothing,
            Event::Head { stream, block, end } => Self::Head(stream, number(block), end),
            Event::Data { stream, data, end } => Self::Data(stream, data.to_vec(), end),
            Event::Trailers { stream, block } => Self::Trailers(stream, number(block)),
            Event::Reset {
                stream,
                code,
                cause,
            } => Self::Reset(stream, code, cause),
        }
    }
}
