//! Attacks on a server, each with a bystander whose calls must go on, a twin that looks alike and
//! must be let through, and a run with the limit off that must show what the limit is for.
//!
//! `attacks [ID…]` prints a table; exits 1 when a promise was broken.

mod vectors;
mod victim;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use rpc_core::{Channel, Request};
use rpc_testkit::promises::Promises;
use rpc_testkit::proto::{Message, TestClient};
use rpc_testkit::raw::Ended;

use vectors::{VECTORS, Vector};
use victim::Victim;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// What an attack may make the server's memory grow by, in KiB.
const GROWTH: u64 = 16 * 1024;
const ENHANCE_YOUR_CALM: u32 = 11;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("victim", off)) = words.split_first().map(|(first, off)| (&**first, off)) {
        return victim::serve(off);
    }
    rpc_testkit::promises::main(|| attacks(words))
}

async fn attacks(wanted: Vec<String>) -> Outcome<Promises> {
    let mut promises = Promises::default();
    let chosen = |id: &str| wanted.is_empty() || wanted.iter().any(|word| word == id);
    println!(
        "{:<4} {:<24} {:<16} {:>8} {:>8} {:>9} {:>9}  {:<12} limit off",
        "id", "attack", "ended", "acts", "ms", "grew KiB", "bystander", "twin"
    );
    for vector in VECTORS.iter().filter(|vector| chosen(vector.id)) {
        attack(vector, &mut promises).await?;
    }
    if chosen("S10") {
        lying_lengths(&mut promises).await?;
    }
    if chosen("S14") {
        unread_responses(&mut promises).await?;
    }
    Ok(promises)
}

async fn attack(vector: &Vector, promises: &mut Promises) -> Outcome<()> {
    let victim = Victim::start(&[])?;
    let bystander = Bystander::start(&victim).await?;
    let before = victim.memory()?;
    let start = Instant::now();
    let went = (vector.attack)(victim.address.clone()).await?;
    let took = start.elapsed();
    let grew = victim.memory()?.saturating_sub(before);
    let twin = (vector.twin)(victim.address.clone()).await?;
    let (calls, failed) = bystander.stop().await?;
    let control = Victim::start(vector.limits)?;
    let off = (vector.attack)(control.address.clone()).await?;
    println!(
        "{:<4} {:<24} {:<16} {:>8} {:>8} {:>9} {:>4}/{:<4}  {:<12} {}",
        vector.id,
        vector.name,
        format!("{:?}", went.ended),
        went.acts,
        took.as_millis(),
        grew,
        failed,
        calls,
        format!("{:?}", twin.ended),
        format_args!("{:?} {}", off.ended, off.acts),
    );
    let ended = match &went.ended {
        Ended::GoAway(code) => *code == ENHANCE_YOUR_CALM,
        Ended::Closed => true,
        Ended::Not => false,
    };
    let mut keep = |kept: bool, what: &str| {
        if !kept {
            promises.keep(false, format!("{} {}: {what}", vector.id, vector.name));
        }
    };
    keep(ended || !vector.ends, "how the attacker's connection ended");
    keep(went.acts <= vector.within, "how long it was let go on");
    keep(grew <= GROWTH, "how much memory it took");
    keep(
        failed == 0 && calls > 0,
        "what became of the bystander's calls",
    );
    keep(twin.ended == Ended::Not, "what became of the honest twin");
    if vector.ends {
        keep(
            off.ended == Ended::Not || off.acts > went.acts,
            "that it is this limit that ends it",
        );
    }
    Ok(())
}

async fn lying_lengths(promises: &mut Promises) -> Outcome<()> {
    const CONNECTIONS: u32 = 40;
    const STREAMS: u32 = 250;
    let victim = Victim::start(&[])?;
    let bystander = Bystander::start(&victim).await?;
    let before = victim.memory()?;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        held.push(vectors::lying_lengths(&victim.address, STREAMS).await?);
    }
    let (calls, failed) = bystander.stop().await?;
    let grew = victim.memory()?.saturating_sub(before);
    drop(held);
    promises.keep(
        grew <= 96 * 1024 && failed == 0,
        format!(
            "S10 {} streams that announce 4 MiB and send none of it: grew {grew} KiB of 98304; bystander {failed}/{calls}",
            CONNECTIONS * STREAMS
        ),
    );
    Ok(())
}

async fn unread_responses(promises: &mut Promises) -> Outcome<()> {
    let victim = Victim::start(&[])?;
    let bystander = Bystander::start(&victim).await?;
    let before = victim.memory()?;
    let held = vectors::unread_responses(&victim.address, 250).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let busy = victim.cpu()?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let busy = victim.cpu()?.saturating_sub(busy);
    let (calls, failed) = bystander.stop().await?;
    let grew = victim.memory()?.saturating_sub(before);
    drop(held);
    promises.keep(
        grew <= GROWTH && failed == 0,
        format!("S14 250 streams of responses that nobody reads: grew {grew} KiB of {GROWTH}; {busy:.0?} CPU in a second; bystander {failed}/{calls}"),
    );
    Ok(())
}

/// A client that has nothing to do with it.
struct Bystander(
    tokio::task::JoinHandle<(u32, u32)>,
    tokio::sync::oneshot::Sender<()>,
);

impl Bystander {
    async fn start(victim: &Victim) -> Outcome<Self> {
        let channel = Channel::connect(&format!("http://{}", victim.address)).await?;
        let test = TestClient::new(channel);
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let (mut calls, mut failed) = (0, 0);
            let mut interval = tokio::time::interval(Duration::from_millis(5));
            while stopped.try_recv().is_err() {
                interval.tick().await;
                let request = Request::new(Message::default()).with_timeout(Duration::from_secs(1));
                calls += 1;
                failed += u32::from(test.echo(request.without_retry()).await.is_err());
            }
            (calls, failed)
        });
        Ok(Self(task, stop))
    }

    /// How many calls it made, and how many of them failed.
    async fn stop(self) -> Outcome<(u32, u32)> {
        // It cannot have ended by itself.
        let _ = self.1.send(());
        Ok(self.0.await?)
    }
}
