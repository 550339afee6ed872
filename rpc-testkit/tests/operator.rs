//! What an operator reads when a call or a server fails: the exact text of each situation, and what to
//! do about it. The table is `docs/errors.md`; `UPDATE_ERRORS=1 cargo test -p rpc-testkit --test
//! operator` writes it anew.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rpc_core::client::{Address, CallObserver, ChannelBuilder, FinishedCall, StaticResolver};
use rpc_core::server::{ServerBuilder, Service};
use rpc_core::{
    BoxFuture, Channel, ClientTls, Codec, Connector, Io, Method, Request, Response, Server,
    ServerTls, Status,
};
use rpc_testkit::proto::{Message, TestClient, TestServer};
use rpc_testkit::{Running, TestService, run};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

/// A situation, the text, and what to do.
type Row = (&'static str, String, &'static str);

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors.md");
const SHORT: Duration = Duration::from_millis(150);
/// A unary method that may be repeated.
const LOOK: Method<Bytes, Bytes> =
    Method::unary("/shop.Orders/Look", Codec::raw(), Codec::raw()).no_side_effects();

#[tokio::test]
async fn the_texts_of_the_operators_table() {
    let mut rows = connecting().await;
    rows.extend(securing().await);
    rows.extend(calling().await);
    rows.extend(ending().await);
    rows.extend(naming().await);
    rows.extend(serving().await);
    assert!(rows.len() >= 20);
    for (situation, text, _) in &rows {
        // Every cause once.
        let parts: Vec<_> = text.split(": ").collect();
        let mut once = parts.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), parts.len(), "{situation}: {text}");
        assert!(text.len() < 400, "{situation}: {text}");
    }
    let table = document(&rows);
    if std::env::var_os("UPDATE_ERRORS").is_some() {
        std::fs::write(TABLE, &table).unwrap();
    }
    let kept = std::fs::read_to_string(TABLE).unwrap_or_default();
    for (expected, found) in kept.lines().zip(table.lines()) {
        assert_eq!(found, expected, "UPDATE_ERRORS=1 takes the new texts");
    }
    assert_eq!(kept.len(), table.len());
}

fn document(rows: &[Row]) -> String {
    let mut text = String::from(
        "# What errors say, and what to do\n\n\
         One line each, as `Display` of `Status` and `ServeError` prints it: the code, what happened, \
         where (method, target or endpoint, attempt), and each cause once. Addresses and times are \
         those of an example. `rpc-testkit/tests/operator.rs` makes each of these happen and compares.\n",
    );
    for (situation, error, advice) in rows {
        write!(
            text,
            "\n## {situation}\n\n```text\n{error}\n```\n\n{advice}\n"
        )
        .unwrap();
    }
    text
}

/// The text with the ports and times of an example.
fn tidy(error: &impl std::fmt::Display) -> String {
    // Whether the GOAWAY of a server that ends at once comes before its end is left to chance.
    let text = error.to_string();
    let text = text.replace("; the peer sent GOAWAY with NO_ERROR", "");
    let mut tidy = String::new();
    let mut rest = &*text;
    while let Some(at) = rest.find("127.0.0.1:") {
        let (before, after) = rest.split_at(at + "127.0.0.1:".len());
        tidy.push_str(before);
        tidy.push_str("50051");
        rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    tidy.push_str(rest);
    // Times that were measured are the only ones with a fraction.
    let words = tidy.split(' ').map(|word| {
        let number = word.trim_end_matches(|c: char| c.is_alphabetic() || ",;:()".contains(c));
        let is_time = number.contains('.') && number.parse::<f64>().is_ok() && word != number;
        let digits = word.trim_matches(['(', ')', ',']);
        if digits.len() >= 9 && digits.chars().all(|c| c.is_ascii_digit()) {
            // A moment, or the time since one.
            word.replace(digits, "1700000000")
        } else if is_time {
            let unit = word.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
            let end = unit.trim_start_matches(|c: char| c.is_alphabetic());
            format!("150.3ms{end}")
        } else {
            word.to_owned()
        }
    });
    let tidy = words.collect::<Vec<_>>().join(" ");
    // Systems differ in how they say that a name is not known.
    match tidy.split_once("failed to lookup address information: ") {
        Some((before, after)) => {
            let place = after.find(" (").and_then(|at| after.get(at..));
            format!(
                "{before}failed to lookup address information: Name or service not known{}",
                place.unwrap_or_default()
            )
        }
        None => tidy,
    }
}

fn failed<T>(result: Result<T, Status>) -> String {
    tidy(&result.err().unwrap())
}

/// An address that nobody listens at.
async fn unused() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

/// A server that says these bytes to everybody.
async fn says(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(bytes).await;
                // It goes on listening to what it does not understand.
                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            });
        }
    });
    format!("http://{address}")
}

