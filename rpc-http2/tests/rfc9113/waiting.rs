//! What waits: senders for room, streams for the peer's limit, a connection for the rest of a frame.

use std::time::Duration;

use rpc_http2::frame::{FrameHeader, flag, kind, setting};
use rpc_http2::{Config, ErrorCode, Payload, Role};

use crate::support::*;

/// A client whose streams may send whatever they like, as far as the connection lets them.
fn open_windows() -> Peer {
    let mut peer = Peer::ready(Role::Client, Config::default());
    peer.feed(&settings(&[(setting::INITIAL_WINDOW_SIZE, 0x7fff_ffff)]));
    peer.sent();
    peer
}

/// What fills the buffer of the connection, on a stream whose window is open.
fn crowd(peer: &mut Peer) -> rpc_http2::StreamKey {
    let key = peer.open();
    let all = vec![7; 5 * 1024 * 1024];
    peer.machine.send(key, Payload::Shared(all.into()), false);
    peer.sent();
    key
}

#[test]
fn who_waits_for_room_of_the_connection_hears_when_the_crowd_is_reset() {
    let mut peer = open_windows();
    let waiting = peer.open();
    crowd(&mut peer);
    assert!(!peer.machine.has_room(waiting));
    assert_eq!(peer.machine.roomy(), None);
    // Nothing is left to write, and still there is room.
    peer.feed(&reset(3, 8));
    assert!(!peer.machine.has_output());
    assert_eq!(peer.machine.roomy(), Some(waiting));
    assert!(peer.machine.has_room(waiting));
}

#[test]
fn who_was_full_hears_of_room_of_the_connection_too() {
    let mut peer = open_windows();
    let full = peer.open();
    let all = vec![7; 500_000];
    peer.machine.send(full, Payload::Shared(all.into()), false);
    peer.sent();
    assert!(!peer.machine.has_room(full));
    crowd(&mut peer);
    // The stream drains, and its connection is as full as before.
    peer.feed(&window_update(0, 500_000));
    peer.sent();
    assert!(!peer.machine.has_room(full));
    assert_eq!(peer.machine.roomy(), None);
    peer.feed(&reset(3, 8));
    assert_eq!(peer.machine.roomy(), Some(full));
}

#[test]
fn a_stream_that_waited_and_was_reset_keeps_its_place_until_it_is_let_go() {
    let mut peer = Peer::ready(Role::Client, Config::default());
    peer.feed(&settings(&[(setting::MAX_CONCURRENT_STREAMS, 1)]));
    peer.open();
    let waited = peer.open();
    peer.machine.send(waited, Payload::Copied(&[7; 10]), false);
    peer.machine.reset(waited, ErrorCode::CANCEL);
    assert!(!peer.machine.is_waiting(waited));
    assert!(!peer.machine.send(waited, Payload::Copied(&[7]), true));
    let next = peer.open();
    assert_ne!(next.index(), waited.index());
    peer.machine.release(waited);
    peer.sent();
    // The one behind it is opened in its turn, with the identifier that was never used.
    peer.feed(&reset(1, 8));
    peer.machine.release(peer.keys[0]);
    let sent = peer.sent();
    assert_eq!(
        (sent[0].header.kind, sent[0].header.stream),
        (kind::HEADERS, 3)
    );
}

#[test]
fn a_frame_that_does_not_end_ends_the_connection() {
    let whole = headers(1, &REQUEST, true);
    let ping = frame(kind::PING, 0, 0, &[7; 8]);
    let unknown = frame(0x55, 0, 0, &[7; 30]);
    for (part, seconds) in [
        // Of what type it will be nobody knows yet.
        (&whole[..3], 14),
        (&whole[..9], 5),
        (&whole[..28], 5),
        (&ping[..9], 14),
        (&ping[..16], 14),
        (&unknown[..9], 14),
        (&unknown[..20], 14),
    ] {
        let mut peer = Peer::ready(Role::Server, Config::default());
        peer.feed(part);
        let due = peer.machine.next_timeout().unwrap();
        assert_eq!(due - peer.now, Duration::from_secs(seconds), "{part:?}");
        peer.now += Duration::from_millis(seconds * 1000 - 100);
        assert!(peer.machine.on_timeout(peer.now).is_ok());
        peer.feed(&[]);
        peer.now = due;
        assert!(peer.machine.on_timeout(peer.now).is_err());
        assert!(peer.calmed());
    }
}

