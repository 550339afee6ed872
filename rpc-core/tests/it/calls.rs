use std::time::{Duration, Instant};

use rpc_core::client::{ClientCall, ClientInterceptor, Next, Reply};
use rpc_core::{Channel, Code, Encoding, Request, Status};
use rpc_testkit::proto::{FailRequest, Message, TestClient};
use rpc_testkit::serve;

fn message(number: i64) -> Message {
    Message {
        number,
        ..Message::default()
    }
}

async fn client() -> TestClient {
    let server = serve().await;
    TestClient::new(Channel::connect(&server.uri).await.unwrap())
}

#[tokio::test]
async fn unary() {
    let response = client().await.echo(message(5)).await.unwrap();
    assert_eq!(response.into_inner(), message(5));
}

#[tokio::test]
async fn empty_and_large_messages() {
    let client = client().await;
    assert_eq!(
        client.echo(Message::default()).await.unwrap().into_inner(),
        Message::default()
    );
    let large = Message {
        body: vec![9; 3 << 20],
        ..Message::default()
    };
    assert_eq!(
        client.echo(large.clone()).await.unwrap().into_inner(),
        large
    );
}

#[tokio::test]
async fn a_message_over_the_limit_is_resource_exhausted() {
    let client = client().await;
    let status = client
        .echo(Message {
            body: vec![0; 4 << 20],
            ..Message::default()
        })
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("4194304"), "{status}");
    assert!(client.echo(message(1)).await.is_ok());
}

#[tokio::test]
async fn a_thousand_calls_at_once_on_one_connection() {
    let client = client().await;
    let calls: Vec<_> = (0..1000)
        .map(|number| {
            let client = client.clone();
            tokio::spawn(async move {
                client
                    .echo(message(number))
                    .await
                    .unwrap()
                    .into_inner()
                    .number
            })
        })
        .collect();
    for (number, call) in (0..).zip(calls) {
        assert_eq!(call.await.unwrap(), number);
    }
}

#[tokio::test]
async fn every_code_crosses_with_message_details_and_metadata() {
    let client = client().await;
    for code in 1..=16 {
        let request = FailRequest {
            code,
            message: format!("grüße % {code}\n"),
            details: vec![1, 2, 255],
        };
        let status = client.fail(request).await.unwrap_err();
        assert_eq!(status.code() as i32, code);
        assert_eq!(status.message(), format!("grüße % {code}\n"));
        assert_eq!(&status.details()[..], [1, 2, 255]);
        assert_eq!(status.metadata().get("x-fail"), Some("yes"));
        assert_eq!(status.attempt(), 1);
        assert!(status.endpoint().is_some() && status.path() == Some("/testkit.v1.Test/Fail"));
    }
}

#[tokio::test]
async fn metadata_crosses_both_ways() {
    let mut request = Request::new(message(0));
    request.metadata_mut().append("x-a", "1").unwrap();
    request.metadata_mut().append("x-a", "2").unwrap();
    request
        .metadata_mut()
        .insert_bin("x-b-bin", [0, 1, 255])
        .unwrap();
    let response = client().await.metadata_echo(request).await.unwrap();
    for map in [response.metadata(), response.trailers()] {
        assert_eq!(map.get_all("x-a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(map.get_bin("x-b-bin"), Some(&[0, 1, 255][..]));
    }
}

#[tokio::test]
async fn a_panic_ends_its_call_only() {
    let client = client().await;
    let status = client.panic(message(0)).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(
        !status.message().contains("as asked"),
        "the panic's text stays on the server"
    );
    assert!(client.echo(message(1)).await.is_ok());
}

#[tokio::test]
async fn a_deadline_ends_the_call_and_the_handler() {
    let client = client().await;
    let start = Instant::now();
    let request = Request::new(message(0)).with_timeout(Duration::from_millis(50));
    let status = client.hang(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(start.elapsed() >= Duration::from_millis(50));
    all_dropped(&client).await;
}

#[tokio::test]
async fn dropping_a_call_drops_its_handler() {
    let client = client().await;
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.hang(message(0)).await }
    });
    while client
        .dropped(message(0))
        .await
        .unwrap()
        .into_inner()
        .started
        == 0
    {
        tokio::task::yield_now().await;
    }
    call.abort();
    all_dropped(&client).await;
}

async fn all_dropped(client: &TestClient) {
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            let counts = client.dropped(message(0)).await.unwrap().into_inner();
            if counts.started == 1 && counts.dropped == 1 {
                return;
            }
        }
    });
    waited.await.expect("the handler was dropped");
}

#[tokio::test]
async fn gzip_both_ways() {
    let server = rpc_core::Server::builder()
        .add_service(rpc_testkit::proto::TestServer::new(
            rpc_testkit::TestService::default(),
        ))
        .compress(Encoding::Gzip)
        .bind("127.0.0.1:0")
        .await
        .unwrap();
    let running = rpc_testkit::run(server);
    let channel = Channel::builder()
        .compress(Encoding::Gzip)
        .connect(&running.uri)
        .await
        .unwrap();
    let large = Message {
        body: vec![9; 1 << 20],
        ..Message::default()
    };
    assert_eq!(
        TestClient::new(channel)
            .echo(large.clone())
            .await
            .unwrap()
            .into_inner(),
        large
    );
}

struct Tag;

impl ClientInterceptor for Tag {
    async fn intercept(&self, mut call: ClientCall, next: Next<'_>) -> Result<Reply, Status> {
        tokio::task::yield_now().await;
        if call.path().ends_with("/Panic") {
            return Err(Status::permission_denied("not this one"));
        }
        call.metadata_mut()
            .insert("x-tag", "t")
            .map_err(|error| Status::internal(error.to_string()))?;
        next.run(call).await
    }
}

#[tokio::test]
async fn interceptors_change_and_refuse_calls() {
    let server = serve().await;
    let channel = Channel::builder()
        .interceptor(Tag)
        .connect(&server.uri)
        .await
        .unwrap();
    let client = TestClient::new(channel);
    let response = client.metadata_echo(message(0)).await.unwrap();
    assert_eq!(response.metadata().get("x-tag"), Some("t"));
    assert_eq!(
        client.panic(message(0)).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    let (mut requests, mut responses) = client.chat(());
    requests.send(message(3)).await.unwrap();
    assert_eq!(responses.recv().await.unwrap(), Some(message(3)));
}

#[tokio::test]
async fn observers_hear_of_every_call_once() {
    let server = serve().await;
    let (heard, mut calls) = tokio::sync::mpsc::unbounded_channel();
    let channel = Channel::builder()
        .observer(move |call: &rpc_core::client::FinishedCall<'_>| {
            heard
                .send((call.path.to_owned(), call.code, call.attempts))
                .unwrap()
        })
        .connect(&server.uri)
        .await
        .unwrap();
    let client = TestClient::new(channel);
    client.echo(message(1)).await.unwrap();
    client.panic(message(1)).await.unwrap_err();
    drop(
        client
            .hang(Request::new(message(1)).with_timeout(Duration::from_millis(1)))
            .await,
    );
    let mut next = async || calls.recv().await.unwrap();
    assert_eq!(
        next().await,
        ("/testkit.v1.Test/Echo".to_owned(), Code::Ok, 1)
    );
    assert_eq!(
        next().await,
        ("/testkit.v1.Test/Panic".to_owned(), Code::Internal, 1)
    );
    assert_eq!(next().await.1, Code::DeadlineExceeded);
    assert!(calls.try_recv().is_err());
}
