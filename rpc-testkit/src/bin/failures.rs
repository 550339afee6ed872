//! What one server that is not well does to the calls of a client, under each policy, and what a
//! server at the end of a chain that fails gets to see. Prints a table with negative controls; exits 1
//! when a promise was broken.
//!
//! `failures [freeze | silence | codes | stranger | chain | quiet]`

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rpc_core::client::{
    Candidate, ConnectivityState, LoadBalancer, Pick, PickContext, Picker, Update,
};
use rpc_core::{Channel, Code, Request, Response, SendStream, Server, Status};
use rpc_registry::balance::{LeastRequest, RoundRobin};
use rpc_testkit::fleet::Fleet;
use rpc_testkit::orders::{
    Event, FollowRequest, Order, Orders, OrdersClient, OrdersServer, Receipt,
};
use rpc_testkit::promises::Promises;
use rpc_testkit::{FaultProxy, Running};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// What a call may take.
const TIMEOUT: Duration = Duration::from_secs(1);
/// What a healthy server takes.
const WORK: Duration = Duration::from_millis(2);
/// Calls a second of each client.
const RATE: u32 = 300;
const SECOND: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    rpc_testkit::promises::main(failures)
}

async fn failures() -> Outcome<Promises> {
    let only = std::env::args().nth(1);
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    let mut promises = Promises::default();
    if wanted("freeze") {
        freeze(&mut promises).await?;
    }
    if wanted("silence") {
        silence(&mut promises).await?;
    }
    if wanted("codes") {
        codes(&mut promises).await?;
    }
    if wanted("stranger") {
        stranger(&mut promises).await?;
    }
    if wanted("chain") {
        chain(&mut promises).await?;
    }
    if wanted("quiet") {
        quiet(&mut promises).await?;
    }
    Ok(promises)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    RoundRobin,
    LeastRequest,
    /// The control: takes turns, and looks at nothing but connections.
    Blind,
}

const POLICIES: [Policy; 3] = [Policy::RoundRobin, Policy::LeastRequest, Policy::Blind];

impl Policy {
    fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::LeastRequest => "least_request",
            Self::Blind => "(control: blind turns)",
        }
    }

    fn balancer(self) -> Box<dyn LoadBalancer> {
        match self {
            Self::RoundRobin => Box::new(RoundRobin::new()),
            Self::LeastRequest => Box::new(LeastRequest::new()),
            Self::Blind => Box::new(BlindTurns::default()),
        }
    }
}

/// Takes turns among what is connected.
#[derive(Default)]
struct BlindTurns(Arc<AtomicU64>);

struct Turns(Vec<Candidate>, Arc<AtomicU64>);

impl LoadBalancer for BlindTurns {
    fn name(&self) -> &'static str {
        "blind"
    }

    fn update(&mut self, candidates: &[Candidate], _now: tokio::time::Instant) -> Update {
        let ready = candidates
            .iter()
            .filter(|candidate| candidate.state == ConnectivityState::Ready);
        Update {
            connect: candidates.iter().map(|candidate| candidate.id).collect(),
            picker: Arc::new(Turns(ready.cloned().collect(), Arc::clone(&self.0))),
        }
    }
}

impl Picker for Turns {
    fn pick(&self, _: &PickContext<'_>) -> Pick {
        let turn = self.1.fetch_add(1, Ordering::Relaxed);
        let count = self.0.len().max(1) as u64;
        let at = usize::try_from(turn % count).unwrap_or(0);
        match self.0.get(at) {
            Some(candidate) => Pick::To(candidate.subchannel.clone(), None),
            None => Pick::Wait,
        }
    }
}

/// Picks by time, and which address they are to.
type Picks = Arc<Mutex<Vec<(Instant, String)>>>;

/// A policy whose picks are written down.
struct Counted(Box<dyn LoadBalancer>, Picks);

struct CountedPicker(Arc<dyn Picker>, Picks);

impl LoadBalancer for Counted {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn update(&mut self, candidates: &[Candidate], now: tokio::time::Instant) -> Update {
        let Update { connect, picker } = self.0.update(candidates, now);
        let picker = Arc::new(CountedPicker(picker, Arc::clone(&self.1)));
        Update { connect, picker }
    }
}

impl Picker for CountedPicker {
    fn pick(&self, context: &PickContext<'_>) -> Pick {
        let pick = self.0.pick(context);
        if let Pick::To(subchannel, _) = &pick {
            let address = subchannel.endpoint().address.to_string();
            let mut picks = self.1.lock().unwrap_or_else(PoisonError::into_inner);
            picks.push((Instant::now(), address));
        }
        pick
    }
}

