//! A server that is gone without a word: its calls end, and the next ones go elsewhere.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use rpc_core::client::Address;
use rpc_core::{BoxFuture, Channel, Code, Connector, Io, Keepalive, Request, Status};
use rpc_http2::frame::{PREFACE, flag, kind, setting};
use rpc_testkit::proto::{Message, StreamRequest, TestClient};
use rpc_testkit::raw::frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::Instant;

/// Connections to servers that greet, and then do nothing but what a test has them do.
#[derive(Clone)]
struct Servers {
    /// How much a connection holds in each direction.
    pipe: usize,
    settings: Vec<u8>,
    connected: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    serve: fn(DuplexStream) -> BoxFuture<'static, ()>,
}

impl Servers {
    fn new(serve: fn(DuplexStream) -> BoxFuture<'static, ()>) -> Self {
        Self {
            pipe: 1 << 20,
            settings: Vec::new(),
            connected: Arc::default(),
            ended: Arc::default(),
            serve,
        }
    }
}

impl Connector for Servers {
    fn connect<'a>(&'a self, _address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        let (ours, mut theirs) = tokio::io::duplex(self.pipe);
        let greeting = frame(kind::SETTINGS, 0, 0, &self.settings);
        let (serve, ended) = (self.serve, Arc::clone(&self.ended));
        self.connected.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            theirs.write_all(&greeting).await.unwrap();
            serve(theirs).await;
            ended.fetch_add(1, Ordering::Relaxed);
        });
        Box::pin(std::future::ready(Ok(Box::new(ours) as Box<dyn Io>)))
    }
}

/// Keeps the connection open and reads nothing.
fn stopped(stream: DuplexStream) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
}

/// Takes everything and says nothing, as behind a network that is cut one way.
fn silent(mut stream: DuplexStream) -> BoxFuture<'static, ()> {
    Box::pin(async move { while stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {} })
}

async fn client(servers: &Servers) -> TestClient {
    let builder = Channel::builder().connector(servers.clone());
    TestClient::new(builder.connect("http://10.1.2.3:4567").await.unwrap())
}

#[track_caller]
fn is_silence(status: &Status, start: Instant) {
    let text = status.to_string();
    assert_eq!(status.code(), Code::Unavailable, "{text}");
    let why = "keepalive: no answer to a PING within 20 s";
    assert!(
        text.contains(why) && text.contains("10.1.2.3:4567"),
        "{text}"
    );
    let late = start
        .elapsed()
        .checked_sub(Duration::from_secs(30))
        .unwrap();
    assert!(late < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn calls_to_a_server_that_is_gone_end_after_half_a_minute_of_silence() {
    for serve in [stopped as fn(DuplexStream) -> _, silent] {
        let servers = Servers::new(serve);
        let test = client(&servers).await;
        let start = Instant::now();
        let unary = async {
            let request = Request::new(Message::default()).without_retry();
            test.echo(request).await.unwrap_err()
        };
        let server_streaming = async {
            let request = Request::new(StreamRequest::default()).without_retry();
            let mut stream = test.server_stream(request);
            stream.next().await.unwrap().unwrap_err()
        };
        let bidirectional = async {
            let (requests, mut responses) = test.chat(Request::new(()));
            let error = responses.next().await.unwrap().unwrap_err();
            drop(requests);
            error
        };
        let (unary, server_streaming, bidirectional) =
            tokio::join!(unary, server_streaming, bidirectional);
        for status in [unary, server_streaming, bidirectional] {
            is_silence(&status, start);
        }
    }
}

/// What was to be sent to it is stuck, PING and all.
#[tokio::test(start_paused = true)]
async fn calls_to_a_server_that_takes_nothing_end_as_well() {
    let servers = Servers {
        pipe: 200,
        ..Servers::new(stopped)
    };
    let test = client(&servers).await;
    let start = Instant::now();
    let body = vec![7; 10_000];
    let message = Message {
        body,
        ..Message::default()
    };
    let request = Request::new(message).without_retry();
    is_silence(&test.echo(request).await.unwrap_err(), start);
    // The next call has a connection of its own.
    let request = Request::new(Message::default()).with_timeout(Duration::from_secs(1));
    let status = test.echo(request.without_retry()).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(servers.connected.load(Ordering::Relaxed) >= 2);
}

/// Answers PINGs, and says so often that it was asked too often.
fn annoyed(mut stream: DuplexStream) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let mut input = vec![0; PREFACE.len()];
        stream.read_exact(&mut input).await.unwrap();
        let mut header = [0; 9];
        while stream.read_exact(&mut header).await.is_ok() {
            let length = usize::from(header[1]) << 8 | usize::from(header[2]);
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload).await.unwrap();
            if header[3] == kind::PING && header[4] & flag::ACK == 0 {
                let code = 11u32.to_be_bytes();
                let goaway = [&[0; 4][..], &code, b"too_many_pings"].concat();
                let frame = frame(kind::GOAWAY, 0, 0, &goaway);
                if stream.write_all(&frame).await.is_err() {
                    return;
                }
            }
        }
    })
}

