//! What the attackers do, and what clients do that look alike and mean well.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use rpc_http2::frame::{flag, kind, setting};
use rpc_testkit::raw::{Ended, RawClient, RawReader, frame, message, reset};
use tokio::net::TcpSocket;

pub(crate) const ECHO: &str = "/testkit.v1.Test/Echo";
pub(crate) const HANG: &str = "/testkit.v1.Test/Hang";
pub(crate) const STREAM: &str = "/testkit.v1.Test/ServerStream";
pub(crate) const CHAT: &str = "/testkit.v1.Test/Chat";
const CANCEL: u32 = 8;
/// A window with room for all answers that a client makes wait.
pub(crate) const PLENTY: [(u16, u32); 1] = [(setting::INITIAL_WINDOW_SIZE, 1 << 20)];
/// How long a connection has to end once the attack is over.
const PATIENCE: Duration = Duration::from_secs(2);

/// How a connection went.
pub(crate) struct Went {
    /// What the client did before it ended.
    pub(crate) acts: u32,
    /// What the server took in of it, by its own word where it gives one.
    pub(crate) seen: u32,
    pub(crate) ended: Ended,
    /// From the first act to the end.
    pub(crate) took: Duration,
}

/// How many acts are sent at once, and how many at a time after that: before each the client waits
/// whether the server has had enough, so that what it counts is what the server has counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    at_once: u32,
    step: u32,
    /// How many there are when nothing ends them.
    times: u32,
}

impl Pace {
    /// One by one.
    pub(crate) const CONTINUATIONS: Self = Self {
        at_once: 1,
        step: 1,
        times: 30,
    };
    /// As fast as the socket takes them.
    pub(crate) const FAST: Self = Self {
        at_once: 1_000,
        step: 1_000,
        times: 1_000,
    };
    const EMPTY_DATA: Self = Self {
        at_once: 95,
        step: 1,
        times: 130,
    };
    /// Half as many at once as may wait for an answer.
    pub(crate) const ANSWERED: Self = Self {
        at_once: 500,
        step: 500,
        times: 24_000,
    };
    pub(crate) const IDLE: Self = Self {
        at_once: 19_000,
        step: 250,
        times: 24_000,
    };
}

/// How long a paced client waits for the end after each step.
const STEP: Duration = Duration::from_millis(50);

/// What a client has heard.
#[derive(Default)]
struct Heard {
    goaway: Option<Ended>,
    /// The last stream that the server has looked at.
    last: u32,
    /// PING and SETTINGS frames that were acknowledged.
    acknowledged: u32,
}

/// Listens until the connection ends.
async fn listen(reader: &mut RawReader, heard: &mut Heard) {
    while let Some(frame) = reader.next().await {
        let header = frame.header;
        match header.kind {
            kind::GOAWAY => {
                let word = frame.payload.first_chunk().copied();
                heard.last = word.map_or(0, u32::from_be_bytes);
                heard.goaway = Some(Ended::of(&frame));
            }
            kind::PING | kind::SETTINGS if header.has(flag::ACK) => heard.acknowledged += 1,
            _ => {}
        }
    }
}

impl Heard {
    fn ended(&self, over: bool) -> Ended {
        match (&self.goaway, over) {
            (Some(goaway), _) => goaway.clone(),
            (None, true) => Ended::Closed,
            (None, false) => Ended::Not,
        }
    }
}

/// Repeats an act at a pace until the connection takes no more, and looks how it ended.
async fn paced(
    client: &mut RawClient,
    reader: &mut RawReader,
    pace: Pace,
    mut next: impl FnMut(&mut RawClient) -> Vec<u8>,
) -> Went {
    let start = Instant::now();
    let (mut acts, mut heard) = (0, Heard::default());
    let mut over = false;
    {
        let listening = listen(reader, &mut heard);
        tokio::pin!(listening);
        while !over && acts < pace.times {
            let step = if acts == 0 { pace.at_once } else { pace.step };
            let octets: Vec<u8> = (0..step).flat_map(|_| next(client)).collect();
            acts += step;
            let written = tokio::select! {
                biased;
                () = &mut listening => None,
                written = client.write(&octets) => Some(written),
            };
            over = match written {
                None => true,
                Some(Ok(())) => false,
                // It says GOAWAY before it closes.
                Some(Err(_)) => tokio::time::timeout(PATIENCE, &mut listening).await.is_ok(),
            };
            if over {
                break;
            }
            let wait = if acts >= pace.times { PATIENCE } else { STEP };
            over |= tokio::time::timeout(wait, &mut listening).await.is_ok();
        }
    }
    Went {
        acts,
        seen: acts,
        ended: heard.ended(over),
        took: start.elapsed(),
    }
}

