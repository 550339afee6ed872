//! How long leases live without their holder.

use std::time::Duration;

use rpc_core::Server;
use rpc_core::client::Resolver;
use rpc_registry::{Registry, RegistryServer};
use rpc_testkit::{FaultProxy, Running, run};

use crate::{Clock, GRACE, soon};

const TTL: Duration = Duration::from_millis(500);

async fn registry() -> (Running, String) {
    let server = Server::builder()
        .add_service(RegistryServer::builder().ttl(TTL).build().unwrap())
        .bind("127.0.0.1:0")
        .await
        .unwrap();
    let address = server.local_addr().to_string();
    (run(server), address)
}

async fn until(resolver: &mut dyn Resolver, count: usize) {
    soon(async {
        loop {
            if let Ok(list) = resolver.next().await
                && list.len() == count
            {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_holder_that_falls_silent_is_dropped_after_its_ttl() {
    let clock = Clock::alone().await;
    let (_server, address) = registry().await;
    let watching = Registry::connect(&format!("registry://{address}")).unwrap();
    let mut resolver = watching.resolver("s");
    let proxy = FaultProxy::to(&format!("http://{address}")).await;
    let far = Registry::connect(&format!("registry://{}", proxy.address())).unwrap();
    let near = watching
        .register(
            "s",
            "127.0.0.1:1".parse::<rpc_core::client::Address>().unwrap(),
        )
        .unwrap();
    let lease = far
        .register(
            "s",
            "127.0.0.1:2".parse::<rpc_core::client::Address>().unwrap(),
        )
        .unwrap();
    soon(near.ready()).await.unwrap();
    soon(lease.ready()).await.unwrap();
    until(&mut *resolver, 2).await;
    let ((), took) = clock
        .time(async {
            proxy.blackhole(true);
            until(&mut *resolver, 1).await;
        })
        .await;
    // The last sign of life was up to a third of the TTL old; a client that has just connected keeps
    // what the registry does not list for a TTL and a second.
    let most = TTL + Duration::from_secs(1) + 2 * GRACE;
    took.at_least(TTL - TTL / 3 - GRACE).at_most(most);
}

#[tokio::test]
async fn deregistering_does_not_wait_for_a_ttl() {
    let clock = Clock::alone().await;
    let (_server, address) = registry().await;
    let registry = Registry::connect(&format!("registry://{address}")).unwrap();
    let lease = registry
        .register(
            "s",
            "127.0.0.1:1".parse::<rpc_core::client::Address>().unwrap(),
        )
        .unwrap();
    let mut resolver = registry.resolver("s");
    until(&mut *resolver, 1).await;
    let (left, took) = clock.time(lease.deregister()).await;
    left.unwrap();
    took.at_most(GRACE);
    let ((), took) = clock.time(until(&mut *resolver, 0)).await;
    took.at_most(GRACE);
}

#[tokio::test]
async fn a_dead_registry_holds_deregistering_for_its_bound_only() {
    let clock = Clock::alone().await;
    let (server, address) = registry().await;
    let registry = Registry::connect(&format!("registry://{address}")).unwrap();
    let lease = registry
        .register(
            "s",
            "127.0.0.1:1".parse::<rpc_core::client::Address>().unwrap(),
        )
        .unwrap();
    soon(lease.ready()).await.unwrap();
    server.task.abort();
    assert!(server.task.await.unwrap_err().is_cancelled());
    let (_, took) = clock.time(lease.deregister()).await;
    took.at_most(Duration::from_secs(2) + GRACE);
}

#[tokio::test]
async fn a_registry_that_is_back_knows_its_servers_within_three_seconds() {
    let clock = Clock::alone().await;
    let (server, address) = registry().await;
    let registry = Registry::connect(&format!("registry://{address}")).unwrap();
    let lease = registry
        .register(
            "s",
            "127.0.0.1:1".parse::<rpc_core::client::Address>().unwrap(),
        )
        .unwrap();
    soon(lease.ready()).await.unwrap();
    server.task.abort();
    assert!(server.task.await.unwrap_err().is_cancelled());
    let back = Server::builder()
        .add_service(RegistryServer::builder().ttl(TTL).build().unwrap())
        .bind(&address)
        .await
        .unwrap();
    let _back = run(back);
    let fresh = Registry::connect(&format!("registry://{address}")).unwrap();
    let mut resolver = fresh.resolver("s");
    let ((), took) = clock.time(until(&mut *resolver, 1)).await;
    took.at_most(Duration::from_secs(3));
}
