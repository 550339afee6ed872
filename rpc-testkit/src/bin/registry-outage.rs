//! Kills the registry for 30 s under load; then, with it back, starts and drains a server fifty
//! times and reads from the servers' ledgers when the first call came and when the last. Exits 1
//! when a promise was broken.
//!
//! `registry-outage [SECONDS] [REPETITIONS]`

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rpc_testkit::Ticker;
use rpc_testkit::fleet::Fleet;
use rpc_testkit::ledger::{Act, Line};
use rpc_testkit::load::{Kind, Load, Record};
use rpc_testkit::promises::Promises;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Calls a second.
const RATE: u32 = 1_000;
/// What a call may take.
const TIMEOUT: Duration = Duration::from_millis(500);
/// A new server has its first call within this time of being registered.
const FIRST: Duration = Duration::from_secs(1);
/// A server that has left has no call that is later than this.
const LAST: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    rpc_testkit::promises::main(outage)
}

async fn outage() -> Outcome<Promises> {
    let mut words = std::env::args().skip(1);
    let seconds = words.next().map_or(Ok(30), |word| word.parse())?;
    let repetitions: usize = words.next().map_or(Ok(50), |word| word.parse())?;
    println!(
        "{RATE} calls/s, the registry away for {seconds} s, {repetitions} servers come and go"
    );
    let directory = tempfile::tempdir()?;
    let mut fleet = Fleet::start(directory.path(), 3).await?;
    let load = Load::new(&fleet.target(), RATE, TIMEOUT, &[Kind::Look, Kind::Place])?;
    load.ready().await?;
    let ticker = Ticker::start();
    let (stop, mut receiver) = load.start();
    let collecting = tokio::spawn(async move {
        let mut records = Vec::new();
        while let Some(record) = receiver.recv().await {
            records.push(record);
        }
        records
    });

    tokio::time::sleep(Duration::from_secs(1)).await;
    let down = Instant::now();
    fleet.registry.kill().await?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let up = Instant::now();
    fleet.registry = fleet.registry.again().await?;

    for number in 0..repetitions {
        let mut server = fleet.start_server().await?;
        let ledger = fleet.ledger(3 + number);
        until(&ledger, |lines| count(lines, calls) >= 20).await?;
        server.terminate().await?;
    }
    drop(stop);
    let records = collecting.await?;
    for server in &mut fleet.servers {
        server.terminate().await?;
    }
    judge(&records, (down, up), &fleet.ledgers()?[3..], &ticker)
}

/// Waits until a ledger has what is waited for.
async fn until(ledger: &std::path::Path, enough: impl Fn(&[Line]) -> bool) -> Outcome<()> {
    let waiting = async {
        loop {
            if enough(&rpc_testkit::ledger::Ledger::read(ledger)?) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting)
        .await
        .map_err(|_| format!("{} did not get its calls within 30 s", ledger.display()))?
}

fn calls(act: Act) -> bool {
    matches!(act, Act::Looked | Act::Placed | Act::Followed)
}

fn count(lines: &[Line], which: impl Fn(Act) -> bool) -> usize {
    lines.iter().filter(|line| which(line.act)).count()
}

fn judge(
    records: &[Record],
    (down, up): (Instant, Instant),
    ledgers: &[Vec<Line>],
    ticker: &Ticker,
) -> Outcome<Promises> {
    let mut promises = Promises::default();
    let from = records.iter().map(|record| record.scheduled).min();
    let to = records.iter().map(|record| record.ended).max();
    if let Some(remark) = from.zip(to).and_then(|(from, to)| ticker.remark(from, to)) {
        println!("        {remark}");
    }
    let late = records
        .iter()
        .filter(|record| record.is_of_the_machine(ticker))
        .count();
    if late > 0 {
        println!("        calls that ran out of time meanwhile, counted apart: {late}");
    }
    let has_failed =
        |record: &Record| record.failure().is_some() && !record.is_of_the_machine(ticker);
    let during = records.iter().filter(|record| record.in_flight(down, up));
    promises.keep(
        !during.clone().any(has_failed),
        format!(
            "registry away for {:.1?}: {} of {} calls failed",
            up - down,
            during.clone().filter(|record| has_failed(record)).count(),
            during.count(),
        ),
    );
    let failures: Vec<_> = records
        .iter()
        .filter(|record| has_failed(record))
        .filter_map(Record::failure)
        .collect();
    promises.keep(
        failures.is_empty(),
        format!(
            "in all: {} of {} calls failed",
            failures.len(),
            records.len()
        ),
    );
    for status in failures.iter().take(5) {
        println!("        {status}");
    }
    let (mut firsts, mut lasts) = (Vec::new(), Vec::new());
    for lines in ledgers {
        let at = |act| {
            lines
                .iter()
                .find(|line| line.act == act)
                .map(|line| line.at)
        };
        let registered = at(Act::Registered).ok_or("a server was never registered")?;
        let deregistered = at(Act::Deregistered).ok_or("a server was never deregistered")?;
        let mut served = lines
            .iter()
            .filter(|line| calls(line.act))
            .map(|line| line.at);
        let first = served.next().ok_or("a server was never called")?;
        let last = served.next_back().unwrap_or(first);
        firsts.push(first.saturating_sub(registered));
        lasts.push(last.saturating_sub(deregistered));
    }
    let longest = |times: &[Duration]| times.iter().max().copied().unwrap_or_default();
    promises.keep(
        longest(&firsts) <= FIRST,
        format!(
            "{} servers came: the first call at most {:.1?} after registering",
            firsts.len(),
            longest(&firsts)
        ),
    );
    promises.keep(
        longest(&lasts) <= LAST,
        format!(
            "{} servers left: the last call at most {:.1?} after deregistering was acknowledged",
            lasts.len(),
            longest(&lasts)
        ),
    );
    let mut times = HashMap::new();
    for record in records {
        let time = record
            .latency()
            .saturating_sub(ticker.stalled(record.scheduled, record.ended));
        let longest: &mut Duration = times.entry(record.kind).or_default();
        *longest = (*longest).max(time);
    }
    println!("        longest calls: {times:.1?}");
    Ok(promises)
}
