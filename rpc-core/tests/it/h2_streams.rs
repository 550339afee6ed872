//! Streams with the h2 crate as client and as server, over a wire that cuts what it carries anywhere,
//! with windows from none to large and messages cut into frames at random.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use rpc_core::server::{Server, Service};
use rpc_core::{Channel, Codec, Method, RecvStream};
use tokio::task::JoinSet;

use crate::h2_crate::{framed, h2_client, h2_server, join, read_all, send_all, window};

const CUT_PATH: &str = "/any.Streams/Cut";
const JOIN_PATH: &str = "/any.Streams/Join";
const CHAT_PATH: &str = "/any.Streams/Chat";

/// A message in pieces, as [`cut`] makes them.
const CUT: Method<Bytes, Bytes> = Method::server_streaming(CUT_PATH, Codec::raw(), Codec::raw());
/// All messages in one.
const JOIN: Method<Bytes, Bytes> = Method::client_streaming(JOIN_PATH, Codec::raw(), Codec::raw());
/// Each message back while others come.
const CHAT: Method<Bytes, Bytes> = Method::bidi_streaming(CHAT_PATH, Codec::raw(), Codec::raw());

/// The trailer that says how many messages the handler has seen or made.
const COUNT: &str = "x-count";

/// Pieces of any length, always the same for the same length of the whole.
fn cut(whole: &Bytes) -> Vec<Bytes> {
    let mut random = fastrand::Rng::with_seed(whole.len() as u64);
    let mut rest = whole.clone();
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let most = [1, 100, 20_000][random.usize(..3)].max(rest.len() / 20);
        pieces.push(rest.split_to(random.usize(..=most).min(rest.len())));
    }
    pieces
}

/// One stream of requests, and what a peer has to answer.
#[derive(Clone)]
struct Case {
    path: &'static str,
    requests: Vec<Bytes>,
    responses: Vec<Bytes>,
    count: usize,
}

impl Case {
    fn new(random: &mut fastrand::Rng, window: u32) -> Self {
        let most = if window < 100 { 300 } else { 40_000 };
        let path = [CUT_PATH, JOIN_PATH, CHAT_PATH][random.usize(..3)];
        let requests = if path == CUT_PATH {
            1
        } else {
            random.usize(..8)
        };
        let requests: Vec<Bytes> = (0..requests)
            .map(|_| {
                let most = [0, 50, most][random.usize(..3)];
                let size = random.usize(..=most);
                std::iter::repeat_with(|| random.u8(..))
                    .take(size)
                    .collect()
            })
            .collect();
        let responses = match path {
            CUT_PATH => cut(&requests[0]),
            JOIN_PATH => vec![requests.concat().into()],
            _ => requests.clone(),
        };
        let count = match path == CUT_PATH {
            true => responses.len(),
            false => requests.len(),
        };
        Self {
            path,
            requests,
            responses,
            count,
        }
    }

    fn octets(messages: &[Bytes]) -> Bytes {
        let frames: Vec<Bytes> = messages.iter().map(|message| framed(message)).collect();
        frames.concat().into()
    }
}

/// Sends octets in frames of any size.
async fn send_cut(stream: &mut h2::SendStream<Bytes>, mut data: Bytes, random: &mut fastrand::Rng) {
    while !data.is_empty() {
        let most = [1, 7, 1_000, 30_000][random.usize(..4)].max(data.len() / 50);
        let frame = data.split_to(random.usize(1..=most).min(data.len()));
        send_all(stream, frame, false).await;
        if random.u8(..4) == 0 {
            tokio::task::yield_now().await;
        }
    }
}

fn our_server() -> Service {
    let state = Arc::new(());
    let count = |messages: usize| messages.to_string();
    Service::new("any.Streams")
        .server_streaming(
            &CUT,
            &state,
            move |_, request: rpc_core::Request<Bytes>, mut responses| async move {
                let pieces = cut(request.get_ref());
                let trailers = responses.trailers_mut();
                trailers.insert(COUNT, &count(pieces.len())).unwrap();
                for piece in pieces {
                    if let Err(status) = responses.send(piece).await {
                        return responses.finish(Err(status));
                    }
                }
                responses.finish(Ok(()))
            },
        )
        .client_streaming(
            &JOIN,
            &state,
            move |_, request: rpc_core::Request<RecvStream<Bytes>>| async move {
                let mut requests = request.into_inner();
                let mut all = Vec::new();
                while let Some(message) = requests.recv().await? {
                    all.push(message);
                }
                let mut response = rpc_core::Response::new(Bytes::from(all.concat()));
                let trailers = response.trailers_mut();
                trailers.insert(COUNT, &count(all.len())).unwrap();
                Ok(response)
            },
        )
        .bidi_streaming(
            &CHAT,
            &state,
            move |_, request: rpc_core::Request<RecvStream<Bytes>>, mut responses| async move {
                let mut requests = request.into_inner();
                let mut messages = 0;
                let result = loop {
                    match requests.recv().await {
                        Ok(Some(message)) => {
                            messages += 1;
                            if let Err(status) = responses.send(message).await {
                                break Err(status);
                            }
                        }
                        Ok(None) => break Ok(()),
                        Err(status) => break Err(status),
                    }
                };
                let trailers = responses.trailers_mut();
                trailers.insert(COUNT, &count(messages)).unwrap();
                responses.finish(result)
            },
        )
}

