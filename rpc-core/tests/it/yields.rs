//! Calls that fail, or are answered, at once still let other tasks run.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rpc_core::client::{Address, ClientCall, ClientInterceptor, Next, Reply};
use rpc_core::{BoxFuture, Channel, Connector, Io, Status};
use rpc_testkit::proto::{Message, StreamRequest, TestClient};

/// More turns than a task may have before others have theirs.
const MANY: u32 = 2000;

/// Repeats something until another task has run, which has to be soon.
async fn lets_others_run(what: &str, mut act: impl AsyncFnMut()) {
    let ran = Arc::new(AtomicBool::new(false));
    let other = Arc::clone(&ran);
    tokio::spawn(async move { other.store(true, Ordering::Relaxed) });
    for _ in 0..MANY {
        act().await;
        if ran.load(Ordering::Relaxed) {
            return;
        }
    }
    panic!("{what}: nothing else has run in {MANY} turns");
}

struct Dead(Arc<AtomicU64>);

impl Connector for Dead {
    fn connect<'a>(&'a self, _address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::ready(Err(
            io::ErrorKind::ConnectionRefused.into()
        )))
    }
}

/// Refuses all calls without asking anybody.
struct Refuses;

impl ClientInterceptor for Refuses {
    async fn intercept(&self, _call: ClientCall, _next: Next<'_>) -> Result<Reply, Status> {
        Err(Status::unauthenticated("as asked"))
    }
}

async fn fails_at_once(channel: Channel) {
    let test = TestClient::new(channel.clone());
    test.echo(Message::default()).await.unwrap_err();
    lets_others_run("unary", async || {
        test.echo(Message::default()).await.unwrap_err();
    })
    .await;
    lets_others_run("idempotent", async || {
        test.echo_idempotent(Message::default()).await.unwrap_err();
    })
    .await;
    lets_others_run("server streaming", async || {
        let mut stream = test.server_stream(StreamRequest::default());
        stream.recv().await.unwrap_err();
    })
    .await;
    lets_others_run("headers", async || {
        let mut stream = test.server_stream(StreamRequest::default());
        stream.headers().await.unwrap_err();
    })
    .await;
    lets_others_run("client streaming", async || {
        let mut stream = test.client_stream(());
        let _ = stream.send(Message::default()).await;
        stream.finish().await.unwrap_err();
    })
    .await;
    lets_others_run("bidirectional", async || {
        let (mut requests, mut responses) = test.chat(());
        let _ = requests.send(Message::default()).await;
        let _ = requests.reserve().await;
        responses.recv().await.unwrap_err();
    })
    .await;
    // Streams that have ended, asked again and again.
    let (mut requests, mut responses) = test.chat(());
    responses.recv().await.unwrap_err();
    lets_others_run("a stream that has failed", async || {
        responses.recv().await.unwrap_err();
    })
    .await;
    lets_others_run("requests of a call that has failed", async || {
        let _ = requests.send(Message::default()).await;
    })
    .await;
}

#[tokio::test]
async fn callers_of_a_dead_server_let_others_run() {
    let connector = Dead(Arc::default());
    let channel = Channel::builder()
        .connector(connector)
        .lazy("http://test:1")
        .unwrap();
    fails_at_once(channel.clone()).await;
    lets_others_run("ready", async || {
        channel.ready().await.unwrap_err();
    })
    .await;
}

#[tokio::test]
async fn an_interceptor_that_refuses_lets_others_run() {
    let channel = Channel::builder()
        .connector(Dead(Arc::default()))
        .interceptor(Refuses)
        .lazy("http://test:1")
        .unwrap();
    fails_at_once(channel).await;
}

#[tokio::test]
async fn whoever_reads_what_has_come_lets_others_run() {
    let server = rpc_testkit::serve().await;
    let test = TestClient::new(Channel::connect(&server.uri).await.unwrap());
    let request = StreamRequest {
        count: i64::from(MANY) * 2,
        ..StreamRequest::default()
    };
    let mut stream = test.server_stream(request);
    stream.recv().await.unwrap().unwrap();
    lets_others_run("messages", async || {
        stream.recv().await.unwrap().unwrap();
    })
    .await;
}

/// Two loops of calls on a runtime of one thread do not keep their channel from connecting again.
#[tokio::test]
async fn a_channel_connects_again_under_callers_that_retry() {
    let tries = Arc::new(AtomicU64::new(0));
    let channel = Channel::builder()
        .connector(Dead(Arc::clone(&tries)))
        .lazy("http://test:1")
        .unwrap();
    let test = TestClient::new(channel);
    let loops: Vec<_> = (0..2)
        .map(|_| {
            let test = test.clone();
            tokio::spawn(async move {
                loop {
                    let _ = test.echo(Message::default()).await;
                }
            })
        })
        .collect();
    let again = async {
        while tries.load(Ordering::Relaxed) < 3 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(std::time::Duration::from_secs(60), again).await;
    assert!(waited.is_ok(), "it does not connect again");
    loops.iter().for_each(tokio::task::JoinHandle::abort);
}