/// Never connects.
struct Silent;

impl Connector for Silent {
    fn connect<'a>(&'a self, _: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        Box::pin(std::future::pending())
    }
}

fn message() -> Message {
    Message::default()
}

fn large() -> Message {
    Message {
        body: vec![0; 2000],
        ..Message::default()
    }
}

fn test() -> ServerBuilder {
    Server::builder().add_service(TestServer::new(TestService::default()))
}

async fn served(server: ServerBuilder) -> Running {
    run(server.bind("127.0.0.1:0").await.unwrap())
}

async fn client(server: &Running) -> TestClient {
    TestClient::new(Channel::connect(&server.uri).await.unwrap())
}

async fn connecting() -> Vec<Row> {
    let refused = TestClient::new(Channel::lazy(&format!("http://{}", unused().await)).unwrap());
    let silent = |builder: ChannelBuilder| {
        builder
            .connector(Silent)
            .connect_timeout(SHORT / 3)
            .lazy("http://10.0.0.9:50051")
            .unwrap()
    };
    let ssh = says(b"SSH-2.0-OpenSSH_9.7\r\n").await;
    let http1 =
        says(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
    let patient = silent(Channel::builder().timeout(SHORT));
    vec![
        (
            "Connection refused",
            failed(refused.echo(message()).await),
            "Nothing listens there. Is the server running, and is this its address and port?",
        ),
        (
            "The host's name is not known",
            failed(Channel::connect("http://orders.invalid:50051").await),
            "Look at the spelling and at DNS: `getent hosts NAME` on the client's machine.",
        ),
        (
            "The address is silent",
            failed(silent(Channel::builder()).ready().await),
            "The machine is gone, or something on the way drops packets: routes, security groups, firewalls. `ChannelBuilder::connect_timeout` is how long is waited.",
        ),
        (
            "No endpoint was ready by the deadline",
            failed(
                patient
                    .unary(&LOOK, Request::new(Bytes::new()).with_wait_for_ready())
                    .await,
            ),
            "The call waited for a connection until its deadline. Why connecting fails is at the end.",
        ),
        (
            "Something else listens there (SSH)",
            failed(Channel::connect(&ssh).await),
            "The port belongs to another program.",
        ),
        (
            "Something else listens there (HTTP/1.1)",
            failed(Channel::connect(&http1).await),
            "A web server or a proxy without HTTP/2: connect to the server's own port, or enable HTTP/2 (h2c) in the proxy.",
        ),
    ]
}

/// A certificate for this name that its owner has signed, valid until a year.
fn certificate(owner: &str, name: &str, year: i32) -> (ServerTls, ClientTls) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
    parameters
        .distinguished_name
        .push(rcgen::DnType::CommonName, owner);
    parameters.not_after = rcgen::date_time_ymd(year, 1, 1);
    let certificate = parameters.self_signed(&key).unwrap();
    (
        ServerTls::from_pem(certificate.pem(), key.serialize_pem()).unwrap(),
        ClientTls::from_root_pem(certificate.pem()).unwrap(),
    )
}

