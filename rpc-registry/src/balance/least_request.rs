//! The `least_request` policy: [`LeastRequest`].

use std::sync::Arc;

use rpc_core::client::{Candidate, LoadBalancer, Pick, PickContext, Picker, Update};
use tokio::time::Instant;

use super::known::{Choice, Known};
use super::{none_ready, to_connect};

/// What calls take as long as nothing is known, in seconds.
const UNKNOWN: f64 = 0.001;
/// Latencies that differ by less than this factor are the same.
const SAME: f64 = 1.25;

/// Looks at two connected endpoints at random and takes the cheaper one.
///
/// What an endpoint costs is its latency, as a peak-sensitive average of good answers that forgets in
/// ten seconds, times the calls in flight to it, over its weight. How often it is looked at follows
/// the weights too, so that equal endpoints get calls as their weights are. An error is never a good
/// latency: it counts as a call in flight for as long as a good answer would have taken, and one that
/// is the endpoint's fault as a high latency too. An endpoint that is new, or newly connected, is
/// taken to be as fast as the one it is compared with.
///
/// An endpoint that says nothing while calls wait for it, or that fails every call, is passed over but
/// for one call in a hundred, until it has answered one.
#[derive(Debug, Default)]
pub struct LeastRequest {
    known: Known,
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
        let ready = self.known.update(candidates, now);
        let picker: Arc<dyn Picker> = if ready.is_empty() {
            none_ready(candidates)
        } else {
            Arc::new(TwoChoices::new(ready))
        };
        Update {
            connect: to_connect(candidates),
            picker,
        }
    }
}

struct TwoChoices {
    choices: Vec<Choice>,
    /// Each endpoint has as many shares of the whole as it is heavier than the lightest; here is where
    /// those of each end. Nothing when all are equal.
    shares: Option<Vec<u64>>,
    lightest: u32,
}

impl TwoChoices {
    fn new(choices: Vec<Choice>) -> Self {
        let weights = || choices.iter().map(|choice| choice.weight);
        let lightest = weights().min().unwrap_or(1).max(1);
        let shares = weights().any(|weight| weight != lightest).then(|| {
            let mut end = 0u64;
            let ends = weights().map(|weight| {
                end += u64::from(weight);
                end
            });
            ends.collect()
        });
        Self {
            choices,
            shares,
            lightest,
        }
    }

    /// Two to choose from; in the order of their choice, so that equal ones have equal chances.
    fn two(&self, random: u64) -> (usize, usize) {
        match &self.shares {
            None => two_of(self.choices.len(), random),
            Some(shares) => two_shares(shares, self.lightest, random),
        }
    }

    /// The cheaper one of two.
    fn cheaper<'a>(
        &self,
        one: &'a Choice,
        other: &'a Choice,
        context: &PickContext<'_>,
    ) -> &'a Choice {
        let now = context.now;
        let (left, right) = latencies(one, other, now);
        // Half of the bits for each, and other ones than those that have chosen the two.
        let random = context
            .random
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(32);
        let left = left * (self.load(one, left, now, random) + 1.0);
        let right = right * (self.load(other, right, now, random >> 32) + 1.0);
        if right < left { other } else { one }
    }

    /// The calls in flight to one share of an endpoint: a whole number, since a call is on one of them.
    fn load(&self, choice: &Choice, latency: f64, now: Instant, random: u64) -> f64 {
        let load = choice.standing.load(latency, now);
        if choice.weight <= self.lightest {
            return load;
        }
        let each = load * f64::from(self.lightest) / f64::from(choice.weight);
        #[allow(clippy::cast_precision_loss)] // 32 bits fit.
        let fraction = (random & 0xffff_ffff) as f64 / f64::from(u32::MAX);
        let whole = each.floor();
        if fraction < each - whole {
            whole + 1.0
        } else {
            whole
        }
    }

    /// The cheapest of those that fit: the way when the two random ones do not.
    fn cheapest(
        &self,
        context: &PickContext<'_>,
        fits: impl Fn(&Choice) -> bool,
    ) -> Option<&Choice> {
        let fitting = self.choices.iter().filter(|choice| fits(choice));
        fitting.reduce(|best, choice| self.cheaper(best, choice, context))
    }
}

