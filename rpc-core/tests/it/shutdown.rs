//! The end of a server: everybody hears of it, and it takes no longer than the calls do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rpc_core::health::{Health, HealthCheckRequest, ServingStatus, WATCH};
use rpc_core::server::{BoundServer, ServerBuilder, Service, ShutdownHook};
use rpc_core::{BoxFuture, Channel, Code, Codec, Method, Request, Response, Server, Status};
use rpc_http2::frame::{flag, kind};
use rpc_testkit::proto::{Message, TestClient, TestServer};
use rpc_testkit::raw::RawClient;
use rpc_testkit::{TestService, run};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// What comes at all comes within this.
const LIMIT: Duration = Duration::from_secs(20);
/// A drain timeout that a test would notice.
const HOUR: Duration = Duration::from_secs(3600);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, what)
        .await
        .expect("it takes too long")
}

fn builder() -> ServerBuilder {
    Server::builder()
        .add_service(TestServer::new(TestService::default()))
        .drain_timeout(HOUR)
}

async fn bound(builder: ServerBuilder) -> (BoundServer, SocketAddr) {
    let server = builder.bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().to_string().parse().unwrap();
    (server, address)
}

/// Clients that have sent their preface and a call before anything of theirs was read, as many as any
/// system keeps waiting.
#[tokio::test]
async fn who_had_connected_hears_goaway_and_gets_its_answer() {
    for max_connections in [10_000, 3] {
        let (server, address) = bound(builder().max_connections(max_connections)).await;
        let mut clients = Vec::new();
        for _ in 0..40 {
            let (mut client, reader) = RawClient::connect(&address.to_string(), &[]).await.unwrap();
            let (stream, call) = client.call("/testkit.v1.Test/Echo", &[]);
            client.write(&call).await.unwrap();
            clients.push((client, reader, stream));
        }
        server.shutdown_handle().shutdown();
        let serving = tokio::spawn(server.serve());
        for (client, mut reader, stream) in clients {
            let (mut goaway, mut answered) = (false, false);
            while let Some(frame) = soon(reader.next()).await {
                goaway |= frame.header.kind == kind::GOAWAY;
                answered |= frame.header.stream == stream && frame.header.has(flag::END_STREAM);
                if goaway && answered {
                    break;
                }
            }
            assert!(goaway && answered, "goaway: {goaway}, answered: {answered}");
            drop(client);
        }
        soon(serving).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn who_has_said_nothing_is_told_that_nothing_was_taken() {
    for said in [&b""[..], b"PRI"] {
        let (server, address) = bound(builder()).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        silent.write_all(said).await.unwrap();
        server.shutdown_handle().shutdown();
        let serving = tokio::spawn(server.serve());
        let mut heard = Vec::new();
        soon(silent.read_to_end(&mut heard)).await.unwrap();
        // SETTINGS, and GOAWAY with the last stream 0 and NO_ERROR.
        let expected = [&[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7][..], &[0; 13]].concat();
        assert_eq!(heard, expected);
        // It never closes its side, and that is not waited for either.
        soon(serving).await.unwrap().unwrap();
    }
}

/// Ends a server behind which this is the only client, and says how long that took.
async fn ended_beside(mut builder: ServerBuilder, said: &[u8]) -> Duration {
    builder = builder.drain_timeout(Duration::from_secs(60));
    let (server, address) = bound(builder).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(said).await.unwrap();
    server.shutdown_handle().shutdown();
    let start = Instant::now();
    server.serve().await.unwrap();
    start.elapsed()
}

#[tokio::test]
async fn neither_a_tls_handshake_nor_half_a_head_is_waited_for() {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = rpc_core::ServerTls::from_pem(key.cert.pem(), key.signing_key.serialize_pem());
    let secure = builder().tls(tls.unwrap());
    // They had 10 s, 10 s and 5 s.
    assert!(ended_beside(secure, b"").await < Duration::from_secs(4));
    assert!(ended_beside(builder(), b"PRI * HTTP/2.0\r\n").await < Duration::from_secs(4));
    assert!(
        ended_beside(builder(), b"POST /a.B/C HTTP/1.1\r\nhost: a").await < Duration::from_secs(4)
    );
}

#[tokio::test]
async fn a_health_watch_is_told_and_does_not_hold_the_end() {
    let health = Health::new();
    for server in [
        builder().health(health.clone()),
        // Nobody tells this one that its server ends, but for the call itself.
        builder().add_service(Health::new().service()),
    ] {
        let server = run(bound(server).await.0);
        let channel = Channel::connect(&server.uri).await.unwrap();
        let mut watch =
            channel.server_streaming(&WATCH, Request::new(HealthCheckRequest::default()));
        assert_eq!(
            watch.recv().await.unwrap().unwrap().status(),
            ServingStatus::Serving
        );
        server.shutdown.shutdown();
        assert_eq!(
            soon(watch.recv()).await.unwrap().unwrap().status(),
            ServingStatus::NotServing
        );
        assert_eq!(
            soon(watch.recv()).await.unwrap_err().code(),
            Code::Unavailable
        );
        soon(server.task).await.unwrap();
    }
}

/// A hook that says that it runs, and goes on for so long.
struct Slow(mpsc::UnboundedSender<()>, Duration);

impl ShutdownHook for Slow {
    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.0.send(()).unwrap();
            tokio::time::sleep(self.1).await;
        })
    }
}

