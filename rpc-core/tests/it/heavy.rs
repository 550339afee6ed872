//! Messages that take long to decode, and codecs that go wrong.

use std::cell::Cell;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{DecodeContext, WireType};
use rpc_core::server::Service;
use rpc_core::{Channel, Code, Codec, DecodeError, Method, Request, Response, Server, Status};
use rpc_testkit::{Running, run};

thread_local! {
    /// Whether this thread runs the connections and handlers of a test.
    static SERVES: Cell<bool> = const { Cell::new(false) };
}

/// Larger than what is decoded in passing.
const LARGE: usize = 100_000;

fn encode(message: &Bytes, buffer: &mut BytesMut) {
    if message.starts_with(b"cannot be encoded") {
        panic!("as asked");
    }
    buffer.extend_from_slice(message);
}

/// Says where it was decoded; panics when it is asked to.
fn decode(octets: Bytes) -> Result<Bytes, DecodeError> {
    if octets.starts_with(b"panic") {
        panic!("as asked");
    }
    if octets.len() >= LARGE && SERVES.get() {
        return Err("a large message was decoded where calls run".into());
    }
    Ok(octets)
}

const CODEC: Codec<Bytes> = Codec::new("proto", encode, decode);
const UNARY: Method<Bytes, Bytes> = Method::unary("/demo.Large/Unary", CODEC, CODEC);
const DOWN: Method<Bytes, Bytes> = Method::server_streaming("/demo.Large/Down", CODEC, CODEC);
const UP: Method<Bytes, Bytes> = Method::client_streaming("/demo.Large/Up", CODEC, CODEC);
const BOTH: Method<Bytes, Bytes> = Method::bidi_streaming("/demo.Large/Both", CODEC, CODEC);

/// Every method answers with what it was sent.
async fn echo() -> Running {
    let state = Arc::new(());
    let service = Service::new("demo.Large")
        .unary(&UNARY, &state, |_, request: Request<Bytes>| async move {
            Ok(Response::new(request.into_inner()))
        })
        .server_streaming(
            &DOWN,
            &state,
            |_, request: Request<Bytes>, mut responses| async move {
                let sent = responses.send(request.into_inner()).await;
                responses.finish(sent)
            },
        )
        .client_streaming(&UP, &state, |_, request: Request<_>| async move {
            let mut requests: rpc_core::RecvStream<Bytes> = request.into_inner();
            let mut last = Bytes::new();
            while let Some(next) = requests.recv().await? {
                last = next;
            }
            Ok(Response::new(last))
        })
        .bidi_streaming(
            &BOTH,
            &state,
            |_, request: Request<_>, mut responses| async move {
                let mut requests: rpc_core::RecvStream<Bytes> = request.into_inner();
                let echoing = async {
                    while let Some(next) = requests.recv().await? {
                        responses.send(next).await?;
                    }
                    Ok(())
                };
                let echoed = echoing.await;
                responses.finish(echoed)
            },
        );
    let server = Server::builder().add_service(service);
    run(server.bind("127.0.0.1:0").await.unwrap())
}

/// A message by each kind of call; what comes back.
async fn by_all_kinds(channel: &Channel, message: &Bytes) -> Vec<Result<Bytes, Status>> {
    let unary = channel.unary(&UNARY, Request::new(message.clone())).await;
    let mut down = channel.server_streaming(&DOWN, Request::new(message.clone()));
    let mut up = channel.client_streaming(&UP, Request::new(()));
    // How it went is what the response says.
    let _ = up.send(message.clone()).await;
    let up = up.finish().await;
    let (mut requests, mut both) = channel.bidi_streaming(&BOTH, Request::new(()));
    let _ = requests.send(message.clone()).await;
    let some = |received: Option<Bytes>| received.unwrap_or_default();
    vec![
        unary.map(Response::into_inner),
        down.recv().await.map(some),
        up.map(Response::into_inner),
        both.recv().await.map(some),
    ]
}

#[tokio::test]
async fn large_messages_are_decoded_apart_in_every_kind_of_call() {
    SERVES.set(true);
    let server = echo().await;
    let channel = Channel::connect(&server.uri).await.unwrap();
    // So often that unary calls run in place.
    for size in [10, LARGE].repeat(40) {
        let message = Bytes::from(vec![7; size]);
        for (kind, echoed) in by_all_kinds(&channel, &message)
            .await
            .into_iter()
            .enumerate()
        {
            assert_eq!(echoed.unwrap(), message, "kind {kind}, {size} octets");
        }
    }
}

/// So many elements of two octets each, which know where they must not be decoded.
#[derive(Clone, Debug, Default, PartialEq)]
struct Many(usize);

