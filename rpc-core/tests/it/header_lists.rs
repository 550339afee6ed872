//! Metadata that is larger than a peer takes, or than is taken here: never lost in silence.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rpc_core::client::FinishedCall;
use rpc_core::server::{Router, SendStream, Service};
use rpc_core::{Channel, Code, Codec, Metadata, Method, Request, Response, Server, Status};
use rpc_http2::Config;
use rpc_http2::frame::{kind, setting};
use rpc_http2::hpack::Decoder;
use rpc_testkit::proto::{Message, StreamRequest, TestClient};
use rpc_testkit::raw::{self, RawClient};
use rpc_testkit::run;

use crate::engine::{self, Engine};

const ONE: Method<Bytes, Bytes> = Method::unary("/it.A/One", Codec::raw(), Codec::raw());
const MANY: Method<Bytes, Bytes> =
    Method::server_streaming("/it.A/Many", Codec::raw(), Codec::raw());

/// Metadata of so many KiB.
fn metadata(kilobytes: usize) -> Metadata {
    let mut metadata = Metadata::new();
    for number in 0..kilobytes {
        let key = format!("x-{number}");
        metadata.insert(&key, &"v".repeat(1000)).unwrap();
    }
    metadata
}

/// What the handlers are asked for, as a message: what has 20 KiB.
fn wants(what: &'static str) -> Request<Bytes> {
    Request::new(Bytes::from_static(what.as_bytes()))
}

fn failure(what: &[u8]) -> Option<Status> {
    let status = Status::not_found("nothing here");
    match what {
        b"details" => Some(status.with_details(vec![7; 20 * 1024].into())),
        b"status" => {
            let mut status = status;
            *status.metadata_mut() = metadata(20);
            Some(status)
        }
        b"failed head" => {
            let mut status = status;
            *status.leading_metadata_mut() = metadata(20);
            Some(status)
        }
        _ => None,
    }
}

const WHAT: [&str; 5] = ["head", "trailers", "details", "status", "failed head"];

fn router() -> Router {
    let state = Arc::new(());
    Router::new().add_service(
        Service::new("it.A")
            .unary(&ONE, &state, async |_, request: Request<Bytes>| {
                if let Some(status) = failure(request.get_ref()) {
                    return Err(status);
                }
                let mut response = Response::new(Bytes::new());
                match &request.get_ref()[..] {
                    b"head" => *response.metadata_mut() = metadata(20),
                    b"trailers" => *response.trailers_mut() = metadata(20),
                    _ => {}
                }
                Ok(response)
            })
            .server_streaming(
                &MANY,
                &state,
                async |_, request: Request<Bytes>, mut responses: SendStream<Bytes>| {
                    match &request.get_ref()[..] {
                        b"head" => *responses.metadata_mut() = metadata(20),
                        b"trailers" => *responses.trailers_mut() = metadata(20),
                        _ => {}
                    }
                    let failure = failure(request.get_ref());
                    if failure.is_none() {
                        let _ = responses.send(Bytes::new()).await;
                    }
                    responses.finish(failure.map_or(Ok(()), Err))
                },
            ),
    )
}

async fn outcome(channel: &Channel, what: &'static str, unary: bool) -> Result<(), Status> {
    if unary {
        return channel.unary(&ONE, wants(what)).await.map(drop);
    }
    let mut stream = channel.server_streaming(&MANY, wants(what));
    while stream.recv().await?.is_some() {}
    Ok(())
}

