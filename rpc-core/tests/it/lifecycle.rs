use std::time::Duration;

use rpc_core::health::{CHECK, Health, HealthCheckRequest, ServingStatus, WATCH};
use rpc_core::{Channel, Code, Request, Server};
use rpc_testkit::proto::{Message, TestClient, TestServer};
use rpc_testkit::{Running, TestService, run, serve};

#[tokio::test]
async fn a_refused_port_names_the_endpoint_and_the_cause() {
    let status = Channel::connect("http://127.0.0.1:1").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let text = status.to_string();
    assert!(
        text.contains("127.0.0.1:1") && text.contains("refused"),
        "{text}"
    );
}

#[tokio::test]
async fn an_unresolvable_name_is_named() {
    let status = Channel::connect("http://does-not-exist.invalid:80")
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.to_string().contains("does-not-exist.invalid"),
        "{status}"
    );
}

#[tokio::test]
async fn a_plaintext_server_behind_https_is_an_error_of_the_handshake() {
    let server = serve().await;
    let roots = rpc_core::ClientTls::from_root_pem(certificate().cert.pem()).unwrap();
    let target = server.uri.replace("http://", "https://");
    let status = Channel::builder()
        .tls(roots)
        .connect(&target)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.to_string().contains("TLS handshake"), "{status}");
}

fn certificate() -> rcgen::CertifiedKey<rcgen::KeyPair> {
    rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap()
}

#[tokio::test]
async fn tls_with_a_root_of_ones_own() {
    let key = certificate();
    let tls =
        rpc_core::ServerTls::from_pem(key.cert.pem(), key.signing_key.serialize_pem()).unwrap();
    let server = Server::builder()
        .add_service(TestServer::new(TestService::default()))
        .tls(tls)
        .bind("127.0.0.1:0")
        .await
        .unwrap();
    let server = run(server);
    assert!(server.uri.starts_with("https://"));
    let roots = rpc_core::ClientTls::from_root_pem(key.cert.pem()).unwrap();
    let channel = Channel::builder()
        .tls(roots)
        .connect(&server.uri)
        .await
        .unwrap();
    assert!(
        TestClient::new(channel)
            .echo(Message::default())
            .await
            .is_ok()
    );
    let strangers = rpc_core::ClientTls::from_root_pem(certificate().cert.pem()).unwrap();
    let status = Channel::builder()
        .tls(strangers)
        .connect(&server.uri)
        .await
        .unwrap_err();
    assert!(status.to_string().contains("certificate"), "{status}");
}

#[tokio::test]
async fn a_unix_socket() {
    let path = std::env::temp_dir().join(format!("rpc-core-test-{}.sock", std::process::id()));
    let target = format!("unix:{}", path.display());
    let server = Server::builder()
        .add_service(TestServer::new(TestService::default()))
        .bind(&target)
        .await
        .unwrap();
    let server = run(server);
    let client = TestClient::new(Channel::connect(&target).await.unwrap());
    assert!(client.echo(Message::default()).await.is_ok());
    server.shutdown.shutdown();
    server.task.await.unwrap();
    assert!(!path.exists());
}

/// Serves the test service at an address.
async fn serve_at(target: &str) -> Running {
    let server = Server::builder().add_service(TestServer::new(TestService::default()));
    run(server.bind(target).await.unwrap())
}

#[cfg(unix)]
#[tokio::test]
async fn an_old_server_leaves_the_socket_of_the_new_one() {
    let path = std::env::temp_dir().join(format!("rpc-rolling-{}.sock", std::process::id()));
    let target = format!("unix:{}", path.display());
    let old = serve_at(&target).await;
    let client = TestClient::new(Channel::connect(&target).await.unwrap());
    // A call that is open holds the old server up while the new one comes.
    let (mut requests, mut responses) = client.chat(());
    requests.send(Message::default()).await.unwrap();
    assert!(responses.recv().await.unwrap().is_some());
    let in_use = Server::builder().bind(&target).await.unwrap_err();
    assert!(in_use.to_string().contains("in use"), "{in_use}");
    old.shutdown.shutdown();
    let new = loop {
        let server = Server::builder().add_service(TestServer::new(TestService::default()));
        match server.bind(&target).await {
            Ok(server) => break run(server),
            Err(_) => tokio::task::yield_now().await,
        }
    };
    requests.finish().await.unwrap();
    assert_eq!(responses.recv().await.unwrap(), None);
    old.task.await.unwrap();
    let client = TestClient::new(Channel::connect(&target).await.unwrap());
    assert!(client.echo(Message::default()).await.is_ok());
    new.shutdown.shutdown();
    new.task.await.unwrap();
    assert!(!path.exists());
}

