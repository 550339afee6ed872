//! Streams and sinks of the `futures` crates.

use futures_util::{SinkExt, StreamExt, TryStreamExt};
use rpc_core::{Channel, Code, Status};
use rpc_testkit::proto::{Message, StreamRequest, TestClient};
use rpc_testkit::serve;

fn message(number: i64) -> Message {
    Message {
        number,
        ..Message::default()
    }
}

async fn client() -> TestClient {
    TestClient::new(Channel::connect(&serve().await.uri).await.unwrap())
}

#[tokio::test]
async fn responses_are_a_stream() {
    let request = StreamRequest {
        count: 5,
        ..StreamRequest::default()
    };
    let messages: Vec<Message> = client()
        .await
        .server_stream(request)
        .try_collect()
        .await
        .unwrap();
    let numbers: Vec<_> = messages.iter().map(|message| message.number).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn an_error_is_the_last_item() {
    let request = StreamRequest {
        count: 5,
        fail_after: 2,
        ..StreamRequest::default()
    };
    let items: Vec<Result<Message, Status>> = client().await.server_stream(request).collect().await;
    assert_eq!(items.len(), 3);
    assert_eq!(items[2].as_ref().unwrap_err().code(), Code::Aborted);
}

#[tokio::test]
async fn requests_are_a_sink_and_closing_finishes_them() {
    let (out, back) = client().await.chat(());
    let sending = tokio::spawn(async move {
        let mut numbers = futures_util::stream::iter((0..100).map(|number| Ok(message(number))));
        let mut out = out;
        out.send_all(&mut numbers).await.unwrap();
        out.close().await.unwrap();
        assert_eq!(
            out.send(message(1)).await.unwrap_err().code(),
            Code::FailedPrecondition
        );
    });
    let numbers: Vec<_> = back
        .map_ok(|message| message.number)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(numbers, Vec::from_iter(0..100));
    sending.await.unwrap();
}

#[tokio::test]
async fn a_handler_forwards_a_stream_into_its_sink() {
    use bytes::Bytes;
    use rpc_core::server::{Router, Service};
    use rpc_core::{Codec, Method, RecvStream, Request};

    const ECHO: Method<Bytes, Bytes> =
        Method::bidi_streaming("/it.Echo/All", Codec::raw(), Codec::raw());
    let service = Service::new("it.Echo").bidi_streaming(
        &ECHO,
        &std::sync::Arc::new(()),
        |_, request: Request<RecvStream<Bytes>>, mut responses| async move {
            let result = responses.send_all(&mut request.into_inner()).await;
            responses.finish(result)
        },
    );
    let channel = Channel::in_process(Router::new().add_service(service)).unwrap();
    let (mut out, back) = channel.bidi_streaming(&ECHO, Request::new(()));
    for text in ["a", "b"] {
        SinkExt::send(&mut out, Bytes::from(text)).await.unwrap();
    }
    out.close().await.unwrap();
    let all: Vec<Bytes> = back.try_collect().await.unwrap();
    assert_eq!(all, ["a", "b"]);
}
