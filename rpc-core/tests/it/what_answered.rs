//! What a peer is that does not answer in HTTP/2, and why one that does goes away: it is in the message
//! of the failed call.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rpc_core::{Channel, ClientTls, Code, Request, Server, ServerTls, Status};
use rpc_http2::frame::{FrameHeader, HEADER, PREFACE, flag, kind};
use rpc_testkit::proto::{Message, TestClient, TestServer};
use rpc_testkit::raw::frame;
use rpc_testkit::{Running, TestService, run, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A server that says this to whoever connects, and no more.
async fn saying(octets: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(octets).await;
                let _ = stream.shutdown().await;
                // What is not read would make a reset of the end.
                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            });
        }
    });
    address.to_string()
}

fn key() -> rcgen::CertifiedKey<rcgen::KeyPair> {
    rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap()
}

async fn serve_tls() -> (String, String, Running) {
    let key = key();
    let tls = ServerTls::from_pem(key.cert.pem(), key.signing_key.serialize_pem()).unwrap();
    let server = Server::builder()
        .add_service(TestServer::new(TestService::default()))
        .tls(tls)
        .bind("127.0.0.1:0")
        .await
        .unwrap();
    (server.local_addr().to_string(), key.cert.pem(), run(server))
}

/// The status of a call over a channel that cannot connect.
async fn failed(channel: &Channel) -> Status {
    let client = TestClient::new(channel.clone());
    let failed = client.echo(Message::default()).await.unwrap_err();
    assert_eq!(failed.code(), Code::Unavailable, "{failed}");
    failed
}

/// Asserts that a call is told all of these in its message, which is what applications log.
fn told(status: &Status, parts: &[&str]) {
    for part in parts {
        assert!(
            status.message().contains(part),
            "no {part:?} in {:?}",
            status.message()
        );
    }
}

const HTTP1: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
const SSH: &[u8] = b"SSH-2.0-OpenSSH_9.6\r\n";
const SMTP: &[u8] = b"220 mail.example ESMTP\r\n";
const ALERT: &[u8] = b"\x15\x03\x01\0\x02\x02\x46";
const MYSQL: &[u8] = b"\x4a\0\0\0\x0a8.0.36\0\x08\0\0\0";

#[tokio::test]
async fn who_answers_a_plaintext_client_is_named() {
    for (said, parts) in [
        (HTTP1, &["HTTP/1.1 400 Bad Request", "web server"][..]),
        (SSH, &["SSH-2.0-OpenSSH_9.6", "another service"]),
        (SMTP, &["220 mail.example ESMTP", "another service"]),
        (ALERT, &["TLS alert", "https://"]),
        (MYSQL, &["4a 00 00 00 0a", "another service"]),
        (b"nope", &["\"nope\"", "another service"]),
        (b"", &["closed the connection before"]),
    ] {
        let address = saying(said).await;
        let channel = Channel::lazy(&format!("http://{address}")).unwrap();
        let status = failed(&channel).await;
        told(&status, parts);
        told(&status, &[&address]);
        // Streams are told the same.
        let (_requests, mut responses) = TestClient::new(channel).chat(());
        told(&responses.recv().await.unwrap_err(), parts);
    }
}

#[tokio::test]
async fn who_answers_a_tls_client_is_named() {
    let settings = frame(kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]);
    for (said, parts) in [
        (HTTP1, &["HTTP/1.1 400 Bad Request", "http://"][..]),
        (SSH, &["SSH-2.0-OpenSSH_9.6", "another service"]),
        (SMTP, &["220 mail.example ESMTP", "another service"]),
        (&*settings.leak(), &["HTTP/2", "http://"]),
        (ALERT, &["TLS handshake", "alert"]),
        (b"", &["said nothing", "http://"]),
    ] {
        let address = saying(said).await;
        let tls = ClientTls::from_root_pem(key().cert.pem()).unwrap();
        let channel = Channel::builder().tls(tls);
        let status = channel
            .connect(&format!("https://{address}"))
            .await
            .unwrap_err();
        told(&status, parts);
        told(&status, &[&address]);
    }
}

