//! What becomes of streams: limits of their number, GOAWAY, shrinking and growing windows.

use std::time::Duration;

use rpc_http2::frame::{flag, kind, setting};
use rpc_http2::hpack::Decoder;
use rpc_http2::{Config, ErrorCode, Payload, Role};

use crate::support::*;

fn kinds(sent: &[Sent]) -> Vec<(u8, u32)> {
    sent.iter()
        .map(|sent| (sent.header.kind, sent.header.stream))
        .collect()
}

#[test]
fn section_5_1_2_streams_past_the_limit_are_refused() {
    let config = Config {
        max_streams: 2,
        ..Config::default()
    };
    let mut peer = Peer::ready(Role::Server, config);
    for stream in [1, 3, 5] {
        peer.feed(&headers(stream, &REQUEST, true));
    }
    assert_eq!(peer.keys.len(), 2);
    let sent = peer.sent();
    assert_eq!(kinds(&sent), [(kind::RST_STREAM, 5)]);
    assert_eq!(sent[0].payload, ErrorCode::REFUSED_STREAM.0.to_be_bytes());
    // A place is free when the handler is gone, not when the client has reset the stream.
    peer.feed(&reset(1, 8));
    peer.feed(&headers(7, &REQUEST, true));
    assert_eq!(peer.keys.len(), 2);
    peer.machine.release(peer.keys[0]);
    peer.feed(&headers(9, &REQUEST, true));
    assert_eq!(peer.keys.len(), 3);
}

#[test]
fn section_5_1_2_calls_wait_for_the_peers_limit_in_order() {
    let mut peer = Peer::ready(Role::Client, Config::default());
    peer.feed(&settings(&[(setting::MAX_CONCURRENT_STREAMS, 1)]));
    peer.sent();
    let keys: Vec<_> = (0..4).map(|_| peer.open()).collect();
    for (place, key) in keys.iter().enumerate() {
        peer.machine
            .send(*key, Payload::Copied(&[place as u8]), true);
    }
    for (place, key) in keys.iter().enumerate() {
        assert!(!peer.machine.is_waiting(*key));
        assert!(
            keys[place + 1..]
                .iter()
                .all(|key| peer.machine.is_waiting(*key))
        );
        let stream = 2 * place as u32 + 1;
        let sent = peer.sent();
        assert_eq!(
            kinds(&sent),
            [(kind::HEADERS, stream), (kind::DATA, stream)]
        );
        assert_eq!(sent[1].payload, [place as u8]);
        peer.feed(&headers(stream, &RESPONSE, false));
        peer.feed(&headers(stream, &TRAILERS, true));
        peer.machine.release(*key);
    }
}

#[test]
fn a_call_that_waits_and_is_given_up_was_never_there() {
    let mut peer = Peer::ready(Role::Client, Config::default());
    peer.feed(&settings(&[(setting::MAX_CONCURRENT_STREAMS, 0)]));
    peer.sent();
    let (first, second) = (peer.open(), peer.open());
    peer.machine.release(first);
    assert!(peer.sent().is_empty());
    peer.feed(&settings(&[(setting::MAX_CONCURRENT_STREAMS, 1)]));
    assert!(!peer.machine.is_waiting(second));
    let heads = peer.sent();
    assert_eq!(kinds(&heads), [(kind::SETTINGS, 0), (kind::HEADERS, 1)]);
}

#[test]
fn section_6_8_streams_above_the_last_are_refused_and_the_others_go_on() {
    let mut peer = Peer::ready(Role::Client, Config::default());
    let keys: Vec<_> = (0..3).map(|_| peer.open()).collect();
    peer.feed(&goaway(3, 0));
    assert!(!peer.machine.takes_streams());
    assert_eq!(
        peer.seen
            .iter()
            .filter(|seen| seen.contains("Refused"))
            .count(),
        1
    );
    assert!(peer.seen.iter().any(|seen| seen == "goaway NO_ERROR"));
    assert!(peer.machine.is_open(keys[0]) && peer.machine.is_open(keys[1]));
    peer.seen.clear();
    peer.feed(&headers(3, &RESPONSE, false));
    peer.feed(&data(3, 5, true));
    assert_eq!(peer.seen, ["head false", "data 5 true"]);
    peer.sent();
    keys.iter().for_each(|key| peer.machine.release(*key));
    peer.sent();
    assert!(peer.machine.is_finished());
}

