//! A [`Store`] that many tasks share: watchers, expiry and the state file.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rpc_core::client::Endpoint;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::convert;
use crate::generated::{Entry, ListResponse, ServiceEntries, State};
use crate::state_file;
use crate::store::{Grant, Snapshot, Store};

/// How long a deregistration waits for the disk before it is acknowledged all the same.
const SAVE_PATIENCE: Duration = Duration::from_secs(1);

/// One registry: in this process, or served to others.
#[derive(Debug)]
pub(crate) struct Hub {
    /// Which run of the registry this is.
    pub(crate) incarnation: u64,
    /// The TTL of leases that ask for none.
    pub(crate) ttl: Duration,
    state: Mutex<Shared>,
    file: Option<PathBuf>,
    /// The revision that the state file holds.
    saved: watch::Sender<u64>,
    closed: watch::Sender<bool>,
    keeper: AtomicBool,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Shared {
    store: Store,
    watchers: HashMap<String, watch::Sender<Arc<Snapshot>>>,
}

impl Shared {
    fn publish(&mut self, service: &str) {
        let Some(watchers) = self.watchers.get(service) else {
            return;
        };
        if watchers.receiver_count() == 0 {
            self.watchers.remove(service);
        } else {
            watchers.send_replace(Arc::new(self.store.snapshot(service)));
        }
    }

    fn expire(&mut self, now: Instant) {
        for service in self.store.expire(now) {
            tracing::info!(service, "a lease expired");
            self.publish(&service);
        }
    }
}

impl Hub {
    pub(crate) fn new(ttl: Duration, file: Option<PathBuf>) -> io::Result<Self> {
        let state = file
            .as_deref()
            .map(state_file::load)
            .transpose()?
            .unwrap_or_default();
        let revision = state.revision;
        let store = Store::restore(revision, restored(state), Instant::now());
        Ok(Self {
            incarnation: fastrand::u64(1..),
            ttl,
            state: Mutex::new(Shared {
                store,
                watchers: HashMap::new(),
            }),
            file,
            saved: watch::Sender::new(revision),
            closed: watch::Sender::new(false),
            keeper: AtomicBool::new(false),
            wake: Notify::new(),
        })
    }

