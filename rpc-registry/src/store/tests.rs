use super::*;

const TTL: Duration = Duration::from_secs(5);
const WHOLE: usize = usize::MAX;

fn endpoint(port: u16, instance: u64) -> Endpoint {
    let mut endpoint = Endpoint::new(format!("127.0.0.1:{port}").parse().unwrap());
    endpoint.instance = instance;
    endpoint
}

fn ids(store: &Store) -> Vec<u64> {
    let mut ids: Vec<u64> = store
        .endpoints("s")
        .iter()
        .map(|one| one.instance)
        .collect();
    ids.sort_unstable();
    ids
}

/// Those that are gone, and whether they said goodbye, behind a revision.
fn gone(store: &Store, revision: u64) -> Vec<(u64, bool)> {
    let of = |change: &Change| match change {
        Change::Gone {
            instance,
            deregistered,
        } => Some((*instance, *deregistered)),
        Change::Listed(_) => None,
    };
    let since = store.since("s", revision, WHOLE);
    since.changes.iter().filter_map(of).collect()
}

fn announce(store: &mut Store, port: u16, instance: u64, stream: u64, now: Instant) -> Grant {
    store
        .announce("s", endpoint(port, instance), Some(TTL), stream, now)
        .unwrap()
}

#[test]
fn an_announced_instance_is_listed_under_its_name_only() {
    let (mut store, now) = (Store::default(), Instant::now());
    let grant = announce(&mut store, 1, 10, 1, now);
    assert!(grant.revision == 1 && grant.changed && grant.new);
    assert_eq!(ids(&store), [10]);
    assert!(store.endpoints("other").is_empty());
}

#[test]
fn revisions_grow_with_each_change_and_only_then() {
    let (mut store, now) = (Store::default(), Instant::now());
    assert_eq!(announce(&mut store, 1, 10, 1, now).revision, 1);
    assert_eq!(announce(&mut store, 2, 20, 1, now).revision, 2);
    let again = announce(&mut store, 1, 10, 2, now);
    assert!(
        !again.changed && !again.new && again.revision == 2,
        "{again:?}"
    );
    assert!(store.deregister("s", 10, now));
    assert_eq!(store.revision(), 3);
    assert!(
        !store.deregister("s", 10, now),
        "a second time changes nothing"
    );
    assert_eq!(store.revision(), 3);
}

#[test]
fn a_lease_changes_its_weight_in_place() {
    let (mut store, now) = (Store::default(), Instant::now());
    announce(&mut store, 1, 10, 1, now);
    announce(&mut store, 2, 20, 1, now);
    let heavier = endpoint(1, 10).with_weight(7);
    let grant = store
        .announce("s", heavier.clone(), Some(TTL), 1, now)
        .unwrap();
    assert!(grant.changed && !grant.new);
    let since = store.since("s", 2, WHOLE);
    assert_eq!(
        since.changes,
        [Change::Listed(Arc::new(Listed::new(heavier)))]
    );
    assert_eq!(ids(&store), [10, 20]);
}

#[test]
fn an_instance_may_move_to_another_address() {
    let (mut store, now) = (Store::default(), Instant::now());
    announce(&mut store, 1, 10, 1, now);
    announce(&mut store, 2, 10, 1, now);
    assert_eq!(store.endpoints("s"), [endpoint(2, 10)]);
    announce(&mut store, 1, 11, 1, now);
    assert_eq!(ids(&store), [10, 11], "the old address is free");
}

#[test]
fn a_broken_stream_leaves_the_entry_for_the_ttl() {
    let (mut store, now) = (Store::default(), Instant::now());
    announce(&mut store, 1, 10, 1, now);
    let broken = now + Duration::from_secs(3);
    store.detach("s", 10, 1, broken);
    assert!(
        store
            .expire(broken + TTL - Duration::from_millis(1))
            .is_empty()
    );
    assert_eq!(ids(&store), [10]);
    assert_eq!(store.next_expiry(), Some(broken + TTL));
    assert_eq!(
        store.expire(broken + TTL).keys().next().unwrap().as_ref(),
        "s"
    );
    assert!(ids(&store).is_empty());
    assert_eq!(gone(&store, 0), [(10, false)], "it has not said goodbye");
}