#[test]
fn section_6_8_the_end_comes_in_two_steps() {
    let mut peer = Peer::ready(Role::Server, Config::default());
    peer.feed(&headers(1, &REQUEST, true));
    let now = peer.now;
    peer.machine.shut_down(now);
    let sent = peer.sent();
    assert_eq!(kinds(&sent), [(kind::GOAWAY, 0), (kind::PING, 0)]);
    assert_eq!(sent[0].payload[..4], 0x7fff_ffffu32.to_be_bytes());
    // It was on its way.
    peer.feed(&headers(3, &REQUEST, true));
    assert_eq!(peer.keys.len(), 2);
    peer.feed(&frame(kind::PING, flag::ACK, 0, &sent[1].payload));
    let last = peer.sent();
    assert_eq!(kinds(&last), [(kind::GOAWAY, 0)]);
    assert_eq!(last[0].payload[..4], 3u32.to_be_bytes());
    peer.feed(&headers(5, &REQUEST, true));
    assert_eq!(peer.keys.len(), 2, "it is ignored");
    assert!(!peer.machine.is_finished());
    for place in 0..2 {
        peer.respond(place, true);
        peer.machine.release(peer.keys[place]);
    }
    peer.sent();
    assert!(peer.machine.is_finished());
}

#[test]
fn section_6_8_a_peer_that_does_not_answer_is_not_waited_for() {
    let mut peer = Peer::ready(Role::Server, Config::default());
    let now = peer.now;
    peer.machine.shut_down(now);
    peer.sent();
    let due = peer.machine.next_timeout().unwrap();
    assert!(due <= now + Duration::from_secs(2));
    peer.machine.on_timeout(due).unwrap();
    assert_eq!(kinds(&peer.sent()), [(kind::GOAWAY, 0)]);
    assert!(peer.machine.is_finished());
}

#[test]
fn section_6_9_2_windows_shrink_below_nothing_and_grow_again() {
    let mut peer = Peer::ready(Role::Client, Config::default());
    peer.feed(&settings(&[(setting::INITIAL_WINDOW_SIZE, 100)]));
    let key = peer.open();
    peer.machine.send(key, Payload::Copied(&[7; 300]), true);
    let octets = |sent: Vec<Sent>| -> usize {
        let data = sent.iter().filter(|sent| sent.header.kind == kind::DATA);
        data.map(|sent| sent.payload.len()).sum()
    };
    assert_eq!(octets(peer.sent()), 100);
    peer.feed(&settings(&[(setting::INITIAL_WINDOW_SIZE, 10)]));
    assert_eq!(octets(peer.sent()), 0);
    // It is at -90 now.
    peer.feed(&window_update(1, 90));
    assert_eq!(octets(peer.sent()), 0);
    peer.feed(&window_update(1, 1));
    assert_eq!(octets(peer.sent()), 1);
    peer.feed(&settings(&[(setting::INITIAL_WINDOW_SIZE, 1000)]));
    assert_eq!(octets(peer.sent()), 199);
}

#[test]
fn section_8_1_a_complete_answer_needs_no_more_of_the_request() {
    let mut peer = Peer::at(Role::Server, At::Open).unwrap();
    peer.respond(0, true);
    peer.machine.release(peer.keys[0]);
    let sent = peer.sent();
    assert_eq!(kinds(&sent), [(kind::HEADERS, 1), (kind::RST_STREAM, 1)]);
    assert_eq!(sent[1].payload, [0; 4]);
    // And the rest, which was on its way, is ignored.
    peer.feed(&data(1, 100, true));
    assert!(peer.sent().is_empty());
}

#[test]
fn section_8_1_a_reset_behind_a_complete_answer_takes_nothing_from_it() {
    let mut peer = Peer::at(Role::Client, At::Answering).unwrap();
    peer.feed(&headers(1, &TRAILERS, true));
    peer.feed(&reset(1, 0));
    assert_eq!(peer.seen, ["trailers"]);
}

/// What is given back to the window of the connection.
fn given_back(sent: &[Sent]) -> u32 {
    sent.iter()
        .filter(|sent| sent.header.kind == kind::WINDOW_UPDATE && sent.header.stream == 0)
        .map(|sent| u32::from_be_bytes(sent.payload[..4].try_into().unwrap()))
        .sum()
}

