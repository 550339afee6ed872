//! What the calls noticed: [`Tally`].

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rpc_testkit::Ticker;
use rpc_testkit::load::{Kind, Outcome, Record};
use rpc_testkit::promises::Promises;

/// What there was of one endpoint since the last look.
#[derive(Debug, Default)]
pub(crate) struct Share {
    pub(crate) failed: usize,
    pub(crate) calls: usize,
    /// Of the unary calls: a stream takes as long as its events do.
    latencies: Vec<Duration>,
}

impl Share {
    /// The latency that so many per cent of the unary calls stayed below.
    pub(crate) fn percentile(&mut self, percent: usize) -> Duration {
        self.latencies.sort_unstable();
        let index = (self.latencies.len() * percent / 100).min(self.latencies.len().max(1) - 1);
        self.latencies.get(index).copied().unwrap_or_default()
    }
}

/// The records of all calls, added up.
#[derive(Debug)]
pub(crate) struct Tally {
    start: Instant,
    ticker: Ticker,
    /// Since the last look, by endpoint.
    pub(crate) shares: BTreeMap<String, Share>,
    kills: Vec<(Instant, Instant)>,
    scheduled: u64,
    ok: u64,
    resumed: u64,
    retried: u64,
    /// Calls that must not be repeated: from when to when, and whether they failed.
    placed: Vec<(Instant, Instant, bool)>,
    failures: Vec<Record>,
    last_success: Instant,
    longest_gap: Duration,
}

impl Tally {
    pub(crate) fn new(ticker: Ticker) -> Self {
        let start = Instant::now();
        Self {
            start,
            ticker,
            shares: BTreeMap::new(),
            kills: Vec::new(),
            scheduled: 0,
            ok: 0,
            resumed: 0,
            retried: 0,
            placed: Vec::new(),
            failures: Vec::new(),
            last_success: start,
            longest_gap: Duration::ZERO,
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// A server was killed between these two moments.
    pub(crate) fn killed(&mut self, from: Instant, to: Instant) {
        self.kills.push((from, to));
    }

    pub(crate) fn record(&mut self, record: Record) {
        let endpoint = record.endpoint.as_deref().unwrap_or("nowhere").to_owned();
        let share = self.shares.entry(endpoint).or_default();
        share.calls += 1;
        if record.kind != Kind::Follow {
            share.latencies.push(record.latency());
        }
        self.scheduled += 1;
        self.retried += u64::from(record.attempts > 1);
        match record.outcome {
            Outcome::Ok => self.ok += 1,
            Outcome::Resumed => self.resumed += 1,
            Outcome::Failed(_) => share.failed += 1,
        }
        if record.kind == Kind::Place {
            let failed = record.failure().is_some();
            self.placed.push((record.scheduled, record.ended, failed));
        }
        if record.failure().is_some() {
            self.failures.push(record);
            return;
        }
        // Records come in the order in which their calls ended, but for a few microseconds.
        let gap = record.ended.saturating_duration_since(self.last_success);
        self.longest_gap = self.longest_gap.max(gap);
        self.last_success = self.last_success.max(record.ended);
    }

    /// The end: prints the summary and says whether the promises were kept.
    pub(crate) fn judge(self) -> Promises {
        let at_a_kill = |from: Instant, to: Instant| {
            let overlaps = |kill: &(Instant, Instant)| from <= kill.1 && to >= kill.0;
            self.kills.iter().any(overlaps)
        };
        let in_flight = self
            .placed
            .iter()
            .filter(|(from, to, _)| at_a_kill(*from, *to));
        let interrupted = in_flight.clone().filter(|(_, _, failed)| *failed).count();
        let excused = |record: &Record| {
            record.kind == Kind::Place && at_a_kill(record.scheduled, record.ended)
        };
        let failures = self.failures.iter().filter(|record| !excused(record));
        let (late, failures): (Vec<_>, Vec<_>) =
            failures.partition(|record| record.is_of_the_machine(&self.ticker));
        let (late, failed) = (late.len(), failures.len());
        println!(
            "scheduled {}  ok {}  resumed {}  retried {}  failed {failed}  longest gap {:.0?}",
            self.scheduled, self.ok, self.resumed, self.retried, self.longest_gap
        );
        println!(
            "not repeatable and in flight at a SIGKILL: {}, of which failed: {interrupted}",
            in_flight.count()
        );
        if let Some(remark) = self.ticker.remark(self.start, Instant::now()) {
            println!("{remark}");
        }
        if late > 0 {
            println!(
                "calls that ran out of time while the machine stood still, counted apart: {late}; run it again on a machine that is less busy"
            );
        }
        for (record, status) in failures
            .iter()
            .filter_map(|record| Some((record, record.failure()?)))
            .take(5)
        {
            let at = record.ended.saturating_duration_since(self.start);
            println!("{:6.2} s  {:?}: {status}", at.as_secs_f32(), record.kind);
        }
        let mut promises = Promises::default();
        promises.keep(
            self.scheduled == self.ok + self.resumed + (interrupted + late) as u64,
            "every call that was scheduled ended well, but for those in flight at the SIGKILL that must not be repeated, and those that the machine stood still for",
        );
        promises
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rpc_core::Status;

    #[test]
    fn what_the_machine_stood_still_for_is_counted_apart() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let failed = |status: Status| Record {
            id: 1,
            kind: Kind::Look,
            scheduled: at(100),
            ended: at(600),
            endpoint: None,
            attempts: 1,
            outcome: Outcome::Failed(status),
        };
        let judged = |stall: (u64, u64), status: Status| {
            let ticker = Ticker::of(vec![(at(stall.0), at(stall.1))]);
            let mut tally = Tally::new(ticker);
            tally.record(failed(status));
            tally.judge().are_kept()
        };
        let late = || Status::deadline_exceeded("late");
        assert!(judged((200, 300), late()));
        // Too short a stall, one before the call, and what no stall explains.
        assert!(!judged((200, 210), late()));
        assert!(!judged((0, 100), late()));
        assert!(!judged((200, 300), Status::data_loss("gone")));
    }
}
