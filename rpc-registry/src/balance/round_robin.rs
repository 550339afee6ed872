//! The `round_robin` policy: [`RoundRobin`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rpc_core::client::{Candidate, LoadBalancer, Pick, PickContext, Picker, Update};
use tokio::time::Instant;

use super::known::{Choice, Known};
use super::{none_ready, to_connect};

/// Gives each connected endpoint its turn, as often as its weight says, evenly spaced.
///
/// It begins at a random one. An endpoint that says nothing while calls wait for it, or that fails
/// every call, is passed over but for one call in a hundred, until it has answered one.
#[derive(Debug, Default)]
pub struct RoundRobin {
    // Outlives each picker, so that a change of the list does not start over with the first.
    turn: Arc<Turn>,
    known: Known,
}

/// The number of the next turn.
#[derive(Debug, Default)]
struct Turn {
    first: OnceLock<u64>,
    taken: AtomicU64,
}

impl Turn {
    fn next(&self, random: u64) -> u64 {
        // Below 2^32, so that the sum does not wrap around in any run of a program.
        let first = *self.first.get_or_init(|| random >> 32);
        first + self.taken.fetch_add(1, Ordering::Relaxed)
    }
}

impl RoundRobin {
    /// The policy, which begins at a random endpoint.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl LoadBalancer for RoundRobin {
    fn name(&self) -> &'static str {
        "round_robin"
    }

    fn update(&mut self, candidates: &[Candidate], now: Instant) -> Update {
        let ready = self.known.update(candidates, now);
        let heaviest = ready.iter().map(|choice| choice.weight).max().unwrap_or(0);
        let picker: Arc<dyn Picker> = if ready.is_empty() {
            none_ready(candidates)
        } else {
            Arc::new(Turns {
                ready,
                heaviest: heaviest.into(),
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
    ready: Vec<Choice>,
    heaviest: u64,
    turn: Arc<Turn>,
}

impl Turns {
    fn next(&self, random: u64) -> usize {
        let count = self.ready.len() as u64;
        loop {
            let turn = self.turn.next(random);
            let (round, index) = (turn / count, turn % count);
            let index = usize::try_from(index).unwrap_or(0);
            let weight = self
                .ready
                .get(index)
                .map_or(self.heaviest, |choice| choice.weight.into());
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
        let count = self.ready.len();
        let mut at = 0;
        // Passing one over is another turn for all, so that its neighbour does not get its share.
        for _ in 0..count.min(16) {
            at = self.next(context.random);
            if let Some(choice) = self.ready.get(at)
                && choice.is_fresh(context.avoid)
                && choice.takes(context.now, count, 1)
            {
                return choice.pick(count == 1);
            }
        }
        let (before, after) = self.ready.split_at(at);
        let mut in_turn = after.iter().chain(before);
        let usable = |choice: &&Choice| choice.subchannel.is_ready();
        let fresh = |choice: &&Choice| choice.is_fresh(context.avoid);
        let trusted = |choice: &&Choice| choice.is_trusted(context.now);
        let found = in_turn
            .clone()
            .find(|choice| fresh(choice) && trusted(choice))
            .or_else(|| {
                let mut in_turn = in_turn.clone();
                in_turn.find(|choice| usable(choice) && trusted(choice))
            })
            .or_else(|| in_turn.clone().find(fresh))
            .or_else(|| in_turn.find(usable));
        // All lost their connections just now: the next picker knows.
        found.map_or(Pick::Wait, |choice| choice.pick(count == 1))
    }
}
