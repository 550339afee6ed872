//! How long the end of a server takes.

use std::time::Duration;

use rpc_core::{Channel, Code, Server};
use rpc_testkit::proto::{Message, TestClient, TestServer};
use rpc_testkit::{Running, TestService, run};

use crate::{Clock, GRACE, assert_code, soon, until};

const DRAIN: Duration = Duration::from_millis(300);

async fn server() -> (Running, TestClient) {
    let server = Server::builder()
        .add_service(TestServer::new(TestService::default()))
        .drain_timeout(DRAIN)
        .bind("127.0.0.1:0")
        .await
        .unwrap();
    let running = run(server);
    let test = TestClient::new(soon(Channel::connect(&running.uri)).await.unwrap());
    (running, test)
}

#[tokio::test]
async fn an_idle_server_ends_at_once() {
    let clock = Clock::alone().await;
    let (server, test) = server().await;
    soon(test.echo(Message::default())).await.unwrap();
    let end = async {
        server.shutdown.shutdown();
        server.task.await
    };
    let (ended, took) = clock.time(end).await;
    ended.unwrap();
    took.at_most(GRACE);
}

#[tokio::test]
async fn an_endless_call_holds_it_for_the_drain_timeout() {
    let clock = Clock::alone().await;
    let (server, test) = server().await;
    let call = tokio::spawn({
        let test = test.clone();
        async move { test.hang(Message::default()).await.map(drop) }
    });
    until(async || {
        test.dropped(Message::default())
            .await
            .is_ok_and(|counts| counts.get_ref().started == 1)
    })
    .await;
    let end = async {
        server.shutdown.shutdown();
        server.task.await
    };
    let (ended, took) = clock.time(end).await;
    ended.unwrap();
    took.at_least(DRAIN).at_most(DRAIN + GRACE);
    assert_code(soon(call).await.unwrap(), Code::Unavailable);
}
