//! How long connecting may take, and how long it is waited between attempts.

use std::time::Duration;

use rpc_core::{Channel, Code};
use rpc_testkit::proto::{Message, TestClient};
use rpc_testkit::{FaultProxy, serve};
use tokio::net::TcpListener;

use crate::{Clock, GRACE, assert_code, request, soon};

const SHORT: Duration = Duration::from_millis(150);

/// Takes connections and says nothing.
async fn mute() -> (String, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (
        format!("http://{}", listener.local_addr().unwrap()),
        listener,
    )
}

#[tokio::test]
async fn a_server_that_does_not_speak_is_given_up() {
    let clock = Clock::alone().await;
    let (uri, _listener) = mute().await;
    let connecting = Channel::builder().connect_timeout(SHORT).connect(&uri);
    let (result, took) = clock.time(connecting).await;
    let status = result.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        format!("{status}").contains("took longer than 150ms"),
        "{status}"
    );
    took.at_least(SHORT).at_most(SHORT + GRACE);
}

#[tokio::test]
async fn a_call_does_not_wait_longer_for_a_connection_than_its_deadline() {
    let clock = Clock::alone().await;
    let (uri, _listener) = mute().await;
    let test = TestClient::new(Channel::lazy(&uri).unwrap());
    let (result, took) = clock
        .time(test.echo(request(Message::default(), SHORT)))
        .await;
    assert_code(result, Code::DeadlineExceeded);
    took.at_least(SHORT).at_most(SHORT + GRACE);
}

#[tokio::test]
async fn a_refused_connection_fails_at_once() {
    let clock = Clock::alone().await;
    let server = serve().await;
    let proxy = FaultProxy::to(&server.uri).await;
    proxy.refuse(true).await;
    let test = TestClient::new(Channel::lazy(&proxy.uri()).unwrap());
    let (result, took) = clock.time(test.echo(Message::default())).await;
    assert_code(result, Code::Unavailable);
    took.at_most(GRACE);
}

#[tokio::test]
async fn waiting_for_ready_ends_with_the_first_backoff() {
    let clock = Clock::alone().await;
    let server = serve().await;
    let proxy = FaultProxy::to(&server.uri).await;
    proxy.refuse(true).await;
    let test = TestClient::new(Channel::lazy(&proxy.uri()).unwrap());
    let attempt = clock.time(test.echo(Message::default()));
    assert_code(attempt.await.0, Code::Unavailable);
    proxy.refuse(false).await;
    let waiting = request(Message::default(), Duration::from_secs(10)).with_wait_for_ready();
    let (result, took) = clock.time(test.echo(waiting)).await;
    result.unwrap();
    // 1 s, give or take a fifth.
    took.at_least(Duration::from_millis(600))
        .at_most(Duration::from_millis(1_200) + GRACE);
}

#[tokio::test]
async fn a_connection_that_breaks_is_opened_again_with_the_next_call() {
    let clock = Clock::alone().await;
    let server = serve().await;
    let proxy = FaultProxy::to(&server.uri).await;
    let test = TestClient::new(soon(Channel::connect(&proxy.uri())).await.unwrap());
    // A connection that has neither answered a call nor lived for a second counts as one that failed.
    test.echo(Message::default()).await.unwrap();
    proxy.cut();
    // The call may still meet the old connection.
    let waiting = request(Message::default(), Duration::from_secs(5)).with_wait_for_ready();
    let (result, took) = clock.time(test.echo_idempotent(waiting)).await;
    result.unwrap();
    took.at_most(GRACE);
    assert_eq!(proxy.connections(), 2);
}
