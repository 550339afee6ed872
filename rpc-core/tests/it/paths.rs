//! Paths and authorities that are not what they look like (S16): none of them reaches a handler, and
//! an interceptor is told what the router has found.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rpc_core::server::{ServerCall, ServerInterceptor, ServerNext, ServerReply};
use rpc_core::{Server, Status};
use rpc_http2::Fields;
use rpc_http2::frame::{flag, kind};
use rpc_http2::hpack::{Encoder, Template};
use rpc_testkit::proto::TestServer;
use rpc_testkit::raw::{RawClient, RawReader, frame, message};
use rpc_testkit::{TestService, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What interceptors were told: path, service and method.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<[String; 3]>>>);

impl ServerInterceptor for Told {
    async fn intercept(
        &self,
        call: ServerCall,
        next: ServerNext<'_>,
    ) -> Result<ServerReply, Status> {
        let names = [call.path(), call.service(), call.method()].map(ToOwned::to_owned);
        self.0.lock().unwrap().push(names);
        next.run(call).await
    }
}

const ECHO: &str = "/testkit.v1.Test/Echo";

/// Variations on a path that is there.
const HOSTILE: [&str; 62] = [
    "",
    "/",
    "//",
    "*",
    ".",
    "..",
    "/.",
    "/..",
    "testkit.v1.Test/Echo",
    "//testkit.v1.Test/Echo",
    "/testkit.v1.Test//Echo",
    "/testkit.v1.Test/Echo/",
    "/testkit.v1.Test/Echo//",
    "/testkit.v1.Test/",
    "/testkit.v1.Test",
    "/Echo",
    "/testkit.v1.Test/echo",
    "/testkit.v1.Test/ECHO",
    "/TESTKIT.V1.TEST/ECHO",
    "/testkit.v1.test/Echo",
    "/Testkit.v1.Test/Echo",
    "/testkit.v1.Test%2FEcho",
    "/testkit.v1.Test%2fEcho",
    "%2Ftestkit.v1.Test/Echo",
    "/%74estkit.v1.Test/Echo",
    "/testkit%2Ev1.Test/Echo",
    "/testkit.v1.Test/Ech%6F",
    "/testkit.v1.Test/Echo%00",
    "/testkit.v1.Test/Echo%20",
    "/testkit.v1.Test/./Echo",
    "/testkit.v1.Test/../testkit.v1.Test/Echo",
    "/./testkit.v1.Test/Echo",
    "/../testkit.v1.Test/Echo",
    "/x/../testkit.v1.Test/Echo",
    "/x/testkit.v1.Test/Echo",
    "/testkit.v1.Test/Echo/x",
    "/testkit.v1.Test/x/Echo",
    "/testkit.v1.Test/Echo?",
    "/testkit.v1.Test/Echo?x=1",
    "/testkit.v1.Test/Echo#x",
    "/testkit.v1.Test/Echo;x",
    "/testkit.v1.Test;x/Echo",
    "/testkit.v1.Test/Echo.",
    "/testkit.v1.Test./Echo",
    "/.testkit.v1.Test/Echo",
    "/testkit..v1.Test/Echo",
    "/testkit/v1/Test/Echo",
    "\\testkit.v1.Test\\Echo",
    "/testkit.v1.Test\\Echo",
    "http://localhost/testkit.v1.Test/Echo",
    "http:/testkit.v1.Test/Echo",
    "//localhost/testkit.v1.Test/Echo",
    "localhost:80",
    "/testkit.v1.Test/Echo\u{7f}",
    "/testkit.v1.Test/Ech\u{f6}",
    "/testkit.v1.Test/Ech\u{43e}",
    "/testkit.v1.Test/Echo\u{200b}",
    "/testkit.v1.Test/Echo Echo",
    "/testkit.v1.Test/Echo\tx",
    "/testkit.v1.Test/Echo\u{1}",
    "/testkit.v1.Test/EchoIdempotent/../Echo",
    "/grpc.health.v1.Health/../testkit.v1.Test/Echo",
];

/// What breaks the rules of fields, so that it ends the stream; the wire can carry it all the same.
const MALFORMED: [&str; 6] = [
    "/testkit.v1.Test/Echo\0",
    "\0/testkit.v1.Test/Echo",
    "/testkit.v1.Test/Echo\r\nx: 1",
    "/testkit.v1.Test/Echo\n",
    " /testkit.v1.Test/Echo",
    "/testkit.v1.Test/Echo ",
];

async fn serve() -> (Told, String, rpc_testkit::Running) {
    let told = Told::default();
    let server = Server::builder()
        .add_service(TestServer::new(TestService::default()))
        .interceptor(told.clone())
        .bind("127.0.0.1:0")
        .await
        .unwrap();
    let address = server.local_addr().to_string();
    (told, address, run(server))
}

