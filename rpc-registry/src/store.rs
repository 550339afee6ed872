//! What the registry knows, as a pure state machine: [`Store`].
//!
//! ```text
//!              announce                    announce (same instance)
//!   (unknown) ─────────▶ attached ◀───────────────────────────────┐
//!        ▲  silent for the TTL │ │ │                              │
//!        ├─────────────────────┘ │ └── last stream breaks ▶ grace ┤
//!        │            deregister ▼                           │    │
//!        │               (departed) ◀── deregister ──────────┘    │
//!        └───────────────────────────── after the TTL ────────────┘
//! ```
//!
//! Each change of a list has a revision, and what is listed is kept by the revision that listed it:
//! a watcher that knows a list up to some revision is told what has one behind it, and one that
//! knows nothing is told everything, in pieces. Each event costs a logarithm of what is known.
//!
//! It has no clock and no I/O: the time is an argument.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use rpc_core::client::{Address, Endpoint};
use tokio::time::Instant;

use crate::convert;

/// How long those who are gone are told to watchers, so that one who was away learns of it.
pub(crate) const GONE_FOR: Duration = Duration::from_secs(60);
/// How many of them are kept for one service; those who know an older list get a whole one.
const MOST_GONE: usize = 10_000;
/// How many instances all services have together, and how many octets these announce.
const MOST_INSTANCES: usize = 100_000;
const MOST_OCTETS: usize = 512 * 1024 * 1024;
/// How many goodbyes of instances that nobody has heard of are remembered.
const MOST_STRANGERS: usize = 1_000;

/// All entries of all services.
#[derive(Debug, Default)]
pub(crate) struct Store {
    revision: u64,
    services: HashMap<Arc<str>, Service>,
    /// What is due when: what has become due elsewhere since is looked at again then.
    due: BinaryHeap<Reverse<(Instant, Arc<str>, Due)>>,
    instances: usize,
    octets: usize,
    /// Goodbyes of instances that were not listed.
    strangers: usize,
    /// The highest floor of a service that was dropped as it had nothing left.
    floor: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Lease(u64),
    Gone,
}

#[derive(Debug, Default)]
struct Service {
    entries: HashMap<u64, Entry>,
    /// Who announced an address, the one that is listed first.
    seats: HashMap<Address, Vec<u64>>,
    /// What is listed and who is gone, by the revision that made it so.
    changes: BTreeMap<u64, Change>,
    gone: VecDeque<Departure>,
    /// Those who deregistered themselves lately.
    departed: HashSet<u64>,
    /// Who knows the list up to an earlier revision may have missed somebody's going.
    floor: u64,
}

#[derive(Debug)]
struct Departure {
    at: Instant,
    /// Nothing for one that was not listed.
    revision: Option<u64>,
    instance: u64,
    stranger: bool,
}

/// What watchers are told of one instance.
#[derive(Debug, PartialEq)]
pub(crate) struct Listed {
    pub(crate) endpoint: Endpoint,
    /// The endpoint as an `Instance` of the protocol: made once, and sent to each watcher.
    pub(crate) encoded: Bytes,
}

impl Listed {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        let encoded = convert::to_instance(&endpoint).encode_to_vec().into();
        Self { endpoint, encoded }
    }
}

/// One instance of one service.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) listed: Arc<Listed>,
    pub(crate) ttl: Duration,
    /// The streams that hold the lease; an owner that reaches this registry by two names has two.
    streams: Vec<u64>,
    /// When it goes, unless it is heard of before; never in a registry inside the process.
    expires: Option<Instant>,
    /// When [`Store::due`] looks at it.
    queued: Option<Instant>,
    /// The revision that listed it, unless another instance has its address.
    revision: Option<u64>,
}

impl Entry {
    /// Whether a stream holds the lease.
    pub(crate) fn attached(&self) -> bool {
        !self.streams.is_empty()
    }
}

/// One change of a list.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    Listed(Arc<Listed>),
    Gone { instance: u64, deregistered: bool },
}