async fn securing() -> Vec<Row> {
    let (tls, trusting) = certificate("ours", "127.0.0.1", 2100);
    let (_, distrusting) = certificate("theirs", "127.0.0.1", 2100);
    let (expired, trusting_expired) = certificate("ours", "127.0.0.1", 2001);
    let secure = served(test().tls(tls)).await;
    let plain = served(test()).await;
    let expired = served(test().tls(expired)).await;
    let connect = async |tls: Option<&ClientTls>, target: String| {
        let builder = Channel::builder();
        let builder = match tls {
            Some(tls) => builder.tls(tls.clone()),
            None => builder,
        };
        failed(builder.connect(&target).await)
    };
    let https = |server: &Running| server.uri.replace("http://", "https://");
    let other_name = trusting.clone().with_server_name("orders.example.com");
    vec![
        (
            "TLS to a plaintext server",
            connect(Some(&trusting), https(&plain)).await,
            "Write `http://`, or give the server its certificate with `ServerBuilder::tls`.",
        ),
        (
            "Plaintext to a TLS server",
            connect(None, secure.uri.replace("https://", "http://")).await,
            "Write `https://`, with the roots to trust in `ChannelBuilder::tls`.",
        ),
        (
            "`http://` together with TLS",
            connect(Some(&trusting), plain.uri.clone()).await,
            "Decide for one of them.",
        ),
        (
            "The certificate is for another name",
            connect(Some(&other_name), secure.uri.clone()).await,
            "Connect by a name that the certificate has, or name the one to expect with `ClientTls::with_server_name`.",
        ),
        (
            "The certificate has expired",
            connect(Some(&trusting_expired), expired.uri.clone()).await,
            "Renew it; look at the clocks of both machines too.",
        ),
        (
            "The certificate is not trusted",
            connect(Some(&distrusting), secure.uri.clone()).await,
            "Give the client the root that signed it: `ClientTls::from_root_file`.",
        ),
    ]
}

/// A server whose `Look` always fails so, in this process.
fn failing(channel: ChannelBuilder) -> Channel {
    let service =
        Service::new("shop.Orders").unary(&LOOK, &Arc::new(()), |_, _: Request<Bytes>| async {
            Err::<Response<Bytes>, _>(Status::unavailable("the database is away"))
        });
    channel
        .in_process(Server::builder().add_service(service))
        .unwrap()
}

async fn calling() -> Vec<Row> {
    let server = served(test()).await;
    let client = client(&server).await;
    let small_server = served(test().max_receive_message_size(1000)).await;
    let full = served(test().max_handlers(1)).await;
    let settings = Channel::builder().max_receive_message_size(1000);
    let small_client = TestClient::new(settings.connect(&server.uri).await.unwrap());
    let channel = Channel::connect(&server.uri).await.unwrap();
    let unknown = async |path: &'static str| {
        let method = Method::<Bytes, Bytes>::unary(path, Codec::raw(), Codec::raw());
        failed(channel.unary(&method, Request::new(Bytes::new())).await)
    };
    let look = || Request::new(Bytes::new());
    let retried = failing(Channel::builder()).unary(&LOOK, look()).await;
    let spent = failing(Channel::builder().random_seed(7));
    let full = self::client(&full).await;
    let hanging = tokio::spawn({
        let full = full.clone();
        async move { full.hang(message()).await.map(drop) }
    });
    // Until it runs, another call may.
    let overload = loop {
        match full.echo(message()).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(status) => break tidy(&status),
        }
    };
    hanging.abort();
    let mut last = Err(Status::unavailable(""));
    for _ in 0..100 {
        last = spent.unary(&LOOK, look()).await;
        if last.as_ref().is_err_and(|status| status.attempt() == 1) {
            break;
        }
    }
    vec![
        (
            "The handler did not end by the deadline",
            failed(
                client
                    .hang(Request::new(message()).with_timeout(SHORT))
                    .await,
            ),
            "The server is slow, or the timeout too short. What it waits for is in its own log and traces.",
        ),
        (
            "All attempts failed",
            failed(retried),
            "The failure of the last one is told. Here the server answers, and says that it cannot serve.",
        ),
        (
            "The retry budget is used up",
            failed(last),
            "So many calls fail that repeating them would make it worse. Mend the failure that is told.",
        ),
        (
            "A message is larger than the server takes",
            failed(self::client(&small_server).await.echo(large()).await),
            "Send less at a time or stream it, or raise the setting that is named.",
        ),
        (
            "A message is larger than the client takes",
            failed(small_client.echo(large()).await),
            "Ask for less at a time or stream it, or raise the setting that is named.",
        ),
        (
            "The server does not have the method",
            unknown("/testkit.v1.Test/Missing").await,
            "The server is older than the client, or the other way round.",
        ),
        (
            "The server does not have the service",
            unknown("/shop.Carts/Get").await,
            "The wrong server, or `add_service` is missing there.",
        ),
        (
            "The handler panicked",
            failed(client.panic(message()).await),
            "A bug in the handler. The panic's text is in the server's log, with the same method.",
        ),
        (
            "The server runs as many handlers as it allows",
            overload,
            "Overload: add servers, or raise the setting that is named.",
        ),
    ]
}

