//! What an operator finds in the log of registries, of servers and of clients. In a program of its
//! own, as in the tests of rpc-core: a subscriber that comes late can miss what others log.
#![allow(clippy::unwrap_used)]

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rpc_core::Server;
use rpc_core::client::{Address, Resolver};
use rpc_registry::{Registry, RegistryServer};
use rpc_testkit::{FaultProxy, run};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Keeps every event as a line of text.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, "{}={value:?} ", field.name()).unwrap();
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("rpc_registry")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(format!("{} ", event.metadata().level()));
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Lines {
    /// Waits for a line with all of these words.
    async fn find(&self, words: &[&str]) {
        let found = |line: &String| words.iter().all(|word| line.contains(word));
        let waiting = async {
            while !self.0.lock().unwrap().iter().any(found) {
                tokio::task::yield_now().await;
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(20), waiting).await;
        assert!(
            found.is_ok(),
            "{words:?} is not in {:#?}",
            self.0.lock().unwrap()
        );
    }
}

fn address(port: u16) -> Address {
    format!("127.0.0.1:{port}").parse().unwrap()
}

async fn until(resolver: &mut dyn Resolver, count: usize) {
    while resolver
        .next()
        .await
        .map_or(true, |list| list.len() != count)
    {}
}

#[tokio::test]
async fn registries_servers_and_clients_say_what_they_do_and_why() {
    let lines = Lines::default();
    tracing::subscriber::set_global_default(lines.clone()).unwrap();
    let guarded = RegistryServer::builder()
        .ttl(Duration::from_millis(300))
        .token("a token")
        .build()
        .unwrap();
    let server = Server::builder().add_service(guarded);
    let server = server.bind("127.0.0.1:0").await.unwrap();
    let here = server.local_addr().to_string();
    let _running = run(server);
    let proxy = FaultProxy::to(&here).await;
    let through = proxy.address().to_string();
    let servers = Registry::builder(&format!("registry://{through}"));
    let servers = servers.token("a token").build().unwrap();
    let clients = Registry::builder(&format!("registry://{here}"));
    let clients = clients.token("a token").build().unwrap();

    let lease = servers.register("orders", address(7)).unwrap();
    lease.ready().await.unwrap();
    let instance = format!("instance={}", lease.endpoint().instance);
    // The registry's line names the peer, the server's own the registry.
    let registered = [
        "INFO",
        "message=registered ",
        "service=\"orders\"",
        &instance,
    ];
    lines.find(&[&registered[..], &["peer="]].concat()).await;
    let registry = format!("registry={through}");
    lines.find(&[&registered[..], &[&registry]].concat()).await;
    let mut resolver = clients.resolver("orders");
    until(&mut *resolver, 1).await;
    let changed = [
        "INFO",
        "the list has changed",
        "service=\"orders\"",
        "members=1",
    ];
    lines.find(&changed).await;

    lease.set_weight(7).unwrap();
    lines
        .find(&["registered with other content", &instance])
        .await;

    proxy.refuse(true).await;
    proxy.cut();
    lines
        .find(&[
            "WARN",
            "the registry is lost",
            &registry,
            "error=",
            "retry_in=",
        ])
        .await;
    lines
        .find(&["INFO", "leases expired", "orders", "count=1", "left=0"])
        .await;
    lines.find(&["the list has changed", "unlisted=1"]).await;
    proxy.refuse(false).await;
    lines
        .find(&["INFO", "the registry is back", &registry])
        .await;
    lines
        .find(&["message=registered again", &instance, &registry])
        .await;

    let stranger = Registry::connect(&format!("registry://{here}")).unwrap();
    let refused = stranger.register("orders", address(8)).unwrap();
    refused.ready().await.unwrap_err();
    lines
        .find(&[
            "WARN",
            "message=refused",
            "peer=",
            "method=\"Register\"",
            "UNAUTHENTICATED",
        ])
        .await;

    lease.deregister().await.unwrap();
    lines
        .find(&["INFO", "message=deregistered", "orders", &instance, "peer="])
        .await;
    lines
        .find(&[
            "INFO",
            "message=deregistered",
            "orders",
            &instance,
            &registry,
        ])
        .await;
}
