//! Servers that can be killed, and lists that can be waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rpc_core::client::{Address, Endpoint, Resolver};
use rpc_core::server::{ServerBuilder, Service, ShutdownHandle};
use rpc_core::{Channel, Codec, Method, Request, Response, Server, Status};
use rpc_registry::{Registry, RegistryServer};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::protocol::{
    Announce, Deregister, Follow, Instance, ListRequest, RegisterRequest, RegistryClient,
    ServiceEntries, Unfollow, WatchRequest, WatchResponse, register_request, watch_request,
};

/// How long anything may take that is not about time.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// Waits for what must come.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, what)
        .await
        .expect("it takes too long")
}

/// A server in a runtime of its own, to be killed like a process.
pub(crate) struct Host {
    runtime: Option<Runtime>,
    pub(crate) port: u16,
    pub(crate) shutdown: ShutdownHandle,
    pub(crate) serving: JoinHandle<()>,
}

impl Host {
    pub(crate) async fn start(
        port: u16,
        server: impl Fn() -> ServerBuilder + Send + 'static,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let bound = runtime.spawn(async move {
            let deadline = Instant::now() + LIMIT;
            loop {
                match server().bind(format!("127.0.0.1:{port}")).await {
                    Ok(bound) => return bound,
                    // The one that was killed may still be on its way out.
                    Err(error) => assert!(Instant::now() < deadline, "{error}"),
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let bound = bound.await.unwrap();
        let (port, shutdown) = (bound.local_addr().port(), bound.shutdown_handle());
        let serving = runtime.spawn(async move { bound.serve().await.unwrap() });
        Self {
            runtime: Some(runtime),
            port,
            shutdown,
            serving,
        }
    }

    /// Ends it without a word.
    pub(crate) fn kill(mut self) -> u16 {
        self.end();
        self.port
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    pub(crate) fn address(&self) -> Address {
        address(self.port)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.end();
    }
}

pub(crate) fn address(port: u16) -> Address {
    format!("127.0.0.1:{port}").parse().unwrap()
}

pub(crate) fn uri(registries: &[u16]) -> String {
    let addresses: Vec<_> = registries
        .iter()
        .map(|port| format!("127.0.0.1:{port}"))
        .collect();
    format!("registry://{}", addresses.join(","))
}

/// A registry server.
pub(crate) async fn registry(port: u16, ttl: Duration) -> Host {
    registry_of(port, RegistryServer::builder().ttl(ttl).build().unwrap()).await
}

pub(crate) async fn registry_of(port: u16, server: RegistryServer) -> Host {
    Host::start(port, move || {
        Server::builder()
            .add_service(server.clone())
            .on_shutdown(server.clone())
    })
    .await
}

/// A port that nobody listens on, kept from others by a socket that does not listen.
pub(crate) fn closed_port() -> (u16, tokio::net::TcpSocket) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    (socket.local_addr().unwrap().port(), socket)
}

const WHO: Method<Bytes, Bytes> =
    Method::unary("/it.Who/Ask", Codec::raw(), Codec::raw()).idempotent();

/// A backend that answers with its name and counts its calls.
pub(crate) struct Backend {
    pub(crate) host: Host,
    pub(crate) calls: Arc<AtomicU64>,
}

impl Backend {
    pub(crate) async fn start(name: &'static str) -> Self {
        Self::start_at(0, name).await
    }

    pub(crate) async fn start_at(port: u16, name: &'static str) -> Self {
        let calls = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&calls);
        let host = Host::start(port, move || {
            let counter = Arc::clone(&counter);
            let service = Service::new("it.Who").unary(
                &WHO,
                &counter,
                move |calls: Arc<AtomicU64>, _request: Request<Bytes>| async move {
                    calls.fetch_add(1, Ordering::SeqCst);
                    Ok(Response::new(Bytes::from_static(name.as_bytes())))
                },
            );
            Server::builder().add_service(service)
        })
        .await;
        Self { host, calls }
    }

    pub(crate) fn count(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }
}

/// Asks some backend for its name.
pub(crate) async fn who(channel: &Channel) -> Result<String, Status> {
    let request = Request::new(Bytes::new()).with_timeout(Duration::from_secs(5));
    let answer = channel.unary(&WHO, request).await?;
    Ok(String::from_utf8_lossy(answer.get_ref()).into_owned())
}

/// Waits until a resolver has exactly these ports.
pub(crate) async fn until(resolver: &mut dyn Resolver, ports: &[u16]) {
    let mut expected: Vec<_> = ports.iter().map(|port| address(*port)).collect();
    expected.sort();
    let mut last = Vec::new();
    let waiting = async {
        loop {
            let Ok(list) = resolver.next().await else {
                continue;
            };
            last = list.into_iter().map(|endpoint| endpoint.address).collect();
            last.sort();
            if last == expected {
                return;
            }
        }
    };
    if tokio::time::timeout(LIMIT, waiting).await.is_err() {
        panic!("{last:?} and not {expected:?}");
    }
}

/// Registers, and waits for the acknowledgement.
pub(crate) async fn register(
    registry: &Registry,
    service: &str,
    endpoint: impl Into<Endpoint>,
) -> rpc_registry::Lease {
    let lease = registry.register(service, endpoint).unwrap();
    soon(lease.ready()).await.unwrap();
    lease
}

/// The registry's protocol without this crate's client.
pub(crate) async fn raw(port: u16) -> RegistryClient {
    RegistryClient::new(
        soon(Channel::connect(&format!("http://127.0.0.1:{port}")))
            .await
            .unwrap(),
    )
}

pub(crate) async fn listed(port: u16) -> Vec<ServiceEntries> {
    let mut pieces = raw(port).await.list(ListRequest::default());
    let mut services: Vec<ServiceEntries> = Vec::new();
    while let Some(piece) = soon(pieces.recv()).await.unwrap() {
        for part in piece.services {
            match services.last_mut() {
                Some(last) if last.service == part.service => last.entries.extend(part.entries),
                _ => services.push(part),
            }
        }
    }
    services
}

/// A secret, and the id of the instance that it owns.
pub(crate) fn secret(number: u8) -> (Vec<u8>, u64) {
    let secret = vec![number; 16];
    let digest = ring::digest::digest(&ring::digest::SHA256, &secret);
    let id = u64::from_be_bytes(*digest.as_ref().first_chunk().unwrap());
    (secret, id)
}

/// An announcement by the owner of the secret of this number.
pub(crate) fn announce(service: &str, number: u8, address: &str, ttl: Duration) -> RegisterRequest {
    let (secret, id) = secret(number);
    let instance = Instance {
        id,
        address: address.into(),
        weight: 100,
        ..Instance::default()
    };
    let ttl_ms = u32::try_from(ttl.as_millis()).unwrap();
    RegisterRequest {
        step: Some(register_request::Step::Announce(Announce {
            service: service.into(),
            instance: Some(instance),
            ttl_ms,
            secret,
        })),
    }
}

pub(crate) fn deregister(service: &str, instance_id: u64, secret: Vec<u8>) -> RegisterRequest {
    RegisterRequest {
        step: Some(register_request::Step::Deregister(Deregister {
            service: service.into(),
            instance_id,
            secret,
        })),
    }
}

/// A watch of one service by the protocol.
pub(crate) struct RawWatch {
    requests: rpc_core::RequestStream<WatchRequest>,
    responses: rpc_core::RecvStream<WatchResponse>,
}

impl RawWatch {
    pub(crate) async fn start(client: &RegistryClient, service: &str) -> Self {
        Self::resume(client, service, 0, 0).await
    }