/// A server whose answers are chosen while it runs.
#[derive(Clone, Default)]
struct Shop {
    /// The code that it fails with at once; OK for an answer.
    code: Arc<AtomicI32>,
    calls: Arc<AtomicU64>,
    /// A server further down, and how often its handler repeats a call by itself.
    below: Option<(Channel, u32)>,
}

impl Orders for Shop {
    async fn look(&self, request: Request<Order>) -> Result<Response<Receipt>, Status> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let id = request.get_ref().id;
        let code = Code::from_i32(self.code.load(Ordering::Relaxed));
        if code != Code::Ok {
            return Err(Status::new(code, "as the test says"));
        }
        let Some((below, times)) = &self.below else {
            tokio::time::sleep(WORK).await;
            return Ok(Response::new(Receipt { id }));
        };
        let below = OrdersClient::new(below.clone());
        if *times == 0 {
            return below.look(Order { id }).await;
        }
        let mut last = Status::unavailable("nothing was tried");
        for _ in 0..*times {
            let request = Request::new(Order { id }).without_retry();
            match below.look(request).await {
                Ok(receipt) => return Ok(receipt),
                Err(status) => last = status,
            }
        }
        // As one says it who knows nothing of calls.
        Err(Status::unavailable(last.message().to_owned()))
    }

    async fn place(&self, request: Request<Order>) -> Result<Response<Receipt>, Status> {
        let id = request.get_ref().id;
        Ok(Response::new(Receipt { id }))
    }

    async fn follow(
        &self,
        _: Request<FollowRequest>,
        _: &mut SendStream<Event>,
    ) -> Result<(), Status> {
        Ok(())
    }
}

impl Shop {
    async fn open(&self) -> Outcome<Running> {
        let server = Server::builder()
            .add_service(OrdersServer::new(self.clone()))
            .bind("127.0.0.1:0")
            .await?;
        Ok(rpc_testkit::run(server))
    }
}

fn address(uri: &str) -> String {
    uri.trim_start_matches("http://").to_owned()
}

/// A client that makes idempotent calls at a rate.
struct Client {
    policy: Policy,
    channel: Channel,
    picks: Picks,
}

/// A call that has ended: when it began, and how it failed.
type Ended = (Instant, Option<Status>);

impl Client {
    async fn to(policy: Policy, addresses: &[String]) -> Outcome<Self> {
        let picks = Picks::default();
        let balancer = Counted(policy.balancer(), Arc::clone(&picks));
        let builder = Channel::builder().balancer(balancer);
        let channel = rpc_registry::builder(&format!("static:{}", addresses.join(",")), builder)?;
        channel.ready().await?;
        Ok(Self {
            policy,
            channel,
            picks,
        })
    }

    /// Makes calls for this long.
    async fn call(&self, rate: u32, time: Duration) -> Vec<Ended> {
        let started = Instant::now();
        let mut calls = tokio::task::JoinSet::new();
        let mut count = 0;
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        while started.elapsed() < time {
            ticks.tick().await;
            while started.elapsed() > SECOND * count / rate {
                count += 1;
                let orders = OrdersClient::new(self.channel.clone());
                calls.spawn(async move {
                    let began = Instant::now();
                    let order = Order { id: count.into() };
                    let request = Request::new(order).with_timeout(TIMEOUT);
                    (began, orders.look(request).await.err())
                });
            }
        }
        calls.join_all().await
    }

    /// The share of the picks between two moments that went to an address, in percent.
    fn share(&self, address: &str, from: Instant, to: Instant) -> f64 {
        let picks = self.picks.lock().unwrap_or_else(PoisonError::into_inner);
        let within = picks.iter().filter(|(at, _)| (from..to).contains(at));
        let (mut all, mut there) = (0u32, 0u32);
        for (_, picked) in within {
            all += 1;
            there += u32::from(picked == address);
        }
        100.0 * f64::from(there) / f64::from(all.max(1))
    }
}

/// The first failures of calls, by how often they came.
fn show(failures: &[&Status]) {
    let mut kinds: HashMap<Code, (u32, String)> = HashMap::new();
    for status in failures {
        let kind = kinds.entry(status.code());
        kind.or_insert_with(|| (0, status.to_string())).0 += 1;
    }
    for (count, status) in kinds.values() {
        println!("        {count} times {status}");
    }
}

