//! The name of a codec in `content-type`: sent, matched, and said in answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use rpc_core::server::{Router, Service};
use rpc_core::{Channel, Code, Codec, Method, Request, Response, Server, Status};
use rpc_testkit::{Running, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::scripted::{self, Asked};

fn encode(message: &String, buffer: &mut BytesMut) {
    buffer.extend_from_slice(format!("{message:?}").as_bytes());
}

fn decode(octets: Bytes) -> Result<String, rpc_core::DecodeError> {
    let text = std::str::from_utf8(&octets)?;
    let text = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    Ok(text.ok_or("it is no string")?.to_owned())
}

const JSON: Codec<String> = Codec::new("json", encode, decode);
const ECHO: Method<String, String> = Method::unary("/demo.Json/Echo", JSON, JSON);
const TWICE: Method<String, String> = Method::server_streaming("/demo.Json/Twice", JSON, JSON);
const FAIL: Method<String, String> = Method::unary("/demo.Json/Fail", JSON, JSON);
const PROTO: Method<Bytes, Bytes> = Method::unary("/demo.Json/Proto", Codec::raw(), Codec::raw());

/// Counts the handlers that have run.
async fn serve() -> (Arc<AtomicUsize>, String, Running) {
    let ran = Arc::new(AtomicUsize::new(0));
    let service = Service::new("demo.Json")
        .unary(&ECHO, &ran, |ran, request: Request<String>| async move {
            ran.fetch_add(1, Ordering::SeqCst);
            Ok(Response::new(request.into_inner()))
        })
        .server_streaming(
            &TWICE,
            &ran,
            |ran, request: Request<String>, mut responses| async move {
                ran.fetch_add(1, Ordering::SeqCst);
                let sending = async {
                    responses.send(request.get_ref().clone()).await?;
                    responses.send(request.into_inner()).await
                };
                let sent = sending.await;
                responses.finish(sent)
            },
        )
        .unary(&FAIL, &ran, |ran, _: Request<String>| async move {
            ran.fetch_add(1, Ordering::SeqCst);
            Err(Status::aborted("as asked"))
        })
        .unary(&PROTO, &ran, |ran, request: Request<Bytes>| async move {
            ran.fetch_add(1, Ordering::SeqCst);
            Ok(Response::new(request.into_inner()))
        });
    let server = Server::builder()
        .router(Router::new().add_service(service))
        .bind("127.0.0.1:0")
        .await
        .unwrap();
    let address = server.local_addr().to_string();
    (ran, address, run(server))
}

/// The HTTP status and the fields of the answer to a call of this type.
async fn answer(
    requests: &mut h2::client::SendRequest<Bytes>,
    path: &str,
    content_type: &str,
) -> (u16, HeaderMap) {
    let request = http::Request::post(format!("http://localhost{path}"))
        .header("te", "trailers")
        .header("content-type", content_type);
    let (response, mut body) = requests
        .send_request(request.body(()).unwrap(), false)
        .unwrap();
    // Fails when the server has answered already.
    let _ = body.send_data(Bytes::from_static(b"\0\0\0\0\x03\"a\""), true);
    let (head, mut body) = response.await.unwrap().into_parts();
    let mut fields = head.headers;
    while let Some(data) = body.data().await {
        body.flow_control()
            .release_capacity(data.unwrap().len())
            .unwrap();
    }
    fields.extend(body.trailers().await.unwrap().unwrap_or_default());
    (head.status.as_u16(), fields)
}

#[tokio::test]
async fn a_server_serves_the_codecs_that_its_methods_have() {
    let (ran, address, _server) = serve().await;
    let stream = TcpStream::connect(&address).await.unwrap();
    let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    // Twice: heads that were there before are known.
    for round in 1..=3 {
        for (path, refused) in [
            (ECHO.path(), ["", "+proto", "+foo", "+"]),
            (TWICE.path(), ["", "+proto", "+foo", "+"]),
            (PROTO.path(), ["+json", "+foo", "+protobuf", "+"]),
        ] {
            for subtype in refused {
                let content_type = format!("application/grpc{subtype}");
                let (http, fields) = answer(&mut requests, path, &content_type).await;
                assert_eq!(http, 415, "{path} {content_type}");
                assert_eq!(fields.get("grpc-status"), None, "{path} {content_type}");
            }
        }
        assert_eq!(ran.load(Ordering::SeqCst), (round - 1) * 6);
        for (path, content_type, status, answers) in [
            (
                ECHO.path(),
                "application/grpc+json",
                "0",
                "application/grpc+json",
            ),
            (
                TWICE.path(),
                "application/grpc+JSON; v=1",
                "0",
                "application/grpc+json",
            ),
            (
                FAIL.path(),
                "application/grpc+json",
                "10",
                "application/grpc+json",
            ),
            (PROTO.path(), "application/grpc", "0", "application/grpc"),
            (
                PROTO.path(),
                "application/grpc+proto",
                "0",
                "application/grpc",
            ),
            (
                PROTO.path(),
                "application/grpc;v=1",
                "0",
                "application/grpc",
            ),
            // There is no method that could have another codec.
            (
                "/demo.Json/None",
                "application/grpc+foo",
                "12",
                "application/grpc",
            ),
        ] {
            let (http, fields) = answer(&mut requests, path, content_type).await;
            assert_eq!(http, 200, "{path} {content_type}");
            assert_eq!(fields["grpc-status"], status, "{path} {content_type}");
            assert_eq!(fields["content-type"], answers, "{path} {content_type}");
        }
        assert_eq!(ran.load(Ordering::SeqCst), round * 6);
    }
}

#[tokio::test]
async fn codecs_are_matched_over_http_1() {
    let (ran, address, _server) = serve().await;
    for (path, subtype, status, answers) in [
        (ECHO.path(), "+foo", "415", "text/plain"),
        (ECHO.path(), "", "415", "text/plain"),
        (PROTO.path(), "+json", "415", "text/plain"),
        (ECHO.path(), "+json", "200", "application/grpc+json"),
        (TWICE.path(), "+json", "200", "application/grpc+json"),
        (FAIL.path(), "+json", "200", "application/grpc+json"),
        (PROTO.path(), "+proto", "200", "application/grpc\r\n"),
    ] {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\nte: trailers\r\ncontent-type: application/grpc{subtype}\r\nconnection: close\r\ncontent-length: 8\r\n\r\n\0\0\0\0\x03\"a\""
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert_eq!(answer.split_whitespace().nth(1), Some(status), "{answer}");
        assert!(
            answer.contains(&format!("content-type: {answers}")),
            "{answer}"
        );
    }
    assert_eq!(ran.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_named_codec_makes_calls() {
    let (_, address, _server) = serve().await;
    let channel = Channel::connect(&format!("http://{address}"))
        .await
        .unwrap();
    for _ in 0..3 {
        let request = Request::new("text".to_owned());
        let response = channel.unary(&ECHO, request).await.unwrap();
        assert_eq!(response.into_inner(), "text");
        let mut responses = channel.server_streaming(&TWICE, Request::new("b".to_owned()));
        while let Some(message) = responses.recv().await.unwrap() {
            assert_eq!(message, "b");
        }
        let failed = channel.unary(&FAIL, Request::new(String::new())).await;
        assert_eq!(failed.unwrap_err().code(), Code::Aborted);
        // The same path with another codec is another head.
        let other = Method::unary("/demo.Json/Echo", Codec::raw(), Codec::raw());
        let refused = channel.unary(&other, Request::new(Bytes::new())).await;
        let refused = refused.unwrap_err();
        assert!(refused.message().contains("codec"), "{refused}");
    }
}

/// Answers with one message and this content-type, after it has looked at that of the request.
async fn answering(expected: &'static str, content_type: &'static str) -> Channel {
    let uri = scripted::serve(move |mut asked: Asked| async move {
        assert_eq!(asked.headers["content-type"], expected);
        asked.rest().await;
        let fields = [("content-type", content_type)];
        asked.reply(200, &fields, b"\0\0\0\0\x03\"a\"", &[("grpc-status", "0")]);
    });
    Channel::connect(&uri.await).await.unwrap()
}

#[tokio::test]
async fn a_client_names_its_codec_and_takes_what_is_of_it() {
    for content_type in [
        "application/grpc",
        "application/grpc+json",
        "application/grpc+JSON;v=1",
    ] {
        let channel = answering("application/grpc+json", content_type).await;
        for _ in 0..3 {
            let response = channel.unary(&ECHO, Request::new(String::new())).await;
            assert_eq!(response.unwrap().into_inner(), "a", "{content_type}");
        }
    }
    for content_type in ["application/grpc", "application/grpc+proto"] {
        let channel = answering("application/grpc", content_type).await;
        for _ in 0..3 {
            let response = channel.unary(&PROTO, Request::new(Bytes::new())).await;
            assert_eq!(response.unwrap().into_inner(), "\"a\"", "{content_type}");
        }
    }
}

#[tokio::test]
async fn a_client_refuses_another_codec_by_name() {
    for (content_type, named) in [
        ("application/grpc+proto", "application/grpc+proto"),
        ("application/grpc+foo", "application/grpc+foo"),
    ] {
        let channel = answering("application/grpc+json", content_type).await;
        for _ in 0..3 {
            let response = channel.unary(&ECHO, Request::new(String::new())).await;
            let status = response.unwrap_err();
            assert_eq!(status.code(), Code::Internal, "{status}");
            assert!(status.message().contains(named), "{status}");
            assert!(status.message().contains("json"), "{status}");
            let mut responses = channel.server_streaming(&TWICE, Request::new(String::new()));
            let status = responses.recv().await.unwrap_err();
            assert_eq!(status.code(), Code::Internal, "{status}");
        }
    }
    let channel = answering("application/grpc", "application/grpc+json").await;
    let response = channel.unary(&PROTO, Request::new(Bytes::new())).await;
    let status = response.unwrap_err();
    assert_eq!(status.code(), Code::Internal, "{status}");
    assert!(
        status.message().contains("application/grpc+json"),
        "{status}"
    );
}

#[test]
#[should_panic(expected = "the name of a codec")]
fn a_codec_has_a_name_that_can_be_sent() {
    let _ = Codec::new("json\r\n", encode, decode);
}
