//! Section 6: what each kind of frame can have wrong.

use rpc_http2::frame::{flag, kind, setting};
use rpc_http2::{Config, ErrorCode, Payload, Role};

use crate::support::*;

#[test]
fn section_6_1_data() {
    check("6.1, stream 0", BOTH, ANY, &data(0, 1, false), PROTOCOL);
    for (padding, payload) in [(2, 1), (255, 10), (10, 10)] {
        let mut octets = vec![7; payload];
        octets[0] = padding;
        let padded = frame(kind::DATA, flag::PADDED, 1, &octets);
        check(
            "6.1, padding",
            BOTH,
            &[At::Open, At::Answering],
            &padded,
            PROTOCOL,
        );
    }
    check(
        "6.1, no padding length",
        BOTH,
        &[At::Open],
        &frame(kind::DATA, flag::PADDED, 1, &[]),
        SIZE,
    );
    check(
        "8.1, before the head",
        CLIENT,
        &[At::Open],
        &data(1, 1, false),
        STREAM_PROTOCOL,
    );
    let mut octets = vec![7; 20];
    octets[0] = 19;
    let all_padding = frame(kind::DATA, flag::PADDED | flag::END_STREAM, 1, &octets);
    check(
        "6.1, nothing but padding",
        SERVER,
        &[At::Open],
        &all_padding,
        IGNORED,
    );
}

#[test]
fn section_6_2_headers() {
    for (roles, at, fields) in [
        (SERVER, At::Idle, &REQUEST[..]),
        (CLIENT, At::Open, &RESPONSE[..]),
    ] {
        for padding in [1, 255] {
            let padded = frame(
                kind::HEADERS,
                flag::PADDED | flag::END_HEADERS,
                1,
                &[padding],
            );
            check("6.2, padding", roles, &[at], &padded, PROTOCOL);
        }
        let flags = flag::END_HEADERS | flag::END_STREAM;
        check(
            "6.2, no padding length",
            roles,
            &[at],
            &frame(kind::HEADERS, flag::PADDED | flags, 1, &[]),
            SIZE,
        );
        for length in [0, 4] {
            check(
                "6.2, priority",
                roles,
                &[at],
                &frame(kind::HEADERS, flag::PRIORITY | flags, 1, &vec![0; length]),
                SIZE,
            );
        }
        let fields = block(fields);
        let whole = [&[3][..], &1u32.to_be_bytes(), &[9], &fields, &[0; 3]].concat();
        let flags = flags | flag::PADDED | flag::PRIORITY;
        check(
            "6.2, all of it, dependent on itself",
            roles,
            &[at],
            &frame(kind::HEADERS, flags, 1, &whole),
            IGNORED,
        );
    }
}

#[test]
fn section_6_3_priority() {
    check(
        "6.3, stream 0",
        BOTH,
        ANY,
        &frame(kind::PRIORITY, 0, 0, &[0; 5]),
        PROTOCOL,
    );
    for length in [0, 4, 6] {
        let priority = frame(kind::PRIORITY, 0, 1, &vec![0; length]);
        check(
            "6.3, length",
            BOTH,
            &[At::Open],
            &priority,
            Came::Stream(ErrorCode::FRAME_SIZE_ERROR),
        );
        check("6.3, length", BOTH, &[At::Idle], &priority, SIZE);
    }
    check(
        "5.3.1 of RFC 7540, withdrawn",
        BOTH,
        &[At::Open],
        &frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 1, 0]),
        IGNORED,
    );
}

#[test]
fn section_6_4_reset() {
    check("6.4, stream 0", BOTH, ANY, &reset(0, 8), PROTOCOL);
    for length in [0, 3, 5] {
        check(
            "6.4, length",
            BOTH,
            &[At::Open],
            &frame(kind::RST_STREAM, 0, 1, &vec![0; length]),
            SIZE,
        );
    }
    check(
        "6.4, unknown code",
        BOTH,
        &[At::Open],
        &reset(1, 0xdead),
        IGNORED,
    );
}

