use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rpc_core::client::{
    Address, Attempt, AttemptEnd, CallTracker, ConnectivityState, Endpoint, LoadBalancer,
    Subchannel, Update, Updates,
};
use rpc_core::{Code, Status};
use tokio::time::Instant;

use super::*;
use ConnectivityState::{Connecting, Idle, Ready, TransientFailure};

const MS: Duration = Duration::from_millis(1);

fn candidate(id: u64, weight: u32, state: ConnectivityState) -> Candidate {
    let address: Address = format!("127.0.0.1:{id}").parse().unwrap();
    let endpoint = Endpoint::new(address).with_weight(weight);
    let last_error =
        (state == TransientFailure).then(|| Status::unavailable(format!("refused by {id}")));
    let subchannel = Subchannel::detached(endpoint.clone(), state == Ready);
    Candidate {
        id,
        endpoint: Arc::new(endpoint),
        state,
        last_error,
        subchannel,
    }
}

fn ready(weights: &[u32]) -> Vec<Candidate> {
    weights
        .iter()
        .zip(1..)
        .map(|(weight, id)| candidate(id, *weight, Ready))
        .collect()
}

struct Caller {
    random: fastrand::Rng,
    now: Instant,
}

impl Caller {
    fn new() -> Self {
        Self {
            random: fastrand::Rng::with_seed(7),
            now: Instant::now(),
        }
    }

    fn pick(&mut self, update: &Update, avoid: &[u64]) -> Pick {
        let context = PickContext {
            path: "/a/B",
            hash_key: None,
            avoid,
            random: self.random.u64(..),
            now: self.now,
            updates: &Updates::default(),
        };
        update.picker.pick(&context)
    }

    fn to(&mut self, update: &Update, avoid: &[u64]) -> (u64, Option<Arc<dyn CallTracker>>) {
        match self.pick(update, avoid) {
            Pick::To(subchannel, tracker) => (subchannel.id(), tracker),
            Pick::Wait => panic!("waits"),
            Pick::Fail(status) => panic!("{status}"),
        }
    }

    /// Makes calls one after the other; the endpoint decides how each goes.
    fn shares(
        &mut self,
        update: &Update,
        calls: u32,
        outcome: impl Fn(u64) -> (Duration, Code),
    ) -> BTreeMap<u64, u32> {
        let mut shares = BTreeMap::new();
        for _ in 0..calls {
            let (id, tracker) = self.to(update, &[]);
            *shares.entry(id).or_default() += 1;
            let (latency, code) = outcome(id);
            if let Some(tracker) = tracker {
                let attempt = Attempt::new(self.now, true);
                tracker.started(&attempt);
                tracker.finished(&attempt, self.now + latency, AttemptEnd::Answered(code));
            }
            self.now += MS;
        }
        shares
    }
}

fn policies() -> [Box<dyn LoadBalancer>; 3] {
    [
        Box::new(LeastRequest::new()),
        Box::new(RoundRobin::new()),
        Box::new(Rendezvous::new()),
    ]
}

/// The endpoints of a thousand keys.
fn owners(update: &Update) -> Vec<u64> {
    let pick = |key| {
        let pick = update.picker.pick(&PickContext {
            path: "/a/B",
            hash_key: Some(key),
            avoid: &[],
            random: 0,
            now: Instant::now(),
            updates: &Updates::default(),
        });
        match pick {
            Pick::To(subchannel, _) => subchannel.id(),
            Pick::Wait | Pick::Fail(_) => panic!("not picked"),
        }
    };
    (0..1_000).map(pick).collect()
}

#[test]
fn a_key_has_its_endpoint_and_only_the_keys_of_one_that_goes_move() {
    let all = owners(&Rendezvous::new().update(&ready(&[100; 5]), Instant::now()));
    let again = owners(&Rendezvous::new().update(&ready(&[100; 5]), Instant::now()));
    assert_eq!(all, again);
    for id in 1..=5 {
        let count = all.iter().filter(|owner| **owner == id).count();
        assert!((150..250).contains(&count), "{id}: {count}");
    }
    let less = owners(&Rendezvous::new().update(&ready(&[100; 4]), Instant::now()));
    let stayed = all.iter().zip(&less).filter(|(before, _)| **before != 5);
    assert!(stayed.into_iter().all(|(before, after)| before == after));
}

#[test]
fn keys_are_spread_as_the_weights_are() {
    let all = owners(&Rendezvous::new().update(&ready(&[300, 100]), Instant::now()));
    let heavy = all.iter().filter(|owner| **owner == 1).count();
    assert!((710..790).contains(&heavy), "{heavy}");
}

