//! What is left of a channel that nobody holds any more.

use std::time::Duration;

use rpc_core::Channel;
use rpc_testkit::proto::{Message, TestClient};
use rpc_testkit::serve;

/// Waits until only so many tasks are alive.
async fn until_tasks(tasks: usize) {
    let metrics = tokio::runtime::Handle::current().metrics();
    let waiting = async {
        while metrics.num_alive_tasks() > tasks {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .unwrap_or_else(|_| panic!("{} tasks are left", metrics.num_alive_tasks()));
}

#[tokio::test]
async fn a_dropped_channel_leaves_no_task_and_no_connection() {
    let server = serve().await;
    let metrics = tokio::runtime::Handle::current().metrics();
    // The server's own task, and the one that accepts.
    let before = 2;
    for _ in 0..3 {
        let channel = Channel::connect(&server.uri).await.unwrap();
        let test = TestClient::new(channel);
        test.echo(Message::default()).await.unwrap();
        assert!(metrics.num_alive_tasks() > before);
    }
    until_tasks(before).await;
}

#[tokio::test]
async fn a_dropped_channel_that_could_not_connect_leaves_no_task() {
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    for _ in 0..3 {
        Channel::connect("http://127.0.0.1:1").await.unwrap_err();
    }
    until_tasks(before).await;
}
