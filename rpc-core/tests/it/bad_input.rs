//! What a peer can send that is not gRPC, by the h2 crate's own client.

use bytes::Bytes;
use http::{HeaderMap, Request};
use rpc_testkit::serve;

struct Answer {
    http: u16,
    grpc: Option<i32>,
    message: String,
}

/// Sends one request with these fields and bytes, and then a good call on the same connection.
async fn send(path: &str, fields: &[(&str, &str)], body: &[u8]) -> Answer {
    let server = serve().await;
    let stream = tokio::net::TcpStream::connect(server.uri.trim_start_matches("http://"))
        .await
        .unwrap();
    let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let answer = exchange(&mut requests, path, fields, body).await;
    let good = exchange(
        &mut requests,
        ECHO,
        &[("content-type", "application/grpc")],
        &[0, 0, 0, 0, 0],
    )
    .await;
    assert_eq!(
        (good.http, good.grpc),
        (200, Some(0)),
        "the connection goes on"
    );
    answer
}

const ECHO: &str = "/testkit.v1.Test/Echo";
const GRPC: (&str, &str) = ("content-type", "application/grpc");

async fn exchange(
    requests: &mut h2::client::SendRequest<Bytes>,
    path: &str,
    fields: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut request = Request::post(format!("http://localhost{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let (response, mut stream) = requests
        .send_request(request.body(()).unwrap(), false)
        .unwrap();
    // Fails when the server has answered already.
    let _ = stream.send_data(Bytes::copy_from_slice(body), true);
    let response = response.await.unwrap();
    let http = response.status().as_u16();
    let mut headers = response.headers().clone();
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        body.flow_control()
            .release_capacity(data.unwrap().len())
            .unwrap();
    }
    headers.extend(body.trailers().await.unwrap().unwrap_or_default());
    let text = |headers: &HeaderMap, name: &str| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    Answer {
        http,
        grpc: text(&headers, "grpc-status").map(|code| code.parse().unwrap()),
        message: text(&headers, "grpc-message").unwrap_or_default(),
    }
}

#[tokio::test]
async fn another_content_type_is_http_415() {
    for value in ["application/json", "application/grpc-web", "text/html"] {
        let answer = send(ECHO, &[("content-type", value)], &[]).await;
        assert_eq!((answer.http, answer.grpc), (415, None), "{value}");
    }
    assert_eq!(send(ECHO, &[], &[]).await.http, 415);
}

#[tokio::test]
async fn unknown_paths_are_unimplemented_and_named() {
    let answer = send("/testkit.v1.Test/Nope", &[GRPC], &[0, 0, 0, 0, 0]).await;
    assert_eq!(answer.grpc, Some(12));
    assert!(answer.message.contains("testkit.v1.Test") && answer.message.contains("Nope"));
    assert_eq!(send("/nope.Nope/Nope", &[GRPC], &[]).await.grpc, Some(12));
    assert_eq!(send("/", &[GRPC], &[]).await.grpc, Some(12));
}

#[tokio::test]
async fn a_length_past_the_limit_is_resource_exhausted() {
    let answer = send(ECHO, &[GRPC], &[0, 255, 255, 255, 255, 1, 2, 3]).await;
    assert_eq!(answer.grpc, Some(8));
}

#[tokio::test]
async fn a_compressed_flag_without_an_encoding_is_internal() {
    assert_eq!(
        send(ECHO, &[GRPC], &[1, 0, 0, 0, 1, 0]).await.grpc,
        Some(13)
    );
    assert_eq!(send(ECHO, &[GRPC], &[7, 0, 0, 0, 0]).await.grpc, Some(13));
}

#[tokio::test]
async fn damaged_gzip_is_internal() {
    assert_eq!(
        send(
            ECHO,
            &[GRPC, ("grpc-encoding", "gzip")],
            &[1, 0, 0, 0, 2, 9, 9]
        )
        .await
        .grpc,
        Some(13)
    );
}

#[tokio::test]
async fn an_unknown_encoding_is_unimplemented() {
    let answer = send(ECHO, &[GRPC, ("grpc-encoding", "snappy")], &[0, 0, 0, 0, 0]).await;
    assert_eq!(answer.grpc, Some(12));
    assert!(
        answer.message.contains("snappy") && answer.message.contains("gzip"),
        "{}",
        answer.message
    );
}

#[tokio::test]
async fn a_message_that_does_not_decode_is_internal() {
    let answer = send(ECHO, &[GRPC], &[0, 0, 0, 0, 2, 0xff, 0xff]).await;
    assert_eq!(answer.grpc, Some(13));
    assert!(
        answer.message.contains("does not decode"),
        "{}",
        answer.message
    );
}

#[tokio::test]
async fn a_bad_timeout_is_internal() {
    for value in ["", "1", "1s", "-1S", "123456789S"] {
        assert_eq!(
            send(ECHO, &[GRPC, ("grpc-timeout", value)], &[0, 0, 0, 0, 0])
                .await
                .grpc,
            Some(13),
            "{value}"
        );
    }
}

#[tokio::test]
async fn an_end_mid_message_is_internal() {
    for body in [&[0u8][..], &[0, 0, 0], &[0, 0, 0, 0, 5, 1, 2]] {
        assert_eq!(send(ECHO, &[GRPC], body).await.grpc, Some(13));
    }
}

#[tokio::test]
async fn none_or_two_messages_of_a_unary_call_are_internal() {
    assert_eq!(send(ECHO, &[GRPC], &[]).await.grpc, Some(13));
    assert_eq!(send(ECHO, &[GRPC], &[0; 10]).await.grpc, Some(13));
}

#[tokio::test]
async fn binary_metadata_that_is_not_base64_is_left_out() {
    assert_eq!(
        send(ECHO, &[GRPC, ("x-bin", "***")], &[0, 0, 0, 0, 0])
            .await
            .grpc,
        Some(0)
    );
}

#[tokio::test]
async fn a_deadline_of_nothing_is_exceeded() {
    assert_eq!(
        send(
            "/testkit.v1.Test/Hang",
            &[GRPC, ("grpc-timeout", "1n")],
            &[0, 0, 0, 0, 0]
        )
        .await
        .grpc,
        Some(4)
    );
}
