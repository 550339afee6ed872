use super::*;

const TTL: Duration = Duration::from_secs(5);
/// Longer than a lease lives without its holder.
const SETTLED: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);

fn endpoint(port: u16) -> Endpoint {
    let mut endpoint = Endpoint::new(address(port));
    endpoint.instance = port.into();
    endpoint
}

fn address(port: u16) -> Address {
    format!("127.0.0.1:{port}").parse().unwrap()
}

fn whole(incarnation: u64, revision: u64, ports: &[u16]) -> Told {
    Told {
        incarnation,
        revision,
        ttl: TTL,
        whole: true,
        listed: ports.iter().map(|port| endpoint(*port)).collect(),
        ..Told::default()
    }
}

fn change(revision: u64, listed: &[u16], gone: &[(u64, bool)]) -> Told {
    Told {
        whole: false,
        gone: gone.to_vec(),
        ..whole(1, revision, listed)
    }
}

fn refilling(told: Told) -> Told {
    Told {
        refilling: true,
        ..told
    }
}

fn ports(view: &View) -> Vec<u64> {
    let list = view.list_of_members();
    list.iter().map(|endpoint| endpoint.instance).collect()
}

fn one() -> View {
    View::new(["one".to_owned()])
}

fn two() -> View {
    View::new(["one".to_owned(), "two".to_owned()])
}

/// A view of these members whose channel is connected to all of them for long.
fn settled(mut view: View, members: &[u16], now: Instant) -> (View, Instant) {
    for source in 0..view.sources.len() {
        view.hear(source, whole(1, 10, members), now);
    }
    assert_eq!(view.news().unwrap().unwrap().len(), members.len());
    for port in members {
        view.connection(&address(*port), ConnectivityState::Ready, now);
    }
    (view, now + SETTLED)
}

fn fails(view: &mut View, port: u16, now: Instant) {
    view.connection(&address(port), ConnectivityState::Idle, now);
    view.connection(&address(port), ConnectivityState::TransientFailure, now);
}

fn gone(ports: &[u64]) -> Vec<(u64, bool)> {
    ports.iter().map(|port| (*port, false)).collect()
}

#[test]
fn the_first_list_counts_even_when_empty() {
    let mut view = one();
    assert!(view.news().is_none());
    view.hear(0, whole(1, 0, &[]), Instant::now());
    assert_eq!(view.news().unwrap().unwrap(), []);
    assert!(view.news().is_none());
}

#[test]
fn a_first_list_in_pieces_is_waited_for() {
    let (mut view, now) = (one(), Instant::now());
    let piece = |told: Told, more| Told { more, ..told };
    view.hear(0, piece(whole(1, 1, &[1]), true), now);
    view.hear(0, piece(change(2, &[2], &[]), true), now);
    assert!(view.news().is_none());
    view.hear(0, piece(change(3, &[3], &[]), false), now);
    assert_eq!(view.news().unwrap().unwrap().len(), 3);
}

#[test]
fn an_empty_list_of_a_registry_that_has_just_started_is_none() {
    let (mut view, now) = (one(), Instant::now());
    view.hear(0, refilling(whole(1, 0, &[])), now);
    assert!(view.news().is_none());
    view.hear(0, refilling(change(1, &[7], &[])), now);
    assert_eq!(
        view.news().unwrap().unwrap().len(),
        1,
        "somebody has come back"
    );
    let mut view = one();
    view.hear(0, refilling(whole(1, 0, &[])), now);
    view.hear(0, change(0, &[], &[]), now);
    assert_eq!(view.news().unwrap().unwrap(), [], "nobody has");
}

#[test]
fn an_empty_first_list_waits_for_the_other_registry() {
    let (mut view, now) = (two(), Instant::now());
    view.hear(0, whole(1, 0, &[]), now);
    assert!(view.news().is_none());
    view.hear(1, whole(2, 9, &[1]), now);
    assert_eq!(view.news().unwrap().unwrap().len(), 1);
    let mut view = two();
    view.hear(0, whole(1, 0, &[]), now);
    view.lose(1, &Status::unavailable("down"), now);
    assert_eq!(view.news().unwrap().unwrap(), []);
}

#[test]
fn a_goodbye_counts_at_once() {
    let (mut view, now) = settled(one(), &[1, 2], Instant::now());
    view.hear(0, change(11, &[], &[(1, true), (2, true)]), now);
    assert_eq!(ports(&view), [0; 0], "even for all of them");
    assert_eq!(view.news().unwrap().unwrap(), []);
}

#[test]
fn a_goodbye_to_one_registry_counts_for_all() {
    let (mut view, now) = settled(two(), &[1, 2], Instant::now());
    view.hear(1, change(11, &[], &[(1, true)]), now);
    assert_eq!(ports(&view), [2]);
    view.hear(0, whole(2, 3, &[1, 2]), now);
    assert_eq!(
        ports(&view),
        [2],
        "a registry that does not know of it does not bring it back"
    );
}

