//! The same Echo service on this framework and on its peers, side by side; prints one table.
//!
//! `compare [--stacks ours,tonic|all] [--client own,tonic,ours] [--workloads unary-100,…]
//! [--cores pinned|all] [--tls] [--rounds 5] [--seconds 1] [--json FILE]`
//!
//! Server and client are two processes, the server on core 0 and the client on core 1, each with one
//! worker of tokio's multi-thread runtime. Rounds of the stacks take turns, and what is printed is
//! the median. What the columns mean is in `benches/README.md`.

mod contender;
mod figures;
mod options;

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
    let mut rows: Vec<Row> = Vec::new();
    for client in &options.clients {
        let contenders = options
            .stacks
            .iter()
            .map(|stack| Contender::new(stack, client, options))
            .collect::<Outcome<Vec<_>>>()?;
        figures::print_head(options.base());
        for case in options.cases() {
            let compared = compare(&contenders, case, options)?;
            figures::print(&compared, options.base());
            rows.extend(compared);
        }
    }
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_string_pretty(&rows)?)?;
    }
    Ok(())
}

/// Measures one workload of all.
fn compare(contenders: &[Contender], case: Case, options: &Options) -> Outcome<Vec<Row>> {
    let mut rounds = vec![Vec::new(); contenders.len()];
    for _ in 0..options.rounds {
        for (contender, rounds) in contenders.iter().zip(&mut rounds) {
            if contender.can(case, options) {
                let figures = contender.measure(case, options);
                rounds.push(figures.map_err(|error| format!("{}: {error}", contender.stack))?);
            }
        }
    }
    let row = |(contender, rounds): (&Contender, &Vec<_>)| -> Outcome<Row> {
        let syscalls = if contender.can(case, options) {
            contender.count_syscalls(case, options)?
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
