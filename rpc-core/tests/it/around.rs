//! Leading and trailing metadata of calls that fail.

use std::sync::Arc;

use bytes::Bytes;
use rpc_core::compat::RouterService;
use rpc_core::server::{
    Router, SendStream, ServerCall, ServerInterceptor, ServerNext, ServerReply, Service,
};
use rpc_core::{Channel, Code, Codec, Method, RecvStream, Request, Response, Server, Status};
use rpc_http2::Config;
use rpc_testkit::proto::{Message, TestClient};
use rpc_testkit::run;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::engine::{self, Engine};

const ONE: Method<Bytes, Bytes> = Method::unary("/it.A/One", Codec::raw(), Codec::raw());
const UP: Method<Bytes, Bytes> = Method::client_streaming("/it.A/Up", Codec::raw(), Codec::raw());
const DOWN: Method<Bytes, Bytes> =
    Method::server_streaming("/it.A/Down", Codec::raw(), Codec::raw());
const BOTH: Method<Bytes, Bytes> = Method::bidi_streaming("/it.A/Both", Codec::raw(), Codec::raw());

fn failure() -> Status {
    let mut status = Status::aborted("as asked").with_details(vec![1, 2].into());
    status
        .leading_metadata_mut()
        .insert("x-first", "1")
        .unwrap();
    status.metadata_mut().insert("x-last", "1").unwrap();
    status
}

/// The same by what a stream has for it.
fn fill(responses: &mut SendStream<Bytes>) {
    responses.metadata_mut().insert("x-first", "1").unwrap();
    responses.trailers_mut().insert("x-last", "1").unwrap();
}

/// Every handler fails; those with a stream before or after a message, or before the head.
fn router() -> Router {
    let state = Arc::new(());
    let plain = || Status::aborted("as asked").with_details(vec![1, 2].into());
    Router::new().add_service(
        Service::new("it.A")
            .unary(&ONE, &state, async |_, request: Request<Bytes>| {
                if !request.get_ref().is_empty() {
                    // As a task.
                    tokio::task::yield_now().await;
                }
                Err::<Response<Bytes>, _>(failure())
            })
            .client_streaming(&UP, &state, async |_, _: Request<RecvStream<Bytes>>| {
                Err::<Response<Bytes>, _>(failure())
            })
            .server_streaming(
                &DOWN,
                &state,
                move |_, request: Request<Bytes>, mut responses: SendStream<Bytes>| async move {
                    match &request.get_ref()[..] {
                        [] => responses.finish(Err(failure())),
                        [0] => {
                            fill(&mut responses);
                            responses.finish(Err(plain()))
                        }
                        _ => {
                            fill(&mut responses);
                            let sent = responses.send(Bytes::new()).await;
                            responses.finish(sent.and(Err(plain())))
                        }
                    }
                },
            )
            .bidi_streaming(
                &BOTH,
                &state,
                move |_, _: Request<RecvStream<Bytes>>, mut responses: SendStream<Bytes>| async move {
                    fill(&mut responses);
                    responses.finish(Err(plain()))
                },
            ),
    )
}

fn assert_whole(status: &Status, case: &str) {
    assert_eq!(status.code(), Code::Aborted, "{case}: {status}");
    assert_eq!(status.message(), "as asked", "{case}");
    assert_eq!(&status.details()[..], [1, 2], "{case}");
    assert_eq!(
        status.leading_metadata().get("x-first"),
        Some("1"),
        "{case}"
    );
    assert_eq!(status.metadata().get("x-last"), Some("1"), "{case}");
    let counts = (status.leading_metadata().len(), status.metadata().len());
    assert_eq!(counts, (1, 1), "{case}");
}

async fn all_kinds(channel: &Channel, on: &str) {
    let one = |size| Request::new(Bytes::from(vec![0; size]));
    for size in [0, 1] {
        for _ in 0..40 {
            // In place, after some of them.
            let status = channel.unary(&ONE, one(size)).await.unwrap_err();
            assert_whole(&status, &format!("unary {size} {on}"));
        }
    }
    let upload = channel.client_streaming(&UP, Request::new(()));
    assert_whole(&upload.finish().await.unwrap_err(), &format!("upload {on}"));
    for size in [0, 1, 2] {
        let mut stream = channel.server_streaming(&DOWN, one(size));
        let status = loop {
            if let Err(status) = stream.recv().await {
                break status;
            }
        };
        assert_whole(&status, &format!("stream {size} {on}"));
        assert_eq!(stream.headers().await.unwrap().get("x-first"), Some("1"));
        assert_eq!(stream.trailers().unwrap().get("x-last"), Some("1"));
    }
    let (_requests, mut responses) = channel.bidi_streaming(&BOTH, Request::new(()));
    let status = responses.recv().await.unwrap_err();
    assert_whole(&status, &format!("chat {on}"));
}

#[tokio::test]
async fn failures_of_all_kinds_have_both_kinds_of_metadata() {
    let server = run(Server::builder()
        .router(router())
        .bind("127.0.0.1:0")
        .await
        .unwrap());
    all_kinds(
        &Channel::connect(&server.uri).await.unwrap(),
        "over a socket",
    )
    .await;
    all_kinds(&Channel::in_process(router()).unwrap(), "in process").await;
}

