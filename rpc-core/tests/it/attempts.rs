//! What is tried again, by servers that refuse.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rpc_core::{Channel, Code};
use rpc_testkit::proto::{Message, StreamRequest, TestClient};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::scripted::{self, Asked};

fn message(number: i64) -> Message {
    Message {
        number,
        ..Message::default()
    }
}

async fn client(uri: &str) -> TestClient {
    TestClient::new(Channel::connect(uri).await.unwrap())
}

/// Two messages of number 1 and 2 as they are on the wire.
const ONE_AND_TWO: [u8; 14] = [0, 0, 0, 0, 2, 8, 1, 0, 0, 0, 0, 2, 8, 2];

/// Refuses the first call once a piece of it is there, and tells what the second one had.
async fn refusing() -> (String, mpsc::UnboundedReceiver<Vec<u8>>) {
    let (had, bodies) = mpsc::unbounded_channel();
    let uri = scripted::serve(move |mut asked: Asked| {
        let had = had.clone();
        async move {
            if asked.number == 0 {
                asked.data().await.unwrap();
                asked.answer.send_reset(h2::Reason::REFUSED_STREAM);
                return;
            }
            had.send(asked.rest().await).unwrap();
            asked.ok();
        }
    })
    .await;
    (uri, bodies)
}

#[tokio::test]
async fn a_refused_upload_is_sent_again_from_its_start() {
    let (uri, mut bodies) = refusing().await;
    let test = client(&uri).await;
    let mut upload = test.client_stream(());
    upload.send(message(1)).await.unwrap();
    upload.send(message(2)).await.unwrap();
    upload.finish().await.unwrap();
    assert_eq!(bodies.recv().await.unwrap(), ONE_AND_TWO);
}

#[tokio::test]
async fn a_refused_chat_goes_on_where_it_is() {
    let (uri, mut bodies) = refusing().await;
    let test = client(&uri).await;
    let (mut out, mut back) = test.chat(());
    out.send(message(1)).await.unwrap();
    let answer = tokio::spawn(async move { back.recv().await });
    // It may be sent on the first stream, between the two, or on the second.
    out.send(message(2)).await.unwrap();
    out.finish().await.unwrap();
    assert_eq!(answer.await.unwrap().unwrap(), Some(Message::default()));
    assert_eq!(bodies.recv().await.unwrap(), ONE_AND_TWO);
}

#[tokio::test]
async fn an_upload_that_is_too_long_is_not_sent_again() {
    let uri = scripted::serve(async |mut asked: Asked| {
        let mut length = 0;
        while length < 300 * 1024 {
            length += asked.data().await.unwrap().len();
        }
        asked.answer.send_reset(h2::Reason::REFUSED_STREAM);
    })
    .await;
    let test = client(&uri).await;
    let mut upload = test.client_stream(());
    let long = Message {
        body: vec![0; 300 * 1024],
        ..Message::default()
    };
    upload.send(long).await.unwrap();
    let status = upload.finish().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(status.attempt(), 1, "{status}");
}

#[tokio::test]
async fn a_stream_whose_answer_has_begun_is_not_made_again() {
    let uri = scripted::serve(async |mut asked: Asked| {
        let head = http::Response::builder()
            .header("content-type", "application/grpc")
            .body(())
            .unwrap();
        let mut body = asked.answer.send_response(head, false).unwrap();
        body.send_data(bytes::Bytes::from_static(&[0; 5]), false)
            .unwrap();
        asked.data().await;
        body.send_reset(h2::Reason::REFUSED_STREAM);
    })
    .await;
    let test = client(&uri).await;
    let (mut out, mut back) = test.chat(());
    back.recv().await.unwrap().unwrap();
    out.send(message(1)).await.unwrap();
    let status = back.recv().await.unwrap_err();
    assert_eq!(
        (status.code(), status.attempt()),
        (Code::Unavailable, 1),
        "{status}"
    );
}

