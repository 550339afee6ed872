//! What an operator finds in the log. In a program of its own: a subscriber that comes while other
//! threads log for the first time can miss what they log.
#![allow(missing_docs, clippy::unwrap_used, dead_code)]

#[path = "it/scripted.rs"]
mod scripted;

use std::fmt::{Debug, Write};
use std::sync::{Arc, LazyLock, Mutex};

use rpc_core::{Channel, Code};
use rpc_testkit::proto::{Message, TestClient};
use rpc_testkit::{FaultProxy, serve};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Keeps every event as a line of text.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

static LINES: LazyLock<Lines> = LazyLock::new(|| {
    let lines = Lines::default();
    tracing::subscriber::set_global_default(lines.clone()).unwrap();
    lines
});

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, "{}={value:?} ", field.name()).unwrap();
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("rpc_core")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Lines {
    /// Waits for a line with all of these words.
    async fn find(&self, words: &[&str]) {
        let found = |line: &String| words.iter().all(|word| line.contains(word));
        let waiting = async {
            while !self.0.lock().unwrap().iter().any(found) {
                tokio::task::yield_now().await;
            }
        };
        if tokio::time::timeout(std::time::Duration::from_secs(10), waiting)
            .await
            .is_err()
        {
            panic!("{words:?} is not in {:#?}", self.0.lock().unwrap());
        }
    }
}

#[tokio::test]
async fn connecting_losing_and_trying_again_are_told_with_the_endpoint() {
    let lines = &*LINES;
    let server = serve().await;
    let proxy = FaultProxy::to(&server.uri).await;
    let address = proxy.address().to_string();
    let test = TestClient::new(Channel::connect(&proxy.uri()).await.unwrap());
    lines.find(&["resolved", &proxy.uri(), "endpoints=1"]).await;
    lines.find(&["message=connected", &address]).await;

    let call = tokio::spawn({
        let test = test.clone();
        async move { test.hang(Message::default()).await.map(drop) }
    });
    let started = async || {
        test.dropped(Message::default())
            .await
            .unwrap()
            .get_ref()
            .started
    };
    while started().await == 0 {}
    proxy.refuse(true).await;
    proxy.reset();
    assert_eq!(call.await.unwrap().unwrap_err().code(), Code::Unavailable);
    lines.find(&["message=disconnected", &address]).await;
    // The channel connects again with the next call.
    let status = test.echo(Message::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    lines
        .find(&[
            "connection failed: ejected until it connects",
            &address,
            "wait=",
        ])
        .await;
}

#[tokio::test]
async fn a_tls_handshake_that_fails_is_told_with_the_peer() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let lines = &*LINES;
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = rpc_core::ServerTls::from_pem(key.cert.pem(), key.signing_key.serialize_pem());
    let server = rpc_core::Server::builder().tls(tls.unwrap());
    let server = server.bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().to_string();
    let server = rpc_testkit::run(server);
    let connect = async || tokio::net::TcpStream::connect(&address).await.unwrap();
    let mut stranger = connect().await;
    let peer = format!("peer={}", stranger.local_addr().unwrap());
    stranger
        .write_all(b"hello there, who are you\r\n")
        .await
        .unwrap();
    stranger.read_to_end(&mut Vec::new()).await.unwrap();
    lines
        .find(&["a TLS handshake failed", &peer, "error="])
        .await;
    // And one that is not over when the server ends.
    let silent = connect().await;
    let peer = format!("peer={}", silent.local_addr().unwrap());
    server.shutdown.shutdown();
    lines.find(&["ended during a TLS handshake", &peer]).await;
}

#[tokio::test]
async fn another_attempt_is_told_with_method_endpoint_and_cause() {
    let lines = &*LINES;
    let uri = scripted::serve(async |asked: scripted::Asked| {
        if asked.number == 0 {
            asked.fail("14", &[("grpc-message", "busy")]);
        } else {
            asked.ok();
        }
    })
    .await;
    let test = TestClient::new(Channel::connect(&uri).await.unwrap());
    test.echo_idempotent(Message::default()).await.unwrap();
    let address = uri.trim_start_matches("http://");
    lines
        .find(&[
            "trying again",
            "/testkit.v1.Test/EchoIdempotent",
            address,
            "attempt 1",
            "busy",
        ])
        .await;
}