async fn h2_calls_us(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let server = Server::builder().add_service(our_server());
    let server = rpc_testkit::run(server.bind("127.0.0.1:0").await.unwrap());
    let window = window(&mut random);
    let requests = h2_client(&server.uri, window, &mut random).await;
    let mut calls = JoinSet::new();
    for _ in 0..12 {
        let case = Case::new(&mut random, window);
        let mut random = random.fork();
        let mut requests = requests.clone();
        calls.spawn(async move {
            let request = Request::post(format!("http://localhost{}", case.path))
                .header("content-type", "application/grpc")
                .header("te", "trailers");
            std::future::poll_fn(|cx| requests.poll_ready(cx))
                .await
                .unwrap();
            let (response, mut stream) = requests
                .send_request(request.body(()).unwrap(), false)
                .unwrap();
            let octets = Case::octets(&case.requests);
            let send = async {
                send_cut(&mut stream, octets, &mut random).await;
                stream.send_data(Bytes::new(), true).unwrap();
            };
            let read = async { read_all(response.await.unwrap().into_body()).await };
            let ((), (all, trailers)) = tokio::join!(send, read);
            assert_eq!(all, Case::octets(&case.responses), "seed {seed}");
            let trailers = trailers.unwrap();
            assert_eq!(trailers["grpc-status"], "0");
            assert_eq!(trailers[COUNT], case.count.to_string());
        });
    }
    join(calls).await;
}

/// The next whole message, out of the pieces that it comes in.
async fn next_message(body: &mut h2::RecvStream, before: &mut BytesMut) -> Option<Bytes> {
    loop {
        if let Some(mut length) = before.get(1..5) {
            let length = length.get_u32() as usize;
            if before.len() >= 5 + length {
                before.advance(5);
                return Some(before.split_to(length).freeze());
            }
        }
        let Some(data) = body.data().await else {
            assert!(before.is_empty(), "the stream ends in a message");
            return None;
        };
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        before.extend_from_slice(&data);
    }
}

/// What [`our_server`] does, by the h2 crate.
async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    mut random: fastrand::Rng,
) {
    let path = request.uri().path().to_owned();
    let mut body = request.into_body();
    let response = Response::builder().header("content-type", "application/grpc");
    let mut stream = respond
        .send_response(response.body(()).unwrap(), false)
        .unwrap();
    let mut before = BytesMut::new();
    let mut messages = Vec::new();
    while let Some(message) = next_message(&mut body, &mut before).await {
        if path == CHAT_PATH {
            send_cut(&mut stream, framed(&message), &mut random).await;
        }
        messages.push(message);
    }
    let mut count = messages.len();
    if path == CUT_PATH {
        let pieces = cut(&messages[0]);
        count = pieces.len();
        send_cut(&mut stream, Case::octets(&pieces), &mut random).await;
    } else if path == JOIN_PATH {
        send_cut(&mut stream, framed(&messages.concat()), &mut random).await;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert(COUNT, HeaderValue::from(count));
    stream.send_trailers(trailers).unwrap();
}

async fn we_call_h2(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let window = window(&mut random);
    let mut servers = random.fork();
    let channel = h2_server(window, &mut random, move |request, respond| {
        answer(request, respond, servers.fork())
    })
    .await;
    let mut calls = JoinSet::new();
    for _ in 0..12 {
        let case = Case::new(&mut random, window);
        calls.spawn(call_as_we_do(channel.clone(), case, seed));
    }
    join(calls).await;
}

async fn call_as_we_do(channel: Channel, case: Case, seed: u64) {
    let count = case.count.to_string();
    if case.path == JOIN_PATH {
        let mut call = channel.client_streaming(&JOIN, rpc_core::Request::new(()));
        for message in case.requests {
            call.send(message).await.unwrap();
        }
        let response = call.finish().await.unwrap();
        assert_eq!(response.get_ref(), &case.responses[0], "seed {seed}");
        assert_eq!(response.trailers().get(COUNT), Some(&*count));
        return;
    }
    let (send, mut responses) = if case.path == CUT_PATH {
        let request = rpc_core::Request::new(case.requests[0].clone());
        (None, channel.server_streaming(&CUT, request))
    } else {
        let (send, responses) = channel.bidi_streaming(&CHAT, rpc_core::Request::new(()));
        (Some(send), responses)
    };
    let send = async {
        if let Some(mut send) = send {
            for message in case.requests {
                send.send(message).await.unwrap();
            }
            send.finish().await.unwrap();
        }
    };
    let read = async {
        let mut all = Vec::new();
        while let Some(message) = responses.recv().await.unwrap() {
            all.push(message);
        }
        all
    };
    let ((), all) = tokio::join!(send, read);
    assert!(all == case.responses, "seed {seed}");
    let trailers = responses.trailers().unwrap();
    assert_eq!(trailers.get(COUNT), Some(&*count));
}

const SEEDS: u64 = 40;
const HANGS: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_client_streams_with_our_server() {
    for seed in 0..SEEDS {
        let ended = tokio::time::timeout(HANGS, h2_calls_us(seed)).await;
        ended.unwrap_or_else(|_| panic!("seed {seed} hangs"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_streams_with_its_server() {
    for seed in 0..SEEDS {
        let ended = tokio::time::timeout(HANGS, we_call_h2(seed)).await;
        ended.unwrap_or_else(|_| panic!("seed {seed} hangs"));
    }
}
