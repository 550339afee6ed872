//! Registries that are wrong about live servers, and clients that go on calling them: cut off from
//! the servers, restarted without knowing anybody, one of two wrong, most leases expired at once; then
//! a goodbye, and a list that is truly empty. Beside each client runs another one that has no memory
//! and believes what the registry says at each moment: what it loses is what the fault is worth.
//!
//! `registry-faults [SECONDS]` prints a table; exits 1 when a promise was broken, or when a fault did
//! not harm those who believe in it.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rpc_core::client::{Address, Endpoint, FinishedCall, LoadBalancer, Resolver};
use rpc_core::{BoxFuture, Channel, Request, Server, Status};
use rpc_registry::{Lease, Registry, RegistryServer, balance};
use rpc_testkit::promises::Promises;
use rpc_testkit::proto::{Message, TestClient};
use rpc_testkit::{FaultProxy, Running, run, serve};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const TTL: Duration = Duration::from_secs(1);
/// What a call may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The time between two calls of one client.
const EVERY: Duration = Duration::from_millis(5);
/// A server that has left has no call that is later than this.
const LAST: Duration = Duration::from_millis(200);
/// A list that is truly empty is honoured within this time of the last server's end.
const EMPTY: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    rpc_testkit::promises::main(faults)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The servers cannot reach the registry any more.
    CutOff,
    /// The same, and the registry is started anew without knowing anybody.
    Restarted,
    /// The servers cannot reach one of two registries.
    OneOfTwo,
    /// Three servers of five cannot reach the registry any more.
    MostExpire,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::CutOff => "cut off from its servers",
            Self::Restarted => "restarted empty",
            Self::OneOfTwo => "one of two is wrong",
            Self::MostExpire => "60 % of the leases expire",
        }
    }

    fn servers(self) -> usize {
        if self == Self::MostExpire { 5 } else { 3 }
    }

    /// How many servers lose the registry.
    fn lost(self) -> usize {
        3
    }
}

#[derive(Clone, Copy, Debug)]
enum Policy {
    RoundRobin,
    LeastRequest,
}

impl Policy {
    fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::LeastRequest => "least-request",
        }
    }
}

async fn faults() -> Outcome<Promises> {
    let seconds = std::env::args().nth(1).map_or(Ok(6), |word| word.parse())?;
    let last = Duration::from_secs(seconds);
    println!("leases live for {TTL:?} without their holder, {last:?} after the fault are counted");
    println!(
        "       {:26} {:14} {:10} {:>6} {:>7} {:>8}  bound",
        "fault", "balancer", "client", "calls", "failed", "servers"
    );
    let mut promises = Promises::default();
    for policy in [Policy::RoundRobin, Policy::LeastRequest] {
        for fault in [
            Fault::CutOff,
            Fault::Restarted,
            Fault::OneOfTwo,
            Fault::MostExpire,
        ] {
            one(fault, policy, last, &mut promises).await?;
        }
    }
    leaving(&mut promises).await?;
    ending(&mut promises).await?;
    Ok(promises)
}

/// A registry in this process, on a port that a successor may have.
struct Host {
    address: String,
    running: Running,
}

impl Host {
    async fn start(address: &str) -> Outcome<Self> {
        let registry = RegistryServer::builder().ttl(TTL).build()?;
        let bound = loop {
            let server = Server::builder().add_service(registry.clone());
            match server.bind(address).await {
                Ok(bound) => break bound,
                Err(error) if address.ends_with(":0") => return Err(error.into()),
                // The one before is still on its way out.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        Ok(Self {
            address: bound.local_addr().to_string(),
            running: run(bound),
        })
    }

    async fn kill(self) -> String {
        self.running.task.abort();
        let _ = self.running.task.await;
        self.address
    }
}

fn registry(addresses: &[String]) -> Outcome<Registry> {
    Ok(Registry::connect(&format!(
        "registry://{}",
        addresses.join(",")
    ))?)
}

fn address(server: &Running) -> Outcome<Address> {
    Ok(server.uri.trim_start_matches("http://").parse()?)
}

/// What calls of one client came to.
#[derive(Debug, Default)]
struct Tally {
    calls: u64,
    failed: Vec<String>,
    servers: HashMap<String, Instant>,
}

/// A client that calls at its pace.
struct Caller {
    tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
    calling: tokio::task::JoinHandle<()>,
}

