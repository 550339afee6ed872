//! A machine whose peer is the test: octets in, frames out.

use std::time::Instant;

use rpc_http2::frame::{FrameHeader, HEADER, PREFACE, flag, kind};
use rpc_http2::hpack::{Encoder, Template};
use rpc_http2::{Config, Connection, ErrorCode, Event, Fields, Output, Payload, Role, StreamKey};

/// What a frame has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// A GOAWAY with this code, and the end.
    Connection(ErrorCode),
    /// A RST_STREAM on stream 1 with this code.
    Stream(ErrorCode),
    /// Nothing: the connection goes on, and so does what else is on it.
    Ignored,
}

/// What has become of stream 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    Idle,
    /// Open both ways: a request without its end; on a client, not answered yet.
    Open,
    /// A client has seen the head of the response.
    Answering,
    /// The peer has ended its side, and this side has not.
    Ended,
    /// Both sides have ended.
    Closed,
    ResetByPeer,
    ResetByUs,
}

/// One frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let header = FrameHeader {
        length: payload.len() as u32,
        kind,
        flags,
        stream,
    };
    [&header.encode()[..], payload].concat()
}

/// A header block without a dynamic table.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut encoder = Encoder::default();
    let mut block = Vec::new();
    for (name, value) in fields {
        encoder.volatile(name.as_bytes(), value.as_bytes(), &mut block);
    }
    block
}

/// A field as it is, without Huffman or a table.
pub(crate) fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let length = |text: &[u8]| [u8::try_from(text.len()).unwrap()];
    [&[0][..], &length(name), name, &length(value), value].concat()
}

pub(crate) const REQUEST: [(&str, &str); 3] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/a.B/C"),
];
pub(crate) const RESPONSE: [(&str, &str); 1] = [(":status", "200")];
pub(crate) const TRAILERS: [(&str, &str); 1] = [("grpc-status", "0")];

/// HEADERS of a whole block.
pub(crate) fn headers(stream: u32, fields: &[(&str, &str)], end: bool) -> Vec<u8> {
    let end = if end { flag::END_STREAM } else { 0 };
    frame(
        kind::HEADERS,
        flag::END_HEADERS | end,
        stream,
        &block(fields),
    )
}

pub(crate) fn data(stream: u32, octets: usize, end: bool) -> Vec<u8> {
    let end = if end { flag::END_STREAM } else { 0 };
    frame(kind::DATA, end, stream, &vec![7; octets])
}

pub(crate) fn window_update(stream: u32, more: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
}

pub(crate) fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &code.to_be_bytes())
}

pub(crate) fn goaway(last: u32, code: u32) -> Vec<u8> {
    let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
    frame(kind::GOAWAY, 0, 0, &payload)
}

