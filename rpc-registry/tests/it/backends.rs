use rpc_core::Code;
use rpc_core::client::Endpoint;
use rpc_registry::{Registry, balance};

use std::time::Duration;

use crate::support::{Backend, closed_port, register, registry, soon, uri, who};

const TTL: Duration = Duration::from_secs(5);

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
    let host = registry(0, TTL).await;
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
    let host = registry(0, TTL).await;
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
