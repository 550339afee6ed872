//! Calls that stand still, on paused time and in-memory pipes.

use std::collections::HashMap;
use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;
use rpc_http2::frame::{FrameHeader, PREFACE, flag, kind};
use rpc_http2::hpack::{Block, Encoder, Template};
use rpc_http2::{Config, Connection as Machine, Event, Fields, Output, Payload, Role};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::Instant;

use super::*;
use crate::request::PeerAddr;
use crate::server::connection::Served;
use crate::server::load::Load;
use crate::server::{Options, Router, SendStream, Service, ShutdownHandle};
use crate::{Codec, Method, RecvStream, Request, Response};

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let header = FrameHeader {
        length: payload.len() as u32,
        kind,
        flags,
        stream,
    };
    [&header.encode()[..], payload].concat()
}

/// A client with two calls whose messages of 400,000 octets have begun with so many.
async fn begin(budget: usize, count: usize) -> (DuplexStream, std::sync::Arc<Load>) {
    let method = Method::unary("/a.B/C", Codec::raw(), Codec::raw());
    let echo = |_, request: Request<Bytes>| async { Ok(Response::new(request.into_inner())) };
    let router = Router::new().add_service(Service::new("a.B").unary(
        &method,
        &std::sync::Arc::new(()),
        echo,
    ));
    let options = Options {
        memory_budget: Some(budget),
        ..Options::default()
    };
    let load = Load::new(&options);
    let served = Served::with_load(router, options, std::sync::Arc::clone(&load));
    let (ours, mut client) = tokio::io::duplex(1 << 20);
    let end = ShutdownHandle::new();
    tokio::spawn(served.serve(Box::new(ours), PeerAddr::InProcess, end));
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/a.B/C"),
        (":authority", "a"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ];
    let (mut template, mut encoder) = (
        Template::new(fields.into_iter().collect()),
        Encoder::default(),
    );
    let mut octets = [&PREFACE[..], &frame(kind::SETTINGS, 0, 0, &[])].concat();
    for stream in [1, 3] {
        let mut block = Vec::new();
        encoder.begin(&mut block);
        encoder.template(&mut template, &mut block);
        octets.extend(frame(kind::HEADERS, flag::END_HEADERS, stream, &block));
        let prefix = [&[0][..], &400_000_u32.to_be_bytes()].concat();
        octets.extend(frame(kind::DATA, 0, stream, &prefix));
    }
    client.write_all(&octets).await.unwrap();
    for stream in [1, 3] {
        send(&mut client, stream, count).await;
    }
    (client, load)
}

async fn send(client: &mut DuplexStream, stream: u32, count: usize) {
    for piece in vec![1; count].chunks(16 * 1024) {
        let piece = frame(kind::DATA, 0, stream, piece);
        client.write_all(&piece).await.unwrap();
    }
}

/// The streams that have been answered.
async fn answered(client: &mut DuplexStream) -> Vec<u32> {
    let mut input = vec![0; 1 << 20];
    let mut length = 0;
    let wait = Duration::from_millis(1);
    while let Ok(read) = tokio::time::timeout(wait, client.read(&mut input[length..])).await {
        length += read.unwrap();
    }
    let (mut rest, mut answered) = (&input[..length], Vec::new());
    while let Some((header, behind)) = rest.split_first_chunk() {
        let header = FrameHeader::parse(header);
        if header.kind == kind::HEADERS {
            answered.push(header.stream);
        }
        rest = &behind[header.length as usize..];
    }
    answered
}

#[tokio::test(start_paused = true)]
async fn a_message_that_does_not_go_on_gives_way_once_memory_is_short() {
    let (mut client, load) = begin(300_000, 80_000).await;
    let start = Instant::now();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        send(&mut client, 3, 6000).await;
    }
    assert_eq!(answered(&mut client).await, [1]);
    assert_eq!(load.held(), 80_005 + 10 * 6000);
    assert!(start.elapsed() < Duration::from_secs(51));
}

#[tokio::test(start_paused = true)]
async fn a_message_may_take_its_time_while_there_is_memory() {
    let (mut client, load) = begin(400_000, 80_000).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(answered(&mut client).await, [0; 0]);
    assert_eq!(load.held(), 2 * 80_005);
}

/// A client that gives back of its windows what a test says.
struct Client {
    pipe: DuplexStream,
    machine: Machine,
    input: Vec<u8>,
    streams: Vec<StreamKey>,
    /// What each stream has received, and what of it was not given back.
    received: HashMap<StreamKey, (usize, usize)>,
    /// How streams have ended: code and message.
    ended: HashMap<StreamKey, (String, String)>,
}

