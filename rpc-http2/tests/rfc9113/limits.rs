//! Each limit: the attack that it stops, the same from somebody who means well, and the attack
//! without the limit.

use std::time::Duration;

use rpc_http2::frame::{PREFACE, flag, kind, setting};
use rpc_http2::hpack::{Block, Decoder};
use rpc_http2::{Config, ErrorCode, Limits, Payload, Role, StreamKey};

use crate::support::*;

const CALM: Came = Came::Connection(ErrorCode::ENHANCE_YOUR_CALM);

fn config(change: impl FnOnce(&mut Limits)) -> Config {
    let mut config = Config::default();
    change(&mut config.limits);
    config
}

/// Repeats an act on a server until it has had enough; how often that was.
fn repeat(config: Config, times: u32, mut act: impl FnMut(&mut Peer, u32)) -> (Peer, u32) {
    let mut peer = Peer::ready(Role::Server, config);
    for number in 0..times {
        if peer.machine.error().is_some() {
            return (peer, number);
        }
        act(&mut peer, 2 * number + 1);
        for key in std::mem::take(&mut peer.keys) {
            peer.machine.release(key);
        }
    }
    (peer, times)
}

fn rapid_reset(peer: &mut Peer, stream: u32) {
    peer.feed(&headers(stream, &REQUEST, true));
    peer.feed(&reset(stream, 8));
    peer.sent();
}

#[test]
fn early_resets() {
    let (peer, acts) = repeat(config(|_| {}), 5_000, rapid_reset);
    assert_eq!((peer.calmed(), acts), (true, 1_000));
    // One stream in four, at once.
    let (mut peer, acts) = repeat(config(|_| {}), 20_000, |peer, stream| {
        peer.feed(&headers(stream, &REQUEST, true));
        if stream % 8 == 1 {
            peer.feed(&reset(stream, 8));
        } else {
            let last = peer.keys.len() - 1;
            peer.respond(last, true);
        }
        peer.sent();
    });
    assert_eq!((peer.machine.error(), acts), (None, 20_000));
    peer.sent();
    // The same number over a longer time.
    let (peer, acts) = repeat(config(|_| {}), 5_000, |peer, stream| {
        peer.now += Duration::from_millis(12);
        rapid_reset(peer, stream);
    });
    assert_eq!((peer.machine.error(), acts), (None, 5_000));
    let (peer, acts) = repeat(
        config(|limits| limits.early_resets = None),
        5_000,
        rapid_reset,
    );
    assert_eq!((peer.machine.error(), acts), (None, 5_000));
}

fn made_reset(peer: &mut Peer, stream: u32) {
    peer.feed(&headers(stream, &REQUEST, false));
    peer.feed(&window_update(stream, 0));
    peer.sent();
}

#[test]
fn caused_resets() {
    let (peer, acts) = repeat(config(|_| {}), 1_000, made_reset);
    assert_eq!((peer.calmed(), acts), (true, 200));
    // Late frames on streams that this side has reset.
    let (peer, acts) = repeat(config(|_| {}), 10_000, |peer, stream| {
        peer.feed(&headers(stream, &REQUEST, false));
        peer.machine.reset(peer.keys[0], ErrorCode::CANCEL);
        peer.feed(&data(stream, 10, true));
        peer.feed(&window_update(stream, 1000));
        peer.sent();
        peer.now += Duration::from_millis(1);
    });
    assert_eq!((peer.machine.error(), acts), (None, 10_000));
    let (peer, acts) = repeat(
        config(|limits| limits.caused_resets = None),
        1_000,
        made_reset,
    );
    assert_eq!((peer.machine.error(), acts), (None, 1_000));
}

#[test]
fn unsent_answers() {
    let ping = |peer: &mut Peer, _| peer.feed(&frame(kind::PING, 0, 0, &[1; 8]));
    let any = || config(|limits| limits.pings = None);
    let (mut peer, acts) = repeat(any(), 5_000, ping);
    assert_eq!((peer.came(), acts), (CALM, 1_001));
    // Each is read before the next.
    let (peer, acts) = repeat(any(), 5_000, |peer, number| {
        ping(peer, number);
        peer.sent();
    });
    assert_eq!((peer.machine.error(), acts), (None, 5_000));
    let off = config(|limits| (limits.pings, limits.unsent_answers) = (None, None));
    let (peer, acts) = repeat(off, 5_000, ping);
    assert_eq!((peer.machine.error(), acts), (None, 5_000));
}

