//! Kills one of three servers with SIGKILL, twenty times, under load, and compares the servers'
//! ledgers with what the callers were told. Prints a table; exits 1 when a promise was broken.
//!
//! `kill-test [KILLS] [CALLS A SECOND]`

use std::collections::{HashMap, HashSet};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rpc_testkit::Ticker;
use rpc_testkit::fleet::Fleet;
use rpc_testkit::ledger::{Act, Line};
use rpc_testkit::load::{Kind, Load, Record};
use rpc_testkit::promises::Promises;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// What a call may take.
const TIMEOUT: Duration = Duration::from_millis(500);
/// What may pass after its deadline until a call has ended, and after a kill until calls have left
/// the dead server.
const GRACE: Duration = Duration::from_millis(100);

struct Kill {
    server: String,
    /// From before the signal to when the process was gone.
    from: Instant,
    to: Instant,
    /// When it was started again.
    again: Instant,
}

struct Run {
    kills: Vec<Kill>,
    records: Vec<Record>,
    ticker: Ticker,
}

fn main() -> ExitCode {
    rpc_testkit::promises::main(kill_test)
}

async fn kill_test() -> Outcome<Promises> {
    let mut words = std::env::args().skip(1);
    let kills = words.next().map_or(Ok(20), |word| word.parse())?;
    let rate = words.next().map_or(Ok(2_000), |word| word.parse())?;
    let seed = std::env::var("SEED").map_or_else(|_| Ok(fastrand::u64(..)), |seed| seed.parse())?;
    println!("{rate} calls/s, {kills} kills, SEED={seed}");
    let directory = tempfile::tempdir()?;
    let mut fleet = Fleet::start(directory.path(), 3).await?;
    let run = run(&mut fleet, kills, rate, seed).await?;
    judge(&run, &written(fleet.ledgers()?))
}

async fn run(fleet: &mut Fleet, kills: u32, rate: u32, seed: u64) -> Outcome<Run> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut phase = move || Duration::from_micros(random.u64(400_000..700_000));
    let mut victims = fastrand::Rng::with_seed(!seed);
    let load = Load::new(&fleet.target(), rate, TIMEOUT, &[Kind::Look, Kind::Place])?;
    load.ready().await?;
    let ticker = Ticker::start();
    let (stop, mut receiver) = load.start();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut done = Vec::new();
    for _ in 0..kills {
        tokio::time::sleep(phase()).await;
        let victim = victims
            .choice(&mut fleet.servers)
            .ok_or("the fleet has no server")?;
        let from = Instant::now();
        victim.kill().await?;
        let to = Instant::now();
        tokio::time::sleep(phase()).await;
        let again = Instant::now();
        *victim = victim.again().await?;
        done.push(Kill {
            server: victim.address().to_owned(),
            from,
            to,
            again,
        });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(stop);
    let mut records = Vec::new();
    while let Some(record) = receiver.recv().await {
        records.push(record);
    }
    for server in &mut fleet.servers {
        server.terminate().await?;
    }
    Ok(Run {
        kills: done,
        records,
        ticker,
    })
}

/// What is to be said of the machine while the load went on.
fn remark(records: &[Record], ticker: &Ticker) -> Option<String> {
    let from = records.iter().map(|record| record.scheduled).min()?;
    let to = records.iter().map(|record| record.ended).max()?;
    ticker.remark(from, to)
}

/// What all servers wrote of each id.
fn written(ledgers: Vec<Vec<Line>>) -> HashMap<u64, Vec<Act>> {
    let mut written: HashMap<u64, Vec<Act>> = HashMap::new();
    for line in ledgers.into_iter().flatten() {
        written.entry(line.id).or_default().push(line.act);
    }
    written
}

fn judge(run: &Run, written: &HashMap<u64, Vec<Act>>) -> Outcome<Promises> {
    let Run {
        kills,
        records,
        ticker,
    } = run;
    let mut promises = Promises::default();
    println!("kill  server            in flight  not repeatable  failed of these  last call there");
    let mut excused = HashSet::new();
    let mut latest = Duration::ZERO;
    for (number, kill) in kills.iter().enumerate() {
        let in_flight: Vec<_> = records
            .iter()
            .filter(|record| record.in_flight(kill.from, kill.to))
            .collect();
        let once = in_flight.iter().filter(|record| record.kind == Kind::Place);
        let failed: Vec<_> = once
            .clone()
            .filter(|record| record.failure().is_some())
            .map(|record| record.id)
            .collect();
        // A call that started after the kill and was on the dead server had to be sent elsewhere.
        let there = records.iter().filter(|record| {
            record.scheduled > kill.to
                && record.scheduled < kill.again
                && (record.attempts > 1 || record.endpoint.as_ref() == Some(&kill.server))
        });
        let last = there
            .map(|record| {
                (record.scheduled - kill.to)
                    .saturating_sub(ticker.stalled(kill.to, record.scheduled))
            })
            .max()
            .unwrap_or_default();
        latest = latest.max(last);
        println!(
            "{:>4}  {:<16}  {:>9}  {:>14}  {:>15}  {:>12.1} ms",
            number + 1,
            kill.server,
            in_flight.len(),
            once.count(),
            failed.len(),
            last.as_secs_f64() * 1e3
        );
        excused.extend(failed);
    }
    let failed = |kind| {
        records
            .iter()
            .filter(move |record| record.kind == kind && record.failure().is_some())
    };
    let count = |kind| records.iter().filter(|record| record.kind == kind).count();
    let (late, unexcused): (Vec<_>, Vec<_>) = failed(Kind::Look)
        .chain(failed(Kind::Place).filter(|record| !excused.contains(&record.id)))
        .partition(|record| record.is_of_the_machine(ticker));
    let acknowledged = records.iter().filter(|record| record.failure().is_none());
    let lost = acknowledged
        .clone()
        .filter(|record| !written.contains_key(&record.id))
        .count();
    let twice = written
        .values()
        .filter(|acts| acts.iter().filter(|act| **act == Act::Placed).count() > 1)
        .count();
    let latest_end = records
        .iter()
        .map(|record| {
            record
                .latency()
                .saturating_sub(ticker.stalled(record.scheduled, record.ended))
        })
        .max()
        .unwrap_or_default();
    println!();
    if let Some(remark) = remark(records, ticker) {
        println!("        {remark}");
    }
    if !late.is_empty() {
        println!(
            "        calls that ran out of time meanwhile, counted apart: {}",
            late.len()
        );
    }
    promises.keep(
        unexcused.is_empty(),
        format!(
            "idempotent: {} of {} failed; non-idempotent: {} of {} failed, {} of them not in flight at a kill",
            failed(Kind::Look).count(),
            count(Kind::Look),
            failed(Kind::Place).count(),
            count(Kind::Place),
            unexcused
                .iter()
                .filter(|record| record.kind == Kind::Place)
                .count(),
        ),
    );
    for record in unexcused.iter().take(5) {
        if let Some(status) = record.failure() {
            println!("        {:?} {}: {status}", record.kind, record.id);
        }
    }
    promises.keep(
        twice == 0,
        format!("{twice} non-idempotent ids served twice"),
    );
    promises.keep(
        lost == 0,
        format!(
            "{lost} of {} acknowledged ids not in a ledger",
            acknowledged.count()
        ),
    );
    promises.keep(
        latest_end <= TIMEOUT + GRACE,
        format!("the longest call took {latest_end:.1?} with a deadline of {TIMEOUT:?}"),
    );
    promises.keep(
        latest <= GRACE,
        format!("the last call to a dead server started {latest:.1?} after it was gone"),
    );
    Ok(promises)
}