#[tokio::test]
async fn metadata_that_is_larger_than_the_client_takes_is_not_lost_in_silence() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let codes = Arc::clone(&seen);
    let server = Server::builder()
        .router(router())
        .observer(move |call: &FinishedCall<'_>| codes.lock().unwrap().push(call.code))
        .bind("127.0.0.1:0")
        .await
        .unwrap();
    let server = run(server);
    let channel = Channel::connect(&server.uri).await.unwrap();
    for what in WHAT {
        for unary in [true, false] {
            let status = outcome(&channel, what, unary).await.unwrap_err();
            assert_eq!(
                status.code(),
                Code::ResourceExhausted,
                "{what} {unary}: {status}"
            );
            for part in ["16384", "SETTINGS_MAX_HEADER_LIST_SIZE"] {
                assert!(status.message().contains(part), "{what} {unary}: {status}");
            }
            if matches!(what, "details" | "status") {
                for part in ["NOT_FOUND", "nothing here"] {
                    assert!(status.message().contains(part), "{what} {unary}: {status}");
                }
            }
            outcome(&channel, "nothing", unary).await.unwrap();
        }
    }
    let seen = seen.lock().unwrap();
    assert_eq!(seen.iter().filter(|code| **code == Code::Ok).count(), 10);
}

#[tokio::test]
async fn a_channel_may_take_more_metadata() {
    let server = run(Server::builder()
        .router(router())
        .bind("127.0.0.1:0")
        .await
        .unwrap());
    for size in [64 * 1024, u32::MAX] {
        let channel = Channel::builder()
            .max_header_list_size(size)
            .connect(&server.uri)
            .await
            .unwrap();
        for what in ["head", "trailers"] {
            for unary in [true, false] {
                outcome(&channel, what, unary).await.unwrap();
            }
        }
        let status = outcome(&channel, "details", true).await.unwrap_err();
        assert_eq!(
            (status.code(), status.details().len()),
            (Code::NotFound, 20 * 1024)
        );
        let status = outcome(&channel, "status", true).await.unwrap_err();
        assert_eq!(
            (status.code(), status.metadata().len()),
            (Code::NotFound, 20)
        );
        let status = outcome(&channel, "failed head", true).await.unwrap_err();
        assert_eq!(
            (status.code(), status.leading_metadata().len()),
            (Code::NotFound, 20)
        );
    }
}

