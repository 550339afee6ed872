//! Streams that nobody reads, on either side, and those beside them.

use std::time::Duration;

use rpc_http2::frame::{kind, setting};
use rpc_http2::{Config, Payload, Role, StreamKey, Unsent};

use crate::support::*;

/// What a stream whose window is shut may hold.
const STREAM: usize = 400 * 1024;
/// What all of them may hold.
const CONNECTION: usize = 2 * 1024 * 1024;

/// What was given back of the window of a stream, or of the connection.
fn given_back(sent: &[Sent], stream: u32) -> u32 {
    sent.iter()
        .filter(|sent| sent.header.kind == kind::WINDOW_UPDATE && sent.header.stream == stream)
        .map(|sent| u32::from_be_bytes(sent.payload[..].try_into().unwrap()))
        .sum()
}

#[test]
fn streams_that_nobody_reads_hold_nothing_of_the_connection() {
    let config = Config::default();
    for role in [Role::Client, Role::Server] {
        let mut peer = Peer::ready(role, config).holding();
        let streams = 200;
        for number in 0..streams {
            let stream = 2 * number + 1;
            if role == Role::Client {
                peer.open();
                peer.feed(&headers(stream, &RESPONSE, false));
            } else {
                peer.feed(&headers(stream, &REQUEST, false));
            }
            peer.feed(&data(stream, config.stream_window as usize, false));
        }
        let sent = peer.sent();
        let all = streams * config.stream_window;
        let back = given_back(&sent, 0);
        assert!(
            back > all - config.connection_window / 2,
            "{role:?}: {back}"
        );
        // Each has what it began with, and no more.
        assert!(
            sent.iter()
                .all(|sent| sent.header.kind != kind::WINDOW_UPDATE || sent.header.stream == 0)
        );
        assert_eq!(peer.machine.error(), None);
        peer.feed(&data(1, 1, false));
        assert!(
            peer.sent()
                .iter()
                .any(|sent| (sent.header.kind, sent.header.stream) == (kind::RST_STREAM, 1))
        );
    }
}

#[test]
fn what_was_read_comes_back_and_more_with_it() {
    let window = Config::default().stream_window;
    let mut peer = Peer::ready(Role::Server, Config::default()).holding();
    for stream in [1, 3] {
        peer.feed(&headers(stream, &REQUEST, false));
        peer.feed(&data(stream, window as usize, false));
    }
    let key = peer.keys[0];
    peer.machine.consume(key, window as usize / 2 - 1);
    assert_eq!(given_back(&peer.sent(), 1), 0);
    peer.machine.consume(key, 1);
    let sent = peer.sent();
    assert_eq!(given_back(&sent, 1), window / 2 + 3 * window);
    assert_eq!(given_back(&sent, 3), 0);
    // More than has come cannot be given back.
    peer.machine.consume(key, 10 * window as usize);
    peer.sent();
    peer.machine.consume(key, 10 * window as usize);
    assert_eq!(given_back(&peer.sent(), 1), 0);
}

#[test]
fn windows_that_have_grown_cost_no_more_than_one_and_a_half_of_the_largest() {
    let config = Config::default();
    let mut peer = Peer::ready(Role::Server, config);
    for round in 0..3 {
        let mut grown = 0;
        for number in 0..200 {
            // Each is read for a while, and then it is not.
            let stream = 2 * (200 * round + number) + 1;
            peer.feed(&headers(stream, &REQUEST, false));
            let mut window = i64::from(config.stream_window);
            for _ in 0..20 {
                let octets = window.min(65_536);
                peer.feed(&data(stream, octets as usize, false));
                window += i64::from(given_back(&peer.sent(), stream)) - octets;
            }
            grown += (window - i64::from(config.stream_window)).max(0);
        }
        let most = i64::from(config.max_stream_window) * 3 / 2;
        assert!(
            grown > most / 2 && grown <= most,
            "{grown} in round {round}"
        );
        // What was given to those that are over is there for the next.
        for key in std::mem::take(&mut peer.keys) {
            peer.machine.reset(key, rpc_http2::ErrorCode::CANCEL);
            peer.machine.release(key);
        }
        peer.sent();
    }
}

