//! Answers that come before the requests have ended, whatever was sent until then.

use std::time::Duration;

use rpc_core::{Channel, Code, Status};
use rpc_http2::{Config, Connection, ErrorCode, StreamKey};
use rpc_testkit::proto::{Message, TestClient};
use tokio::time::sleep;

use crate::engine::{self, Engine};
use crate::scripted::{self, Asked};

/// More than is kept for another attempt, and less.
const COUNTS: [usize; 3] = [0, 1, 10];
/// What the server does once it has answered (RFC 9113 section 8.1).
const RESETS: [Option<ErrorCode>; 3] = [None, Some(ErrorCode::NO_ERROR), Some(ErrorCode::CANCEL)];

fn long() -> Message {
    Message {
        body: vec![7; 30 * 1024],
        ..Message::default()
    }
}

fn reset(machine: &mut Connection, key: StreamKey, code: Option<ErrorCode>) {
    if let Some(code) = code {
        machine.reset(key, code);
    }
}

fn cases() -> impl Iterator<Item = (usize, Option<ErrorCode>)> {
    COUNTS
        .into_iter()
        .flat_map(|count| RESETS.into_iter().map(move |reset| (count, reset)))
}

async fn connect() -> (TestClient, Engine) {
    let (channel, engine) = Engine::connect(Config::default()).await;
    (TestClient::new(channel), engine)
}

const OK: [(&str, &str); 2] = [("grpc-status", "0"), ("x-last", "1")];
const FAILED: [(&str, &str); 4] = [
    ("grpc-status", "9"),
    ("grpc-message", "no more"),
    ("grpc-status-details-bin", "AQI"),
    ("x-last", "1"),
];

