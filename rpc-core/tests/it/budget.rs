//! What a server holds for all its calls together is bounded, and given back however they end.

use std::time::Duration;

use rpc_core::server::{
    HeldMemory, ServerBuilder, ServerCall, ServerInterceptor, ServerNext, ServerReply,
};
use rpc_core::{Channel, Request, Server, Status};
use rpc_http2::frame::{flag, kind, setting};
use rpc_testkit::proto::{Message, StreamRequest, TestClient, TestServer};
use rpc_testkit::raw::{Frame, RawClient, RawReader, frame, message, reset};
use rpc_testkit::{Running, TestService, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ECHO: &str = "/testkit.v1.Test/Echo";
const HANG: &str = "/testkit.v1.Test/Hang";
const CLIENT_STREAM: &str = "/testkit.v1.Test/ClientStream";
/// The largest message, and what is held of one that lacks its last octet.
const LARGEST: usize = 64 * 1024;
const BUDGET: usize = 2 * 1024 * 1024;

async fn serve(change: impl FnOnce(ServerBuilder) -> ServerBuilder) -> (Running, HeldMemory) {
    let builder = Server::builder()
        .add_service(TestServer::new(TestService::default()))
        .max_receive_message_size(LARGEST)
        .memory_budget(BUDGET);
    let server = change(builder).bind("127.0.0.1:0").await.unwrap();
    let held = server.held_memory();
    (run(server), held)
}

async fn client(server: &Running) -> TestClient {
    TestClient::new(Channel::connect(&server.uri).await.unwrap())
}

/// A client that takes all answers.
async fn raw(server: &Running) -> (RawClient, RawReader) {
    let address = server.uri.trim_start_matches("http://");
    let settings = [(setting::INITIAL_WINDOW_SIZE, 0x7fff_ffff)];
    let (mut client, reader) = RawClient::connect(address, &settings).await.unwrap();
    let update = frame(kind::WINDOW_UPDATE, 0, 0, &0x7fff_0000u32.to_be_bytes());
    client.write(&update).await.unwrap();
    (client, reader)
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what)
        .await
        .unwrap()
}

