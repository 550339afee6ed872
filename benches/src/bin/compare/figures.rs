//! What was measured, its medians, and how it is shown.

use serde::Serialize;

use crate::Case;

/// One round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) per_s: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) server_cpu_us: f64,
    pub(crate) client_cpu_us: f64,
}

/// The medians of all rounds of a stack at a workload.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    stack: String,
    workload: &'static str,
    connections: u32,
    in_flight: u32,
    per_s: f64,
    p50_us: f64,
    p99_us: f64,
    server_cpu_us: f64,
    client_cpu_us: f64,
    /// Null where nothing on this machine could count them.
    server_writes: Option<f64>,
}

impl Row {
    pub(crate) fn new(stack: &str, case: Case, rounds: &[Figures], writes: Option<f64>) -> Self {
        let median = |figure: fn(&Figures) -> f64| median(rounds.iter().map(figure));
        Self {
            stack: stack.to_owned(),
            workload: case.workload,
            connections: case.connections,
            in_flight: case.in_flight,
            per_s: median(|round| round.per_s),
            p50_us: median(|round| round.p50_us),
            p99_us: median(|round| round.p99_us),
            server_cpu_us: median(|round| round.server_cpu_us),
            client_cpu_us: median(|round| round.client_cpu_us),
            server_writes: writes,
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.get(middle) {
        None => f64::NAN,
        Some(upper) if values.len() % 2 == 1 => *upper,
        Some(upper) => f64::midpoint(values[middle - 1], *upper),
    }
}

pub(crate) fn print_head() {
    println!(
        "{:<18} {:>5} {:>6}  {:<8} {:>10} {:>9} {:>9} {:>10} {:>10} {:>7}  {:>7} {:>10} {:>10}",
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
        "x per s",
        "x server",
        "x client"
    );
}

/// Prints the rows of one workload; the ratios are to the last one.
pub(crate) fn print(rows: &[Row]) {
    let Some(base) = rows.last() else { return };
    for row in rows {
        let writes = row
            .server_writes
            .map_or_else(|| "-".to_owned(), |writes| format!("{writes:.3}"));
        println!(
            "{:<18} {:>5} {:>6}  {:<8} {:>10.0} {:>9.1} {:>9.1} {:>10.3} {:>10.3} {:>7}  {:>7.3} {:>10.3} {:>10.3}",
            row.workload,
            row.connections,
            row.in_flight,
            row.stack,
            row.per_s,
            row.p50_us,
            row.p99_us,
            row.server_cpu_us,
            row.client_cpu_us,
            writes,
            row.per_s / base.per_s,
            row.server_cpu_us / base.server_cpu_us,
            row.client_cpu_us / base.client_cpu_us,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert!((median([3.0, 1.0, 2.0].into_iter()) - 2.0).abs() < 1e-9);
        assert!((median([4.0, 1.0, 2.0, 3.0].into_iter()) - 2.5).abs() < 1e-9);
        assert!(median([].into_iter()).is_nan());
    }

    #[test]
    fn a_row_is_written_under_the_names_that_are_promised() {
        let round = Figures {
            per_s: 1.0,
            p50_us: 2.0,
            p99_us: 3.0,
            server_cpu_us: 4.0,
            client_cpu_us: 5.0,
        };
        let case = crate::CASES[1];
        let row = serde_json::to_string(&Row::new("ours", case, &[round], Some(0.5))).unwrap();
        assert_eq!(
            row,
            r#"{"stack":"ours","workload":"unary-100","connections":1,"in_flight":64,"per_s":1.0,"p50_us":2.0,"p99_us":3.0,"server_cpu_us":4.0,"client_cpu_us":5.0,"server_writes":0.5}"#
        );
    }
}
