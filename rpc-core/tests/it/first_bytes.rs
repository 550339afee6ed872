//! What a port answers to those who speak something else than HTTP/2.

use rpc_core::{Server, ServerTls};
use rpc_testkit::proto::TestServer;
use rpc_testkit::{TestService, run, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// All that the server says to these bytes before it closes.
async fn said_to(bytes: &[u8]) -> String {
    let server = serve().await;
    let address = server.uri.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset would be an error.
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn http_1_is_answered_in_http_1() {
    let answer =
        said_to(b"GET /testkit.v1.Test/Echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            .await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(answer.to_lowercase().contains("allow: post"), "{answer}");
    let answer = said_to(
        b"POST /testkit.v1.Test/Echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 415 "), "{answer}");
}

#[tokio::test]
async fn anything_else_is_closed() {
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01"[..],
        b"hello there, who are you\r\n",
        b"\0\0\0\0\0\0\0\0\0\0",
        b"PRJ * HTTP/2.0\r\n\r\n",
        &[0; 40_000],
    ] {
        let answer = said_to(bytes).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400 "),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_broken_preface_is_told_so_and_closed() {
    let answer = said_to(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n").await;
    // SETTINGS, and a GOAWAY with PROTOCOL_ERROR.
    assert!(answer.contains("preface"), "{answer:?}");
}

#[tokio::test]
async fn who_goes_on_sending_still_hears_why_it_ended() {
    let server = serve().await;
    let address = server.uri.trim_start_matches("http://");
    for _ in 0..20 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The end of the preface is wrong.
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n")
            .await
            .unwrap();
        let mut answer = vec![0; 9];
        stream.read_exact(&mut answer).await.unwrap();
        for _ in 0..20 {
            stream.write_all(&[0; 1000]).await.unwrap();
            tokio::task::yield_now().await;
        }
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains("preface"), "{answer:?}");
    }
}

#[tokio::test]
async fn who_is_not_understood_is_closed_without_a_reset() {
    let server = serve().await;
    let address = server.uri.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"\x16\x03\x01\x02\0\x01").await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    // What was under way is read and forgotten; a reset would make the second write fail.
    for _ in 0..20 {
        stream.write_all(&[0; 1000]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(stream.take_error().unwrap().is_none());
}

#[tokio::test]
async fn who_fails_to_shake_hands_hears_why() {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = ServerTls::from_pem(key.cert.pem(), key.signing_key.serialize_pem()).unwrap();
    let server = Server::builder()
        .add_service(TestServer::new(TestService::default()))
        .tls(tls)
        .bind("127.0.0.1:0")
        .await
        .unwrap();
    let address = server.local_addr().to_string();
    let _server = run(server);
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A handshake message of an unknown kind.
    stream
        .write_all(b"\x16\x03\x01\0\x04\x63\0\0\0")
        .await
        .unwrap();
    let mut answer = vec![0; 5];
    stream.read_exact(&mut answer).await.unwrap();
    for _ in 0..20 {
        stream.write_all(&[0; 1000]).await.unwrap();
        tokio::task::yield_now().await;
    }
    stream.read_to_end(&mut answer).await.unwrap();
    // An alert, and a fatal one.
    assert_eq!((answer[0], answer[5]), (21, 2), "{answer:?}");
}