/// Waits until the server holds so much.
async fn until(held: &HeldMemory, wanted: impl Fn(usize) -> bool) {
    soon(async {
        while !wanted(held.bytes()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// A message of the test service with a body of so many octets, with its prefix.
fn whole(length: usize) -> Vec<u8> {
    use prost::Message as _;
    let body = Message {
        body: vec![7; length],
        ..Message::default()
    };
    message(&body.encode_to_vec())
}

/// A call whose message lacks its last octet: the stream, and the frames.
fn unfinished(client: &mut RawClient, path: &str) -> (u32, Vec<u8>) {
    let (stream, mut frames) = client.head(path, false);
    // The tag and the length of the body take four octets.
    let mut body = whole(LARGEST - 4);
    body.pop();
    for piece in body.chunks(16 * 1024) {
        frames.extend(frame(kind::DATA, 0, stream, piece));
    }
    (stream, frames)
}

/// The next frame of a stream that is one of these kinds.
async fn next_of(reader: &mut RawReader, stream: u32, kinds: &[u8]) -> Frame {
    soon(async {
        loop {
            let frame = reader.next().await.expect("the connection goes on");
            if frame.header.stream == stream && kinds.contains(&frame.header.kind) {
                return frame;
            }
        }
    })
    .await
}

async fn flood(path: &'static str) {
    const CONNECTIONS: usize = 40;
    let (server, held) = serve(|builder| builder).await;
    let bystander = client(&server).await;
    bystander.echo(Message::default()).await.unwrap();
    let mut attackers = Vec::new();
    for _ in 0..CONNECTIONS {
        let (mut client, mut reader) = raw(&server).await;
        attackers.push(tokio::spawn(async move {
            for _ in 0..32 {
                let (_, frames) = unfinished(&mut client, path);
                client.write(&frames).await.unwrap();
            }
            // Keeps the connection.
            while reader.next().await.is_some() {}
            drop(client);
        }));
    }
    let most = BUDGET + CONNECTIONS * LARGEST;
    // 80 MiB are on their way. Calls go on meanwhile and once it is full.
    until(&held, |bytes| bytes >= BUDGET - BUDGET / 10).await;
    for _ in 0..300 {
        bystander.echo(Message::default()).await.unwrap();
        assert!(held.bytes() <= most, "{} are held", held.bytes());
    }
    for attacker in attackers {
        attacker.abort();
    }
    until(&held, |bytes| bytes == 0).await;
    let body = vec![0; LARGEST / 2];
    let large = Message {
        body,
        ..Message::default()
    };
    bystander.echo(large).await.unwrap();
    until(&held, |bytes| bytes == 0).await;
}

#[tokio::test]
async fn requests_that_are_gathered_share_a_budget() {
    flood(ECHO).await;
}

#[tokio::test]
async fn parts_of_streamed_messages_share_the_budget() {
    flood(CLIENT_STREAM).await;
}

#[tokio::test]
async fn what_a_call_holds_is_given_back_however_it_ends() {
    let (server, held) = serve(|builder| builder).await;
    for path in [ECHO, CLIENT_STREAM] {
        let (mut client, mut reader) = raw(&server).await;
        // An answer.
        let (stream, frames) = unfinished(&mut client, path);
        client.write(&frames).await.unwrap();
        until(&held, |bytes| bytes == LARGEST + 4).await;
        let last = frame(kind::DATA, flag::END_STREAM, stream, &[7]);
        client.write(&last).await.unwrap();
        until(&held, |bytes| bytes == 0).await;
        // A reset.
        let (stream, frames) = unfinished(&mut client, path);
        client.write(&frames).await.unwrap();
        until(&held, |bytes| bytes == LARGEST + 4).await;
        client.write(&reset(stream, 8)).await.unwrap();
        until(&held, |bytes| bytes == 0).await;
        // An end in the middle of the message.
        let (stream, frames) = unfinished(&mut client, path);
        client.write(&frames).await.unwrap();
        until(&held, |bytes| bytes == LARGEST + 4).await;
        let end = frame(kind::DATA, flag::END_STREAM, stream, &[]);
        client.write(&end).await.unwrap();
        until(&held, |bytes| bytes == 0).await;
        // A deadline.
        let block = client.block(path, &[("grpc-timeout", "200m")]);
        let stream = client.stream();
        let head = frame(kind::HEADERS, flag::END_HEADERS, stream, &block);
        let part = frame(kind::DATA, 0, stream, &message(&[0; 1000])[..900]);
        client.write(&[head, part].concat()).await.unwrap();
        until(&held, |bytes| bytes == 900).await;
        until(&held, |bytes| bytes == 0).await;
        next_of(&mut reader, stream, &[kind::HEADERS]).await;
        // The end of the connection.
        let (_, frames) = unfinished(&mut client, path);
        client.write(&frames).await.unwrap();
        until(&held, |bytes| bytes == LARGEST + 4).await;
        drop((client, reader));
        until(&held, |bytes| bytes == 0).await;
    }
}

/// Waits until a handler of `Hang` has started.
async fn started(server: &Running) {
    let test = client(server).await;
    soon(async {
        loop {
            let counts = test.dropped(Message::default()).await.unwrap();
            if counts.get_ref().started > 0 {
                return;
            }
        }
    })
    .await;
}

/// An interceptor that does nothing, and by which calls take another way.
struct Through;

impl ServerInterceptor for Through {
    async fn intercept(
        &self,
        call: ServerCall,
        next: ServerNext<'_>,
    ) -> Result<ServerReply, Status> {
        next.run(call).await
    }
}

#[tokio::test]
async fn a_request_is_held_while_its_handler_runs() {
    let same = |builder| builder;
    let behind = |builder: ServerBuilder| builder.interceptor(Through);
    for (server, held) in [serve(same).await, serve(behind).await] {
        let (mut client, _reader) = raw(&server).await;
        let (stream, frames) = unfinished(&mut client, HANG);
        client.write(&frames).await.unwrap();
        until(&held, |bytes| bytes == LARGEST + 4).await;
        let last = frame(kind::DATA, flag::END_STREAM, stream, &[7]);
        client.write(&last).await.unwrap();
        started(&server).await;
        assert!(held.bytes() >= LARGEST, "{}", held.bytes());
        client.write(&reset(stream, 8)).await.unwrap();
        until(&held, |bytes| bytes == 0).await;
    }
}

#[tokio::test]
async fn a_request_over_http_1_is_held_while_its_handler_runs() {
    let (server, held) = serve(|builder| builder).await;
    let address = server.uri.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let body = whole(LARGEST - 4);
    let head = format!(
        "POST {HANG} HTTP/1.1\r\nhost: a\r\nte: trailers\r\ncontent-type: application/grpc\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body).await.unwrap();
    started(&server).await;
    assert!(held.bytes() >= LARGEST, "{}", held.bytes());
    drop(stream);
    until(&held, |bytes| bytes == 0).await;
}

#[tokio::test]
async fn past_the_budget_a_connection_that_holds_some_gets_no_new_calls() {
    let (server, held) = serve(|builder| builder.memory_budget(LARGEST + 4 + 1000)).await;
    let (mut client, mut reader) = raw(&server).await;
    let (first, frames) = unfinished(&mut client, ECHO);
    client.write(&frames).await.unwrap();
    until(&held, |bytes| bytes == LARGEST + 4).await;
    let (stream, frames) = client.call(ECHO, &[]);
    client.write(&frames).await.unwrap();
    let answer = next_of(&mut reader, stream, &[kind::HEADERS]).await;
    assert!(answer.header.has(flag::END_STREAM));
    // Another connection is served, as long as its calls take nothing of what is left.
    let test = self::client(&server).await;
    test.echo(Message::default()).await.unwrap();
    let (mut other, mut others) = raw(&server).await;
    let (stream, frames) = unfinished(&mut other, ECHO);
    other.write(&frames).await.unwrap();
    let answer = next_of(&mut others, stream, &[kind::HEADERS]).await;
    assert!(answer.header.has(flag::END_STREAM));
    // The one that was first ends well.
    let last = frame(kind::DATA, flag::END_STREAM, first, &[7]);
    client.write(&last).await.unwrap();
    let answer = next_of(&mut reader, first, &[kind::HEADERS]).await;
    assert!(!answer.header.has(flag::END_STREAM));
    until(&held, |bytes| bytes == 0).await;
    // What was refused did nothing to the connection.
    let (stream, frames) = other.call(ECHO, &[]);
    other.write(&frames).await.unwrap();
    let answer = next_of(&mut others, stream, &[kind::HEADERS]).await;
    assert!(!answer.header.has(flag::END_STREAM));
}

#[tokio::test]
async fn large_responses_that_nobody_takes_share_the_budget() {
    const LARGE: usize = 1024 * 1024;
    let change = |builder: ServerBuilder| {
        builder
            .max_receive_message_size(2 * LARGE)
            .memory_budget(4 * LARGE)
    };
    let (server, held) = serve(change).await;
    let address = server.uri.trim_start_matches("http://");
    let (mut client, mut reader) = RawClient::connect(address, &[]).await.unwrap();
    let mut last = 0;
    for _ in 0..16 {
        let mut body = whole(LARGE);
        let (stream, mut frames) = client.head(ECHO, false);
        let end = body.pop();
        for piece in body.chunks(16 * 1024) {
            frames.extend(frame(kind::DATA, 0, stream, piece));
        }
        frames.extend(frame(
            kind::DATA,
            flag::END_STREAM,
            stream,
            &end.map_or(vec![], |end| vec![end]),
        ));
        client.write(&frames).await.unwrap();
        // It is answered, or told that it cannot be.
        next_of(&mut reader, stream, &[kind::HEADERS]).await;
        last = held.bytes();
        assert!(last <= 4 * LARGE, "{last}");
    }
    // A request is held together with the response to it.
    assert!(last >= 2 * LARGE, "{last}");
    let test = self::client(&server).await;
    test.echo(Message::default()).await.unwrap();
    drop((client, reader));
    until(&held, |bytes| bytes == 0).await;
    // A client that reads holds nothing back.
    let request = Message {
        body: vec![7; LARGE],
        ..Message::default()
    };
    for _ in 0..8 {
        test.echo(request.clone()).await.unwrap();
    }
    until(&held, |bytes| bytes == 0).await;
}

#[tokio::test]
async fn http_1_has_a_share_of_the_budget() {
    let (server, held) = serve(|builder| builder.memory_budget(40_000)).await;
    let address = server.uri.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {ECHO} HTTP/1.1\r\nhost: a\r\nte: trailers\r\ncontent-type: application/grpc\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        LARGEST + 5
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let body = message(&[0; LARGEST]);
    stream.write_all(&body[..30_000]).await.unwrap();
    until(&held, |bytes| bytes == 30_000).await;
    stream.write_all(&body[30_000..60_000]).await.unwrap();
    let mut answer = Vec::new();
    let _ = soon(stream.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("grpc-status: 8"), "{answer}");
    until(&held, |bytes| bytes == 0).await;
}

#[tokio::test]
async fn honest_streams_hold_nothing_once_they_are_over() {
    let (server, held) = serve(|builder| builder).await;
    let test = client(&server).await;
    let request = StreamRequest {
        count: 100,
        size: 50_000,
        ..StreamRequest::default()
    };
    let mut responses = test.server_stream(Request::new(request));
    while responses.recv().await.unwrap().is_some() {}
    let (mut requests, mut responses) = test.chat(());
    let message = Message {
        body: vec![1; LARGEST - 100],
        ..Message::default()
    };
    for _ in 0..100 {
        requests.send(message.clone()).await.unwrap();
        assert!(responses.recv().await.unwrap().is_some());
    }
    requests.finish().await.unwrap();
    assert!(responses.recv().await.unwrap().is_none());
    until(&held, |bytes| bytes == 0).await;
}

#[tokio::test]
async fn a_large_response_over_http_1_is_held_until_it_is_written() {
    const LARGE: usize = 32 * 1024 * 1024;
    let change = |builder: ServerBuilder| {
        builder
            .max_receive_message_size(LARGE)
            .memory_budget(2 * LARGE)
    };
    let (server, held) = serve(change).await;
    let address = server.uri.trim_start_matches("http://");
    let body = whole(LARGE - 100);
    let head = format!(
        "POST {ECHO} HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: close\r\ncontent-type: application/grpc\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    for reads in [true, false] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap();
        // The sockets take less than that.
        let mut answer = vec![0; 1000];
        stream.read_exact(&mut answer).await.unwrap();
        assert!(held.bytes() >= LARGE - 100, "{}", held.bytes());
        if reads {
            soon(stream.read_to_end(&mut answer)).await.unwrap();
            assert!(answer.len() > LARGE - 100);
        }
        drop(stream);
        until(&held, |bytes| bytes == 0).await;
    }
}
