//! Section 8 and RFC 7541: what heads and trailers can have wrong.

use rpc_http2::frame::{PREFACE, flag, kind};
use rpc_http2::{Config, Role};

use crate::support::*;

#[test]
fn section_8_1_messages() {
    check(
        "8.1, trailers without their end",
        SERVER,
        &[At::Open],
        &headers(1, &TRAILERS, false),
        STREAM_PROTOCOL,
    );
    check(
        "8.1, trailers without their end",
        CLIENT,
        &[At::Answering],
        &headers(1, &TRAILERS, false),
        STREAM_PROTOCOL,
    );
    check(
        "8.1, trailers",
        SERVER,
        &[At::Open],
        &headers(1, &TRAILERS, true),
        IGNORED,
    );
    check(
        "8.1, trailers",
        CLIENT,
        &[At::Answering],
        &headers(1, &TRAILERS, true),
        IGNORED,
    );
    check(
        "8.1, trailers with a pseudo-header field",
        SERVER,
        &[At::Open],
        &headers(1, &REQUEST, true),
        STREAM_PROTOCOL,
    );
    check(
        "8.1, trailers with a pseudo-header field",
        CLIENT,
        &[At::Answering],
        &headers(1, &RESPONSE, true),
        STREAM_PROTOCOL,
    );
    check(
        "8.1, informational",
        CLIENT,
        &[At::Open],
        &[
            headers(1, &[(":status", "103")], false),
            headers(1, &RESPONSE, true),
        ]
        .concat(),
        IGNORED,
    );
    check(
        "8.1, informational at the end",
        CLIENT,
        &[At::Open],
        &headers(1, &[(":status", "103")], true),
        STREAM_PROTOCOL,
    );
}

#[test]
fn section_8_1_1_content_length() {
    let length = |list: &[(&'static str, &'static str)], value| {
        [list, &[("content-length", value)]].concat()
    };
    for (value, octets, expected) in [
        ("3", 3, IGNORED),
        ("3", 2, STREAM_PROTOCOL),
        ("3", 4, STREAM_PROTOCOL),
    ] {
        let frames = [
            headers(1, &length(&REQUEST, value), false),
            data(1, 1, false),
            data(1, octets - 1, true),
        ]
        .concat();
        check("8.1.1", SERVER, &[At::Idle], &frames, expected);
        let frames = [
            headers(1, &length(&RESPONSE, value), false),
            data(1, 1, false),
            data(1, octets - 1, true),
        ]
        .concat();
        check("8.1.1", CLIENT, &[At::Open], &frames, expected);
    }
    check(
        "8.1.1, no body",
        SERVER,
        &[At::Idle],
        &headers(1, &length(&REQUEST, "3"), true),
        STREAM_PROTOCOL,
    );
    check(
        "8.1.1, no body",
        CLIENT,
        &[At::Open],
        &headers(1, &length(&RESPONSE, "3"), true),
        STREAM_PROTOCOL,
    );
    let trailers = [
        headers(1, &length(&REQUEST, "3"), false),
        headers(1, &TRAILERS, true),
    ]
    .concat();
    check(
        "8.1.1, trailers",
        SERVER,
        &[At::Idle],
        &trailers,
        STREAM_PROTOCOL,
    );
}

