//! gRFC A8 and A9: a peer that is gone is found, nobody is asked more often than it allows, and
//! connections that are idle or old come to their end.

use std::time::Duration;

use rpc_http2::frame::{flag, kind, setting};
use rpc_http2::{Config, ConnectionError, ErrorCode, Keepalive, PingPolicy, Role};

use crate::support::*;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// What a channel has.
const CLIENT: Keepalive = Keepalive {
    time: Duration::from_secs(10),
    timeout: Duration::from_secs(20),
    without_calls: false,
    min_interval: Duration::from_secs(300),
    after_answers: true,
};
/// What a server has.
const SERVER: Keepalive = Keepalive {
    time: Duration::from_secs(7200),
    ..CLIENT
};

fn with(keepalive: Keepalive) -> Config {
    Config {
        keepalive: Some(keepalive),
        ..Config::default()
    }
}

/// Lets time pass second by second; the seconds at which PINGs went out. `answers` says whether they
/// are answered.
fn pass(peer: &mut Peer, seconds: u64, answers: bool) -> Vec<u64> {
    let mut pings = Vec::new();
    for second in 1..=seconds {
        peer.now += SECOND;
        let now = peer.now;
        if peer.machine.next_timeout().is_some_and(|due| due <= now) {
            // The caller looks at it.
            let _ = peer.machine.on_timeout(now);
        }
        for sent in peer.sent() {
            if sent.header.kind == kind::PING && !sent.header.has(flag::ACK) {
                pings.push(second);
                if answers {
                    peer.feed(&frame(kind::PING, flag::ACK, 0, &sent.payload));
                }
            }
        }
    }
    pings
}

/// A call that is answered whole.
fn call(peer: &mut Peer) {
    let key = peer.open();
    let stream = 2 * peer.keys.len() as u32 - 1;
    peer.feed(&headers(stream, &RESPONSE, false));
    peer.feed(&headers(stream, &TRAILERS, true));
    peer.machine.release(key);
    peer.sent();
}

#[test]
fn a_server_that_is_gone_is_found_by_its_next_call_within_half_a_minute() {
    let mut peer = Peer::ready(Role::Client, with(CLIENT));
    call(&mut peer);
    // Without calls it may not be asked.
    assert_eq!(pass(&mut peer, 3600, true), [0; 0]);
    peer.open();
    assert_eq!(pass(&mut peer, 1, false), [1]);
    pass(&mut peer, 19, false);
    assert_eq!(peer.machine.error(), None);
    pass(&mut peer, 1, false);
    assert_eq!(peer.machine.error(), Some(ConnectionError::SILENT));
    // The same in the middle of many calls, none of which gets an answer any more.
    let mut peer = Peer::ready(Role::Client, with(CLIENT));
    call(&mut peer);
    for _ in 0..30 {
        assert_eq!(peer.machine.error(), None);
        let key = peer.open();
        pass(&mut peer, 1, false);
        peer.machine.release(key);
    }
    assert_eq!(peer.machine.error(), Some(ConnectionError::SILENT));
}

#[test]
fn an_answer_to_anything_shows_that_a_peer_is_there() {
    for answer in [
        frame(kind::SETTINGS, 0, 0, &[]),
        headers(1, &RESPONSE, false),
        window_update(0, 1000),
    ] {
        let mut peer = Peer::ready(Role::Client, with(CLIENT));
        peer.open();
        assert_eq!(pass(&mut peer, 20, false), [10]);
        peer.feed(&answer);
        pass(&mut peer, 25, false);
        assert_eq!(peer.machine.error(), None);
    }
}

/// What servers that do not know of our setting count, by gRFC A8 as grpc-go does.
#[derive(Default)]
struct Strikes {
    has_sent: bool,
    last: Option<u64>,
    strikes: u32,
}

impl Strikes {
    fn ping(&mut self, second: u64, has_calls: bool) {
        let least = if has_calls { 300 } else { 7200 };
        let early = self.last.is_some_and(|last| second - last < least);
        if std::mem::take(&mut self.has_sent) {
            self.strikes = 0;
        } else if early {
            self.strikes += 1;
        }
        self.last = Some(second);
    }
}