#[tokio::test]
async fn a_server_may_take_more_metadata_and_says_how_much() {
    for (limit, fits) in [(None, false), (Some(64 * 1024), true), (Some(2048), false)] {
        let mut server = Server::builder().router(router());
        if let Some(limit) = limit {
            server = server.max_header_list_size(limit);
        }
        let channel = Channel::in_process(server).unwrap();
        let mut request = wants("nothing");
        *request.metadata_mut() = metadata(20);
        let outcome = channel.unary(&ONE, request).await.map(drop);
        let mut request = wants("nothing");
        *request.metadata_mut() = metadata(20);
        let streamed = channel
            .server_streaming(&MANY, request)
            .recv()
            .await
            .map(drop);
        for outcome in [outcome, streamed] {
            match outcome {
                Ok(()) => assert!(fits),
                Err(status) => {
                    assert!(
                        !fits && status.code() == Code::ResourceExhausted,
                        "{status}"
                    );
                    let limit = limit.unwrap_or(16 * 1024).to_string();
                    assert!(status.message().contains(&limit), "{status}");
                }
            }
        }
        channel.unary(&ONE, wants("nothing")).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_server_sends_all_the_same_is_not_lost_in_silence() {
    for (head, status, unary) in [true, false].into_iter().flat_map(|head| {
        ["0", "5"]
            .into_iter()
            .flat_map(move |status| [true, false].map(|unary| (head, status, unary)))
    }) {
        let (channel, mut engine) = Engine::connect(Config::default()).await;
        let test = TestClient::new(channel);
        let answering = async {
            engine.called().await;
            engine.act(move |machine, keys| {
                let long = "v".repeat(20_000);
                let long = [("x-long", &*long)];
                engine::head(machine, keys[0], if head { &[] } else { &long[..] }, false);
                engine::message(machine, keys[0], &[]);
                let fields = [("grpc-status", status), ("grpc-message", "gone"), long[0]];
                engine::trailers(machine, keys[0], &fields[..if head { 3 } else { 2 }]);
            });
            std::future::pending().await
        };
        let calling = async {
            if unary {
                return test.echo(Message::default()).await.map(drop);
            }
            let mut stream = test.server_stream(StreamRequest::default());
            while stream.recv().await?.is_some() {}
            Ok(())
        };
        let outcome = tokio::select! {
            outcome = calling => outcome,
            () = answering => unreachable!(),
        };
        let error = outcome.unwrap_err();
        let case = format!("{head} {status} {unary}: {error}");
        assert_eq!(error.code(), Code::ResourceExhausted, "{case}");
        assert!(error.message().contains("16384"), "{case}");
        assert!(error.message().contains("max_header_list_size"), "{case}");
        if head {
            let ended = if status == "0" {
                "OK"
            } else {
                "NOT_FOUND: gone"
            };
            assert!(error.message().contains(ended), "{case}");
        }
    }
}

/// The setting is advice (RFC 9113 section 6.5.2): a client whose is absurd has its answers.
#[tokio::test]
async fn a_client_that_says_that_it_takes_next_to_nothing_is_answered() {
    let service =
        Service::new("it.A").unary(&ONE, &Arc::new(()), async |_, request: Request<Bytes>| {
            match &request.get_ref()[..] {
                b"fail" => Err(Status::not_found("nothing here ".repeat(100))),
                b"details" => Err(Status::not_found("n").with_details(vec![7; 100].into())),
                _ => Ok(Response::new(request.into_inner())),
            }
        });
    let server = run(Server::builder()
        .add_service(service)
        .bind("127.0.0.1:0")
        .await
        .unwrap());
    let address = server.uri.trim_start_matches("http://");
    for limit in [0, 1, 300] {
        let settings = [(setting::MAX_HEADER_LIST_SIZE, limit)];
        let (mut client, mut reader) = RawClient::connect(address, &settings).await.unwrap();
        let mut decoder = Decoder::new(4096, 1 << 20, 1000);
        for (message, code) in [("ok", "0"), ("fail", "5"), ("details", "8")] {
            let (stream, head) = client.head(ONE.path(), false);
            let body = raw::frame(kind::DATA, 1, stream, &raw::message(message.as_bytes()));
            client.write(&[head, body].concat()).await.unwrap();
            let status = loop {
                let frame = reader.next().await.expect("the connection has ended");
                assert_ne!(frame.header.kind, kind::GOAWAY);
                assert_ne!(frame.header.kind, kind::RST_STREAM);
                if frame.header.kind != kind::HEADERS {
                    continue;
                }
                let block = decoder.decode(&frame.payload).unwrap();
                let mut size = 0;
                let mut status = None;
                for (name, value) in block.fields() {
                    size += name.len() + value.len() + 32;
                    if name == b"grpc-status" {
                        status = Some(String::from_utf8(value.to_vec()).unwrap());
                    }
                }
                assert!(limit != 300 || size <= 300, "{size}");
                if let Some(status) = status {
                    break status;
                }
            };
            assert_eq!(status, code, "{message} for {limit}");
        }
    }
}

#[tokio::test]
async fn a_long_text_of_many_octets_a_character_is_cut_where_it_goes_out() {
    const FAILS: Method<Bytes, Bytes> = Method::unary("/it.A/Fails", Codec::raw(), Codec::raw());
    let service =
        Service::new("it.A").unary(&FAILS, &Arc::new(()), async |_, _: Request<Bytes>| {
            Err::<Response<Bytes>, _>(Status::aborted("\u{3042}".repeat(4000)))
        });
    let channel = Channel::in_process(Router::new().add_service(service)).unwrap();
    let status = channel
        .unary(&FAILS, Request::new(Bytes::new()))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Aborted, "{status}");
    assert_eq!(status.message(), "\u{3042}".repeat(4096 / 9));
}