#[test]
fn one_of_three_that_cannot_be_reached_goes_at_once() {
    let (mut view, now) = settled(one(), &[1, 2, 3], Instant::now());
    fails(&mut view, 2, now);
    view.hear(0, change(11, &[], &gone(&[2])), now);
    assert_eq!(ports(&view), [1, 3]);
}

#[test]
fn one_of_three_that_answers_stays_until_its_connection_is_lost() {
    let (mut view, now) = settled(one(), &[1, 2, 3], Instant::now());
    view.hear(0, change(11, &[], &gone(&[2])), now);
    assert_eq!(ports(&view), [1, 2, 3]);
    assert_eq!(view.next_expiry(), None);
    view.connection(&address(2), ConnectivityState::Idle, now + SECOND);
    assert_eq!(ports(&view), [1, 3]);
}

#[test]
fn another_process_at_an_address_does_not_stand_in_for_an_expired_one() {
    let (mut view, now) = settled(one(), &[1, 2, 3], Instant::now());
    // The process is gone, and another takes its port before the lease is over.
    view.connection(&address(2), ConnectivityState::Idle, now);
    view.connection(&address(2), ConnectivityState::Ready, now + SECOND);
    view.hear(0, change(11, &[], &gone(&[2])), now + TTL);
    assert_eq!(ports(&view), [1, 3]);
}

#[test]
fn a_wrong_empty_list_takes_nobody_off_who_answers() {
    let (mut view, now) = settled(one(), &[1, 2, 3], Instant::now());
    view.hear(0, whole(2, 0, &[]), now);
    assert!(view.news().is_none());
    assert_eq!(view.next_expiry(), None);
    view.settle(now + Duration::from_secs(3600));
    assert_eq!(ports(&view), [1, 2, 3]);
    // One of them is restarted meanwhile.
    fails(&mut view, 1, now + SECOND);
    assert_eq!(view.next_expiry(), Some(now + SECOND + HOLD));
    view.connection(&address(1), ConnectivityState::Ready, now + 2 * SECOND);
    assert_eq!(view.next_expiry(), None);
    assert_eq!(ports(&view), [1, 2, 3]);
}

#[test]
fn a_true_empty_list_is_honoured_once_nobody_answers() {
    let (mut view, now) = settled(one(), &[1, 2, 3], Instant::now());
    view.hear(0, whole(2, 0, &[]), now);
    for port in [1, 2, 3] {
        fails(&mut view, port, now + SECOND);
    }
    assert_eq!(view.next_expiry(), Some(now + SECOND + HOLD));
    view.settle(now + SECOND + HOLD);
    assert_eq!(view.news().unwrap().unwrap(), []);
    assert!(HOLD < Duration::from_secs(30));
}

#[test]
fn those_whom_nobody_called_stay_while_one_answers() {
    let now = Instant::now();
    let mut view = one();
    view.hear(0, whole(1, 10, &[1, 2, 3]), now);
    view.connection(&address(1), ConnectivityState::Ready, now);
    view.hear(0, whole(2, 0, &[]), now + SETTLED);
    assert_eq!(view.next_expiry(), None);
    let lost = now + 2 * SETTLED;
    fails(&mut view, 1, lost);
    assert_eq!(view.next_expiry(), Some(lost + HOLD));
    view.settle(lost + HOLD);
    assert_eq!(ports(&view), [0; 0]);
}

#[test]
fn most_leases_expire_at_once_and_nobody_who_answers_goes() {
    let (mut view, now) = settled(one(), &[1, 2, 3, 4, 5], Instant::now());
    view.hear(0, change(11, &[], &gone(&[1, 2, 3])), now);
    assert_eq!(ports(&view), [1, 2, 3, 4, 5]);
    view.hear(0, change(12, &[1, 2, 3], &[]), now + SECOND);
    assert_eq!(view.counts(), (5, 0), "and they are believed again");
}

#[test]
fn half_is_counted_over_several_changes() {
    let now = Instant::now();
    let mut view = one();
    view.hear(0, whole(1, 10, &[1, 2, 3, 4]), now);
    for (step, id) in (1u32..).zip(1..=3) {
        view.hear(0, change(10 + id, &[], &gone(&[id])), now + step * SECOND);
    }
    assert_eq!(
        ports(&view),
        [3, 4],
        "half may go without having been called"
    );
    assert_eq!(view.next_expiry(), Some(now + 3 * SECOND + HOLD));
    view.settle(now + 3 * SECOND + HOLD);
    assert_eq!(ports(&view), [4]);
}

#[test]
fn a_registry_that_has_just_started_has_no_say_in_who_is_missing() {
    let (mut view, now) = settled(one(), &[1, 2, 3], Instant::now());
    for port in [1, 2, 3] {
        fails(&mut view, port, now);
    }
    view.lose(0, &Status::unavailable("down"), now);
    view.hear(0, refilling(whole(2, 0, &[])), now);
    view.hear(0, refilling(change(1, &[3], &[]).of(2)), now + SECOND);
    assert_eq!((ports(&view), view.next_expiry()), (vec![1, 2, 3], None));
    view.hear(0, change(1, &[], &[]).of(2), now + 2 * SECOND);
    assert_eq!(view.counts(), (3, 2));
    assert_eq!(view.next_expiry(), Some(now + 2 * SECOND + HOLD));
}

