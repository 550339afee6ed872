//! Streams that nobody reads, and calls beside them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rpc_core::server::Service;
use rpc_core::{Channel, Code, Codec, Method, Request, Response, Server};
use rpc_http2::Config;
use rpc_testkit::proto::{Message, TestClient};
use rpc_testkit::run;
use tokio::sync::Semaphore;

use crate::engine::{self, Engine};

const FLOW: Method<Bytes, Bytes> =
    Method::server_streaming("/demo.Unread/Flow", Codec::raw(), Codec::raw());
const ECHO: Method<Bytes, Bytes> = Method::unary("/demo.Unread/Echo", Codec::raw(), Codec::raw());

async fn within<T>(seconds: u64, what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(seconds), what)
        .await
        .expect("it is stuck")
}

fn large(length: usize) -> Message {
    Message {
        body: vec![7; length],
        ..Message::default()
    }
}

#[tokio::test]
async fn calls_go_on_beside_200_responses_that_nobody_reads() {
    const STREAMS: usize = 200;
    let sent = Arc::new(AtomicUsize::new(0));
    let service = Service::new("demo.Unread")
        .server_streaming(
            &FLOW,
            &sent,
            |sent, _: Request<Bytes>, mut responses| async move {
                let message = Bytes::from(vec![7; 16 * 1024]);
                while responses.send(message.clone()).await.is_ok() {
                    sent.fetch_add(message.len(), Ordering::Relaxed);
                }
                responses.finish(Ok(()))
            },
        )
        .unary(&ECHO, &sent, |_, request: Request<Bytes>| async {
            Ok(Response::new(request.into_inner()))
        });
    let server = Server::builder().add_service(service);
    let server = run(server.bind("127.0.0.1:0").await.unwrap());
    let channel = Channel::connect(&server.uri).await.unwrap();
    let mut unread = Vec::new();
    for _ in 0..STREAMS {
        unread.push(channel.server_streaming(&FLOW, Request::new(Bytes::new())));
    }
    let echo = async || {
        let request = Request::new(Bytes::from(vec![7; 100_000]));
        let answer = within(60, channel.unary(&ECHO, request)).await.unwrap();
        assert_eq!(answer.get_ref().len(), 100_000);
    };
    // Until all windows are full.
    let full = STREAMS * (Config::default().stream_window as usize);
    while sent.load(Ordering::Relaxed) < full {
        echo().await;
    }
    for _ in 0..20 {
        echo().await;
    }
    // Those who read later have lost nothing.
    let mut last = unread.pop().unwrap();
    for _ in 0..100 {
        let message = within(60, last.recv()).await.unwrap().unwrap();
        assert_eq!(message.len(), 16 * 1024);
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_goes_on_beside_five_that_the_server_does_not_take() {
    let (channel, mut engine) = Engine::connect(Config {
        stream_window: 65_536,
        ..Config::default()
    })
    .await;
    let test = TestClient::new(channel);
    let mut stuck = Vec::new();
    for _ in 0..5 {
        let (mut requests, responses) = test.chat(());
        engine.called().await;
        let full = async { while requests.send(large(16_000)).await.is_ok() {} };
        let wait = Duration::from_secs(1);
        assert!(tokio::time::timeout(wait, full).await.is_err());
        stuck.push((requests, responses));
    }
    let (mut requests, _responses) = test.chat(());
    engine.called().await;
    // Its own window has room, and there is none for what would be behind it.
    for _ in 0..4 {
        within(1, requests.send(large(16_000))).await.unwrap();
    }
    for (requests, responses) in stuck.drain(..3) {
        drop((requests, responses));
    }
    for _ in 0..10 {
        within(1, requests.send(large(16_000))).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_the_server_takes_an_hour_later_is_answered() {
    let (channel, mut engine) = Engine::connect(Config {
        stream_window: 1000,
        max_stream_window: 1000,
        ..Config::default()
    })
    .await;
    let test = TestClient::new(channel);
    let (mut requests, mut responses) = test.chat(());
    requests.send(large(20_000)).await.unwrap();
    let finished = tokio::spawn(requests.finish());
    engine.called().await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    for _ in 0..30 {
        engine.act(|machine, keys| machine.consume(keys[0], 1000));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    engine.act(|machine, keys| engine::ok(machine, keys[0]));
    assert!(within(5, responses.recv()).await.unwrap().is_none());
    within(5, finished).await.unwrap().unwrap();
}

/// Says when it is dropped.
struct Dropped(Arc<Semaphore>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

/// Part of a message has gone when the stream is cut.
#[tokio::test]
async fn a_client_hears_why_its_stream_gave_way() {
    let ended = Arc::new(Semaphore::new(0));
    let service = Service::new("demo.Unread").server_streaming(
        &FLOW,
        &ended,
        |ended, _: Request<Bytes>, mut responses| async move {
            let _ended = Dropped(ended);
            let message = Bytes::from(vec![7; 1 << 20]);
            while responses.send(message.clone()).await.is_ok() {}
            responses.finish(Ok(()))
        },
    );
    let server = Server::builder()
        .add_service(service)
        // A stream that is full takes half of it.
        .memory_budget(800_000)
        .dangerous_limits(|limits| limits.stall = Some(Duration::from_secs(1)));
    let server = server.bind("127.0.0.1:0").await.unwrap();
    let server = run(server);
    let channel = Channel::connect(&server.uri).await.unwrap();
    let mut responses = channel.server_streaming(&FLOW, Request::new(Bytes::new()));
    within(30, ended.acquire()).await.unwrap().forget();
    // What has come whole is there.
    let status = loop {
        match within(5, responses.recv()).await {
            Ok(message) => assert_eq!(message.map(|message| message.len()), Some(1 << 20)),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let begins = "this server was short of memory and this stream had not been read for ";
    assert!(status.message().starts_with(begins), "{status}");
}