/// Adds its own metadata to every response.
struct Adds;

impl ServerInterceptor for Adds {
    async fn intercept(
        &self,
        mut call: ServerCall,
        next: ServerNext<'_>,
    ) -> Result<ServerReply, Status> {
        let added = call.response_metadata_mut().insert("x-added", "1");
        added.map_err(|error| Status::internal(error.to_string()))?;
        next.run(call).await
    }
}

#[tokio::test]
async fn what_an_interceptor_adds_to_a_response_goes_ahead_of_a_failure() {
    let channel = Channel::in_process(router().interceptor(Adds)).unwrap();
    let mut all = vec![
        channel
            .unary(&ONE, Request::new(Bytes::new()))
            .await
            .unwrap_err(),
        channel
            .client_streaming(&UP, Request::new(()))
            .finish()
            .await
            .unwrap_err(),
    ];
    let (_requests, mut responses) = channel.bidi_streaming(&BOTH, Request::new(()));
    all.push(responses.recv().await.unwrap_err());
    for status in all {
        for key in ["x-added", "x-first"] {
            assert_eq!(
                status.leading_metadata().get(key),
                Some("1"),
                "{key}: {status}"
            );
        }
        assert_eq!(status.metadata().get("x-last"), Some("1"), "{status}");
    }
}

/// All fields of a response of a mounted router: those of its head, and those of its trailers.
async fn mounted(path: &str, message: &[u8]) -> (http::HeaderMap, http::HeaderMap) {
    use http_body::Body as _;
    use tower_service::Service as _;
    let length = u8::try_from(message.len()).unwrap();
    let body = [&[0, 0, 0, 0, length], message].concat();
    let request = http::Request::post(path)
        .version(http::Version::HTTP_2)
        .header("content-type", "application/grpc")
        .body(String::from_utf8(body).unwrap())
        .unwrap();
    let response = RouterService::from(router()).call(request).await.unwrap();
    let (parts, mut body) = response.into_parts();
    let mut trailers = http::HeaderMap::new();
    let mut body = std::pin::Pin::new(&mut body);
    while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        if let Ok(fields) = frame.unwrap().into_trailers() {
            trailers = fields;
        }
    }
    (parts.headers, trailers)
}

#[tokio::test]
async fn a_mounted_router_sends_both_kinds_of_metadata_of_a_failure() {
    for (path, message) in [
        (ONE.path(), &[][..]),
        (UP.path(), &[]),
        (DOWN.path(), &[]),
        (DOWN.path(), &[0]),
        (DOWN.path(), &[0, 0]),
        (BOTH.path(), &[]),
    ] {
        let (head, trailers) = mounted(path, message).await;
        assert_eq!(head["x-first"], "1", "{path} {message:?}");
        assert!(!head.contains_key("grpc-status"), "{path} {message:?}");
        assert_eq!(trailers["x-last"], "1", "{path} {message:?}");
        assert_eq!(trailers["grpc-status"], "10", "{path} {message:?}");
        assert_eq!(
            trailers["grpc-status-details-bin"], "AQI",
            "{path} {message:?}"
        );
    }
}

#[tokio::test]
async fn both_kinds_of_metadata_of_a_failure_arrive_over_http_1() {
    let server = run(Server::builder()
        .router(router())
        .bind("127.0.0.1:0")
        .await
        .unwrap());
    let address = server.uri.trim_start_matches("http://");
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = "POST /it.A/One HTTP/1.1\r\nhost: a\r\nte: trailers\r\ncontent-type: application/grpc\r\nconnection: close\r\ncontent-length: 5\r\n\r\n\0\0\0\0\0";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let answer = answer.to_lowercase();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("x-first: 1"), "{answer}");
    for field in ["x-last: 1", "grpc-status: 10"] {
        assert!(body.contains(field), "{answer}");
    }
}

/// A head that came before the stream broke is of the call as well.
#[tokio::test(start_paused = true)]
async fn the_head_of_a_stream_that_broke_is_in_the_status() {
    for unary in [true, false] {
        let (channel, mut engine) = Engine::connect(Config::default()).await;
        let test = TestClient::new(channel);
        let answering = async {
            engine.called().await;
            engine.act(|machine, keys| {
                engine::head(machine, keys[0], &[("x-first", "1")], false);
                machine.reset(keys[0], rpc_http2::ErrorCode::INTERNAL_ERROR);
            });
            std::future::pending().await
        };
        let calling = async {
            match unary {
                true => test.echo(Message::default()).await.unwrap_err(),
                false => test.client_stream(()).finish().await.unwrap_err(),
            }
        };
        let status = tokio::select! {
            status = calling => status,
            () = answering => unreachable!(),
        };
        assert_eq!(status.code(), Code::Internal, "{status}");
        assert_eq!(
            status.leading_metadata().get("x-first"),
            Some("1"),
            "{unary}"
        );
    }
}
