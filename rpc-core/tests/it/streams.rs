use std::time::Duration;

use rpc_core::{Channel, Code, Request};
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
async fn server_streaming_delivers_all_in_order() {
    let mut stream = client().await.server_stream(StreamRequest {
        count: 1000,
        size: 100,
        fail_after: 0,
    });
    for number in 0..1000 {
        assert_eq!(stream.recv().await.unwrap().unwrap().number, number);
    }
    assert_eq!(stream.recv().await.unwrap(), None);
    assert_eq!(stream.recv().await.unwrap(), None);
    assert!(stream.trailers().is_some());
}

#[tokio::test]
async fn large_messages_stream_through_small_windows() {
    let mut stream = client().await.server_stream(StreamRequest {
        count: 10,
        size: 3 << 20,
        fail_after: 0,
    });
    let mut bytes = 0;
    while let Some(message) = stream.recv().await.unwrap() {
        bytes += message.body.len();
    }
    assert_eq!(bytes, 30 << 20);
}

#[tokio::test]
async fn a_stream_that_fails_gives_its_messages_first() {
    let mut stream = client().await.server_stream(StreamRequest {
        count: 10,
        size: 0,
        fail_after: 3,
    });
    for number in 0..3 {
        assert_eq!(stream.recv().await.unwrap().unwrap().number, number);
    }
    let status = stream.recv().await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Aborted, "as asked")
    );
    assert_eq!(
        stream.recv().await.unwrap_err().code(),
        Code::Aborted,
        "the outcome stays"
    );
}

#[tokio::test]
async fn an_empty_stream_ends_well() {
    let mut stream = client().await.server_stream(StreamRequest::default());
    assert_eq!(stream.recv().await.unwrap(), None);
}

#[tokio::test]
async fn client_streaming_sums() {
    let mut call = client().await.client_stream(());
    for number in 1..=100 {
        call.send(message(number)).await.unwrap();
    }
    assert_eq!(call.finish().await.unwrap().into_inner().number, 5050);
}

#[tokio::test]
async fn client_streaming_of_nothing() {
    assert_eq!(
        client()
            .await
            .client_stream(())
            .finish()
            .await
            .unwrap()
            .into_inner()
            .number,
        0
    );
}

#[tokio::test]
async fn chat_is_turn_by_turn_and_ends_after_finish() {
    let (mut requests, mut responses) = client().await.chat(());
    for number in 0..100 {
        requests.send(message(number)).await.unwrap();
        assert_eq!(responses.recv().await.unwrap(), Some(message(number)));
    }
    requests.finish().await.unwrap();
    assert_eq!(responses.recv().await.unwrap(), None);
}

#[tokio::test]
async fn dropping_the_requests_cancels_the_call() {
    let (mut requests, mut responses) = client().await.chat(());
    requests.send(message(1)).await.unwrap();
    assert!(responses.recv().await.unwrap().is_some());
    drop(requests);
    let status = responses.recv().await.unwrap_err();
    assert_eq!(status.code(), Code::Cancelled, "{status}");
}

#[tokio::test]
async fn back_pressure_reaches_the_sender() {
    let (mut requests, mut responses) = client().await.chat(());
    let large = Message {
        body: vec![1; 256 << 10],
        ..Message::default()
    };
    let mut sent = 0;
    // Nobody reads the answers, so the server stops reading, so sending has to stop.
    while let Ok(result) =
        tokio::time::timeout(Duration::from_millis(500), requests.send(large.clone())).await
    {
        result.unwrap();
        sent += 1;
        assert!(sent < 1000, "sending never stopped");
    }
    let mut received = 0;
    while received < sent {
        assert_eq!(
            responses.recv().await.unwrap().unwrap().body.len(),
            256 << 10
        );
        received += 1;
    }
    requests.send(large).await.unwrap();
}

#[tokio::test]
async fn a_deadline_holds_over_the_whole_stream() {
    let (mut requests, mut responses) = client()
        .await
        .chat(Request::new(()).with_timeout(Duration::from_millis(100)));
    requests.send(message(1)).await.unwrap();
    assert!(responses.recv().await.unwrap().is_some());
    assert_eq!(
        responses.recv().await.unwrap_err().code(),
        Code::DeadlineExceeded
    );
}

#[tokio::test]
async fn recv_is_cancel_safe() {
    let (mut requests, mut responses) = client().await.chat(());
    for number in 0..200 {
        requests.send(message(number)).await.unwrap();
    }
    for number in 0..200 {
        let received = loop {
            tokio::select! {
                biased;
                received = responses.recv() => break received,
                () = tokio::task::yield_now() => {}
            }
        };
        assert_eq!(received.unwrap(), Some(message(number)));
    }
}

#[tokio::test]
async fn streams_start_without_being_polled_and_report_failure_at_the_first_recv() {
    let channel = Channel::lazy("http://127.0.0.1:1").unwrap();
    let mut stream = TestClient::new(channel).server_stream(StreamRequest::default());
    let status = stream.recv().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.to_string().contains("127.0.0.1:1"), "{status}");
}
