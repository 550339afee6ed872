use std::time::{Duration, Instant};

use rpc_core::Code;
use rpc_core::client::Endpoint;
use rpc_registry::{Registry, RegistryServer};

use crate::protocol::{KeepAlive, RegisterRequest, register_request::Step, register_response};
use crate::support::{
    Host, RawWatch, address, announce, deregister, listed, raw, register, registry, registry_of,
    secret, soon, until, uri,
};

const TTL: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn what_is_registered_is_found() {
    let host = registry(0, SHORT).await;
    let registry = Registry::connect(&uri(&[host.port])).unwrap();
    let mut resolver = registry.resolver("s");
    // Once the registry has waited for those who may come back.
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
    let mut watch = RawWatch::start(&client, "s").await;
    assert_eq!(watch.next().await.instances.len(), 1);
    let broken = Instant::now();
    drop((requests, responses));
    let list = watch.next().await;
    assert!(list.instances.is_empty() && !list.whole, "{list:?}");
    assert!(!list.gone[0].deregistered, "it has not said goodbye");
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
    let mut revisions = Vec::new();
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
        revisions.push(granted.revision);
    }
    assert_eq!(revisions, [revisions[0]; 3], "the list has not changed");
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
    let mut watch = RawWatch::start(&raw(host.port).await, "s").await;
    watch.next().await;
    // The time is what is tested: three TTLs without a change of the list.
    let change = tokio::time::timeout(3 * SHORT, watch.next()).await;
    assert!(change.is_err(), "{change:?}");
    assert!(listed(host.port).await[0].entries[0].attached);
}

#[tokio::test]
async fn a_watch_gives_signs_of_life() {
    let host = registry(0, SHORT).await;
    let mut watch = RawWatch::start(&raw(host.port).await, "s").await;
    let first = watch.next().await;
    assert!(first.whole && !first.more && first.ttl_ms == 300);
    let sign = watch.any().await.unwrap();
    assert!(sign.watch == 0 && sign.incarnation == first.incarnation);
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
        let refused = refusal(&soon(responses.recv()).await.unwrap().unwrap());
        assert_eq!(refused, Some(Code::InvalidArgument), "{service} {address}");
    }
    let mut watch = RawWatch::start(&client, "").await;
    let refused = watch.next().await.refused.unwrap();
    assert_eq!(refused.code, Code::InvalidArgument as u32);
    watch.follow(2, "s", 0, 0).await;
    assert_eq!(watch.next().await.watch, 2, "the stream goes on");
    assert!(listed(host.port).await.is_empty());
}

#[tokio::test]
async fn a_step_that_is_not_known_ends_the_stream() {
    let host = registry(0, TTL).await;
    let client = raw(host.port).await;
    let (mut requests, mut responses) = client.register(());
    requests
        .send(RegisterRequest {
            step: Some(Step::KeepAlive(KeepAlive {})),
        })
        .await
        .unwrap();
    let answer = soon(responses.recv()).await.unwrap().unwrap();
    assert!(matches!(
        answer.step,
        Some(register_response::Step::KeptAlive(_))
    ));
    requests.send(RegisterRequest { step: None }).await.unwrap();
    assert_eq!(
        soon(responses.recv()).await.unwrap_err().code(),
        Code::Unimplemented
    );
}

fn refusal(answer: &crate::protocol::RegisterResponse) -> Option<Code> {
    match &answer.step {
        Some(register_response::Step::Refused(refused)) => {
            Some(Code::from_i32(refused.code.try_into().unwrap()))
        }
        _ => None,
    }
}

#[tokio::test]
async fn a_stranger_changes_and_ends_nothing_that_is_not_its_own() {
    let host = registry(0, TTL).await;
    let client = raw(host.port).await;
    let (mut requests, mut responses) = client.register(());
    requests
        .send(announce("s", 1, "127.0.0.1:1", TTL))
        .await
        .unwrap();
    soon(responses.recv()).await.unwrap().unwrap();
    // All that a stranger can know is what a watch tells.
    let id = RawWatch::start(&client, "s").await.next().await.instances[0].id;
    let (mut other, mut answers) = client.register(());
    let guesses = [Vec::new(), id.to_be_bytes().repeat(2), secret(2).0];
    for guess in guesses {
        other
            .send(deregister("s", id, guess.clone()))
            .await
            .unwrap();
        let answer = soon(answers.recv()).await.unwrap().unwrap();
        assert_eq!(refusal(&answer), Some(Code::PermissionDenied));
        let mut stolen = announce("s", 1, "127.0.0.1:2", TTL);
        if let Some(Step::Announce(announce)) = &mut stolen.step {
            announce.secret = guess;
        }
        other.send(stolen).await.unwrap();
        let answer = soon(answers.recv()).await.unwrap().unwrap();
        assert_eq!(refusal(&answer), Some(Code::PermissionDenied));
    }
    // Nor does it take the address of one that lives.
    other
        .send(announce("s", 2, "127.0.0.1:1", TTL))
        .await
        .unwrap();
    soon(answers.recv()).await.unwrap().unwrap();
    let list = RawWatch::start(&client, "s").await.next().await;
    assert_eq!((list.instances.len(), list.instances[0].id), (1, id));
}

#[tokio::test]
async fn an_owner_ends_its_instance_from_another_stream() {
    let host = registry(0, TTL).await;
    let client = raw(host.port).await;
    let (mut requests, mut responses) = client.register(());
    requests
        .send(announce("s", 1, "127.0.0.1:1", TTL))
        .await
        .unwrap();
    soon(responses.recv()).await.unwrap().unwrap();
    let (secret, id) = secret(1);
    let (mut other, mut answers) = client.register(());
    other.send(deregister("s", id, secret)).await.unwrap();
    let answer = soon(answers.recv()).await.unwrap().unwrap();
    assert!(matches!(
        answer.step,
        Some(register_response::Step::Deregistered(_))
    ));
    assert!(listed(host.port).await.is_empty());
    other
        .send(announce("s", 1, "127.0.0.1:1", TTL))
        .await
        .unwrap();
    let late = soon(answers.recv()).await.unwrap().unwrap();
    assert_eq!(
        refusal(&late),
        Some(Code::FailedPrecondition),
        "an overtaken announcement"
    );
}

#[tokio::test]
async fn a_lease_changes_its_weight_and_metadata_in_place() {
    let host = registry(0, TTL).await;
    let registry = Registry::connect(&uri(&[host.port])).unwrap();
    let lease = register(&registry, "s", address(1)).await;
    let _other = register(&registry, "s", address(2)).await;
    let mut watch = RawWatch::start(&raw(host.port).await, "s").await;
    assert_eq!(watch.next().await.instances.len(), 2);
    lease.set_weight(7).unwrap();
    let change = watch.next().await;
    assert_eq!((change.instances.len(), change.gone.len()), (1, 0));
    assert_eq!(
        (change.instances[0].id, change.instances[0].weight),
        (lease.endpoint().instance, 7)
    );
    let metadata = [("zone".to_owned(), "b".to_owned())];
    lease.set_metadata(metadata.clone().into()).unwrap();
    assert_eq!(watch.next().await.instances[0].metadata, metadata.into());
    let large = [("k".to_owned(), "v".repeat(20_000))];
    let status = lease.set_metadata(large.into()).unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    soon(lease.deregister()).await.unwrap();
    let status = lease.set_weight(1).unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
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