impl prost::Message for Many {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        (0..self.0).for_each(|_| buffer.put_slice(&[8, 1]));
    }

    fn merge_field(
        &mut self,
        tag: u32,
        kind: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        self.0 += 1;
        if self.0 * 2 >= LARGE && SERVES.get() {
            panic!("many elements were decoded where calls run");
        }
        prost::encoding::skip_field(kind, tag, buffer, context)
    }

    fn encoded_len(&self) -> usize {
        self.0 * 2
    }

    fn clear(&mut self) {
        self.0 = 0;
    }
}

#[tokio::test]
async fn many_elements_of_a_prost_message_are_decoded_apart() {
    const MANY: Method<Many, Many> = Method::unary_prost("/demo.Many/Unary");
    SERVES.set(true);
    let state = Arc::new(());
    let service =
        Service::new("demo.Many").unary(&MANY, &state, |_, request: Request<Many>| async move {
            Ok(Response::new(request.into_inner()))
        });
    let server = Server::builder().add_service(service);
    let server = run(server.bind("127.0.0.1:0").await.unwrap());
    let channel = Channel::connect(&server.uri).await.unwrap();
    // So often that calls run in place.
    for count in [10, LARGE].repeat(40) {
        let answer = channel.unary(&MANY, Request::new(Many(count))).await;
        assert_eq!(answer.unwrap().into_inner(), Many(count));
    }
}

#[tokio::test]
async fn a_decoder_that_panics_ends_its_call_and_no_other() {
    let server = echo().await;
    let channel = Channel::connect(&server.uri).await.unwrap();
    let hello = async || {
        let answer = channel.unary(&UNARY, Request::new("hello".into())).await;
        assert_eq!(answer.unwrap().into_inner(), "hello");
    };
    let mut waiting = channel.bidi_streaming(&BOTH, Request::new(()));
    for size in [10, LARGE].repeat(3) {
        // So often that they run in place.
        for _ in 0..20 {
            hello().await;
        }
        let mut message = b"panic".to_vec();
        message.resize(size, 0);
        for (kind, echoed) in by_all_kinds(&channel, &message.into())
            .await
            .into_iter()
            .enumerate()
        {
            let code = echoed.unwrap_err().code();
            assert_eq!(code, Code::Internal, "kind {kind}, {size} octets");
        }
    }
    waiting.0.send("still here".into()).await.unwrap();
    assert_eq!(waiting.1.recv().await.unwrap().unwrap(), "still here");
}

/// What holds the decoder up until the test lets go of it.
static GATE: Mutex<()> = Mutex::new(());

fn decode_late(octets: Bytes) -> Result<Bytes, DecodeError> {
    drop(GATE.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(octets)
}

const LATE_CODEC: Codec<Bytes> = Codec::new("proto", encode, decode_late);
const RAW: Codec<Bytes> = Codec::raw();
/// Requests that are decoded late, and responses.
const LATE: [Method<Bytes, Bytes>; 2] = [
    Method::unary("/demo.Late/Request", LATE_CODEC, RAW),
    Method::unary("/demo.Late/Response", RAW, RAW),
];
const LATE_STREAM: Method<Bytes, Bytes> =
    Method::server_streaming("/demo.Late/Stream", RAW, LATE_CODEC);

#[tokio::test]
#[expect(
    clippy::await_holding_lock,
    reason = "the threads that it holds up are not those that the test waits for"
)]
async fn deadlines_pass_while_a_message_is_decoded() {
    let state = Arc::new(());
    let mut service = Service::new("demo.Late").server_streaming(
        &LATE_STREAM,
        &state,
        |_, request: Request<Bytes>, mut responses| async move {
            let sent = responses.send(request.into_inner()).await;
            responses.finish(sent)
        },
    );
    for method in &LATE {
        service = service.unary(method, &state, |_, request: Request<Bytes>| async move {
            Ok(Response::new(request.into_inner()))
        });
    }
    let server = Server::builder().add_service(service);
    let server = run(server.bind("127.0.0.1:0").await.unwrap());
    let channel = Channel::connect(&server.uri).await.unwrap();
    let gate = GATE.lock().unwrap();
    let request = || {
        let request = Request::new(Bytes::from(vec![7; LARGE]));
        request.with_timeout(Duration::from_millis(300))
    };
    let response = Method::unary("/demo.Late/Response", RAW, LATE_CODEC);
    let mut stream = channel.server_streaming(&LATE_STREAM, request());
    let ended = [
        channel.unary(&LATE[0], request()).await.unwrap_err(),
        channel.unary(&response, request()).await.unwrap_err(),
        stream.recv().await.unwrap_err(),
    ];
    for (place, status) in ended.iter().enumerate() {
        assert_eq!(status.code(), Code::DeadlineExceeded, "{place}: {status}");
    }
    assert_eq!(
        stream.recv().await.unwrap_err().code(),
        Code::DeadlineExceeded
    );
    drop(gate);
}
