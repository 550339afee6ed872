//! Attacks on a server, each with a bystander whose calls must go on, a twin that looks alike and
//! must be let through, and a run with the limit off that must show what the limit is for.
//!
//! `attacks [--full] [ID…]` prints a table; exits 1 when a promise was broken. The short form has
//! fewer connections and shorter times, so that it can run with every change.

mod bystander;
mod held;
mod slow;
mod vectors;
mod victim;

use std::process::ExitCode;
use std::time::Instant;

use rpc_testkit::promises::Promises;
use rpc_testkit::raw::Ended;

use bystander::Bystander;

use vectors::{VECTORS, Vector};
use victim::Victim;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// The calls of one connection that a server runs at once.
const STREAMS: u64 = 256;
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

/// How much of it.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// Everything at the size that the promises name; otherwise what takes seconds.
    full: bool,
}

impl Size {
    fn of<T>(self, short: T, full: T) -> T {
        if self.full { full } else { short }
    }
}

async fn attacks(words: Vec<String>) -> Outcome<Promises> {
    let mut promises = Promises::default();
    let full = words.iter().any(|word| word == "--full");
    let size = Size { full };
    let wanted: Vec<_> = words.iter().filter(|word| *word != "--full").collect();
    let chosen = |id: &str| wanted.is_empty() || wanted.iter().any(|word| *word == id);
    println!(
        "{:<4} {:<24} {:<16} {:>8} {:>8} {:>9} {:>5} {:>9} {:>7}  {:<8} limit off",
        "id", "attack", "ended", "acts", "ms", "grew KiB", "live", "bystander", "p99 ms", "twin"
    );
    for vector in VECTORS.iter().filter(|vector| chosen(vector.id)) {
        attack(vector, &mut promises).await?;
    }
    if chosen("S3") {
        held::tiny_header_list(&mut promises).await?;
    }
    if chosen("S5") {
        held::referenced_fields(size, &mut promises).await?;
        held::dripped_windows(size, &mut promises).await?;
    }
    if chosen("S7") {
        held::broken_blocks(&mut promises).await?;
    }
    if chosen("S10") {
        held::lying_lengths(&mut promises).await?;
    }
    if chosen("S11") {
        held::compressed_bombs(size, &mut promises).await?;
    }
    if chosen("S13") {
        slow::slow_sockets(size, &mut promises).await?;
    }
    if chosen("S14") {
        held::unread_responses(&mut promises).await?;
    }
    if chosen("S15") {
        slow::no_descriptors(size, &mut promises).await?;
        slow::reset_on_accept(&mut promises).await?;
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
    let seen = bystander.stop().await?;
    let quiet = victim.is_quiet().await;
    let control = Victim::start(vector.limits)?;
    let off = (vector.attack)(control.address.clone()).await?;
    println!(
        "{:<4} {:<24} {:<16} {:>8} {:>8} {:>9} {:>5} {:>4}/{:<4} {:>7.1}  {:<8} {}",
        vector.id,
        vector.name,
        format!("{:?}", went.ended),
        went.acts,
        took.as_millis(),
        grew,
        seen.live,
        seen.failed,
        seen.calls,
        seen.p99.as_secs_f64() * 1e3,
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
    keep(seen.live <= STREAMS, "how many handlers it kept");
    keep(
        seen.is_undisturbed(),
        "what became of the bystander's calls",
    );
    keep(quiet, "whether the server came to rest");
    keep(twin.ended == Ended::Not, "what became of the honest twin");
    if vector.ends {
        keep(
            off.ended == Ended::Not || off.acts > went.acts,
            "that it is this limit that ends it",
        );
    }
    Ok(())
}