#[test]
fn section_8_2_and_8_3_fields() {
    let malformed: [&[(&str, &str)]; 15] = [
        &[("Upper", "1")],
        &[("a b", "1")],
        &[("", "1")],
        &[("a", "1\n")],
        &[(":authority", " a")],
        &[("connection", "close")],
        &[("transfer-encoding", "chunked")],
        &[("keep-alive", "1")],
        &[("proxy-connection", "keep-alive")],
        &[("upgrade", "h2c")],
        &[("te", "gzip")],
        &[("a", "1"), (":path", "/")],
        &[(":other", "1")],
        &[(":path", "/"), (":path", "/")],
        &[("content-length", "1x")],
    ];
    for more in malformed {
        let fields = [&REQUEST[..], more].concat();
        check(
            "8.2, 8.3",
            SERVER,
            &[At::Idle],
            &headers(1, &fields, false),
            STREAM_PROTOCOL,
        );
        let fields = [&RESPONSE[..], more].concat();
        check(
            "8.2, 8.3",
            CLIENT,
            &[At::Open],
            &headers(1, &fields, false),
            STREAM_PROTOCOL,
        );
    }
    for missing in 0..REQUEST.len() {
        let mut fields = REQUEST.to_vec();
        fields.remove(missing);
        check(
            "8.3.1",
            SERVER,
            &[At::Idle],
            &headers(1, &fields, true),
            STREAM_PROTOCOL,
        );
    }
    let status = [&REQUEST[..], &[(":status", "200")]].concat();
    check(
        "8.3.1, :status",
        SERVER,
        &[At::Idle],
        &headers(1, &status, true),
        STREAM_PROTOCOL,
    );
    check(
        "8.3.2, no :status",
        CLIENT,
        &[At::Open],
        &headers(1, &TRAILERS, true),
        STREAM_PROTOCOL,
    );
}

#[test]
fn section_8_2_1_characters() {
    let field = |name: &[u8], value: &[u8], expected| {
        let flags = flag::END_HEADERS;
        let of = |head: &[(&str, &str)]| [block(head), literal(name, value)].concat();
        let section = format!("8.2.1, {name:?}: {value:?}");
        let request = frame(kind::HEADERS, flags, 1, &of(&REQUEST));
        check(&section, SERVER, &[At::Idle], &request, expected);
        let response = frame(kind::HEADERS, flags, 1, &of(&RESPONSE));
        check(&section, CLIENT, &[At::Open], &response, expected);
        let flags = flag::END_HEADERS | flag::END_STREAM;
        let trailers = frame(kind::HEADERS, flags, 1, &of(&TRAILERS));
        check(&section, SERVER, &[At::Open], &trailers, expected);
        check(&section, CLIENT, &[At::Answering], &trailers, expected);
    };
    for octet in (0..=b' ').chain(b'A'..=b'Z').chain(0x7f..=0xff) {
        field(&[b'a', octet], b"1", STREAM_PROTOCOL);
        field(&[octet], b"1", STREAM_PROTOCOL);
    }
    for octet in [0, b'\r', b'\n'] {
        for value in [
            &[octet][..],
            &[octet, b'1'],
            &[b'1', octet],
            &[b'1', octet, b'1'],
        ] {
            field(b"a", value, STREAM_PROTOCOL);
        }
    }
    field(b"a", b"1\t 2\x01\x7f\x80\xff", IGNORED);
    field(b"!#$%&'*+-.^_`|~09az", b"", IGNORED);
}

#[test]
fn section_8_5_connect_is_not_served() {
    let connect = [(":method", "CONNECT"), (":authority", "a:1")];
    let with = |more: &[(&'static str, &'static str)]| [&connect[..], more].concat();
    for fields in [
        with(&[]),
        with(&[(":scheme", "http"), (":path", "/")]),
        with(&[
            (":scheme", "http"),
            (":path", "/"),
            (":protocol", "websocket"),
        ]),
        with(&[(":scheme", "http")]),
        with(&[(":path", "/")]),
    ] {
        for end in [false, true] {
            let head = headers(1, &fields, end);
            check("8.5", SERVER, &[At::Idle], &head, STREAM_PROTOCOL);
        }
    }
}