    /// A registry for this process.
    pub(crate) fn memory() -> Self {
        Self {
            incarnation: fastrand::u64(1..),
            ttl: Duration::ZERO,
            state: Mutex::default(),
            file: None,
            saved: watch::Sender::new(0),
            closed: watch::Sender::new(false),
            keeper: AtomicBool::new(false),
            wake: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Each change of the store is whole before anything could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn announce(
        &self,
        service: &str,
        endpoint: Endpoint,
        ttl: Option<Duration>,
    ) -> Option<Grant> {
        let now = Instant::now();
        let mut shared = self.lock();
        shared.expire(now);
        let grant = shared.store.announce(service, endpoint, ttl, now)?;
        if grant.changed {
            shared.publish(service);
        }
        drop(shared);
        self.wake.notify_one();
        Some(grant)
    }

    pub(crate) fn keep_alive(&self, service: &str, instance: u64, lease: u64) -> bool {
        self.lock()
            .store
            .keep_alive(service, instance, lease, Instant::now())
    }

    pub(crate) fn detach(&self, service: &str, instance: u64, lease: u64) {
        self.lock()
            .store
            .detach(service, instance, lease, Instant::now());
    }

    /// Takes an instance off the list; the revision without it.
    pub(crate) fn deregister(&self, service: &str, instance: u64) -> u64 {
        let mut shared = self.lock();
        if shared.store.deregister(service, instance, Instant::now()) {
            shared.publish(service);
        }
        let revision = shared.store.revision();
        drop(shared);
        self.wake.notify_one();
        revision
    }

    /// Drops what has outlived its TTL.
    pub(crate) fn expire(&self) {
        self.lock().expire(Instant::now());
        self.wake.notify_one();
    }

    pub(crate) fn watch(&self, service: &str) -> watch::Receiver<Arc<Snapshot>> {
        let mut shared = self.lock();
        shared.expire(Instant::now());
        let Shared { store, watchers } = &mut *shared;
        let sender = watchers
            .entry(service.to_owned())
            .or_insert_with(|| watch::Sender::new(Arc::new(store.snapshot(service))));
        sender.subscribe()
    }

    pub(crate) fn list(&self, service: &str) -> ListResponse {
        let mut shared = self.lock();
        shared.expire(Instant::now());
        ListResponse {
            incarnation: self.incarnation,
            revision: shared.store.revision(),
            services: listed(&shared.store, service),
        }
    }

    /// Waits until a restart would know of a revision.
    pub(crate) async fn saved(&self, revision: u64) {
        if self.file.is_some() {
            let mut saved = self.saved.subscribe();
            // A slow disk must not hold up a server that wants to end.
            let _ = tokio::time::timeout(SAVE_PATIENCE, saved.wait_for(|saved| *saved >= revision))
                .await;
        }
    }

    /// Ends all streams, now and later.
    pub(crate) fn close(&self) {
        self.closed.send_replace(true);
    }

    pub(crate) async fn closed(&self) {
        // The sender is in `self`, so that this cannot fail.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// Starts the task that expires and saves, unless it runs.
    pub(crate) fn start_keeper(self: &Arc<Self>) {
        if !self.keeper.swap(true, Ordering::Relaxed) {
            tokio::spawn(keep(Arc::downgrade(self)));
        }
    }

    fn unsaved(&self) -> Option<(PathBuf, State)> {
        let file = self.file.clone()?;
        let shared = self.lock();
        let revision = shared.store.revision();
        (revision != *self.saved.borrow()).then(|| {
            (
                file,
                State {
                    revision,
                    services: listed(&shared.store, ""),
                },
            )
        })
    }

    async fn save(&self) {
        let Some((file, state)) = self.unsaved() else {
            return;
        };
        let revision = state.revision;
        let path = file.clone();
        let result = tokio::task::spawn_blocking(move || state_file::save(&file, &state)).await;
        match result.map_err(io::Error::other).and_then(|saved| saved) {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "the state cannot be saved")
            }
        }
        // A disk that fails is said once a change, and holds nothing up.
        self.saved.send_replace(revision);
    }
}

async fn keep(hub: Weak<Hub>) {
    while let Some(hub) = hub.upgrade() {
        hub.lock().expire(Instant::now());
        hub.save().await;
        let next = hub.lock().store.next_expiry();
        // Looks up now and then whether the registry is still there.
        let next = next
            .unwrap_or_else(|| Instant::now() + Duration::from_secs(1))
            .min(Instant::now() + Duration::from_secs(1));
        tokio::select! {
            () = hub.wake.notified() => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

fn listed(store: &Store, service: &str) -> Vec<ServiceEntries> {
    let entry = |entry: &crate::store::Entry| Entry {
        instance: Some(convert::to_instance(&entry.endpoint)),
        attached: entry.attached,
        ttl_ms: convert::to_milliseconds(entry.ttl),
    };
    store
        .entries()
        .filter(|(name, _)| service.is_empty() || service == *name)
        .map(|(name, entries)| ServiceEntries {
            service: name.to_owned(),
            entries: entries.map(entry).collect(),
        })
        .collect()
}

/// The entries of a state file that can live on: those of this process's predecessor itself cannot.
fn restored(state: State) -> Vec<(String, Endpoint, Duration)> {
    let mut entries = Vec::new();
    for ServiceEntries {
        service,
        entries: found,
    } in state.services
    {
        for entry in found.into_iter().filter(|entry| entry.ttl_ms > 0) {
            let ttl = Duration::from_millis(entry.ttl_ms.into());
            match entry.instance.map(convert::to_endpoint) {
                Some(Ok(endpoint)) => entries.push((service.clone(), endpoint, ttl)),
                Some(Err(error)) => {
                    tracing::warn!(service, %error, "an entry of the state file is left out")
                }
                None => {}
            }
        }
    }
    entries
}