impl Caller {
    fn start(resolver: Box<dyn Resolver>, policy: Policy) -> Outcome<Self> {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let seen = Arc::clone(&tally);
        let settings = Channel::builder().observer(move |call: &FinishedCall<'_>| {
            let endpoint = call.endpoint.unwrap_or("none").to_owned();
            let mut tally = seen.lock().unwrap_or_else(PoisonError::into_inner);
            tally.servers.insert(endpoint, Instant::now());
        });
        let balancer: Box<dyn LoadBalancer> = match policy {
            Policy::RoundRobin => Box::new(balance::RoundRobin::new()),
            Policy::LeastRequest => Box::new(balance::LeastRequest::new()),
        };
        let channel = settings
            .balancer(Boxed(balancer))
            .resolver(resolver, "the test service")?;
        let client = TestClient::new(channel);
        let stop = Arc::new(AtomicBool::new(false));
        let calling = tokio::spawn({
            let (tally, stop) = (Arc::clone(&tally), Arc::clone(&stop));
            async move {
                let mut pace = tokio::time::interval(EVERY);
                let mut calls = tokio::task::JoinSet::new();
                while !stop.load(Ordering::Relaxed) {
                    pace.tick().await;
                    let (client, tally) = (client.clone(), Arc::clone(&tally));
                    calls.spawn(async move {
                        let request = Request::new(Message::default()).with_timeout(TIMEOUT);
                        let answer = client.echo(request).await;
                        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                        tally.calls += 1;
                        tally
                            .failed
                            .extend(answer.err().map(|status| status.to_string()));
                    });
                    while calls.try_join_next().is_some() {}
                }
                while calls.join_next().await.is_some() {}
            }
        });
        Ok(Self {
            tally,
            stop,
            calling,
        })
    }

    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until so many servers have been called.
    async fn spread(&self, servers: usize) -> Outcome<()> {
        let spread = async {
            while self.tally().servers.len() < servers {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), spread)
            .await
            .map_err(|_| "the calls are not spread over the servers".into())
    }

    /// Counts anew.
    fn clear(&self) {
        *self.tally() = Tally::default();
    }

    async fn end(self) -> Outcome<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        self.calling.await?;
        Ok(std::mem::take(
            &mut *self.tally.lock().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}

struct Boxed(Box<dyn LoadBalancer>);

impl LoadBalancer for Boxed {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn update(
        &mut self,
        candidates: &[rpc_core::client::Candidate],
        now: tokio::time::Instant,
    ) -> rpc_core::client::Update {
        self.0.update(candidates, now)
    }
}

/// The negative control: asks the registry anew each time, and believes what it says.
struct Believing {
    registry: Registry,
    last: Option<Vec<Endpoint>>,
}

impl Resolver for Believing {
    fn next(&mut self) -> BoxFuture<'_, Result<Vec<Endpoint>, Status>> {
        Box::pin(async {
            loop {
                if self.last.is_some() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                // Whoever remembers nothing has to believe the first list.
                if let Ok(list) = self.registry.resolver("test").next().await
                    && self.last.as_ref() != Some(&list)
                {
                    self.last = Some(list.clone());
                    return Ok(list);
                }
            }
        })
    }
}

async fn one(fault: Fault, policy: Policy, last: Duration, promises: &mut Promises) -> Outcome<()> {
    let mut host = Host::start("127.0.0.1:0").await?;
    let right = Host::start("127.0.0.1:0").await?;
    let proxy = FaultProxy::to(&host.address).await;
    let mut servers = Vec::new();
    let mut leases: Vec<Lease> = Vec::new();
    for number in 0..fault.servers() {
        let server = serve().await;
        // Those who will lose the registry go through the proxy.
        let first = if number < fault.lost() {
            proxy.address().to_string()
        } else {
            host.address.clone()
        };
        let both = [first, right.address.clone()];
        let names = if fault == Fault::OneOfTwo {
            &both[..]
        } else {
            &both[..1]
        };
        let lease = registry(names)?.register("test", address(&server)?)?;
        lease.ready().await?;
        leases.push(lease);
        servers.push(server);
    }
    let both = [host.address.clone(), right.address.clone()];
    let names = if fault == Fault::OneOfTwo {
        &both[..]
    } else {
        &both[..1]
    };
    let client = Caller::start(registry(names)?.resolver("test"), policy)?;
    let believing = Believing {
        registry: registry(&both[..1])?,
        last: None,
    };
    let control = Caller::start(Box::new(believing), policy)?;
    client.spread(servers.len()).await?;
    control.spread(servers.len()).await?;
    // Connections that are older than a lease lives.
    tokio::time::sleep(2 * TTL).await;

    proxy.refuse(true).await;
    proxy.cut();
    if fault == Fault::Restarted {
        host = Host::start(&host.kill().await).await?;
    }
    // Until the leases are over and a registry that has just started has waited for its servers.
    tokio::time::sleep(2 * TTL + Duration::from_millis(500)).await;
    client.clear();
    control.clear();
    tokio::time::sleep(last).await;
    let (client, control) = (client.end().await?, control.end().await?);
    let row = |who: &str, tally: &Tally, bound: &str| {
        format!(
            "{:26} {:14} {:10} {:>6} {:>7} {:>5}/{}  {bound}",
            fault.name(),
            policy.name(),
            who,
            tally.calls,
            tally.failed.len(),
            tally.servers.keys().filter(|name| *name != "none").count(),
            servers.len()
        )
    };
    // Least-request may find a server slow for a while, but not more of them than the registry drops.
    let (enough, bound) = match policy {
        Policy::RoundRobin => (servers.len(), "0 failed, all servers are called"),
        Policy::LeastRequest => (3, "0 failed, at least 3 servers are called"),
    };
    promises.keep(
        client.failed.is_empty() && client.servers.len() >= enough,
        row("ours", &client, bound),
    );
    for text in client.failed.iter().take(3) {
        println!("        {text}");
    }
    let harmed = !control.failed.is_empty() || control.servers.len() < servers.len();
    promises.keep(harmed, row("believing", &control, "(control) is harmed"));
    drop((leases, host, right));
    Ok(())
}

