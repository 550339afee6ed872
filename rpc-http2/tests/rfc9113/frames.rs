//! Sections 3 to 5: the preface, the form of frames, the states of streams.

use rpc_http2::frame::{PREFACE, flag, kind};
use rpc_http2::{Config, Role};

use crate::support::*;

#[test]
fn section_3_4_preface() {
    for wrong in [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r".to_vec(),
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        vec![0; 24],
    ] {
        let mut peer = Peer::silent(Role::Server, Config::default());
        peer.feed(&wrong);
        assert_eq!(peer.came(), PROTOCOL);
    }
    for role in [Role::Client, Role::Server] {
        let preface = match role {
            Role::Server => PREFACE.to_vec(),
            Role::Client => Vec::new(),
        };
        for first in [
            frame(kind::PING, 0, 0, &[0; 8]),
            window_update(0, 1),
            headers(1, &REQUEST, true),
            frame(kind::SETTINGS, flag::ACK, 0, &[]),
            frame(0xee, 0, 0, &[]),
        ] {
            let mut peer = Peer::silent(role, Config::default());
            peer.feed(&preface);
            peer.feed(&first);
            assert_eq!(peer.came(), PROTOCOL, "{role:?}");
        }
    }
}

#[test]
fn section_3_4_preface_octet_by_octet() {
    let mut peer = Peer::silent(Role::Server, Config::default());
    for octet in [&PREFACE[..], &settings(&[]), &headers(1, &REQUEST, true)].concat() {
        peer.feed(&[octet]);
    }
    assert_eq!(peer.seen, ["ready", "head true"]);
    assert_eq!(peer.came(), IGNORED);
}

#[test]
fn section_4_1_and_5_5_what_is_unknown_is_ignored() {
    check(
        "4.1, unknown type",
        BOTH,
        ANY,
        &frame(0xbb, 0xff, 0, &[1; 100]),
        IGNORED,
    );
    check(
        "4.1, unknown type on a stream",
        BOTH,
        ANY,
        &frame(0x0a, 0xff, 1, &[1; 100]),
        IGNORED,
    );
    check(
        "4.1, unknown flags",
        BOTH,
        ANY,
        &frame(kind::PING, 0xfe, 0, &[1; 8]),
        IGNORED,
    );
    let mut reserved = frame(kind::PING, 0, 0, &[1; 8]);
    reserved[5] |= 0x80;
    check("4.1, reserved bit", BOTH, ANY, &reserved, IGNORED);
}

#[test]
fn section_4_2_sizes() {
    let large = 256 * 1024 + 1;
    check("4.2, DATA", BOTH, &[At::Open], &data(1, large, false), SIZE);
    check(
        "4.2, unknown",
        BOTH,
        ANY,
        &frame(0xbb, 0, 0, &vec![0; large]),
        SIZE,
    );
    check(
        "4.2, SETTINGS",
        BOTH,
        ANY,
        &frame(kind::SETTINGS, 0, 0, &vec![0; large]),
        SIZE,
    );
}

#[test]
fn section_4_3_header_blocks_are_whole() {
    let begun = |stream| frame(kind::HEADERS, 0, stream, &block(&REQUEST));
    let cases = [
        data(1, 1, false),
        window_update(0, 1),
        frame(kind::PING, 0, 0, &[0; 8]),
        frame(0xbb, 0, 0, &[]),
        headers(3, &REQUEST, true),
        frame(kind::CONTINUATION, flag::END_HEADERS, 3, &[]),
        frame(kind::CONTINUATION, flag::END_HEADERS, 0, &[]),
    ];
    for inside in cases {
        let frames = [begun(1), inside].concat();
        check("4.3", SERVER, &[At::Idle], &frames, PROTOCOL);
        check("4.3", CLIENT, &[At::Open], &frames, PROTOCOL);
    }
    check(
        "6.10, without a block",
        BOTH,
        ANY,
        &frame(kind::CONTINUATION, flag::END_HEADERS, 1, &[]),
        PROTOCOL,
    );
    check(
        "6.10, on stream 0",
        BOTH,
        ANY,
        &frame(kind::CONTINUATION, flag::END_HEADERS, 0, &[]),
        PROTOCOL,
    );
    let after = [
        headers(1, &REQUEST, true),
        frame(kind::CONTINUATION, flag::END_HEADERS, 1, &[]),
    ]
    .concat();
    check("6.10, after the end", SERVER, &[At::Idle], &after, PROTOCOL);
    for (role, fields) in [(Role::Server, &REQUEST[..]), (Role::Client, &RESPONSE[..])] {
        let fields = block(&[fields, &[("a", "b")]].concat());
        let (first, rest) = fields.split_at(fields.len() / 2);
        let split = [
            frame(kind::HEADERS, flag::END_STREAM, 1, first),
            frame(kind::CONTINUATION, 0, 1, &[]),
            frame(kind::CONTINUATION, flag::END_HEADERS, 1, rest),
        ];
        let at = match role {
            Role::Server => At::Idle,
            Role::Client => At::Open,
        };
        let mut peer = Peer::at(role, at).unwrap();
        peer.feed(&split.concat());
        assert_eq!(peer.seen, ["head true"], "6.10, in order");
        assert_eq!(peer.came(), IGNORED);
    }
}