/// Repeats an act as fast as the connection takes it; the streams of it that the server has looked at
/// are what it says in its GOAWAY.
async fn repeat(
    client: &mut RawClient,
    reader: &mut RawReader,
    times: u32,
    mut next: impl FnMut(&mut RawClient) -> Vec<u8>,
) -> Went {
    let start = Instant::now();
    let (mut acts, mut heard) = (0, Heard::default());
    let writing = async {
        while acts < times {
            let octets = next(client);
            if client.write(&octets).await.is_err() {
                return;
            }
            acts += 1;
        }
    };
    let listening = async {
        listen(reader, &mut heard).await;
    };
    let over = {
        tokio::pin!(listening);
        let early = tokio::select! {
            () = &mut listening => true,
            () = writing => false,
        };
        early || tokio::time::timeout(PATIENCE, listening).await.is_ok()
    };
    let seen = match heard.goaway {
        Some(_) => heard.last.div_ceil(2),
        None => acts,
    };
    Went {
        acts,
        seen,
        ended: heard.ended(over),
        took: start.elapsed(),
    }
}

/// How many calls a client that means well has in flight.
const IN_FLIGHT: u32 = 64;
/// What it takes from the connection before it gives room for more.
const HALF_WINDOW: u32 = 32 * 1024;

/// Makes calls as a client does that waits for its answers; what comes back says whether there will
/// be one.
pub(crate) async fn converse(
    client: &mut RawClient,
    reader: &mut RawReader,
    times: u32,
    mut next: impl FnMut(&mut RawClient) -> (Vec<u8>, bool),
) -> Went {
    let start = Instant::now();
    let (mut acts, mut open, mut taken) = (0, 0, 0);
    let went = |acts, ended| Went {
        acts,
        seen: acts,
        ended,
        took: start.elapsed(),
    };
    while acts < times || open > 0 {
        if acts < times && open < IN_FLIGHT {
            let (octets, answered) = next(client);
            if client.write(&octets).await.is_err() {
                let ended = reader.end(PATIENCE).await;
                return went(acts, ended);
            }
            acts += 1;
            open += u32::from(answered);
            continue;
        }
        let header = match tokio::time::timeout(PATIENCE, reader.next()).await {
            Ok(Some(frame)) if frame.header.kind == kind::GOAWAY => {
                return went(acts, Ended::of(&frame));
            }
            Ok(Some(frame)) => frame.header,
            Ok(None) => return went(acts, Ended::Closed),
            // There is no answer; too few acts say so.
            Err(_) => return went(acts, Ended::Not),
        };
        if header.kind == kind::DATA {
            taken += header.length;
        }
        let last =
            matches!(header.kind, kind::DATA | kind::HEADERS) && header.has(flag::END_STREAM);
        open -= u32::from(last);
        if taken > HALF_WINDOW || (taken > 0 && acts == times && open == 0) {
            let room = frame(kind::WINDOW_UPDATE, 0, 0, &taken.to_be_bytes());
            taken = 0;
            if client.write(&room).await.is_err() {
                let ended = reader.end(PATIENCE).await;
                return went(acts, ended);
            }
        }
    }
    went(acts, Ended::Not)
}

pub(crate) async fn rapid_reset(address: &str) -> io::Result<Went> {
    let (mut client, mut reader) = RawClient::connect(address, &[]).await?;
    Ok(repeat(&mut client, &mut reader, 20_000, |client| {
        let (stream, mut frames) = client.head(HANG, false);
        frames.extend(reset(stream, CANCEL));
        frames
    })
    .await)
}

