//! What goes out, in which order, and from which memory.

use std::io::IoSlice;

use bytes::Bytes;
use rpc_http2::frame::{flag, kind, setting};
use rpc_http2::{Config, ErrorCode, Output, Payload, Role, StreamKey};

use crate::support::*;

/// A server with so many streams that are answered, and windows as large as they can be.
fn answering(streams: u32) -> (Peer, Vec<StreamKey>) {
    let mut peer = Peer::ready(Role::Server, Config::default());
    peer.feed(&settings(&[(setting::INITIAL_WINDOW_SIZE, 0x7fff_ffff)]));
    peer.feed(&window_update(0, 0x7fff_0000));
    for number in 0..streams {
        peer.feed(&headers(2 * number + 1, &REQUEST, true));
        peer.respond(number as usize, false);
    }
    peer.sent();
    let keys = peer.keys.clone();
    (peer, keys)
}

#[test]
fn streams_take_turns() {
    let (mut peer, keys) = answering(4);
    // The first fills the output of its own; what the others have waits for the next turn.
    for key in &keys {
        peer.machine
            .send(*key, Payload::Shared(vec![7; 380_000].into()), false);
    }
    let sent = peer.sent();
    let order: Vec<u32> = sent.iter().map(|sent| sent.header.stream).collect();
    let shared = order.iter().position(|stream| *stream != 1).unwrap();
    for round in order[shared..].chunks_exact(4).take(10) {
        let mut round = round.to_vec();
        round.sort_unstable();
        round.dedup();
        assert!(round.len() >= 3, "one stream in turn: {order:?}");
    }
    for stream in [1, 3, 5, 7] {
        let octets: usize = sent
            .iter()
            .filter(|sent| sent.header.stream == stream)
            .map(|sent| sent.payload.len())
            .sum();
        assert_eq!(octets, 380_000);
    }
}

#[test]
fn control_frames_go_before_what_waits() {
    let (mut peer, keys) = answering(2);
    for key in &keys {
        peer.machine
            .send(*key, Payload::Shared(vec![7; 399_000].into()), false);
        peer.machine
            .send(*key, Payload::Shared(vec![7; 399_000].into()), false);
    }
    // One batch is out, more waits.
    let mut output = Output::default();
    let now = peer.now;
    peer.machine.take_output(&mut output, now);
    assert!(peer.machine.has_output());
    peer.feed(&frame(kind::PING, 0, 0, b"in a hur"));
    peer.feed(&settings(&[]));
    peer.machine.reset(keys[1], ErrorCode::CANCEL);
    let kinds: Vec<u8> = peer.sent().iter().map(|sent| sent.header.kind).collect();
    assert_eq!(kinds[..3], [kind::PING, kind::SETTINGS, kind::RST_STREAM]);
    assert_eq!(kinds[3], kind::DATA);
}

#[test]
fn a_large_message_is_written_from_where_it_is() {
    let (mut peer, keys) = answering(1);
    // A piece below 4 KiB is copied, so that there is none.
    let message = Bytes::from(vec![7; 12 * 16_384]);
    let place = message.as_ptr_range();
    peer.machine
        .send(keys[0], Payload::Shared(message.clone()), true);
    let mut output = Output::default();
    let now = peer.now;
    peer.machine.take_output(&mut output, now);
    let mut slices = [IoSlice::new(&[]); 64];
    let filled = output.slices(&mut slices);
    let inside: usize = slices[..filled]
        .iter()
        .filter(|slice| place.contains(&slice.as_ptr()))
        .map(|slice| slice.len())
        .sum();
    assert_eq!(inside, message.len());
}