/// The handlers that it calls.
fn router() -> Router {
    let all = Method::unary("/a.B/Echo", Codec::raw(), Codec::raw());
    let echo = |_, request: Request<Bytes>| async { Ok(Response::new(request.into_inner())) };
    let flow = Method::server_streaming("/a.B/Flow", Codec::raw(), Codec::raw());
    let deaf = Method::bidi_streaming("/a.B/Deaf", Codec::raw(), Codec::raw());
    let drops = Method::bidi_streaming("/a.B/Drops", Codec::raw(), Codec::raw());
    let state = Arc::new(());
    let service = Service::new("a.B")
        .unary(&all, &state, echo)
        .server_streaming(
            &flow,
            &state,
            |_, _: Request<Bytes>, mut responses: SendStream<Bytes>| async move {
                let message = Bytes::from_static(&[7; 1024]);
                while responses.send(message.clone()).await.is_ok() {}
                responses.finish(Ok(()))
            },
        )
        .bidi_streaming(
            &deaf,
            &state,
            |_, requests: Request<RecvStream<Bytes>>, responses: SendStream<Bytes>| async move {
                std::future::pending::<()>().await;
                drop(requests);
                responses.finish(Ok(()))
            },
        )
        .bidi_streaming(
            &drops,
            &state,
            |_, requests: Request<RecvStream<Bytes>>, mut responses: SendStream<Bytes>| async move {
                drop(requests);
                for _ in 0..10 {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    if let Err(status) = responses.send(Bytes::from_static(b"more")).await {
                        return responses.finish(Err(status));
                    }
                }
                responses.finish(Ok(()))
            },
        );
    Router::new().add_service(service)
}

fn message(length: usize) -> Vec<u8> {
    [&[0][..], &(length as u32).to_be_bytes(), &vec![7; length]].concat()
}

impl Client {
    /// A client whose windows have this size, and what the server holds.
    fn connect(budget: usize, window: u32) -> (Self, Arc<Load>) {
        let options = Options {
            memory_budget: Some(budget),
            ..Options::default()
        };
        let load = Load::new(&options);
        let served = Served::with_load(router(), options, Arc::clone(&load));
        let (ours, pipe) = tokio::io::duplex(1 << 20);
        tokio::spawn(served.serve(Box::new(ours), PeerAddr::InProcess, ShutdownHandle::new()));
        let config = Config {
            stream_window: window,
            max_stream_window: window,
            ..Config::default()
        };
        let client = Self {
            pipe,
            machine: Machine::new(Role::Client, config, Instant::now().into_std()),
            input: Vec::new(),
            streams: Vec::new(),
            received: HashMap::new(),
            ended: HashMap::new(),
        };
        (client, load)
    }