impl Told {
    fn of(self, incarnation: u64) -> Self {
        Self {
            incarnation,
            ..self
        }
    }
}

#[test]
fn of_two_registries_one_that_is_wrong_changes_nothing() {
    let (mut view, now) = settled(two(), &[1, 2, 3], Instant::now());
    view.hear(0, whole(7, 0, &[]), now);
    assert_eq!(
        view.counts(),
        (3, 0),
        "nobody is doubted whom the other one lists"
    );
    view.hear(1, change(11, &[], &gone(&[1, 2, 3])), now);
    assert_eq!(view.counts(), (3, 3));
}

#[test]
fn what_only_a_lost_registry_lists_is_doubted_by_the_other() {
    let now = Instant::now();
    let mut view = two();
    view.hear(0, whole(1, 1, &[1, 2, 3]), now);
    view.hear(1, whole(2, 1, &[2, 3]), now);
    assert_eq!(ports(&view), [1, 2, 3], "the lists are merged");
    view.lose(0, &Status::unavailable("down"), now);
    assert_eq!(ports(&view), [2, 3], "nobody called it");
    assert_eq!(
        view.known(0),
        (0, 0),
        "it has to tell its whole list to bring it back"
    );
    view.hear(0, whole(1, 1, &[1, 2, 3]), now + SECOND);
    assert_eq!(ports(&view), [1, 2, 3]);
}

#[test]
fn with_all_registries_lost_the_list_stays_and_the_outage_is_told_once() {
    let (mut view, now) = settled(two(), &[1, 2], Instant::now());
    let down = Status::unavailable("down");
    view.lose(0, &down, now);
    assert!(view.news().is_none());
    view.lose(1, &down, now);
    let status = view.news().unwrap().unwrap_err();
    assert_eq!(
        status.message(),
        "no registry can be reached (one: down; two: down)"
    );
    view.lose(0, &down, now + SECOND);
    assert!(view.news().is_none());
    assert_eq!((view.counts(), view.next_expiry()), ((2, 0), None));
}

#[test]
fn a_refusal_by_all_keeps_its_code() {
    let mut view = one();
    view.lose(0, &Status::unauthenticated("no token"), Instant::now());
    let status = view.news().unwrap().unwrap_err();
    assert_eq!(status.code(), rpc_core::Code::Unauthenticated);
}

#[test]
fn an_older_revision_of_the_same_run_is_ignored() {
    let (mut view, now) = settled(one(), &[1, 2], Instant::now());
    view.hear(0, change(9, &[], &[(1, true)]), now);
    assert_eq!(ports(&view), [1, 2]);
    assert!(view.notes()[0].contains("older list"));
    view.hear(0, whole(2, 1, &[1, 2, 3]), now);
    assert_eq!(ports(&view), [1, 2, 3], "a lower one of another run counts");
}

#[test]
fn changes_of_a_list_that_was_not_told_are_ignored() {
    let (mut view, now) = settled(one(), &[1, 2], Instant::now());
    view.hear(0, change(3, &[], &[(1, true)]).of(9), now);
    assert_eq!(ports(&view), [1, 2]);
}

#[test]
fn a_new_process_at_an_address_changes_the_list() {
    let (mut view, now) = settled(one(), &[1, 2], Instant::now());
    let mut other = change(11, &[1], &[(1, false)]);
    other.listed[0].instance = 77;
    view.hear(0, other, now);
    assert_eq!(view.counts(), (2, 0));
    let list = view.news().unwrap().unwrap();
    assert_eq!(list[0].instance, 77);
}

#[test]
fn an_instance_that_moves_leaves_its_old_address() {
    let (mut view, now) = settled(one(), &[1, 2], Instant::now());
    let mut moved = change(11, &[3], &[(1, false)]);
    moved.listed[0].instance = 1;
    view.hear(0, moved.clone(), now);
    moved.gone.clear();
    moved.listed[0].address = address(4);
    view.hear(0, moved, now);
    let all: Vec<_> = view
        .list_of_members()
        .into_iter()
        .map(|one| one.address)
        .collect();
    assert!(
        all.contains(&address(4)) && !all.contains(&address(3)),
        "{all:?}"
    );
}

#[test]
fn a_change_of_weight_is_news_and_doubts_nobody() {
    let (mut view, now) = settled(one(), &[1, 2], Instant::now());
    let mut heavier = change(11, &[1], &[]);
    heavier.listed[0].weight = 7;
    view.hear(0, heavier, now);
    assert_eq!(view.news().unwrap().unwrap()[0].weight, 7);
}

#[test]
fn goodbyes_are_forgotten_in_the_end() {
    let (mut view, now) = settled(one(), &[1, 2], Instant::now());
    view.hear(0, change(11, &[], &[(1, true)]), now);
    view.hear(0, change(12, &[], &[(2, true)]), now + FAREWELL);
    assert_eq!((view.farewells.len(), view.said.len()), (1, 1));
}
