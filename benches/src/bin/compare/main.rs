//! The same Echo service on this framework and on its peers, side by side; prints one table.
//!
//! `compare [--stacks ours,tonic] [--workloads unary-100,…] [--rounds 5] [--seconds 1] [--json FILE]`
//!
//! Server and client are two processes, the server on core 0 and the client on core 1, each with one
//! worker of tokio's multi-thread runtime. Rounds of the stacks take turns, and what is printed is
//! the median. What the columns mean is in `benches/README.md`.

mod figures;
mod process;

use std::process::ExitCode;

use figures::{Figures, Row};
use process::Pair;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// A workload, over so many connections with so many calls in flight on each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Case {
    workload: &'static str,
    connections: u32,
    in_flight: u32,
}

const fn case(workload: &'static str, connections: u32, in_flight: u32) -> Case {
    Case {
        workload,
        connections,
        in_flight,
    }
}

const CASES: [Case; 8] = [
    case("unary-100", 1, 1),
    case("unary-100", 1, 64),
    case("unary-100", 1, 256),
    case("unary-100", 8, 64),
    case("unary-100-wait", 1, 64),
    case("server-stream-100", 1, 1),
    case("server-stream-1m", 1, 1),
    case("ping-pong", 1, 1),
];

/// What is compared when nobody says otherwise; the others' ratio is to the last one.
const STACKS: [&str; 2] = ["ours", "tonic"];

struct Options {
    stacks: Vec<String>,
    workloads: Option<Vec<String>>,
    rounds: usize,
    seconds: f64,
    json: Option<String>,
}

impl Options {
    fn parse(words: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut options = Self {
            stacks: STACKS.map(ToOwned::to_owned).to_vec(),
            workloads: None,
            rounds: 5,
            seconds: 1.0,
            json: None,
        };
        let mut words = words;
        let list = |text: String| text.split(',').map(ToOwned::to_owned).collect::<Vec<_>>();
        while let Some(name) = words.next() {
            let value = words
                .next()
                .ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--stacks" => options.stacks = list(value),
                "--workloads" => options.workloads = Some(list(value)),
                "--rounds" => options.rounds = value.parse()?,
                "--seconds" => options.seconds = value.parse()?,
                "--json" => options.json = Some(value),
                _ => return Err(format!("there is no option {name}").into()),
            }
        }
        Ok(options)
    }

    fn cases(&self) -> impl Iterator<Item = Case> {
        CASES.into_iter().filter(|case| {
            self.workloads
                .as_ref()
                .is_none_or(|wanted| wanted.iter().any(|name| name == case.workload))
        })
    }
}

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)).and_then(|options| compare(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &Options) -> Outcome<()> {
    let programs = process::build(&options.stacks)?;
    let mut rows: Vec<Row> = Vec::new();
    figures::print_head();
    for case in options.cases() {
        let mut rounds: Vec<Vec<Figures>> = vec![Vec::new(); programs.len()];
        for _ in 0..options.rounds {
            for (program, figures) in programs.iter().zip(&mut rounds) {
                let mut pair = Pair::start(program, case)?;
                figures.push(pair.measure(options.seconds)?);
            }
        }
        let start = rows.len();
        for ((stack, program), figures) in options.stacks.iter().zip(&programs).zip(&rounds) {
            let writes = Pair::start(program, case)?.count_writes()?;
            rows.push(Row::new(stack, case, figures, writes));
        }
        figures::print(&rows[start..]);
    }
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_string_pretty(&rows)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Outcome<Options> {
        Options::parse(text.split_whitespace().map(ToOwned::to_owned))
    }

    #[test]
    fn options_choose() {
        let options = parse("--stacks tonic --workloads ping-pong,unary-100 --rounds 3").unwrap();
        assert_eq!(options.stacks, ["tonic"]);
        assert_eq!(options.rounds, 3);
        let cases: Vec<_> = options.cases().map(|case| case.workload).collect();
        assert_eq!(
            cases,
            [
                "unary-100",
                "unary-100",
                "unary-100",
                "unary-100",
                "ping-pong"
            ]
        );
        assert_eq!(parse("").unwrap().cases().count(), CASES.len());
    }

    #[test]
    fn what_is_no_option_is_named() {
        assert_eq!(
            parse("--fast 1").err().unwrap().to_string(),
            "there is no option --fast"
        );
        assert_eq!(
            parse("--json").err().unwrap().to_string(),
            "--json needs a value"
        );
    }
}