/// A call of those of which one in four is given up at once.
pub(crate) fn some_cancel(client: &mut RawClient, round: u32) -> (Vec<u8>, bool) {
    if !round.is_multiple_of(4) {
        return (client.call(ECHO, &[]).1, true);
    }
    let (stream, mut frames) = client.head(HANG, false);
    frames.extend(reset(stream, CANCEL));
    (frames, false)
}

/// Opens calls and has the server reset each of them.
pub(crate) async fn induced(address: &str, primitive: impl Fn(u32) -> Vec<u8>) -> io::Result<Went> {
    let (mut client, mut reader) = RawClient::connect(address, &[]).await?;
    Ok(repeat(&mut client, &mut reader, 10_000, |client| {
        let (stream, mut frames) = client.head(HANG, false);
        frames.extend(primitive(stream));
        frames
    })
    .await)
}

/// As [`induced`], by what comes after the end of a request.
pub(crate) async fn after_end(
    address: &str,
    primitive: impl Fn(&mut RawClient, u32) -> Vec<u8>,
) -> io::Result<Went> {
    let (mut client, mut reader) = RawClient::connect(address, &[]).await?;
    Ok(repeat(&mut client, &mut reader, 10_000, |client| {
        let (stream, mut frames) = client.call(HANG, &[]);
        frames.extend(primitive(client, stream));
        frames
    })
    .await)
}

/// Streams that are given up while data is on its way to their server, which goes on for a while.
pub(crate) async fn abandoned_streams(address: &str) -> io::Result<Went> {
    let (mut client, mut reader) = RawClient::connect(address, &PLENTY).await?;
    let mut round = 0;
    Ok(converse(&mut client, &mut reader, 4_000, move |client| {
        round += 1;
        some_abandoned(client, round)
    })
    .await)
}

/// A call of [`abandoned_streams`].
pub(crate) fn some_abandoned(client: &mut RawClient, round: u32) -> (Vec<u8>, bool) {
    if !round.is_multiple_of(20) {
        return (client.call(ECHO, &[]).1, true);
    }
    let (stream, mut frames) = client.head(CHAT, false);
    frames.extend(frame(kind::DATA, 0, stream, &message(&[])));
    frames.extend(reset(stream, CANCEL));
    // It was on its way when the stream was given up.
    frames.extend(frame(kind::WINDOW_UPDATE, 0, stream, &100u32.to_be_bytes()));
    (frames, false)
}

/// A header block that never ends.
pub(crate) async fn continuations(address: &str, size: usize, pace: Pace) -> io::Result<Went> {
    let (mut client, mut reader) = RawClient::connect(address, &[]).await?;
    let block = client.block(ECHO, &[]);
    let stream = client.stream();
    client
        .write(&frame(kind::HEADERS, 0, stream, &block))
        .await?;
    // Literal fields without indexing, which a decoder has to read.
    let piece: Vec<u8> = [0, 1, b'a', 1, b'b']
        .into_iter()
        .cycle()
        .take(size)
        .collect();
    Ok(paced(&mut client, &mut reader, pace, |_| {
        frame(kind::CONTINUATION, 0, stream, &piece)
    })
    .await)
}

/// 12 KiB of metadata in three frames.
pub(crate) async fn split_metadata(address: &str) -> io::Result<Went> {
    let (mut client, mut reader) = RawClient::connect(address, &[]).await?;
    let long = "x".repeat(4_000);
    Ok(converse(&mut client, &mut reader, 200, |client| {
        let block = client.block(ECHO, &[("a", &long), ("b", &long), ("c", &long)]);
        let stream = client.stream();
        let (first, rest) = block.split_at(block.len() / 3);
        let (second, third) = rest.split_at(rest.len() / 2);
        let frames = [
            frame(kind::HEADERS, 0, stream, first),
            frame(kind::CONTINUATION, 0, stream, second),
            frame(kind::CONTINUATION, flag::END_HEADERS, stream, third),
            frame(kind::DATA, flag::END_STREAM, stream, &message(&[])),
        ];
        (frames.concat(), true)
    })
    .await)
}