/// A channel that was set to ask more often than the server allows.
#[tokio::test(start_paused = true)]
async fn a_channel_that_has_asked_too_often_waits_twice_as_long() {
    let servers = Servers::new(annoyed);
    let keepalive = Keepalive::every(Duration::from_secs(10)).without_calls();
    let builder = Channel::builder()
        .connector(servers.clone())
        .keepalive(keepalive);
    let channel = builder.connect("http://10.1.2.3:4567").await.unwrap();
    let mut times = Vec::new();
    for _ in 0..4 {
        let connected = servers.connected.load(Ordering::Relaxed);
        let start = Instant::now();
        while servers.connected.load(Ordering::Relaxed) == connected {
            tokio::time::sleep(Duration::from_millis(100)).await;
            // Whatever policy there is about reconnecting, this asks for it.
            let _ = tokio::time::timeout(Duration::from_millis(10), channel.ready()).await;
        }
        times.push(start.elapsed().as_secs().div_ceil(10) * 10);
    }
    assert_eq!(times, [10, 20, 40, 80], "{times:?}");
}

/// A server of this framework says how often it may be asked, a client how often it asks.
#[tokio::test(start_paused = true)]
async fn a_server_that_allows_it_is_missed_without_a_call() {
    let settings = [
        &setting::PING_INTERVAL.to_be_bytes()[..],
        &5_000u32.to_be_bytes(),
    ];
    let servers = Servers {
        settings: settings.concat(),
        ..Servers::new(silent)
    };
    let test = client(&servers).await;
    tokio::time::sleep(Duration::from_secs(31)).await;
    let request = Request::new(Message::default()).with_timeout(Duration::from_secs(1));
    let status = test.echo(request.without_retry()).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(servers.connected.load(Ordering::Relaxed) >= 2);
}

/// A channel without calls has no connections, and the next call has one.
#[tokio::test(start_paused = true)]
async fn connections_close_when_there_are_no_calls_and_come_back_with_the_next() {
    let servers = Servers::new(silent);
    let builder = Channel::builder()
        .connector(servers.clone())
        .keepalive(None)
        .idle_timeout(Duration::from_secs(100));
    let channel = builder.connect("http://10.1.2.3:4567").await.unwrap();
    let test = TestClient::new(channel.clone());
    let counts = || {
        let count = |of: &AtomicUsize| of.load(Ordering::Relaxed);
        (count(&servers.connected), count(&servers.ended))
    };
    let call = async |seconds| {
        let request = Request::new(Message::default()).without_retry();
        let request = request.with_timeout(Duration::from_secs(seconds));
        test.echo(request).await.unwrap_err().code()
    };
    for connections in 1..4 {
        // A call that goes on for long keeps its connection, and so do calls every now and then.
        assert_eq!(call(1000).await, Code::DeadlineExceeded);
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(70)).await;
            assert_eq!(call(1).await, Code::DeadlineExceeded);
        }
        assert_eq!(counts(), (connections, connections - 1));
        tokio::time::sleep(Duration::from_secs(151)).await;
        assert_eq!(counts(), (connections, connections));
        // Nobody connects without a call.
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(counts(), (connections, connections));
        channel.ready().await.unwrap();
    }
}
