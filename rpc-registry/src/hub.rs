//! A [`Store`] that many tasks share: watchers, expiry and the state file.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rpc_core::client::Endpoint;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::convert;
use crate::generated::{Entry, ServiceEntries, State};
use crate::state_file;
use crate::store::{Changes, Grant, Listed, Refusal, Store};

/// How long a deregistration waits for the disk before it is acknowledged all the same.
const SAVE_PATIENCE: Duration = Duration::from_secs(1);
/// Saving takes at most one part of the time in so many.
const SAVE_SHARE: u32 = 10;
/// How many watches all clients have together, and how many one connection has.
pub(crate) const MOST_WATCHES: usize = 100_000;
pub(crate) const MOST_WATCHES_OF_A_CONNECTION: usize = 4_096;

/// One registry: in this process, or served to others.
#[derive(Debug)]
pub(crate) struct Hub {
    /// Which run of the registry this is.
    pub(crate) incarnation: u64,
    /// The TTL of leases that ask for none.
    pub(crate) ttl: Duration,
    /// Until then servers may not have come back to a registry that has just started.
    pub(crate) refilled: Instant,
    state: Mutex<Shared>,
    streams: AtomicU64,
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
    watchers: HashMap<Arc<str>, HashMap<u64, Arc<Subscription>>>,
    /// How many watches there are, and of each connection.
    watches: usize,
    connections: HashMap<Arc<str>, usize>,
    subscriptions: u64,
}

/// One watch of one service: who is told, and whether it has been told already.
#[derive(Debug)]
struct Subscription {
    watch: u32,
    marked: AtomicBool,
    mailbox: Arc<Mailbox>,
}

/// The watches of one stream that have news.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    news: Mutex<Vec<Arc<Subscription>>>,
    notify: Notify,
}

impl Mailbox {
    /// Waits for news. Cancel safe.
    pub(crate) async fn notified(&self) {
        self.notify.notified().await;
    }

    /// The watches that have news, each once.
    pub(crate) fn take(&self) -> Vec<u32> {
        let news = std::mem::take(&mut *self.news.lock().unwrap_or_else(PoisonError::into_inner));
        // Marked as seen before anyone looks at the list, so that no later change is missed.
        let seen = |one: Arc<Subscription>| {
            one.marked.store(false, Ordering::SeqCst);
            one.watch
        };
        news.into_iter().map(seen).collect()
    }
}

/// A watch in force; dropping it ends it and leaves nothing of it.
#[derive(Debug)]
pub(crate) struct Watching {
    hub: Arc<Hub>,
    pub(crate) service: Arc<str>,
    connection: Option<Arc<str>>,
    number: u64,
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut shared = self.hub.lock();
        let mut ended = None;
        if let Some(watchers) = shared.watchers.get_mut(&self.service) {
            ended = watchers.remove(&self.number);
            if watchers.is_empty() {
                shared.watchers.remove(&self.service);
            }
        }
        shared.watches = shared.watches.saturating_sub(1);
        if let Some(connection) = &self.connection
            && let Some(count) = shared.connections.get_mut(connection)
        {
            *count -= 1;
            if *count == 0 {
                shared.connections.remove(connection);
            }
        }
        drop(shared);
        drop(ended);
    }
}

impl Shared {
    fn publish(&self, service: &str) {
        for one in self
            .watchers
            .get(service)
            .into_iter()
            .flat_map(HashMap::values)
        {
            if !one.marked.swap(true, Ordering::SeqCst) {
                let mut news = one
                    .mailbox
                    .news
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                news.push(Arc::clone(one));
                drop(news);
                one.mailbox.notify.notify_one();
            }
        }
    }

    fn expire(&mut self, now: Instant) -> Vec<Expired> {
        let mut all = Vec::new();
        for (service, count) in self.store.expire(now) {
            self.publish(&service);
            let left = self.store.endpoints_count(&service);
            all.push(Expired {
                service,
                count,
                left,
            });
        }
        all
    }
}

/// How many leases of a service expired, and how many instances it has left.
struct Expired {
    service: Arc<str>,
    count: usize,
    left: usize,
}