#[test]
fn no_server_is_asked_more_often_than_a8_lets_everybody() {
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..50 {
        let mut peer = Peer::ready(Role::Client, with(CLIENT));
        let (mut strikes, mut open, mut pings) = (Strikes::default(), Vec::new(), 0);
        // What the server has sent arrives some time later, as does what it was sent.
        for second in 0..5_000 {
            match random.u8(0..40) {
                0 => {
                    let key = peer.open();
                    open.push((key, 2 * peer.keys.len() as u32 - 1));
                }
                1 if !open.is_empty() => {
                    let (key, stream) = open.swap_remove(random.usize(0..open.len()));
                    peer.feed(&headers(stream, &RESPONSE, true));
                    peer.machine.release(key);
                    strikes.has_sent = true;
                }
                2 if !open.is_empty() => {
                    let (key, _) = open.swap_remove(random.usize(0..open.len()));
                    peer.machine.release(key);
                }
                _ => {}
            }
            for _ in pass(&mut peer, 1, true) {
                strikes.ping(second, !open.is_empty());
                pings += 1;
            }
            assert_eq!(strikes.strikes, 0, "at {second} s");
        }
        assert!(pings > 3, "{pings}");
    }
    // A stream on which nothing happens for hours.
    let mut peer = Peer::ready(Role::Client, with(CLIENT));
    peer.open();
    assert_eq!(pass(&mut peer, 1000, true), [10, 310, 610, 910]);
}

/// What comes before the answer to a PING may have been sent before the server had seen it.
#[test]
fn what_crosses_a_ping_gives_no_right_to_another() {
    let mut peer = Peer::ready(Role::Client, with(CLIENT));
    peer.open();
    assert_eq!(pass(&mut peer, 10, false), [10]);
    peer.feed(&headers(1, &RESPONSE, false));
    peer.feed(&frame(kind::PING, flag::ACK, 0, b"keepaliv"));
    assert_eq!(pass(&mut peer, 290, true), [0; 0]);
    peer.feed(&headers(1, &TRAILERS, true));
    peer.open();
    assert_eq!(pass(&mut peer, 11, true), [10]);
}

#[test]
fn a_server_that_allows_it_is_asked_without_calls_as_well() {
    let mut peer = Peer::ready(Role::Client, with(CLIENT));
    peer.feed(&settings(&[(setting::PING_INTERVAL, 5_000)]));
    peer.sent();
    assert_eq!(pass(&mut peer, 35, true), [10, 20, 30]);
    assert_eq!(pass(&mut peer, 10, false), [5]);
    pass(&mut peer, 20, false);
    assert_eq!(peer.machine.error(), Some(ConnectionError::SILENT));
    // And no more often than it says.
    let mut peer = Peer::ready(Role::Client, with(CLIENT));
    peer.feed(&settings(&[(setting::PING_INTERVAL, 60_000)]));
    peer.sent();
    assert_eq!(pass(&mut peer, 200, true), [60, 120, 180]);
}

#[test]
fn the_settings_say_how_often_a_server_may_be_asked_and_a_client_asks() {
    for (role, keepalive, said) in [
        (Role::Server, SERVER, 5_000u32),
        (Role::Client, CLIENT, 10_000),
    ] {
        let mut peer = Peer::silent(role, with(keepalive));
        let sent = peer.sent();
        let (entries, _) = sent[0].payload.as_chunks::<6>();
        let found = entries
            .iter()
            .find(|entry| entry[..2] == setting::PING_INTERVAL.to_be_bytes());
        assert_eq!(
            found.map(|entry| entry[2..].to_vec()),
            Some(said.to_be_bytes().to_vec())
        );
    }
}

