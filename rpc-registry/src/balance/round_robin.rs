//! The `round_robin` policy: [`RoundRobin`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rpc_core::client::{Candidate, LoadBalancer, Pick, PickContext, Picker, Subchannel, Update};
use tokio::time::Instant;

use super::{is_ready, none_ready, to_connect};

/// Gives each connected endpoint its turn, as often as its weight says, evenly spaced.
#[derive(Debug, Default)]
pub struct RoundRobin {
    // Outlives each picker, so that a change of the list does not start over with the first.
    turn: Arc<AtomicU64>,
}

impl RoundRobin {
    /// The policy, starting with the first endpoint.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl LoadBalancer for RoundRobin {
    fn name(&self) -> &'static str {
        "round_robin"
    }

    fn update(&mut self, candidates: &[Candidate], _now: Instant) -> Update {
        let ready: Vec<_> = candidates
            .iter()
            .filter(is_ready)
            .map(|candidate| {
                (
                    candidate.subchannel.clone(),
                    u64::from(candidate.endpoint.weight),
                )
            })
            .collect();
        let heaviest = ready.iter().map(|(_, weight)| *weight).max().unwrap_or(0);
        let picker: Arc<dyn Picker> = if ready.is_empty() {
            none_ready(candidates)
        } else {
            Arc::new(Turns {
                ready,
                heaviest,
                turn: Arc::clone(&self.turn),
            })
        };
        Update {
            connect: to_connect(candidates),
            picker,
        }
    }
}

/// Weighted turns without a table: in round `n` an endpoint is passed over unless its share of the
/// rounds so far has grown by one. One atomic is the whole state.
///
/// Source: the static stride scheduler of gRFC A58.
struct Turns {
    ready: Vec<(Subchannel, u64)>,
    heaviest: u64,
    turn: Arc<AtomicU64>,
}

impl Turns {
    fn next(&self) -> usize {
        let count = self.ready.len() as u64;
        loop {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let (round, index) = (turn / count, turn % count);
            let index = usize::try_from(index).unwrap_or(0);
            let weight = self
                .ready
                .get(index)
                .map_or(self.heaviest, |(_, weight)| *weight);
            // Weights of neighbours are moved apart, so that equal ones do not take turns in step.
            let moved = (index as u64).wrapping_mul(self.heaviest / 2);
            let phase = weight.wrapping_mul(round).wrapping_add(moved) % self.heaviest;
            // Always true for the heaviest one, so that this ends within a round.
            if phase >= self.heaviest - weight {
                return index;
            }
        }
    }
}

impl Picker for Turns {
    fn pick(&self, context: &PickContext<'_>) -> Pick {
        let start = self.next();
        let (before, after) = self.ready.split_at(start);
        let in_turn = after.iter().chain(before).map(|(subchannel, _)| subchannel);
        let mut usable = in_turn.filter(|subchannel| subchannel.is_ready());
        let fresh = usable
            .clone()
            .find(|subchannel| !context.avoid.contains(&subchannel.id()));
        // All lost their connections just now: the next picker knows.
        fresh
            .or_else(|| usable.next())
            .map_or(Pick::Wait, |subchannel| Pick::To(subchannel.clone(), None))
    }
}