#[tokio::test]
async fn tls_on_one_side_only_is_told() {
    let (address, _, _server) = serve_tls().await;
    let channel = Channel::lazy(&format!("http://{address}")).unwrap();
    told(&failed(&channel).await, &["TLS", "https://"]);
    let plain = serve().await;
    let tls = ClientTls::from_root_pem(key().cert.pem()).unwrap();
    let target = plain.uri.replace("http://", "https://");
    let status = Channel::builder()
        .tls(tls)
        .connect(&target)
        .await
        .unwrap_err();
    told(&status, &["http://"]);
}

#[tokio::test]
async fn why_tls_failed_is_in_the_message_of_the_call() {
    let (address, pem, _server) = serve_tls().await;
    let target = format!("https://{address}");
    let strangers = ClientTls::from_root_pem(key().cert.pem()).unwrap();
    let status = Channel::builder()
        .tls(strangers)
        .connect(&target)
        .await
        .unwrap_err();
    told(
        &status,
        &["TLS handshake", "invalid peer certificate", &address],
    );
    let named = ClientTls::from_root_pem(pem)
        .unwrap()
        .with_server_name("other.example");
    let status = Channel::builder()
        .tls(named)
        .connect(&target)
        .await
        .unwrap_err();
    told(&status, &["invalid peer certificate", "other.example"]);
}

/// A server that answers the head of the first call on each connection with this GOAWAY, and closes.
async fn going_away(last: u32, code: u32, debug: &'static [u8]) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap());
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                stream.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
                stream
                    .write_all(&frame(kind::SETTINGS, 0, 0, &[]))
                    .await
                    .unwrap();
                let mut header = [0; HEADER];
                while stream.read_exact(&mut header).await.is_ok() {
                    let header = FrameHeader::parse(&header);
                    let mut payload = vec![0; header.length as usize];
                    stream.read_exact(&mut payload).await.unwrap();
                    if header.kind == kind::SETTINGS && !header.has(flag::ACK) {
                        let acknowledged = frame(kind::SETTINGS, flag::ACK, 0, &[]);
                        stream.write_all(&acknowledged).await.unwrap();
                    }
                    if header.kind == kind::HEADERS {
                        counted.fetch_add(1, Ordering::SeqCst);
                        let payload = [&last.to_be_bytes()[..], &code.to_be_bytes(), debug];
                        let goaway = frame(kind::GOAWAY, 0, 0, &payload.concat());
                        stream.write_all(&goaway).await.unwrap();
                        stream.shutdown().await.unwrap();
                    }
                }
            });
        }
    });
    (target, calls)
}

#[tokio::test]
async fn a_goaway_is_told_with_its_code_and_its_text() {
    let calm: &[&str] = &["ENHANCE_YOUR_CALM", "too_many_pings"];
    for (last, code, debug, parts) in [
        // The call may have been processed, and its connection is closed.
        (1, 0xb, &b"too_many_pings"[..], calm),
        // It was not, however often it is tried.
        (0, 0xb, b"too_many_pings", calm),
        (0, 0, b"", &["NO_ERROR"]),
        // What cannot be printed is not.
        (1, 2, b"a\x1b[31m\0b\xff", &["INTERNAL_ERROR", "a [31m b"]),
        (1, 99, b"", &["an unknown code"]),
    ] {
        let (target, calls) = going_away(last, code, debug).await;
        let channel = Channel::lazy(&target).unwrap();
        let client = TestClient::new(channel);
        let request = Request::new(Message::default()).with_timeout(Duration::from_secs(30));
        let status = client.echo(request.without_retry()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        told(&status, parts);
        assert!(
            status.message().chars().all(|c| !c.is_control()),
            "{status}"
        );
        assert!(calls.load(Ordering::SeqCst) > 0);
    }
    let long: &'static [u8] = vec![b'x'; 16_000].leak();
    let (target, _) = going_away(1, 0xb, long).await;
    let status = TestClient::new(Channel::lazy(&target).unwrap())
        .echo(Request::new(Message::default()).without_retry())
        .await
        .unwrap_err();
    told(&status, &["ENHANCE_YOUR_CALM", &"x".repeat(128)]);
    assert!(status.message().len() < 1000, "{status}");
}