#[test]
fn a_client_that_is_gone_is_let_go() {
    let mut peer = Peer::ready(Role::Server, with(SERVER));
    peer.feed(&headers(1, &REQUEST, true));
    assert_eq!(pass(&mut peer, 7_210, false), [7_200]);
    pass(&mut peer, 10, false);
    assert_eq!(peer.machine.error(), Some(ConnectionError::SILENT));
    // One that has said that it asks every 10 s is missed earlier.
    let mut peer = Peer::ready(Role::Server, with(SERVER));
    peer.feed(&settings(&[(setting::PING_INTERVAL, 10_000)]));
    peer.sent();
    assert_eq!(pass(&mut peer, 40, false), [30]);
    pass(&mut peer, 10, false);
    assert_eq!(peer.machine.error(), Some(ConnectionError::SILENT));
}

/// PINGs so far apart; how many it takes until they are too many.
fn pings(peer: &mut Peer, apart: Duration, between: impl Fn(&mut Peer)) -> Option<u32> {
    for count in 1..=100 {
        peer.now += apart;
        peer.feed(&frame(kind::PING, 0, 0, &[1; 8]));
        let sent = peer.sent();
        if peer.machine.error().is_some() {
            let goaway = sent.last().unwrap();
            assert_eq!(goaway.header.kind, kind::GOAWAY);
            assert_eq!(
                goaway.payload[4..8],
                ErrorCode::ENHANCE_YOUR_CALM.0.to_be_bytes()
            );
            assert_eq!(&goaway.payload[8..], b"too_many_pings");
            return Some(count);
        }
        between(peer);
    }
    None
}

#[test]
fn clients_that_ask_too_often_are_told_so() {
    let server = || Peer::ready(Role::Server, with(SERVER));
    let streaming = || {
        let mut peer = server();
        peer.feed(&headers(1, &REQUEST, false));
        peer
    };
    let nothing = |_: &mut Peer| {};
    // The first is free, two strikes are borne.
    assert_eq!(pings(&mut server(), MINUTE, nothing), Some(4));
    assert_eq!(pings(&mut streaming(), MINUTE, nothing), Some(4));
    assert_eq!(pings(&mut server(), 5 * MINUTE, nothing), Some(4));
    assert_eq!(pings(&mut streaming(), 5 * MINUTE, nothing), None);
    assert_eq!(pings(&mut server(), 120 * MINUTE, nothing), None);
    // What is sent to the client begins the count again.
    let answers = |peer: &mut Peer| {
        let stream = 2 * peer.keys.len() as u32 + 101;
        peer.feed(&headers(stream, &REQUEST, true));
        let last = peer.keys.len() - 1;
        peer.respond(last, true);
        peer.machine.release(peer.keys[last]);
        peer.sent();
    };
    assert_eq!(
        pings(&mut server(), Duration::from_millis(10), answers),
        None
    );
    // Without the limit, and with another one.
    let off = |pings| {
        let mut config = with(SERVER);
        config.limits.pings = pings;
        Peer::ready(Role::Server, config)
    };
    assert_eq!(pings(&mut off(None), SECOND, nothing), None);
    let policy = PingPolicy {
        min_interval: SECOND,
        without_calls: true,
        ..PingPolicy::default()
    };
    assert_eq!(pings(&mut off(Some(policy)), SECOND, nothing), None);
    assert_eq!(pings(&mut off(Some(policy)), SECOND / 2, nothing), Some(4));
    // A client that knows what was announced may do it.
    let mut knows = server();
    knows.feed(&settings(&[(setting::PING_INTERVAL, 10_000)]));
    knows.sent();
    assert_eq!(pings(&mut knows, 5 * SECOND, nothing), None);
    assert_eq!(pings(&mut knows, SECOND, nothing), Some(3));
}

#[test]
fn a_client_knows_that_it_has_asked_too_often() {
    for (code, debug, too_often) in [
        (11u32, &b"too_many_pings"[..], true),
        (11, b"calm down", false),
        (0, b"too_many_pings", false),
    ] {
        let mut peer = Peer::ready(Role::Client, with(CLIENT));
        let payload = [&0u32.to_be_bytes()[..], &code.to_be_bytes(), debug].concat();
        peer.feed(&frame(kind::GOAWAY, 0, 0, &payload));
        assert_eq!(peer.machine.has_pinged_too_often(), too_often);
    }
}