/// One of three servers says nothing for ten seconds.
async fn hold(
    what: &str,
    promises: &mut Promises,
    addresses: &[String],
    stop: impl FnOnce() -> Outcome<()>,
    go_on: impl FnOnce() -> Outcome<()>,
) -> Outcome<()> {
    let victim = addresses.first().ok_or("there is no server")?;
    let mut clients = Vec::new();
    for policy in POLICIES {
        clients.push(Client::to(policy, addresses).await?);
    }
    let all = clients
        .iter()
        .map(|client| client.call(RATE, SECOND * 24))
        .collect::<Vec<_>>();
    let faults = async {
        tokio::time::sleep(SECOND * 2).await;
        let stopped = Instant::now();
        stop()?;
        tokio::time::sleep(SECOND * 10).await;
        go_on()?;
        Outcome::Ok((stopped, Instant::now()))
    };
    let calls = join_all(all);
    let (calls, moments) = tokio::join!(calls, faults);
    let (stopped, again) = moments?;
    for (client, calls) in clients.iter().zip(calls) {
        let failures: Vec<_> = calls
            .iter()
            .filter_map(|(_, failed)| failed.as_ref())
            .collect();
        let silent = client.share(victim, stopped + SECOND * 5, again);
        let back = client.share(victim, again + SECOND * 10, again + SECOND * 12);
        let found = format!(
            "{what}, {}: {} of {} idempotent calls lost (0), {silent:.1} % there after 5 s (at most 2), {back:.1} % once it is back for 10 s (at least 15)",
            client.policy.name(),
            failures.len(),
            calls.len(),
        );
        let well = failures.is_empty() && silent <= 2.0 && back >= 15.0;
        if client.policy == Policy::Blind {
            promises.keep(!failures.is_empty() && silent > 20.0, found);
        } else {
            promises.keep(well, found);
            show(&failures);
        }
    }
    Ok(())
}

async fn join_all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut pinned: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut outputs: Vec<Option<F::Output>> = pinned.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        let mut waiting = false;
        for (future, output) in pinned.iter_mut().zip(&mut outputs) {
            if output.is_some() {
                continue;
            }
            match future.as_mut().poll(cx) {
                std::task::Poll::Ready(value) => *output = Some(value),
                std::task::Poll::Pending => waiting = true,
            }
        }
        if waiting {
            std::task::Poll::Pending
        } else {
            std::task::Poll::Ready(())
        }
    })
    .await;
    outputs.into_iter().flatten().collect()
}

async fn freeze(promises: &mut Promises) -> Outcome<()> {
    let directory = tempfile::tempdir()?;
    let fleet = Fleet::start(directory.path(), 3).await?;
    let servers = &fleet.servers;
    let addresses: Vec<_> = servers
        .iter()
        .map(|server| server.address().to_owned())
        .collect();
    let victim = servers.first().ok_or("there is no server")?;
    let (stop, go_on) = (|| Ok(victim.freeze()?), || Ok(victim.thaw()?));
    hold("frozen for 10 s", promises, &addresses, stop, go_on).await
}

async fn silence(promises: &mut Promises) -> Outcome<()> {
    let mut running = Vec::new();
    let mut proxies = Vec::new();
    for _ in 0..3 {
        let server = Shop::default().open().await?;
        proxies.push(FaultProxy::to(&server.uri).await);
        running.push(server);
    }
    let addresses: Vec<_> = proxies
        .iter()
        .map(|proxy| proxy.address().to_string())
        .collect();
    let victim = proxies.first().ok_or("there is no proxy")?;
    let swallow = |on| {
        victim.blackhole(on);
        Ok(())
    };
    let (stop, go_on) = (|| swallow(true), || swallow(false));
    hold(
        "octets swallowed for 10 s",
        promises,
        &addresses,
        stop,
        go_on,
    )
    .await
}

/// Codes that say something of the request, not of the server.
fn is_of_the_request(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
    )
}

/// What one of four servers gets of the calls once it fails everything.
async fn shares(addresses: &[String]) -> Outcome<Vec<(Policy, f64)>> {
    let victim = addresses.first().ok_or("there is no server")?;
    let mut clients = Vec::new();
    for policy in POLICIES {
        clients.push(Client::to(policy, addresses).await?);
    }
    let from = Instant::now();
    let calls = clients.iter().map(|client| client.call(RATE, SECOND * 3));
    join_all(calls.collect()).await;
    let shares = clients.iter().map(|client| {
        let share = client.share(victim, from, Instant::now());
        (client.policy, share)
    });
    Ok(shares.collect())
}

async fn codes(promises: &mut Promises) -> Outcome<()> {
    let shops: [Shop; 4] = Default::default();
    let mut running = Vec::new();
    for shop in &shops {
        running.push(shop.open().await?);
    }
    let addresses: Vec<_> = running.iter().map(|server| address(&server.uri)).collect();
    for code in (1..=16).map(Code::from_i32) {
        shops[0].code.store(code as i32, Ordering::Relaxed);
        let (most, of) = if is_of_the_request(code) {
            (30.0, "a fair share and noise: at most 30")
        } else {
            (5.0, "at most 5")
        };
        for (policy, share) in shares(&addresses).await? {
            let found = format!(
                "one of four answers {code} at once, {}: {share:.1} % of the calls ({of})",
                policy.name()
            );
            promises.keep(
                (share <= most) == (policy != Policy::Blind || most > 25.0),
                found,
            );
        }
    }
    Ok(())
}