/// The answer to an announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) revision: u64,
    /// Whether the list that watchers see is another one now.
    pub(crate) changed: bool,
    /// Whether the instance was unknown before.
    pub(crate) new: bool,
}

/// Why an announcement is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It has deregistered itself: its announcement was overtaken on the way.
    Departed,
    /// The registry has as much as it takes.
    Full,
}

/// Some changes of a list, in the order of their revisions.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Changes {
    pub(crate) changes: Vec<Change>,
    /// The list is known up to here with these.
    pub(crate) revision: u64,
    pub(crate) more: bool,
}

impl Store {
    /// A store that goes on from what a file holds; each entry gets its grace TTL from now.
    pub(crate) fn restore(
        revision: u64,
        entries: impl IntoIterator<Item = (String, Endpoint, Duration)>,
        now: Instant,
    ) -> Self {
        let mut store = Self {
            revision,
            floor: revision,
            ..Self::default()
        };
        for (service, endpoint, ttl) in entries {
            let instance = endpoint.instance;
            // What was taken once is taken again.
            let _ = store.announce(&service, endpoint, Some(ttl), 0, now);
            store.detach(&service, instance, 0, now);
        }
        store
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Lists an instance for a stream, takes up its lease, or changes what it says of itself.
    /// Without a TTL it stays until it is deregistered.
    pub(crate) fn announce(
        &mut self,
        service: &str,
        endpoint: Endpoint,
        ttl: Option<Duration>,
        stream: u64,
        now: Instant,
    ) -> Result<Grant, Refusal> {
        let instance = endpoint.instance;
        let listed = Listed::new(endpoint);
        let found = self.services.get(service);
        if found.is_some_and(|found| found.departed.contains(&instance)) {
            return Err(Refusal::Departed);
        }
        let old = found.and_then(|found| found.entries.get(&instance));
        let new = old.is_none();
        let others = self.octets - old.map_or(0, |old| old.listed.encoded.len());
        if (new && self.instances >= MOST_INSTANCES) || others + listed.encoded.len() > MOST_OCTETS
        {
            return Err(Refusal::Full);
        }
        let name = self.name(service);
        self.octets = others + listed.encoded.len();
        let before = self.revision;
        let (moves, differs) = match old_of(&self.services, &name, instance) {
            None => (true, true),
            Some(old) => (
                old.listed.endpoint.address != listed.endpoint.address,
                *old.listed != listed,
            ),
        };
        if moves && !new {
            self.leave_seat(&name, instance, false, now);
        }
        let listed = Arc::new(listed);
        let address = listed.endpoint.address.clone();
        let floor = self.floor;
        let found = self
            .services
            .entry(Arc::clone(&name))
            .or_insert_with(|| Service {
                floor,
                ..Service::default()
            });
        let entry = found.entries.entry(instance).or_insert_with(|| Entry {
            listed: Arc::clone(&listed),
            ttl: Duration::ZERO,
            streams: Vec::new(),
            expires: None,
            queued: None,
            revision: None,
        });
        self.instances += usize::from(new);
        entry.listed = listed;
        entry.ttl = ttl.unwrap_or_default();
        entry.expires = ttl.and_then(|ttl| now.checked_add(ttl));
        if !entry.streams.contains(&stream) {
            entry.streams.push(stream);
        }
        if let Some(expires) = entry.expires
            && entry.queued.is_none_or(|queued| expires < queued)
        {
            entry.queued = Some(expires);
            self.due
                .push(Reverse((expires, Arc::clone(&name), Due::Lease(instance))));
        }
        if moves {
            self.take_seat(&name, &address, instance, now);
        } else if differs {
            self.list(&name, instance);
        }
        Ok(Grant {
            revision: self.revision,
            changed: self.revision != before,
            new,
        })
    }

    /// The name as it is kept already, if it is.
    fn name(&self, service: &str) -> Arc<str> {
        self.services
            .get_key_value(service)
            .map_or_else(|| service.into(), |(name, _)| Arc::clone(name))
    }

    /// Gives an address to an instance. Two processes do not listen at one address: who was there
    /// and has lost its stream is gone. While who was there still lives, it stays listed and the
    /// newcomer waits, so that nobody takes a place that is held.
    fn take_seat(&mut self, service: &Arc<str>, address: &Address, instance: u64, now: Instant) {
        let Some(found) = self.services.get_mut(service) else {
            return;
        };
        let seat = found.seats.entry(address.clone()).or_default();
        let gone: Vec<u64> = seat
            .iter()
            .copied()
            .filter(|id| !found.entries.get(id).is_some_and(Entry::attached))
            .collect();
        seat.retain(|id| !gone.contains(id));
        seat.push(instance);
        let first = seat.first().copied();
        let gone: Vec<(u64, Entry)> = gone
            .into_iter()
            .filter_map(|id| Some((id, found.entries.remove(&id)?)))
            .collect();
        for (id, entry) in gone {
            self.instances -= 1;
            self.octets -= entry.listed.encoded.len();
            self.unlist(service, id, entry.revision, false, now);
        }
        let listed = |id| old_of(&self.services, service, id).and_then(|entry| entry.revision);
        if let Some(first) = first.filter(|first| listed(*first).is_none()) {
            self.list(service, first);
        }
    }

    /// Lists an instance under a new revision, if its address is its own.
    fn list(&mut self, service: &Arc<str>, instance: u64) {
        let Some(found) = self.services.get_mut(service) else {
            return;
        };
        let Some(entry) = found.entries.get_mut(&instance) else {
            return;
        };
        let seat = found.seats.get(&entry.listed.endpoint.address);
        if seat.and_then(|seat| seat.first()) != Some(&instance) {
            return;
        }
        self.revision += 1;
        if let Some(old) = entry.revision.replace(self.revision) {
            found.changes.remove(&old);
        }
        found
            .changes
            .insert(self.revision, Change::Listed(Arc::clone(&entry.listed)));
    }

    /// Takes the address of an instance from it; who waits for it gets it.
    fn leave_seat(&mut self, service: &Arc<str>, instance: u64, deregistered: bool, now: Instant) {
        let Some(found) = self.services.get_mut(service) else {
            return;
        };
        let Some(entry) = found.entries.get_mut(&instance) else {
            return;
        };
        let revision = entry.revision.take();
        let address = entry.listed.endpoint.address.clone();
        let mut next = None;
        if let Some(seat) = found.seats.get_mut(&address) {
            seat.retain(|id| *id != instance);
            next = seat.first().copied();
            if seat.is_empty() {
                found.seats.remove(&address);
            }
        }
        self.unlist(service, instance, revision, deregistered, now);
        if let Some(next) = next.filter(|_| revision.is_some()) {
            self.list(service, next);
        }
    }

    /// Notes that an instance, which had its place in the list by this revision, is gone.
    fn unlist(
        &mut self,
        service: &Arc<str>,
        instance: u64,
        listed: Option<u64>,
        deregistered: bool,
        now: Instant,
    ) {
        let Some(found) = self.services.get_mut(service) else {
            return;
        };
        let revision = listed.map(|listed| {
            found.changes.remove(&listed);
            self.revision += 1;
            found.changes.insert(
                self.revision,
                Change::Gone {
                    instance,
                    deregistered,
                },
            );
            self.revision
        });
        if revision.is_none() && !deregistered {
            return;
        }
        if deregistered {
            found.departed.insert(instance);
        }
        if found.gone.is_empty()
            && let Some(until) = now.checked_add(GONE_FOR)
        {
            self.due
                .push(Reverse((until, Arc::clone(service), Due::Gone)));
        }
        found.gone.push_back(Departure {
            at: now,
            revision,
            instance,
            stranger: false,
        });
        if found.gone.len() > MOST_GONE {
            self.strangers -= found.forget_first();
        }
    }

    /// Notes that the holder of a lease lives; false when the lease is not in force any more.
    pub(crate) fn keep_alive(
        &mut self,
        service: &str,
        instance: u64,
        stream: u64,
        now: Instant,
    ) -> bool {
        let Some(entry) = self.leased(service, instance, stream) else {
            return false;
        };
        entry.expires = now.checked_add(entry.ttl);
        true
    }

    /// Notes that a stream of a lease broke: after the last one the entry has its TTL left, unless
    /// another process waits for its address. Watchers are to be told of that by the caller.
    pub(crate) fn detach(&mut self, service: &str, instance: u64, stream: u64, now: Instant) {
        let Some(entry) = self.leased(service, instance, stream) else {
            return;
        };
        entry.streams.retain(|one| *one != stream);
        if entry.attached() {
            return;
        }
        entry.expires = now.checked_add(entry.ttl);
        let address = entry.listed.endpoint.address.clone();
        let seat = |found: &Service| found.seats.get(&address).map_or(0, Vec::len);
        if self.services.get(service).map_or(0, seat) > 1 {
            // Another process lives at its address.
            let name = self.name(service);
            self.remove(&name, instance, false, now);
        }
    }

    fn leased(&mut self, service: &str, instance: u64, stream: u64) -> Option<&mut Entry> {
        let entry = self.services.get_mut(service)?.entries.get_mut(&instance)?;
        entry.streams.contains(&stream).then_some(entry)
    }

    /// Takes an instance off the list, at the word of its owner; true when the list has changed.
    pub(crate) fn deregister(&mut self, service: &str, instance: u64, now: Instant) -> bool {
        let known = old_of(&self.services, service, instance).is_some();
        let before = self.revision;
        if known {
            let name = self.name(service);
            self.remove(&name, instance, true, now);
        } else {
            self.remember_stranger(service, instance, now);
        }
        self.revision != before
    }

    /// An instance that nobody has heard of may only be late: its announcement is refused then.
    fn remember_stranger(&mut self, service: &str, instance: u64, now: Instant) {
        if self.strangers >= MOST_STRANGERS {
            return;
        }
        let (name, floor) = (self.name(service), self.floor);
        let found = self
            .services
            .entry(Arc::clone(&name))
            .or_insert_with(|| Service {
                floor,
                ..Service::default()
            });
        if !found.departed.insert(instance) {
            return;
        }
        self.strangers += 1;
        if found.gone.is_empty()
            && let Some(until) = now.checked_add(GONE_FOR)
        {
            self.due.push(Reverse((until, name, Due::Gone)));
        }
        found.gone.push_back(Departure {
            at: now,
            revision: None,
            instance,
            stranger: true,
        });
    }

    fn remove(&mut self, service: &Arc<str>, instance: u64, deregistered: bool, now: Instant) {
        self.leave_seat(service, instance, deregistered, now);
        let found = self.services.get_mut(service);
        if let Some(entry) = found.and_then(|found| found.entries.remove(&instance)) {
            self.instances -= 1;
            self.octets -= entry.listed.encoded.len();
        }
    }

    /// Drops what has outlived its TTL; names whose lists changed, and how many went of each.
    pub(crate) fn expire(&mut self, now: Instant) -> BTreeMap<Arc<str>, usize> {
        let mut changed = BTreeMap::new();
        while let Some(Reverse((at, _, _))) = self.due.peek() {
            if *at > now {
                break;
            }
            let Some(Reverse((at, service, what))) = self.due.pop() else {
                break;
            };
            match what {
                Due::Gone => self.forget(&service, now),
                Due::Lease(instance) => {
                    let Some(entry) = self
                        .services
                        .get_mut(&service)
                        .and_then(|found| found.entries.get_mut(&instance))
                        .filter(|entry| entry.queued == Some(at))
                    else {
                        continue;
                    };
                    entry.queued = entry.expires;
                    match entry.expires {
                        Some(expires) if expires > now => {
                            self.due.push(Reverse((expires, service, what)));
                        }
                        Some(_) => {
                            self.remove(&service, instance, false, now);
                            *changed.entry(service).or_default() += 1;
                        }
                        None => {}
                    }
                }
            }
        }
        changed
    }

    /// Forgets those who have been gone for long.
    fn forget(&mut self, service: &Arc<str>, now: Instant) {
        let Some(found) = self.services.get_mut(service) else {
            return;
        };
        let over = |gone: &Departure| now.duration_since(gone.at) >= GONE_FOR;
        while found.gone.front().is_some_and(over) {
            self.strangers -= found.forget_first();
        }
        if let Some(until) = found
            .gone
            .front()
            .and_then(|gone| gone.at.checked_add(GONE_FOR))
        {
            self.due
                .push(Reverse((until, Arc::clone(service), Due::Gone)));
        } else if found.entries.is_empty() {
            self.floor = self.floor.max(found.floor);
            self.services.remove(service);
        }
    }

    /// When [`Self::expire`] has something to do next.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((at, _, _))| *at)
    }

