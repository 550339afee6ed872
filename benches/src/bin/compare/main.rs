//! The same Echo service on this framework and on its peers, side by side; prints one table.
//!
//! `compare [--stacks ours,tonic|all] [--client own,tonic,ours] [--workloads unary-100,…]
//! [--cores pinned|all] [--tls] [--rounds 5] [--seconds 1] [--json FILE] [--svg FILE] [--check]`
//!
//! `compare --from FILE --svg FILE` draws what `--json` has written.
//!
//! Server and client are two processes, the server on core 0 and the client on core 1, each with one
//! worker of tokio's multi-thread runtime. Rounds of the stacks take turns, and what is printed is
//! the median. What the columns mean is in `benches/README.md`.

mod chart;
mod contender;
mod figures;
mod goals;
mod nghttp;
mod options;
mod tls;

use std::path::Path;
use std::process::ExitCode;

use benches::Outcome;
use benches::process::Case;
use contender::Contender;
use figures::{Medians, Row};
use options::Options;

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Outcome<()> {
    let rows = match &options.from {
        Some(file) => serde_json::from_slice(&std::fs::read(file)?)?,
        None => measure(options)?,
    };
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_string_pretty(&rows)?)?;
    }
    if let Some(file) = &options.svg {
        chart::draw(&rows, Path::new(file))?;
    }
    if options.check {
        let broken = goals::check(&rows);
        if broken > 0 {
            return Err(format!("{broken} goals are not reached").into());
        }
    }
    Ok(())
}

/// Measures everything that was asked for and prints it.
fn measure(options: &Options) -> Outcome<Vec<Row>> {
    let certificate = if options.tls {
        Some(tls::certificate()?)
    } else {
        None
    };
    let directory = certificate.as_ref().map(tempfile::TempDir::path);
    let mut rows: Vec<Row> = Vec::new();
    for client in &options.clients {
        let mut contenders = Vec::new();
        for stack in &options.stacks {
            contenders.extend(Contender::new(stack, client, options)?);
        }
        figures::print_head(options.base());
        for case in options.cases() {
            let mut compared = compare(&contenders, case, options, directory)?;
            for row in &mut compared {
                row.table.clone_from(client);
            }
            figures::print(&compared, options.base());
            rows.extend(compared);
        }
    }
    Ok(rows)
}

/// Measures one workload of all.
fn compare(
    contenders: &[Contender],
    case: Case,
    options: &Options,
    tls: Option<&Path>,
) -> Outcome<Vec<Row>> {
    let mut rounds = vec![Vec::new(); contenders.len()];
    for _ in 0..options.rounds {
        for (contender, rounds) in contenders.iter().zip(&mut rounds) {
            if contender.can(case, options) {
                let figures = contender.measure(case, options, tls);
                rounds.push(figures.map_err(|error| format!("{}: {error}", contender.stack))?);
            }
        }
    }
    let row = |(contender, rounds): (&Contender, &Vec<_>)| -> Outcome<Row> {
        let syscalls = if contender.can(case, options) {
            contender.count_syscalls(case, options, tls)?
        } else {
            None
        };
        Ok(Row {
            client: contender.client.clone(),
            tls: options.tls,
            workers: options.cores.workers,
            medians: Medians::of(rounds),
            syscalls: syscalls.map(Into::into),
            ..Row::new(&contender.stack, case)
        })
    };
    contenders.iter().zip(&rounds).map(row).collect()
}