#[test]
fn round_robin_takes_turns() {
    let update = RoundRobin::new().update(&ready(&[100, 100, 100]), Instant::now());
    let mut caller = Caller::new();
    let order: Vec<_> = (0..6).map(|_| caller.to(&update, &[]).0).collect();
    let first = order[0] - 1;
    let turns = (0..6).map(|turn| (first + turn) % 3 + 1);
    assert_eq!(order, turns.collect::<Vec<_>>());
}

#[test]
fn round_robin_follows_weights_exactly_and_smoothly() {
    let update = RoundRobin::new().update(&ready(&[5, 1, 2]), Instant::now());
    let mut caller = Caller::new();
    let order: Vec<_> = (0..80).map(|_| caller.to(&update, &[]).0).collect();
    let count = |id| order.iter().filter(|picked| **picked == id).count();
    assert_eq!((count(1), count(2), count(3)), (50, 10, 20));
    // Spread out: the light one comes about every eighth call, never in a heap.
    let places: Vec<_> = (0..80).filter(|index| order[*index] == 2).collect();
    assert!(
        places
            .windows(2)
            .all(|pair| (6..=10).contains(&(pair[1] - pair[0]))),
        "{places:?}"
    );
}

#[test]
fn round_robin_goes_on_where_it_was_after_an_update() {
    let mut policy = RoundRobin::new();
    let mut caller = Caller::new();
    let first = policy.update(&ready(&[1, 1, 1]), Instant::now());
    let before = caller.to(&first, &[]).0;
    let second = policy.update(&ready(&[1, 1, 1]), Instant::now());
    assert_eq!(caller.to(&second, &[]).0, before % 3 + 1);
}

#[test]
fn round_robin_skips_one_that_lost_its_connection_since() {
    let mut candidates = ready(&[1, 1, 1]);
    candidates[1].subchannel = Subchannel::detached((*candidates[1].endpoint).clone(), false);
    let update = RoundRobin::new().update(&candidates, Instant::now());
    let shares = Caller::new().shares(&update, 300, |_| (MS, Code::Ok));
    assert!(!shares.contains_key(&2), "{shares:?}");
}

#[test]
fn least_request_spreads_evenly_over_equals() {
    let mut policy = LeastRequest::new();
    let mut caller = Caller::new();
    let update = policy.update(&ready(&[100; 4]), caller.now);
    let shares = caller.shares(&update, 40_000, |_| (MS, Code::Ok));
    assert!(
        shares.values().all(|share| (8_000..12_000).contains(share)),
        "{shares:?}"
    );
}

#[test]
fn least_request_prefers_the_faster_one() {
    let mut policy = LeastRequest::new();
    let mut caller = Caller::new();
    let update = policy.update(&ready(&[100; 3]), caller.now);
    let shares = caller.shares(&update, 10_000, |id| {
        (if id == 2 { 50 * MS } else { 5 * MS }, Code::Ok)
    });
    assert!(shares[&2] < 500, "{shares:?}");
}

#[test]
fn least_request_prefers_the_idle_one() {
    let mut policy = LeastRequest::new();
    let mut caller = Caller::new();
    let update = policy.update(&ready(&[100, 100]), caller.now);
    let (busy, tracker) = caller.to(&update, &[]);
    tracker.unwrap().started(&Attempt::new(caller.now, true));
    for _ in 0..100 {
        assert_ne!(caller.to(&update, &[]).0, busy);
    }
}

/// Makes calls at a rate of so many in flight, each of which takes this long on its endpoint; counts
/// them by endpoint once a tenth of them is over.
fn busy(
    caller: &mut Caller,
    update: &Update,
    calls: u32,
    in_flight: u32,
    outcome: impl Fn(u64) -> (Duration, Code),
) -> BTreeMap<u64, u32> {
    let mut ends = std::collections::BinaryHeap::new();
    let mut trackers = Vec::new();
    let mut shares = BTreeMap::new();
    let gap = 10 * MS / in_flight;
    for call in 0..calls {
        // Some come sooner and some later.
        caller.now += gap.mul_f64(caller.random.f64() * 2.0);
        while let Some(std::cmp::Reverse((end, index))) = ends.pop() {
            if end > caller.now {
                ends.push(std::cmp::Reverse((end, index)));
                break;
            }
            let (tracker, attempt, code): &(Arc<dyn CallTracker>, Attempt, Code) = &trackers[index];
            tracker.finished(attempt, end, AttemptEnd::Answered(*code));
        }
        let (id, tracker) = caller.to(update, &[]);
        let (tracker, attempt) = (tracker.unwrap(), Attempt::new(caller.now, true));
        tracker.started(&attempt);
        let (latency, code) = outcome(id);
        let jitter = 0.8 + 0.4 * caller.random.f64();
        ends.push(std::cmp::Reverse((
            caller.now + latency.mul_f64(jitter),
            trackers.len(),
        )));
        trackers.push((tracker, attempt, code));
        if call >= calls / 10 {
            *shares.entry(id).or_default() += 1;
        }
    }
    for std::cmp::Reverse((_, index)) in ends {
        let (tracker, attempt, _) = &trackers[index];
        tracker.finished(attempt, caller.now, AttemptEnd::Abandoned);
    }
    shares
}

