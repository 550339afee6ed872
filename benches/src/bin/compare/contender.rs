//! A stack that takes part, with a client: [`Contender`].

use std::path::{Path, PathBuf};

use bench_driver::Can;
use benches::Outcome;
use benches::build::{Program, build};
use benches::process::{Case, Figures, Pair, Setup, Syscalls};

use crate::nghttp;
use crate::options::{NGHTTP, Options};

/// A server and what loads it.
pub(crate) struct Contender {
    pub(crate) stack: String,
    /// The stack whose client it is, when that is not its own.
    pub(crate) client: Option<String>,
    kind: Kind,
}

enum Kind {
    Programs {
        can: Can,
        server: PathBuf,
        client: PathBuf,
    },
    Nghttp,
}

impl Contender {
    /// Builds what a stack needs under a client, `own` or another's; none when it is not there.
    pub(crate) fn new(stack: &str, client: &str, options: &Options) -> Outcome<Option<Self>> {
        if stack == NGHTTP {
            if client != "own" || !nghttp::is_installed() {
                eprintln!(
                    "compare: {NGHTTP} is SKIPPED; it needs nghttpd, h2load and taskset, and its own client"
                );
                return Ok(None);
            }
            return Ok(Some(Self {
                stack: stack.to_owned(),
                client: None,
                kind: Kind::Nghttp,
            }));
        }
        let Program { path, mut can } = build(stack, options.tls)?;
        // A server without a client is called by the one that every other server can be called by.
        let client = match client {
            "own" if can.client => None,
            "own" => Some("tonic"),
            other => Some(other),
        };
        let caller = match client {
            None => path.clone(),
            Some(client) => {
                let program = build(client, options.tls)?;
                if !can.grpc || !program.can.grpc {
                    can.workloads.clear();
                }
                can.workloads
                    .retain(|name| program.can.workloads.contains(name));
                can.tls &= program.can.tls;
                program.path
            }
        };
        Ok(Some(Self {
            stack: stack.to_owned(),
            client: client.map(ToOwned::to_owned),
            kind: Kind::Programs {
                can,
                server: path,
                client: caller,
            },
        }))
    }

    pub(crate) fn can(&self, case: Case, options: &Options) -> bool {
        match &self.kind {
            Kind::Nghttp => nghttp::can(case),
            Kind::Programs { can, .. } => {
                can.workloads.iter().any(|name| name == case.workload) && (can.tls || !options.tls)
            }
        }
    }

    pub(crate) fn measure(
        &self,
        case: Case,
        options: &Options,
        tls: Option<&Path>,
    ) -> Outcome<Figures> {
        match &self.kind {
            Kind::Nghttp => nghttp::measure(case, options, tls),
            Kind::Programs { server, client, .. } => {
                pair(server, client, case, options, tls)?.measure(options.seconds)
            }
        }
    }

    pub(crate) fn count_syscalls(
        &self,
        case: Case,
        options: &Options,
        tls: Option<&Path>,
    ) -> Outcome<Option<Syscalls>> {
        match &self.kind {
            Kind::Nghttp => nghttp::count_syscalls(case, options, tls),
            Kind::Programs { server, client, .. } => {
                pair(server, client, case, options, tls)?.count_syscalls()
            }
        }
    }
}

fn pair(
    server: &Path,
    client: &Path,
    case: Case,
    options: &Options,
    tls: Option<&Path>,
) -> Outcome<Pair> {
    let settings: Vec<_> = tls
        .map(|directory| format!("tls={}", directory.display()))
        .into_iter()
        .collect();
    let setup = Setup {
        server,
        client,
        cores: &options.cores,
        server_settings: settings.clone(),
        client_settings: settings,
    };
    Pair::start(&setup, case)
}