#[test]
fn section_5_1_idle_streams() {
    for frames in [data(1, 1, true), reset(1, 8), window_update(1, 1)] {
        check("5.1, idle", BOTH, &[At::Idle], &frames, PROTOCOL);
    }
    // Nobody opens these.
    for frames in [data(2, 1, true), reset(2, 8), window_update(2, 1)] {
        check("5.1, idle, even", BOTH, ANY, &frames, PROTOCOL);
    }
    check(
        "5.1, idle",
        CLIENT,
        &[At::Idle],
        &headers(1, &RESPONSE, true),
        PROTOCOL,
    );
    // RFC 9113 section 5.3.2: PRIORITY is allowed in any state.
    check(
        "5.1, idle",
        BOTH,
        ANY,
        &frame(kind::PRIORITY, 0, 1, &[0; 5]),
        IGNORED,
    );
}

#[test]
fn section_5_1_half_closed_streams() {
    let states = &[At::Ended];
    check(
        "5.1, half-closed (remote)",
        BOTH,
        states,
        &data(1, 1, false),
        STREAM_CLOSED,
    );
    check(
        "5.1, half-closed (remote)",
        BOTH,
        states,
        &headers(1, &TRAILERS, true),
        STREAM_CLOSED,
    );
    check(
        "5.1, half-closed (remote)",
        BOTH,
        states,
        &window_update(1, 100),
        IGNORED,
    );
    check(
        "5.1, half-closed (remote)",
        BOTH,
        states,
        &reset(1, 8),
        IGNORED,
    );
}

#[test]
fn section_5_1_closed_streams() {
    let by_end = &[At::Closed];
    check(
        "5.1, closed",
        BOTH,
        by_end,
        &data(1, 1, false),
        STREAM_CLOSED,
    );
    check(
        "5.1, closed",
        BOTH,
        by_end,
        &headers(1, &TRAILERS, true),
        CLOSED,
    );
    let by_peer = &[At::ResetByPeer];
    check(
        "5.1, closed by the peer",
        BOTH,
        by_peer,
        &data(1, 1, false),
        STREAM_CLOSED,
    );
    check(
        "5.1, closed by the peer",
        BOTH,
        by_peer,
        &headers(1, &TRAILERS, true),
        CLOSED,
    );
    // What the peer has sent before it knew: section 5.4.2.
    let by_us = &[At::ResetByUs];
    for late in [
        data(1, 1, false),
        headers(1, &TRAILERS, true),
        window_update(1, 9),
        reset(1, 8),
    ] {
        check("5.1, closed by this side", BOTH, by_us, &late, IGNORED);
    }
    for late in [
        window_update(1, 9),
        reset(1, 8),
        frame(kind::PRIORITY, 0, 1, &[0; 5]),
    ] {
        check(
            "5.1, closed",
            BOTH,
            &[At::Closed, At::ResetByPeer],
            &late,
            IGNORED,
        );
    }
}

#[test]
fn section_5_1_1_identifiers() {
    check(
        "5.1.1, even",
        SERVER,
        ANY,
        &headers(2, &REQUEST, true),
        PROTOCOL,
    );
    check(
        "5.1.1, even",
        CLIENT,
        ANY,
        &headers(2, &RESPONSE, true),
        PROTOCOL,
    );
    let decreasing = [headers(5, &REQUEST, true), headers(3, &REQUEST, true)].concat();
    check(
        "5.1.1, decreasing",
        SERVER,
        &[At::Idle],
        &decreasing,
        CLOSED,
    );
    // A stream that was passed over is closed.
    let skipped = [headers(3, &REQUEST, true), data(1, 1, true)].concat();
    check("5.1.1, DATA", SERVER, &[At::Idle], &skipped, STREAM_CLOSED);
    check(
        "5.1.1, never opened",
        CLIENT,
        &[At::Open],
        &headers(3, &RESPONSE, true),
        PROTOCOL,
    );
    check(
        "6.2, stream 0",
        BOTH,
        ANY,
        &headers(0, &REQUEST, true),
        PROTOCOL,
    );
}
