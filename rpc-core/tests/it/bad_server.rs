//! What a server can answer that is not gRPC: the call fails as the protocol document says, and the
//! connection and its other calls go on.

use rpc_core::{Channel, Code, Status};
use rpc_testkit::proto::{Message, TestClient};

use crate::scripted::{self, Asked, GRPC};

/// The status of a call that is answered so, after which a good one succeeds.
async fn status(
    http: u16,
    fields: &'static [(&str, &str)],
    body: &'static [u8],
    trailers: &'static [(&str, &str)],
) -> Status {
    let uri = scripted::serve(move |mut asked: Asked| async move {
        asked.rest().await;
        if asked.number == 0 {
            asked.reply(http, fields, body, trailers);
        } else {
            asked.ok();
        }
    })
    .await;
    let test = TestClient::new(Channel::connect(&uri).await.unwrap());
    let status = test.echo(Message::default()).await.unwrap_err();
    test.echo(Message::default()).await.unwrap();
    status
}

const OK: &[(&str, &str)] = &[("grpc-status", "0")];
const EMPTY: &[u8] = &[0; 5];

#[tokio::test]
async fn http_errors_have_codes() {
    for (http, code) in [
        (400, Code::Internal),
        (401, Code::Unauthenticated),
        (403, Code::PermissionDenied),
        (404, Code::Unimplemented),
        (429, Code::Unavailable),
        (502, Code::Unavailable),
        (503, Code::Unavailable),
        (504, Code::Unavailable),
        (418, Code::Unknown),
    ] {
        let status = status(http, &[("content-type", "text/html")], b"<html>", &[]).await;
        assert_eq!(status.code(), code, "{http}: {status}");
        assert!(status.message().contains(&http.to_string()), "{status}");
    }
}

#[tokio::test]
async fn a_status_counts_more_than_the_http_code() {
    let status = status(503, &[GRPC, ("grpc-status", "7")], &[], &[]).await;
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
}

#[tokio::test]
async fn another_content_type_is_unknown() {
    let status = status(200, &[("content-type", "text/html")], b"<html>", &[]).await;
    assert_eq!(status.code(), Code::Unknown, "{status}");
    assert!(status.message().contains("text/html"), "{status}");
}

#[tokio::test]
async fn no_status_is_unknown() {
    assert_eq!(status(200, &[GRPC], EMPTY, &[]).await.code(), Code::Unknown);
    let status = status(200, &[GRPC], EMPTY, &[("x-other", "1")]).await;
    assert_eq!(status.code(), Code::Unknown, "{status}");
}

#[tokio::test]
async fn a_status_that_is_no_number_is_unknown() {
    for trailers in [&[("grpc-status", "good")], &[("grpc-status", "99")]] {
        assert_eq!(
            status(200, &[GRPC], EMPTY, trailers).await.code(),
            Code::Unknown
        );
    }
}

#[tokio::test]
async fn none_or_two_messages_of_a_unary_call_are_internal() {
    assert_eq!(status(200, &[GRPC], &[], OK).await.code(), Code::Internal);
    assert_eq!(
        status(200, &[GRPC], &[0; 10], OK).await.code(),
        Code::Internal
    );
}

#[tokio::test]
async fn a_length_past_the_limit_is_resource_exhausted() {
    let status = status(200, &[GRPC], &[0, 0xff, 0xff, 0xff, 0xff], OK).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
}

#[tokio::test]
async fn an_end_mid_message_is_internal() {
    let status = status(200, &[GRPC], &[0, 0, 0, 0, 9, 1], OK).await;
    assert_eq!(status.code(), Code::Internal, "{status}");
}

#[tokio::test]
async fn what_does_not_decode_is_internal() {
    let status = status(200, &[GRPC], &[0, 0, 0, 0, 1, 0xff], OK).await;
    assert_eq!(status.code(), Code::Internal, "{status}");
}

#[tokio::test]
async fn a_compressed_flag_without_an_encoding_is_internal() {
    let status = status(200, &[GRPC], &[1, 0, 0, 0, 1, 0], OK).await;
    assert_eq!(status.code(), Code::Internal, "{status}");
}

#[tokio::test]
async fn an_unknown_encoding_is_internal_and_named() {
    let status = status(200, &[GRPC, ("grpc-encoding", "br")], EMPTY, OK).await;
    assert_eq!(status.code(), Code::Internal, "{status}");
    assert!(status.message().contains("br"), "{status}");
}

#[tokio::test]
async fn an_error_after_the_message_is_the_outcome() {
    let status = status(
        200,
        &[GRPC],
        EMPTY,
        &[("grpc-status", "10"), ("grpc-message", "no%21")],
    )
    .await;
    assert_eq!((status.code(), status.message()), (Code::Aborted, "no!"));
    assert_eq!(status.path(), Some("/testkit.v1.Test/Echo"));
}
