use rpc_core::Code;
use rpc_core::client::Endpoint;
use rpc_registry::{Registry, balance};

use std::time::Duration;

use crate::support::{Backend, closed_port, register, registry, soon, uri, who};

const TTL: Duration = Duration::from_secs(5);
/// A registry says for this long and a second that servers may not have come back to it.
const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_client_calls_a_server_by_its_name() {
    let host = registry(0, TTL).await;
    let backend = Backend::start("only").await;
    let servers = Registry::connect(&uri(&[host.port])).unwrap();
    let _lease = register(&servers, "who", backend.host.address()).await;
    let channel = soon(rpc_registry::connect(&format!("{}/who", uri(&[host.port]))))
        .await
        .unwrap();
    assert_eq!(soon(who(&channel)).await.unwrap(), "only");
}

#[tokio::test]
async fn a_lazy_channel_finds_what_registers_later() {
    let host = registry(0, SHORT).await;
    let channel = rpc_registry::channel(&format!("{}/who", uri(&[host.port]))).unwrap();
    let status = soon(who(&channel)).await.unwrap_err();
    assert!(status.to_string().contains("no endpoint"), "{status}");
    let backend = Backend::start("late").await;
    let servers = Registry::connect(&uri(&[host.port])).unwrap();
    let _lease = register(&servers, "who", backend.host.address()).await;
    let called = async {
        loop {
            if let Ok(name) = who(&channel).await {
                return name;
            }
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(soon(called).await, "late");
}

#[tokio::test]
async fn a_static_list_is_balanced() {
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    let target = format!(
        "static:127.0.0.1:{},127.0.0.1:{}",
        one.host.port, two.host.port
    );
    let settings = rpc_core::Channel::builder().balancer(balance::RoundRobin::new());
    let channel = rpc_registry::builder(&target, settings).unwrap();
    let both = async {
        while one.count() < 10 || two.count() < 10 {
            who(&channel).await.unwrap();
        }
    };
    soon(both).await;
    let least = soon(rpc_registry::connect(&target)).await.unwrap();
    assert!(["one", "two"].contains(&soon(who(&least)).await.unwrap().as_str()));
}

#[tokio::test]
async fn a_static_list_with_one_dead_works() {
    let backend = Backend::start("alive").await;
    let (dead, _socket) = closed_port();
    let channel = soon(rpc_registry::connect(&format!(
        "static:127.0.0.1:{dead},127.0.0.1:{}",
        backend.host.port
    )))
    .await
    .unwrap();
    for _ in 0..50 {
        assert_eq!(soon(who(&channel)).await.unwrap(), "alive");
    }
}

#[tokio::test]
async fn memory_means_the_registry_of_the_process() {
    let backend = Backend::start("near").await;
    let _lease = Registry::memory_default()
        .register("backends-memory", backend.host.address())
        .unwrap();
    let channel = soon(rpc_registry::connect("memory:backends-memory"))
        .await
        .unwrap();
    assert_eq!(soon(who(&channel)).await.unwrap(), "near");
}

#[tokio::test]
async fn weight_zero_gets_no_call() {
    let host = registry(0, TTL).await;
    let (used, unused) = (Backend::start("used").await, Backend::start("unused").await);
    let servers = Registry::connect(&uri(&[host.port])).unwrap();
    let _one = register(&servers, "who", used.host.address()).await;
    let _two = register(
        &servers,
        "who",
        Endpoint::new(unused.host.address()).with_weight(0),
    )
    .await;
    let channel = soon(rpc_registry::connect(&format!("{}/who", uri(&[host.port]))))
        .await
        .unwrap();
    for _ in 0..50 {
        soon(who(&channel)).await.unwrap();
    }
    assert_eq!((used.count(), unused.count()), (50, 0));
}

#[tokio::test]
async fn errors_name_target_and_cause() {
    let (dead, _socket) = closed_port();
    let target = format!("static:127.0.0.1:{dead}");
    let status = soon(rpc_registry::connect(&target)).await.unwrap_err();
    let text = status.to_string();
    assert!(
        status.code() == Code::Unavailable && text.contains(&target) && text.contains("refused"),
        "{text}"
    );
    let target = format!("registry://127.0.0.1:{dead}/who");
    let text = soon(rpc_registry::connect(&target))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        text.contains(&target) && text.contains("registry") && text.contains("refused"),
        "{text}"
    );
    let host = registry(0, SHORT).await;
    let target = format!("{}/nobody", uri(&[host.port]));
    let text = soon(rpc_registry::connect(&target))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        text.contains(&target) && text.contains("no endpoint"),
        "{text}"
    );
    assert_eq!(
        rpc_registry::connect("http://x").await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn a_new_client_waits_while_a_restarted_registry_refills() {
    let backend = Backend::start("back").await;
    let host = registry(0, TTL).await;
    let servers = Registry::connect(&uri(&[host.port])).unwrap();
    let channel = rpc_registry::channel(&format!("{}/who", uri(&[host.port]))).unwrap();
    let mut call = std::pin::pin!(who(&channel));
    let early = tokio::time::timeout(SHORT, &mut call).await;
    assert!(early.is_err(), "{early:?}");
    let _lease = register(&servers, "who", backend.host.address()).await;
    assert_eq!(soon(call).await.unwrap(), "back");
}

/// Of three servers a registry drops two without a goodbye, which answer all the same.
#[tokio::test]
async fn a_registry_that_is_wrong_about_live_servers_takes_nobody_off() {
    let host = registry(0, SHORT).await;
    let mut backends = Vec::new();
    for name in ["one", "two", "three"] {
        backends.push(Backend::start(name).await);
    }
    let client = crate::support::raw(host.port).await;
    let mut streams = Vec::new();
    for (number, backend) in (1..).zip(&backends) {
        let (mut requests, mut responses) = client.register(());
        let address = backend.host.address().to_string();
        let announced = crate::support::announce("who", number, &address, 4 * SHORT);
        requests.send(announced).await.unwrap();
        soon(responses.recv()).await.unwrap().unwrap();
        streams.push((requests, responses));
    }
    let settings = rpc_core::Channel::builder().balancer(balance::RoundRobin::new());
    let uri = format!("{}/who", uri(&[host.port]));
    let channel = rpc_registry::builder(&uri, settings).unwrap();
    while backends.iter().any(|backend| backend.count() == 0) {
        soon(who(&channel)).await.unwrap();
    }
    // All three are cut off from the registry.
    drop(streams);
    let expired = async {
        while !crate::support::listed(host.port).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(expired).await;
    let counts: Vec<_> = backends.iter().map(Backend::count).collect();
    let all_again = async {
        while backends
            .iter()
            .zip(&counts)
            .any(|(one, before)| one.count() < before + 10)
        {
            who(&channel).await.unwrap();
        }
    };
    soon(all_again).await;
    let cold = soon(rpc_registry::connect(&uri)).await.unwrap_err();
    assert!(
        cold.to_string().contains("no endpoint"),
        "the list is empty: {cold}"
    );
}

#[tokio::test]
async fn a_lease_that_changes_its_weight_gets_another_share_over_the_same_connection() {
    let host = registry(0, TTL).await;
    let (first, second) = (
        Backend::start("first").await,
        Backend::start("second").await,
    );
    let servers = Registry::connect(&uri(&[host.port])).unwrap();
    let one = register(&servers, "who", first.host.address()).await;
    let _two = register(&servers, "who", second.host.address()).await;
    let settings = rpc_core::Channel::builder().balancer(balance::RoundRobin::new());
    let uri = format!("{}/who", uri(&[host.port]));
    let channel = rpc_registry::builder(&uri, settings).unwrap();
    while first.count() == 0 || second.count() == 0 {
        soon(who(&channel)).await.unwrap();
    }
    one.set_weight(0).unwrap();
    let shed = async {
        loop {
            let before = first.count();
            for _ in 0..20 {
                who(&channel).await.unwrap();
            }
            if first.count() == before {
                return;
            }
        }
    };
    soon(shed).await;
}