/// A server with so many answered streams, whose windows begin with so much.
fn answering(streams: u32, window: u32) -> (Peer, Vec<StreamKey>) {
    let mut peer = Peer::ready(Role::Server, Config::default());
    peer.feed(&settings(&[(setting::INITIAL_WINDOW_SIZE, window)]));
    peer.feed(&window_update(0, 0x7fff_0000));
    for number in 0..streams {
        peer.feed(&headers(2 * number + 1, &REQUEST, true));
        peer.respond(number as usize, false);
    }
    peer.sent();
    let keys = peer.keys.clone();
    (peer, keys)
}

/// Sends messages of so many octets as long as there is room; how many octets that were.
fn fill(peer: &mut Peer, key: StreamKey, message: usize) -> usize {
    let mut sent = 0;
    while peer.machine.has_room(key) {
        let piece = vec![7; message];
        assert!(peer.machine.send(key, Payload::Shared(piece.into()), false));
        sent += message;
    }
    sent
}

#[test]
fn slow_receivers_take_no_room_of_a_stream_whose_window_is_open() {
    for slow in [5, 255] {
        let (mut peer, keys) = answering(slow + 1, 0);
        let (fast, slow) = keys.split_last().unwrap();
        let mut held = 0;
        for (place, key) in slow.iter().enumerate() {
            let filled = fill(&mut peer, *key, 1024);
            assert!(filled <= STREAM);
            assert!(filled == STREAM || place >= 5, "{filled} of {place}");
            held += filled;
        }
        assert!(held <= CONNECTION + 1024, "{held}");
        // It has nothing to send as long as its own window is shut.
        peer.machine.has_room(*fast);
        let id = 2 * slow.len() as u32 + 1;
        let mut through = 0;
        for _ in 0..100 {
            peer.feed(&window_update(id, 100_000));
            let filled = fill(&mut peer, *fast, 1024);
            assert!(filled >= 100_000 - 1024, "{filled}");
            let sent = peer.sent();
            let of_stream = sent.iter().filter(|sent| sent.header.stream == id);
            through += of_stream.map(|sent| sent.payload.len()).sum::<usize>();
        }
        assert!(through >= 99 * 100_000, "{through}");
        // What comes next is at hand when its window opens.
        assert!(!peer.machine.has_room(*fast));
        peer.feed(&window_update(id, 60_000));
        let sent: usize = peer.sent().iter().map(|sent| sent.payload.len()).sum();
        assert_eq!(sent, 60_000);
        assert!(peer.machine.has_room(*fast));
        assert!(peer.machine.unsent() <= CONNECTION * 3 / 2);
    }
}

#[test]
fn whoever_has_waited_behind_its_window_hears_when_it_opens() {
    // By its own window, and by what all begin with.
    for settings_open in [false, true] {
        let (mut peer, keys) = answering(10, 0);
        for key in &keys {
            fill(&mut peer, *key, 16 * 1024);
        }
        let last = *keys.last().unwrap();
        assert!(!peer.machine.has_room(last));
        assert_eq!(peer.machine.roomy(), None);
        if settings_open {
            peer.feed(&settings(&[(setting::INITIAL_WINDOW_SIZE, 100)]));
        } else {
            peer.feed(&window_update(19, 100));
        }
        let mut roomy = Vec::new();
        while let Some(key) = peer.machine.roomy() {
            roomy.push(key);
        }
        assert!(roomy.contains(&last), "{roomy:?}");
        assert!(peer.machine.has_room(last));
        // One whose window shuts again waits again, and hears of room behind the windows too.
        peer.machine
            .send(last, Payload::Shared(vec![7; 100_000].into()), false);
        peer.sent();
        assert!(!peer.machine.has_room(last));
        assert_eq!(peer.machine.roomy(), None);
        peer.machine.reset(keys[0], rpc_http2::ErrorCode::CANCEL);
        let mut heard = false;
        while let Some(key) = peer.machine.roomy() {
            heard |= key == last;
        }
        assert!(heard);
    }
}

