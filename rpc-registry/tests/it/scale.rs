//! Many members, leases and watches, and large ones.

use std::collections::HashSet;
use std::time::Duration;

use rpc_core::client::{Address, Endpoint};
use rpc_core::{Code, Server};
use rpc_registry::{Registry, RegistryServer};
use rpc_testkit::FaultProxy;

use crate::support::{Host, RawWatch, address, raw, register, registry, soon, until, uri};

const TTL: Duration = Duration::from_secs(60);
/// For what takes long on a busy machine.
const LONG: Duration = Duration::from_secs(60);

fn unix(number: usize) -> Address {
    format!("unix:/run/{number}").parse().unwrap()
}

async fn known(resolver: &mut dyn rpc_core::client::Resolver, count: usize) -> Vec<Endpoint> {
    let waiting = async {
        loop {
            if let Ok(list) = resolver.next().await
                && list.len() == count
            {
                return list;
            }
        }
    };
    tokio::time::timeout(LONG, waiting).await.unwrap()
}

/// More than any message may have, and more than any window holds.
#[tokio::test]
async fn six_hundred_instances_with_sixteen_kibibytes_of_metadata_are_listed() {
    let host = registry(0, TTL).await;
    let servers = Registry::connect(&uri(&[host.port])).unwrap();
    let metadata = "m".repeat(16 * 1024 - 1);
    let leases: Vec<_> = (0..600)
        .map(|number| {
            let endpoint = Endpoint::new(unix(number)).with_metadata("k", metadata.clone());
            servers.register("s", endpoint).unwrap()
        })
        .collect();
    let clients = Registry::connect(&uri(&[host.port])).unwrap();
    let list = known(&mut *clients.resolver("s"), 600).await;
    assert!(
        list.iter()
            .all(|endpoint| endpoint.metadata["k"] == metadata)
    );
    assert_eq!(
        crate::support::listed(host.port).await[0].entries.len(),
        600
    );
    drop(leases);
}

#[tokio::test]
async fn a_change_costs_its_own_size() {
    let host = registry(0, TTL).await;
    let servers = Registry::connect(&uri(&[host.port])).unwrap();
    let leases: Vec<_> = (0..1000)
        .map(|number| servers.register("s", unix(number)).unwrap())
        .collect();
    for lease in &leases {
        soon(lease.ready()).await.unwrap();
    }
    let mut watch = RawWatch::start(&raw(host.port).await, "s").await;
    let mut first = watch.next().await;
    let mut ids: HashSet<u64> = first.instances.iter().map(|one| one.id).collect();
    while first.more {
        first = watch.next().await;
        assert!(!first.whole);
        ids.extend(first.instances.iter().map(|one| one.id));
    }
    assert_eq!(ids.len(), 1000);
    let _more = register(&servers, "s", unix(1000)).await;
    let change = watch.next().await;
    assert_eq!((change.instances.len(), change.gone.len()), (1, 0));
    // One that comes back is told what it does not know.
    let (incarnation, revision) = (change.incarnation, change.revision);
    soon(leases[0].deregister()).await.unwrap();
    let client = raw(host.port).await;
    let again = RawWatch::resume(&client, "s", incarnation, revision);
    let change = again.await.next().await;
    assert_eq!(
        (change.whole, change.instances.len(), change.gone.len()),
        (false, 0, 1)
    );
    assert!(change.gone[0].deregistered);
    let other_run = RawWatch::resume(&client, "s", incarnation + 1, revision);
    assert!(other_run.await.next().await.whole);
}

#[tokio::test]
async fn a_thousand_leases_and_watches_go_through_one_handle() {
    let host = registry(0, TTL).await;
    let proxy = FaultProxy::to(&format!("127.0.0.1:{}", host.port)).await;
    let servers = Registry::connect(&format!("registry://{}", proxy.address())).unwrap();
    let leases: Vec<_> = (0..1000)
        .map(|number| {
            servers
                .register(&format!("s{number}"), unix(number))
                .unwrap()
        })
        .collect();
    let mut resolvers: Vec<_> = (0..1000)
        .map(|number| servers.resolver(&format!("s{number}")))
        .collect();
    let mut waiting = tokio::task::JoinSet::new();
    for (number, mut resolver) in resolvers.drain(..).enumerate() {
        waiting.spawn(async move {
            let list = known(&mut *resolver, 1).await;
            assert_eq!(list[0].address, unix(number));
        });
    }
    while let Some(done) = waiting.join_next().await {
        done.unwrap();
    }
    assert_eq!(proxy.connections(), 1, "all of them share a connection");
    for lease in &leases {
        soon(lease.deregister()).await.unwrap();
    }
    assert!(crate::support::listed(host.port).await.is_empty());
}

