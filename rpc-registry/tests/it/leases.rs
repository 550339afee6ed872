use std::time::{Duration, Instant};

use rpc_core::Code;
use rpc_core::client::Endpoint;
use rpc_registry::{Registry, RegistryServer};

use crate::protocol::{
    Deregister, KeepAlive, RegisterRequest, WatchRequest, register_request::Step, register_response,
};
use crate::support::{
    Host, address, announce, listed, raw, register, registry, registry_of, soon, until, uri,
};

const TTL: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn what_is_registered_is_found() {
    let host = registry(0, TTL).await;
    let registry = Registry::connect(&uri(&[host.port])).unwrap();
    let mut resolver = registry.resolver("s");
    until(&mut *resolver, &[]).await;
    let _one = register(&registry, "s", address(1)).await;
    until(&mut *resolver, &[1]).await;
    let _two = register(&registry, "s", address(2)).await;
    let _other = register(&registry, "t", address(3)).await;
    until(&mut *resolver, &[1, 2]).await;
}

#[tokio::test]
async fn weight_metadata_and_instance_travel() {
    let host = registry(0, TTL).await;
    let registry = Registry::connect(&uri(&[host.port])).unwrap();
    let lease = register(
        &registry,
        "s",
        Endpoint::new(address(1))
            .with_weight(7)
            .with_metadata("zone", "é"),
    )
    .await;
    let list = soon(registry.resolver("s").next()).await.unwrap();
    assert_eq!(list, [lease.endpoint().clone()]);
    assert_eq!(
        (list[0].weight, list[0].metadata["zone"].as_str()),
        (7, "é")
    );
    assert_ne!(list[0].instance, 0);
}

#[tokio::test]
async fn after_the_acknowledgement_of_deregister_it_is_gone() {
    let host = registry(0, TTL).await;
    let registry = Registry::connect(&uri(&[host.port])).unwrap();
    let mut resolver = registry.resolver("s");
    let lease = register(&registry, "s", address(1)).await;
    until(&mut *resolver, &[1]).await;
    soon(lease.deregister()).await.unwrap();
    assert!(listed(host.port).await.is_empty());
    until(&mut *resolver, &[]).await;
    assert!(!lease.is_ready());
    assert_eq!(
        lease.ready().await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    soon(lease.deregister()).await.unwrap();
}

#[tokio::test]
async fn deregistering_at_once_leaves_nothing() {
    let host = registry(0, TTL).await;
    let registry = Registry::connect(&uri(&[host.port])).unwrap();
    for port in 1..=20 {
        let lease = registry.register("s", address(port)).unwrap();
        soon(lease.deregister()).await.unwrap();
    }
    assert!(listed(host.port).await.is_empty());
}

#[tokio::test]
async fn a_dropped_lease_deregisters_in_the_background() {
    let host = registry(0, Duration::from_secs(60)).await;
    let registry = Registry::connect(&uri(&[host.port])).unwrap();
    let mut resolver = registry.resolver("s");
    let lease = register(&registry, "s", address(1)).await;
    until(&mut *resolver, &[1]).await;
    drop(lease);
    until(&mut *resolver, &[]).await;
}

#[tokio::test]
async fn a_broken_lease_lives_for_the_ttl() {
    let host = registry(0, TTL).await;
    let client = raw(host.port).await;
    let (mut requests, mut responses) = client.register(());
    requests
        .send(announce("s", 1, "127.0.0.1:1", 2 * SHORT))
        .await
        .unwrap();
    soon(responses.recv()).await.unwrap().unwrap();
    let mut watch = client.watch(WatchRequest {
        service: "s".into(),
    });
    assert_eq!(
        soon(watch.recv()).await.unwrap().unwrap().instances.len(),
        1
    );
    let broken = Instant::now();
    drop((requests, responses));
    let list = soon(watch.recv()).await.unwrap().unwrap();
    assert!(list.instances.is_empty() && !list.unchanged);
    assert!(list.departed.is_empty(), "it has not said goodbye");
    assert!(
        broken.elapsed() >= 2 * SHORT - Duration::from_millis(20),
        "{:?}",
        broken.elapsed()
    );
}

#[tokio::test]
async fn a_lease_is_taken_up_again_within_the_ttl() {
    let host = registry(0, TTL).await;
    let client = raw(host.port).await;
    let mut leases = Vec::new();
    let mut watch = client.watch(WatchRequest {
        service: "s".into(),
    });
    soon(watch.recv()).await.unwrap();
    for _ in 0..3 {
        let (mut requests, mut responses) = client.register(());
        requests
            .send(announce("s", 1, "127.0.0.1:1", TTL))
            .await
            .unwrap();
        let Some(register_response::Step::Granted(granted)) =
            soon(responses.recv()).await.unwrap().unwrap().step
        else {
            panic!("not granted")
        };
        leases.push((granted.lease_id, granted.revision));
    }
    assert!(
        leases.windows(2).all(|pair| pair[0].0 < pair[1].0),
        "each stream has a lease of its own: {leases:?}"
    );
    assert!(
        leases.iter().all(|lease| lease.1 == leases[0].1),
        "the list has not changed: {leases:?}"
    );
    let entries = &listed(host.port).await[0].entries;
    assert_eq!((entries.len(), entries[0].ttl_ms), (1, 5000));
}

#[tokio::test]
async fn a_silent_lease_is_ended() {
    let host = registry(0, TTL).await;
    let client = raw(host.port).await;
    let (mut requests, mut responses) = client.register(());
    requests
        .send(announce("s", 1, "127.0.0.1:1", SHORT))
        .await
        .unwrap();
    soon(responses.recv()).await.unwrap().unwrap();
    let status = soon(responses.recv()).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted, "{status}");
    assert!(listed(host.port).await.is_empty());
}

