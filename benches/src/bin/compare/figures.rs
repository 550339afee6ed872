//! What was measured, its medians, and how it is shown.

use benches::median;
use benches::process::{Case, Figures, Syscalls};
use serde::{Deserialize, Serialize};

/// The medians of all rounds of a stack at a workload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) stack: String,
    /// Whose client was asked for: `own`, or that of a stack for every server.
    pub(crate) table: String,
    /// The stack whose client it was, when that was another.
    pub(crate) client: Option<String>,
    pub(crate) workload: String,
    pub(crate) connections: u32,
    pub(crate) in_flight: u32,
    pub(crate) tls: bool,
    /// How many workers a side had; with one, each side was kept on a core.
    pub(crate) workers: usize,
    /// Null where the stack has no such workload.
    pub(crate) medians: Option<Medians>,
    /// Null where nothing on this machine could count them.
    pub(crate) syscalls: Option<PerCall>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Medians {
    pub(crate) per_s: f64,
    /// Null where the client does not say.
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    pub(crate) server_cpu_us: f64,
    pub(crate) client_cpu_us: f64,
}

/// System calls of the server.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct PerCall {
    pub(crate) writes: f64,
    pub(crate) reads: f64,
    pub(crate) waits: f64,
}

impl From<Syscalls> for PerCall {
    fn from(counted: Syscalls) -> Self {
        Self {
            writes: counted.writes,
            reads: counted.reads,
            waits: counted.waits,
        }
    }
}

impl Medians {
    /// None without rounds.
    pub(crate) fn of(rounds: &[Figures]) -> Option<Self> {
        let median = |figure: fn(&Figures) -> f64| median(rounds.iter().map(figure));
        (!rounds.is_empty()).then(|| Self {
            per_s: median(|round| round.per_s),
            p50_us: Some(median(|round| round.p50_us)).filter(|p50| p50.is_finite()),
            p99_us: Some(median(|round| round.p99_us)).filter(|p99| p99.is_finite()),
            server_cpu_us: median(|round| round.server_cpu_us),
            client_cpu_us: median(|round| round.client_cpu_us),
        })
    }
}

impl Row {
    /// A row without figures.
    pub(crate) fn new(stack: &str, case: Case) -> Self {
        Self {
            stack: stack.to_owned(),
            table: "own".to_owned(),
            client: None,
            workload: case.workload.to_owned(),
            connections: case.connections,
            in_flight: case.in_flight,
            tls: false,
            workers: 1,
            medians: None,
            syscalls: None,
        }
    }

    fn name(&self) -> String {
        match &self.client {
            Some(client) => format!("{}/{client}-client", self.workload),
            None => self.workload.clone(),
        }
    }
}

pub(crate) fn print_head(base: &str) {
    println!(
        "The ratios are to {base}; - is what a stack does not do or what could not be counted."
    );
    println!(
        "{:<30} {:>5} {:>6}  {:<10} {:>10} {:>9} {:>9} {:>10} {:>10} {:>7} {:>7} {:>7}  {:>7} {:>8} {:>8}",
        "workload",
        "conns",
        "flight",
        "stack",
        "per s",
        "p50 us",
        "p99 us",
        "server us",
        "client us",
        "writes",
        "reads",
        "waits",
        "x per s",
        "x server",
        "x client"
    );
}

fn cell(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

/// Prints the rows of one workload; the ratios are to one of the stacks.
pub(crate) fn print(rows: &[Row], base: &str) {
    let base = rows
        .iter()
        .find(|row| row.stack == base)
        .and_then(|row| row.medians);
    for row in rows {
        let figure = |figure: fn(&Medians) -> f64| row.medians.as_ref().map(figure);
        let ratio = |of: fn(&Medians) -> f64| Some(of(row.medians.as_ref()?) / of(base.as_ref()?));
        let calls = |calls: fn(&PerCall) -> f64| cell(row.syscalls.as_ref().map(calls), 3);
        println!(
            "{:<30} {:>5} {:>6}  {:<10} {:>10} {:>9} {:>9} {:>10} {:>10} {:>7} {:>7} {:>7}  {:>7} {:>8} {:>8}",
            row.name(),
            row.connections,
            row.in_flight,
            row.stack,
            cell(figure(|row| row.per_s), 0),
            cell(row.medians.and_then(|row| row.p50_us), 1),
            cell(row.medians.and_then(|row| row.p99_us), 1),
            cell(figure(|row| row.server_cpu_us), 3),
            cell(figure(|row| row.client_cpu_us), 3),
            calls(|calls| calls.writes),
            calls(|calls| calls.reads),
            calls(|calls| calls.waits),
            cell(ratio(|row| row.per_s), 3),
            cell(ratio(|row| row.server_cpu_us), 3),
            cell(ratio(|row| row.client_cpu_us), 3),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_written_under_the_names_that_are_promised() {
        let round = Figures {
            per_s: 1.0,
            p50_us: 2.0,
            p99_us: 3.0,
            server_cpu_us: 4.0,
            client_cpu_us: 5.0,
        };
        let row = Row {
            medians: Medians::of(&[round]),
            syscalls: Some(PerCall {
                writes: 0.5,
                reads: 0.25,
                waits: 1.0,
            }),
            ..Row::new("ours", crate::options::CASES[1])
        };
        assert_eq!(
            serde_json::to_string(&row).unwrap(),
            r#"{"stack":"ours","table":"own","client":null,"workload":"unary-100","connections":1,"in_flight":64,"tls":false,"workers":1,"medians":{"per_s":1.0,"p50_us":2.0,"p99_us":3.0,"server_cpu_us":4.0,"client_cpu_us":5.0},"syscalls":{"writes":0.5,"reads":0.25,"waits":1.0}}"#
        );
    }
}