struct Panics;

impl ShutdownHook for Panics {
    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { std::panic::panic_any("as asked") })
    }
}

#[tokio::test(start_paused = true)]
async fn hooks_run_together_and_are_part_of_the_drain_timeout() {
    let second = Duration::from_secs(1);
    for (hook, expected) in [
        (3 * second, 3 * second),
        (10 * second, 10 * second),
        (HOUR, 20 * second),
    ] {
        let (tell, mut told) = mpsc::unbounded_channel();
        let server = Server::builder()
            .drain_timeout(20 * second)
            .on_shutdown(Panics)
            .on_shutdown(Slow(tell.clone(), hook))
            .on_shutdown(Slow(tell, hook));
        let (server, _) = bound(server).await;
        server.shutdown_handle().shutdown();
        let start = Instant::now();
        server.serve().await.unwrap();
        let elapsed = start.elapsed();
        assert!(
            elapsed >= expected && elapsed < expected + second,
            "{hook:?}: {elapsed:?}"
        );
        assert!(told.recv().await.is_some() && told.recv().await.is_some());
    }
}

#[tokio::test]
async fn clients_are_told_to_go_away_however_long_a_hook_takes() {
    let (tell, _told) = mpsc::unbounded_channel();
    let server = builder()
        .drain_timeout(Duration::from_secs(2))
        .on_shutdown(Slow(tell, HOUR));
    let server = run(bound(server).await.0);
    let client = TestClient::new(Channel::connect(&server.uri).await.unwrap());
    let (mut requests, mut responses) = client.chat(());
    requests.send(Message::default()).await.unwrap();
    assert!(responses.recv().await.unwrap().is_some());
    server.shutdown.shutdown();
    // Nothing listens any more, and the open call can still end well.
    soon(async {
        while TcpStream::connect(server.uri.trim_start_matches("http://"))
            .await
            .is_ok()
        {}
    })
    .await;
    requests.finish().await.unwrap();
    assert!(soon(responses.recv()).await.unwrap().is_none());
    soon(server.task).await.unwrap();
}

/// Starts a call that never ends.
async fn hang(client: &TestClient) -> tokio::task::JoinHandle<Status> {
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.hang(Message::default()).await.unwrap_err() }
    });
    let started = async {
        while client
            .dropped(Message::default())
            .await
            .unwrap()
            .get_ref()
            .started
            == 0
        {}
    };
    soon(started).await;
    call
}