#[tokio::test]
async fn a_handler_sees_how_many_attempts_there_were() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let uri = scripted::serve(move |asked: Asked| {
        let tell = tell.clone();
        async move {
            let before = asked.headers.get("grpc-previous-rpc-attempts");
            tell.send(before.map(|value| value.to_str().unwrap().to_owned()))
                .unwrap();
            if asked.number < 2 {
                asked.fail("14", &[]);
            } else {
                asked.ok();
            }
        }
    })
    .await;
    client(&uri)
        .await
        .echo_idempotent(message(1))
        .await
        .unwrap();
    assert_eq!(told.recv().await.unwrap(), None);
    assert_eq!(told.recv().await.unwrap().as_deref(), Some("1"));
    assert_eq!(told.recv().await.unwrap().as_deref(), Some("2"));
}

/// A server that fails every call with these fields, and how many it has had.
async fn failing(fields: &'static [(&str, &str)]) -> (String, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let calls = Arc::clone(&count);
    let uri = scripted::serve(move |asked: Asked| {
        calls.fetch_add(1, Ordering::SeqCst);
        async move { asked.fail("14", fields) }
    })
    .await;
    (uri, count)
}

#[tokio::test]
async fn an_idempotent_call_is_tried_three_times() {
    let (uri, count) = failing(&[]).await;
    let status = client(&uri)
        .await
        .echo_idempotent(message(1))
        .await
        .unwrap_err();
    assert_eq!(
        (status.attempt(), count.load(Ordering::SeqCst)),
        (3, 3),
        "{status}"
    );
}

/// A server that refuses every call, and how many streams it has had.
async fn busy() -> (String, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let calls = Arc::clone(&count);
    let uri = scripted::serve(move |mut asked: Asked| {
        calls.fetch_add(1, Ordering::SeqCst);
        async move { asked.answer.send_reset(h2::Reason::REFUSED_STREAM) }
    })
    .await;
    (uri, count)
}

#[tokio::test]
async fn refused_calls_are_repeated_once_without_delay_and_then_by_the_budget() {
    let (uri, count) = busy().await;
    let test = client(&uri).await;
    for call in 0..100 {
        let status = if call % 2 == 0 {
            test.echo(message(1)).await.unwrap_err()
        } else {
            test.echo_idempotent(message(1)).await.unwrap_err()
        };
        assert_eq!(status.code(), Code::Unavailable, "{status}");
    }
    // What a new channel may repeat beside.
    let count = count.load(Ordering::SeqCst);
    assert!((200..=202).contains(&count), "{count}");
}

/// Hands each call on to a server further down.
struct Hop(TestClient);

/// What a middle server does.
impl Hop {
    async fn serve(below: &str) -> rpc_testkit::Running {
        let hop = Self(client(below).await);
        let service = rpc_testkit::proto::TestServer::new(rpc_testkit::TestService::default());
        let server = rpc_core::Server::builder()
            .add_service(service)
            .interceptor(hop)
            .bind("127.0.0.1:0");
        rpc_testkit::run(server.await.unwrap())
    }
}

impl rpc_core::server::ServerInterceptor for Hop {
    async fn intercept(
        &self,
        _: rpc_core::server::ServerCall,
        _: rpc_core::server::ServerNext<'_>,
    ) -> Result<rpc_core::server::ServerReply, rpc_core::Status> {
        let failed = self.0.echo_idempotent(message(1)).await.unwrap_err();
        // As a handler does that says in its own words what has failed.
        Err(rpc_core::Status::unavailable("the store is down").with_source(failed))
    }
}

#[tokio::test]
async fn only_the_hop_next_to_a_failure_repeats_the_call() {
    for fields in [&[][..], &[("grpc-retry-pushback-ms", "1")]] {
        let (bottom, count) = failing(fields).await;
        let middle = Hop::serve(&bottom).await;
        let top = Hop::serve(&middle.uri).await;
        let status = client(&top.uri)
            .await
            .echo_idempotent(message(1))
            .await
            .unwrap_err();
        assert_eq!((status.code(), status.attempt()), (Code::Unavailable, 1));
        let pushback = status.metadata().get("grpc-retry-pushback-ms");
        assert_eq!(pushback, Some("-1"));
        assert_eq!(count.load(Ordering::SeqCst), 3);
    }
}

