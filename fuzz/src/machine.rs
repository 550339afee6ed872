//! One machine and a user of it, both driven by the input.

use std::time::{Duration, Instant};

use rpc_http2::frame::{FrameHeader, PREFACE, flag, kind};
use rpc_http2::hpack::Template;
use rpc_http2::{Config, Connection, ErrorCode, Event, Fields, Output, Payload, Role, StreamKey};

use crate::reader::Reader;

/// A header block without a dynamic table: POST http /a, and a literal field.
const HEAD: &[u8] = b"\x83\x86\x04\x02/a\x00\x01x\x01y";
/// The same for a response.
const ANSWER: &[u8] = b"\x88\x00\x01x\x01y";
const MAX_STREAMS: u32 = 8;

struct User {
    machine: Connection,
    role: Role,
    now: Instant,
    keys: Vec<StreamKey>,
    /// Streams that were let go of; what they have unsent waits for the peer.
    left: Vec<StreamKey>,
    /// Data that was not given back yet, when this user keeps data.
    kept: Vec<(StreamKey, usize)>,
    keeps: bool,
    /// What each stream may hold of data.
    window: usize,
    input: Vec<u8>,
    output: Output,
}

impl User {
    /// Most inputs begin behind the greetings.
    fn new(role: Role, first: u8) -> Self {
        let now = Instant::now();
        let keeps = first % 16 >= 12;
        let window = 1000 + 100 * u32::from(first >> 4);
        let config = Config {
            max_streams: MAX_STREAMS,
            stream_window: window,
            // A window that does not grow can be checked.
            max_stream_window: if keeps { window } else { 16 * 1024 * 1024 },
            connection_window: 100_000,
            stream_buffer: 10_000,
            connection_buffer: 40_000,
            ..Config::default()
        };
        let mut user = Self {
            machine: Connection::new(role, config, now),
            role,
            now,
            keys: Vec::new(),
            left: Vec::new(),
            kept: Vec::new(),
            keeps,
            window: window as usize,
            input: Vec::new(),
            output: Output::default(),
        };
        if !first.is_multiple_of(16) {
            if role == Role::Server {
                user.feed(PREFACE);
            }
            user.feed(&[0, 0, 0, kind::SETTINGS, 0, 0, 0, 0, 0]);
            if keeps {
                // Windows are as configured once the peer has acknowledged them (section 6.5.3).
                user.write();
                user.feed(&[0, 0, 0, kind::SETTINGS, flag::ACK, 0, 0, 0, 0]);
            }
        }
        user
    }

    fn feed(&mut self, octets: &[u8]) {
        self.input.extend_from_slice(octets);
        let input = std::mem::take(&mut self.input);
        let mut rest = &*input;
        let failed = loop {
            let mut data = None;
            match self.machine.receive(&mut rest, self.now) {
                Ok(None) => break false,
                Err(_) => break true,
                Ok(Some(Event::Head { stream, block, .. })) => {
                    // Whatever comes, its fields can be read.
                    assert!(block.fields().count() <= 128);
                    if self.role == Role::Server {
                        self.keys.push(stream);
                    }
                }
                Ok(Some(Event::Data {
                    stream,
                    data: octets,
                    ..
                })) => {
                    assert!(self.keys.contains(&stream), "data of a stream that is gone");
                    data = Some((stream, octets.len()));
                }
                Ok(Some(Event::Trailers { stream, .. } | Event::Reset { stream, .. })) => {
                    assert!(
                        self.keys.contains(&stream),
                        "an event of a stream that is gone"
                    );
                }
                Ok(Some(_)) => {}
            }
            match data {
                Some(data) if self.keeps => self.kept.push(data),
                Some((stream, octets)) => self.machine.consume(stream, octets),
                None => {}
            }
        };
        assert_eq!(failed, self.machine.error().is_some());
        assert!(rest.len() <= input.len());
        // What is not taken is less than one frame that may be taken.
        assert!(failed || rest.len() < 256 * 1024 + 9);
        self.input = rest.to_vec();
        self.check();
    }

    fn check(&self) {
        // RFC 9113 section 6.9.1: no more comes in than the window has room for.
        for key in &self.keys {
            let of_stream = self.kept.iter().filter(|(other, _)| other == key);
            let kept: usize = of_stream.map(|(_, octets)| octets).sum();
            assert!(kept <= self.window, "{kept} octets in {}", self.window);
        }
        if self.role == Role::Server {
            assert!(self.machine.stream_count() <= MAX_STREAMS as usize);
        }
    }

    fn pick(&self, choice: u8) -> Option<StreamKey> {
        self.keys
            .get(usize::from(choice).checked_rem(self.keys.len())?)
            .copied()
    }