#[test]
fn what_is_within_the_windows_has_room_whatever_is_behind_them() {
    let (mut peer, keys) = answering(3, 0);
    // Messages that are larger than all room there is.
    for key in &keys[..2] {
        assert!(peer.machine.has_room(*key) || *key == keys[1]);
        let huge = vec![7; 8 * CONNECTION];
        peer.machine.send(*key, Payload::Shared(huge.into()), false);
    }
    assert!(!peer.machine.has_room(keys[2]));
    peer.feed(&window_update(5, 1));
    assert!(peer.machine.has_room(keys[2]));
}

#[test]
fn a_peer_may_pause_for_as_long_as_it_likes() {
    for role in [Role::Client, Role::Server] {
        let mut peer = Peer::ready(role, Config::default());
        peer.feed(&settings(&[(setting::INITIAL_WINDOW_SIZE, 0)]));
        if role == Role::Client {
            peer.open();
        } else {
            peer.feed(&headers(1, &REQUEST, true));
            peer.respond(0, false);
        }
        let key = peer.keys[0];
        peer.machine.send(key, Payload::Copied(&[7; 100_000]), true);
        peer.sent();
        for _ in 0..60 {
            peer.now += Duration::from_secs(60);
            assert_eq!(peer.machine.next_timeout(), None);
            let now = peer.now;
            peer.machine.on_timeout(now).unwrap();
            assert!(peer.sent().is_empty());
        }
        peer.feed(&window_update(0, 100_000));
        peer.feed(&window_update(1, 100_000));
        let sent: usize = peer.sent().iter().map(|sent| sent.payload.len()).sum();
        assert_eq!(sent, 100_000, "{role:?}");
    }
}

#[test]
fn looks_tell_who_takes_nothing() {
    let (mut peer, keys) = answering(3, 0);
    for key in &keys[..2] {
        peer.machine
            .send(*key, Payload::Shared(vec![7; 100_000].into()), true);
    }
    let look = |peer: &mut Peer| {
        let mut seen = Vec::new();
        peer.machine
            .look_at_unsent(1000, |unsent| seen.push(unsent));
        seen
    };
    let unsent = |place: usize, octets, looks| Unsent {
        stream: keys[place],
        octets,
        looks,
    };
    // Streams that hold nothing are none of them.
    assert_eq!(
        look(&mut peer),
        [unsent(0, 100_000, 1), unsent(1, 100_000, 1)]
    );
    peer.feed(&window_update(1, 999));
    peer.feed(&window_update(3, 1000));
    peer.sent();
    assert_eq!(
        look(&mut peer),
        [unsent(0, 99_001, 2), unsent(1, 99_000, 0)]
    );
    assert_eq!(
        look(&mut peer),
        [unsent(0, 99_001, 3), unsent(1, 99_000, 1)]
    );
    // What is dropped is not sent, and an end can follow although its user is gone.
    peer.machine.release(keys[0]);
    peer.machine.drop_unsent(keys[0]);
    assert_eq!(peer.machine.unsent(), 99_000);
    let mut trailers = rpc_http2::hpack::Template::new(TRAILERS.into_iter().collect());
    let none = rpc_http2::Fields::new();
    assert!(peer.machine.trailers(keys[0], &mut trailers, &none));
    let sent = peer.sent();
    assert_eq!(
        (sent[0].header.kind, sent[0].header.stream, sent.len()),
        (kind::HEADERS, 1, 1)
    );
    assert_eq!(look(&mut peer), [unsent(1, 99_000, 2)]);
}

#[test]
fn streams_hold_little_while_memory_is_short() {
    let (mut peer, keys) = answering(20, 0);
    peer.machine.tighten(true);
    let held: usize = keys.iter().map(|key| fill(&mut peer, *key, 1024)).sum();
    assert!(held <= CONNECTION / 16 + 1024, "{held}");
    // Who reads goes on.
    peer.feed(&window_update(39, 50_000));
    assert!(fill(&mut peer, keys[19], 1024) >= 49_000);
    peer.machine.tighten(false);
    assert!(peer.machine.roomy().is_some());
}
