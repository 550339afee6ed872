//! Deadlines that pass while something arrives, while nothing does, and while nobody looks.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rpc_core::server::{SendStream, Service};
use rpc_core::{Channel, Code, Codec, Method, Request, Server, Status};
use rpc_http2::{Config, ErrorCode};
use rpc_testkit::proto::{Message, StreamRequest, TestClient};
use rpc_testkit::run;
use tokio::time::{Instant, sleep};

use crate::engine::{self, Engine};

const HALF: Duration = Duration::from_millis(500);
/// By so much later a call has ended.
const SOON: Duration = Duration::from_millis(100);

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn within_half<T>(message: T) -> Request<T> {
    Request::new(message).with_timeout(HALF)
}

fn assert_ended(status: &Status, start: Instant) {
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    let elapsed = start.elapsed();
    assert!(elapsed >= HALF && elapsed < HALF + SOON, "{elapsed:?}");
}

/// The only stream of a server was cancelled at the deadline.
async fn assert_cancelled(engine: &mut Engine, start: Instant) {
    let (code, at) = engine.resets.recv().await.unwrap();
    assert_eq!(code, ErrorCode::CANCEL);
    let after = at - start;
    assert!(after >= HALF && after < HALF + SOON, "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_at_its_deadline_while_messages_arrive() {
    for batch in [1, 100] {
        let (channel, mut engine) = Engine::connect(Config::default()).await;
        let start = Instant::now();
        let test = TestClient::new(channel);
        let mut stream = test.server_stream(within_half(StreamRequest::default()));
        engine.called().await;
        engine.act(|machine, keys| engine::head(machine, keys[0], &[], false));
        let sending = async {
            for _ in 0..1000 {
                engine.act(move |machine, keys| {
                    (0..batch).for_each(|_| engine::message(machine, keys[0], &[]));
                });
                sleep(millis(10)).await;
            }
        };
        let reading = async {
            loop {
                match stream.recv().await {
                    Ok(message) => assert!(message.is_some()),
                    Err(status) => break status,
                }
                sleep(millis(7)).await;
            }
        };
        let status = tokio::select! {
            status = reading => status,
            () = sending => panic!("it still receives"),
        };
        assert_ended(&status, start);
        assert_cancelled(&mut engine, start).await;
        let again = stream.recv().await.unwrap_err();
        assert_eq!(again.code(), Code::DeadlineExceeded, "{again}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_ends_at_its_deadline_while_there_is_room() {
    for chat in [false, true] {
        let (channel, mut engine) = Engine::connect(Config::default()).await;
        let start = Instant::now();
        let test = TestClient::new(channel);
        let status = if chat {
            let (mut requests, mut responses) = test.chat(within_half(()));
            let status = loop {
                if let Err(status) = requests.send(Message::default()).await {
                    break status;
                }
                sleep(millis(7)).await;
            };
            assert_ended(&responses.recv().await.unwrap_err(), start);
            status
        } else {
            let mut upload = test.client_stream(within_half(()));
            let status = loop {
                if let Err(status) = upload.send(Message::default()).await {
                    break status;
                }
                sleep(millis(7)).await;
            };
            assert_ended(&upload.finish().await.unwrap_err(), start);
            status
        };
        assert_ended(&status, start);
        assert!(status.is_call_ended());
        assert_cancelled(&mut engine, start).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_peer_hears_of_a_deadline_that_nobody_waits_for() {
    let (channel, mut engine) = Engine::connect(Config::default()).await;
    let start = Instant::now();
    let test = TestClient::new(channel);
    let (_requests, _responses) = test.chat(within_half(()));
    engine.called().await;
    assert_cancelled(&mut engine, start).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_whole_by_the_deadline_is_read_after_it() {
    let (channel, mut engine) = Engine::connect(Config::default()).await;
    let test = TestClient::new(channel);
    let mut stream = test.server_stream(within_half(StreamRequest::default()));
    engine.called().await;
    engine.act(|machine, keys| {
        engine::head(machine, keys[0], &[], false);
        (0..10).for_each(|_| engine::message(machine, keys[0], &[]));
        engine::trailers(machine, keys[0], &[("grpc-status", "0"), ("x-last", "1")]);
    });
    for _ in 0..10 {
        assert!(stream.recv().await.unwrap().is_some());
        sleep(millis(100)).await;
    }
    assert_eq!(stream.recv().await.unwrap(), None);
    assert_eq!(stream.trailers().unwrap().get("x-last"), Some("1"));
}

/// Makes a call of each kind; how it ends.
async fn outcome(channel: &Channel, kind: usize) -> Status {
    let test = TestClient::new(channel.clone());
    match kind {
        0 => test
            .echo(within_half(Message::default()))
            .await
            .unwrap_err(),
        1 => test
            .echo_idempotent(within_half(Message::default()))
            .await
            .unwrap_err(),
        2 => {
            let mut stream = test.server_stream(within_half(StreamRequest::default()));
            stream.recv().await.unwrap_err()
        }
        3 => test
            .client_stream(within_half(()))
            .finish()
            .await
            .unwrap_err(),
        _ => {
            let (_requests, mut responses) = test.chat(within_half(()));
            responses.recv().await.unwrap_err()
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_reset_as_its_deadline_passes_has_exceeded_it() {
    let own = [(HALF - millis(50), Code::Cancelled)];
    let late = [HALF - millis(2), HALF, HALF + millis(1)].map(|at| (at, Code::DeadlineExceeded));
    for ((at, code), kind) in own
        .into_iter()
        .chain(late)
        .flat_map(|case| (0..5).map(move |kind| (case, kind)))
    {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let codes = Arc::clone(&seen);
        let builder =
            Channel::builder().observer(move |call: &rpc_core::client::FinishedCall<'_>| {
                codes.lock().unwrap().push(call.code);
            });
        let (channel, mut engine) = Engine::connect_with(Config::default(), builder).await;
        let start = Instant::now();
        let ending = async {
            engine.called().await;
            tokio::time::sleep_until(start + at).await;
            engine.act(|machine, keys| machine.reset(keys[0], ErrorCode::CANCEL));
            std::future::pending().await
        };
        let status = tokio::select! {
            status = outcome(&channel, kind) => status,
            () = ending => unreachable!(),
        };
        assert_eq!(status.code(), code, "{kind} after {at:?}: {status}");
        assert_eq!(*seen.lock().unwrap(), [code], "{kind} after {at:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_lost_as_a_deadline_passes_has_exceeded_it() {
    for kind in 0..5 {
        let (channel, mut engine) = Engine::connect(Config::default()).await;
        let start = Instant::now();
        let ending = async {
            engine.called().await;
            tokio::time::sleep_until(start + HALF).await;
            engine.closed.abort();
            std::future::pending().await
        };
        let status = tokio::select! {
            status = outcome(&channel, kind) => status,
            () = ending => unreachable!(),
        };
        assert_ended(&status, start);
    }
}

/// The client goes away as its own clock says so; its server has to see what that is.
#[tokio::test(start_paused = true)]
async fn both_ends_of_a_call_see_that_its_deadline_has_passed() {
    const HANG: Method<Bytes, Bytes> = Method::unary("/any.S/Hang", Codec::raw(), Codec::raw());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let codes = Arc::clone(&seen);
    let state = Arc::new(());
    let service = Service::new("any.S")
        .unary(&HANG, &state, |_, _: Request<Bytes>| {
            std::future::pending::<Result<rpc_core::Response<Bytes>, Status>>()
        })
        .server_streaming(
            &POUR,
            &state,
            async |_, _: Request<Bytes>, mut responses: SendStream<Bytes>| {
                loop {
                    if let Err(status) = responses.send(Bytes::new()).await {
                        return responses.finish(Err(status));
                    }
                    sleep(millis(30)).await;
                }
            },
        );
    let server = Server::builder().add_service(service).observer(
        move |call: &rpc_core::client::FinishedCall<'_>| codes.lock().unwrap().push(call.code),
    );
    let channel = Channel::in_process(server).unwrap();
    for round in 0..20 {
        // The server's clock begins within the millisecond of the client's, before it or behind it.
        sleep(Duration::from_micros(130 * round)).await;
        let start = Instant::now();
        let status = channel
            .unary(&HANG, within_half(Bytes::new()))
            .await
            .unwrap_err();
        assert_ended(&status, start);
        let start = Instant::now();
        let mut stream = channel.server_streaming(&POUR, within_half(Bytes::new()));
        let status = loop {
            if let Err(status) = stream.recv().await {
                break status;
            }
        };
        assert_ended(&status, start);
    }
    sleep(SOON).await;
    assert_eq!(*seen.lock().unwrap(), [Code::DeadlineExceeded; 40]);
}

const POUR: Method<Bytes, Bytes> =
    Method::server_streaming("/any.S/Pour", Codec::raw(), Codec::raw());

/// The client of the h2 crate has no deadline of its own, and gives no room back.
#[tokio::test]
async fn the_end_of_a_late_response_does_not_wait_behind_what_is_unsent() {
    let service = Service::new("any.S").server_streaming(
        &POUR,
        &Arc::new(()),
        async |_, _request: Request<Bytes>, mut responses: SendStream<Bytes>| {
            loop {
                if let Err(status) = responses.send(vec![7; 100_000].into()).await {
                    return responses.finish(Err(status));
                }
            }
        },
    );
    let server = run(Server::builder()
        .add_service(service)
        .bind("127.0.0.1:0")
        .await
        .unwrap());
    let socket = tokio::net::TcpStream::connect(server.uri.trim_start_matches("http://"))
        .await
        .unwrap();
    let (mut h2, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(format!("{}/any.S/Pour", server.uri))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "200m")
        .body(())
        .unwrap();
    let (response, mut body) = h2.send_request(request, false).unwrap();
    body.send_data(Bytes::from_static(&[0; 5]), true).unwrap();
    let mut body = response.await.unwrap().into_body();
    let mut received = 0;
    let end = tokio::time::timeout(Duration::from_secs(20), async {
        while let Some(data) = body.data().await {
            received += data.unwrap().len();
        }
        body.trailers().await.unwrap().unwrap()
    });
    let trailers = end.await.expect("the end waits for room");
    assert_eq!(trailers["grpc-status"], "4");
    assert!(received <= 65_535, "{received}");
}