pub(crate) fn settings(list: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (identifier, value) in list {
        payload.extend(identifier.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    frame(kind::SETTINGS, 0, 0, &payload)
}

/// A frame that was sent.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) header: FrameHeader,
    pub(crate) payload: Vec<u8>,
}

pub(crate) struct Peer {
    pub(crate) machine: Connection,
    pub(crate) now: Instant,
    pub(crate) keys: Vec<StreamKey>,
    pub(crate) seen: Vec<String>,
    /// For each head whether it was too large.
    pub(crate) oversized: Vec<bool>,
    role: Role,
    input: Vec<u8>,
    consume: bool,
}

impl Peer {
    /// A machine that has said nothing yet.
    pub(crate) fn silent(role: Role, config: Config) -> Self {
        let now = Instant::now();
        Self {
            machine: Connection::new(role, config, now),
            now,
            keys: Vec::new(),
            seen: Vec::new(),
            oversized: Vec::new(),
            role,
            input: Vec::new(),
            consume: true,
        }
    }

    /// A machine that has greeted and was greeted.
    pub(crate) fn ready(role: Role, config: Config) -> Self {
        let mut peer = Self::silent(role, config);
        if role == Role::Server {
            peer.feed(PREFACE);
        }
        peer.feed(&settings(&[]));
        peer.feed(&frame(kind::SETTINGS, flag::ACK, 0, &[]));
        peer.sent();
        peer
    }

    /// What arrives stays where it is.
    pub(crate) fn holding(mut self) -> Self {
        self.consume = false;
        self
    }

    /// A machine with stream 1 in this state; nothing where the role has no such state.
    pub(crate) fn at(role: Role, at: At) -> Option<Self> {
        let mut peer = Self::ready(role, Config::default());
        match (role, at) {
            (_, At::Idle) => {}
            (Role::Server, At::Answering) => return None,
            (Role::Server, _) => {
                let ended = matches!(at, At::Ended | At::Closed);
                peer.feed(&headers(1, &REQUEST, ended));
                match at {
                    At::Closed => {
                        peer.respond(0, true);
                        peer.machine.release(peer.keys[0]);
                    }
                    At::ResetByPeer => peer.feed(&reset(1, 8)),
                    At::ResetByUs => peer.machine.reset(peer.keys[0], ErrorCode::CANCEL),
                    _ => {}
                }
            }
            (Role::Client, _) => {
                let key = peer.open();
                if matches!(at, At::Answering | At::Ended | At::Closed) {
                    peer.feed(&headers(1, &RESPONSE, false));
                }
                if matches!(at, At::Ended | At::Closed) {
                    peer.feed(&headers(1, &TRAILERS, true));
                }
                match at {
                    At::Closed => {
                        peer.machine.send(key, Payload::Copied(&[]), true);
                        peer.machine.release(key);
                    }
                    At::ResetByPeer => peer.feed(&reset(1, 8)),
                    At::ResetByUs => peer.machine.reset(key, ErrorCode::CANCEL),
                    _ => {}
                }
            }
        }
        if matches!(at, At::ResetByPeer | At::ResetByUs) {
            peer.machine.release(peer.keys[0]);
        }
        peer.sent();
        peer.seen.clear();
        Some(peer)
    }

    /// Opens a stream as a client.
    pub(crate) fn open(&mut self) -> StreamKey {
        let mut head = Template::new(REQUEST.into_iter().collect());
        let key = self
            .machine
            .open(&mut head, &Fields::new(), self.now)
            .expect("it takes streams");
        self.keys.push(key);
        key
    }

    /// Answers a stream as a server.
    pub(crate) fn respond(&mut self, place: usize, end: bool) {
        let mut head = Template::new(RESPONSE.into_iter().collect());
        self.machine
            .respond(self.keys[place], &mut head, &Fields::new(), end);
    }

    /// Passes octets in and takes note of what happens.
    pub(crate) fn feed(&mut self, octets: &[u8]) {
        self.input.extend_from_slice(octets);
        let input = std::mem::take(&mut self.input);
        let mut rest = &*input;
        loop {
            let mut data = None;
            match self.machine.receive(&mut rest, self.now) {
                Ok(Some(event)) => {
                    self.seen.push(match &event {
                        Event::Head { stream, end, block } => {
                            self.oversized.push(block.oversized);
                            if self.role == Role::Server {
                                self.keys.push(*stream);
                            }
                            format!("head {end}")
                        }
                        Event::Data {
                            stream,
                            data: octets,
                            end,
                        } => {
                            data = Some((*stream, octets.len()));
                            format!("data {} {end}", octets.len())
                        }
                        Event::Trailers { .. } => "trailers".to_owned(),
                        Event::Reset { code, cause, .. } => format!("reset {code} {cause:?}"),
                        Event::GoAway { code } => format!("goaway {code}"),
                        Event::Ready => "ready".to_owned(),
                        Event::Pong => "pong".to_owned(),
                    });
                }
                Ok(None) | Err(_) => break,
            }
            if let Some((stream, octets)) = data.filter(|_| self.consume) {
                self.machine.consume(stream, octets);
            }
        }
        self.input = rest.to_vec();
    }

    /// The octets that were sent since the last look.
    pub(crate) fn octets(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut output = Output::default();
        while self.machine.has_output() {
            self.machine.take_output(&mut output, self.now);
            while !output.is_empty() {
                let mut slices = [std::io::IoSlice::new(&[]); 64];
                let filled = output.slices(&mut slices);
                let octets: Vec<u8> = slices[..filled]
                    .iter()
                    .flat_map(|slice| slice.to_vec())
                    .collect();
                all.extend_from_slice(&octets);
                output.advance(octets.len());
            }
        }
        all
    }

    /// The frames that were sent since the last look.
    pub(crate) fn sent(&mut self) -> Vec<Sent> {
        let octets = self.octets();
        let mut rest = octets.strip_prefix(&PREFACE[..]).unwrap_or(&octets);
        let mut frames = Vec::new();
        while let Some((header, more)) = rest.split_first_chunk::<HEADER>() {
            let header = FrameHeader::parse(header);
            let (payload, more) = more.split_at(header.length as usize);
            frames.push(Sent {
                header,
                payload: payload.to_vec(),
            });
            rest = more;
        }
        assert!(rest.is_empty(), "a frame was cut");
        frames
    }

    /// Whether the connection was ended for what may be an attack.
    pub(crate) fn calmed(&self) -> bool {
        let error = self.machine.error();
        error.is_some_and(|error| error.code == ErrorCode::ENHANCE_YOUR_CALM)
    }

    /// What the octets that were fed have come to; checks that the machine is as alive as it says.
    pub(crate) fn came(&mut self) -> Came {
        let sent = self.sent();
        let code = |payload: &[u8]| ErrorCode(u32::from_be_bytes(payload.try_into().unwrap()));
        let goaway = sent.iter().find(|sent| sent.header.kind == kind::GOAWAY);
        if let Some(goaway) = goaway {
            let code = code(&goaway.payload[4..8]);
            assert_eq!(self.machine.error().map(|error| error.code), Some(code));
            assert!(self.machine.is_finished(), "a failed connection is over");
            return Came::Connection(code);
        }
        assert_eq!(self.machine.error(), None);
        let of_stream =
            |sent: &&Sent| sent.header.kind == kind::RST_STREAM && sent.header.stream == 1;
        let came = match sent.iter().find(of_stream) {
            Some(reset) => Came::Stream(code(&reset.payload)),
            None => Came::Ignored,
        };
        // It still answers, and takes or opens streams.
        self.feed(&frame(kind::PING, 0, 0, b"are you?"));
        let pong = self.sent();
        assert!(
            pong.iter()
                .any(|sent| sent.header.kind == kind::PING && sent.payload == b"are you?"),
            "no answer to a PING"
        );
        if self.role == Role::Server {
            let before = self.keys.len();
            self.feed(&headers(101, &REQUEST, true));
            assert_eq!(self.keys.len(), before + 1, "no more streams");
        } else if self.machine.takes_streams() {
            self.open();
        }
        came
    }
}

pub(crate) const BOTH: &[Role] = &[Role::Client, Role::Server];
pub(crate) const SERVER: &[Role] = &[Role::Server];
pub(crate) const CLIENT: &[Role] = &[Role::Client];

pub(crate) const PROTOCOL: Came = Came::Connection(ErrorCode::PROTOCOL_ERROR);
pub(crate) const SIZE: Came = Came::Connection(ErrorCode::FRAME_SIZE_ERROR);
pub(crate) const FLOW: Came = Came::Connection(ErrorCode::FLOW_CONTROL_ERROR);
pub(crate) const CLOSED: Came = Came::Connection(ErrorCode::STREAM_CLOSED);
pub(crate) const COMPRESSION: Came = Came::Connection(ErrorCode::COMPRESSION_ERROR);
pub(crate) const STREAM_PROTOCOL: Came = Came::Stream(ErrorCode::PROTOCOL_ERROR);
pub(crate) const STREAM_CLOSED: Came = Came::Stream(ErrorCode::STREAM_CLOSED);
pub(crate) const STREAM_FLOW: Came = Came::Stream(ErrorCode::FLOW_CONTROL_ERROR);
pub(crate) const IGNORED: Came = Came::Ignored;

/// Feeds frames to machines whose stream 1 is in these states.
#[track_caller]
pub(crate) fn check(section: &str, roles: &[Role], states: &[At], frames: &[u8], expected: Came) {
    for role in roles {
        for at in states {
            let Some(mut peer) = Peer::at(*role, *at) else {
                continue;
            };
            peer.feed(frames);
            assert_eq!(peer.came(), expected, "section {section}, {role:?}, {at:?}");
        }
    }
}

pub(crate) const ANY: &[At] = &[At::Idle, At::Open, At::Ended, At::Closed];