fn assert_failed(status: &Status) {
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert_eq!(status.message(), "no more");
    assert_eq!(&status.details()[..], [1, 2]);
    assert_eq!(status.metadata().get("x-last"), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_is_answered_early_has_its_answer() {
    for (count, code) in cases() {
        let (test, mut engine) = connect().await;
        let mut upload = test.client_stream(());
        engine.called().await;
        for _ in 0..count {
            upload.send(long()).await.unwrap();
        }
        engine.act(move |machine, keys| {
            engine::head(machine, keys[0], &[("x-first", "1")], false);
            engine::message(machine, keys[0], &[8, 7]);
            engine::trailers(machine, keys[0], &OK);
            reset(machine, keys[0], code);
        });
        sleep(Duration::from_millis(1)).await;
        for _ in 0..2 {
            let status = upload.send(long()).await.unwrap_err();
            assert_eq!(status.code(), Code::Cancelled, "{count} {code:?}: {status}");
            assert!(status.is_call_ended());
        }
        let answer = upload.finish().await.unwrap();
        assert_eq!(answer.get_ref().number, 7);
        assert_eq!(answer.metadata().get("x-first"), Some("1"));
        assert_eq!(answer.trailers().get("x-last"), Some("1"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_fails_early_says_why_when_sending_and_in_the_end() {
    for (count, code) in cases() {
        for alone in [false, true] {
            let (test, mut engine) = connect().await;
            let mut upload = test.client_stream(());
            engine.called().await;
            for _ in 0..count {
                upload.send(long()).await.unwrap();
            }
            engine.act(move |machine, keys| {
                if alone {
                    engine::head(machine, keys[0], &FAILED, true);
                } else {
                    engine::head(machine, keys[0], &[], false);
                    engine::trailers(machine, keys[0], &FAILED);
                }
                reset(machine, keys[0], code);
            });
            sleep(Duration::from_millis(1)).await;
            let status = upload.send(long()).await.unwrap_err();
            assert_failed(&status);
            assert!(status.is_call_ended());
            assert_eq!(status.attempt(), 1, "{status}");
            assert_failed(&upload.finish().await.unwrap_err());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_chat_that_is_answered_early_has_all_its_responses() {
    for (count, code) in cases() {
        for fails in [false, true] {
            let (test, mut engine) = connect().await;
            let (mut requests, mut responses) = test.chat(());
            engine.called().await;
            for _ in 0..count {
                requests.send(long()).await.unwrap();
            }
            engine.act(move |machine, keys| {
                engine::head(machine, keys[0], &[], false);
                (0..3).for_each(|_| engine::message(machine, keys[0], &[8, 7]));
                let fields = if fails { &FAILED[..] } else { &OK };
                engine::trailers(machine, keys[0], fields);
                reset(machine, keys[0], code);
            });
            sleep(Duration::from_millis(1)).await;
            let status = requests.send(long()).await.unwrap_err();
            assert!(status.is_call_ended());
            if fails {
                assert_failed(&status);
            } else {
                assert_eq!(status.code(), Code::Cancelled, "{status}");
            }
            requests.finish().await.unwrap();
            for _ in 0..3 {
                assert_eq!(responses.recv().await.unwrap().unwrap().number, 7);
            }
            if fails {
                assert_failed(&responses.recv().await.unwrap_err());
            } else {
                assert_eq!(responses.recv().await.unwrap(), None);
                assert_eq!(responses.trailers().unwrap().get("x-last"), Some("1"));
            }
        }
    }
}

/// A handler that answers without having read all is such a server.
#[tokio::test]
async fn a_handler_may_answer_before_it_has_read_all() {
    use bytes::Bytes;
    use rpc_core::server::Service;
    use rpc_core::{Codec, Method, RecvStream, Request, Response, Server};
    const FIRST: Method<Bytes, Bytes> =
        Method::client_streaming("/any.S/First", Codec::raw(), Codec::raw());
    let service = Service::new("any.S").client_streaming(
        &FIRST,
        &std::sync::Arc::new(()),
        async |_, mut request: Request<RecvStream<Bytes>>| {
            let first = request.get_mut().recv().await?.unwrap_or_default();
            Ok(Response::new(first))
        },
    );
    let server = rpc_testkit::run(
        Server::builder()
            .add_service(service)
            .bind("127.0.0.1:0")
            .await
            .unwrap(),
    );
    let channel = Channel::connect(&server.uri).await.unwrap();
    for _ in 0..20 {
        let mut upload = channel.client_streaming(&FIRST, rpc_core::Request::new(()));
        let ended = loop {
            if let Err(status) = upload.send(vec![7; 20_000].into()).await {
                break status;
            }
        };
        assert!(ended.is_call_ended(), "{ended}");
        assert_eq!(upload.finish().await.unwrap().into_inner().len(), 20_000);
    }
}

/// The requests are more than is kept, so the attempt has to be made while they are sent.
#[tokio::test]
async fn a_refused_upload_is_made_again_while_it_is_sent() {
    let uri = scripted::serve(async |mut asked: Asked| {
        if asked.number == 0 {
            asked.data().await.unwrap();
            asked.answer.send_reset(h2::Reason::REFUSED_STREAM);
            return;
        }
        let length = asked.rest().await.len();
        asked.reply(
            200,
            &[scripted::GRPC],
            &[0; 5],
            &[("grpc-status", "0"), ("x-length", &length.to_string())],
        );
    })
    .await;
    let test = TestClient::new(Channel::connect(&uri).await.unwrap());
    let mut upload = test.client_stream(());
    for _ in 0..40 {
        upload.send(long()).await.unwrap();
        // Until the refusal has come, and the other stream after it.
        sleep(Duration::from_millis(1)).await;
    }
    let answer = upload.finish().await.unwrap();
    let length: usize = answer.trailers().get("x-length").unwrap().parse().unwrap();
    assert!(length > 40 * 30 * 1024, "{length}");
}

#[tokio::test(start_paused = true)]
async fn more_than_one_early_answer_is_an_error() {
    let (test, mut engine) = connect().await;
    let mut upload = test.client_stream(());
    engine.called().await;
    engine.act(|machine, keys| {
        engine::head(machine, keys[0], &[], false);
        (0..3).for_each(|_| engine::message(machine, keys[0], &[8, 7]));
        engine::trailers(machine, keys[0], &OK);
    });
    sleep(Duration::from_millis(1)).await;
    assert!(upload.send(long()).await.unwrap_err().is_call_ended());
    let status = upload.finish().await.unwrap_err();
    assert_eq!(status.code(), Code::Internal, "{status}");
}
