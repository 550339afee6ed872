//! How soon calls leave a server that is gone, and come to one that is new.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rpc_core::client::Address;
use rpc_core::{Channel, Server};
use rpc_registry::{Registry, RegistryServer};
use rpc_testkit::proto::{Message, TestClient};
use rpc_testkit::{FaultProxy, Running, run, serve};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::{Clock, GRACE, request, soon, until};

fn address(uri: &str) -> Address {
    uri.trim_start_matches("http://").parse().unwrap()
}

/// Calls without a pause, with the endpoint and the start of each.
struct Load {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
    calls: mpsc::UnboundedReceiver<(Instant, Option<String>, u32)>,
}

tokio::task_local! {
    static STARTED: Instant;
}

impl Load {
    fn start(target: &str) -> Self {
        let (sender, calls) = mpsc::unbounded_channel();
        let settings = rpc_registry::channel_builder().observer(
            move |call: &rpc_core::client::FinishedCall<'_>| {
                assert!(call.status.is_none(), "{:?}", call.status);
                let endpoint = call.endpoint.map(ToOwned::to_owned);
                let _ =
                    STARTED.try_with(|started| sender.send((*started, endpoint, call.attempts)));
            },
        );
        let channel: Channel = rpc_registry::builder(target, settings).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for _ in 0..8 {
            let (test, stop) = (TestClient::new(channel.clone()), Arc::clone(&stop));
            tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let call =
                        test.echo_idempotent(request(Message::default(), Duration::from_secs(5)));
                    STARTED.scope(Instant::now(), call).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
        }
        Self { stop, tasks, calls }
    }

    /// Waits for calls to so many endpoints.
    async fn spread(&mut self, endpoints: usize) {
        let mut seen = std::collections::HashSet::new();
        soon(async {
            while seen.len() < endpoints {
                seen.insert(self.calls.recv().await.unwrap().1);
            }
        })
        .await;
    }

    /// Waits for the first call to an endpoint that started after a moment; says when it did.
    async fn first(&mut self, endpoint: &Address, after: Instant) -> Instant {
        let endpoint = endpoint.to_string();
        soon(async {
            loop {
                let (started, at, _) = self.calls.recv().await.unwrap();
                if started > after && at.as_deref() == Some(&endpoint) {
                    return started;
                }
            }
        })
        .await
    }

    /// Stops; the starts of the calls that had to do with an endpoint, or needed two attempts.
    async fn end(mut self, endpoint: &Address) -> Vec<Instant> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = soon(self.tasks.join_next()).await {
            ended.unwrap();
        }
        let endpoint = endpoint.to_string();
        let mut starts = Vec::new();
        while let Ok((started, at, attempts)) = self.calls.try_recv() {
            if attempts > 1 || at.as_deref() == Some(&endpoint) {
                starts.push(started);
            }
        }
        starts
    }
}

async fn registry() -> (Running, Registry, String) {
    let server = Server::builder()
        .add_service(RegistryServer::new())
        .bind("127.0.0.1:0")
        .await
        .unwrap();
    let uri = format!("registry://{}", server.local_addr());
    (run(server), Registry::connect(&uri).unwrap(), uri)
}

#[tokio::test]
async fn calls_leave_an_endpoint_that_breaks() {
    let clock = Clock::alone().await;
    let (one, two) = (serve().await, serve().await);
    let proxy = FaultProxy::to(&one.uri).await;
    let mut load = Load::start(&format!("static:{},{}", proxy.address(), address(&two.uri)));
    load.spread(2).await;
    let broken = Instant::now();
    proxy.refuse(true).await;
    proxy.reset();
    load.first(&address(&two.uri), broken + 3 * GRACE).await;
    let there = load.end(&address(&proxy.uri())).await;
    let last = there.into_iter().max().unwrap_or(broken);
    clock.between(broken, last).at_most(GRACE);
}

#[tokio::test]
async fn a_broken_endpoint_is_back_after_its_backoff() {
    let clock = Clock::alone().await;
    let (one, two) = (serve().await, serve().await);
    let proxy = FaultProxy::to(&one.uri).await;
    let mut load = Load::start(&format!("static:{},{}", proxy.address(), address(&two.uri)));
    load.spread(2).await;
    proxy.refuse(true).await;
    proxy.reset();
    let broken = Instant::now();
    load.first(&address(&two.uri), broken + GRACE).await;
    proxy.refuse(false).await;
    let first = load.first(&address(&proxy.uri()), broken).await;
    let took = clock.between(broken, first);
    took.at_most(Duration::from_millis(1_200) + GRACE);
    load.end(&address(&proxy.uri())).await;
}

#[tokio::test]
async fn a_new_server_has_its_first_call_within_a_second() {
    let clock = Clock::alone().await;
    let (_registry, registry, uri) = registry().await;
    let old = serve().await;
    let _old = registry.register("test", address(&old.uri)).unwrap();
    let mut load = Load::start(&format!("{uri}/test"));
    load.spread(1).await;
    let new = serve().await;
    let lease = registry.register("test", address(&new.uri)).unwrap();
    soon(lease.ready()).await.unwrap();
    let registered = Instant::now();
    let first = load.first(&address(&new.uri), registered).await;
    let took = clock.between(registered, first);
    took.at_most(Duration::from_secs(1));
    load.end(&address(&new.uri)).await;
}

#[tokio::test]
async fn a_drained_server_has_no_call_after_200_ms() {
    let clock = Clock::alone().await;
    let (_registry, registry, uri) = registry().await;
    let (stays, leaves) = (serve().await, serve().await);
    let _stays = registry.register("test", address(&stays.uri)).unwrap();
    let lease = registry.register("test", address(&leaves.uri)).unwrap();
    let mut load = Load::start(&format!("{uri}/test"));
    load.spread(2).await;
    soon(lease.deregister()).await.unwrap();
    let left = Instant::now();
    load.first(&address(&stays.uri), left + 3 * GRACE).await;
    let last = load.end(&address(&leaves.uri)).await.into_iter().max();
    clock.between(left, last.unwrap_or(left)).at_most(2 * GRACE);
}

#[tokio::test]
async fn waiting_for_a_name_ends_when_somebody_takes_it() {
    let clock = Clock::alone().await;
    let (_registry, registry, uri) = registry().await;
    let channel = rpc_registry::channel(&format!("{uri}/test")).unwrap();
    let test = TestClient::new(channel);
    let waiting = tokio::spawn(async move {
        let request = request(Message::default(), Duration::from_secs(10)).with_wait_for_ready();
        test.echo(request).await.map(drop)
    });
    let server = serve().await;
    let lease = registry.register("test", address(&server.uri)).unwrap();
    soon(lease.ready()).await.unwrap();
    let (ended, took) = clock.time(waiting).await;
    ended.unwrap().unwrap();
    took.at_most(Duration::from_secs(1));
    until(async || lease.is_ready()).await;
}