#[test]
fn idle_frames() {
    for idle in [
        frame(kind::PRIORITY, 0, 1, &[0; 5]),
        frame(0xee, 0, 0, &[]),
        frame(kind::SETTINGS, flag::ACK, 0, &[]),
        frame(kind::PING, flag::ACK, 0, &[9; 8]),
    ] {
        let act = |peer: &mut Peer, _| peer.feed(&idle);
        let (mut peer, acts) = repeat(config(|_| {}), 50_000, act);
        assert_eq!(peer.came(), CALM);
        assert!((19_900..=20_000).contains(&acts), "{acts}");
        // A thousand a second.
        let (peer, acts) = repeat(config(|_| {}), 50_000, |peer, _| {
            peer.now += Duration::from_millis(1);
            peer.feed(&idle);
        });
        assert_eq!((peer.machine.error(), acts), (None, 50_000));
        let (peer, acts) = repeat(config(|limits| limits.idle_frames = None), 50_000, act);
        assert_eq!((peer.machine.error(), acts), (None, 50_000));
    }
}

#[test]
fn informational_responses_count_as_idle() {
    let mut peer = Peer::at(Role::Client, At::Open).unwrap();
    let early = headers(1, &[(":status", "103")], false);
    for _ in 0..30_000 {
        peer.feed(&early);
    }
    assert_eq!(peer.came(), CALM);
}

#[test]
fn heads_that_are_ignored_count_as_idle() {
    // On a stream that this side has reset.
    let mut peer = Peer::at(Role::Server, At::ResetByUs).unwrap();
    for _ in 0..30_000 {
        peer.feed(&headers(1, &TRAILERS, true));
    }
    assert_eq!(peer.came(), CALM);
    // And on those that come behind the last GOAWAY.
    let mut peer = Peer::at(Role::Server, At::Open).unwrap();
    let now = peer.now;
    peer.machine.shut_down(now);
    peer.machine
        .on_timeout(now + Duration::from_secs(2))
        .unwrap();
    for number in 1..30_000 {
        peer.feed(&headers(2 * number + 1, &REQUEST, true));
    }
    assert_eq!(peer.keys.len(), 1);
    assert!(peer.calmed());
}

#[test]
fn empty_data() {
    let begin = |peer: &mut Peer| peer.feed(&headers(1, &REQUEST, false));
    let attack = |limits: fn(&mut Limits)| {
        let mut peer = Peer::ready(Role::Server, config(limits));
        begin(&mut peer);
        for _ in 0..1_000 {
            peer.feed(&data(1, 0, false));
        }
        peer.came()
    };
    assert_eq!(attack(|_| {}), CALM);
    assert_eq!(attack(|limits| limits.empty_data = None), Came::Ignored);
    // An empty frame every now and then, and one at the end of each stream.
    let mut peer = Peer::ready(Role::Server, Config::default());
    begin(&mut peer);
    for _ in 0..10_000 {
        peer.feed(&data(1, 0, false));
        peer.feed(&data(1, 1, false));
    }
    assert_eq!(peer.came(), Came::Ignored);
}

#[test]
fn header_blocks() {
    let attack = |limits: fn(&mut Limits), size: usize, count: usize| {
        let mut peer = Peer::ready(Role::Server, config(limits));
        let (head, piece) = (block(&REQUEST), [0, 1, b'a', 1, b'b'].repeat(size / 5));
        peer.feed(&frame(kind::HEADERS, flag::END_STREAM, 1, &head));
        for _ in 0..count {
            peer.feed(&frame(kind::CONTINUATION, 0, 1, &piece));
        }
        peer.feed(&frame(kind::CONTINUATION, flag::END_HEADERS, 1, &[]));
        peer
    };
    let off = |limits: &mut Limits| {
        limits.header_block = usize::MAX;
        limits.continuations = u32::MAX;
    };
    assert_eq!(attack(|_| {}, 0, 8).came(), CALM);
    assert_eq!(attack(|_| {}, 16_000, 5).came(), CALM);
    assert_eq!(attack(off, 0, 100).came(), Came::Ignored);
    assert_eq!(attack(off, 16_000, 20).came(), Came::Ignored);
    // 12 KiB in three pieces.
    let mut peer = attack(|_| {}, 600, 7);
    assert_eq!(peer.came(), Came::Ignored);
    assert_eq!(peer.seen[1..2], ["head true"]);
}

