//! A service's members as the registry servers push them: [`RemoteResolver`].

use std::sync::Arc;
use std::time::Duration;

use rpc_core::client::{Endpoint, Resolver};
use rpc_core::{BoxFuture, Status};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::peer::{PATIENCE, Peer, ended, within};
use super::view::{Pushed, View};
use crate::convert;
use crate::generated::{RegistryClient, WatchRequest, WatchResponse};

/// Follows one registry server, and turns to the next when it fails.
pub(crate) struct RemoteResolver {
    lists: mpsc::Receiver<Result<Vec<Endpoint>, Status>>,
    // Until somebody asks.
    watcher: Option<Watcher>,
}

impl RemoteResolver {
    pub(crate) fn new(peers: Vec<Arc<Peer>>, service: String) -> Self {
        let (sender, lists) = mpsc::channel(1);
        // Clients spread over the servers.
        let turn = fastrand::usize(..peers.len().max(1));
        let watcher = Watcher {
            peers,
            service,
            lists: sender,
            view: View::default(),
            turn,
        };
        Self {
            lists,
            watcher: Some(watcher),
        }
    }
}

impl Resolver for RemoteResolver {
    fn next(&mut self) -> BoxFuture<'_, Result<Vec<Endpoint>, Status>> {
        if let Some(watcher) = self.watcher.take() {
            let closed = watcher.lists.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = watcher.run() => {}
                    () = closed.closed() => {}
                }
            });
        }
        Box::pin(async {
            match self.lists.recv().await {
                Some(list) => list,
                None => std::future::pending().await,
            }
        })
    }
}

struct Watcher {
    peers: Vec<Arc<Peer>>,
    service: String,
    lists: mpsc::Sender<Result<Vec<Endpoint>, Status>>,
    view: View,
    /// The peer to ask next.
    turn: usize,
}

impl Watcher {
    async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut failures = Vec::new();
        loop {
            let Some(peer) = self.peers.get(self.turn % self.peers.len().max(1)).cloned() else {
                return;
            };
            let mut worked = false;
            let Err(status) = self.session(&peer, &mut worked).await;
            self.turn = self.turn.wrapping_add(1);
            tracing::warn!(service = self.service, registry = %peer.address, %status, "the watch is lost");
            if worked {
                backoff.reset();
                failures.clear();
            }
            failures.push(format!("{}: {}", peer.address, status.message()));
            if failures.len() < self.peers.len() {
                continue;
            }
            if failures.len() == self.peers.len() {
                // Once an outage.
                let message = format!("no registry can be reached ({})", failures.join("; "));
                let _ = self
                    .lists
                    .send(Err(Status::unavailable(message).with_source(status)))
                    .await;
            }
            self.pause(backoff.next(fastrand::f64())).await;
        }
    }

    /// Waits, and goes on dropping members whose time is over.
    async fn pause(&mut self, wait: Duration) {
        let until = Instant::now() + wait;
        while let Some(next) = self.view.next_expiry().filter(|next| *next < until) {
            tokio::time::sleep_until(next).await;
            self.expire().await;
        }
        tokio::time::sleep_until(until).await;
    }

    async fn expire(&mut self) {
        if self.view.expire(Instant::now()) {
            self.tell().await;
        }
    }

    async fn tell(&self) {
        // Nobody listens once the channel is gone, and then this task ends.
        let _ = self.lists.send(Ok(self.view.list())).await;
    }

    async fn session(
        &mut self,
        peer: &Peer,
        worked: &mut bool,
    ) -> Result<std::convert::Infallible, Status> {
        let (number, client) = peer.client().await?;
        let Err(status) = self.stream(peer, &client, worked).await;
        peer.discard(number, &status).await;
        Err(status)
    }

    async fn stream(
        &mut self,
        peer: &Peer,
        client: &RegistryClient,
        worked: &mut bool,
    ) -> Result<std::convert::Infallible, Status> {
        let mut pushes = client.watch(WatchRequest {
            service: self.service.clone(),
        });
        let mut push = within(PATIENCE, &peer.address, pushes.recv())
            .await?
            .ok_or_else(|| ended(&peer.address))?;
        self.view.connected();
        *worked = true;
        let ttl = Duration::from_millis(push.ttl_ms.into());
        // A live registry gives a sign once a TTL.
        let patience = ttl.saturating_mul(2).max(PATIENCE);
        loop {
            if !push.unchanged && self.view.apply(pushed(push, ttl), Instant::now()) {
                self.tell().await;
            }
            let silent = Instant::now() + patience;
            push = loop {
                let next = self.view.next_expiry().unwrap_or(silent).min(silent);
                tokio::select! {
                    push = pushes.recv() => break push?.ok_or_else(|| ended(&peer.address))?,
                    () = tokio::time::sleep_until(next) => self.expire().await,
                }
                if Instant::now() >= silent {
                    return Err(Status::unavailable(format!(
                        "the registry {} is silent for {patience:?}",
                        peer.address
                    )));
                }
            };
        }
    }
}

fn pushed(push: WatchResponse, ttl: Duration) -> Pushed {
    let endpoint = |instance| match convert::to_endpoint(instance) {
        Ok(endpoint) => Some(endpoint),
        Err(status) => {
            tracing::warn!(%status, "the registry lists what is no endpoint");
            None
        }
    };
    Pushed {
        incarnation: push.incarnation,
        revision: push.revision,
        ttl,
        endpoints: push.instances.into_iter().filter_map(endpoint).collect(),
        departed: push.departed.into_iter().collect(),
    }
}