#[cfg(unix)]
#[tokio::test]
async fn a_server_that_is_never_served_leaves_no_socket() {
    let path = std::env::temp_dir().join(format!("rpc-unserved-{}.sock", std::process::id()));
    let bound = Server::builder()
        .bind(format!("unix:{}", path.display()))
        .await
        .unwrap();
    assert!(path.exists());
    drop(bound);
    assert!(!path.exists());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_abstract_unix_socket() {
    let target = format!("unix-abstract:rpc-core-test/{}", std::process::id());
    let server = serve_at(&target).await;
    assert_eq!(server.uri, target);
    let client = TestClient::new(Channel::connect(&target).await.unwrap());
    assert!(client.echo(Message::default()).await.is_ok());
    let in_use = Server::builder().bind(&target).await.unwrap_err();
    assert!(in_use.to_string().contains(&target), "{in_use}");
}

/// The zone of the loopback address is number 1 on every Linux.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_ipv6_address_with_a_zone() {
    let server = serve_at("[::1%1]:0").await;
    let port = server.uri.rsplit_once(':').unwrap().1;
    for zone in ["%1", "%251", ""] {
        let target = format!("http://[::1{zone}]:{port}");
        let client = TestClient::new(Channel::connect(&target).await.unwrap());
        assert!(client.echo(Message::default()).await.is_ok(), "{target}");
    }
}

#[tokio::test]
async fn shutdown_lets_open_calls_end() {
    let server = serve().await;
    let client = TestClient::new(Channel::connect(&server.uri).await.unwrap());
    let (mut requests, mut responses) = client.chat(());
    requests.send(Message::default()).await.unwrap();
    assert!(responses.recv().await.unwrap().is_some());
    server.shutdown.shutdown();
    // The socket is closed to newcomers once draining has begun.
    let target = server.uri.clone();
    while Channel::connect(&target).await.is_ok() {}
    for number in 0..10 {
        requests
            .send(Message {
                number,
                ..Message::default()
            })
            .await
            .unwrap();
        assert_eq!(responses.recv().await.unwrap().unwrap().number, number);
    }
    requests.finish().await.unwrap();
    assert_eq!(responses.recv().await.unwrap(), None);
    tokio::time::timeout(Duration::from_secs(10), server.task)
        .await
        .expect("drained")
        .unwrap();
}

#[tokio::test]
async fn a_channel_finds_a_server_that_comes_back() {
    let server = serve().await;
    let address = server.uri.trim_start_matches("http://").to_owned();
    let client = TestClient::new(Channel::connect(&server.uri).await.unwrap());
    assert!(client.echo(Message::default()).await.is_ok());
    server.shutdown.shutdown();
    server.task.await.unwrap();
    let status = loop {
        match client.echo(Message::default()).await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable);
    let again = Server::builder()
        .add_service(TestServer::new(TestService::default()))
        .bind(&address)
        .await
        .unwrap();
    let _again = run(again);
    let request = Request::new(Message::default())
        .with_wait_for_ready()
        .with_timeout(Duration::from_secs(20));
    assert!(client.echo(request).await.is_ok());
}

#[tokio::test]
async fn health_is_told_and_ends_with_the_server() {
    let health = Health::new();
    health.set("a", ServingStatus::NotServing);
    let server = run(Server::builder()
        .health(health.clone())
        .bind("127.0.0.1:0")
        .await
        .unwrap());
    let channel = Channel::connect(&server.uri).await.unwrap();
    let check = async |service: &str| {
        let request = Request::new(HealthCheckRequest {
            service: service.to_owned(),
        });
        channel
            .unary(&CHECK, request)
            .await
            .map(|response| response.into_inner().status())
    };
    assert_eq!(check("").await.unwrap(), ServingStatus::Serving);
    assert_eq!(check("a").await.unwrap(), ServingStatus::NotServing);
    assert_eq!(check("b").await.unwrap_err().code(), Code::NotFound);
    let mut watch = channel.server_streaming(
        &WATCH,
        Request::new(HealthCheckRequest {
            service: "b".to_owned(),
        }),
    );
    assert_eq!(
        watch.recv().await.unwrap().unwrap().status(),
        ServingStatus::ServiceUnknown
    );
    health.set("b", ServingStatus::Serving);
    assert_eq!(
        watch.recv().await.unwrap().unwrap().status(),
        ServingStatus::Serving
    );
    server.shutdown.shutdown();
    assert_eq!(
        watch.recv().await.unwrap().unwrap().status(),
        ServingStatus::NotServing
    );
}

#[tokio::test]
async fn handlers_past_the_cap_are_refused_before_they_run() {
    let server = Server::builder()
        .add_service(TestServer::new(TestService::default()))
        .max_handlers(0)
        .bind("127.0.0.1:0")
        .await
        .unwrap();
    let server = run(server);
    let client = TestClient::new(Channel::connect(&server.uri).await.unwrap());
    assert_eq!(
        client.echo(Message::default()).await.unwrap_err().code(),
        Code::ResourceExhausted
    );
}

