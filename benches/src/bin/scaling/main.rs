//! How the cost of a call on this framework grows with what there is more of.
//!
//! `scaling [--only connections,streams,…] [--rounds 3] [--seconds 1] [--json FILE] [--check]`
//!
//! Each block raises one number and leaves everything else as it is. Where a ratio stays near 1, the
//! cost does not depend on the number.
//!
//! `registry members` is another one: the CPU time of a registry and its watchers in this process.

mod registry;

use std::process::ExitCode;

use benches::build::build;
use benches::process::{Cores, Pair, Setup, case};
use benches::{Outcome, median};
use serde::Serialize;

/// What is raised.
struct Dimension {
    name: &'static str,
    /// What else there is to know to read its figures.
    note: &'static str,
    values: &'static [usize],
    settings: fn(usize) -> Load,
    goal: Option<Goal>,
}

/// What is to hold at one of the values.
#[derive(Clone, Copy)]
struct Goal {
    value: usize,
    /// Calls a second at this value to those at the first one, or else costs.
    rate: bool,
    bound: f64,
}

/// A call may cost so much of what it costs at the first value.
const fn costs(value: usize) -> Option<Goal> {
    Some(Goal {
        value,
        rate: false,
        bound: 1.3,
    })
}

/// What runs at one value.
struct Load {
    workload: &'static str,
    connections: usize,
    in_flight: u32,
    server: Vec<String>,
    client: Vec<String>,
    callers: Option<usize>,
}

impl Load {
    /// 64 calls at once on one connection.
    fn usual() -> Self {
        Self {
            workload: "unary",
            connections: 1,
            in_flight: 64,
            server: Vec::new(),
            client: Vec::new(),
            callers: None,
        }
    }
}

const DIMENSIONS: [Dimension; 9] = [
    Dimension {
        name: "callers",
        note: "threads of the client; both processes on all cores; 64 calls at once on one connection",
        values: &[1, 2, 4],
        settings: |callers| Load {
            callers: Some(callers),
            ..Load::usual()
        },
        goal: Some(Goal {
            value: 4,
            rate: true,
            bound: 0.8,
        }),
    },
    Dimension {
        name: "busy connections",
        note: "16 calls at once on each",
        values: &[1, 10, 100, 1_000],
        settings: |connections| Load {
            connections,
            in_flight: 16,
            server: vec![format!("max-connections={}", connections + 10)],
            ..Load::usual()
        },
        goal: costs(1_000),
    },
    Dimension {
        name: "connections",
        note: "64 calls at once in all, each on the next connection; up to 64 what is lost is that \
            calls share reads and writes, what grows after that is due to the connections",
        values: &[1, 8, 64, 1_000, 10_000],
        settings: |connections| Load {
            connections,
            server: vec![format!("max-connections={}", connections + 10)],
            client: vec!["rotate=true".to_owned()],
            ..Load::usual()
        },
        goal: None,
    },
    Dimension {
        name: "streams",
        note: "open and idle on the connection of the 64 calls",
        values: &[0, 1, 100, 1_000, 10_000],
        settings: |streams| Load {
            server: vec![format!("max-streams={}", streams + 256)],
            client: vec![format!("idle-streams={streams}")],
            ..Load::usual()
        },
        goal: costs(10_000),
    },
    Dimension {
        name: "unread streams",
        note: "open on the connection, read by neither side; beside them one that brings messages of 1 MiB",
        values: &[0, 1, 10, 200],
        settings: |streams| Load {
            workload: "server-stream-1m",
            in_flight: 1,
            client: vec![format!("unread-streams={streams}")],
            ..Load::usual()
        },
        goal: Some(Goal {
            value: 200,
            rate: true,
            bound: 0.9,
        }),
    },
    Dimension {
        name: "methods",
        note: "on the router; one is called",
        values: &[1, 10, 100, 1_000, 10_000],
        settings: |methods| Load {
            server: vec![format!("methods={methods}")],
            ..Load::usual()
        },
        goal: costs(10_000),
    },
    Dimension {
        name: "methods called",
        note: "on the router; all are called in turn, so that no path is the one of the call before",
        values: &[1, 10, 100, 1_000, 10_000],
        settings: |methods| Load {
            server: vec![format!("methods={methods}")],
            client: vec![format!("methods={methods}")],
            ..Load::usual()
        },
        goal: None,
    },
    Dimension {
        name: "metadata",
        note: "entries of a request; one differs in every call",
        values: &[0, 1, 5, 10, 25, 50],
        settings: |entries| Load {
            client: vec![format!("metadata={entries}")],
            ..Load::usual()
        },
        goal: None,
    },
    Dimension {
        name: "bytes",
        note: "of a message, there and back; 4 calls at once",
        values: &[
            0,
            100,
            1 << 10,
            16 << 10,
            256 << 10,
            1 << 20,
            4 << 20,
            16 << 20,
        ],
        settings: |bytes| {
            let limit = format!("max-message={}", bytes + 1024);
            Load {
                in_flight: 4,
                server: vec![limit.clone()],
                client: vec![limit, format!("body={bytes}")],
                ..Load::usual()
            }
        },
        goal: None,
    },
];