#[tokio::test]
async fn a_lease_that_keeps_alive_outlives_its_ttl() {
    let host = registry(0, TTL).await;
    let registry = Registry::connect(&uri(&[host.port]))
        .unwrap()
        .lease_ttl(SHORT);
    let _lease = register(&registry, "s", address(1)).await;
    let mut watch = raw(host.port).await.watch(WatchRequest {
        service: "s".into(),
    });
    soon(watch.recv()).await.unwrap();
    // The time is what is tested: three TTLs without a change of the list.
    let change = tokio::time::timeout(3 * SHORT, watch.recv()).await;
    assert!(change.is_err(), "{change:?}");
    assert!(listed(host.port).await[0].entries[0].attached);
}

#[tokio::test]
async fn a_watch_gives_signs_of_life() {
    let host = registry(0, SHORT).await;
    let mut watch = raw(host.port).await.watch(WatchRequest {
        service: "s".into(),
    });
    let first = soon(watch.recv()).await.unwrap().unwrap();
    assert!(!first.unchanged && first.ttl_ms == 300);
    let sign = soon(watch.recv()).await.unwrap().unwrap();
    assert!(
        sign.unchanged && sign.revision == first.revision && sign.incarnation == first.incarnation
    );
}

#[tokio::test]
async fn the_registry_refuses_what_no_client_could_use() {
    let host = registry(0, TTL).await;
    let client = raw(host.port).await;
    for (service, address) in [
        ("s", "0.0.0.0:1"),
        ("s", "[::]:1"),
        ("s", "nonsense"),
        ("", "127.0.0.1:1"),
        ("s", "127.0.0.1:0"),
    ] {
        let (mut requests, mut responses) = client.register(());
        requests
            .send(announce(service, 1, address, TTL))
            .await
            .unwrap();
        let status = soon(responses.recv()).await.unwrap_err();
        assert_eq!(
            status.code(),
            Code::InvalidArgument,
            "{service} {address}: {status}"
        );
    }
    let mut watch = client.watch(WatchRequest {
        service: String::new(),
    });
    assert_eq!(
        soon(watch.recv()).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    assert!(listed(host.port).await.is_empty());
}

#[tokio::test]
async fn steps_out_of_order_are_refused() {
    let host = registry(0, TTL).await;
    let client = raw(host.port).await;
    let (mut requests, mut responses) = client.register(());
    requests
        .send(RegisterRequest {
            step: Some(Step::KeepAlive(KeepAlive {})),
        })
        .await
        .unwrap();
    assert_eq!(
        soon(responses.recv()).await.unwrap_err().code(),
        Code::Aborted
    );
    let (mut requests, mut responses) = client.register(());
    requests.send(RegisterRequest { step: None }).await.unwrap();
    assert_eq!(
        soon(responses.recv()).await.unwrap_err().code(),
        Code::Unimplemented
    );
}

#[tokio::test]
async fn deregistering_another_stream_s_instance_needs_its_number_only() {
    let host = registry(0, TTL).await;
    let client = raw(host.port).await;
    let (mut requests, mut responses) = client.register(());
    requests
        .send(announce("s", 77, "127.0.0.1:1", TTL))
        .await
        .unwrap();
    soon(responses.recv()).await.unwrap().unwrap();
    let (mut other, mut answers) = client.register(());
    other
        .send(RegisterRequest {
            step: Some(Step::Deregister(Deregister {
                service: "s".into(),
                instance_id: 77,
            })),
        })
        .await
        .unwrap();
    let answer = soon(answers.recv()).await.unwrap().unwrap();
    assert!(matches!(
        answer.step,
        Some(register_response::Step::Deregistered(_))
    ));
    assert!(listed(host.port).await.is_empty());
    let (mut late, mut answers) = client.register(());
    late.send(announce("s", 77, "127.0.0.1:1", TTL))
        .await
        .unwrap();
    assert_eq!(
        soon(answers.recv()).await.unwrap_err().code(),
        Code::FailedPrecondition,
        "an overtaken announcement"
    );
}

#[tokio::test]
async fn a_registry_in_the_process_and_its_clients_are_one() {
    let server = RegistryServer::new();
    let inside = server.registry();
    let host: Host = registry_of(0, server).await;
    let outside = Registry::connect(&uri(&[host.port])).unwrap();
    let mut resolver = outside.resolver("s");
    let here = inside.register("s", address(1)).unwrap();
    until(&mut *resolver, &[1]).await;
    let _there = register(&outside, "s", address(2)).await;
    until(&mut *inside.resolver("s"), &[1, 2]).await;
    drop(here);
    until(&mut *resolver, &[2]).await;
}

#[tokio::test]
async fn a_graceful_end_of_the_registry_does_not_wait_for_its_streams() {
    let mut host = registry(0, TTL).await;
    let registry = Registry::connect(&uri(&[host.port])).unwrap();
    let lease = register(&registry, "s", address(1)).await;
    let mut resolver = registry.resolver("s");
    until(&mut *resolver, &[1]).await;
    host.shutdown.shutdown();
    soon(&mut host.serving).await.unwrap();
    drop(lease);
}