#[test]
fn least_request_gives_calls_as_the_weights_are() {
    for in_flight in [1, 5, 50] {
        for weights in [&[100, 20][..], &[300, 100], &[10, 20, 30, 40], &[70, 100]] {
            let mut caller = Caller::new();
            let update = LeastRequest::new().update(&ready(weights), caller.now);
            let calls = 20_000;
            let shares = busy(&mut caller, &update, calls, in_flight, |_| {
                (10 * MS, Code::Ok)
            });
            let sum = f64::from(weights.iter().sum::<u32>());
            for (weight, share) in weights.iter().zip(shares.values()) {
                let right = f64::from(calls) * 0.9 * f64::from(*weight) / sum;
                let ratio = f64::from(*share) / right;
                assert!(
                    (0.93..1.07).contains(&ratio),
                    "{in_flight}: {weights:?} {shares:?}"
                );
            }
        }
    }
}

/// Every code but OK.
fn errors() -> impl Iterator<Item = Code> {
    (1..=16).map(Code::from_i32)
}

/// Codes that say something against the server.
fn is_its_fault(code: Code) -> bool {
    !matches!(
        code,
        Code::Cancelled
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
    )
}

#[test]
fn failing_fast_attracts_no_calls() {
    for mut policy in policies() {
        for code in errors() {
            for in_flight in [1, 30] {
                let mut caller = Caller::new();
                policy.update(&[], caller.now);
                let update = policy.update(&ready(&[100; 4]), caller.now);
                let fails = |id| match id {
                    1 => (MS / 10, code),
                    _ => (10 * MS, Code::Ok),
                };
                let shares = busy(&mut caller, &update, 10_000, in_flight, fails);
                let most = if is_its_fault(code) {
                    9_000 / 50
                } else {
                    9_000 * 28 / 100
                };
                let got = shares.get(&1).copied().unwrap_or(0);
                let name = policy.name();
                assert!(
                    got <= most,
                    "{name}, {code}, {in_flight} in flight: {shares:?}"
                );
            }
        }
    }
}

#[test]
fn half_of_the_answers_failing_fast_attracts_no_calls() {
    for in_flight in [1, 10, 100] {
        for code in [Code::NotFound, Code::Internal] {
            let mut caller = Caller::new();
            let update = LeastRequest::new().update(&ready(&[100; 4]), caller.now);
            let coin = std::cell::Cell::new(false);
            let fails = |id| {
                coin.set(!coin.get());
                if id == 1 && coin.get() {
                    (MS / 10, code)
                } else {
                    (10 * MS, Code::Ok)
                }
            };
            let shares = busy(&mut caller, &update, 40_000, in_flight, fails);
            let got = shares.get(&1).copied().unwrap_or(0);
            assert!(got < 36_000 * 29 / 100, "{code}, {in_flight}: {shares:?}");
        }
    }
}

#[test]
fn when_all_fail_calls_go_on_to_all() {
    for mut policy in policies() {
        let mut caller = Caller::new();
        let update = policy.update(&ready(&[100; 3]), caller.now);
        let shares = busy(&mut caller, &update, 10_000, 10, |_| {
            (MS, Code::Unavailable)
        });
        let least = shares.values().min().copied().unwrap_or(0);
        assert!(
            shares.len() == 3 && least > 2_000,
            "{}: {shares:?}",
            policy.name()
        );
    }
}

