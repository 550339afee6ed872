//! What the registry knows, as a pure state machine: [`Store`].
//!
//! ```text
//!              announce                    announce (same instance)
//!   (unknown) ─────────▶ attached ◀───────────────────────────────┐
//!        ▲  silent for the TTL │ │ │                              │
//!        ├─────────────────────┘ │ └── stream breaks ────▶ grace ─┤
//!        │            deregister ▼                           │    │
//!        │               (departed) ◀── deregister ──────────┘    │
//!        └───────────────────────────── after the TTL ────────────┘
//! ```
//!
//! It has no clock and no I/O: the time is an argument.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rpc_core::client::Endpoint;
use tokio::time::Instant;

/// How long those who deregistered are told to watchers, so that one who was away learns of it.
pub(crate) const DEPARTED_FOR: Duration = Duration::from_secs(60);

/// All entries of all services.
#[derive(Debug, Default)]
pub(crate) struct Store {
    revision: u64,
    leases: u64,
    services: BTreeMap<String, Service>,
}

#[derive(Debug, Default)]
struct Service {
    entries: BTreeMap<u64, Entry>,
    departed: VecDeque<(Instant, u64)>,
}

/// One instance of one service.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) endpoint: Endpoint,
    pub(crate) ttl: Duration,
    /// Whether a stream holds the lease.
    pub(crate) attached: bool,
    lease: u64,
    /// When it goes, unless it is heard of before; never in a registry inside the process.
    expires: Option<Instant>,
}

/// The answer to an announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) lease: u64,
    pub(crate) revision: u64,
    /// Whether the list that watchers see is another one now.
    pub(crate) changed: bool,
}

