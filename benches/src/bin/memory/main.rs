//! What a server holds in memory for each connection and each stream that does nothing.
//!
//! `memory [--stacks ours,tonic] [--connections 10000] [--streams 10000] [--json FILE] [--check]`
//!
//! Each stack's own client holds them open. What is printed is by how much the resident memory of the
//! two processes has grown, divided by how many there are.

mod engine;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use benches::build::build;
use benches::process::{Cores, Running, serve};
use benches::{Outcome, float};
use serde::Serialize;

/// How long the processes get to come to rest.
const REST: Duration = Duration::from_millis(1500);

/// What one kind of thing costs.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    stack: String,
    what: String,
    count: u32,
    server_kib: f64,
    client_kib: Option<f64>,
}

struct Options {
    stacks: Vec<String>,
    connections: u32,
    streams: u32,
    json: Option<String>,
    check: bool,
}

/// What a server of this framework may hold, in KiB.
const GOALS: [(&str, f64); 3] = [
    ("idle connection", 8.0),
    ("open stream", 1.0),
    (engine::WHAT, 0.25),
];

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut options = Self {
            stacks: vec!["ours".to_owned(), "tonic".to_owned()],
            connections: 10_000,
            streams: 10_000,
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
                "--stacks" => options.stacks = value.split(',').map(ToOwned::to_owned).collect(),
                "--connections" => options.connections = value.parse()?,
                "--streams" => options.streams = value.parse()?,
                "--json" => options.json = Some(value),
                _ => return Err(format!("there is no option {name}").into()),
            }
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let done = match &words[..] {
        [word, streams, file] if word == engine::REPLAY => streams
            .parse()
            .map_err(Into::into)
            .and_then(|streams| engine::replay(streams, Path::new(file))),
        _ => Options::parse(words.into_iter()).and_then(|options| run(&options)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("memory: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Outcome<()> {
    println!(
        "{:<28} {:>7}  {:<8} {:>11} {:>11}",
        "one", "of", "stack", "server KiB", "client KiB"
    );
    let mut lines = Vec::new();
    let mut add = |line: Line| {
        let client = line
            .client_kib
            .map_or_else(|| "-".to_owned(), |kib| format!("{kib:.2}"));
        println!(
            "{:<28} {:>7}  {:<8} {:>11.2} {:>11}",
            line.what, line.count, line.stack, line.server_kib, client
        );
        lines.push(line);
    };
    let programs = options
        .stacks
        .iter()
        .map(|stack| Ok((stack, build(stack, false)?.path)))
        .collect::<Outcome<Vec<_>>>()?;
    for (what, connections, streams, calls) in [
        ("idle connection", options.connections, 0, 0),
        ("idle connection after a call", options.connections, 0, 1),
        ("open stream", 1, options.streams, 0),
    ] {
        for (stack, program) in &programs {
            let (server_kib, client_kib) = grown(program, connections, streams, calls)?;
            add(Line {
                stack: (*stack).clone(),
                what: what.to_owned(),
                count: connections.max(streams),
                server_kib,
                client_kib: Some(client_kib),
            });
        }
    }
    add(engine::measure(options.streams)?);
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_string_pretty(&lines)?)?;
    }
    let mut broken = 0;
    for (what, most) in GOALS {
        let ours = lines
            .iter()
            .find(|line| line.stack == "ours" && line.what == what);
        if let Some(line) = ours {
            let kept = line.server_kib <= most;
            let word = if kept { "kept  " } else { "BROKEN" };
            println!("{word} {what}: {:.2} KiB, at most {most}", line.server_kib);
            broken += usize::from(!kept);
        }
    }
    if options.check && broken > 0 {
        return Err(format!("{broken} goals are not reached").into());
    }
    Ok(())
}

/// By how many KiB the server and the client grow for each connection or stream.
fn grown(program: &Path, connections: u32, streams: u32, calls: u32) -> Outcome<(f64, f64)> {
    let cores = Cores::pinned();
    let settings = [
        format!("max-connections={}", connections + 10),
        format!("max-streams={}", streams + 1000),
    ];
    let (server, address) = serve(program, &cores, &settings)?;
    // What the first connection of a process makes it allocate is not what each of them costs.
    let (first, _first_commands) = hold(program, &cores, &address, 1, 1, 1)?;
    std::thread::sleep(REST);
    let before = server.resident()?;
    let client_before = first.resident()?;
    let (client, _commands) = hold(program, &cores, &address, connections, streams, calls)?;
    std::thread::sleep(REST);
    let after = server.resident()?;
    let client_after = client.resident()?;
    let count = float(u64::from(connections.max(streams)));
    // A client is a process that begins anew; one that holds next to nothing is what it grew from.
    let each = |after: u64, before: u64| float(after.saturating_sub(before)) / count;
    Ok((each(after, before), each(client_after, client_before)))
}

/// A client that holds connections and streams, once all of them are open.
fn hold(
    program: &Path,
    cores: &Cores,
    address: &str,
    connections: u32,
    streams: u32,
    calls: u32,
) -> Outcome<(Running, std::process::ChildStdin)> {
    let mut client = Running(
        Command::new(program)
            .args(["hold", &cores.client, "1", address])
            .args([connections.to_string(), streams.to_string()])
            .arg(format!("calls={calls}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let commands = client.0.stdin.take().ok_or("it was asked for")?;
    let mut line = String::new();
    BufReader::new(client.0.stdout.take().ok_or("it was asked for")?).read_line(&mut line)?;
    if line.trim() != "open" {
        return Err(format!("{} has not opened all", program.display()).into());
    }
    Ok((client, commands))
}
