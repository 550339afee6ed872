//! Calls over HTTP/1.1: how they end arrives, or no handler runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use rpc_core::server::{Router, Service};
use rpc_core::{Codec, Method, Request, Response, Server, Status};
use rpc_testkit::{Running, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ONE: Method<Bytes, Bytes> = Method::unary("/demo.Http1/One", Codec::raw(), Codec::raw());
const MANY: Method<Bytes, Bytes> =
    Method::server_streaming("/demo.Http1/Many", Codec::raw(), Codec::raw());

/// Counts the handlers that have run. `One` has trailing metadata, `Many` fails after a message.
async fn serve() -> (Arc<AtomicUsize>, String, Running) {
    let ran = Arc::new(AtomicUsize::new(0));
    let service = Service::new("demo.Http1")
        .unary(&ONE, &ran, |ran, _: Request<Bytes>| async move {
            ran.fetch_add(1, Ordering::SeqCst);
            let mut response = Response::new(Bytes::from_static(b"only"));
            response.trailers_mut().append("x-trailer", "1").unwrap();
            response.trailers_mut().append("x-trailer", "2").unwrap();
            Ok(response)
        })
        .server_streaming(
            &MANY,
            &ran,
            |ran, _: Request<Bytes>, mut responses| async move {
                ran.fetch_add(1, Ordering::SeqCst);
                let _ = responses.send(Bytes::from_static(b"first")).await;
                let lost = Status::data_loss("the second is gone").with_details(vec![1, 2].into());
                responses.finish(Err(lost))
            },
        );
    let server = Server::builder()
        .router(Router::new().add_service(service))
        .bind("127.0.0.1:0")
        .await
        .unwrap();
    let address = server.local_addr().to_string();
    (ran, address, run(server))
}

/// All that the server says to a call, in lower case.
async fn call(address: &str, path: &str, version: &str, fields: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "POST {path} {version}\r\nhost: a\r\n{fields}content-type: application/grpc\r\nconnection: close\r\ncontent-length: 5\r\n\r\n\0\0\0\0\0"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).to_lowercase()
}

#[tokio::test]
async fn a_failure_behind_a_message_is_seen_over_http_1() {
    let (_, address, _server) = serve().await;
    for te in ["te: trailers", "TE: Trailers", "te: deflate, trailers"] {
        let answer = call(&address, MANY.path(), "HTTP/1.1", &format!("{te}\r\n")).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("http/1.1 200 "), "{answer}");
        assert!(head.contains("transfer-encoding: chunked"), "{answer}");
        let announced = head.lines().find(|line| line.starts_with("trailer:"));
        for name in ["grpc-status", "grpc-message", "grpc-status-details-bin"] {
            assert!(announced.unwrap().contains(name), "{answer}");
        }
        let (_, trailers) = body.split_once("\r\n0\r\n").unwrap();
        assert!(body.contains("first"), "{answer}");
        assert!(trailers.contains("grpc-status: 15\r\n"), "{answer}");
        assert!(
            trailers.contains("grpc-message: the second is gone\r\n"),
            "{answer}"
        );
        assert!(
            trailers.contains("grpc-status-details-bin: aqi\r\n"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn trailing_metadata_of_one_response_arrives_over_http_1() {
    let (_, address, _server) = serve().await;
    let answer = call(&address, ONE.path(), "HTTP/1.1", "te: trailers\r\n").await;
    let (_, trailers) = answer.split_once("\r\n0\r\n").unwrap();
    assert!(trailers.contains("grpc-status: 0\r\n"), "{answer}");
    assert!(trailers.contains("x-trailer: 1\r\n"), "{answer}");
    assert!(trailers.contains("x-trailer: 2\r\n"), "{answer}");
}

#[tokio::test]
async fn who_cannot_take_a_status_is_refused_before_a_handler_runs() {
    let (ran, address, _server) = serve().await;
    for (version, fields) in [
        ("HTTP/1.1", ""),
        ("HTTP/1.1", "te: gzip\r\n"),
        ("HTTP/1.0", "te: trailers\r\n"),
        ("HTTP/1.0", ""),
    ] {
        for path in [ONE.path(), MANY.path()] {
            let answer = call(&address, path, version, fields).await;
            let status = answer.split_whitespace().nth(1);
            assert_eq!(status, Some("505"), "{answer}");
            assert!(answer.contains("use http/2"), "{answer}");
        }
    }
    assert_eq!(ran.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_failure_without_a_message_is_in_the_head_over_http_1() {
    let (_, address, _server) = serve().await;
    let answer = call(&address, "/demo.Http1/None", "HTTP/1.1", "te: trailers\r\n").await;
    let (head, _) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("grpc-status: 12"), "{answer}");
}
