//! The members of a registry: what it costs to tell of them to many watchers, all in this process.

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
const CONNECTIONS: usize = 10;
/// Ten times the members may cost so much more.
const GOAL: f64 = 10.0;

/// Prints what registering costs; whether it is linear.
pub(crate) fn run() -> Outcome<bool> {
    println!("{NAME}: registered at once beside {WATCHERS} watchers, until each knows all");
    println!(
        "{:>12} {:>10} {:>11} {:>22}",
        "", "s", "CPU s", "us a member and watcher"
    );
    let mut all = Vec::new();
    for members in MEMBERS {
        let runtime = tokio::runtime::Runtime::new()?;
        let (took, cpu) = runtime.block_on(measure(members))?;
        let each = cpu.as_secs_f64() * 1e6 / (members * WATCHERS) as f64;
        println!(
            "{members:>12} {:>10.2} {:>11.2} {each:>22.3}",
            took.as_secs_f64(),
            cpu.as_secs_f64()
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

async fn measure(members: usize) -> Outcome<(Duration, Duration)> {
    let registry = RegistryServer::builder()
        .ttl(Duration::from_secs(60))
        .build()?;
    let server = Server::builder()
        .add_service(registry.clone())
        .on_shutdown(registry)
        .bind("127.0.0.1:0")
        .await?;
    let uri = format!("registry://{}", server.local_addr());
    let serving = tokio::spawn(server.serve());
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
    let (start, before) = (Instant::now(), cpu()?);
    for number in 1..members {
        leases.push(handles[number % CONNECTIONS].register("s", address(number)?)?);
    }
    while let Some(done) = watching.join_next().await {
        done?;
    }
    let measured = (start.elapsed(), cpu()?.saturating_sub(before));
    serving.abort();
    Ok(measured)
}

async fn known(resolver: &mut dyn Resolver, members: usize) {
    while resolver
        .next()
        .await
        .map_or(true, |list| list.len() < members)
    {}
}

/// The CPU time of this process.
fn cpu() -> Outcome<Duration> {
    let mut total = 0;
    for thread in std::fs::read_dir("/proc/self/task")? {
        let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        let first = text.split(' ').next();
        total += first.and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(total))
}