#[test]
fn rfc_7541_header_blocks() {
    let with = |more: &[u8]| [&block(&REQUEST)[..], more].concat();
    let blocks: [(&str, Vec<u8>); 9] = [
        ("2.3.3, index 0", with(&[0x80])),
        ("2.3.3, past the table", with(&[0xfe])),
        ("4.2, size update at the end", with(&[0x20])),
        (
            "5.1, integer too large",
            with(&[0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
        ),
        ("5.2, string cut", with(&[0x00, 0x05, b'a'])),
        (
            "5.2, EOS",
            with(&[0x00, 0x84, 0xff, 0xff, 0xff, 0xff, 0x00]),
        ),
        ("5.2, padding of zeros", with(&[0x00, 0x81, 0x18, 0x00])),
        (
            "5.2, padding too long",
            with(&[0x00, 0x82, 0x1f, 0xff, 0x00]),
        ),
        (
            "6.3, above the setting",
            [&[0x3f, 0xe2, 0x1f][..], &block(&REQUEST)].concat(),
        ),
    ];
    for (section, fields) in blocks {
        let flags = flag::END_HEADERS | flag::END_STREAM;
        let head = frame(kind::HEADERS, flags, 1, &fields);
        check(section, SERVER, &[At::Idle], &head, COMPRESSION);
        check(section, CLIENT, &[At::Open], &head, COMPRESSION);
    }
}

#[test]
fn section_4_3_blocks_of_streams_that_are_gone_are_decoded() {
    // Incremental indexing on a stream that was reset, and a reference to it on the next.
    {
        let mut peer = Peer::at(Role::Server, At::ResetByUs).unwrap();
        let indexed = [&[0x40, 1, b'x', 1, b'y'][..]].concat();
        peer.feed(&frame(
            kind::HEADERS,
            flag::END_HEADERS | flag::END_STREAM,
            1,
            &indexed,
        ));
        let next = [&block(&REQUEST)[..], &[0xbe]].concat();
        peer.feed(&frame(
            kind::HEADERS,
            flag::END_HEADERS | flag::END_STREAM,
            3,
            &next,
        ));
        assert_eq!(peer.came(), IGNORED);
        assert_eq!(peer.seen[0], "head true");
    }
}

/// What a block behind the acknowledgement of a table of 100 octets comes to.
fn behind_a_smaller_table(role: Role, begin: &[u8]) -> Came {
    let config = Config {
        header_table: 100,
        ..Config::default()
    };
    let mut peer = Peer::silent(role, config);
    let (preface, fields) = match role {
        Role::Server => (&PREFACE[..], &REQUEST[..]),
        Role::Client => (&[][..], &RESPONSE[..]),
    };
    peer.feed(&[preface, &settings(&[])].concat());
    let flags = flag::END_HEADERS | flag::END_STREAM;
    let head = |peer: &mut Peer, stream, begin: &[u8]| {
        if role == Role::Client && peer.machine.takes_streams() {
            peer.open();
        }
        let fields = [begin, &block(fields)].concat();
        peer.feed(&frame(kind::HEADERS, flags, stream, &fields));
    };
    // It does not know yet: 4,096 is allowed and nothing is due.
    head(&mut peer, 1, &[]);
    head(&mut peer, 3, &[0x3f, 0xe1, 0x1f]);
    peer.feed(&frame(kind::SETTINGS, flag::ACK, 0, &[]));
    head(&mut peer, 5, begin);
    // It is due once.
    head(&mut peer, 7, &[]);
    peer.feed(&frame(kind::SETTINGS, flag::ACK, 0, &[]));
    head(&mut peer, 9, &[]);
    peer.came()
}

#[test]
fn section_4_3_1_a_smaller_table_begins_the_next_block() {
    for role in [Role::Client, Role::Server] {
        let came = |begin| behind_a_smaller_table(role, begin);
        assert_eq!(came(&[]), COMPRESSION, "{role:?}");
        assert_eq!(came(&[0x3f, 0x46]), COMPRESSION, "{role:?}, 101 octets");
        assert_eq!(came(&[0x20, 0x3f, 0x46]), COMPRESSION, "{role:?}, 0, 101");
        assert_eq!(came(&[0x3f, 0x45]), IGNORED, "{role:?}, 100 octets");
        assert_eq!(came(&[0x20, 0x3f, 0x45]), IGNORED, "{role:?}, 0 and 100");
        assert_eq!(came(&[0x20]), IGNORED, "{role:?}, nothing");
    }
}