/// The latencies of two endpoints in comparison: one that is not known, or whose last answer was an
/// error, is as slow as the other at least.
fn latencies(one: &Choice, other: &Choice, now: Instant) -> (f64, f64) {
    let of = |choice: &Choice| choice.standing.latency(now);
    let (left, right) = (of(one), of(other));
    let vague = |choice: &Choice, own: Option<f64>, others: Option<f64>| match (own, others) {
        (Some(own), Some(others)) if choice.standing.is_erring() => own.max(others),
        (Some(known), _) | (None, Some(known)) => known,
        (None, None) => UNKNOWN,
    };
    let (left, right) = (vague(one, left, right), vague(other, right, left));
    if left < right * SAME && right < left * SAME {
        return (left, left);
    }
    (left, right)
}

impl Picker for TwoChoices {
    fn pick(&self, context: &PickContext<'_>) -> Pick {
        let (count, now) = (self.choices.len(), context.now);
        let (first, second) = self.two(context.random);
        let (first, second) = (self.choices.get(first), self.choices.get(second));
        let fresh = |choice: &Choice| choice.is_fresh(context.avoid);
        let takes = |choice: &&Choice| fresh(choice) && choice.takes(now, count, 2);
        let found = match (first.filter(takes), second.filter(takes)) {
            // One that is not trusted has been given this call to find out how it is.
            (Some(first), Some(_)) if !first.is_trusted(now) => Some(first),
            (Some(_), Some(second)) if !second.is_trusted(now) => Some(second),
            (Some(first), Some(second)) => Some(self.cheaper(first, second, context)),
            (one, other) => one.or(other),
        };
        let trusted = |choice: &Choice| choice.is_trusted(now);
        let usable = |choice: &Choice| choice.subchannel.is_ready();
        let pair = || {
            let fresh = |choice: &&Choice| fresh(choice);
            match (first.filter(fresh), second.filter(fresh)) {
                (Some(first), Some(second)) => Some(self.cheaper(first, second, context)),
                (one, other) => one.or(other),
            }
        };
        let found = found
            .or_else(|| self.cheapest(context, |choice| fresh(choice) && trusted(choice)))
            .or_else(|| self.cheapest(context, |choice| usable(choice) && trusted(choice)))
            // When none is trusted all are as good as any.
            .or_else(pair)
            .or_else(|| self.cheapest(context, fresh))
            .or_else(|| self.cheapest(context, usable));
        // All lost their connections just now: the next picker knows.
        found.map_or(Pick::Wait, |choice| choice.pick(count == 1))
    }
}

/// A number below `count`, by the lower half of the random bits.
fn below(random: u64, count: u64) -> u64 {
    let scaled = u128::from(random & 0xffff_ffff) * u128::from(count);
    u64::try_from(scaled >> 32).unwrap_or(0)
}

/// Two different numbers below `count` (the same one twice when there is only one).
fn two_of(count: usize, random: u64) -> (usize, usize) {
    let below = |random, count: usize| usize::try_from(below(random, count as u64)).unwrap_or(0);
    let first = below(random >> 32, count);
    if count < 2 {
        return (first, first);
    }
    let second = below(random, count - 1);
    (first, if second >= first { second + 1 } else { second })
}

/// The endpoints of two different shares, which are as large as the lightest endpoint; an endpoint may
/// have both.
fn two_shares(ends: &[u64], share: u32, random: u64) -> (usize, usize) {
    let whole = ends.last().copied().unwrap_or(0);
    let at = |place: u64| ends.partition_point(|end| *end <= place);
    let first = at(below(random >> 32, whole));
    let share = u64::from(share);
    let place = below(random, whole.saturating_sub(share));
    // The second one is not the share that was chosen: that is cut out at the end of its endpoint.
    let end = ends.get(first).copied().unwrap_or(whole);
    let second = at(if place + share >= end {
        place + share
    } else {
        place
    });
    (first, second)
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
    fn two_shares_as_the_weights_are() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut counts = [[0u32; 3]; 2];
        for _ in 0..80_000 {
            let (first, second) = two_shares(&[100, 120, 160], 20, random.u64(..));
            counts[0][first] += 1;
            counts[1][second] += 1;
        }
        for counts in counts {
            let near = |count: u32, share: u32| count.abs_diff(10_000 * share) < 1_000;
            let [heavy, light, middle] = counts;
            assert!(
                near(heavy, 5) && near(light, 1) && near(middle, 2),
                "{counts:?}"
            );
        }
    }
}