/// Waits until a stream is over, with an answer or with a reset.
async fn over(reader: &mut RawReader, stream: u32) {
    let over = async {
        loop {
            let frame = reader.next().await.expect("the connection goes on");
            let header = frame.header;
            let last = header.kind == kind::RST_STREAM || header.has(flag::END_STREAM);
            if header.stream == stream && last && header.kind != kind::SETTINGS {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), over)
        .await
        .unwrap();
}

/// A whole call with this path and authority.
async fn call(client: &mut RawClient, reader: &mut RawReader, path: &str, authority: &str) {
    let fields: Fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", authority),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]
    .into_iter()
    .collect();
    // A fresh encoder names nothing that the others have put into the table.
    let (mut block, mut encoder) = (Vec::new(), Encoder::default());
    encoder.set_max_table_size(0);
    encoder.begin(&mut block);
    encoder.template(&mut Template::new(fields), &mut block);
    let stream = client.stream();
    let frames = [
        frame(kind::HEADERS, flag::END_HEADERS, stream, &block),
        frame(kind::DATA, flag::END_STREAM, stream, &message(&[])),
    ];
    client.write(&frames.concat()).await.unwrap();
    over(reader, stream).await;
}

#[tokio::test]
async fn no_hostile_path_reaches_a_handler() {
    let (told, address, _server) = serve().await;
    let (mut client, mut reader) = RawClient::connect(&address, &[]).await.unwrap();
    let long = format!("/{}/Echo", "x".repeat(40_000));
    for path in HOSTILE.into_iter().chain(MALFORMED).chain([&*long]) {
        call(&mut client, &mut reader, path, "localhost").await;
        let reached = told.0.lock().unwrap().clone();
        assert!(reached.is_empty(), "{path:?} came through as {reached:?}");
    }
    call(&mut client, &mut reader, ECHO, "localhost").await;
    let reached = told.0.lock().unwrap().clone();
    assert_eq!(reached, [[ECHO, "testkit.v1.Test", "Echo"]]);
}

/// Whole calls over HTTP/1.1, one after the other; what the server says to the last of them.
async fn call_http1(address: &str, target: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {target} HTTP/1.1\r\nhost: localhost\r\nte: trailers\r\ncontent-type: application/grpc\r\nconnection: close\r\ncontent-length: 5\r\n\r\n"
    );
    let request = [head.as_bytes(), &message(&[])].concat();
    // A head that is too long is answered before it is taken whole.
    let _ = stream.write_all(&request).await;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(10), read)
        .await
        .unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Targets that HTTP/1.1 gives another meaning (RFC 9112 section 3.2.2): the absolute form of the path
/// itself has to be taken, and a fragment is no part of a target and dropped by whoever parses it.
const SAME_TARGET: [&str; 2] = [
    "http://localhost/testkit.v1.Test/Echo",
    "/testkit.v1.Test/Echo#x",
];

#[tokio::test]
async fn no_hostile_path_reaches_a_handler_over_http_1() {
    let (told, address, _server) = serve().await;
    let long = format!("/{}/Echo", "x".repeat(40_000));
    for path in HOSTILE.into_iter().chain(MALFORMED).chain([&*long]) {
        if SAME_TARGET.contains(&path) {
            continue;
        }
        let answer = call_http1(&address, path).await;
        let reached = told.0.lock().unwrap().clone();
        assert!(reached.is_empty(), "{path:?} came through as {reached:?}");
        let refused = answer.starts_with("HTTP/1.1 4")
            || (answer.starts_with("HTTP/1.1 200 ") && answer.contains("grpc-status: 12"))
            // What does not begin like a request is closed, and a reset may take the answer away.
            || answer.is_empty();
        assert!(refused, "{path:?} was answered with {answer}");
    }
    for target in [ECHO].into_iter().chain(SAME_TARGET) {
        let answer = call_http1(&address, target).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(!answer.contains("grpc-status: 12"), "{answer}");
        let reached = std::mem::take(&mut *told.0.lock().unwrap());
        assert_eq!(reached, [[ECHO, "testkit.v1.Test", "Echo"]]);
    }
}

#[tokio::test]
async fn no_generated_path_reaches_a_handler() {
    const PARTS: [&str; 14] = [
        "/",
        "testkit.v1.Test",
        "Echo",
        "testkit",
        ".",
        "v1",
        "Test",
        "%2F",
        "..",
        "",
        "?",
        "E",
        "cho",
        "\\",
    ];
    let (told, address, _server) = serve().await;
    let (mut client, mut reader) = RawClient::connect(&address, &[]).await.unwrap();
    let mut random = fastrand::Rng::with_seed(16);
    let mut good = 0;
    for _ in 0..20_000 {
        let count = random.usize(1..7);
        let path: String = (0..count)
            .map(|_| PARTS[random.usize(..PARTS.len())])
            .collect();
        if path.is_empty() {
            // Malformed: so many of them end the connection.
            continue;
        }
        good += usize::from(path == ECHO);
        call(&mut client, &mut reader, &path, "localhost").await;
    }
    let reached = told.0.lock().unwrap().clone();
    assert!(reached.iter().all(|[path, ..]| path == ECHO));
    assert_eq!(reached.len(), good);
}

#[tokio::test]
async fn an_authority_is_no_way_to_another_service() {
    let (told, address, _server) = serve().await;
    let (mut client, mut reader) = RawClient::connect(&address, &[]).await.unwrap();
    let long = "a".repeat(10_000);
    for authority in [
        "",
        "/",
        "localhost/testkit.v1.Test/Echo",
        "a@b",
        "[::1",
        "\u{f6}",
        &long,
    ] {
        call(&mut client, &mut reader, "/other.Service/Echo", authority).await;
        assert!(told.0.lock().unwrap().is_empty(), "{authority:?}");
    }
}
