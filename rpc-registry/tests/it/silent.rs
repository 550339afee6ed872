//! Calls whose endpoint says nothing.

use std::time::Duration;

use rpc_core::client::{ChannelBuilder, PickFirst};
use rpc_core::{Channel, Code, Request};
use rpc_registry::balance::{LeastRequest, Rendezvous, RoundRobin};
use rpc_testkit::proto::{Message, TestClient};
use rpc_testkit::{FaultProxy, Running, serve};

/// Servers behind proxies, the first of which can swallow everything.
async fn servers(count: usize) -> (Vec<Running>, Vec<FaultProxy>, String) {
    let (mut running, mut proxies) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let server = serve().await;
        proxies.push(FaultProxy::to(&server.uri).await);
        running.push(server);
    }
    let addresses: Vec<_> = proxies
        .iter()
        .map(|proxy| proxy.address().to_string())
        .collect();
    let target = format!("static:{}", addresses.join(","));
    (running, proxies, target)
}

fn policies() -> [ChannelBuilder; 4] {
    [
        Channel::builder().balancer(RoundRobin::new()),
        Channel::builder().balancer(LeastRequest::new()),
        Channel::builder().balancer(Rendezvous::new()),
        Channel::builder().balancer(PickFirst::default()),
    ]
}

fn request() -> Request<Message> {
    Request::new(Message::default())
        .with_wait_for_ready()
        .with_timeout(Duration::from_secs(10))
}

#[tokio::test]
async fn no_idempotent_call_is_lost_to_a_silent_endpoint() {
    for builder in policies() {
        let (_running, proxies, target) = servers(2).await;
        let channel = rpc_registry::builder(&target, builder).unwrap();
        let test = TestClient::new(channel);
        // Both are connected, and a tenth of these may be repeated.
        for _ in 0..400 {
            test.echo_idempotent(request()).await.unwrap();
        }
        proxies[0].blackhole(true);
        let calls: Vec<_> = (0..20)
            .map(|_| {
                let test = test.clone();
                tokio::spawn(async move { test.echo_idempotent(request()).await.map(drop) })
            })
            .collect();
        for call in calls {
            call.await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn what_must_not_be_repeated_is_waited_for() {
    let (_running, proxies, target) = servers(2).await;
    let builder = Channel::builder().balancer(RoundRobin::new());
    let test = TestClient::new(rpc_registry::builder(&target, builder).unwrap());
    for _ in 0..400 {
        test.echo(request()).await.unwrap();
    }
    proxies[0].blackhole(true);
    let mut lost = 0;
    for _ in 0..4 {
        let request = Request::new(Message::default()).with_timeout(Duration::from_secs(1));
        if let Err(status) = test.echo(request).await {
            assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
            lost += 1;
        }
    }
    // After the first one that is lost the endpoint is passed over.
    assert!(lost <= 1, "{lost}");
}