/// A server with a call that never ends.
async fn hanging() -> (rpc_testkit::Running, tokio::task::JoinHandle<Status>) {
    let server = run(bound(builder()).await.0);
    let client = TestClient::new(Channel::connect(&server.uri).await.unwrap());
    let call = hang(&client).await;
    (server, call)
}

#[tokio::test]
async fn a_second_call_ends_it_now() {
    let (server, call) = hanging().await;
    server.shutdown.shutdown();
    // It is draining.
    soon(async {
        while TcpStream::connect(server.uri.trim_start_matches("http://"))
            .await
            .is_ok()
        {}
    })
    .await;
    assert!(!server.task.is_finished());
    server.shutdown.shutdown();
    soon(server.task).await.unwrap();
    assert_eq!(soon(call).await.unwrap().code(), Code::Unavailable);
}

#[cfg(unix)]
#[tokio::test]
async fn a_second_signal_ends_it_now() {
    let (server, address) = bound(builder()).await;
    let serving = tokio::spawn(server.serve_until_terminated());
    let client = TestClient::new(
        Channel::connect(&format!("http://{address}"))
            .await
            .unwrap(),
    );
    let call = hang(&client).await;
    let signal = |name: &'static str| async move {
        let pid = std::process::id().to_string();
        let mut kill = tokio::process::Command::new("kill");
        assert!(kill.args([name, &pid]).status().await.unwrap().success());
    };
    signal("-INT").await;
    soon(async { while TcpStream::connect(address).await.is_ok() {} }).await;
    assert!(!serving.is_finished());
    signal("-TERM").await;
    soon(serving).await.unwrap().unwrap();
    assert_eq!(soon(call).await.unwrap().code(), Code::Unavailable);
}

const WAIT: Method<Bytes, Bytes> = Method::unary("/it.Patient/Wait", Codec::raw(), Codec::raw());
const FOLLOW: Method<Bytes, Bytes> =
    Method::server_streaming("/it.Patient/Follow", Codec::raw(), Codec::raw());

#[tokio::test]
async fn handlers_learn_that_their_server_drains() {
    let (started, mut starts) = mpsc::unbounded_channel();
    let state = Arc::new(started);
    let patient = Service::new("it.Patient")
        .unary(
            &WAIT,
            &state,
            |started, request: Request<Bytes>| async move {
                let mut draining = request.server_draining();
                assert!(!draining.has_begun());
                started.send(()).unwrap();
                // It can be dropped and asked again.
                tokio::select! {
                    biased;
                    () = &mut draining => return Err(Status::internal("too early")),
                    () = std::future::ready(()) => {}
                }
                let again = draining.clone();
                draining.await;
                again.await;
                assert!(request.server_draining().has_begun());
                Ok(Response::new(Bytes::from_static(b"drained")))
            },
        )
        .server_streaming(&FOLLOW, &state, |started, request, responses| async move {
            started.send(()).unwrap();
            request.server_draining().await;
            responses.finish(Ok(()))
        });
    let server = run(
        bound(Server::builder().add_service(patient).drain_timeout(HOUR))
            .await
            .0,
    );
    let channel = Channel::connect(&server.uri).await.unwrap();
    let wait = tokio::spawn({
        let channel = channel.clone();
        async move { channel.unary(&WAIT, Request::new(Bytes::new())).await }
    });
    let mut follow = channel.server_streaming(&FOLLOW, Request::new(Bytes::new()));
    let follow = tokio::spawn(async move { follow.recv().await });
    for _ in 0..2 {
        soon(starts.recv()).await.unwrap();
    }
    server.shutdown.shutdown();
    assert_eq!(soon(wait).await.unwrap().unwrap().get_ref(), "drained");
    assert_eq!(soon(follow).await.unwrap().unwrap(), None);
    soon(server.task).await.unwrap();
}

#[tokio::test]
async fn a_request_that_no_server_has_got_never_drains() {
    let request = Request::new(());
    assert!(!request.server_draining().has_begun());
    let drained = tokio::time::timeout(Duration::from_millis(1), request.server_draining());
    assert!(drained.await.is_err());
}