/// A frame that asks for an answer as often as the socket takes it, and nothing is read until the
/// end: the answers are what the server has taken in. `window` is how much the client's socket holds.
pub(crate) async fn flood(
    address: &str,
    kind: u8,
    payload: &[u8],
    window: Option<u32>,
) -> io::Result<Went> {
    let socket = TcpSocket::new_v4()?;
    if let Some(window) = window {
        socket.set_recv_buffer_size(window)?;
    }
    let address = address.parse().map_err(io::Error::other)?;
    let stream = socket.connect(address).await?;
    let (mut client, mut reader) = RawClient::of(stream, &[]).await?;
    let start = Instant::now();
    let (many, mut acts) = (frame(kind, 0, 0, payload).repeat(100), 0);
    let writing = async {
        while acts < 600_000 && client.write(&many).await.is_ok() {
            acts += 100;
        }
    };
    // A server that has closed takes no more; one that waits for its reader stops reading.
    let _ = tokio::time::timeout(Duration::from_secs(3), writing).await;
    let mut heard = Heard::default();
    let listening = listen(&mut reader, &mut heard);
    let over = tokio::time::timeout(PATIENCE, listening).await.is_ok();
    Ok(Went {
        acts,
        seen: heard.acknowledged,
        ended: heard.ended(over),
        took: start.elapsed(),
    })
}

/// The same frame again and again, which carries nothing.
pub(crate) async fn idle(address: &str, one: Vec<u8>, pace: Pace) -> io::Result<Went> {
    let (mut client, mut reader) = RawClient::connect(address, &[]).await?;
    Ok(paced(&mut client, &mut reader, pace, |_| one.clone()).await)
}

/// A stream of responses whose window grows by an octet at a time.
pub(crate) async fn dribble(address: &str) -> io::Result<Went> {
    let settings = [(setting::INITIAL_WINDOW_SIZE, 0)];
    let (mut client, mut reader) = RawClient::connect(address, &settings).await?;
    let (stream, call) = client.call(STREAM, &MANY);
    client.write(&call).await?;
    let one = frame(kind::WINDOW_UPDATE, 0, stream, &1u32.to_be_bytes());
    Ok(paced(&mut client, &mut reader, Pace::IDLE, |_| one.clone()).await)
}

/// A million messages of 1 KiB: fields 1 and 2 of `StreamRequest`.
pub(crate) const MANY: [u8; 7] = [8, 0xc0, 0x84, 0x3d, 16, 0x80, 8];

/// Calls with fields that have neither a name nor a value.
pub(crate) async fn nameless(address: &str) -> io::Result<Went> {
    let (mut client, mut reader) = RawClient::connect(address, &[]).await?;
    Ok(repeat(&mut client, &mut reader, 10_000, |client| {
        let mut block = client.block(ECHO, &[]);
        block.extend([0; 3].repeat(50));
        let stream = client.stream();
        frame(kind::HEADERS, flag::END_HEADERS, stream, &block)
    })
    .await)
}

/// A PING every now and then, one after the answers to the last, as those that measure a round trip.
pub(crate) async fn pings(address: &str) -> io::Result<Went> {
    let (mut client, mut reader) = RawClient::connect(address, &[]).await?;
    let mut round = 0;
    Ok(converse(&mut client, &mut reader, 4_000, move |client| {
        let mut frames = client.call(ECHO, &[]).1;
        round += 1;
        if round % IN_FLIGHT == 0 {
            frames.extend(frame(kind::PING, 0, 0, &[1; 8]));
        }
        (frames, true)
    })
    .await)
}

/// All windows that a SETTINGS frame has room for, which are those of 200 streams.
pub(crate) async fn many_windows(address: &str) -> io::Result<Went> {
    let (mut client, mut reader) = RawClient::connect(address, &[]).await?;
    for _ in 0..200 {
        let (_, call) = client.call(HANG, &[]);
        client.write(&call).await?;
    }
    let identifier = setting::INITIAL_WINDOW_SIZE.to_be_bytes();
    let window = |number: u32| [&identifier[..], &number.to_be_bytes()].concat();
    let windows: Vec<u8> = (0..10_922).flat_map(|number| window(number % 2)).collect();
    let one = frame(kind::SETTINGS, 0, 0, &windows);
    Ok(paced(&mut client, &mut reader, Pace::CONTINUATIONS, |_| {
        one.clone()
    })
    .await)
}