#[test]
fn section_6_5_settings() {
    check(
        "6.5, on a stream",
        BOTH,
        ANY,
        &frame(kind::SETTINGS, 0, 1, &[]),
        PROTOCOL,
    );
    check(
        "6.5, ACK with a payload",
        BOTH,
        ANY,
        &frame(kind::SETTINGS, flag::ACK, 0, &[0; 6]),
        SIZE,
    );
    for length in [1, 5, 7] {
        check(
            "6.5, length",
            BOTH,
            ANY,
            &frame(kind::SETTINGS, 0, 0, &vec![0; length]),
            SIZE,
        );
    }
    let one = |identifier, value| settings(&[(identifier, value)]);
    check(
        "6.5.2, ENABLE_PUSH",
        BOTH,
        ANY,
        &one(setting::ENABLE_PUSH, 2),
        PROTOCOL,
    );
    check(
        "6.5.2, ENABLE_PUSH of a server",
        CLIENT,
        ANY,
        &one(setting::ENABLE_PUSH, 1),
        PROTOCOL,
    );
    check(
        "6.5.2, ENABLE_PUSH of a client",
        SERVER,
        ANY,
        &one(setting::ENABLE_PUSH, 1),
        IGNORED,
    );
    check(
        "6.5.2, INITIAL_WINDOW_SIZE",
        BOTH,
        ANY,
        &one(setting::INITIAL_WINDOW_SIZE, 1 << 31),
        FLOW,
    );
    for size in [0, 16_383, 16_777_216, u32::MAX] {
        check(
            "6.5.2, MAX_FRAME_SIZE",
            BOTH,
            ANY,
            &one(setting::MAX_FRAME_SIZE, size),
            PROTOCOL,
        );
    }
    check("6.5.2, unknown", BOTH, ANY, &one(0xff, 1), IGNORED);
    check(
        "6.5.2, largest",
        BOTH,
        ANY,
        &settings(&[
            (setting::INITIAL_WINDOW_SIZE, 0x7fff_ffff),
            (setting::MAX_FRAME_SIZE, 16_777_215),
            (setting::HEADER_TABLE_SIZE, u32::MAX),
            (setting::MAX_CONCURRENT_STREAMS, u32::MAX),
            (setting::MAX_HEADER_LIST_SIZE, 0),
        ]),
        IGNORED,
    );
}

#[test]
fn section_6_5_3_every_settings_is_acknowledged() {
    for role in [Role::Client, Role::Server] {
        let mut peer = Peer::ready(role, Config::default());
        peer.feed(&settings(&[]).repeat(3));
        let acks = peer.sent();
        assert_eq!(acks.len(), 3);
        assert!(
            acks.iter()
                .all(|sent| sent.header.kind == kind::SETTINGS && sent.header.has(flag::ACK))
        );
    }
}

/// How much of a long body goes out at once.
fn goes_out(peer: &mut Peer, place: usize) -> usize {
    let key = peer.keys[place];
    peer.machine
        .send(key, Payload::Shared(vec![7; 200_000].into()), true);
    let sent = peer.sent();
    let data = sent.iter().filter(|sent| sent.header.kind == kind::DATA);
    data.map(|sent| sent.payload.len()).sum()
}

#[test]
fn section_6_5_3_the_last_value_holds() {
    let window = setting::INITIAL_WINDOW_SIZE;
    let twice = settings(&[(window, 70_000), (window, 10), (window, 20)]);
    let mut peer = Peer::ready(Role::Client, Config::default());
    peer.feed(&twice);
    peer.open();
    assert_eq!(goes_out(&mut peer, 0), 20);
    let mut peer = Peer::at(Role::Server, At::Ended).unwrap();
    peer.feed(&twice);
    peer.respond(0, false);
    assert_eq!(goes_out(&mut peer, 0), 20);
}

#[test]
fn section_6_9_2_the_window_of_the_connection_is_no_setting() {
    for (value, expected) in [(0, 0), (100, 100), (100_000, 65_535)] {
        let mut peer = Peer::ready(Role::Client, Config::default());
        peer.open();
        peer.feed(&settings(&[(setting::INITIAL_WINDOW_SIZE, value)]));
        assert_eq!(goes_out(&mut peer, 0), expected);
        peer.feed(&settings(&[(setting::INITIAL_WINDOW_SIZE, 1_000_000)]));
        peer.sent();
        peer.open();
        // What is left of it is for both.
        peer.feed(&window_update(0, 1));
        let rest = goes_out(&mut peer, 1);
        assert_eq!(rest, 1, "{value}");
    }
}

#[test]
fn section_6_6_push_promise() {
    check(
        "8.4",
        BOTH,
        ANY,
        &frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &[0, 0, 0, 2]),
        PROTOCOL,
    );
}

