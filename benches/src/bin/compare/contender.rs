//! A stack that takes part, with a client: [`Contender`].

use std::path::PathBuf;

use bench_driver::Can;
use benches::Outcome;
use benches::build::{Program, build};
use benches::process::{Case, Figures, Pair, Setup, Syscalls};

use crate::options::Options;

/// A server and what loads it.
pub(crate) struct Contender {
    pub(crate) stack: String,
    /// The stack whose client it is, when that is another.
    pub(crate) client: Option<String>,
    can: Can,
    server: PathBuf,
    caller: PathBuf,
}

impl Contender {
    /// Builds what a stack needs under a client, `own` or another's.
    pub(crate) fn new(stack: &str, client: &str, options: &Options) -> Outcome<Self> {
        let Program { path, mut can } = build(stack, options.tls)?;
        // A server without a client is called by the one that every other server can be called by.
        let client = match client {
            "own" if can.client => None,
            "own" => Some("tonic"),
            other => Some(other).filter(|other| *other != stack),
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
        Ok(Self {
            stack: stack.to_owned(),
            client: client.map(ToOwned::to_owned),
            can,
            server: path,
            caller,
        })
    }

    pub(crate) fn can(&self, case: Case, options: &Options) -> bool {
        self.can.workloads.iter().any(|name| name == case.workload)
            && (self.can.tls || !options.tls)
    }

    fn setup<'a>(&'a self, options: &'a Options) -> Setup<'a> {
        Setup {
            server: &self.server,
            client: &self.caller,
            cores: &options.cores,
            server_settings: Vec::new(),
            client_settings: Vec::new(),
        }
    }

    pub(crate) fn measure(&self, case: Case, options: &Options) -> Outcome<Figures> {
        Pair::start(&self.setup(options), case)?.measure(options.seconds)
    }

    pub(crate) fn count_syscalls(
        &self,
        case: Case,
        options: &Options,
    ) -> Outcome<Option<Syscalls>> {
        Pair::start(&self.setup(options), case)?.count_syscalls()
    }
}