#[test]
fn a_silent_endpoint_gets_one_call_in_a_hundred_and_comes_back_when_it_speaks() {
    for mut policy in policies() {
        let mut caller = Caller::new();
        let update = policy.update(&ready(&[100; 3]), caller.now);
        let long = 3600 * 1000 * MS;
        let silent = |id| (if id == 2 { long } else { 10 * MS }, Code::Ok);
        // A thousand calls a second.
        busy(&mut caller, &update, 1_000, 10, silent);
        let shares = busy(&mut caller, &update, 10_000, 10, silent);
        let got = shares.get(&2).copied().unwrap_or(0);
        assert!(got <= 9_000 / 50, "{}: {shares:?}", policy.name());
        let well = |_| (10 * MS, Code::Ok);
        busy(&mut caller, &update, 5_000, 10, well);
        let shares = busy(&mut caller, &update, 3_000, 10, well);
        assert!(shares[&2] > 600, "{}: {shares:?}", policy.name());
    }
}

#[test]
fn round_robin_passes_one_over_without_giving_its_calls_to_its_neighbour() {
    let mut caller = Caller::new();
    let update = RoundRobin::new().update(&ready(&[100; 4]), caller.now);
    let shares = busy(&mut caller, &update, 10_000, 10, |id| match id {
        2 => (MS, Code::Unavailable),
        _ => (10 * MS, Code::Ok),
    });
    for id in [1, 3, 4] {
        assert!((2_700..3_100).contains(&shares[&id]), "{shares:?}");
    }
}

#[test]
fn round_robin_begins_at_a_random_endpoint() {
    let mut caller = Caller::new();
    let mut first = BTreeMap::<u64, u32>::new();
    for _ in 0..300 {
        let update = RoundRobin::new().update(&ready(&[100; 3]), caller.now);
        *first.entry(caller.to(&update, &[]).0).or_default() += 1;
    }
    assert!(
        first.len() == 3 && first.values().all(|count| *count > 60),
        "{first:?}"
    );
}

#[test]
fn least_request_leaves_one_that_fails_and_comes_back() {
    let mut policy = LeastRequest::new();
    let mut caller = Caller::new();
    let update = policy.update(&ready(&[100; 3]), caller.now);
    caller.shares(&update, 3_000, |_| (2 * MS, Code::Ok));
    let failing = caller.shares(&update, 3_000, |id| {
        if id == 1 {
            (MS, Code::Unavailable)
        } else {
            (2 * MS, Code::Ok)
        }
    });
    assert!(failing.get(&1).copied().unwrap_or(0) < 30, "{failing:?}");
    caller.now += Duration::from_secs(60);
    let recovered = caller.shares(&update, 3_000, |_| (2 * MS, Code::Ok));
    assert!(recovered[&1] > 600, "{recovered:?}");
}

#[test]
fn least_request_remembers_across_updates_and_forgets_those_gone() {
    let mut policy = LeastRequest::new();
    let mut caller = Caller::new();
    let candidates = ready(&[100, 100]);
    let update = policy.update(&candidates, caller.now);
    caller.shares(&update, 100, |id| {
        (if id == 1 { 100 * MS } else { MS }, Code::Ok)
    });
    let again = policy.update(&candidates, caller.now);
    assert!(
        (0..50).all(|_| caller.to(&again, &[]).0 == 2),
        "the slow one is still known as slow"
    );
    policy.update(&candidates[1..], caller.now);
    let back = policy.update(&candidates, caller.now);
    let shares = caller.shares(&back, 1_000, |_| (MS, Code::Ok));
    assert!(
        shares[&1] > 300,
        "it starts with the average of the others: {shares:?}"
    );
}

#[test]
fn least_request_forgets_the_failures_of_an_ended_connection() {
    let mut policy = LeastRequest::new();
    let mut caller = Caller::new();
    let mut candidates = ready(&[100, 100, 100]);
    let update = policy.update(&candidates, caller.now);
    caller.shares(&update, 300, |id| {
        if id == 1 {
            (500 * MS, Code::Unavailable)
        } else {
            (MS, Code::Ok)
        }
    });
    candidates[0] = candidate(1, 100, TransientFailure);
    policy.update(&candidates, caller.now);
    let update = policy.update(&ready(&[100, 100, 100]), caller.now);
    let shares = caller.shares(&update, 3_000, |_| (MS, Code::Ok));
    assert!(shares[&1] > 600, "{shares:?}");
}

#[test]
fn least_request_knows_nothing_of_a_new_process_at_an_address() {
    let mut policy = LeastRequest::new();
    let mut caller = Caller::new();
    let mut candidates = ready(&[100, 100, 100]);
    let update = policy.update(&candidates, caller.now);
    caller.shares(&update, 300, |id| {
        if id == 1 {
            (500 * MS, Code::Unavailable)
        } else {
            (MS, Code::Ok)
        }
    });
    candidates[0].endpoint = Arc::new(Endpoint {
        instance: 2,
        ..(*candidates[0].endpoint).clone()
    });
    let update = policy.update(&candidates, caller.now);
    let shares = caller.shares(&update, 3_000, |_| (MS, Code::Ok));
    assert!(shares[&1] > 600, "{shares:?}");
}

