use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rpc_core::Channel;
use rpc_registry::{Lease, Registry, RegistryServer};
use tokio::task::JoinSet;

use crate::support::{
    Backend, RawWatch, address, announce, closed_port, listed, raw, register, registry,
    registry_of, secret, soon, until, uri, who,
};

const TTL: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(500);

/// Calls without a pause from several tasks until told to stop; counts successes, keeps failures.
struct Load {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<(u64, Vec<String>)>,
}

impl Load {
    fn start(channel: &Channel) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for _ in 0..8 {
            let (channel, stop) = (channel.clone(), Arc::clone(&stop));
            tasks.spawn(async move {
                let (mut ok, mut failed) = (0, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    match who(&channel).await {
                        Ok(_) => ok += 1,
                        Err(status) => failed.push(status.to_string()),
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                (ok, failed)
            });
        }
        Self { stop, tasks }
    }

    /// Ends the load, which must not have had a failure.
    async fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let mut calls = 0;
        while let Some(task) = soon(self.tasks.join_next()).await {
            let (ok, failed) = task.unwrap();
            assert!(
                failed.is_empty(),
                "{} failed, first {}",
                failed.len(),
                failed[0]
            );
            calls += ok;
        }
        calls
    }
}

async fn three(registry: &Registry) -> (Vec<Backend>, Vec<Lease>) {
    let (mut backends, mut leases) = (Vec::new(), Vec::new());
    for name in ["one", "two", "three"] {
        let backend = Backend::start(name).await;
        leases.push(register(registry, "who", backend.host.address()).await);
        backends.push(backend);
    }
    (backends, leases)
}

