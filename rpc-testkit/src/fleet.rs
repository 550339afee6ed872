//! Real processes to kill: [`Process`], and a registry with servers: [`Fleet`].

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use crate::ledger::{Ledger, Line};
use crate::roles::{Role, SERVICE};

/// How long a process may take to listen, or to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(20);

/// A process in a [`Role`], made of this process's own program: its `main` starts with
/// [`Role::of_this_process`]. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    role: Role,
    child: Child,
    /// While this is open the process lives; waiting for a child closes what the child still holds.
    _stdin: Option<ChildStdin>,
    address: String,
}

impl Process {
    /// Starts one and waits until it listens.
    ///
    /// # Errors
    /// When it cannot be started, or ends or stays silent instead of listening.
    ///
    /// # Cancel safety
    /// Dropping the future kills what it has started.
    pub async fn start(role: Role) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(role.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let out = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut lines = BufReader::new(out).lines();
        let line = within(lines.next_line()).await?.unwrap_or_default();
        let address = line.strip_prefix("listening on ").ok_or_else(|| {
            io::Error::other(format!("{role:?} does not listen; it said {line:?}"))
        })?;
        Ok(Self {
            address: address.to_owned(),
            _stdin: child.stdin.take(),
            role,
            child,
        })
    }

    /// Starts another in the place of this one, on the same port, once this one is gone.
    ///
    /// # Errors
    /// As [`Self::start`].
    ///
    /// # Cancel safety
    /// As [`Self::start`].
    pub async fn again(&self) -> io::Result<Self> {
        let mut role = self.role.clone();
        match &mut role {
            Role::Server { listen, .. } | Role::Registry { listen, .. } => {
                listen.clone_from(&self.address);
            }
        }
        Self::start(role).await
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// SIGKILL; returns when the process is gone.
    ///
    /// # Errors
    /// When the system refuses.
    ///
    /// # Cancel safety
    /// The signal is sent at the first poll.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.child.kill().await
    }

    /// SIGTERM; returns when the process has ended by itself.
    ///
    /// # Errors
    /// When the system refuses, or the process does not end well within 20 s.
    ///
    /// # Cancel safety
    /// The signal is sent at the first poll.
    pub async fn terminate(&mut self) -> io::Result<()> {
        self.signal(rustix::process::Signal::TERM)?;
        let status = within(self.child.wait()).await?;
        if !status.success() {
            return Err(io::Error::other(format!(
                "{:?} ended with {status}",
                self.role
            )));
        }
        Ok(())
    }
}

impl Process {
    /// SIGSTOP: it keeps its connections and says nothing.
    ///
    /// # Errors
    /// When it has ended, or the system refuses.
    pub fn freeze(&self) -> io::Result<()> {
        self.signal(rustix::process::Signal::STOP)
    }

    /// SIGCONT: it goes on where it was.
    ///
    /// # Errors
    /// As [`Self::freeze`].
    pub fn thaw(&self) -> io::Result<()> {
        self.signal(rustix::process::Signal::CONT)
    }

    fn signal(&self, signal: rustix::process::Signal) -> io::Result<()> {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        let id = id
            .and_then(rustix::process::Pid::from_raw)
            .ok_or_else(|| io::Error::other(format!("{:?} has ended already", self.role)))?;
        Ok(rustix::process::kill_process(id, signal)?)
    }
}

async fn within<T>(what: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(PATIENCE, what)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// A registry and servers that register with it, each a process.
#[derive(Debug)]
pub struct Fleet {
    /// Where the ledgers and the registry's state are.
    directory: PathBuf,
    /// The registry.
    pub registry: Process,
    /// The servers.
    pub servers: Vec<Process>,
    started: usize,
}

impl Fleet {
    /// Starts a registry and so many servers, whose files are in a directory.
    ///
    /// # Errors
    /// As [`Process::start`].
    ///
    /// # Cancel safety
    /// Dropping the future kills what it has started.
    pub async fn start(directory: &Path, servers: usize) -> io::Result<Self> {
        let role = Role::Registry {
            listen: "127.0.0.1:0".to_owned(),
            state: directory.join("registry"),
        };
        let mut fleet = Self {
            directory: directory.to_owned(),
            registry: Process::start(role).await?,
            servers: Vec::new(),
            started: 0,
        };
        for _ in 0..servers {
            let server = fleet.start_server().await?;
            fleet.servers.push(server);
        }
        Ok(fleet)
    }

    /// Starts one more server, with a ledger of its own.
    ///
    /// # Errors
    /// As [`Process::start`].
    ///
    /// # Cancel safety
    /// As [`Process::start`].
    pub async fn start_server(&mut self) -> io::Result<Process> {
        let ledger = self.ledger(self.started);
        self.started += 1;
        Process::start(Role::Server {
            listen: "127.0.0.1:0".to_owned(),
            registry: format!("registry://{}", self.registry.address()),
            ledger,
        })
        .await
    }

    /// What clients connect to.
    #[must_use]
    pub fn target(&self) -> String {
        format!("registry://{}/{SERVICE}", self.registry.address())
    }

    /// The ledger of the server that was started as this one, from 0; one that is started again in
    /// its place goes on with it.
    #[must_use]
    pub fn ledger(&self, number: usize) -> PathBuf {
        self.directory.join(format!("ledger-{number}"))
    }

    /// The ledgers of all servers that were ever started.
    ///
    /// # Errors
    /// As [`Ledger::read`].
    pub fn ledgers(&self) -> io::Result<Vec<Vec<Line>>> {
        (0..self.started)
            .map(|number| Ledger::read(&self.ledger(number)))
            .collect()
    }
}