#[test]
fn least_request_holds_nothing_back_from_a_new_endpoint() {
    let mut policy = LeastRequest::new();
    let mut caller = Caller::new();
    let update = policy.update(&ready(&[100, 100]), caller.now);
    caller.shares(&update, 2_000, |_| (20 * MS, Code::Ok));
    let update = policy.update(&ready(&[100, 100, 100]), caller.now);
    let shares = caller.shares(&update, 3_000, |_| (20 * MS, Code::Ok));
    assert!(
        (600..1_500).contains(&shares[&3]),
        "neither flooded nor starved: {shares:?}"
    );
}

#[test]
fn both_prefer_one_that_the_call_has_not_failed_on() {
    for mut policy in policies() {
        let mut caller = Caller::new();
        let update = policy.update(&ready(&[100, 100, 100]), caller.now);
        for _ in 0..100 {
            assert_eq!(caller.to(&update, &[1, 3]).0, 2, "{}", policy.name());
        }
        let (id, _) = caller.to(&update, &[1, 2, 3]);
        assert!(
            (1..=3).contains(&id),
            "{}: one that failed is better than none",
            policy.name()
        );
    }
}

#[test]
fn both_use_only_what_is_ready() {
    for mut policy in policies() {
        let mut candidates = ready(&[100, 100]);
        candidates.extend([
            candidate(3, 100, Connecting),
            candidate(4, 100, TransientFailure),
            candidate(5, 100, Idle),
        ]);
        let mut caller = Caller::new();
        let update = policy.update(&candidates, caller.now);
        assert_eq!(update.connect, [1, 2, 3, 4, 5]);
        let shares = caller.shares(&update, 1_000, |_| (MS, Code::Ok));
        assert_eq!(
            shares.keys().copied().collect::<Vec<_>>(),
            [1, 2],
            "{}",
            policy.name()
        );
    }
}

#[test]
fn weight_zero_takes_no_load_and_no_connection() {
    for mut policy in policies() {
        let mut caller = Caller::new();
        let update = policy.update(&ready(&[0, 100]), caller.now);
        assert_eq!(update.connect, [2]);
        assert_eq!(
            caller.shares(&update, 100, |_| (MS, Code::Ok)),
            [(2, 100)].into()
        );
        let update = policy.update(&ready(&[0, 0]), caller.now);
        let Pick::Fail(status) = caller.pick(&update, &[]) else {
            panic!("not failed")
        };
        assert!(status.message().contains("weight 0"), "{status}");
    }
}

#[test]
fn both_wait_while_something_may_become_ready() {
    for mut policy in policies() {
        for state in [Idle, Connecting] {
            let update = policy.update(
                &[
                    candidate(1, 100, TransientFailure),
                    candidate(2, 100, state),
                ],
                Instant::now(),
            );
            assert!(
                matches!(Caller::new().pick(&update, &[]), Pick::Wait),
                "{}",
                policy.name()
            );
        }
    }
}

#[test]
fn both_fail_with_how_many_and_why() {
    for mut policy in policies() {
        let candidates: Vec<_> = (1..=7)
            .map(|id| candidate(id, 100, TransientFailure))
            .collect();
        let update = policy.update(&candidates, Instant::now());
        let Pick::Fail(status) = Caller::new().pick(&update, &[]) else {
            panic!("not failed")
        };
        assert_eq!(status.code(), Code::Unavailable);
        let message = status.message();
        assert!(message.contains("none of 7 endpoints"), "{message}");
        assert!(
            message.contains("127.0.0.1:5 (refused by 5)") && message.contains("and 2 more"),
            "{message}"
        );
        let update = policy.update(&[], Instant::now());
        let Pick::Fail(status) = Caller::new().pick(&update, &[]) else {
            panic!("not failed")
        };
        assert!(status.message().contains("no endpoint"), "{status}");
    }
}

#[test]
fn both_wait_when_all_lost_their_connections_since() {
    for mut policy in policies() {
        let mut lost = candidate(1, 100, Ready);
        lost.subchannel = Subchannel::detached((*lost.endpoint).clone(), false);
        let update = policy.update(&[lost], Instant::now());
        assert!(
            matches!(Caller::new().pick(&update, &[]), Pick::Wait),
            "{}",
            policy.name()
        );
    }
}