/// A call of `Hang` over HTTP/1.1 that goes on until it is dropped, or its answer.
async fn hang_over_http_1(uri: &str) -> (tokio::net::TcpStream, String) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let address = uri.trim_start_matches("http://");
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let call = b"POST /testkit.v1.Test/Hang HTTP/1.1\r\nhost: a\r\nte: trailers\r\ncontent-type: application/grpc\r\nconnection: close\r\ncontent-length: 5\r\n\r\n\0\0\0\0\0";
    stream.write_all(call).await.unwrap();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_millis(200), read).await;
    (stream, String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn handlers_over_http_1_count_with_those_of_all_connections() {
    let server = Server::builder()
        .add_service(TestServer::new(TestService::default()))
        .max_handlers(2)
        .bind("127.0.0.1:0")
        .await
        .unwrap();
    let server = run(server);
    let (first, answer) = hang_over_http_1(&server.uri).await;
    assert_eq!(answer, "");
    let (second, answer) = hang_over_http_1(&server.uri).await;
    assert_eq!(answer, "");
    let (_third, answer) = hang_over_http_1(&server.uri).await;
    assert!(answer.contains("grpc-status: 8"), "{answer}");
    // One that goes makes place, for HTTP/2 too.
    let client = TestClient::new(Channel::connect(&server.uri).await.unwrap());
    let busy = client.echo(Message::default()).await.unwrap_err();
    assert_eq!(busy.code(), Code::ResourceExhausted);
    drop((first, second));
    let served = async { while client.echo(Message::default()).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(10), served)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_peer_that_is_no_http2_server_is_found_out_when_connecting() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        while let Ok((mut stream, _)) = listener.accept().await {
            drop(stream.write_all(b"SSH-2.0-OpenSSH_9\r\n").await);
        }
    });
    let status = Channel::connect(&target).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.to_string().contains("HTTP/2"), "{status}");
}

#[tokio::test]
async fn in_process_is_the_same_path_without_a_socket() {
    let router =
        rpc_core::server::Router::new().add_service(TestServer::new(TestService::default()));
    let client = TestClient::new(Channel::in_process(router).unwrap());
    let message = Message {
        body: vec![3; 1 << 20],
        ..Message::default()
    };
    assert_eq!(
        client.echo(message.clone()).await.unwrap().into_inner(),
        message
    );
    assert_eq!(
        client.panic(Message::default()).await.unwrap_err().code(),
        Code::Internal
    );
}

#[tokio::test]
async fn a_call_made_in_a_handler_inherits_the_deadline() {
    use rpc_core::server::{Router, Service};
    use rpc_core::{Codec, Method, Response};
    let inner = serve().await;
    let inner = TestClient::new(Channel::connect(&inner.uri).await.unwrap());
    let method: Method<Message, Message> =
        Method::unary("/outer.Outer/Call", Codec::prost(), Codec::prost());
    /// Says how the inner call ended, or with the drop that there was no time to see it.
    struct Seen(
        tokio::sync::mpsc::UnboundedSender<Option<Code>>,
        Option<Code>,
    );
    impl Drop for Seen {
        fn drop(&mut self) {
            let _ = self.0.send(self.1);
        }
    }
    let (seen, mut outcome) = tokio::sync::mpsc::unbounded_channel();
    let service = Service::new("outer.Outer").unary(
        &method,
        &std::sync::Arc::new((inner, seen)),
        |state, request| async move {
            let request: Request<Message> = request;
            let mut seen = Seen(state.1.clone(), None);
            let counted = state.0.hang(request.into_inner()).await;
            seen.1 = Some(counted.map(|_| ()).unwrap_err().code());
            Ok(Response::new(Message::default()))
        },
    );
    let channel = Channel::in_process(Router::new().add_service(service)).unwrap();
    let request = Request::new(Message::default()).with_timeout(Duration::from_millis(200));
    assert_eq!(
        channel.unary(&method, request).await.unwrap_err().code(),
        Code::DeadlineExceeded
    );
    // The handler itself may be dropped first; if it saw an outcome, it was the deadline's.
    if let Some(code) = outcome.recv().await.unwrap() {
        assert_eq!(code, Code::DeadlineExceeded);
    }
}

#[tokio::test]
async fn a_fallback_sees_what_no_service_has() {
    use bytes::Bytes;
    use rpc_core::server::Router;
    use rpc_core::{Codec, Method, MethodKind};
    let router = Router::new().fallback(|call| async move {
        let rpc_core::server::RawCall {
            path,
            request,
            mut responses,
        } = call;
        let mut requests = request.into_inner();
        let result = async {
            while let Some(message) = requests.recv().await? {
                responses
                    .send([path.as_bytes(), &message].concat().into())
                    .await?;
            }
            Ok(())
        };
        let result = result.await;
        responses.finish(result)
    });
    let channel = Channel::in_process(router).unwrap();
    let method = Method::dynamic(
        "/any.Thing/Do",
        MethodKind::Unary,
        Codec::raw(),
        Codec::raw(),
    );
    let answer = channel
        .unary(&method, Request::new(Bytes::from_static(b"!")))
        .await
        .unwrap();
    assert_eq!(&answer.into_inner()[..], b"/any.Thing/Do!");
}