#[test]
fn section_6_7_ping() {
    check(
        "6.7, on a stream",
        BOTH,
        ANY,
        &frame(kind::PING, 0, 1, &[0; 8]),
        PROTOCOL,
    );
    for length in [0, 7, 9] {
        check(
            "6.7, length",
            BOTH,
            ANY,
            &frame(kind::PING, 0, 0, &vec![0; length]),
            SIZE,
        );
    }
    for role in [Role::Client, Role::Server] {
        let mut peer = Peer::ready(role, Config::default());
        peer.feed(&frame(kind::PING, flag::ACK, 0, b"whatever"));
        assert!(peer.sent().is_empty(), "an answer is not answered");
    }
}

#[test]
fn section_6_8_goaway() {
    check(
        "6.8, on a stream",
        BOTH,
        ANY,
        &frame(kind::GOAWAY, 0, 1, &[0; 8]),
        PROTOCOL,
    );
    for length in [0, 7] {
        check(
            "6.8, length",
            BOTH,
            ANY,
            &frame(kind::GOAWAY, 0, 0, &vec![0; length]),
            SIZE,
        );
    }
    let growing = [goaway(1, 0), goaway(3, 0)].concat();
    check("6.8, growing", BOTH, ANY, &growing, PROTOCOL);
    let shrinking = [goaway(3, 0), goaway(3, 0), goaway(1, 0)].concat();
    check("6.8, shrinking", BOTH, ANY, &shrinking, IGNORED);
}

#[test]
fn section_6_9_window_update() {
    for length in [0, 3, 5] {
        for stream in [0, 1] {
            let update = frame(kind::WINDOW_UPDATE, 0, stream, &vec![1; length]);
            check("6.9, length", BOTH, &[At::Open], &update, SIZE);
        }
    }
    check("6.9, nothing", BOTH, ANY, &window_update(0, 0), PROTOCOL);
    check(
        "6.9, nothing, on a stream",
        BOTH,
        &[At::Open, At::Ended],
        &window_update(1, 0),
        STREAM_PROTOCOL,
    );
    check(
        "6.9.1, overflow",
        BOTH,
        ANY,
        &window_update(0, 0x7fff_ffff),
        FLOW,
    );
    check(
        "6.9.1, overflow, on a stream",
        BOTH,
        &[At::Open, At::Ended],
        &window_update(1, 0x7fff_ffff),
        STREAM_FLOW,
    );
    let steps = [
        window_update(1, 0x7fff_0000),
        settings(&[(setting::INITIAL_WINDOW_SIZE, 0x7fff_0000)]),
    ];
    check(
        "6.9.2, overflow by SETTINGS",
        BOTH,
        &[At::Open],
        &steps.concat(),
        FLOW,
    );
    let mut reserved = window_update(0, 1);
    reserved[9] |= 0x80;
    check("6.9, reserved bit", BOTH, ANY, &reserved, IGNORED);
}

#[test]
fn section_6_9_data_beyond_the_windows() {
    let config = Config {
        stream_window: 100,
        connection_window: 65_535,
        max_stream_window: 100,
        ..Config::default()
    };
    for (octets, expected) in [(100, IGNORED), (101, STREAM_FLOW)] {
        let mut peer = Peer::ready(Role::Server, config).holding();
        peer.feed(&headers(1, &REQUEST, false));
        peer.feed(&data(1, octets, false));
        assert_eq!(peer.came(), expected);
    }
    // Padding counts.
    let mut peer = Peer::ready(Role::Server, config).holding();
    peer.feed(&headers(1, &REQUEST, false));
    peer.feed(&frame(
        kind::DATA,
        flag::PADDED,
        1,
        &[[40].as_slice(), &[7; 100]].concat(),
    ));
    assert_eq!(peer.came(), STREAM_FLOW);
    // Many streams, one connection, whose window comes back by halves.
    let config = Config {
        stream_window: 100_000,
        max_stream_window: 100_000,
        ..config
    };
    for (octets, expected) in [(35_535, IGNORED), (35_536, FLOW)] {
        let mut peer = Peer::ready(Role::Server, config).holding();
        peer.feed(&headers(1, &REQUEST, false));
        peer.feed(&headers(3, &REQUEST, false));
        peer.feed(&data(1, 30_000, false));
        peer.feed(&data(3, octets, false));
        assert_eq!(peer.came(), expected);
    }
}
