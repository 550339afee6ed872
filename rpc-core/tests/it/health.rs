//! The health service as everybody else's generated code sees it: the messages of `rpc-core` are
//! written by hand, these come from the standard's own file.

use rpc_core::health::{Health, ServingStatus};
use rpc_core::{Channel, Code, Server};
use rpc_testkit::health::health_check_response::ServingStatus as Generated;
use rpc_testkit::health::{HealthCheckRequest, HealthClient};
use rpc_testkit::{Running, run};

async fn served() -> (Running, Health, HealthClient) {
    let health = Health::new();
    let server = Server::builder()
        .health(health.clone())
        .bind("127.0.0.1:0")
        .await
        .unwrap();
    let running = run(server);
    let client = HealthClient::new(Channel::connect(&running.uri).await.unwrap());
    (running, health, client)
}

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

#[tokio::test]
async fn every_status_has_its_number() {
    let (_server, health, client) = served().await;
    for (set, seen) in [
        (ServingStatus::Serving, Generated::Serving),
        (ServingStatus::NotServing, Generated::NotServing),
        (ServingStatus::Unknown, Generated::Unknown),
    ] {
        health.set("a.B", set);
        assert_eq!(
            client.check(of("a.B")).await.unwrap().get_ref().status(),
            seen
        );
    }
    assert_eq!(
        ServingStatus::ServiceUnknown as i32,
        Generated::ServiceUnknown as i32
    );
}

#[tokio::test]
async fn an_unknown_service_is_not_found_by_check_and_unknown_to_watch() {
    let (_server, health, client) = served().await;
    let status = client.check(of("a.B")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let mut watch = client.watch(of("a.B"));
    assert_eq!(
        watch.recv().await.unwrap().unwrap().status(),
        Generated::ServiceUnknown
    );
    health.set("a.B", ServingStatus::Serving);
    assert_eq!(
        watch.recv().await.unwrap().unwrap().status(),
        Generated::Serving
    );
}

#[tokio::test]
async fn a_server_that_ends_says_so_to_those_who_watch() {
    let (server, _health, client) = served().await;
    let mut watch = client.watch(of(""));
    assert_eq!(
        watch.recv().await.unwrap().unwrap().status(),
        Generated::Serving
    );
    server.shutdown.shutdown();
    assert_eq!(
        watch.recv().await.unwrap().unwrap().status(),
        Generated::NotServing
    );
}
