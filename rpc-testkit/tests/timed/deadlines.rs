//! Every call ends by its deadline, whatever the other side does.

use std::time::Duration;

use rpc_core::{Channel, Code};
use rpc_testkit::proto::{Message, StreamRequest, TestClient};
use rpc_testkit::{FaultProxy, serve};

use crate::{Clock, GRACE, assert_code, request, soon, until};

const SHORT: Duration = Duration::from_millis(150);

/// A client whose server has gone silent after the first call.
async fn silent() -> (rpc_testkit::Running, FaultProxy, TestClient) {
    let server = serve().await;
    let proxy = FaultProxy::to(&server.uri).await;
    let test = TestClient::new(soon(Channel::connect(&proxy.uri())).await.unwrap());
    soon(test.echo(Message::default())).await.unwrap();
    proxy.blackhole(true);
    (server, proxy, test)
}

#[tokio::test]
async fn a_unary_call_to_a_silent_server() {
    let clock = Clock::alone().await;
    let (_server, _proxy, test) = silent().await;
    let (result, took) = clock
        .time(test.echo(request(Message::default(), SHORT)))
        .await;
    assert_code(result, Code::DeadlineExceeded);
    took.at_least(SHORT).at_most(SHORT + GRACE);
}

#[tokio::test]
async fn an_idempotent_call_is_not_longer_for_its_retries() {
    let clock = Clock::alone().await;
    let (_server, _proxy, test) = silent().await;
    let call = test.echo_idempotent(request(Message::default(), SHORT));
    let (result, took) = clock.time(call).await;
    assert_code(result, Code::DeadlineExceeded);
    took.at_least(SHORT).at_most(SHORT + GRACE);
}

#[tokio::test]
async fn a_stream_from_a_silent_server() {
    let clock = Clock::alone().await;
    let (_server, _proxy, test) = silent().await;
    let many = StreamRequest {
        count: 1_000_000,
        size: 100,
        ..StreamRequest::default()
    };
    let mut messages = test.server_stream(request(many, SHORT));
    let (result, took) = clock.time(messages.recv()).await;
    assert_code(result, Code::DeadlineExceeded);
    took.at_least(SHORT).at_most(SHORT + GRACE);
}

#[tokio::test]
async fn a_stream_that_goes_silent_in_its_middle() {
    let clock = Clock::alone().await;
    let server = serve().await;
    let proxy = FaultProxy::to(&server.uri).await;
    let test = TestClient::new(soon(Channel::connect(&proxy.uri())).await.unwrap());
    let many = StreamRequest {
        count: 100_000_000,
        size: 1_000,
        ..StreamRequest::default()
    };
    let call = async {
        let mut messages = test.server_stream(request(many, SHORT));
        messages.recv().await.unwrap().unwrap();
        proxy.blackhole(true);
        loop {
            match messages.recv().await {
                Ok(message) => assert!(message.is_some(), "the stream cannot have ended"),
                Err(status) => return status,
            }
        }
    };
    let (status, took) = clock.time(call).await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    took.at_least(SHORT).at_most(SHORT + GRACE);
}

#[tokio::test]
async fn sending_to_a_server_that_does_not_read() {
    let clock = Clock::alone().await;
    let (_server, _proxy, test) = silent().await;
    let body = vec![0; 1024 * 1024];
    let call = async {
        let mut upload = test.client_stream(request((), SHORT));
        loop {
            let message = Message {
                body: body.clone(),
                ..Message::default()
            };
            if let Err(status) = upload.send(message).await {
                return status;
            }
        }
    };
    let (status, took) = clock.time(call).await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    took.at_least(SHORT).at_most(SHORT + GRACE);
}

#[tokio::test]
async fn a_server_drops_the_handler_at_the_deadline() {
    let clock = Clock::alone().await;
    let server = serve().await;
    let test = TestClient::new(soon(Channel::connect(&server.uri)).await.unwrap());
    // The client keeps the connection to itself: its own deadline would end the call too.
    let proxy = FaultProxy::to(&server.uri).await;
    let hanging = TestClient::new(soon(Channel::connect(&proxy.uri())).await.unwrap());
    let counts = async || *test.dropped(Message::default()).await.unwrap().get_ref();
    let call = tokio::spawn(async move {
        let request = request(Message::default(), SHORT);
        hanging.hang(request).await.map(drop)
    });
    let ended = async {
        until(async || counts().await.started == 1).await;
        proxy.blackhole(true);
        until(async || counts().await.dropped == 1).await;
    };
    let ((), took) = clock.time(ended).await;
    took.at_least(SHORT - GRACE / 2).at_most(SHORT + GRACE);
    assert_code(soon(call).await.unwrap(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_dropped_call_ends_its_handler() {
    let clock = Clock::alone().await;
    let server = serve().await;
    let test = TestClient::new(soon(Channel::connect(&server.uri)).await.unwrap());
    let counts = async || *test.dropped(Message::default()).await.unwrap().get_ref();
    let call = tokio::spawn({
        let test = test.clone();
        async move { test.hang(Message::default()).await.map(drop) }
    });
    until(async || counts().await.started == 1).await;
    call.abort();
    let ((), took) = clock
        .time(until(async || counts().await.dropped == 1))
        .await;
    took.at_most(GRACE);
}
