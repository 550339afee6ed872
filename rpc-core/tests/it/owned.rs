//! What is left of connections that are lost, and who is told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rpc_core::client::FinishedCall;
use rpc_core::{Channel, Code, Request, Server, inside};
use rpc_http2::frame::{PREFACE, flag, kind};
use rpc_testkit::TestService;
use rpc_testkit::proto::{Message, TestClient, TestServer};
use rpc_testkit::raw::{frame, message};
use tokio::io::AsyncWriteExt as _;

use crate::pipes;

/// Sends this behind the preface and cuts the connection; gives how its calls ended for the observer,
/// and whether anything is left of the server.
async fn cut_after(octets: &[u8]) -> (Vec<Code>, bool) {
    let (mut client, io) = tokio::io::duplex(1 << 20);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let observer = {
        let seen = Arc::clone(&seen);
        move |call: &FinishedCall<'_>| seen.lock().unwrap().push(call.code)
    };
    let builder = Server::builder()
        .add_service(TestServer::new(TestService::default()))
        .observer(observer);
    let (shutdown, serving) = inside::serve(builder, io);
    let serving = tokio::spawn(serving);
    let settings = frame(kind::SETTINGS, 0, 0, &[]);
    let all = [&PREFACE[..], &settings, octets].concat();
    client.write_all(&all).await.unwrap();
    // All of it is taken in.
    tokio::time::sleep(Duration::from_millis(10)).await;
    drop(client);
    serving.await.unwrap();
    drop(shutdown);
    // Handlers that were aborted are dropped by the runtime.
    tokio::time::sleep(Duration::from_millis(10)).await;
    // The observer belongs to the server, and each connection to its calls until they have ended.
    let left = Arc::strong_count(&seen) > 1;
    let seen = seen.lock().unwrap().clone();
    (seen, left)
}

#[tokio::test(start_paused = true)]
async fn a_cut_upload_leaks_no_connection_and_its_observer_is_told() {
    let head = |stream, path, more: &[(&str, &str)]| {
        let path = format!("/testkit.v1.Test/{path}");
        let block = pipes::request(&path, more);
        frame(kind::HEADERS, flag::END_HEADERS, stream, &block)
    };
    let part = |stream| frame(kind::DATA, 0, stream, &message(&[7; 5000])[..3000]);
    let whole = |stream, end| frame(kind::DATA, end, stream, &message(&[]));
    for path in ["Echo", "Hang", "ClientStream", "Chat", "ServerStream"] {
        for more in [&[][..], &[("grpc-timeout", "1H")]] {
            let head = head(1, path, more);
            for octets in [
                head.clone(),
                [head.clone(), part(1)].concat(),
                [head.clone(), whole(1, 0)].concat(),
                [head.clone(), whole(1, 0), part(1)].concat(),
            ] {
                let (seen, left) = cut_after(&octets).await;
                let what = format!("{path} with {more:?} cut after {}", octets.len());
                assert_eq!(seen, [Code::Cancelled], "{what}");
                assert!(!left, "{what}: the connection is still there");
            }
        }
    }
    let (seen, left) =
        cut_after(&[head(1, "Hang", &[]), whole(1, flag::END_STREAM)].concat()).await;
    assert_eq!((&*seen, left), (&[Code::Cancelled][..], false));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_the_protocol_leaks_nothing() {
    let block = pipes::request("/testkit.v1.Test/Echo", &[]);
    let head = frame(kind::HEADERS, flag::END_HEADERS, 1, &block);
    let wrong = frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4]);
    let (seen, left) = cut_after(&[head, wrong].concat()).await;
    assert_eq!((&*seen, left), (&[Code::Cancelled][..], false));
}

/// Whoever keeps a call that has ended keeps a little memory, and no socket.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_kept_does_not_keep_its_socket() {
    let (connector, mut ends) = pipes::pipes();
    let channel = Channel::builder()
        .connector(connector)
        .lazy("http://test:1")
        .unwrap();
    let test = TestClient::new(channel);
    let (_requests, _responses) = test.chat(());
    let mut pipe = ends.recv().await.unwrap();
    let settings = frame(kind::SETTINGS, 0, 0, &[]);
    pipe.write_all(&settings).await.unwrap();
    tokio::io::AsyncReadExt::read_exact(&mut pipe, &mut [0; PREFACE.len()])
        .await
        .unwrap();
    pipes::read_frames(&mut pipe, kind::HEADERS, 1).await;
    let wrong = frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4]);
    pipe.write_all(&wrong).await.unwrap();
    let closed = pipes::read_to_end(&mut pipe);
    let closed = tokio::time::timeout(Duration::from_secs(60), closed).await;
    assert!(closed.is_ok(), "the socket is still open");
}

#[tokio::test(start_paused = true)]
async fn lost_connections_of_a_client_leave_nothing_either() {
    let (connector, mut ends) = pipes::pipes();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let observer = {
        let seen = Arc::clone(&seen);
        move |call: &FinishedCall<'_>| seen.lock().unwrap().push(call.code)
    };
    let channel = Channel::builder()
        .connector(connector)
        .observer(observer)
        .lazy("http://test:1")
        .unwrap();
    let test = TestClient::new(channel);
    let calls = async {
        let hang = test.hang(Request::new(Message::default()));
        let (_requests, mut responses) = test.chat(());
        let (one, other) = tokio::join!(hang, responses.recv());
        (one.unwrap_err().code(), other.unwrap_err().code())
    };
    let server = async {
        let mut pipe = ends.recv().await.unwrap();
        let settings = frame(kind::SETTINGS, 0, 0, &[]);
        pipe.write_all(&settings).await.unwrap();
        tokio::io::AsyncReadExt::read_exact(&mut pipe, &mut [0; PREFACE.len()])
            .await
            .unwrap();
        pipes::read_frames(&mut pipe, kind::HEADERS, 2).await;
    };
    let (codes, ()) = tokio::join!(calls, server);
    assert_eq!(codes, (Code::Unavailable, Code::Unavailable));
    drop(test);
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(seen.lock().unwrap().len(), 2);
    assert_eq!(Arc::strong_count(&seen), 1);
}