/// Keeps what observers are told.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl CallObserver for Seen {
    fn call_finished(&self, call: &FinishedCall<'_>) {
        let status = call.status.map(tidy);
        self.0.lock().unwrap().extend(status);
    }
}

/// Starts a call that never ends.
async fn hang(client: &TestClient) -> tokio::task::JoinHandle<Result<Response<Message>, Status>> {
    let counts = async || *client.dropped(message()).await.unwrap().get_ref();
    let before = counts().await.started;
    let hanging = tokio::spawn({
        let client = client.clone();
        async move { client.hang(message()).await }
    });
    while counts().await.started == before {}
    hanging
}

async fn ending() -> Vec<Row> {
    let server = served(test()).await;
    let seen = Seen::default();
    let channel = Channel::builder()
        .observer(seen.clone())
        .connect(&server.uri)
        .await
        .unwrap();
    let client = TestClient::new(channel);
    let dropped = hang(&client).await;
    dropped.abort();
    assert!(dropped.await.is_err());
    let dropped = seen.0.lock().unwrap().pop().unwrap();
    let cut = hang(&client).await;
    server.shutdown.shutdown();
    server.shutdown.shutdown();
    server.task.await.unwrap();
    let cut = failed(cut.await.unwrap());
    vec![
        (
            "The caller dropped the call",
            dropped,
            "Only observers see it. Nothing to do, unless nobody meant to: a `select!` or a timeout around the call drops it.",
        ),
        (
            "The server went away during the call",
            cut,
            "The server was killed, or its drain timeout passed. The call may have been processed, and was not repeated because its method does not say that it may be (`idempotency_level`).",
        ),
    ]
}

async fn naming() -> Vec<Row> {
    let settings = Channel::builder();
    let nobody = StaticResolver::new(Vec::new());
    let nobody = settings
        .resolver(Box::new(nobody), "registry://10.0.0.2:50100/orders")
        .unwrap();
    let lost = format!("registry://{}/orders", unused().await);
    vec![
        (
            "The name has no endpoints",
            failed(nobody.unary(&LOOK, Request::new(Bytes::new())).await),
            "No server has registered under this name, or all have left. Look at the spelling, and at the servers' logs for `registered`.",
        ),
        (
            "The registry cannot be reached",
            failed(rpc_registry::connect(&lost).await),
            "Is the registry running, and is this its address? Clients that know the name's servers go on with them.",
        ),
    ]
}

async fn serving() -> Vec<Row> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let twice = test().add_service(TestServer::new(TestService::default()));
    vec![
        (
            "The port is in use",
            tidy(&test().bind(&taken).await.unwrap_err()),
            "Another process has it, perhaps the one before this: `ss -ltnp`.",
        ),
        (
            "The address is none",
            tidy(&test().bind("0.0.0.0").await.unwrap_err()),
            "Write `host:port` or `unix:/path`.",
        ),
        (
            "A service was added twice",
            tidy(&twice.bind("127.0.0.1:0").await.unwrap_err()),
            "Take one of them away: which one would answer would be chance.",
        ),
    ]
}