#[test]
fn what_is_not_read_does_not_run_out_of_time() {
    let whole = headers(1, &REQUEST, true);
    let mut peer = Peer::ready(Role::Server, Config::default());
    peer.feed(&whole[..20]);
    for _ in 0..10 {
        peer.now += Duration::from_secs(4);
        peer.machine.not_reading(peer.now);
        assert!(peer.machine.on_timeout(peer.now).is_ok());
    }
    peer.feed(&whole[20..]);
    assert_eq!(peer.seen.last().unwrap(), "head true");
}

#[test]
fn the_time_of_a_header_block_begins_with_its_first_octet() {
    let mut peer = Peer::ready(Role::Server, Config::default());
    let fields = block(&REQUEST);
    let header = FrameHeader {
        length: fields.len() as u32,
        kind: kind::HEADERS,
        flags: flag::END_STREAM,
        stream: 1,
    };
    let begun = peer.now;
    peer.feed(&header.encode());
    peer.now += Duration::from_secs(3);
    peer.feed(&fields);
    assert_eq!(
        peer.machine.next_timeout(),
        Some(begun + Duration::from_secs(5))
    );
    peer.feed(&frame(kind::CONTINUATION, flag::END_HEADERS, 1, &[]));
    assert_eq!(peer.seen.last().unwrap(), "head true");
    assert_eq!(peer.machine.next_timeout(), None);
}

#[test]
fn data_may_take_its_time() {
    let mut peer = Peer::ready(Role::Server, Config::default());
    peer.feed(&headers(1, &REQUEST, false));
    let whole = data(1, 1000, true);
    // One octet after the other, with as long as nothing may come in between.
    peer.feed(&whole[..9]);
    for octet in &whole[9..100] {
        peer.feed(&[*octet]);
        peer.now += Duration::from_secs(13);
        assert!(peer.machine.on_timeout(peer.now).is_ok());
    }
    peer.feed(&whole[100..]);
    assert_eq!(peer.seen.last().unwrap(), "data 909 true");
    assert_eq!(peer.machine.next_timeout(), None);
}

#[test]
fn data_that_stands_still_ends_the_connection() {
    let padded = [&[20][..], &[7; 50], &[0; 20]].concat();
    let padded = frame(kind::DATA, flag::PADDED, 1, &padded);
    for (whole, part) in [(data(1, 1000, true), 9), (data(1, 1000, true), 500)]
        .into_iter()
        .chain([9, 10, 11, 59, 60, 70].map(|part| (padded.clone(), part)))
    {
        let mut peer = Peer::ready(Role::Server, Config::default());
        peer.feed(&headers(1, &REQUEST, false));
        peer.feed(&whole[..part]);
        let due = peer.machine.next_timeout().unwrap();
        assert_eq!(due - peer.now, Duration::from_secs(14), "{part}");
        peer.now = due;
        assert!(peer.machine.on_timeout(peer.now).is_err());
        assert!(peer.calmed());
    }
}

/// As grpc-go does to know the round trip: a PING for each exchange, however short that is.
#[test]
fn a_peer_may_ping_with_everything_that_is_exchanged() {
    for role in [Role::Client, Role::Server] {
        let mut peer = Peer::ready(role, Config::default());
        if role == Role::Client {
            peer.open();
            peer.feed(&headers(1, &RESPONSE, false));
        } else {
            peer.feed(&headers(1, &REQUEST, false));
            peer.respond(0, false);
            peer.feed(&window_update(0, 1 << 30));
            peer.feed(&window_update(1, 1 << 30));
        }
        for _ in 0..100_000 {
            peer.feed(&data(1, 10, false));
            if role == Role::Server {
                let answer = Payload::Copied(&[7; 10]);
                peer.machine.send(peer.keys[0], answer, false);
            }
            peer.sent();
            peer.feed(&frame(kind::PING, 0, 0, b"bdpbdpbd"));
            peer.sent();
        }
        assert_eq!(peer.machine.error(), None, "{role:?}");
        // Without an exchange it is a flood.
        for _ in 0..100_000 {
            peer.feed(&frame(kind::PING, 0, 0, b"bdpbdpbd"));
            peer.sent();
        }
        assert!(peer.calmed(), "{role:?}");
    }
}
