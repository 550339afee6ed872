//! A status in a head that does not end the stream: what the trailers say counts.

use rpc_core::{Code, Request};
use rpc_http2::{Config, Payload};
use rpc_testkit::proto::{Message, StreamRequest, TestClient};

use crate::engine::{self, Engine};

/// What follows the head.
#[derive(Clone, Copy, Debug)]
enum Behind {
    Trailers(&'static str, bool),
    Unnamed,
    Nothing { message: bool },
    Reset,
}

#[tokio::test(start_paused = true)]
async fn a_status_in_a_head_that_is_not_the_end_gives_way_to_the_trailers() {
    use Behind::{Nothing, Reset, Trailers, Unnamed};
    for (claim, behind, code) in [
        ("0", Trailers("0", true), Code::Ok),
        ("7", Trailers("0", true), Code::Ok),
        ("0", Trailers("5", true), Code::NotFound),
        ("7", Trailers("5", false), Code::NotFound),
        // Without a status of their own the claim is all that there is.
        ("7", Unnamed, Code::PermissionDenied),
        ("7", Nothing { message: false }, Code::PermissionDenied),
        ("7", Nothing { message: true }, Code::PermissionDenied),
        ("7", Reset, Code::PermissionDenied),
        // What came before the messages does not know how they ended.
        ("0", Nothing { message: true }, Code::Unknown),
        ("0", Reset, Code::Cancelled),
    ] {
        for unary in [true, false] {
            let (channel, mut engine) = Engine::connect(Config::default()).await;
            let test = TestClient::new(channel);
            let answering = async {
                engine.called().await;
                engine.act(move |machine, keys| {
                    let key = keys[0];
                    engine::head(
                        machine,
                        key,
                        &[("grpc-status", claim), ("x-first", "1")],
                        false,
                    );
                    if matches!(behind, Trailers(_, true) | Nothing { message: true }) {
                        engine::message(machine, key, &[8, 7]);
                    }
                    match behind {
                        Trailers(code, _) => {
                            engine::trailers(machine, key, &[("grpc-status", code)]);
                        }
                        Unnamed => engine::trailers(machine, key, &[("x-last", "1")]),
                        Nothing { .. } => {
                            machine.send(key, Payload::Copied(&[]), true);
                        }
                        Reset => machine.reset(key, rpc_http2::ErrorCode::CANCEL),
                    }
                });
                std::future::pending().await
            };
            let calling = async {
                if unary {
                    let answer = test.echo(Request::new(Message::default())).await;
                    return answer.map(|answer| answer.into_inner().number);
                }
                let mut stream = test.server_stream(StreamRequest::default());
                assert_eq!(stream.headers().await?.get("x-first"), Some("1"));
                let number = stream.recv().await?.map_or(0, |message| message.number);
                stream.recv().await.map(|end| {
                    assert!(end.is_none());
                    number
                })
            };
            let outcome = tokio::select! {
                outcome = calling => outcome,
                () = answering => unreachable!(),
            };
            let case = format!("{claim} {behind:?} {unary}");
            match outcome {
                Ok(number) => assert_eq!((code, number), (Code::Ok, 7), "{case}"),
                Err(status) => {
                    assert_eq!(status.code(), code, "{case}: {status}");
                    assert_eq!(
                        status.leading_metadata().get("x-first"),
                        Some("1"),
                        "{case}"
                    );
                }
            }
        }
    }
}

/// As servers answer whose libraries end a stream by a frame of its own.
#[tokio::test(start_paused = true)]
async fn a_stream_of_nothing_may_end_by_its_head_and_an_empty_frame() {
    let (channel, mut engine) = Engine::connect(Config::default()).await;
    let mut stream = TestClient::new(channel).server_stream(StreamRequest::default());
    engine.called().await;
    engine.act(|machine, keys| {
        engine::head(machine, keys[0], &[("grpc-status", "0")], false);
        machine.send(keys[0], Payload::Copied(&[]), true);
    });
    assert_eq!(stream.recv().await.unwrap(), None);
}
