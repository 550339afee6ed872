//! A registry that says wrong things.

use std::sync::Arc;

use rpc_core::client::Resolver;
use rpc_core::{RecvStream, Request, SendStream, Server, Status};
use rpc_registry::Registry;
use tokio::sync::{Mutex, mpsc};

use crate::protocol::{
    self, Gone, Instance, ListRequest, ListResponse, RegisterRequest, RegisterResponse,
    WatchRequest, WatchResponse,
};
use crate::support::{Host, soon, until, uri};

/// Pushes what the test says; an error ends the stream.
#[derive(Clone)]
struct Fake(Arc<Mutex<mpsc::UnboundedReceiver<Result<WatchResponse, Status>>>>);

impl protocol::Registry for Fake {
    async fn register(
        &self,
        _: Request<RecvStream<RegisterRequest>>,
        _: &mut SendStream<RegisterResponse>,
    ) -> Result<(), Status> {
        Err(Status::permission_denied("nobody may register here"))
    }

    async fn watch(
        &self,
        request: Request<RecvStream<WatchRequest>>,
        responses: &mut SendStream<WatchResponse>,
    ) -> Result<(), Status> {
        let mut requests = request.into_inner();
        let watch = requests.recv().await?.map_or(0, |request| request.watch);
        while let Some(push) = self.0.lock().await.recv().await {
            responses.send(WatchResponse { watch, ..push? }).await?;
        }
        Ok(())
    }

    async fn list(
        &self,
        _: Request<ListRequest>,
        _: &mut SendStream<ListResponse>,
    ) -> Result<(), Status> {
        Ok(())
    }
}

struct Script {
    host: Host,
    pushes: mpsc::UnboundedSender<Result<WatchResponse, Status>>,
    resolver: Box<dyn Resolver>,
}

impl Script {
    async fn start() -> Self {
        let (pushes, script) = mpsc::unbounded_channel();
        let fake = Fake(Arc::new(Mutex::new(script)));
        let host = Host::start(0, move || {
            Server::builder().add_service(protocol::RegistryServer::new(fake.clone()))
        })
        .await;
        let resolver = Registry::connect(&uri(&[host.port])).unwrap().resolver("s");
        Self {
            host,
            pushes,
            resolver,
        }
    }

    fn push(&self, revision: u64, addresses: &[&str], departed: &[u64]) {
        self.push_of(1, revision, addresses, departed);
    }

    /// A whole list, and who has said goodbye.
    fn push_of(&self, incarnation: u64, revision: u64, addresses: &[&str], departed: &[u64]) {
        let instance = |(address, id): (&&str, u64)| Instance {
            id,
            address: (*address).into(),
            weight: 100,
            ..Instance::default()
        };
        let instances = addresses.iter().zip(1..).map(instance).collect();
        let gone = |id: &u64| Gone {
            id: *id,
            deregistered: true,
        };
        let push = WatchResponse {
            incarnation,
            revision,
            ttl_ms: 100,
            whole: true,
            instances,
            gone: departed.iter().map(gone).collect(),
            ..WatchResponse::default()
        };
        self.pushes.send(Ok(push)).unwrap();
    }

    fn break_stream(&self) {
        self.pushes
            .send(Err(Status::unavailable("broken")))
            .unwrap();
    }

    async fn until(&mut self, ports: &[u16]) {
        until(&mut *self.resolver, ports).await;
    }

    /// The next list, errors left out.
    async fn next(&mut self) -> usize {
        let next = async {
            loop {
                if let Ok(list) = self.resolver.next().await {
                    return list.len();
                }
            }
        };
        soon(next).await
    }
}

const THREE: &[&str] = &["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"];
const FOUR: &[&str] = &["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4"];

#[tokio::test]
async fn an_empty_list_after_a_reconnect_clears_nothing() {
    let mut script = Script::start().await;
    script.push(5, THREE, &[]);
    script.until(&[1, 2, 3]).await;
    script.break_stream();
    script.push_of(2, 0, &[], &[]);
    script.push_of(2, 1, FOUR, &[]);
    assert_eq!(script.next().await, 4, "the empty list was no news");
}

#[tokio::test]
async fn an_older_revision_is_ignored() {
    let mut script = Script::start().await;
    script.push(5, THREE, &[]);
    script.until(&[1, 2, 3]).await;
    script.push(4, &[], &[1, 2, 3]);
    script.push(6, FOUR, &[]);
    assert_eq!(script.next().await, 4);
}

#[tokio::test]
async fn a_goodbye_takes_effect_at_once() {
    let mut script = Script::start().await;
    script.push(5, THREE, &[]);
    script.until(&[1, 2, 3]).await;
    script.push(6, &[], &[1, 2, 3]);
    assert_eq!(script.next().await, 0);
}

#[tokio::test]
async fn garbage_addresses_are_left_out() {
    let mut script = Script::start().await;
    script.push(5, &["nonsense", "0.0.0.0:1", "127.0.0.1:3", ""], &[]);
    script.until(&[3]).await;
}

#[tokio::test]
async fn a_registry_without_a_sign_of_life_is_left() {
    let mut script = Script::start().await;
    script.push(5, THREE, &[]);
    script.until(&[1, 2, 3]).await;
    // Nothing is pushed, not even a sign: the client gives up after two seconds and says so.
    let status = soon(script.resolver.next()).await.unwrap_err();
    assert!(status.to_string().contains("silent"), "{status}");
    assert!(
        status.message().contains(&script.host.port.to_string()),
        "{status}"
    );
}

#[tokio::test]
async fn a_refused_registration_is_told() {
    let script = Script::start().await;
    let registry = Registry::connect(&uri(&[script.host.port])).unwrap();
    let lease = registry.register("s", crate::support::address(1)).unwrap();
    let status = soon(lease.ready()).await.unwrap_err();
    assert!(
        status.message().contains("nobody may register here"),
        "{status}"
    );
}
