//! The members of a registry: what it costs the registry to tell of them to many watchers.

use std::time::{Duration, Instant};

use rpc_core::Server;
use rpc_core::client::{Address, Resolver};
use rpc_registry::{Registry, RegistryServer};
use tokio::task::JoinSet;

use benches::Outcome;

/// How this dimension is chosen.
pub(crate) const NAME: &str = "registry members";
const WATCHERS: usize = 1_000;
const MEMBERS: [usize; 2] = [1_000, 10_000];
/// Over how many connections the watchers are spread, and the members.
const CONNECTIONS: usize = 100;
/// Ten times the members may cost the registry so much more.
const GOAL: f64 = 10.0;
/// The name of the registry's threads, whose time is its own.
const THREAD: &str = "registry";

/// Prints what registering costs; whether it is linear.
pub(crate) fn run() -> Outcome<bool> {
    println!("{NAME}: registered at once beside {WATCHERS} watchers, until each knows all");
    println!(
        "{:>12} {:>10} {:>14} {:>22} {:>14}",
        "", "s", "registry CPU s", "us a member and watcher", "clients' CPU s"
    );
    let mut all = Vec::new();
    for members in MEMBERS {
        let runtime = tokio::runtime::Runtime::new()?;
        let (took, cpu, clients) = runtime.block_on(measure(members))?;
        let each = cpu.as_secs_f64() * 1e6 / (members * WATCHERS) as f64;
        println!(
            "{members:>12} {:>10.2} {:>14.2} {each:>22.3} {:>14.2}",
            took.as_secs_f64(),
            cpu.as_secs_f64(),
            clients.as_secs_f64()
        );
        all.push(cpu.as_secs_f64());
    }
    let ratio = all.last().copied().unwrap_or(0.0) / all.first().copied().unwrap_or(1.0);
    let kept = ratio <= GOAL;
    println!(
        "{} ten times the members cost {ratio:.2} times as much (at most {GOAL})",
        if kept { "kept  " } else { "BROKEN" }
    );
    Ok(kept)
}

async fn measure(members: usize) -> Outcome<(Duration, Duration, Duration)> {
    let own = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name(THREAD)
        .enable_all()
        .build()?;
    let registry = RegistryServer::builder()
        .ttl(Duration::from_secs(60))
        .build()?;
    let server = Server::builder()
        .add_service(registry.clone())
        .on_shutdown(registry);
    let server = own.spawn(server.bind("127.0.0.1:0")).await??;
    let uri = format!("registry://{}", server.local_addr());
    own.spawn(server.serve());
    let handles = (0..CONNECTIONS)
        .map(|_| Registry::connect(&uri))
        .collect::<Result<Vec<_>, _>>()?;
    let address = |number: usize| format!("unix:/run/{number}").parse::<Address>();
    let mut leases = vec![handles[0].register("s", address(0)?)?];
    let mut first = JoinSet::new();
    for number in 0..WATCHERS {
        let mut resolver = handles[number % CONNECTIONS].resolver("s");
        first.spawn(async move {
            known(&mut *resolver, 1).await;
            resolver
        });
    }
    let mut watching = JoinSet::new();
    for mut resolver in first.join_all().await {
        watching.spawn(async move { known(&mut *resolver, members).await });
    }
    let (start, (registry_before, all_before)) = (Instant::now(), cpu()?);
    for number in 1..members {
        leases.push(handles[number % CONNECTIONS].register("s", address(number)?)?);
    }
    while let Some(done) = watching.join_next().await {
        done?;
    }
    let took = start.elapsed();
    let (registry, all) = cpu()?;
    let registry = registry.saturating_sub(registry_before);
    own.shutdown_background();
    Ok((took, registry, all.saturating_sub(all_before + registry)))
}

/// Waits until a list is that long. It is looked at now and then only: what a thousand clients make of
/// their lists is the work of a thousand processes.
async fn known(resolver: &mut dyn Resolver, members: usize) {
    while resolver
        .next()
        .await
        .map_or(true, |list| list.len() < members)
    {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The CPU time of the registry's threads, and of all.
fn cpu() -> Outcome<(Duration, Duration)> {
    let (mut registry, mut all) = (0, 0);
    for thread in std::fs::read_dir("/proc/self/task")? {
        let thread = thread?.path();
        let text = std::fs::read_to_string(thread.join("schedstat"))?;
        let first = text.split(' ').next();
        let time = first.and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        all += time;
        if std::fs::read_to_string(thread.join("comm"))?.trim() == THREAD {
            registry += time;
        }
    }
    Ok((Duration::from_nanos(registry), Duration::from_nanos(all)))
}