#[tokio::test]
async fn what_must_not_be_repeated_is_tried_once() {
    let (uri, count) = failing(&[]).await;
    client(&uri).await.echo(message(1)).await.unwrap_err();
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_server_can_forbid_another_attempt() {
    for fields in [
        &[("grpc-retry-pushback-ms", "-1")],
        &[("grpc-retry-pushback-ms", "soon")],
    ] {
        let (uri, count) = failing(fields).await;
        let status = client(&uri)
            .await
            .echo_idempotent(message(1))
            .await
            .unwrap_err();
        assert_eq!(count.load(Ordering::SeqCst), 1);
        assert!(status.metadata().get("grpc-retry-pushback-ms").is_some());
    }
}

#[tokio::test]
async fn a_server_can_put_the_next_attempt_off() {
    let (uri, count) = failing(&[("grpc-retry-pushback-ms", "40")]).await;
    let started = Instant::now();
    client(&uri)
        .await
        .echo_idempotent(message(1))
        .await
        .unwrap_err();
    assert!(started.elapsed() >= Duration::from_millis(80));
    assert_eq!(count.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_caller_can_forbid_another_attempt() {
    let (uri, count) = failing(&[]).await;
    let request = rpc_core::Request::new(message(1)).without_retry();
    client(&uri)
        .await
        .echo_idempotent(request)
        .await
        .unwrap_err();
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

/// Reads one HTTP/2 frame: its type, flags and length on the wire.
async fn frame(stream: &mut TcpStream) -> Option<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut payload).await.ok()?;
    Some((head[3], head[4], payload))
}

/// Speaks HTTP/2 until the first call, which it says with a GOAWAY that it has not looked at.
async fn go_away(mut stream: TcpStream) {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    stream
        .write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    while let Some((kind, flags, payload)) = frame(&mut stream).await {
        match (kind, flags) {
            (1, _) => break,
            (4, 0) => stream
                .write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0])
                .await
                .unwrap(),
            (6, 0) => {
                stream
                    .write_all(&[0, 0, 8, 6, 1, 0, 0, 0, 0])
                    .await
                    .unwrap();
                stream.write_all(&payload).await.unwrap();
            }
            _ => {}
        }
    }
    let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    stream.write_all(&goaway).await.unwrap();
    // The client closes once it knows.
    while frame(&mut stream).await.is_some() {}
}

/// A server whose first connection goes away at the first call.
async fn leaving() -> String {
    let server = rpc_testkit::serve().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (first, _) = listener.accept().await.unwrap();
        tokio::spawn(go_away(first));
        while let Ok((mut from, _)) = listener.accept().await {
            let address = server.uri.trim_start_matches("http://").to_owned();
            tokio::spawn(async move {
                let mut to = TcpStream::connect(address).await.unwrap();
                tokio::io::copy_bidirectional(&mut from, &mut to).await
            });
        }
    });
    uri
}

#[tokio::test]
async fn a_call_above_the_last_stream_of_a_goaway_is_made_again() {
    let test = client(&leaving().await).await;
    let waiting = rpc_core::Request::new(message(3)).with_wait_for_ready();
    assert_eq!(test.echo(waiting).await.unwrap().get_ref().number, 3);
}

#[tokio::test]
async fn an_upload_above_the_last_stream_of_a_goaway_is_made_again() {
    let test = client(&leaving().await).await;
    let mut upload = test.client_stream(rpc_core::Request::new(()).with_wait_for_ready());
    for number in [1, 2, 3] {
        upload.send(message(number)).await.unwrap();
    }
    assert_eq!(upload.finish().await.unwrap().get_ref().number, 6);
}

#[tokio::test]
async fn a_stream_above_the_last_stream_of_a_goaway_is_made_again() {
    let test = client(&leaving().await).await;
    let request = StreamRequest {
        count: 3,
        ..StreamRequest::default()
    };
    let mut messages = test.server_stream(rpc_core::Request::new(request).with_wait_for_ready());
    let mut count = 0;
    while messages.recv().await.unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 3);
}