#[test]
fn section_5_4_2_what_was_on_its_way_is_ignored_however_many_streams_were_reset() {
    // All of them, or every other one, so that none is the neighbour of another.
    for (opened, every) in [(2_000, 1), (6_000, 2)] {
        let mut peer = Peer::ready(Role::Client, Config::default());
        let keys: Vec<_> = (0..opened).map(|_| peer.open()).collect();
        for key in keys.iter().step_by(every) {
            peer.machine.reset(*key, ErrorCode::CANCEL);
            peer.machine.release(*key);
        }
        let alive = peer.open();
        peer.sent();
        for number in (0..opened).step_by(every).take(900) {
            let stream = 2 * number as u32 + 1;
            peer.feed(&headers(stream, &RESPONSE, false));
            peer.feed(&data(stream, 5_000, false));
            peer.feed(&window_update(stream, 100));
            peer.feed(&headers(stream, &TRAILERS, true));
            peer.feed(&reset(stream, 0));
        }
        assert_eq!(peer.machine.error(), None, "{opened}");
        assert!(peer.seen.iter().all(|seen| seen == "ready"));
        let sent = peer.sent();
        assert!(sent.iter().all(|sent| sent.header.kind != kind::RST_STREAM));
        let half = Config::default().connection_window / 2;
        assert!(given_back(&sent) > 900 * 5_000 - half);
        peer.seen.clear();
        assert!(peer.machine.is_open(alive));
        peer.feed(&headers(2 * opened as u32 + 1, &RESPONSE, true));
        assert_eq!(peer.seen, ["head true"]);
    }
}

#[test]
fn section_6_9_data_that_nobody_reads_is_given_back() {
    for role in [Role::Client, Role::Server] {
        for at in [At::Closed, At::ResetByPeer, At::ResetByUs] {
            let mut peer = Peer::at(role, at).unwrap();
            let padded = [&[100][..], &[7; 9_999]].concat();
            for _ in 0..500 {
                peer.feed(&data(1, 10_000, false));
                peer.feed(&frame(kind::DATA, flag::PADDED, 1, &padded));
            }
            let half = Config::default().connection_window / 2;
            let back = given_back(&peer.sent());
            assert!(
                back > 10_000_000 - half && back <= 10_000_000,
                "{role:?}, {at:?}"
            );
        }
    }
}

#[test]
fn section_6_8_an_error_says_which_stream_was_the_last() {
    let last = |peer: &mut Peer| {
        peer.feed(&window_update(0, 0));
        let sent = peer.sent();
        let goaway = sent.iter().find(|sent| sent.header.kind == kind::GOAWAY);
        u32::from_be_bytes(goaway.unwrap().payload[..4].try_into().unwrap())
    };
    assert_eq!(last(&mut Peer::at(Role::Client, At::Open).unwrap()), 0);
    assert_eq!(last(&mut Peer::at(Role::Server, At::Idle).unwrap()), 0);
    let mut peer = Peer::at(Role::Server, At::Open).unwrap();
    peer.feed(&headers(5, &REQUEST, true));
    assert_eq!(last(&mut peer), 5);
    // Not more than was said before.
    let mut peer = Peer::at(Role::Server, At::Open).unwrap();
    let now = peer.now;
    peer.machine.shut_down(now);
    let later = now + Duration::from_secs(2);
    peer.machine.on_timeout(later).unwrap();
    peer.sent();
    peer.feed(&headers(7, &REQUEST, true));
    assert_eq!(last(&mut peer), 1);
}

#[test]
fn section_6_8_what_comes_behind_the_last_stream_counts() {
    let mut peer = Peer::at(Role::Server, At::Open).unwrap();
    let now = peer.now;
    peer.machine.shut_down(now);
    let later = now + Duration::from_secs(2);
    peer.machine.on_timeout(later).unwrap();
    peer.sent();
    // Its field goes into the table.
    let indexed = [&block(&REQUEST)[..], &[0x40, 1, b'x', 1, b'y']].concat();
    peer.feed(&frame(kind::HEADERS, flag::END_HEADERS, 3, &indexed));
    for _ in 0..1_000 {
        peer.feed(&data(3, 10_000, false));
    }
    peer.feed(&headers(3, &TRAILERS, true));
    assert_eq!((peer.keys.len(), peer.seen.len()), (1, 0));
    let sent = peer.sent();
    let half = Config::default().connection_window / 2;
    assert!(given_back(&sent) > 10_000_000 - half);
    assert!(sent.iter().all(|sent| sent.header.stream == 0));
    // And is there for the stream that goes on.
    let flags = flag::END_HEADERS | flag::END_STREAM;
    peer.feed(&frame(kind::HEADERS, flags, 1, &[0xbe]));
    assert_eq!(peer.seen, ["trailers"]);
}