/// SETTINGS with all that there are, beside calls.
pub(crate) async fn settings(address: &str) -> io::Result<Went> {
    let (mut client, mut reader) = RawClient::connect(address, &[]).await?;
    let all = [
        (1, 4096u32),
        (3, 100),
        (4, 1 << 20),
        (5, 1 << 14),
        (6, 1 << 14),
    ];
    let entry = |(identifier, value): (u16, u32)| {
        [&identifier.to_be_bytes()[..], &value.to_be_bytes()].concat()
    };
    let entries: Vec<u8> = all.into_iter().flat_map(entry).collect();
    Ok(converse(&mut client, &mut reader, 1_000, |client| {
        let mut frames = frame(kind::SETTINGS, 0, 0, &entries);
        frames.extend(client.call(ECHO, &[]).1);
        (frames, true)
    })
    .await)
}

/// Calls that are all given up, 1,000 a second, each 1 to 100 ms after it was made; with that as their
/// deadline, or without one.
pub(crate) async fn give_up(address: &str, calls: u32, tells: bool) -> io::Result<Went> {
    const PACE: Duration = Duration::from_millis(1);
    let (mut client, mut reader) = RawClient::connect(address, &PLENTY).await?;
    let start = Instant::now();
    let (mut acts, mut heard) = (0, Heard::default());
    let mut open: BTreeMap<(Duration, u32), ()> = BTreeMap::new();
    let over = {
        let listening = listen(&mut reader, &mut heard);
        tokio::pin!(listening);
        let mut over = false;
        while !over && (acts < calls || !open.is_empty()) {
            let wait = tokio::time::timeout(PACE, &mut listening);
            over = wait.await.is_ok();
            let now = start.elapsed();
            let mut octets = Vec::new();
            // What is late is made up for.
            while acts < calls && PACE * acts <= now {
                let age = 1 + acts * 37 % 100;
                let timeout = format!("{age}m");
                let more = [("grpc-timeout", &*timeout)];
                let block = client.block(HANG, if tells { &more } else { &[] });
                let stream = client.stream();
                octets.extend(frame(kind::HEADERS, flag::END_HEADERS, stream, &block));
                let body = frame(kind::DATA, flag::END_STREAM, stream, &message(&[]));
                octets.extend(body);
                open.insert((now + PACE * age, stream), ());
                acts += 1;
            }
            while let Some(((due, stream), ())) = open.first_key_value()
                && *due <= now
            {
                octets.extend(reset(*stream, CANCEL));
                open.pop_first();
            }
            over |= client.write(&octets).await.is_err();
        }
        over
    };
    Ok(Went {
        acts,
        seen: acts,
        ended: heard.ended(over),
        took: start.elapsed(),
    })
}

pub(crate) async fn empty_data(address: &str) -> io::Result<Went> {
    let (mut client, mut reader) = RawClient::connect(address, &[]).await?;
    let (stream, head) = client.head(CHAT, false);
    client.write(&head).await?;
    Ok(paced(&mut client, &mut reader, Pace::EMPTY_DATA, |_| {
        frame(kind::DATA, 0, stream, &[])
    })
    .await)
}

/// Messages octet by octet.
pub(crate) async fn small_data(address: &str) -> io::Result<Went> {
    let (mut client, mut reader) = RawClient::connect(address, &PLENTY).await?;
    let (stream, head) = client.head(CHAT, false);
    client.write(&head).await?;
    let body = message(&[]);
    let mut octets = body.into_iter().cycle();
    Ok(repeat(&mut client, &mut reader, 20_000, |_| {
        let octet: Vec<u8> = octets.by_ref().take(1).collect();
        frame(kind::DATA, 0, stream, &octet)
    })
    .await)
}
