use super::*;
use crate::client::{Attempt, AttemptEnd, CallTracker, Endpoint, Updates};
use ConnectivityState::{Connecting, Idle, Ready, TransientFailure};

fn candidate(id: u64, state: ConnectivityState) -> Candidate {
    let endpoint = Endpoint::new(format!("127.0.0.1:{id}").parse().unwrap());
    Candidate {
        id,
        endpoint: Arc::new(endpoint.clone()),
        state,
        last_error: Some(Status::unavailable("refused")),
        subchannel: Subchannel::detached(endpoint, state == ConnectivityState::Ready),
    }
}

/// What a pick gives, and whether the balancer is to look again.
fn pick_at(update: &Update, now: Instant, avoid: &[u64]) -> (Pick, bool) {
    let updates = Updates::default();
    let pick = update.picker.pick(&PickContext {
        path: "/a/B",
        hash_key: None,
        avoid,
        random: 0,
        now,
        updates: &updates,
    });
    let mut requested = std::pin::pin!(updates.requested());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    (pick, requested.as_mut().poll(&mut context).is_ready())
}

fn pick(update: &Update) -> Pick {
    pick_at(update, Instant::now(), &[]).0
}

fn picked(pick: Pick) -> (u64, Option<Arc<dyn CallTracker>>) {
    match pick {
        Pick::To(subchannel, tracker) => (subchannel.id(), tracker),
        Pick::Wait => panic!("waits"),
        Pick::Fail(status) => panic!("{status}"),
    }
}

#[test]
fn connects_one_after_the_other() {
    let mut policy = PickFirst::default();
    let update = policy.update(&[candidate(1, Idle), candidate(2, Idle)], Instant::now());
    assert_eq!(update.connect, [1]);
    assert!(matches!(pick(&update), Pick::Wait));
    let update = policy.update(
        &[candidate(1, TransientFailure), candidate(2, Connecting)],
        Instant::now(),
    );
    assert_eq!(update.connect, [1, 2]);
}

#[test]
fn keeps_the_connection_it_has() {
    let mut policy = PickFirst::default();
    policy.update(
        &[candidate(1, Connecting), candidate(2, Ready)],
        Instant::now(),
    );
    let update = policy.update(&[candidate(1, Ready), candidate(2, Ready)], Instant::now());
    assert_eq!(update.connect, [2]);
}

#[test]
fn a_failure_names_the_endpoint_and_the_cause() {
    let mut policy = PickFirst::default();
    let update = policy.update(
        &[candidate(7, ConnectivityState::TransientFailure)],
        Instant::now(),
    );
    let Pick::Fail(status) = pick(&update) else {
        panic!("picked")
    };
    let text = status.to_string();
    assert!(
        text.contains("127.0.0.1:7") && text.contains("refused"),
        "{text}"
    );
    let update = policy.update(&[], Instant::now());
    let Pick::Fail(status) = pick(&update) else {
        panic!("picked")
    };
    assert!(status.message().contains("no endpoint"));
}

#[test]
fn one_that_takes_its_time_does_not_keep_the_next_from_being_tried() {
    let now = Instant::now();
    let mut policy = PickFirst::default();
    let three = [
        candidate(1, Connecting),
        candidate(2, Idle),
        candidate(3, Idle),
    ];
    policy.update(&three, now);
    assert_eq!(policy.next_update(), Some(now + STAGGER));
    let update = policy.update(&three, now + STAGGER);
    assert_eq!(update.connect, [1, 2]);
    let update = policy.update(&three, now + STAGGER * 2);
    assert_eq!(
        (update.connect, policy.next_update()),
        (vec![1, 2, 3], None)
    );
    // The first that is there is kept, and the others are let go.
    let update = policy.update(
        &[
            candidate(1, Connecting),
            candidate(2, Ready),
            candidate(3, Connecting),
        ],
        now + STAGGER * 3,
    );
    assert_eq!((update.connect, policy.next_update()), (vec![2], None));
}

#[test]
fn a_lost_connection_comes_back_with_the_next_call_and_not_before() {
    let now = Instant::now();
    let mut policy = PickFirst::default();
    policy.update(&[candidate(1, Ready)], now);
    for _ in 0..2 {
        let update = policy.update(&[candidate(1, Idle)], now);
        assert!(update.connect.is_empty());
    }
    let update = policy.update(&[candidate(1, Idle)], now);
    let (pick, requested) = pick_at(&update, now, &[]);
    assert!(matches!(pick, Pick::Wait) && requested);
    let update = policy.update(&[candidate(1, Idle)], now);
    assert_eq!(update.connect, [1]);
    let update = policy.update(&[candidate(1, Ready)], now);
    assert_eq!(update.connect, [1]);
    assert!(policy.update(&[candidate(1, Idle)], now).connect.is_empty());
}

/// A policy at the first of two endpoints, which fails every call.
fn at_a_failing_one(now: Instant) -> (PickFirst, Update) {
    let mut policy = PickFirst::default();
    let update = policy.update(&[candidate(1, Ready), candidate(2, Idle)], now);
    let (id, tracker) = picked(pick_at(&update, now, &[]).0);
    let tracker = tracker.unwrap();
    for _ in 0..4 {
        let attempt = Attempt::new(now, true);
        tracker.started(&attempt);
        tracker.finished(
            &attempt,
            now,
            AttemptEnd::Answered(crate::Code::Unavailable),
        );
    }
    assert_eq!(id, 1);
    (policy, update)
}

#[test]
fn an_endpoint_that_fails_is_left_for_the_next() {
    let now = Instant::now();
    let (mut policy, update) = at_a_failing_one(now);
    let (pick, requested) = pick_at(&update, now, &[]);
    assert!(picked(pick).0 == 1 && requested);
    let update = policy.update(&[candidate(1, Ready), candidate(2, Idle)], now);
    assert_eq!(update.connect, [1, 2]);
    // A call that has failed there waits for the other one, and others go on.
    assert!(matches!(pick_at(&update, now, &[1]).0, Pick::Wait));
    assert_eq!(picked(pick_at(&update, now, &[]).0).0, 1);
    let update = policy.update(&[candidate(1, Ready), candidate(2, Ready)], now);
    assert_eq!(update.connect, [2]);
    assert_eq!(picked(pick_at(&update, now, &[1]).0).0, 2);
}

#[test]
fn an_endpoint_that_fails_is_kept_when_the_others_cannot_be_reached() {
    let now = Instant::now();
    let (mut policy, update) = at_a_failing_one(now);
    pick_at(&update, now, &[]);
    policy.update(&[candidate(1, Ready), candidate(2, Connecting)], now);
    let failed = [candidate(1, Ready), candidate(2, TransientFailure)];
    let update = policy.update(&failed, now);
    assert_eq!(update.connect, [1]);
    let (pick, requested) = pick_at(&update, now, &[1]);
    assert!(picked(pick).0 == 1 && !requested);
    // After a while the others are tried again.
    let later = now + KEPT;
    let (_, requested) = pick_at(&update, later, &[]);
    assert!(requested);
    let update = policy.update(&[candidate(1, Ready), candidate(2, Idle)], later);
    assert_eq!(update.connect, [1, 2]);
}