    /// Does what a user may do at any time.
    fn act(&mut self, reader: &mut Reader<'_>) {
        let (what, which) = (reader.octet(), reader.octet());
        let answer = || {
            Template::new(
                [(":status", "200"), ("content-type", "a")]
                    .into_iter()
                    .collect(),
            )
        };
        let request = || {
            Template::new(
                [(":method", "POST"), (":scheme", "http"), (":path", "/a")]
                    .into_iter()
                    .collect(),
            )
        };
        match (what % 9, self.pick(which)) {
            (0, _) if self.role == Role::Client => {
                if let Some(key) = self.machine.open(&mut request(), &Fields::new(), self.now) {
                    self.keys.push(key);
                }
            }
            (0, Some(key)) => {
                self.machine
                    .respond(key, &mut answer(), &Fields::new(), which > 200);
            }
            (1, Some(key)) => {
                let octets = vec![7; reader.number() % 20_000];
                let payload = if which > 128 {
                    Payload::Copied(&octets)
                } else {
                    Payload::Shared(octets.into())
                };
                self.machine.send(key, payload, what > 200);
            }
            (2, Some(key)) if self.role == Role::Server => {
                self.machine.trailers(key, &mut answer(), &Fields::new());
            }
            (3, Some(key)) => self.machine.reset(key, ErrorCode::CANCEL),
            (4, Some(key)) => {
                self.machine.release(key);
                self.keys.retain(|other| *other != key);
                // The machine gives back what nobody will.
                self.kept.retain(|(other, _)| *other != key);
                self.left.push(key);
            }
            (5, _) => {
                self.now += Duration::from_millis(reader.number() as u64);
                // Too late is a failure like others.
                let _ = self.machine.on_timeout(self.now);
            }
            (6, Some(key)) => {
                self.machine.room(key);
                self.machine.roomy();
                if let Some(place) = self.kept.iter().position(|(other, _)| *other == key) {
                    let (_, octets) = self.kept.swap_remove(place);
                    self.machine.consume(key, octets);
                }
            }
            (7, _) => self.write(),
            (8, _) if what > 250 => self.machine.shut_down(self.now),
            _ => self.machine.ping(),
        }
        self.check();
    }

    /// Takes everything that is to be written; it is frames, whole ones.
    fn write(&mut self) {
        let mut octets = Vec::new();
        while self.machine.has_output() {
            self.machine.take_output(&mut self.output, self.now);
            while !self.output.is_empty() {
                let mut slices = [std::io::IoSlice::new(&[]); 8];
                let filled = self.output.slices(&mut slices);
                let before = octets.len();
                slices[..filled]
                    .iter()
                    .for_each(|slice| octets.extend_from_slice(slice));
                let written = octets.len() - before;
                self.output.advance(written);
            }
        }
        let mut rest = octets.strip_prefix(&PREFACE[..]).unwrap_or(&octets);
        while let Some((header, more)) = rest.split_first_chunk() {
            let header = FrameHeader::parse(header);
            rest = more.get(header.length as usize..).unwrap();
        }
        assert!(rest.is_empty());
    }

    /// All users let go of everything: nothing is left.
    fn end(mut self) {
        for key in std::mem::take(&mut self.keys) {
            self.machine.reset(key, ErrorCode::CANCEL);
            self.machine.release(key);
        }
        for key in std::mem::take(&mut self.left) {
            self.machine.reset(key, ErrorCode::CANCEL);
        }
        self.write();
        assert_eq!(self.machine.stream_count(), 0);
    }
}

fn run(role: Role, input: &[u8]) {
    let mut reader = Reader(input);
    let mut user = User::new(role, reader.octet());
    while !reader.is_empty() {
        match reader.octet() % 4 {
            0 | 1 => {
                let length = reader.number() % 4096;
                user.feed(reader.piece(length));
            }
            _ => user.act(&mut reader),
        }
    }
    user.end();
}

/// Octets and acts on a server.
pub fn server_machine(input: &[u8]) {
    run(Role::Server, input);
}

/// Octets and acts on a client.
pub fn client_machine(input: &[u8]) {
    run(Role::Client, input);
}

/// Whole frames with any kind, flags, stream and payload, some of them damaged, for either role.
pub fn frame_reader(input: &[u8]) {
    let mut reader = Reader(input);
    let first = reader.octet();
    let role = if first.is_multiple_of(2) {
        Role::Server
    } else {
        Role::Client
    };
    let mut user = User::new(role, first | 1);
    if role == Role::Client {
        for _ in 0..3 {
            user.act(&mut Reader(&[0, 0]));
        }
    }
    while !reader.is_empty() {
        let (choice, flags) = (reader.octet(), reader.octet());
        let stream = u32::from(reader.octet() % 16);
        let length = match choice >> 4 {
            15 => reader.number(),
            _ => usize::from(reader.octet()),
        };
        let kind = choice % 12;
        let mut payload = reader.piece(length).to_vec();
        if choice & 0x80 == 0 {
            // What this kind of frame begins with, so that more of them come through.
            match kind {
                kind::HEADERS if role == Role::Server => {
                    payload.splice(0..0, HEAD.iter().copied()).for_each(drop)
                }
                kind::HEADERS => payload.splice(0..0, ANSWER.iter().copied()).for_each(drop),
                kind::SETTINGS => payload.truncate(payload.len() / 6 * 6),
                kind::PING | kind::GOAWAY => payload.resize(8, 0),
                kind::RST_STREAM | kind::WINDOW_UPDATE => payload.resize(4, 0),
                kind::PRIORITY => payload.resize(5, 0),
                _ => {}
            }
        }
        let stream = match kind {
            kind::SETTINGS | kind::PING | kind::GOAWAY if choice & 0x40 == 0 => 0,
            _ => stream,
        };
        let header = FrameHeader {
            length: payload.len() as u32,
            kind,
            flags: if kind == kind::HEADERS && choice & 0x40 == 0 {
                flags & flag::END_STREAM | flag::END_HEADERS
            } else {
                flags
            },
            stream,
        };
        user.feed(&[&header.encode()[..], &payload].concat());
        if flags & 0x40 > 0 {
            user.act(&mut reader);
        }
    }
    user.end();
}