impl Hub {
    pub(crate) fn new(ttl: Duration, file: Option<PathBuf>) -> io::Result<Self> {
        let state = file
            .as_deref()
            .map(state_file::load)
            .transpose()?
            .unwrap_or_default();
        let revision = state.revision;
        let now = Instant::now();
        let store = Store::restore(revision, restored(state), now);
        let grace = ttl + Duration::from_secs(1);
        Ok(Self {
            ttl,
            refilled: now.checked_add(grace).unwrap_or(now),
            state: Mutex::new(Shared {
                store,
                ..Shared::default()
            }),
            file,
            saved: watch::Sender::new(revision),
            ..Self::memory()
        })
    }

    /// A registry for this process.
    pub(crate) fn memory() -> Self {
        Self {
            incarnation: fastrand::u64(1..),
            ttl: Duration::ZERO,
            refilled: Instant::now(),
            state: Mutex::default(),
            streams: AtomicU64::new(1),
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

    /// Acts on what holds now: what has outlived its TTL is dropped first.
    fn with<T>(&self, act: impl FnOnce(&mut Shared, Instant) -> T) -> T {
        let now = Instant::now();
        let mut shared = self.lock();
        let expired = shared.expire(now);
        let result = act(&mut shared, now);
        // Who collects logs may do anything, so not under the lock.
        drop(shared);
        for Expired {
            service,
            count,
            left,
        } in expired
        {
            tracing::info!(service = &*service, count, left, "leases expired");
        }
        result
    }

    /// A number for a stream of leases; 0 is the process itself.
    pub(crate) fn stream(&self) -> u64 {
        self.streams.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn announce(
        &self,
        service: &str,
        endpoint: Endpoint,
        ttl: Option<Duration>,
        stream: u64,
    ) -> Result<Grant, Refusal> {
        let grant = self.with(|shared, now| {
            let grant = shared.store.announce(service, endpoint, ttl, stream, now);
            if grant.is_ok_and(|grant| grant.changed) {
                shared.publish(service);
            }
            grant
        })?;
        if grant.changed {
            self.wake.notify_one();
        }
        Ok(grant)
    }

    pub(crate) fn keep_alive(&self, service: &str, instance: u64, stream: u64) -> bool {
        self.lock()
            .store
            .keep_alive(service, instance, stream, Instant::now())
    }

    pub(crate) fn detach(&self, service: &str, instance: u64, stream: u64) {
        let mut shared = self.lock();
        let before = shared.store.revision();
        shared
            .store
            .detach(service, instance, stream, Instant::now());
        if shared.store.revision() != before {
            shared.publish(service);
        }
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
        self.with(|_, _| ());
        self.wake.notify_one();
    }

    /// Begins a watch whose news go to a mailbox; the bound that it would break otherwise.
    pub(crate) fn watch(
        self: &Arc<Self>,
        service: &str,
        connection: Option<&Arc<str>>,
        watch: u32,
        mailbox: &Arc<Mailbox>,
    ) -> Result<Watching, usize> {
        let mut shared = self.lock();
        let own = connection.and_then(|connection| shared.connections.get(connection));
        if own.is_some_and(|count| *count >= MOST_WATCHES_OF_A_CONNECTION) {
            return Err(MOST_WATCHES_OF_A_CONNECTION);
        }
        if shared.watches >= MOST_WATCHES {
            return Err(MOST_WATCHES);
        }
        shared.watches += 1;
        shared.subscriptions += 1;
        let number = shared.subscriptions;
        if let Some(connection) = connection {
            *shared
                .connections
                .entry(Arc::clone(connection))
                .or_default() += 1;
        }
        let service: Arc<str> = shared
            .watchers
            .get_key_value(service)
            .map_or_else(|| service.into(), |(name, _)| Arc::clone(name));
        let subscription = Subscription {
            watch,
            marked: AtomicBool::new(false),
            mailbox: Arc::clone(mailbox),
        };
        shared
            .watchers
            .entry(Arc::clone(&service))
            .or_default()
            .insert(number, Arc::new(subscription));
        drop(shared);
        Ok(Watching {
            hub: Arc::clone(self),
            service,
            connection: connection.cloned(),
            number,
        })
    }

    /// How many watches there are.
    pub(crate) fn watches(&self) -> usize {
        self.lock().watches
    }

    /// See [`Store::since`].
    pub(crate) fn since(&self, service: &str, revision: u64, octets: usize) -> Changes {
        self.with(|shared, _| shared.store.since(service, revision, octets))
    }

    /// See [`Store::remembers`].
    pub(crate) fn remembers(&self, service: &str, revision: u64) -> bool {
        self.lock().store.remembers(service, revision)
    }

    /// Who is listed.
    pub(crate) fn endpoints(&self, service: &str) -> Vec<Endpoint> {
        self.lock().store.endpoints(service)
    }

    /// Whether servers may not have come back yet.
    pub(crate) fn is_refilling(&self) -> bool {
        Instant::now() < self.refilled
    }

    /// The revision and everything that is registered, of one service or of all.
    pub(crate) fn list(&self, service: &str) -> (u64, Vec<ServiceEntries>) {
        let (revision, kept) =
            self.with(|shared, _| (shared.store.revision(), kept(&shared.store, service)));
        (revision, kept.into_iter().map(Kept::listed).collect())
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

    fn is_unsaved(&self) -> bool {
        self.file.is_some() && self.lock().store.revision() != *self.saved.borrow()
    }

    /// Writes the state file, if there is one and it is not up to date; whether it was not.
    async fn save(&self) -> bool {
        let Some(file) = self.file.clone().filter(|_| self.is_unsaved()) else {
            return false;
        };
        let (revision, kept) = {
            let shared = self.lock();
            (shared.store.revision(), kept(&shared.store, ""))
        };
        let path = file.clone();
        let writing = move || {
            let services = kept.into_iter().map(Kept::listed).collect();
            state_file::save(&file, &State { revision, services })
        };
        let result = tokio::task::spawn_blocking(writing).await;
        if let Err(error) = result.map_err(io::Error::other).and_then(|saved| saved) {
            tracing::warn!(file = %path.display(), %error, "the state cannot be saved");
        }
        // A disk that fails is said once a change, and holds nothing up.
        self.saved.send_replace(revision);
        true
    }
}

async fn keep(hub: Weak<Hub>) {
    let mut next_save = Instant::now();
    while let Some(hub) = hub.upgrade() {
        hub.with(|_, _| ());
        let started = Instant::now();
        if started >= next_save && hub.save().await {
            // The whole state is written each time, so that its cost must not grow with the changes.
            next_save = Instant::now() + started.elapsed() * (SAVE_SHARE - 1);
        }
        // Looks up now and then whether the registry is still there.
        let mut next = Instant::now() + Duration::from_secs(1);
        if hub.is_unsaved() {
            next = next.min(next_save);
        }
        let expiry = hub.lock().store.next_expiry();
        let next = expiry.map_or(next, |expiry| expiry.min(next));
        tokio::select! {
            () = hub.wake.notified() => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

/// The entries of one service, to be put into messages away from the lock.
struct Kept {
    service: Arc<str>,
    entries: Vec<(Arc<Listed>, bool, Duration)>,
}

impl Kept {
    fn listed(self) -> ServiceEntries {
        let entry = |(listed, attached, ttl): (Arc<Listed>, bool, Duration)| Entry {
            instance: Some(convert::to_instance(&listed.endpoint)),
            attached,
            ttl_ms: convert::to_milliseconds(ttl),
        };
        ServiceEntries {
            service: self.service.to_string(),
            entries: self.entries.into_iter().map(entry).collect(),
        }
    }
}

fn kept(store: &Store, service: &str) -> Vec<Kept> {
    let entry =
        |entry: &crate::store::Entry| (Arc::clone(&entry.listed), entry.attached(), entry.ttl);
    let mut kept: Vec<Kept> = store
        .entries()
        .filter(|(name, _)| service.is_empty() || service == &***name)
        .map(|(name, entries)| Kept {
            service: Arc::clone(name),
            entries: entries.map(entry).collect(),
        })
        .collect();
    kept.sort_by(|a, b| a.service.cmp(&b.service));
    kept
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
