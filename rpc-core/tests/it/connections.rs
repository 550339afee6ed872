//! Several connections to one endpoint, several sockets at one address, and what is gone before it is
//! accepted.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rpc_core::server::{ServerCall, ServerInterceptor, ServerNext, ServerReply};
use rpc_core::{Channel, Request, Server, Status};
use rpc_http2::frame::{flag, kind};
use rpc_testkit::proto::{Message, TestClient, TestServer};
use rpc_testkit::raw::{RawClient, frame};
use rpc_testkit::{FaultProxy, Running, TestService, run};

/// Notes where calls come from.
#[derive(Clone, Default)]
struct Peers(Arc<Mutex<BTreeSet<String>>>);

impl ServerInterceptor for Peers {
    async fn intercept(
        &self,
        call: ServerCall,
        next: ServerNext<'_>,
    ) -> Result<ServerReply, Status> {
        let peer = format!("{:?}", call.peer_addr());
        self.0.lock().unwrap().insert(peer);
        next.run(call).await
    }
}

async fn serve(peers: &Peers, loops: usize) -> Running {
    let server = Server::builder()
        .add_service(TestServer::new(TestService::default()))
        .interceptor(peers.clone())
        .accept_loops(loops)
        .bind("127.0.0.1:0")
        .await
        .unwrap();
    run(server)
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), what)
        .await
        .unwrap()
}

#[tokio::test]
async fn calls_take_the_connections_of_an_endpoint_in_turn() {
    let peers = Peers::default();
    let server = serve(&peers, 1).await;
    let proxy = FaultProxy::to(&server.uri).await;
    let builder = Channel::builder().connections_per_endpoint(3);
    let test = TestClient::new(builder.connect(&proxy.uri()).await.unwrap());
    soon(async {
        while peers.0.lock().unwrap().len() < 3 {
            test.echo(Message::default()).await.unwrap();
        }
    })
    .await;
    assert_eq!(proxy.connections(), 3);
    // All three break; the calls that wait find the new ones.
    proxy.cut();
    soon(async {
        while peers.0.lock().unwrap().len() < 6 {
            let waiting = Request::new(Message::default()).with_wait_for_ready();
            // A call that was under way when its connection broke has failed, and may.
            let _ = test.echo(waiting).await;
        }
    })
    .await;
    assert_eq!(proxy.connections(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_accept_loops_share_a_port_and_end_together() {
    let peers = Peers::default();
    let mut server = serve(&peers, 4).await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        let test = TestClient::new(Channel::connect(&server.uri).await.unwrap());
        test.echo(Message::default()).await.unwrap();
        clients.push(test);
    }
    assert_eq!(peers.0.lock().unwrap().len(), 40);
    let (mut requests, mut responses) = clients[0].chat(());
    requests.send(Message::default()).await.unwrap();
    assert!(responses.recv().await.unwrap().is_some());
    server.shutdown.shutdown();
    // The open call still ends well, and nothing listens any more.
    soon(async { while Channel::connect(&server.uri).await.is_ok() {} }).await;
    requests.send(Message::default()).await.unwrap();
    assert!(responses.recv().await.unwrap().is_some());
    requests.finish().await.unwrap();
    assert!(responses.recv().await.unwrap().is_none());
    soon(&mut server.task).await.unwrap();
}

#[tokio::test]
async fn what_is_gone_before_it_is_accepted_does_not_delay_the_next() {
    let server = serve(&Peers::default(), 1).await;
    let address: std::net::SocketAddr = server.uri.trim_start_matches("http://").parse().unwrap();
    // The server's task cannot run until the next await, so these wait in the backlog, which a system
    // may keep small.
    for _ in 0..40 {
        let socket = std::net::TcpStream::connect(address).unwrap();
        socket2::SockRef::from(&socket)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }
    let started = std::time::Instant::now();
    let test = TestClient::new(Channel::connect(&server.uri).await.unwrap());
    test.echo(Message::default()).await.unwrap();
    // A rest of 50 ms for each would be 2 s.
    assert!(started.elapsed() < Duration::from_secs(1));
}

/// A connection past the limit waits until another one is gone, and is served then.
async fn the_limit_is_kept() {
    let server = Server::builder()
        .add_service(TestServer::new(TestService::default()))
        .max_connections(2)
        .bind("127.0.0.1:0")
        .await
        .unwrap();
    let server = run(server);
    let mut held = Vec::new();
    for _ in 0..2 {
        let test = TestClient::new(Channel::connect(&server.uri).await.unwrap());
        test.echo(Message::default()).await.unwrap();
        held.push(test);
    }
    // The system takes it, the server does not: nothing is said to it.
    let address = server.uri.trim_start_matches("http://");
    let (mut client, mut reader) = RawClient::connect(address, &[]).await.unwrap();
    let (stream, call) = client.call("/testkit.v1.Test/Echo", &[]);
    client.write(&call).await.unwrap();
    let waited = tokio::time::timeout(Duration::from_millis(200), reader.next()).await;
    assert!(waited.is_err(), "{waited:?}");
    // Those that are in are served meanwhile.
    for test in &held {
        test.echo(Message::default()).await.unwrap();
    }
    held.pop();
    soon(async {
        while let Some(frame) = reader.next().await {
            if frame.header.stream == stream && frame.header.has(flag::END_STREAM) {
                return;
            }
        }
        panic!("the connection was closed");
    })
    .await;
    // And the place of one that broke the rules is free again as well.
    client.write(&frame(kind::DATA, 0, 0, &[])).await.unwrap();
    soon(async { while reader.next().await.is_some() {} }).await;
    drop((client, reader));
    let test = TestClient::new(soon(Channel::connect(&server.uri)).await.unwrap());
    soon(test.echo(Message::default())).await.unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn connections_past_the_limit_wait_on_one_thread() {
    the_limit_is_kept().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn connections_past_the_limit_wait_on_many_threads() {
    the_limit_is_kept().await;
}

/// Clients that have connected and do nothing, and some that are gone: what they hold they give up.
#[tokio::test]
async fn idle_clients_hold_no_place_that_another_one_needs() {
    let server = Server::builder()
        .add_service(TestServer::new(TestService::default()))
        .max_connections(20)
        .bind("127.0.0.1:0")
        .await
        .unwrap();
    let server = run(server);
    let address = server.uri.trim_start_matches("http://").to_owned();
    let busy = TestClient::new(Channel::connect(&server.uri).await.unwrap());
    let hangs = tokio::spawn(async move { busy.hang(Message::default()).await });
    let mut idle = Vec::new();
    for _ in 0..19 {
        idle.push(RawClient::connect(&address, &[]).await.unwrap());
    }
    soon(async {
        for _ in 0..6 {
            let test = TestClient::new(Channel::connect(&server.uri).await.unwrap());
            test.echo(Message::default()).await.unwrap();
        }
    })
    .await;
    // Who has a call keeps its connection.
    assert!(!hangs.is_finished());
    hangs.abort();
}