#[test]
fn the_time_of_header_blocks_and_of_the_handshake() {
    let mut peer = Peer::ready(Role::Server, Config::default());
    peer.feed(&frame(kind::HEADERS, 0, 1, &block(&REQUEST)));
    let due = peer.machine.next_timeout().unwrap();
    assert_eq!(due, peer.now + Duration::from_secs(5));
    assert!(
        peer.machine
            .on_timeout(due - Duration::from_millis(1))
            .is_ok()
    );
    assert!(peer.machine.on_timeout(due).is_err());
    assert_eq!(peer.came(), CALM);
    for role in [Role::Client, Role::Server] {
        let mut peer = Peer::silent(role, Config::default());
        peer.feed(if role == Role::Server {
            &PREFACE[..]
        } else {
            &[]
        });
        let due = peer.machine.next_timeout().unwrap();
        assert_eq!(due, peer.now + Duration::from_secs(10));
        assert!(peer.machine.on_timeout(due).is_err());
        assert_eq!(peer.came(), Came::Connection(ErrorCode::SETTINGS_TIMEOUT));
    }
}

#[test]
fn header_lists_that_are_too_large_are_said_to_be() {
    // What they are answered with is the user's: the connection goes on.
    let many: Vec<(String, String)> = (0..200)
        .map(|number| (format!("a{number}"), "b".to_owned()))
        .collect();
    let many: Vec<_> = many
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    let long = "x".repeat(17_000);
    for more in [many, vec![("a", &*long)]] {
        let mut peer = Peer::ready(Role::Server, Config::default());
        let fields = [&REQUEST[..], &more].concat();
        peer.feed(&headers(1, &fields, true));
        assert_eq!(peer.oversized, [true]);
        assert_eq!(peer.came(), Came::Ignored);
    }
    let mut peer = Peer::ready(Role::Server, Config::default());
    let fields = [&REQUEST[..], &[("a", "b"); 100]].concat();
    peer.feed(&headers(1, &fields, true));
    assert_eq!(peer.oversized, [false]);
}

/// So many fields, each another one.
fn distinct(count: u32, first: u8) -> Vec<u8> {
    let field = |number| {
        let mut field = literal(format!("n{number:06}").as_bytes(), b"v");
        field[0] = first;
        field
    };
    (0..count).flat_map(field).collect()
}

#[test]
fn any_number_of_fields_takes_no_more_than_the_limit() {
    let limits = |block: Block<'_>| {
        let size: usize = block
            .fields()
            .map(|(name, value)| name.len() + value.len() + 32)
            .sum();
        assert!(block.oversized && size <= 16_384 && block.fields().count() <= 128);
    };
    // Without the table and with it.
    for first in [0x00, 0x10, 0x40] {
        let fields = distinct(30_000, first);
        let mut decoder = Decoder::new(4096, 16_384, 128);
        for _ in 0..3 {
            limits(decoder.decode(&fields).unwrap());
        }
        let after = decoder.decode(&[0x82]).unwrap();
        assert!(!after.oversized);
        // The same on the wire.
        let off = config(|limits| {
            limits.header_block = usize::MAX;
            limits.continuations = u32::MAX;
        });
        for (config, taken) in [(off, true), (Config::default(), false)] {
            let mut peer = Peer::ready(Role::Server, config);
            peer.feed(&frame(kind::HEADERS, flag::END_STREAM, 1, &block(&REQUEST)));
            let mut passed = 0;
            for piece in fields.chunks(16_000) {
                peer.feed(&frame(kind::CONTINUATION, 0, 1, piece));
                if peer.machine.error().is_none() {
                    passed += piece.len();
                }
            }
            peer.feed(&frame(kind::CONTINUATION, flag::END_HEADERS, 1, &[]));
            if taken {
                assert_eq!(peer.oversized, [true]);
                assert_eq!(peer.came(), Came::Ignored);
            } else {
                assert!(passed <= 64 * 1024, "{passed}");
                assert_eq!(peer.came(), CALM);
            }
        }
    }
}

/// A frame with as many windows as it has room for, the last of which is the default.
fn many_windows(count: u32) -> Vec<u8> {
    let windows = (1..count).map(|number| (setting::INITIAL_WINDOW_SIZE, number));
    let last = (setting::INITIAL_WINDOW_SIZE, 65_535);
    settings(&windows.chain([last]).collect::<Vec<_>>())
}