/// The costs at one value, and how they compare with those at the first value and at the one before.
#[derive(Debug, Serialize)]
struct Line {
    dimension: &'static str,
    value: usize,
    per_s: f64,
    server_cpu_us: f64,
    client_cpu_us: f64,
    server_to_first: f64,
    client_to_first: f64,
    server_to_last: f64,
    client_to_last: f64,
}

struct Options {
    only: Option<Vec<String>>,
    rounds: usize,
    seconds: f64,
    json: Option<String>,
    check: bool,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut options = Self {
            only: None,
            rounds: 3,
            seconds: 1.0,
            json: None,
            check: false,
        };
        while let Some(name) = words.next() {
            if name == "--check" {
                options.check = true;
                continue;
            }
            let value = words
                .next()
                .ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--only" => {
                    options.only = Some(value.split(',').map(ToOwned::to_owned).collect());
                }
                "--rounds" => options.rounds = value.parse()?,
                "--seconds" => options.seconds = value.parse()?,
                "--json" => options.json = Some(value),
                _ => return Err(format!("there is no option {name}").into()),
            }
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scaling: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Outcome<()> {
    let mut lines = Vec::new();
    let mut broken = 0;
    let chosen = |name: &str| {
        let only = options.only.as_ref();
        only.is_none_or(|only| only.iter().any(|one| one == name))
    };
    if chosen(registry::NAME) {
        broken += usize::from(!registry::run()?);
    }
    let mut program = None;
    for dimension in DIMENSIONS.iter().filter(|one| chosen(one.name)) {
        let program = &*match &mut program {
            Some(program) => program,
            none => none.insert(build("ours", false)?.path),
        };
        println!("{}: {}", dimension.name, dimension.note);
        println!(
            "{:>12} {:>10} {:>11} {:>11}  {:>8} {:>8}  {:>8} {:>8}",
            "", "", "", "", "x first", "", "x last", ""
        );
        println!(
            "{:>12} {:>10} {:>11} {:>11}  {:>8} {:>8}  {:>8} {:>8}",
            "", "per s", "server us", "client us", "server", "client", "server", "client"
        );
        let mut before: Option<(f64, f64)> = None;
        let mut first: Option<(f64, f64)> = None;
        for &value in dimension.values {
            let load = (dimension.settings)(value);
            let cores = match load.callers {
                None => Cores::pinned(),
                Some(callers) => Cores {
                    callers: Some(callers),
                    ..Cores::all()?
                },
            };
            let setup = Setup {
                server: program,
                client: program,
                cores: &cores,
                server_settings: load.server,
                client_settings: load.client,
            };
            let case = case(
                load.workload,
                u32::try_from(load.connections)?,
                load.in_flight,
            );
            let rounds = (0..options.rounds)
                .map(|_| Pair::start(&setup, case)?.measure(options.seconds))
                .collect::<Outcome<Vec<_>>>()?;
            let server = median(rounds.iter().map(|round| round.server_cpu_us));
            let client = median(rounds.iter().map(|round| round.client_cpu_us));
            let first = *first.get_or_insert((server, client));
            let last = before.replace((server, client)).unwrap_or(first);
            let line = Line {
                dimension: dimension.name,
                value,
                per_s: median(rounds.iter().map(|round| round.per_s)),
                server_cpu_us: server,
                client_cpu_us: client,
                server_to_first: server / first.0,
                client_to_first: client / first.1,
                server_to_last: server / last.0,
                client_to_last: client / last.1,
            };
            println!(
                "{:>12} {:>10.0} {:>11.3} {:>11.3}  {:>8.3} {:>8.3}  {:>8.3} {:>8.3}",
                line.value,
                line.per_s,
                line.server_cpu_us,
                line.client_cpu_us,
                line.server_to_first,
                line.client_to_first,
                line.server_to_last,
                line.client_to_last,
            );
            lines.push(line);
        }
        if let Some(goal) = dimension.goal {
            broken += usize::from(!is_kept(dimension.name, goal, &lines));
        }
    }
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_string_pretty(&lines)?)?;
    }
    if options.check && broken > 0 {
        return Err(format!("{broken} goals are not reached").into());
    }
    Ok(())
}

/// Prints what came of a goal.
fn is_kept(dimension: &str, goal: Goal, lines: &[Line]) -> bool {
    let of = |wanted: usize| {
        let mut lines = lines.iter().filter(|line| line.dimension == dimension);
        lines.find(|line| line.value == wanted)
    };
    let first = lines.iter().find(|line| line.dimension == dimension);
    let (Some(first), Some(line)) = (first, of(goal.value)) else {
        return false;
    };
    let (kept, ratio, what) = if goal.rate {
        let ratio = line.per_s / first.per_s;
        (ratio >= goal.bound, ratio, "calls/s, at least")
    } else {
        let ratio = line.server_to_first.max(line.client_to_first);
        (ratio <= goal.bound, ratio, "cost, at most")
    };
    let word = if kept { "kept  " } else { "BROKEN" };
    println!(
        "{word} {} {dimension}: {ratio:.3} of the first's {what} {}",
        goal.value, goal.bound
    );
    kept
}