#[test]
fn a_lease_that_is_taken_up_again_lives_on() {
    let (mut store, now) = (Store::default(), Instant::now());
    announce(&mut store, 1, 10, 1, now);
    store.detach("s", 10, 1, now);
    announce(&mut store, 1, 10, 2, now + Duration::from_secs(4));
    assert!(store.expire(now + Duration::from_secs(6)).is_empty());
    assert_eq!(ids(&store), [10]);
}

#[test]
fn one_lease_on_two_streams_is_held_by_both() {
    let (mut store, now) = (Store::default(), Instant::now());
    announce(&mut store, 1, 10, 1, now);
    assert!(!announce(&mut store, 1, 10, 2, now).changed);
    assert!(store.keep_alive("s", 10, 1, now) && store.keep_alive("s", 10, 2, now));
    store.detach("s", 10, 1, now);
    assert!(store.entries().all(|(_, mut all)| all.all(Entry::attached)));
    assert!(!store.keep_alive("s", 10, 1, now) && store.keep_alive("s", 10, 2, now));
}

#[test]
fn a_silent_lease_expires_and_a_kept_one_does_not() {
    let (mut store, now) = (Store::default(), Instant::now());
    announce(&mut store, 1, 10, 1, now);
    announce(&mut store, 2, 20, 1, now);
    assert!(store.keep_alive("s", 20, 1, now + Duration::from_secs(3)));
    assert_eq!(store.expire(now + Duration::from_secs(6)).len(), 1);
    assert_eq!(ids(&store), [20]);
}

#[test]
fn a_shorter_ttl_counts_at_once() {
    let (mut store, now) = (Store::default(), Instant::now());
    announce(&mut store, 1, 10, 1, now);
    let short = Duration::from_secs(1);
    store
        .announce("s", endpoint(1, 10), Some(short), 1, now)
        .unwrap();
    assert_eq!(store.expire(now + short).len(), 1);
    assert_eq!(store.expire(now + TTL).len(), 0);
}

#[test]
fn a_goodbye_is_told_for_a_minute_and_leaves_nothing() {
    let (mut store, now) = (Store::default(), Instant::now());
    announce(&mut store, 1, 10, 1, now);
    store.deregister("s", 10, now);
    assert_eq!(gone(&store, 0), [(10, true)]);
    assert!(store.expire(now + GONE_FOR).is_empty(), "no list changes");
    assert!(gone(&store, 0).is_empty());
    assert_eq!(store.next_expiry(), None);
    assert!(store.services.is_empty(), "nothing is left behind");
    assert_eq!((store.instances, store.octets), (0, 0));
    assert!(
        !store.remembers("s", 1),
        "who knows of it needs a whole list"
    );
    assert!(store.remembers("s", 2));
}

#[test]
fn a_new_process_at_an_address_replaces_the_dead_one() {
    let (mut store, now) = (Store::default(), Instant::now());
    announce(&mut store, 1, 10, 1, now);
    store.detach("s", 10, 1, now);
    assert!(announce(&mut store, 1, 11, 2, now).changed);
    assert_eq!(ids(&store), [11]);
    assert_eq!(gone(&store, 0), [(10, false)]);
    assert_eq!(store.instances, 1);
}

#[test]
fn nobody_takes_the_place_of_a_live_one() {
    let (mut store, now) = (Store::default(), Instant::now());
    announce(&mut store, 1, 99, 1, now);
    assert!(!announce(&mut store, 1, 11, 2, now).changed);
    assert_eq!(ids(&store), [99]);
    store.deregister("s", 99, now);
    assert_eq!(ids(&store), [11], "who waited is listed then");
    store.deregister("s", 11, now);
    assert!(ids(&store).is_empty() && store.services["s"].seats.is_empty());
}

#[test]
fn who_waits_for_an_address_gets_it_when_the_stream_there_breaks() {
    let (mut store, now) = (Store::default(), Instant::now());
    announce(&mut store, 1, 99, 1, now);
    announce(&mut store, 1, 11, 2, now);
    store.detach("s", 99, 1, now);
    assert_eq!(ids(&store), [11]);
    assert_eq!(store.instances, 1);
}