#[test]
fn frames_are_no_larger_than_the_peer_takes() {
    for (limit, stream_count) in [(16_384, 1), (20_000, 1), (1 << 20, 1)] {
        let (mut peer, keys) = answering(stream_count);
        peer.feed(&settings(&[(setting::MAX_FRAME_SIZE, limit)]));
        peer.machine
            .send(keys[0], Payload::Shared(vec![7; 390_000].into()), true);
        let sent = peer.sent();
        assert!(sent.iter().all(|sent| sent.header.length <= limit));
        let last = sent.last().unwrap();
        assert!(last.header.has(flag::END_STREAM));
    }
    // Long heads too.
    let (mut peer, _) = answering(0);
    peer.feed(&headers(1, &REQUEST, true));
    let mut head = rpc_http2::hpack::Template::new(RESPONSE.into_iter().collect());
    let mut long = rpc_http2::Fields::new();
    long.push("a", "\u{7f}".repeat(40_000));
    peer.machine.respond(peer.keys[0], &mut head, &long, true);
    let sent = peer.sent();
    assert_eq!(sent[0].header.kind, kind::HEADERS);
    assert!(sent[0].header.has(flag::END_STREAM) && !sent[0].header.has(flag::END_HEADERS));
    assert!(
        sent[1..]
            .iter()
            .all(|sent| sent.header.kind == kind::CONTINUATION)
    );
    assert!(sent.iter().all(|sent| sent.header.length <= 16_384));
    assert!(sent.last().unwrap().header.has(flag::END_HEADERS));
}

#[test]
fn a_reset_drops_what_waits_and_makes_room() {
    let mut peer = Peer::ready(Role::Client, Config::default());
    let key = peer.open();
    peer.machine
        .send(key, Payload::Copied(&vec![7; 500_000]), false);
    assert!(!peer.machine.has_room(key));
    peer.sent();
    peer.feed(&reset(1, 8));
    assert_eq!(peer.machine.roomy(), Some(key));
    peer.feed(&window_update(0, 1_000_000));
    assert!(peer.sent().is_empty());
}

#[test]
fn room_comes_back_as_the_peer_reads() {
    let mut peer = Peer::ready(Role::Client, Config::default());
    let key = peer.open();
    peer.machine
        .send(key, Payload::Copied(&vec![7; 500_000]), false);
    peer.sent();
    assert!(!peer.machine.has_room(key));
    assert_eq!(peer.machine.roomy(), None);
    peer.feed(&window_update(1, 100_000));
    peer.feed(&window_update(0, 100_000));
    peer.sent();
    assert_eq!(peer.machine.roomy(), Some(key));
    assert!(peer.machine.has_room(key));
}

/// Sends as much as the window allows, with a PING answered in between, as a fast peer does; the most
/// that the window of the stream has been.
fn upload(peer: &mut Peer, rounds: u32, slow: bool) -> i64 {
    let mut window = i64::from(Config::default().stream_window);
    let mut most = window;
    for _ in 0..rounds {
        peer.feed(&data(1, 200_000, false));
        window -= 200_000;
        for sent in peer.sent() {
            match sent.header.kind {
                kind::SETTINGS => panic!("what streams begin with stays as it is"),
                kind::WINDOW_UPDATE if sent.header.stream == 1 => {
                    window += i64::from(u32::from_be_bytes(sent.payload[..].try_into().unwrap()));
                    most = most.max(window);
                }
                kind::PING => {
                    // The answer of a slow one comes before anything else does.
                    while !slow && window >= 200_000 {
                        peer.feed(&data(1, 200_000, false));
                        window -= 200_000;
                    }
                    peer.feed(&frame(kind::PING, flag::ACK, 0, &sent.payload));
                }
                _ => {}
            }
        }
    }
    most
}

#[test]
fn windows_of_streams_that_are_read_grow_to_what_the_network_holds() {
    let mut peer = Peer::ready(Role::Server, Config::default());
    peer.feed(&headers(1, &REQUEST, false));
    let window = upload(&mut peer, 200, false);
    assert!(window >= 4 << 20, "{window}");
    assert!(window <= i64::from(Config::default().max_stream_window));
    // A peer that sends less than half a window in a round trip needs no more.
    let mut peer = Peer::ready(Role::Server, Config::default());
    peer.feed(&headers(1, &REQUEST, false));
    assert_eq!(upload(&mut peer, 200, true), 1 << 20);
}

#[test]
fn what_waits_when_a_connection_fails_is_never_written() {
    let (mut peer, keys) = answering(1);
    peer.machine
        .send(keys[0], Payload::Shared(vec![7; 399_000].into()), false);
    peer.feed(&window_update(0, 0));
    let mut output = Output::default();
    let now = peer.now;
    peer.machine.take_output(&mut output, now);
    assert!(!output.is_empty());
    assert!(
        !peer.machine.has_output(),
        "what nobody gets would be waited for"
    );
}