#[test]
fn section_5_1_2_a_limit_below_what_is_open_holds_for_the_next() {
    let mut peer = Peer::ready(Role::Client, Config::default());
    let open: Vec<_> = (0..3).map(|_| peer.open()).collect();
    peer.feed(&settings(&[(setting::MAX_CONCURRENT_STREAMS, 1)]));
    let waiting = peer.open();
    peer.sent();
    assert!(open.iter().all(|key| peer.machine.is_open(*key)));
    for (place, key) in open.iter().enumerate() {
        assert!(peer.machine.is_waiting(waiting), "{place}");
        let stream = 2 * place as u32 + 1;
        peer.machine.send(*key, Payload::Copied(&[]), true);
        peer.feed(&headers(stream, &RESPONSE, true));
        peer.machine.release(*key);
    }
    assert!(!peer.machine.is_waiting(waiting));
    assert!(kinds(&peer.sent()).contains(&(kind::HEADERS, 7)));
}

#[test]
fn section_4_3_a_stream_that_is_reset_unwritten_keeps_the_tables_in_step() {
    let mut peer = Peer::ready(Role::Client, Config::default());
    let first = peer.open();
    peer.machine.reset(first, ErrorCode::CANCEL);
    peer.machine.release(first);
    peer.open();
    let sent = peer.sent();
    assert_eq!(
        kinds(&sent),
        [
            (kind::HEADERS, 1),
            (kind::RST_STREAM, 1),
            (kind::HEADERS, 3)
        ]
    );
    let mut decoder = Decoder::new(4096, 16_384, 128);
    for place in [0, 2] {
        let block = decoder.decode(&sent[place].payload).unwrap();
        let fields: Vec<_> = block.fields().collect();
        let expected = REQUEST.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        assert_eq!(fields, expected);
    }
    // The second refers to what the first has put into the table.
    assert!(sent[2].header.length < sent[0].header.length);
}

#[test]
fn section_6_8_a_client_that_has_said_goaway_may_still_open_streams() {
    let mut peer = Peer::at(Role::Server, At::Ended).unwrap();
    peer.feed(&goaway(0, 0));
    // It only says what becomes of streams that are pushed.
    peer.feed(&headers(3, &REQUEST, true));
    assert_eq!(peer.keys.len(), 2);
    for place in 0..2 {
        assert!(!peer.machine.is_finished());
        peer.respond(place, true);
        peer.machine.release(peer.keys[place]);
    }
    assert_eq!(kinds(&peer.sent()).len(), 2);
    assert!(peer.machine.is_finished());
}

#[test]
fn section_6_8_a_client_says_goaway_when_it_has_opened_what_waits() {
    let mut peer = Peer::ready(Role::Client, Config::default());
    peer.feed(&settings(&[(setting::MAX_CONCURRENT_STREAMS, 1)]));
    let keys: Vec<_> = (0..3).map(|_| peer.open()).collect();
    peer.sent();
    let now = peer.now;
    peer.machine.shut_down(now);
    assert!(!peer.machine.takes_streams());
    assert!(peer.sent().is_empty());
    // One is given up, the other one opened.
    peer.machine.release(keys[1]);
    assert!(peer.sent().is_empty());
    peer.machine.release(keys[0]);
    let sent = peer.sent();
    assert_eq!(
        kinds(&sent),
        [(kind::RST_STREAM, 1), (kind::HEADERS, 3), (kind::GOAWAY, 0)]
    );
    assert!(!peer.machine.is_finished());
    peer.machine.release(keys[2]);
    assert_eq!(kinds(&peer.sent()), [(kind::RST_STREAM, 3)]);
    assert!(peer.machine.is_finished());
    // Nothing waits.
    let mut peer = Peer::ready(Role::Client, Config::default());
    peer.machine.shut_down(now);
    assert_eq!(kinds(&peer.sent()), [(kind::GOAWAY, 0)]);
}