#[test]
fn settings_with_many_entries() {
    let attack = |limits: fn(&mut Limits)| {
        let mut peer = Peer::ready(Role::Server, config(limits));
        peer.feed(&many_windows(10_922));
        peer.came()
    };
    assert_eq!(attack(|_| {}), CALM);
    assert_eq!(attack(|limits| limits.settings = None), Came::Ignored);
    // All that there are, thrice.
    let all: Vec<(u16, u32)> = (1..=16).map(|number| (number, 16_384)).collect();
    let all: Vec<_> = all.into_iter().filter(|(one, _)| *one != 2).collect();
    let mut peer = Peer::ready(Role::Server, Config::default());
    peer.feed(&settings(&[&all[..], &all, &all].concat()));
    assert_eq!(peer.came(), Came::Ignored);
}

/// Section 6.5.3: the values are taken in the order that they have, with nothing between them.
#[test]
fn of_the_windows_of_one_frame_the_last_counts_and_none_may_be_too_large() {
    let window = |values: &[u32]| {
        let mut peer = Peer::ready(Role::Server, Config::default());
        peer.feed(&headers(1, &REQUEST, true));
        peer.respond(0, false);
        // The window is 100 octets more than what streams begin with.
        peer.feed(&window_update(1, 100));
        let list: Vec<_> = values
            .iter()
            .map(|value| (setting::INITIAL_WINDOW_SIZE, *value))
            .collect();
        peer.feed(&settings(&list));
        if peer.machine.error().is_some() {
            return Err(peer.came());
        }
        let body = vec![7; 20_000];
        peer.machine
            .send(peer.keys[0], Payload::Copied(&body), true);
        let sent = peer.sent();
        let data = sent.iter().filter(|sent| sent.header.kind == kind::DATA);
        Ok(data.map(|sent| sent.header.length).sum::<u32>())
    };
    const LARGEST: u32 = 0x7fff_ffff;
    assert_eq!(window(&[1]), Ok(101));
    assert_eq!(window(&[5, 10, 3]), Ok(103));
    assert_eq!(window(&[0, LARGEST - 100, 7]), Ok(107));
    // 2^31 on the way is as wrong as at the end.
    assert_eq!(window(&[LARGEST - 99, 7]), Err(FLOW));
    assert_eq!(window(&[7, LARGEST - 99]), Err(FLOW));
    assert_eq!(window(&[LARGEST + 1, 7]), Err(FLOW));
    assert_eq!(window(&[7, LARGEST + 1]), Err(FLOW));
}

/// Windows of many streams that change with each frame.
#[test]
fn changes_of_windows_cost_their_peer_as_much_as_there_are_streams() {
    const STREAMS: usize = 25_600;
    let mut client = Peer::ready(Role::Client, Config::default());
    for _ in 0..STREAMS {
        client.open();
    }
    client.sent();
    let mut frames = 0;
    while client.machine.error().is_none() {
        client.feed(&settings(&[(
            setting::INITIAL_WINDOW_SIZE,
            70_000 + frames % 2,
        )]));
        client.sent();
        frames += 1;
    }
    assert!(client.calmed() && frames <= 20_000 / 100, "{frames}");
}

/// What a caller has who gives up all its calls: each is looked at, and then reset at this age.
fn gives_up(peer: &mut Peer, age: Duration, rate: u32, seconds: u32) -> u32 {
    let gap = Duration::from_secs(1) / rate;
    let mut open: std::collections::VecDeque<(std::time::Instant, u32, StreamKey)> =
        std::collections::VecDeque::new();
    let start = peer.now;
    for call in 0..rate * seconds {
        peer.now = start + gap * call;
        while open
            .front()
            .is_some_and(|(since, ..)| peer.now - *since >= age)
        {
            let (_, stream, key) = open.pop_front().unwrap();
            peer.feed(&reset(stream, 8));
            peer.machine.release(key);
        }
        let stream = 2 * call + 1;
        peer.feed(&headers(stream, &REQUEST, true));
        peer.sent();
        open.push_back((peer.now, stream, peer.keys.remove(0)));
        if peer.machine.error().is_some() {
            return call;
        }
    }
    rate * seconds
}

