//! Calls that have nobody to move them but the task of their connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rpc_core::server::Service;
use rpc_core::{Channel, ClientTls, Code, Codec, Method, Request, Server, ServerTls, Status};
use rpc_http2::Config;
use rpc_http2::frame::kind;
use rpc_testkit::proto::{Message, TestClient, TestServer};
use rpc_testkit::raw::RawClient;
use rpc_testkit::{TestService, run};
use tokio::time::Instant;

use crate::engine::{self, Engine};

async fn within<T>(seconds: u64, what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(seconds), what)
        .await
        .expect("it is stuck")
}

/// The head of a failed call may begin as the end of one that went well did, with another meaning.
#[tokio::test]
async fn a_status_is_that_of_its_call() {
    const SAYS: Method<Bytes, Bytes> =
        Method::server_streaming("/demo.Says/Says", Codec::raw(), Codec::raw());
    let service = Service::new("demo.Says").server_streaming(
        &SAYS,
        &Arc::new(()),
        |_, request: Request<Bytes>, mut responses| async move {
            // The status is in trailers, not in the head.
            let _ = responses.send(Bytes::new()).await;
            let text = String::from_utf8_lossy(request.get_ref()).into_owned();
            responses.finish(match &*text {
                "ok" => Ok(()),
                text => Err(Status::not_found(text.trim().to_owned())),
            })
        },
    );
    let server = run(Server::builder()
        .add_service(service)
        .bind("127.0.0.1:0")
        .await
        .unwrap());
    let channel = Channel::connect(&server.uri).await.unwrap();
    for text in [
        "ok", "ok", "a", "b", "c", " ", "d", " ", "ok", " ", "e", "ok",
    ] {
        let request = Request::new(Bytes::from_static(text.as_bytes()));
        let mut responses = channel.server_streaming(&SAYS, request);
        assert!(responses.recv().await.unwrap().is_some());
        let code = match responses.recv().await {
            Ok(None) => Code::Ok,
            Ok(Some(_)) => panic!("another message"),
            Err(status) => status.code(),
        };
        let expected = if text == "ok" {
            Code::Ok
        } else {
            Code::NotFound
        };
        assert_eq!(code, expected, "{text:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_deadline_on_a_young_connection_is_kept() {
    let (channel, mut engine) = Engine::connect(Config::default()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let test = TestClient::new(channel);
    let start = Instant::now();
    let request = Request::new(Message::default()).with_timeout(Duration::from_secs(30));
    let status = within(60, test.echo(request)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(start.elapsed() < Duration::from_secs(31));
    engine.called().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_the_server_does_not_take_in_lives_until_its_deadline() {
    let config = Config {
        stream_window: 10,
        ..Config::default()
    };
    let (channel, _engine) = Engine::connect(config).await;
    let test = TestClient::new(channel);
    let message = Message {
        body: vec![7; 10_000],
        ..Message::default()
    };
    let deadline = Duration::from_secs(3 * 3600);
    let start = Instant::now();
    let request = Request::new(message).with_timeout(deadline);
    let status = within(4 * 3600, test.echo(request)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(start.elapsed() >= deadline, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_sender_without_room_hears_that_the_call_has_ended() {
    let (channel, mut engine) = Engine::connect(Config::default()).await;
    let test = TestClient::new(channel);
    let (mut requests, _responses) = test.chat(());
    engine.called().await;
    let sending = tokio::spawn(async move {
        loop {
            let message = Message {
                body: vec![7; 100_000],
                ..Message::default()
            };
            if requests.send(message).await.is_err() {
                return;
            }
        }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!sending.is_finished(), "there is room for everything");
    // The end of the response, and no word on the request.
    engine.act(|machine, keys| engine::ok(machine, keys[0]));
    within(5, sending).await.unwrap();
}

#[tokio::test]
async fn a_channel_that_is_gone_closes_its_connection_once_its_last_stream_has_ended() {
    let (channel, mut engine) = Engine::connect(Config::default()).await;
    let test = TestClient::new(channel.clone());
    let (requests, mut responses) = test.chat(());
    requests.finish().await.unwrap();
    engine.called().await;
    drop((test, channel));
    engine.act(|machine, keys| engine::ok(machine, keys[0]));
    assert!(responses.recv().await.unwrap().is_none());
    drop(responses);
    within(10, engine.closed).await.unwrap();
}

#[tokio::test]
async fn a_large_message_over_tls_goes_out_whole() {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (chain, secret) = (key.cert.pem(), key.signing_key.serialize_pem());
    let server = Server::builder()
        .add_service(TestServer::new(TestService::default()))
        .tls(ServerTls::from_pem(&chain, &secret).unwrap())
        .bind("127.0.0.1:0")
        .await
        .unwrap();
    let server = run(server);
    let channel = Channel::builder()
        .tls(ClientTls::from_root_pem(&chain).unwrap())
        .connect(&server.uri.replace("127.0.0.1", "localhost"))
        .await
        .unwrap();
    let test = TestClient::new(channel);
    for size in (1..16).map(|n| n * 260_000) {
        let message = Message {
            body: vec![7; size],
            ..Message::default()
        };
        let answer = within(20, test.echo(message)).await.unwrap();
        assert_eq!(answer.get_ref().body.len(), size);
    }
}

#[tokio::test]
async fn a_call_that_waits_for_the_limit_and_is_dropped_gives_nothing_to_another() {
    let server = Server::builder()
        .add_service(TestServer::new(TestService::default()))
        .max_concurrent_streams(1);
    let server = run(server.bind("127.0.0.1:0").await.unwrap());
    let test = TestClient::new(Channel::connect(&server.uri).await.unwrap());
    // The limit is known once the server has answered.
    test.echo(Message::default()).await.unwrap();
    let (mut first, mut first_back) = test.chat(());
    first.send(Message::default()).await.unwrap();
    first_back.recv().await.unwrap().unwrap();

    let (waiting, mut waiting_back) = test.chat(());
    drop(waiting);
    let (mut next, mut next_back) = test.chat(());
    next.send(Message {
        number: 7,
        ..Message::default()
    })
    .await
    .unwrap();
    let late = Request::new(Message::default()).with_timeout(Duration::from_millis(50));
    let late = within(5, test.echo(late)).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");

    first.finish().await.unwrap();
    assert!(first_back.recv().await.unwrap().is_none());
    let status = within(5, waiting_back.recv()).await.unwrap_err();
    assert_eq!(status.code(), Code::Cancelled, "{status}");
    let answer = within(5, next_back.recv()).await.unwrap().unwrap();
    assert_eq!(answer.number, 7);
}

/// Each request asks for an answer, and the answers are longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_is_not_read_from() {
    const MOST: usize = 2_000_000;
    let server = rpc_testkit::serve().await;
    let address = server.uri.trim_start_matches("http://");
    let (mut client, mut reader) = RawClient::connect(address, &[]).await.unwrap();
    // What has begun to be written is written whole: half a frame would be a fault of its own.
    let (sent, stop) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let writing = tokio::spawn({
        let (sent, stop) = (Arc::clone(&sent), Arc::clone(&stop));
        async move {
            while !stop.load(Ordering::Relaxed) && sent.load(Ordering::Relaxed) < MOST {
                let calls: Vec<u8> = (0..100)
                    .flat_map(|_| client.head("/nobody.Here/Nothing", true).1)
                    .collect();
                client.write(&calls).await.unwrap();
                sent.fetch_add(100, Ordering::Relaxed);
            }
            client
        }
    });
    loop {
        let before = sent.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(1)).await;
        if sent.load(Ordering::Relaxed) == before {
            break;
        }
    }
    let before = sent.load(Ordering::Relaxed);
    assert!(
        before < MOST,
        "{before} requests were read while no answer was"
    );
    stop.store(true, Ordering::Relaxed);
    // Nothing is lost: once it reads, all that was written is answered.
    let answers = async {
        let mut answers = 0;
        while !writing.is_finished() || answers < sent.load(Ordering::Relaxed) {
            let frame = reader.next().await.expect("the connection has ended");
            assert_ne!(frame.header.kind, kind::GOAWAY);
            answers += usize::from(frame.header.kind == kind::HEADERS);
        }
    };
    within(60, answers).await;
}