    /// Whether what has changed since a revision is still known.
    pub(crate) fn remembers(&self, service: &str, revision: u64) -> bool {
        let floor = self
            .services
            .get(service)
            .map_or(self.floor, |found| found.floor);
        revision >= floor && revision <= self.revision
    }

    /// What has changed behind a revision, up to about so many octets of it; from 0 the whole list,
    /// with those who went lately.
    pub(crate) fn since(&self, service: &str, revision: u64, octets: usize) -> Changes {
        let mut batch = Changes {
            revision: self.revision,
            ..Changes::default()
        };
        let Some(found) = self.services.get(service) else {
            return batch;
        };
        let mut room = octets;
        let behind = (Bound::Excluded(revision), Bound::Unbounded);
        let mut rest = found.changes.range(behind).peekable();
        while let Some((at, change)) = rest.next() {
            batch.changes.push(change.clone());
            let size = match change {
                Change::Listed(listed) => listed.encoded.len() + 4,
                Change::Gone { .. } => 16,
            };
            room = room.saturating_sub(size);
            if room == 0 && rest.peek().is_some() {
                batch.revision = *at;
                batch.more = true;
                break;
            }
        }
        batch
    }

    /// Who is listed.
    pub(crate) fn endpoints(&self, service: &str) -> Vec<Endpoint> {
        let changes = self.services.get(service).map(|found| &found.changes);
        let listed = |change: &Change| match change {
            Change::Listed(listed) => Some(listed.endpoint.clone()),
            Change::Gone { .. } => None,
        };
        changes
            .into_iter()
            .flat_map(|changes| changes.values().filter_map(listed))
            .collect()
    }

    /// How many are registered.
    pub(crate) fn endpoints_count(&self, service: &str) -> usize {
        self.services
            .get(service)
            .map_or(0, |found| found.entries.len())
    }

    /// Every service with its entries.
    pub(crate) fn entries(
        &self,
    ) -> impl Iterator<Item = (&Arc<str>, impl Iterator<Item = &Entry>)> {
        self.services
            .iter()
            .filter(|(_, service)| !service.entries.is_empty())
            .map(|(name, service)| (name, service.entries.values()))
    }
}

fn old_of<'a>(
    services: &'a HashMap<Arc<str>, Service>,
    service: &str,
    instance: u64,
) -> Option<&'a Entry> {
    services.get(service)?.entries.get(&instance)
}

impl Service {
    /// Forgets who has been gone for longest; how many of these were strangers.
    fn forget_first(&mut self) -> usize {
        let Some(gone) = self.gone.pop_front() else {
            return 0;
        };
        if let Some(revision) = gone.revision {
            self.changes.remove(&revision);
            self.floor = self.floor.max(revision);
        }
        self.departed.remove(&gone.instance);
        usize::from(gone.stranger)
    }
}

#[cfg(test)]
mod tests;
