//! Who may use a registry: tokens, TLS, and what is refused.

use std::time::Duration;

use rpc_core::{ClientTls, Code, Server, ServerTls, Status};
use rpc_registry::{Registry, RegistryServer};

use crate::support::{Host, RawWatch, address, raw, register, registry_of, soon, until, uri};

const TOKEN: &str = "a token of some length";

fn guarded() -> RegistryServer {
    RegistryServer::builder().token(TOKEN).build().unwrap()
}

fn with_token(port: u16, token: &str) -> Registry {
    Registry::builder(&uri(&[port]))
        .token(token)
        .build()
        .unwrap()
}

async fn refused(registry: &Registry) -> Status {
    soon(registry.register("s", address(9)).unwrap().ready())
        .await
        .unwrap_err()
}

#[tokio::test]
async fn a_token_is_needed_to_register_to_watch_and_to_list() {
    let host = registry_of(0, guarded()).await;
    let lease = register(&with_token(host.port, TOKEN), "s", address(1)).await;
    until(&mut *with_token(host.port, TOKEN).resolver("s"), &[1]).await;
    for stranger in [
        Registry::connect(&uri(&[host.port])).unwrap(),
        with_token(host.port, "another token"),
    ] {
        let status = refused(&stranger).await;
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
        assert!(status.message().contains("RPC_REGISTRY_TOKEN"), "{status}");
        let status = soon(stranger.resolver("s").next()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    }
    let client = raw(host.port).await;
    let status = soon(client.list(crate::protocol::ListRequest::default()).recv())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let mut watch = RawWatch::start(&client, "s").await;
    assert_eq!(watch.any().await.unwrap_err().code(), Code::Unauthenticated);
    soon(lease.deregister()).await.unwrap();
}

/// Each failure of a refused handle makes the wait for the next attempt longer; who comes meanwhile is
/// not to wait for that.
#[tokio::test]
async fn who_comes_to_a_refused_handle_is_told_at_once() {
    let host = registry_of(0, guarded()).await;
    let stranger = Registry::connect(&uri(&[host.port])).unwrap();
    let first = stranger.register("s", address(1)).unwrap();
    let mut watched = stranger.resolver("s");
    soon(first.ready()).await.unwrap_err();
    soon(watched.next()).await.unwrap_err();
    for _ in 0..3 {
        let second = stranger.register("s", address(2)).unwrap();
        let told = std::pin::pin!(second.ready());
        let told = tokio::time::timeout(Duration::ZERO, told).await;
        assert_eq!(told.unwrap().unwrap_err().code(), Code::Unauthenticated);
        let mut resolver = stranger.resolver("s");
        let told = tokio::time::timeout(Duration::ZERO, resolver.next()).await;
        assert_eq!(told.unwrap().unwrap_err().code(), Code::Unauthenticated);
    }
}

#[tokio::test]
async fn tls_and_a_token_together() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let tls = ServerTls::from_pem(&chain, key).unwrap();
    let server = guarded();
    let host = Host::start(0, move || {
        Server::builder()
            .tls(tls.clone())
            .add_service(server.clone())
    })
    .await;
    let target = format!("registry+tls://localhost:{}", host.port);
    let trusting = || Registry::builder(&target).tls(ClientTls::from_root_pem(&chain).unwrap());
    let registry = trusting().token(TOKEN).build().unwrap();
    let _lease = register(&registry, "s", address(1)).await;
    until(&mut *registry.resolver("s"), &[1]).await;
    let status = refused(&trusting().build().unwrap()).await;
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    // In the clear, nothing is had from it.
    let plain = with_token(host.port, TOKEN);
    let lease = plain.register("s", address(2)).unwrap();
    let never = tokio::time::timeout(Duration::from_millis(300), lease.ready()).await;
    assert!(never.is_err(), "{never:?}");
}

#[test]
fn tls_settings_need_a_uri_that_says_so() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let tls = ClientTls::from_root_pem(made.cert.pem()).unwrap();
    let status = Registry::builder("registry://127.0.0.1:1")
        .tls(tls)
        .build()
        .unwrap_err();
    assert!(status.message().contains("registry+tls://"), "{status}");
}