/// Waits until each backend has had this many more calls.
async fn all_called(backends: &[Backend], more: u64) {
    let before: Vec<_> = backends.iter().map(Backend::count).collect();
    let called = async {
        while backends
            .iter()
            .zip(&before)
            .any(|(backend, before)| backend.count() < before + more)
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(called).await;
}

#[tokio::test]
async fn one_of_three_backends_is_killed_and_no_idempotent_call_fails() {
    let host = registry(0, TTL).await;
    let servers = Registry::connect(&uri(&[host.port])).unwrap();
    let (mut backends, _leases) = three(&servers).await;
    let channel = soon(rpc_registry::connect(&format!("{}/who", uri(&[host.port]))))
        .await
        .unwrap();
    let load = Load::start(&channel);
    all_called(&backends, 20).await;
    let port = backends.remove(0).host.kill();
    all_called(&backends, 50).await;
    // It comes back at its address, registers, and gets calls again.
    let back = Backend::start_at(port, "back").await;
    let _lease = register(&servers, "who", back.host.address()).await;
    backends.push(back);
    all_called(&backends, 20).await;
    assert!(load.end().await > 100);
}

#[tokio::test]
async fn the_registry_is_killed_under_load_and_a_backend_after_it() {
    let host = registry(0, TTL).await;
    let servers = Registry::connect(&uri(&[host.port])).unwrap();
    let (mut backends, _leases) = three(&servers).await;
    let channel = soon(rpc_registry::connect(&format!("{}/who", uri(&[host.port]))))
        .await
        .unwrap();
    let load = Load::start(&channel);
    all_called(&backends, 20).await;
    let port = host.kill();
    all_called(&backends, 100).await;
    backends.remove(0).host.kill();
    all_called(&backends, 100).await;
    // A registry that knows nobody is back; the members come back to it.
    let host = registry(port, TTL).await;
    let known = async {
        while listed(host.port)
            .await
            .first()
            .is_none_or(|service| service.entries.len() < 3)
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(known).await;
    all_called(&backends, 20).await;
    load.end().await;
}

#[tokio::test]
async fn a_restarted_registry_is_told_again_and_the_list_never_shrinks() {
    let host = registry(0, TTL).await;
    let servers = Registry::connect(&uri(&[host.port])).unwrap();
    let mut resolver = servers.resolver("s");
    let leases = [
        register(&servers, "s", address(1)).await,
        register(&servers, "s", address(2)).await,
    ];
    until(&mut *resolver, &[1, 2]).await;
    let port = host.kill();
    assert!(
        soon(resolver.next()).await.is_err(),
        "the outage is told, and is no list"
    );
    let host = registry(port, TTL).await;
    let known = async {
        while listed(host.port)
            .await
            .first()
            .is_none_or(|service| service.entries.len() < 2)
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(known).await;
    // The next news of the list is a third member: nothing was dropped in between.
    let _third = register(&servers, "s", address(3)).await;
    let next = soon(async {
        loop {
            if let Ok(list) = resolver.next().await {
                return list;
            }
        }
    });
    assert_eq!(next.await.len(), 3);
    drop(leases);
}

#[tokio::test]
async fn a_member_that_does_not_come_back_goes_once_the_registry_has_refilled() {
    let host = registry(0, SHORT).await;
    let servers = Registry::connect(&uri(&[host.port])).unwrap();
    let mut resolver = servers.resolver("s");
    let stays = [
        register(&servers, "s", address(1)).await,
        register(&servers, "s", address(3)).await,
    ];
    {
        let client = raw(host.port).await;
        let (mut requests, mut responses) = client.register(());
        requests
            .send(announce("s", 9, "127.0.0.1:2", Duration::from_secs(60)))
            .await
            .unwrap();
        soon(responses.recv()).await.unwrap().unwrap();
        until(&mut *resolver, &[1, 2, 3]).await;
    }
    let port = host.kill();
    let started = Instant::now();
    let _host = registry(port, SHORT).await;
    until(&mut *resolver, &[1, 3]).await;
    assert!(
        started.elapsed() >= SHORT + Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
    drop(stays);
}

#[tokio::test]
async fn registering_waits_for_a_registry_that_is_not_there_yet() {
    let (port, socket) = closed_port();
    let servers = Registry::connect(&uri(&[port])).unwrap();
    let lease = servers.register("s", address(1)).unwrap();
    let waiting = tokio::time::timeout(SHORT, lease.ready()).await;
    assert!(waiting.is_err(), "{waiting:?}");
    drop(socket);
    let host = registry(port, TTL).await;
    soon(lease.ready()).await.unwrap();
    assert_eq!(listed(host.port).await[0].entries.len(), 1);
}

#[tokio::test]
async fn deregistering_from_a_dead_registry_says_so() {
    let host = registry(0, TTL).await;
    let servers = Registry::connect(&uri(&[host.port])).unwrap();
    let lease = register(&servers, "s", address(1)).await;
    let port = host.kill();
    let status = soon(lease.deregister()).await.unwrap_err();
    assert!(
        status
            .message()
            .contains(&format!("127.0.0.1:{port} may still list s")),
        "{status}"
    );
}

#[tokio::test]
async fn one_of_two_registries_is_enough() {
    let (dead, _socket) = closed_port();
    let host = registry(0, TTL).await;
    for both in [[dead, host.port], [host.port, dead]] {
        let servers = Registry::connect(&uri(&both)).unwrap();
        let lease = register(&servers, "s", address(1)).await;
        until(&mut *servers.resolver("s"), &[1]).await;
        soon(lease.deregister()).await.unwrap();
    }
}

#[tokio::test]
async fn a_server_registers_with_each_registry() {
    let (first, second) = (registry(0, TTL).await, registry(0, TTL).await);
    let servers = Registry::connect(&uri(&[first.port, second.port])).unwrap();
    let lease = register(&servers, "s", address(1)).await;
    for port in [first.port, second.port] {
        until(
            &mut *Registry::connect(&uri(&[port])).unwrap().resolver("s"),
            &[1],
        )
        .await;
    }
    soon(lease.deregister()).await.unwrap();
    assert!(listed(first.port).await.is_empty() && listed(second.port).await.is_empty());
}

#[tokio::test]
async fn a_watch_goes_on_with_the_other_registry_and_returns_to_one_that_is_back() {
    let mut hosts = vec![registry(0, TTL).await, registry(0, TTL).await];
    let servers = Registry::connect(&uri(&[hosts[0].port, hosts[1].port])).unwrap();
    let _lease = register(&servers, "s", address(1)).await;
    let mut resolvers: Vec<_> = (0..8).map(|_| servers.resolver("s")).collect();
    for resolver in &mut resolvers {
        until(&mut **resolver, &[1]).await;
    }
    let port = hosts.remove(0).kill();
    let _new = register(&servers, "s", address(2)).await;
    for resolver in &mut resolvers {
        until(&mut **resolver, &[1, 2]).await;
    }
    let back = registry(port, TTL).await;
    let only_there = Registry::connect(&uri(&[back.port])).unwrap();
    let _third = register(&only_there, "s", address(3)).await;
    for resolver in &mut resolvers {
        until(&mut **resolver, &[1, 2, 3]).await;
    }
}

#[tokio::test]
async fn a_registry_that_is_wrong_beside_one_that_is_right_changes_nothing() {
    let (right, wrong) = (registry(0, TTL).await, registry(0, SHORT).await);
    let servers = Registry::connect(&uri(&[right.port])).unwrap();
    let _leases = [
        register(&servers, "s", address(1)).await,
        register(&servers, "s", address(2)).await,
    ];
    // The wrong one knows nobody, and is past the time in which it would say why.
    let alone = Registry::connect(&uri(&[wrong.port])).unwrap();
    until(&mut *alone.resolver("s"), &[]).await;
    let both = Registry::connect(&uri(&[wrong.port, right.port])).unwrap();
    for _ in 0..10 {
        let first = soon(both.resolver("s").next()).await.unwrap();
        assert_eq!(first.len(), 2, "the first list is that of both");
    }
}

#[tokio::test]
async fn one_registry_by_two_names_is_no_rival_of_itself() {
    let host = registry(0, SHORT).await;
    let names = format!("registry://127.0.0.1:{0},localhost:{0}", host.port);
    let servers = Registry::connect(&names).unwrap();
    let lease = register(&servers, "s", address(1)).await;
    let mut watch = RawWatch::start(&raw(host.port).await, "s").await;
    watch.next().await;
    // The time is what is tested: four TTLs in which neither name takes the lease from the other.
    let calm = async {
        loop {
            let piece = watch.next().await;
            assert!(
                piece.gone.is_empty() && piece.instances.is_empty(),
                "{piece:?}"
            );
        }
    };
    assert!(tokio::time::timeout(4 * SHORT, calm).await.is_err());
    soon(lease.deregister()).await.unwrap();
    assert!(listed(host.port).await.is_empty());
}

fn with_file(path: &std::path::Path, ttl: Duration) -> RegistryServer {
    RegistryServer::builder()
        .ttl(ttl)
        .state_file(path)
        .build()
        .unwrap()
}

#[tokio::test]
async fn a_state_file_brings_the_entries_over_a_restart_for_their_ttl() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state");
    let host = registry_of(0, with_file(&file, TTL)).await;
    let client = raw(host.port).await;
    let (mut requests, mut responses) = client.register(());
    requests
        .send(announce("s", 1, "127.0.0.1:1", 2 * SHORT))
        .await
        .unwrap();
    soon(responses.recv()).await.unwrap().unwrap();
    let saved = async {
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(saved).await;
    let port = host.kill();
    let host = registry_of(port, with_file(&file, TTL)).await;
    let entries = listed(host.port).await.remove(0).entries;
    assert!(
        !entries[0].attached && entries[0].instance.as_ref().unwrap().id == secret(1).1,
        "{entries:?}"
    );
    let gone = async {
        while !listed(host.port).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon(gone).await;
}

#[tokio::test]
async fn an_owner_takes_its_instance_up_again_after_a_restart_and_a_stranger_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state");
    let port = {
        let host = registry_of(0, with_file(&file, TTL)).await;
        let servers = Registry::connect(&uri(&[host.port])).unwrap();
        let lease = register(&servers, "s", address(1)).await;
        let other = register(&servers, "s", address(2)).await;
        // Its acknowledgement waits for the disk, which then holds the other one.
        soon(other.deregister()).await.unwrap();
        let port = host.kill();
        drop((lease, servers));
        port
    };
    let host = registry_of(port, with_file(&file, TTL)).await;
    let id = listed(host.port).await[0].entries[0]
        .instance
        .as_ref()
        .unwrap()
        .id;
    let client = raw(host.port).await;
    let (mut requests, mut responses) = client.register(());
    requests
        .send(crate::support::deregister("s", id, secret(3).0))
        .await
        .unwrap();
    let answer = soon(responses.recv()).await.unwrap().unwrap();
    let refused = matches!(
        answer.step,
        Some(crate::protocol::register_response::Step::Refused(_))
    );
    assert!(refused && listed(host.port).await.len() == 1, "{answer:?}");
}

#[tokio::test]
async fn an_acknowledged_deregistration_is_in_the_state_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state");
    let host = registry_of(0, with_file(&file, TTL)).await;
    let servers = Registry::connect(&uri(&[host.port])).unwrap();
    let lease = register(&servers, "s", address(1)).await;
    let _stays = register(&servers, "s", address(2)).await;
    soon(lease.deregister()).await.unwrap();
    host.kill();
    let host = registry_of(0, with_file(&file, TTL)).await;
    let entries = listed(host.port).await.remove(0).entries;
    let addresses: Vec<_> = entries
        .iter()
        .map(|entry| entry.instance.as_ref().unwrap().address.as_str())
        .collect();
    assert_eq!(addresses, ["127.0.0.1:2"]);
}

#[tokio::test]
async fn a_damaged_state_file_is_set_aside_and_started_without() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state");
    std::fs::write(&file, b"RPCREGST and then garbage of some length").unwrap();
    let host = registry_of(0, with_file(&file, TTL)).await;
    assert!(listed(host.port).await.is_empty());
    let names: Vec<_> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        names.iter().any(|name| name.starts_with("state.damaged-")),
        "{names:?}"
    );
    let servers = Registry::connect(&uri(&[host.port])).unwrap();
    let _lease = register(&servers, "s", address(1)).await;
}

#[test]
fn a_state_file_that_cannot_be_used_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let error = RegistryServer::builder()
        .state_file(directory.path())
        .build()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&directory.path().display().to_string()),
        "{error}"
    );
}