/// The list of one service at one revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) revision: u64,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) departed: Vec<u64>,
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
            ..Self::default()
        };
        for (service, endpoint, ttl) in entries {
            let entry = Entry {
                ttl,
                attached: false,
                lease: 0,
                expires: now.checked_add(ttl),
                endpoint,
            };
            store
                .services
                .entry(service)
                .or_default()
                .entries
                .insert(entry.endpoint.instance, entry);
        }
        store
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Lists an instance, or takes up its lease. Without a TTL it stays until it is deregistered.
    ///
    /// None for one that has deregistered itself: its announcement was overtaken on the way.
    pub(crate) fn announce(
        &mut self,
        service: &str,
        endpoint: Endpoint,
        ttl: Option<Duration>,
        now: Instant,
    ) -> Option<Grant> {
        let found = self.services.entry(service.to_owned()).or_default();
        if found
            .departed
            .iter()
            .any(|(_, id)| *id == endpoint.instance)
        {
            return None;
        }
        self.leases += 1;
        let lease = self.leases;
        let entries = &mut found.entries;
        // Two processes do not listen at one address: whoever was there and has lost its stream is gone.
        let before = entries.len();
        entries.retain(|id, entry| {
            *id == endpoint.instance || entry.attached || entry.endpoint.address != endpoint.address
        });
        let superseded = entries.len() != before;
        let same = entries
            .get(&endpoint.instance)
            .is_some_and(|entry| entry.endpoint == endpoint);
        let changed = superseded || !same;
        let expires = ttl.and_then(|ttl| now.checked_add(ttl));
        let entry = Entry {
            ttl: ttl.unwrap_or_default(),
            attached: true,
            lease,
            expires,
            endpoint,
        };
        entries.insert(entry.endpoint.instance, entry);
        if changed {
            self.revision += 1;
        }
        Some(Grant {
            lease,
            revision: self.revision,
            changed,
        })
    }

    /// Notes that the holder of a lease lives; false when the lease is not in force any more.
    pub(crate) fn keep_alive(
        &mut self,
        service: &str,
        instance: u64,
        lease: u64,
        now: Instant,
    ) -> bool {
        let Some(entry) = self.leased(service, instance, lease) else {
            return false;
        };
        entry.expires = now.checked_add(entry.ttl);
        true
    }

    /// Notes that the stream of a lease broke: the entry has its TTL left.
    pub(crate) fn detach(&mut self, service: &str, instance: u64, lease: u64, now: Instant) {
        if let Some(entry) = self.leased(service, instance, lease) {
            entry.attached = false;
            entry.expires = now.checked_add(entry.ttl);
        }
    }

    fn leased(&mut self, service: &str, instance: u64, lease: u64) -> Option<&mut Entry> {
        let entry = self.services.get_mut(service)?.entries.get_mut(&instance)?;
        (entry.lease == lease).then_some(entry)
    }

    /// Takes an instance off the list; true when it was on it.
    pub(crate) fn deregister(&mut self, service: &str, instance: u64, now: Instant) -> bool {
        let found = self.services.entry(service.to_owned()).or_default();
        let listed = found.entries.remove(&instance).is_some();
        if !found.departed.iter().any(|(_, id)| *id == instance) {
            found.departed.push_back((now, instance));
        }
        self.revision += u64::from(listed);
        listed
    }

    /// Drops what has outlived its TTL; names the services whose lists changed.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<String> {
        let mut changed = Vec::new();
        for (name, service) in &mut self.services {
            let before = service.entries.len();
            service
                .entries
                .retain(|_, entry| entry.expires.is_none_or(|expires| expires > now));
            if service.entries.len() != before {
                changed.push(name.clone());
            }
            service
                .departed
                .retain(|(at, _)| now.duration_since(*at) < DEPARTED_FOR);
        }
        self.services
            .retain(|_, service| !service.entries.is_empty() || !service.departed.is_empty());
        if !changed.is_empty() {
            self.revision += 1;
        }
        changed
    }

    /// When [`Self::expire`] has something to do next.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        let services = self.services.values();
        let entries = services
            .clone()
            .flat_map(|service| service.entries.values().filter_map(|entry| entry.expires));
        let departed = services.filter_map(|service| {
            service
                .departed
                .front()
                .and_then(|(at, _)| at.checked_add(DEPARTED_FOR))
        });
        entries.chain(departed).min()
    }

    /// The list that watchers of a service see: each address once, held by its newest lease.
    pub(crate) fn snapshot(&self, service: &str) -> Snapshot {
        let Some(found) = self.services.get(service) else {
            return Snapshot {
                revision: self.revision,
                ..Snapshot::default()
            };
        };
        let mut newest: BTreeMap<&rpc_core::client::Address, &Entry> = BTreeMap::new();
        for entry in found.entries.values() {
            let holder = newest.entry(&entry.endpoint.address).or_insert(entry);
            if entry.lease > holder.lease {
                *holder = entry;
            }
        }
        Snapshot {
            revision: self.revision,
            endpoints: newest
                .into_values()
                .map(|entry| entry.endpoint.clone())
                .collect(),
            departed: found.departed.iter().map(|(_, id)| *id).collect(),
        }
    }

    /// Every service with its entries.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = &Entry>)> {
        self.services
            .iter()
            .filter(|(_, service)| !service.entries.is_empty())
            .map(|(name, service)| (name.as_str(), service.entries.values()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(5);

    fn endpoint(port: u16, instance: u64) -> Endpoint {
        let mut endpoint = Endpoint::new(format!("127.0.0.1:{port}").parse().unwrap());
        endpoint.instance = instance;
        endpoint
    }

    fn ids(store: &Store) -> Vec<u64> {
        store
            .snapshot("s")
            .endpoints
            .iter()
            .map(|endpoint| endpoint.instance)
            .collect()
    }

    #[test]
    fn an_announced_instance_is_listed_under_its_name_only() {
        let (mut store, now) = (Store::default(), Instant::now());
        let grant = store
            .announce("s", endpoint(1, 10), Some(TTL), now)
            .unwrap();
        assert_eq!(
            grant,
            Grant {
                lease: 1,
                revision: 1,
                changed: true
            }
        );
        assert_eq!(ids(&store), [10]);
        assert!(store.snapshot("other").endpoints.is_empty());
    }

    #[test]
    fn revisions_grow_with_each_change_and_only_then() {
        let (mut store, now) = (Store::default(), Instant::now());
        assert_eq!(
            store
                .announce("s", endpoint(1, 10), Some(TTL), now)
                .unwrap()
                .revision,
            1
        );
        assert_eq!(
            store
                .announce("s", endpoint(2, 20), Some(TTL), now)
                .unwrap()
                .revision,
            2
        );
        let again = store
            .announce("s", endpoint(1, 10), Some(TTL), now)
            .unwrap();
        assert!(
            !again.changed && again.revision == 2,
            "taking up a lease changes no list"
        );
        let heavier = store
            .announce("s", endpoint(1, 10).with_weight(7), Some(TTL), now)
            .unwrap();
        assert!(heavier.changed && heavier.revision == 3);
        assert!(store.deregister("s", 10, now));
        assert_eq!(store.revision(), 4);
        assert!(
            !store.deregister("s", 10, now),
            "a second time changes nothing"
        );
        assert_eq!(store.revision(), 4);
    }

    #[test]
    fn a_broken_stream_leaves_the_entry_for_the_ttl() {
        let (mut store, now) = (Store::default(), Instant::now());
        let grant = store
            .announce("s", endpoint(1, 10), Some(TTL), now)
            .unwrap();
        let broken = now + Duration::from_secs(3);
        store.detach("s", 10, grant.lease, broken);
        assert_eq!(store.next_expiry(), Some(broken + TTL));
        assert!(
            store
                .expire(broken + TTL - Duration::from_millis(1))
                .is_empty()
        );
        assert_eq!(ids(&store), [10]);
        assert_eq!(store.expire(broken + TTL), ["s"]);
        assert!(ids(&store).is_empty());
        assert!(
            store.snapshot("s").departed.is_empty(),
            "an expired one has not said goodbye"
        );
    }

    #[test]
    fn a_lease_that_is_taken_up_again_lives_on() {
        let (mut store, now) = (Store::default(), Instant::now());
        let first = store
            .announce("s", endpoint(1, 10), Some(TTL), now)
            .unwrap();
        store.detach("s", 10, first.lease, now);
        let second = store
            .announce(
                "s",
                endpoint(1, 10),
                Some(TTL),
                now + Duration::from_secs(4),
            )
            .unwrap();
        assert!(second.lease > first.lease);
        assert!(store.expire(now + Duration::from_secs(6)).is_empty());
        assert_eq!(ids(&store), [10]);
    }

    #[test]
    fn the_old_stream_breaking_late_does_not_touch_the_new_lease() {
        let (mut store, now) = (Store::default(), Instant::now());
        let first = store
            .announce("s", endpoint(1, 10), Some(TTL), now)
            .unwrap();
        let second = store
            .announce("s", endpoint(1, 10), Some(TTL), now)
            .unwrap();
        store.detach("s", 10, first.lease, now);
        assert!(
            store
                .entries()
                .all(|(_, mut entries)| entries.all(|entry| entry.attached))
        );
        assert!(!store.keep_alive("s", 10, first.lease, now));
        assert!(store.keep_alive("s", 10, second.lease, now));
    }

    #[test]
    fn a_silent_lease_expires_and_a_kept_one_does_not() {
        let (mut store, now) = (Store::default(), Instant::now());
        store
            .announce("s", endpoint(1, 10), Some(TTL), now)
            .unwrap();
        let kept = store
            .announce("s", endpoint(2, 20), Some(TTL), now)
            .unwrap();
        assert!(store.keep_alive("s", 20, kept.lease, now + Duration::from_secs(3)));
        assert_eq!(store.expire(now + Duration::from_secs(6)), ["s"]);
        assert_eq!(ids(&store), [20]);
    }

    #[test]
    fn a_deregistered_one_is_told_as_departed_for_a_minute() {
        let (mut store, now) = (Store::default(), Instant::now());
        store
            .announce("s", endpoint(1, 10), Some(TTL), now)
            .unwrap();
        store.deregister("s", 10, now);
        assert_eq!(store.snapshot("s").departed, [10]);
        assert_eq!(store.next_expiry(), Some(now + DEPARTED_FOR));
        assert!(
            store.expire(now + DEPARTED_FOR).is_empty(),
            "no list changes"
        );
        assert!(store.snapshot("s").departed.is_empty());
        assert_eq!(store.next_expiry(), None);
        assert!(store.services.is_empty(), "nothing is left behind");
    }

    #[test]
    fn a_new_process_at_an_address_replaces_the_dead_one() {
        let (mut store, now) = (Store::default(), Instant::now());
        let dead = store
            .announce("s", endpoint(1, 10), Some(TTL), now)
            .unwrap();
        store.detach("s", 10, dead.lease, now);
        assert!(
            store
                .announce("s", endpoint(1, 11), Some(TTL), now)
                .unwrap()
                .changed
        );
        assert_eq!(ids(&store), [11]);
        assert!(!store.deregister("s", 10, now));
    }

    #[test]
    fn of_two_live_ones_at_an_address_the_newest_is_listed() {
        let (mut store, now) = (Store::default(), Instant::now());
        store
            .announce("s", endpoint(1, 99), Some(TTL), now)
            .unwrap();
        store
            .announce("s", endpoint(1, 11), Some(TTL), now)
            .unwrap();
        assert_eq!(ids(&store), [11]);
        store.deregister("s", 11, now);
        assert_eq!(ids(&store), [99], "the other one is still there");
    }

    #[test]
    fn restored_entries_have_their_grace_ttl() {
        let now = Instant::now();
        let mut store = Store::restore(41, [("s".to_owned(), endpoint(1, 10), TTL)], now);
        assert_eq!(store.snapshot("s").revision, 41);
        assert_eq!(ids(&store), [10]);
        assert_eq!(store.expire(now + TTL), ["s"]);
        assert_eq!(store.revision(), 42);
    }

    #[test]
    fn an_announcement_overtaken_by_its_deregistration_is_refused() {
        let (mut store, now) = (Store::default(), Instant::now());
        assert!(!store.deregister("s", 10, now));
        assert_eq!(store.announce("s", endpoint(1, 10), Some(TTL), now), None);
        assert!(ids(&store).is_empty());
    }

    #[test]
    fn without_a_ttl_nothing_expires() {
        let (mut store, now) = (Store::default(), Instant::now());
        store.announce("s", endpoint(1, 10), None, now).unwrap();
        assert_eq!(store.next_expiry(), None);
        assert!(
            store
                .expire(now + Duration::from_secs(1_000_000))
                .is_empty()
        );
        assert_eq!(ids(&store), [10]);
    }
}
