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
    Announce, Instance, ListRequest, RegisterRequest, RegistryClient, ServiceEntries,
    register_request,
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
    soon(raw(port).await.list(ListRequest::default()))
        .await
        .unwrap()
        .into_inner()
        .services
}

pub(crate) fn announce(service: &str, id: u64, address: &str, ttl: Duration) -> RegisterRequest {
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
        })),
    }
}
