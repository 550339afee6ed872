//! The `rendezvous` policy: [`Rendezvous`].

use std::sync::Arc;

use rpc_core::client::{Candidate, LoadBalancer, Pick, PickContext, Picker, Update};
use tokio::time::Instant;

use super::known::{Choice, Known};
use super::{none_ready, to_connect};

/// Sends calls with the same [key](rpc_core::Request::with_hash_key) to the same endpoint, in every
/// process that has the same list; calls without one go to random endpoints.
///
/// Each endpoint has as many of the keys as its weight says. When one comes or goes, only its own keys
/// move. For servers that keep something for those who call them, such as a cache. An endpoint that
/// says nothing while calls wait for it, or that fails every call, is passed over but for one call in
/// a hundred, until it has answered one.
///
/// Source: Thaler and Ravishankar, "Using name-based mappings to increase hit rates" (1998), with the
/// weights of Schindelhauer and Schomaker (2005).
#[derive(Debug, Default)]
pub struct Rendezvous {
    known: Known,
}

impl Rendezvous {
    /// The policy, knowing nothing of any endpoint yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl LoadBalancer for Rendezvous {
    fn name(&self) -> &'static str {
        "rendezvous"
    }

    fn update(&mut self, candidates: &[Candidate], now: Instant) -> Update {
        let ready = self.known.update(candidates, now);
        let picker: Arc<dyn Picker> = if ready.is_empty() {
            none_ready(candidates)
        } else {
            let named = ready.into_iter().map(|choice| {
                let address = choice.subchannel.endpoint().address.to_string();
                (name_of(address.as_bytes()), choice)
            });
            Arc::new(Ranks(named.collect()))
        };
        Update {
            connect: to_connect(candidates),
            picker,
        }
    }
}

/// The endpoints, by the hashes of their addresses.
struct Ranks(Vec<(u64, Choice)>);

impl Ranks {
    /// The endpoint of a key among those that fit.
    fn first(&self, key: u64, fits: impl Fn(&Choice) -> bool) -> Option<&Choice> {
        let fitting = self.0.iter().filter(|(_, choice)| fits(choice));
        let ranked = fitting.map(|(name, choice)| (rank(*name, key, choice.weight), choice));
        let first = ranked.max_by(|left, right| left.0.total_cmp(&right.0));
        first.map(|(_, choice)| choice)
    }
}

impl Picker for Ranks {
    fn pick(&self, context: &PickContext<'_>) -> Pick {
        let (count, now) = (self.0.len(), context.now);
        let key = context.hash_key.unwrap_or(context.random);
        let fresh = |choice: &Choice| choice.is_fresh(context.avoid);
        let usable = |choice: &Choice| choice.subchannel.is_ready();
        let trusted = |choice: &Choice| choice.is_trusted(now);
        let found = self
            .first(key, fresh)
            .filter(|choice| choice.takes(now, count, 1))
            .or_else(|| self.first(key, |choice| fresh(choice) && trusted(choice)))
            .or_else(|| self.first(key, |choice| usable(choice) && trusted(choice)))
            .or_else(|| self.first(key, fresh))
            .or_else(|| self.first(key, usable));
        // All lost their connections just now: the next picker knows.
        found.map_or(Pick::Wait, |choice| choice.pick(count == 1))
    }
}

/// How high an endpoint stands for a key; of random numbers for all, the heavier ones are higher.
fn rank(name: u64, key: u64, weight: u32) -> f64 {
    #[allow(clippy::cast_precision_loss)] // 53 bits fit into an f64.
    let number = ((mixed(name ^ mixed(key)) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    f64::from(weight) / -number.ln()
}

/// FNV-1a: the same in every process and version, as the hashes of the standard library are not.
fn name_of(octets: &[u8]) -> u64 {
    octets.iter().fold(0xcbf2_9ce4_8422_2325, |hash, octet| {
        (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The finalizer of SplitMix64: every bit depends on every other.
fn mixed(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