/// All calls are given up, at each rate that the places of one connection have room for.
#[test]
fn callers_that_give_up_every_call_keep_their_connection() {
    let ms = Duration::from_millis;
    for (age, rate) in [
        (ms(1), 1_000),
        (ms(1), 1_900),
        (ms(8), 5_000),
        (ms(10), 20_000),
        (ms(20), 12_000),
        (ms(50), 5_000),
        (ms(100), 2_500),
        (ms(900), 250),
    ] {
        let mut peer = Peer::ready(Role::Server, Config::default());
        assert_eq!(gives_up(&mut peer, age, rate, 10), rate * 10, "{age:?}");
        assert_eq!(peer.machine.error(), None);
    }
    // All at once, and then the next as many.
    let mut peer = Peer::ready(Role::Server, Config::default());
    for round in 0..100 {
        let streams = (0..250).map(|number| 2 * (250 * round + number) + 1);
        streams
            .clone()
            .for_each(|stream| peer.feed(&headers(stream, &REQUEST, true)));
        peer.now += ms(100);
        streams.for_each(|stream| peer.feed(&reset(stream, 8)));
        for key in std::mem::take(&mut peer.keys) {
            peer.machine.release(key);
        }
        peer.sent();
    }
    assert_eq!(peer.machine.error(), None);
}

/// The attack is ended however it is dealt out, as long as it is more than honest callers can be.
#[test]
fn resets_that_are_faster_than_callers_can_be_end_their_connection() {
    for pause in [0, 1, 2, 3, 5] {
        let mut peer = Peer::ready(Role::Server, Config::default());
        let (start, mut stream) = (peer.now, 1);
        while peer.machine.error().is_none() {
            let streams = (0..256).map(|number| stream + 2 * number);
            streams
                .clone()
                .for_each(|stream| peer.feed(&headers(stream, &REQUEST, true)));
            peer.now += Duration::from_millis(pause);
            streams.for_each(|stream| peer.feed(&reset(stream, 8)));
            for key in std::mem::take(&mut peer.keys) {
                peer.machine.release(key);
            }
            peer.sent();
            stream += 2 * 256;
            assert!(peer.now - start < Duration::from_secs(2), "{pause} ms");
        }
        assert!(peer.calmed());
    }
}

/// A deadline that passes on both sides: the answer and the reset meet on their way.
#[test]
fn resets_that_meet_their_answers_are_no_attack() {
    let mut peer = Peer::ready(Role::Server, Config::default());
    for call in 0..50_000 {
        let stream = 2 * call + 1;
        peer.feed(&headers(stream, &REQUEST, true));
        peer.respond(0, true);
        peer.machine.release(peer.keys.remove(0));
        peer.feed(&reset(stream, 8));
        peer.sent();
    }
    assert_eq!(peer.machine.error(), None);
    // One for each stream, and no more.
    for _ in 0..50_000 {
        peer.feed(&reset(1, 8));
    }
    assert!(peer.calmed());
}

/// Whoever waits for the peer's limit and gives up leaves at once and wholly.
#[test]
fn calls_that_wait_and_are_given_up_leave_nothing() {
    const CALLS: u32 = 20_000;
    let mut client = Peer::ready(Role::Client, Config::default());
    client.feed(&settings(&[(setting::MAX_CONCURRENT_STREAMS, 1)]));
    let first = client.open();
    for _ in 0..3 {
        for _ in 0..CALLS {
            client.open();
        }
        assert_eq!(client.machine.stream_count(), CALLS as usize + 1);
        for key in client.keys.split_off(1) {
            client.machine.release(key);
        }
        assert_eq!(client.machine.stream_count(), 1);
        assert!(client.machine.places() <= 64);
    }
    // The next one is the next.
    let next = client.open();
    client.machine.reset(first, ErrorCode::CANCEL);
    client.machine.release(first);
    assert!(!client.machine.is_waiting(next));
}

/// A stream that wants to send and is given up leaves the list of those that do, whether or not the
/// peer ever gives it its turn.
#[test]
fn senders_without_a_window_that_are_given_up_leave_nothing() {
    let mut client = Peer::ready(Role::Client, Config::default());
    let body = bytes::Bytes::from(vec![7; 70_000]);
    for round in 0..20_000 {
        let key = client.open();
        let body = Payload::Shared(body.clone());
        client.machine.send(key, body, false);
        client.machine.room(key);
        client.machine.release(key);
        if round % 100 == 0 {
            client.sent();
        }
    }
    client.sent();
    let text = format!("{:?}", client.machine);
    let keys = text.matches("StreamKey").count();
    assert!(keys < 1_000, "{keys}");
}