async fn stranger(promises: &mut Promises) -> Outcome<()> {
    let mut running = Vec::new();
    let other = rpc_testkit::serve().await;
    for _ in 0..3 {
        running.push(Shop::default().open().await?);
    }
    let mut addresses = vec![address(&other.uri)];
    addresses.extend(running.iter().map(|server| address(&server.uri)));
    for (policy, share) in shares(&addresses).await? {
        let found = format!(
            "one of four addresses taken over by another service, {}: {share:.1} % of the calls (at most 5)",
            policy.name()
        );
        promises.keep((share <= 5.0) == (policy != Policy::Blind), found);
    }
    Ok(())
}

/// A chain of services: its servers, the channel to its top, and the shop at its bottom.
async fn build(policy: Policy, by_hand: u32) -> Outcome<(Vec<Running>, Channel, Shop)> {
    let bottom = Shop::default();
    let mut running = vec![bottom.open().await?];
    let channel = |uri: &str| -> Outcome<Channel> {
        let balancer = Counted(policy.balancer(), Picks::default());
        let builder = Channel::builder().balancer(balancer);
        let target = format!("static:{}", address(uri));
        Ok(rpc_registry::builder(&target, builder)?)
    };
    for _ in 0..2 {
        let below = running.last().ok_or("there is no server")?;
        let hop = Shop {
            below: Some((channel(&below.uri)?, by_hand)),
            ..Shop::default()
        };
        running.push(hop.open().await?);
    }
    let top = running.last().ok_or("there is no server")?;
    let top = channel(&top.uri)?;
    top.ready().await?;
    Ok((running, top, bottom))
}

/// The calls that the bottom of a chain of three gets for each one at its top, once it fails all.
async fn amplification(policy: Policy, rate: u32, by_hand: u32) -> Outcome<f64> {
    let (_running, channel, bottom) = build(policy, by_hand).await?;
    let client = Client {
        policy,
        channel,
        picks: Picks::default(),
    };
    client.call(rate, SECOND * 5).await;
    let fails = Code::Unavailable as i32;
    bottom.code.store(fails, Ordering::Relaxed);
    let before = bottom.calls.load(Ordering::Relaxed);
    let calls = client.call(rate, SECOND * 20).await;
    let after = bottom.calls.load(Ordering::Relaxed);
    #[allow(clippy::cast_precision_loss)] // thousands
    Ok((after - before) as f64 / calls.len().max(1) as f64)
}

async fn chain(promises: &mut Promises) -> Outcome<()> {
    let rows = [
        (Policy::RoundRobin, 5, 0),
        (Policy::RoundRobin, 300, 0),
        (Policy::LeastRequest, 5, 0),
        (Policy::LeastRequest, 300, 0),
        // The control: each hop repeats by hand.
        (Policy::Blind, 5, 3),
    ];
    let all = rows.map(|(policy, rate, by_hand)| amplification(policy, rate, by_hand));
    for ((policy, rate, by_hand), seen) in rows.into_iter().zip(join_all(all.into()).await) {
        let seen = seen?;
        let name = match by_hand {
            0 => policy.name(),
            _ => "(control: each hop repeats by hand)",
        };
        let found = format!(
            "three hops, bottom dead, {rate} calls/s, {name}: the bottom gets {seen:.2} for each call (at most 1.2)"
        );
        promises.keep((seen <= 1.2) == (by_hand == 0), found);
    }
    Ok(())
}

async fn quiet(promises: &mut Promises) -> Outcome<()> {
    const CHANNELS: usize = 100;
    for policy in [Policy::RoundRobin, Policy::LeastRequest] {
        let shop = Shop::default();
        let running = shop.open().await?;
        let mut clients = Vec::new();
        for _ in 0..CHANNELS {
            clients.push(Client::to(policy, &[address(&running.uri)]).await?);
        }
        let call = |time| join_all(clients.iter().map(|client| client.call(5, time)).collect());
        call(SECOND * 5).await;
        let fails = Code::Unavailable as i32;
        shop.code.store(fails, Ordering::Relaxed);
        let before = shop.calls.load(Ordering::Relaxed);
        let calls: usize = call(SECOND * 20).await.iter().map(Vec::len).sum();
        #[allow(clippy::cast_precision_loss)] // thousands
        let attempts = (shop.calls.load(Ordering::Relaxed) - before) as f64 / calls.max(1) as f64;
        let found = format!(
            "{CHANNELS} channels at 5 calls/s, everything fails, {}: {attempts:.2} attempts a call (at most 1.1)",
            policy.name()
        );
        promises.keep(attempts <= 1.1, found);
    }
    Ok(())
}
