//! Unary requests whose frames come in any order and in any pieces.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rpc_http2::frame::{flag, kind};
use rpc_http2::hpack::Decoder;
use rpc_testkit::raw::{RawClient, RawReader, frame, message};
use rpc_testkit::serve;

/// A call that has no answer by then will have none.
const HANGS: Duration = Duration::from_secs(20);
const ECHO: &str = "/testkit.v1.Test/Echo";

/// What came back on a stream: the octets of DATA, and `grpc-status`.
type Answers = BTreeMap<u32, (Vec<u8>, Option<String>)>;

async fn answers(reader: &mut RawReader, count: usize) -> Answers {
    let mut decoder = Decoder::new(4096, 16 * 1024, 128);
    let mut answers = Answers::new();
    let mut ended = 0;
    while ended < count {
        let next = tokio::time::timeout(HANGS, reader.next()).await;
        let frame = next.unwrap_or_else(|_| panic!("{ended} of {count} are answered"));
        let frame = frame.expect("the connection goes on");
        let header = frame.header;
        match header.kind {
            kind::HEADERS => {
                let block = decoder.decode(&frame.payload).unwrap();
                let status = block.fields().find(|(name, _)| *name == b"grpc-status");
                let status = status.map(|(_, value)| String::from_utf8_lossy(value).into_owned());
                let answer = answers.entry(header.stream).or_default();
                answer.1 = status.or(answer.1.take());
            }
            kind::DATA => {
                let answer = answers.entry(header.stream).or_default();
                answer.0.extend(&frame.payload);
            }
            kind::GOAWAY => panic!("{frame:?}"),
            _ => continue,
        }
        ended += usize::from(header.flags & flag::END_STREAM != 0);
    }
    answers
}

/// An echo's request: field 2 of `Message` is text, as the testkit has it.
fn body(random: &mut fastrand::Rng) -> Vec<u8> {
    let length = random.u8(0..100);
    let text: Vec<u8> = (0..length).map(|_| random.u8(b'a'..=b'z')).collect();
    if text.is_empty() {
        return Vec::new();
    }
    [&[0x12, length][..], &text].concat()
}

/// The DATA frames of a request in one of the ways that clients send them.
fn data(random: &mut fastrand::Rng, stream: u32, body: &[u8]) -> VecDeque<Vec<u8>> {
    let octets = message(body);
    let end = flag::END_STREAM;
    let data = |flags, octets: &[u8]| frame(kind::DATA, flags, stream, octets);
    match random.u8(0..5) {
        0 => [data(end, &octets)].into(),
        1 | 2 => [data(0, &octets), data(end, &[])].into(),
        3 => {
            let (first, second) = octets.split_at(random.usize(0..=octets.len()));
            [data(0, first), data(end, second)].into()
        }
        _ => {
            let (first, second) = octets.split_at(random.usize(0..=octets.len()));
            [
                data(0, first),
                data(0, second),
                data(0, &[]),
                data(end, &[]),
            ]
            .into()
        }
    }
}

#[tokio::test]
async fn every_order_and_every_piece_is_the_same_call() {
    let server = serve().await;
    let address = server.uri.trim_start_matches("http://");
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut client, mut reader) = RawClient::connect(address, &[]).await.unwrap();
        let mut expected = BTreeMap::new();
        let mut calls = Vec::new();
        let mut octets = Vec::new();
        for _ in 0..random.usize(1..12) {
            // Blocks have the order in which they were encoded.
            let (stream, head) = client.head(ECHO, false);
            octets.extend(head);
            let body = body(&mut random);
            calls.push(data(&mut random, stream, &body));
            expected.insert(stream, (message(&body), Some("0".to_owned())));
            while random.bool() {
                let call = random.usize(0..calls.len());
                octets.extend(calls[call].pop_front().unwrap_or_default());
            }
        }
        while !calls.is_empty() {
            let call = random.usize(0..calls.len());
            match calls[call].pop_front() {
                Some(frame) => octets.extend(frame),
                None => drop(calls.swap_remove(call)),
            }
        }
        while !octets.is_empty() {
            let length = random.usize(1..=octets.len().min(300));
            client.write(&octets[..length]).await.unwrap();
            octets.drain(..length);
            tokio::task::yield_now().await;
        }
        assert_eq!(
            answers(&mut reader, expected.len()).await,
            expected,
            "{seed}"
        );
    }
}

#[tokio::test]
async fn what_is_not_one_message_is_refused_however_it_comes() {
    let server = serve().await;
    let address = server.uri.trim_start_matches("http://");
    let one = message(&[]);
    let two = [&one[..], &one].concat();
    let cut = message(b"cut");
    for pieces in [
        &[&one[..], &one][..],
        &[&two],
        &[&one, &one[..3]],
        &[&cut[..6]],
        &[],
    ] {
        let (mut client, mut reader) = RawClient::connect(address, &[]).await.unwrap();
        let (stream, mut octets) = client.head(ECHO, false);
        for piece in pieces {
            octets.extend(frame(kind::DATA, 0, stream, piece));
        }
        octets.extend(frame(kind::DATA, flag::END_STREAM, stream, &[]));
        // A good call behind it in the same write.
        let (good, call) = client.call(ECHO, &[]);
        octets.extend(call);
        client.write(&octets).await.unwrap();
        let answers = answers(&mut reader, 2).await;
        assert_eq!(answers[&stream].1.as_deref(), Some("13"), "{pieces:?}");
        assert_eq!(answers[&good].1.as_deref(), Some("0"), "{pieces:?}");
    }
}

#[tokio::test]
async fn a_call_that_is_reset_before_its_end_is_not_answered() {
    let server = serve().await;
    let address = server.uri.trim_start_matches("http://");
    let (mut client, mut reader) = RawClient::connect(address, &[]).await.unwrap();
    let (stream, mut octets) = client.head("/testkit.v1.Test/Panic", false);
    octets.extend(frame(kind::DATA, 0, stream, &message(&[])));
    octets.extend(rpc_testkit::raw::reset(stream, 8));
    let (good, call) = client.call(ECHO, &[]);
    octets.extend(call);
    client.write(&octets).await.unwrap();
    let answers = answers(&mut reader, 1).await;
    assert_eq!(answers.keys().collect::<Vec<_>>(), [&good]);
}
