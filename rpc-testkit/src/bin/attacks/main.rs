//! Attacks on a server. Where it makes sense, a bystander's calls must go on meanwhile, an honest twin
//! that looks alike must be let through, and, if there is a limit to turn off, a run without it must
//! show what it is for.
//!
//! `attacks [--full] [ID…]` prints a table; exits 1 when a promise was broken. What is marked KNOWN is
//! broken too, is a defect that is not mended yet, and does not end the run with 1 until it grows. The
//! short form has fewer connections and shorter times, so that it can run with every change.

mod accept;
mod acts;
mod answers;
mod blocks;
mod bystander;
mod cost;
mod held;
mod idle;
mod long;
mod messages;
mod names;
mod scene;
mod slow;
mod table;
mod unread;
mod vectors;
mod victim;

use std::process::ExitCode;
use std::time::Instant;

use rpc_testkit::promises::Promises;

use vectors::VECTORS;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// The calls of one connection that a server runs at once.
const STREAMS: u64 = 256;
/// What an attack may make the server's memory grow by, in KiB.
const GROWTH: u64 = 16 * 1024;
/// The core that the attackers and bystanders run on when there are two.
const ATTACKER_CORE: usize = 1;
const ENHANCE_YOUR_CALM: u32 = 11;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("victim", off)) = words.split_first().map(|(first, off)| (&**first, off)) {
        return victim::serve(off);
    }
    let start = Instant::now();
    println!(
        "{}",
        if pin(ATTACKER_CORE) {
            "servers on core 0, attackers and bystanders on core 1"
        } else {
            "servers, attackers and bystanders share the cores"
        }
    );
    let code = rpc_testkit::promises::main(|| attacks(words));
    println!("{:.0?} in all", start.elapsed());
    code
}

/// Keeps this process on one core when there are two; whether there are.
fn pin(core: usize) -> bool {
    let two = std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    (two || core == victim::VICTIM_CORE) && rustix::thread::sched_setaffinity(None, &set).is_ok()
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
    table::head();
    for vector in VECTORS.iter().filter(|vector| chosen(vector.id)) {
        tried(&mut promises, async |own| {
            vectors::attack(vector, own).await
        })
        .await?;
    }
    if chosen("S1m") {
        tried(&mut promises, async |own| {
            long::rapid_resets(size, own).await
        })
        .await?;
    }
    if chosen("S20") {
        tried(&mut promises, async |own| {
            long::callers_give_up(size, own).await
        })
        .await?;
    }
    if chosen("S21") {
        tried(&mut promises, async |own| {
            idle::hold_every_place(size, own).await
        })
        .await?;
        tried(&mut promises, async |own| idle::vanish(size, own).await).await?;
    }
    if full && chosen("S1h") {
        tried(&mut promises, async |own| long::honest_cancels(own).await).await?;
    }
    if chosen("S4d") {
        tried(&mut promises, async |own| cost::of_header_blocks(own).await).await?;
    }
    if chosen("S9b") {
        tried(&mut promises, async |own| cost::of_small_frames(own).await).await?;
    }
    if chosen("S3") {
        tried(&mut promises, async |own| held::tiny_header_list(own).await).await?;
    }
    if chosen("S5") {
        tried(&mut promises, async |own| {
            held::referenced_fields(size, own).await
        })
        .await?;
        tried(&mut promises, async |own| {
            held::dripped_windows(size, own).await
        })
        .await?;
    }
    if chosen("S7") {
        tried(&mut promises, async |own| blocks::broken_blocks(own).await).await?;
    }
    if chosen("S10") {
        tried(&mut promises, async |own| {
            messages::lying_lengths(own).await
        })
        .await?;
    }
    if chosen("S11") {
        tried(&mut promises, async |own| {
            messages::compressed_bombs(size, own).await
        })
        .await?;
    }
    if chosen("S12") {
        tried(&mut promises, async |own| messages::amplified(own).await).await?;
    }
    if chosen("S13") {
        tried(&mut promises, async |own| {
            slow::slow_sockets(size, own).await
        })
        .await?;
    }
    if chosen("S14") {
        tried(&mut promises, async |own| held::unread_responses(own).await).await?;
        tried(&mut promises, async |own| unread::slow_receivers(own).await).await?;
    }
    if chosen("S15") {
        tried(&mut promises, async |own| {
            accept::no_descriptors(size, own).await
        })
        .await?;
        tried(&mut promises, async |own| {
            accept::reset_on_accept(own).await
        })
        .await?;
    }
    if chosen("S16") {
        tried(&mut promises, async |own| {
            names::never_registered(size, own).await
        })
        .await?;
    }
    if chosen("S18") {
        tried(&mut promises, async |own| unread::unread_streams(own).await).await?;
    }
    Ok(promises)
}

/// How often an attack is tried before a promise counts as broken.
const TRIES: u32 = 3;

/// Makes an attack, and makes it again when a promise was broken: a machine that stands still for
/// 50 ms holds a bystander up as an attack would. What is printed has all tries.
async fn tried(
    promises: &mut Promises,
    attack: impl AsyncFn(&mut Promises) -> Outcome<()>,
) -> Outcome<()> {
    for left in (0..TRIES).rev() {
        let mut own = Promises::default();
        attack(&mut own).await?;
        if own.are_kept() || left == 0 {
            promises.add(&own);
            break;
        }
        println!("       once more, in case it was the machine");
    }
    Ok(())
}