    fn open(&mut self, path: &str) -> StreamKey {
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "a"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ];
        let mut head = Template::new(fields.into_iter().collect());
        let now = Instant::now().into_std();
        let stream = self.machine.open(&mut head, &Fields::new(), now).unwrap();
        self.streams.push(stream);
        stream
    }

    fn send(&mut self, stream: StreamKey, length: usize, end: bool) {
        let payload = Payload::Shared(message(length).into());
        assert!(self.machine.send(stream, payload, end));
    }

    /// Gives back so much of what a stream has received.
    fn read(&mut self, stream: StreamKey, octets: usize) {
        let (_, unread) = self.received.entry(stream).or_default();
        let octets = octets.min(*unread);
        *unread -= octets;
        self.machine.consume(stream, octets);
    }

    fn ended(&mut self, stream: StreamKey, block: &[(String, String)]) {
        let of = |wanted: &str| {
            let found = block.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        self.ended
            .insert(stream, (of("grpc-status"), of("grpc-message")));
        self.machine.release(stream);
    }

    /// Writes and reads until nothing happens any more.
    async fn exchange(&mut self) {
        loop {
            let mut output = Output::default();
            while self.machine.has_output() {
                self.machine
                    .take_output(&mut output, Instant::now().into_std());
                while !output.is_empty() {
                    let mut slices = [IoSlice::new(&[]); 16];
                    let filled = output.slices(&mut slices);
                    let octets: Vec<u8> =
                        slices[..filled].iter().flat_map(|s| s.to_vec()).collect();
                    self.pipe.write_all(&octets).await.unwrap();
                    output.advance(octets.len());
                }
            }
            let mut read = vec![0; 64 * 1024];
            let wait = Duration::from_millis(1);
            let Ok(count) = tokio::time::timeout(wait, self.pipe.read(&mut read)).await else {
                return;
            };
            self.input.extend_from_slice(&read[..count.unwrap()]);
            self.receive();
        }
    }

    fn receive(&mut self) {
        let fields = |block: Block<'_>| -> Vec<(String, String)> {
            let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
            let fields = block.fields();
            fields
                .map(|(name, value)| (text(name), text(value)))
                .collect()
        };
        let input = std::mem::take(&mut self.input);
        let mut rest = &input[..];
        let now = Instant::now().into_std();
        loop {
            match self.machine.receive(&mut rest, now).unwrap() {
                None => break,
                Some(Event::Data { stream, data, .. }) => {
                    let (received, unread) = self.received.entry(stream).or_default();
                    *received += data.len();
                    *unread += data.len();
                }
                Some(Event::Head {
                    stream,
                    block,
                    end: true,
                })
                | Some(Event::Trailers { stream, block }) => {
                    let block = fields(block);
                    self.ended(stream, &block);
                }
                Some(Event::Reset { stream, code, .. }) => {
                    panic!("{stream:?} was reset with {code}")
                }
                Some(_) => {}
            }
        }
        self.input = rest.to_vec();
    }

    /// Whether a call goes on as if nothing were beside it.
    async fn echoes(&mut self) -> bool {
        let stream = self.open("/a.B/Echo");
        self.send(stream, 1000, true);
        self.exchange().await;
        self.ended.get(&stream).is_some_and(|(code, _)| code == "0")
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn whoever_pauses_is_kept_while_there_is_memory() {
    let (mut client, load) = Client::connect(10_000_000, 4096);
    let flow = client.open("/a.B/Flow");
    client.send(flow, 1, true);
    let deaf = client.open("/a.B/Deaf");
    for _ in 0..100 {
        client.send(deaf, 1000, false);
    }
    client.exchange().await;
    // What is unsent of the one, and unread of the other.
    let held = load.held();
    assert!(held >= 400_000 + 90_000, "{held}");
    for _ in 0..10 {
        tokio::time::sleep(HOUR).await;
        client.exchange().await;
    }
    assert!(client.ended.is_empty(), "{:?}", client.ended);
    assert_eq!(client.received[&flow].0, 4096);
    client.read(flow, 4096);
    client.exchange().await;
    assert_eq!(client.received[&flow].0, 8192);
    assert!(client.echoes().await);
    // All of it is given back with the connection.
    drop(client);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(load.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn readers_that_take_nothing_give_way_once_memory_is_short_the_slowest_first() {
    const BUDGET: usize = 1_740_000;
    let (mut client, load) = Client::connect(BUDGET, 2048);
    let open = |client: &mut Client| {
        let stream = client.open("/a.B/Flow");
        client.send(stream, 1, true);
        stream
    };
    let slowest = open(&mut client);
    client.exchange().await;
    let slow = open(&mut client);
    client.exchange().await;
    // There is memory, and nobody has to go.
    tokio::time::sleep(HOUR).await;
    client.exchange().await;
    assert!(client.ended.is_empty());
    let start = Instant::now();
    let later = open(&mut client);
    client.exchange().await;
    assert!(load.held() >= BUDGET / 2, "{}", load.held());
    let mut cut = None;
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        // 1 KiB/s is slow, and progress.
        client.read(slow, 1024);
        client.read(later, 1024);
        client.exchange().await;
        if cut.is_none() && !client.ended.is_empty() {
            cut = Some(start.elapsed());
        }
    }
    let cut = cut.expect("somebody has to go");
    assert!(cut <= Duration::from_secs(60), "{cut:?}");
    assert_eq!(client.ended.len(), 1, "{:?}", client.ended);
    let (code, text) = &client.ended[&slowest];
    let begins = "this server was short of memory and this stream had not been read for ";
    assert_eq!(code, "8");
    assert!(text.starts_with(begins) && text.ends_with(" s"), "{text}");
    assert!(client.received[&slow].0 >= 600 * 1024);
    assert!(client.echoes().await);
}

#[tokio::test(start_paused = true)]
async fn answers_of_handlers_that_have_ended_give_way_too() {
    let (mut client, load) = Client::connect(700_000, 100);
    let mut streams = Vec::new();
    for _ in 0..5 {
        let stream = client.open("/a.B/Echo");
        client.send(stream, 100_000, true);
        client.exchange().await;
        streams.push(stream);
    }
    assert!(load.held() >= 499_000, "{}", load.held());
    tokio::time::sleep(Duration::from_secs(60)).await;
    client.exchange().await;
    assert!(load.held() < 350_000, "{}", load.held());
    assert_eq!(client.ended.len(), 2, "{:?}", client.ended);
    for (code, text) in client.ended.values() {
        assert_eq!(code, "8", "{text}");
    }
    // The others go on where they were.
    let left: Vec<_> = streams
        .into_iter()
        .filter(|stream| !client.ended.contains_key(stream))
        .collect();
    for _ in 0..3000 {
        for stream in &left {
            client.read(*stream, 100);
        }
        client.exchange().await;
    }
    assert_eq!(client.ended.len(), 5);
    for stream in left {
        assert_eq!(client.ended[&stream].0, "0");
    }
    assert_eq!(load.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_handlers_do_not_read_gives_way_once_memory_is_short() {
    let (mut client, load) = Client::connect(600_000, 4096);
    let mut deaf = Vec::new();
    for _ in 0..2 {
        let stream = client.open("/a.B/Deaf");
        for _ in 0..200 {
            client.send(stream, 1000, false);
        }
        client.exchange().await;
        deaf.push(stream);
        let held = load.held();
        assert!(
            held >= deaf.len() * 190_000 && held <= deaf.len() * 201_000,
            "{held}"
        );
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    assert!(client.ended.is_empty());
    tokio::time::sleep(Duration::from_secs(60)).await;
    client.exchange().await;
    assert_eq!(client.ended.len(), 1, "{:?}", client.ended);
    let (code, text) = &client.ended[&deaf[0]];
    let begins = "this server was short of memory and the handler had not read this stream for ";
    assert!(code == "8" && text.starts_with(begins), "{code}: {text}");
    assert!(load.held() <= 201_000);
}

#[tokio::test(start_paused = true)]
async fn past_the_budget_a_stream_that_nobody_reads_ends_at_once() {
    let (mut client, load) = Client::connect(300_000, 4096);
    let mut streams = Vec::new();
    for _ in 0..2 {
        let stream = client.open("/a.B/Deaf");
        for _ in 0..200 {
            client.send(stream, 1000, false);
        }
        client.exchange().await;
        streams.push(stream);
    }
    assert!(load.held() <= 300_000);
    assert_eq!(client.ended.len(), 1);
    let (code, text) = &client.ended[&streams[1]];
    assert!(
        code == "8" && text.contains("memory budget of 300000 bytes"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_drops_its_requests_goes_on_answering() {
    let (mut client, load) = Client::connect(10_000_000, 4096);
    let mut streams = Vec::new();
    for _ in 0..200 {
        let stream = client.open("/a.B/Drops");
        for _ in 0..100 {
            client.send(stream, 10_000, false);
        }
        streams.push(stream);
    }
    client.exchange().await;
    assert!(client.echoes().await);
    // What nobody wants is not kept.
    assert_eq!(load.held(), 0);
    tokio::time::sleep(Duration::from_secs(11)).await;
    client.exchange().await;
    assert!(client.echoes().await);
    for stream in streams {
        assert_eq!(client.ended[&stream].0, "0");
        assert_eq!(client.received[&stream].0, 10 * 9);
    }
}

#[tokio::test(start_paused = true)]
async fn calls_go_on_beside_200_streams_that_their_handlers_do_not_read() {
    let (mut client, load) = Client::connect(192 << 20, 4096);
    let mut streams = Vec::new();
    for _ in 0..200 {
        let stream = client.open("/a.B/Deaf");
        for _ in 0..40 {
            client.send(stream, 10_000, false);
        }
        client.exchange().await;
        streams.push(stream);
    }
    // Each takes its window, of which all that has come counts but the beginning of a message.
    let window = Config::default().stream_window as usize;
    let held = load.held();
    assert!(
        held <= 200 * window && held >= 200 * (window - 20_000),
        "{held}"
    );
    for _ in 0..100 {
        assert!(client.echoes().await);
    }
    let large = client.open("/a.B/Echo");
    client.send(large, 1 << 20, true);
    for _ in 0..600 {
        client.read(large, 4096);
        client.exchange().await;
    }
    assert_eq!(client.ended[&large].0, "0");
    assert_eq!(client.ended.len(), 101);
}