/// The whole list takes several times the patience for an answer.
#[tokio::test]
async fn a_first_list_that_takes_long_is_waited_for_while_it_comes() {
    let host = registry(0, TTL).await;
    let servers = Registry::connect(&uri(&[host.port])).unwrap();
    let metadata = "m".repeat(16 * 1024 - 1);
    let mut leases = Vec::new();
    for number in 0..100 {
        let endpoint = Endpoint::new(unix(number)).with_metadata("k", metadata.clone());
        leases.push(register(&servers, "s", endpoint).await);
    }
    let proxy = FaultProxy::to(&format!("127.0.0.1:{}", host.port)).await;
    // Each read of up to 64 KiB passes this much later: the list is some 1.6 MiB.
    proxy.delay(Duration::from_millis(150));
    let slow = Registry::connect(&format!("registry://{}", proxy.address())).unwrap();
    let mut resolver = slow.resolver("s");
    let started = std::time::Instant::now();
    known(&mut *resolver, 100).await;
    assert!(
        started.elapsed() > Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(proxy.connections(), 1, "nothing was begun anew");
}

#[tokio::test]
async fn names_that_are_watched_and_never_registered_have_a_bound_and_leave_nothing() {
    let host = registry(0, TTL).await;
    let client = raw(host.port).await;
    let mut watch = RawWatch::start(&client, "first").await;
    watch.next().await;
    let most = 4096;
    for number in 2..=most {
        watch.follow(number, &format!("name-{number}"), 0, 0).await;
        watch.next().await;
    }
    watch.follow(most + 1, "one-too-many", 0, 0).await;
    let refused = watch.next().await.refused.unwrap();
    assert_eq!(refused.code, Code::ResourceExhausted as u32);
    assert!(refused.message.contains("4096"), "{refused:?}");
    watch.unfollow(7).await;
    watch.follow(most + 2, "one-for-another", 0, 0).await;
    assert!(watch.next().await.refused.is_none());
    drop(watch);
    // Its end leaves room for others on the same connection.
    let again = async {
        loop {
            let mut watch = RawWatch::start(&client, "again").await;
            if watch.next().await.refused.is_none() {
                return;
            }
        }
    };
    soon(again).await;
}

#[tokio::test]
async fn a_registry_that_refuses_is_not_stormed() {
    let host = Host::start(0, || {
        let guarded = RegistryServer::builder().token("a token").build().unwrap();
        Server::builder().add_service(guarded)
    })
    .await;
    let proxy = FaultProxy::to(&format!("127.0.0.1:{}", host.port)).await;
    let uri = format!("registry://{}", proxy.address());
    let mut resolvers: Vec<_> = (0..20)
        .map(|_| Registry::connect(&uri).unwrap().resolver("s"))
        .collect();
    for resolver in &mut resolvers {
        assert!(soon(resolver.next()).await.is_err());
    }
    // The time is what is tested: each would try again ten times and more.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(proxy.connections() <= 20, "{}", proxy.connections());
    let before = proxy.to_server();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let after = proxy.to_server();
    assert!(after - before < 20 * 1024, "{}", after - before);
}

#[tokio::test]
async fn many_registrations_are_seen_by_one_watcher_in_few_messages() {
    let host = registry(0, TTL).await;
    let servers = Registry::connect(&uri(&[host.port])).unwrap();
    let clients = Registry::connect(&uri(&[host.port])).unwrap();
    let mut resolver = clients.resolver("s");
    let _first = register(&servers, "s", address(1)).await;
    until(&mut *resolver, &[1]).await;
    let leases: Vec<_> = (0..4000)
        .map(|number| servers.register("s", unix(number)).unwrap())
        .collect();
    known(&mut *resolver, 4001).await;
    drop(leases);
}