/// A goodbye is honoured at once, even while the registry is not believed.
async fn leaving(promises: &mut Promises) -> Outcome<()> {
    let host = Host::start("127.0.0.1:0").await?;
    let proxy = FaultProxy::to(&host.address).await;
    let (mut servers, mut leases) = (Vec::new(), Vec::new());
    for number in 0..4 {
        let server = serve().await;
        let through = [proxy.address().to_string(), host.address.clone()];
        let lease = registry(&through[usize::from(number == 3)..][..1])?
            .register("test", address(&server)?)?;
        lease.ready().await?;
        leases.push(lease);
        servers.push(server);
    }
    let names = [host.address.clone()];
    let client = Caller::start(registry(&names)?.resolver("test"), Policy::RoundRobin)?;
    client.spread(4).await?;
    proxy.refuse(true).await;
    proxy.cut();
    tokio::time::sleep(3 * TTL).await;
    let gone = address(&servers[3])?.to_string();
    leases[3].deregister().await?;
    let left = Instant::now();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let tally = client.end().await?;
    let late = tally
        .servers
        .get(&gone)
        .map_or(Duration::ZERO, |at| at.saturating_duration_since(left));
    promises.keep(
        late <= LAST && tally.failed.is_empty(),
        format!(
            "one of four leaves, with the others dropped by the registry: last call {late:.1?} after the acknowledgement (bound {LAST:?}), {} of {} calls failed",
            tally.failed.len(),
            tally.calls
        ),
    );
    Ok(())
}

/// When all servers are gone for sure, the list becomes empty.
async fn ending(promises: &mut Promises) -> Outcome<()> {
    let host = Host::start("127.0.0.1:0").await?;
    let proxy = FaultProxy::to(&host.address).await;
    let names = [proxy.address().to_string()];
    let (mut servers, mut leases) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let server = serve().await;
        let lease = registry(&names)?.register("test", address(&server)?)?;
        lease.ready().await?;
        leases.push(lease);
        servers.push(server);
    }
    let watched = registry(std::slice::from_ref(&host.address))?;
    let client = Caller::start(watched.resolver("test"), Policy::LeastRequest)?;
    client.spread(3).await?;
    proxy.refuse(true).await;
    proxy.cut();
    for server in servers {
        server.task.abort();
        let _ = server.task.await;
    }
    let gone = Instant::now();
    let empty = async {
        loop {
            client.clear();
            tokio::time::sleep(Duration::from_millis(200)).await;
            if client
                .tally()
                .failed
                .iter()
                .any(|text| text.contains("no endpoint"))
            {
                return gone.elapsed();
            }
        }
    };
    let took = tokio::time::timeout(2 * EMPTY, empty).await;
    let said = match took {
        Ok(took) => format!("{took:.1?}"),
        Err(_) => "no end".to_owned(),
    };
    promises.keep(
        matches!(took, Ok(took) if took <= EMPTY),
        format!(
            "all servers end without a goodbye: the list is empty after {said} (bound {EMPTY:?})"
        ),
    );
    client.end().await?;
    Ok(())
}