    pub(crate) async fn resume(
        client: &RegistryClient,
        service: &str,
        incarnation: u64,
        revision: u64,
    ) -> Self {
        let (requests, responses) = client.watch(());
        let mut watch = Self {
            requests,
            responses,
        };
        watch.follow(1, service, incarnation, revision).await;
        watch
    }

    pub(crate) async fn follow(
        &mut self,
        watch: u32,
        service: &str,
        incarnation: u64,
        revision: u64,
    ) {
        let follow = Follow {
            service: service.into(),
            incarnation,
            revision,
        };
        let step = Some(watch_request::Step::Follow(follow));
        soon(self.requests.send(WatchRequest { watch, step }))
            .await
            .unwrap();
    }

    pub(crate) async fn unfollow(&mut self, watch: u32) {
        let step = Some(watch_request::Step::Unfollow(Unfollow {}));
        soon(self.requests.send(WatchRequest { watch, step }))
            .await
            .unwrap();
    }

    /// The next message, a sign of life or not.
    pub(crate) async fn any(&mut self) -> Result<WatchResponse, Status> {
        soon(self.responses.recv())
            .await
            .map(|piece| piece.expect("the stream has not ended"))
    }

    /// The next piece of the list.
    pub(crate) async fn next(&mut self) -> WatchResponse {
        loop {
            let piece = self.any().await.unwrap();
            if piece.watch != 0 {
                return piece;
            }
        }
    }
}