#[test]
fn restored_entries_have_their_grace_ttl() {
    let now = Instant::now();
    let mut store = Store::restore(41, [("s".to_owned(), endpoint(1, 10), TTL)], now);
    assert_eq!((store.revision(), ids(&store)), (42, vec![10]));
    assert!(
        store
            .entries()
            .all(|(_, mut all)| all.all(|one| !one.attached()))
    );
    assert_eq!(store.expire(now + TTL).len(), 1);
    assert_eq!(store.revision(), 43);
}

#[test]
fn an_announcement_overtaken_by_its_deregistration_is_refused() {
    let (mut store, now) = (Store::default(), Instant::now());
    assert!(!store.deregister("s", 10, now));
    let refused = store.announce("s", endpoint(1, 10), Some(TTL), 1, now);
    assert_eq!(refused, Err(Refusal::Departed));
    assert!(ids(&store).is_empty());
}

#[test]
fn goodbyes_of_strangers_have_a_bound_and_an_end() {
    let (mut store, now) = (Store::default(), Instant::now());
    for id in 0..10_000 {
        store.deregister(&format!("name-{id}"), id, now);
    }
    assert_eq!(
        (store.services.len(), store.strangers),
        (MOST_STRANGERS, MOST_STRANGERS)
    );
    store.expire(now + GONE_FOR);
    assert_eq!(
        (store.services.len(), store.strangers, store.due.len()),
        (0, 0, 0)
    );
}

#[test]
fn without_a_ttl_nothing_expires() {
    let (mut store, now) = (Store::default(), Instant::now());
    store.announce("s", endpoint(1, 10), None, 0, now).unwrap();
    assert_eq!(store.next_expiry(), None);
    assert!(
        store
            .expire(now + Duration::from_secs(1_000_000))
            .is_empty()
    );
    assert_eq!(ids(&store), [10]);
}

#[test]
fn a_list_is_told_in_pieces_that_make_the_whole() {
    let (mut store, now) = (Store::default(), Instant::now());
    for port in 1..=1000 {
        announce(&mut store, port, port.into(), 1, now);
    }
    let (mut revision, mut told, mut pieces) = (0, HashSet::new(), 0);
    loop {
        let piece = store.since("s", revision, 1000);
        let size: usize = piece.changes.len();
        assert!(size < 60, "{size} are more than a piece");
        for change in piece.changes {
            if let Change::Listed(listed) = change {
                told.insert(listed.endpoint.instance);
            }
        }
        (revision, pieces) = (piece.revision, pieces + 1);
        if !piece.more {
            break;
        }
        // What changes meanwhile is told too.
        announce(&mut store, 2000 + pieces, (2000 + pieces).into(), 1, now);
    }
    assert_eq!(revision, store.revision());
    assert_eq!(told.len(), 1000 + usize::from(pieces) - 1);
}

#[test]
fn one_change_among_many_is_told_alone() {
    let (mut store, now) = (Store::default(), Instant::now());
    for port in 1..=1000 {
        announce(&mut store, port, port.into(), 1, now);
    }
    let known = store.revision();
    announce(&mut store, 1001, 1001, 1, now);
    store.deregister("s", 7, now);
    let since = store.since("s", known, WHOLE);
    assert_eq!(since.changes.len(), 2);
    assert!(store.remembers("s", known));
}

#[test]
fn too_many_that_are_gone_need_a_whole_list() {
    let (mut store, now) = (Store::default(), Instant::now());
    announce(&mut store, 1, 1, 1, now);
    let known = store.revision();
    for id in 2..=(2 + MOST_GONE as u64) {
        announce(&mut store, 2, id, 1, now);
        store.deregister("s", id, now);
    }
    assert!(!store.remembers("s", known));
    assert!(store.services["s"].changes.len() <= MOST_GONE + 1);
}

#[test]
fn a_registry_that_is_full_says_so() {
    let (mut store, now) = (Store::default(), Instant::now());
    store.instances = MOST_INSTANCES;
    let refused = store.announce("s", endpoint(1, 10), Some(TTL), 1, now);
    assert_eq!(refused, Err(Refusal::Full));
}
