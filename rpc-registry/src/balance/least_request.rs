//! The `least_request` policy: [`LeastRequest`].

use std::collections::HashMap;
use std::sync::Arc;

use rpc_core::client::{Candidate, LoadBalancer, Pick, PickContext, Picker, Subchannel, Update};
use tokio::time::Instant;

use super::ewma::{Cost, FLOOR};
use super::{is_ready, none_ready, to_connect};

/// Looks at two connected endpoints at random and takes the cheaper one.
///
/// What an endpoint costs is its latency, as a peak-sensitive average that forgets in ten seconds,
/// times the calls in flight to it, over its weight. A failure counts as a high latency. An
/// endpoint that is new, or newly connected, starts with the average of the others: what was
/// known of it ended with its old connection, whose loss failed the calls on it.
#[derive(Debug, Default)]
pub struct LeastRequest {
    known: HashMap<u64, Known>,
}

#[derive(Debug)]
struct Known {
    cost: Arc<Cost>,
    instance: u64,
    ready: bool,
}

impl Known {
    /// Whether what is known of an endpoint still holds for it.
    fn holds(&self, candidate: &Candidate) -> bool {
        self.instance == candidate.endpoint.instance && (self.ready || !is_ready(&candidate))
    }
}

impl LeastRequest {
    /// The policy, knowing nothing of any endpoint yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl LoadBalancer for LeastRequest {
    fn name(&self) -> &'static str {
        "least_request"
    }

    fn update(&mut self, candidates: &[Candidate], now: Instant) -> Update {
        let mut before = std::mem::take(&mut self.known);
        for candidate in candidates {
            if let Some(mut known) = before.remove(&candidate.id)
                && known.holds(candidate)
            {
                known.ready = is_ready(&candidate);
                self.known.insert(candidate.id, known);
            }
        }
        let serving = self.known.values().filter(|known| known.ready);
        let average = average(serving.map(|known| known.cost.latency(now)));
        for candidate in candidates {
            self.known.entry(candidate.id).or_insert_with(|| Known {
                cost: Arc::new(Cost::new(average, now)),
                instance: candidate.endpoint.instance,
                ready: is_ready(&candidate),
            });
        }
        let ready: Vec<_> = candidates
            .iter()
            .filter(is_ready)
            .filter_map(|candidate| {
                let cost = Arc::clone(&self.known.get(&candidate.id)?.cost);
                Some(Choice {
                    subchannel: candidate.subchannel.clone(),
                    cost,
                    weight: f64::from(candidate.endpoint.weight),
                })
            })
            .collect();
        let picker = if ready.is_empty() {
            none_ready(candidates)
        } else {
            Arc::new(TwoChoices(ready))
        };
        Update {
            connect: to_connect(candidates),
            picker,
        }
    }
}

fn average(latencies: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = latencies.fold((0.0, 0.0), |(sum, count), latency| {
        (sum + latency, count + 1.0)
    });
    if count > 0.0 {
        sum / count
    } else {
        FLOOR.as_secs_f64()
    }
}

struct Choice {
    subchannel: Subchannel,
    cost: Arc<Cost>,
    weight: f64,
}

impl Choice {
    fn price(&self, now: Instant) -> f64 {
        self.cost.of_one_more(now) / self.weight
    }

    fn pick(&self) -> Pick {
        Pick::To(self.subchannel.clone(), Some(Arc::clone(&self.cost) as _))
    }
}

struct TwoChoices(Vec<Choice>);

impl TwoChoices {
    /// The cheapest of those that fit: the way when the two random ones do not.
    fn cheapest(&self, now: Instant, fits: impl Fn(&Choice) -> bool) -> Option<&Choice> {
        let fitting = self.0.iter().filter(|choice| fits(choice));
        fitting.min_by(|left, right| left.price(now).total_cmp(&right.price(now)))
    }
}

impl Picker for TwoChoices {
    fn pick(&self, context: &PickContext<'_>) -> Pick {
        let usable = |choice: &Choice| choice.subchannel.is_ready();
        let fresh =
            |choice: &Choice| usable(choice) && !context.avoid.contains(&choice.subchannel.id());
        let (first, second) = two_of(self.0.len(), context.random);
        let pair = [self.0.get(first), self.0.get(second)];
        let cheaper = pair.into_iter().flatten().filter(|choice| fresh(choice));
        let found = cheaper
            .min_by(|left, right| left.price(context.now).total_cmp(&right.price(context.now)))
            .or_else(|| self.cheapest(context.now, fresh))
            .or_else(|| self.cheapest(context.now, usable));
        // All lost their connections just now: the next picker knows.
        found.map_or(Pick::Wait, Choice::pick)
    }
}

/// Two different numbers below `count` (the same one twice when there is only one).
fn two_of(count: usize, random: u64) -> (usize, usize) {
    let below = |random: u64, count: usize| {
        usize::try_from(((random & 0xffff_ffff) * (count as u64)) >> 32).unwrap_or(0)
    };
    let first = below(random >> 32, count);
    if count < 2 {
        return (first, first);
    }
    let second = below(random, count - 1);
    (first, if second >= first { second + 1 } else { second })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_different_ones_evenly() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut counts = [0u32; 5];
        for _ in 0..10_000 {
            let (first, second) = two_of(5, random.u64(..));
            assert_ne!(first, second);
            counts[first] += 1;
            counts[second] += 1;
        }
        assert!(
            counts.iter().all(|count| (3_800..4_200).contains(count)),
            "{counts:?}"
        );
        assert_eq!(two_of(1, u64::MAX), (0, 0));
        assert_eq!(two_of(2, u64::MAX), (1, 0));
    }

    #[test]
    fn a_new_endpoint_starts_with_the_average() {
        assert!((average([0.01, 0.03].into_iter()) - 0.02).abs() < 1e-9);
        assert!((average([].into_iter()) - FLOOR.as_secs_f64()).abs() < 1e-9);
    }
}
