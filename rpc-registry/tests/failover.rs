//! Servers under a name over real sockets: found, balanced, lost, drained.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rpc_core::{Request, Server};
use rpc_registry::{Registry, RegistryServer};
use rpc_testkit::proto::{Message, TestClient};
use rpc_testkit::{Running, run, serve};
use tokio::sync::Mutex;

async fn registry() -> (Running, String) {
    let server = Server::builder()
        .add_service(RegistryServer::new())
        .bind("127.0.0.1:0")
        .await
        .unwrap();
    let address = server.local_addr().to_string();
    (run(server), address)
}

fn address(server: &Running) -> rpc_core::client::Address {
    server.uri.trim_start_matches("http://").parse().unwrap()
}

fn request() -> Request<Message> {
    Request::new(Message::default()).with_timeout(Duration::from_secs(10))
}

/// Counts which endpoints the calls of a channel end on.
type Seen = Arc<std::sync::Mutex<HashMap<String, u32>>>;

fn observed(uri: &str) -> (rpc_core::Channel, Seen) {
    let seen = Seen::default();
    let counted = Arc::clone(&seen);
    let settings = rpc_registry::channel_builder().observer(
        move |call: &rpc_core::client::FinishedCall<'_>| {
            let endpoint = call.endpoint.unwrap_or("none").to_owned();
            *counted.lock().unwrap().entry(endpoint).or_default() += 1;
        },
    );
    (rpc_registry::builder(uri, settings).unwrap(), seen)
}

/// Makes calls side by side until so many endpoints have had some.
async fn until_spread(test: &TestClient, seen: &Seen, endpoints: usize) {
    while seen.lock().unwrap().len() < endpoints {
        let calls: Vec<_> = (0..64)
            .map(|_| {
                let test = test.clone();
                tokio::spawn(async move { test.echo(request()).await.map(|_| ()) })
            })
            .collect();
        for call in calls {
            call.await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn three_servers_share_the_load_and_one_may_die_under_it() {
    let (_registry, address_of_registry) = registry().await;
    let client = Registry::connect(&format!("registry://{address_of_registry}")).unwrap();
    let mut servers = Vec::new();
    let mut leases = Vec::new();
    for _ in 0..3 {
        let server = serve().await;
        let lease = client.register("test", address(&server)).unwrap();
        lease.ready().await.unwrap();
        leases.push(lease);
        servers.push(server);
    }
    let (channel, seen) = observed(&format!("registry://{address_of_registry}/test"));
    let test = TestClient::new(channel);
    until_spread(&test, &seen, 3).await;
    let victim = servers.remove(0);
    let dead = address(&victim).to_string();
    let failures = Arc::new(Mutex::new(Vec::new()));
    let load: Vec<_> = (0..16)
        .map(|_| {
            let (test, failures) = (test.clone(), Arc::clone(&failures));
            tokio::spawn(async move {
                for _ in 0..200 {
                    if let Err(status) = test.echo_idempotent(request()).await {
                        failures.lock().await.push(status.to_string());
                    }
                }
            })
        })
        .collect();
    victim.task.abort();
    assert!(victim.task.await.unwrap_err().is_cancelled());
    for task in load {
        task.await.unwrap();
    }
    assert_eq!(*failures.lock().await, Vec::<String>::new());
    seen.lock().unwrap().clear();
    for _ in 0..200 {
        test.echo_idempotent(request()).await.unwrap();
    }
    let seen = seen.lock().unwrap();
    assert!(!seen.contains_key(&dead), "{seen:?}");
}

#[tokio::test]
async fn the_last_list_stays_when_the_registry_is_gone() {
    let (registry, address_of_registry) = registry().await;
    let client = Registry::connect(&format!("registry://{address_of_registry}")).unwrap();
    let server = serve().await;
    let lease = client.register("test", address(&server)).unwrap();
    lease.ready().await.unwrap();
    let channel = rpc_registry::connect(&format!("registry://{address_of_registry}/test"))
        .await
        .unwrap();
    let test = TestClient::new(channel);
    registry.task.abort();
    assert!(registry.task.await.unwrap_err().is_cancelled());
    for _ in 0..500 {
        test.echo(request()).await.unwrap();
    }
}

#[tokio::test]
async fn a_drained_server_gets_no_calls_once_its_leaving_is_known() {
    let (_registry, address_of_registry) = registry().await;
    let client = Registry::connect(&format!("registry://{address_of_registry}")).unwrap();
    let (stays, leaves) = (serve().await, serve().await);
    let mut leases = Vec::new();
    for server in [&stays, &leaves] {
        let lease = client.register("test", address(server)).unwrap();
        lease.ready().await.unwrap();
        leases.push(lease);
    }
    let (channel, seen) = observed(&format!("registry://{address_of_registry}/test"));
    let test = TestClient::new(channel);
    until_spread(&test, &seen, 2).await;
    leases.remove(1).deregister().await.unwrap();
    let gone = address(&leaves).to_string();
    let settled = async {
        loop {
            seen.lock().unwrap().clear();
            for _ in 0..100 {
                test.echo(request()).await.unwrap();
            }
            if !seen.lock().unwrap().contains_key(&gone) {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), settled)
        .await
        .expect("it is no longer called");
}

#[tokio::test]
async fn a_static_list_is_balanced_and_a_dead_entry_is_passed_over() {
    let (one, two) = (serve().await, serve().await);
    let uri = format!("static:{},{},127.0.0.1:1", address(&one), address(&two));
    let (channel, seen) = observed(&uri);
    let test = TestClient::new(channel);
    until_spread(&test, &seen, 2).await;
    assert!(!seen.lock().unwrap().contains_key("127.0.0.1:1"));
}

#[tokio::test]
async fn a_name_that_nobody_has_is_said() {
    let status = rpc_registry::connect("registry://127.0.0.1:1/test")
        .await
        .unwrap_err();
    assert_eq!(status.code(), rpc_core::Code::Unavailable);
    assert!(
        status.to_string().contains("registry://127.0.0.1:1/test"),
        "{status}"
    );
}