/// Whether the end was announced, and why.
fn goodbye(peer: &mut Peer) -> Option<Vec<u8>> {
    let now = peer.now;
    if peer.machine.next_timeout().is_some_and(|due| due <= now) {
        // The caller looks at it.
        let _ = peer.machine.on_timeout(now);
    }
    let sent = peer.sent();
    let goaway = sent.iter().find(|sent| sent.header.kind == kind::GOAWAY)?;
    Some(goaway.payload[8..].to_vec())
}

/// The first second of a range at which the end is announced.
fn first_goodbye(peer: &mut Peer, seconds: u64) -> Option<(u64, Vec<u8>)> {
    (1..=seconds).find_map(|second| {
        peer.now += SECOND;
        goodbye(peer).map(|why| (second, why))
    })
}

#[test]
fn an_idle_connection_is_asked_to_go() {
    let config = Config {
        max_idle: Some(100 * SECOND),
        ..Config::default()
    };
    let idle = b"max_idle".to_vec();
    let mut peer = Peer::ready(Role::Server, config);
    assert_eq!(first_goodbye(&mut peer, 1000), Some((100, idle.clone())));
    // A stream keeps it for as long as it lives, and PINGs do not.
    let mut peer = Peer::ready(Role::Server, config);
    peer.feed(&headers(1, &REQUEST, true));
    assert_eq!(first_goodbye(&mut peer, 1000), None);
    peer.respond(0, true);
    peer.machine.release(peer.keys[0]);
    peer.sent();
    let (second, why) = first_goodbye(&mut peer, 1000).unwrap();
    assert!((100..=125).contains(&second) && why == idle, "{second}");
    // Calls every now and then.
    let mut peer = Peer::ready(Role::Server, config);
    for call in 0..50 {
        assert_eq!(first_goodbye(&mut peer, 90), None, "{call}");
        peer.feed(&headers(2 * call + 1, &REQUEST, true));
        let last = peer.keys.len() - 1;
        peer.respond(last, true);
        peer.machine.release(peer.keys[last]);
        peer.sent();
    }
    // The client hears it and goes, and so does one that is gone already.
    peer.now += 200 * SECOND;
    while goodbye(&mut peer).is_none() {
        peer.now += SECOND;
    }
    assert!(!peer.machine.is_finished());
    peer.now += SECOND;
    goodbye(&mut peer);
    assert!(peer.machine.is_finished());
}

#[test]
fn an_old_connection_ends_with_its_streams_or_after_its_grace() {
    let config = Config {
        max_age: Some(100 * SECOND),
        max_age_grace: Some(50 * SECOND),
        ..Config::default()
    };
    let age = b"max_age".to_vec();
    let mut peer = Peer::ready(Role::Server, config);
    peer.feed(&headers(1, &REQUEST, true));
    assert_eq!(first_goodbye(&mut peer, 1000), Some((100, age.clone())));
    // What is on its way is taken, and goes on until the grace is over.
    peer.feed(&headers(3, &REQUEST, true));
    assert_eq!(peer.keys.len(), 2);
    let (second, last) = first_goodbye(&mut peer, 1000).unwrap();
    assert_eq!((second, last.is_empty()), (1, true));
    let (second, why) = first_goodbye(&mut peer, 1000).unwrap();
    assert!(second == 49 && why.starts_with(b"the connection is as old"));
    assert!(peer.machine.is_finished());
    // Without streams it is over at once, and without a grace when they are.
    let mut peer = Peer::ready(
        Role::Server,
        Config {
            max_age_grace: None,
            ..config
        },
    );
    peer.feed(&headers(1, &REQUEST, true));
    assert_eq!(first_goodbye(&mut peer, 1000), Some((100, age)));
    first_goodbye(&mut peer, 100_000);
    assert!(!peer.machine.is_finished() && peer.machine.error().is_none());
    peer.respond(0, true);
    peer.machine.release(peer.keys[0]);
    peer.sent();
    assert!(peer.machine.is_finished());
}
