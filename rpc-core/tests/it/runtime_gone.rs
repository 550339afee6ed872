//! Channels whose runtime has ended, used from another one.

use std::time::Duration;

use rpc_core::{Channel, Code, Status};
use rpc_testkit::proto::{Message, StreamRequest, TestClient};
use rpc_testkit::{Running, serve};
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

fn ended(kind: &str, status: &Status) {
    assert_eq!(status.code(), Code::Unavailable, "{kind}: {status}");
    let text = status.to_string();
    assert!(text.contains("runtime"), "{kind}: {text}");
}

/// Calls of all four kinds, which end at once.
async fn all_kinds(test: &TestClient) {
    let calls = async {
        ended("unary", &test.echo(Message::default()).await.unwrap_err());
        let again = test.echo_idempotent(Message::default()).await;
        ended("idempotent", &again.unwrap_err());
        let mut stream = test.server_stream(StreamRequest::default());
        ended("server streaming", &stream.recv().await.unwrap_err());
        let mut stream = test.client_stream(());
        ended(
            "client streaming",
            &stream.send(Message::default()).await.unwrap_err(),
        );
        ended("client streaming", &stream.finish().await.unwrap_err());
        let (mut requests, mut responses) = test.chat(());
        ended("bidirectional", &responses.recv().await.unwrap_err());
        let sent = requests.send(Message::default()).await;
        ended("bidirectional", &sent.unwrap_err());
    };
    let within = tokio::time::timeout(Duration::from_secs(20), calls).await;
    assert!(within.is_ok(), "a call hangs");
}

fn channel(of: &Runtime, server: &Running, calls: bool) -> TestClient {
    of.block_on(async {
        let channel = Channel::lazy(&server.uri).unwrap();
        let test = TestClient::new(channel);
        if calls {
            test.echo(Message::default()).await.unwrap();
        }
        test
    })
}

#[test]
fn calls_on_a_channel_whose_runtime_is_gone_fail_at_once() {
    let (here, there) = (runtime(), runtime());
    let server = here.block_on(serve());
    let fresh = channel(&there, &server, false);
    let used = channel(&there, &server, true);
    let dead = there.block_on(async { Channel::lazy("http://127.0.0.1:1").unwrap() });
    let dead = TestClient::new(dead);
    there.block_on(async { dead.echo(Message::default()).await.unwrap_err() });
    drop(there);
    for test in [fresh, used, dead] {
        here.block_on(all_kinds(&test));
    }
}

#[test]
fn calls_that_are_open_when_the_runtime_of_their_channel_ends_end_too() {
    let (here, there) = (runtime(), runtime());
    let server = here.block_on(serve());
    let test = channel(&there, &server, true);
    let open = test.clone();
    let calls = here.spawn(async move {
        let hang = open.hang(Message::default());
        let (_requests, mut responses) = open.chat(());
        let (hang, chat) = tokio::join!(hang, responses.recv());
        (hang.unwrap_err(), chat.unwrap_err())
    });
    here.block_on(async {
        let mut counts = TestClient::new(Channel::connect(&server.uri).await.unwrap());
        let counts = &mut counts;
        while counts
            .dropped(Message::default())
            .await
            .unwrap()
            .get_ref()
            .started
            == 0
        {
            tokio::task::yield_now().await;
        }
    });
    drop(there);
    let within =
        here.block_on(async { tokio::time::timeout(Duration::from_secs(20), calls).await });
    let (hang, chat) = within.expect("a call hangs").unwrap();
    ended("unary", &hang);
    ended("bidirectional", &chat);
    here.block_on(all_kinds(&test));
}
