//! A server and a client process, and what the system knows of them.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use bench_driver::Window;

use crate::{Outcome, float};

/// How long a load goes on before it is measured.
pub const WARM_UP: f64 = 0.3;
/// How long system calls are counted.
pub const COUNTING: f64 = 0.4;

/// Where both sides run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores {
    /// `all`, or a list such as `0,1`.
    pub server: String,
    /// The same for the client.
    pub client: String,
    /// How many workers each side has.
    pub workers: usize,
    /// How many workers the client has, where it is not as many.
    pub callers: Option<usize>,
}

impl Cores {
    /// The server on core 0, the client on core 1, a worker each.
    #[must_use]
    pub fn pinned() -> Self {
        Self {
            server: "0".to_owned(),
            client: "1".to_owned(),
            workers: 1,
            callers: None,
        }
    }

    /// Both wherever the system puts them, with a worker for each core.
    ///
    /// # Errors
    /// When the system does not say how many cores there are.
    pub fn all() -> io::Result<Self> {
        Ok(Self {
            server: "all".to_owned(),
            client: "all".to_owned(),
            workers: std::thread::available_parallelism()?.get(),
            callers: None,
        })
    }
}

/// A workload, over so many connections with so many calls in flight on each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Its name.
    pub workload: &'static str,
    /// Over how many connections.
    pub connections: u32,
    /// How many tasks call on each.
    pub in_flight: u32,
}

/// A workload of so many tasks.
#[must_use]
pub const fn case(workload: &'static str, connections: u32, in_flight: u32) -> Case {
    Case {
        workload,
        connections,
        in_flight,
    }
}

/// What a round has measured.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Calls or messages.
    pub per_s: f64,
    /// Half of them took at most this.
    pub p50_us: f64,
    /// 99 of 100 took at most this.
    pub p99_us: f64,
    /// CPU time of the server for each.
    pub server_cpu_us: f64,
    /// CPU time of the client for each.
    pub client_cpu_us: f64,
}

/// How often the server asks the system for something, for each call.
#[derive(Clone, Copy, Debug)]
pub struct Syscalls {
    /// Writes to sockets.
    pub writes: f64,
    /// Reads from sockets.
    pub reads: f64,
    /// Waits for any socket.
    pub waits: f64,
}

/// A child that is killed in the end.
#[derive(Debug)]
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// The CPU time that its threads have used so far.
    ///
    /// # Errors
    /// When the child is gone.
    pub fn cpu(&self) -> io::Result<Duration> {
        let mut total = 0;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.0.id()))? {
            let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
            let nanoseconds = text
                .split(' ')
                .next()
                .and_then(|word| word.parse::<u64>().ok());
            total += nanoseconds.ok_or(io::ErrorKind::InvalidData)?;
        }
        Ok(Duration::from_nanos(total))
    }

    /// The memory that it has in use, in KiB.
    ///
    /// # Errors
    /// When the child is gone.
    pub fn resident(&self) -> io::Result<u64> {
        resident(&self.0.id().to_string())
    }
}

/// The memory that a process has in use, in KiB; `self` is this one.
///
/// # Errors
/// When there is no such process.
pub fn resident(process: &str) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next())
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Starts a server and waits until it says where it listens.
///
/// # Errors
/// When it cannot be started or does not say.
pub fn serve(program: &Path, cores: &Cores, settings: &[String]) -> Outcome<(Running, String)> {
    let mut server = Running(
        Command::new(program)
            .args(["server", &cores.server, &cores.workers.to_string()])
            .args(settings)
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let out = server.0.stdout.take().ok_or("it was asked for")?;
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line)?;
    let address = line.trim().strip_prefix("listening on ");
    let address = address.ok_or_else(|| format!("{} does not listen", program.display()))?;
    Ok((server, address.to_owned()))
}

/// The two programs of a run, where they run, and the settings of each beside the usual.
#[derive(Clone, Debug)]
pub struct Setup<'a> {
    /// The program with the server.
    pub server: &'a Path,
    /// The program with the client.
    pub client: &'a Path,
    /// Where both run.
    pub cores: &'a Cores,
    /// Words `name=value` for the server.
    pub server_settings: Vec<String>,
    /// Words `name=value` for the client.
    pub client_settings: Vec<String>,
}

/// A server, and a client that loads it; the client ends first, or it would complain.
#[derive(Debug)]
pub struct Pair {
    client: Running,
    server: Running,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Pair {
    /// Starts both and lets the load run warm.
    ///
    /// # Errors
    /// When one of them fails.
    pub fn start(setup: &Setup<'_>, case: Case) -> Outcome<Self> {
        let (server, address) = serve(setup.server, setup.cores, &setup.server_settings)?;
        let workers = setup.cores.callers.unwrap_or(setup.cores.workers);
        let mut client = Running(
            Command::new(setup.client)
                .args(["client", &setup.cores.client])
                .args([&workers.to_string(), &address, case.workload])
                .args([case.connections.to_string(), case.in_flight.to_string()])
                .args(&setup.client_settings)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?,
        );
        let commands = client.0.stdin.take().ok_or("it was asked for")?;
        let answers = BufReader::new(client.0.stdout.take().ok_or("it was asked for")?);
        let mut pair = Self {
            client,
            server,
            commands,
            answers,
        };
        pair.ask(WARM_UP)?;
        pair.answer()?;
        Ok(pair)
    }

    fn ask(&mut self, seconds: f64) -> io::Result<()> {
        writeln!(self.commands, "{seconds}")
    }

    fn answer(&mut self) -> Outcome<Window> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(serde_json::from_str(&line).map_err(|_| "the client has failed")?)
    }

    /// Measures for so long.
    ///
    /// # Errors
    /// When one of the processes fails, or no call came back.
    pub fn measure(&mut self, seconds: f64) -> Outcome<Figures> {
        let (server, client) = (self.server.cpu()?, self.client.cpu()?);
        self.ask(seconds)?;
        let window = self.answer()?;
        let (server, client) = (self.server.cpu()? - server, self.client.cpu()? - client);
        if window.count == 0 {
            return Err("not one call came back".into());
        }
        let calls = float(window.count);
        Ok(Figures {
            per_s: calls / window.seconds,
            p50_us: window.p50_us,
            p99_us: window.p99_us,
            server_cpu_us: server.as_secs_f64() * 1e6 / calls,
            client_cpu_us: client.as_secs_f64() * 1e6 / calls,
        })
    }

    /// How many system calls the server makes for each call; none without `perf`.
    ///
    /// Away from the measurement, since counting costs something. tokio wakes its workers by
    /// `write`, which is not counted, and sockets are written to by the others.
    ///
    /// # Errors
    /// When one of the processes fails.
    pub fn count_syscalls(&mut self) -> Outcome<Option<Syscalls>> {
        self.ask(COUNTING)?;
        let counted = count(&self.server, &["writev", "sendto", "sendmsg"]);
        let window = self.answer()?;
        let calls = float(window.count) / window.seconds * COUNTING;
        Ok(counted.map(|counted| counted.divided_by(calls)))
    }
}

impl Syscalls {
    /// So many of each for one call.
    #[must_use]
    pub fn divided_by(self, calls: f64) -> Self {
        Self {
            writes: self.writes / calls,
            reads: self.reads / calls,
            waits: self.waits / calls,
        }
    }
}

/// What a process asks the system for within [`COUNTING`] seconds; none without `perf`.
#[must_use]
pub fn count(process: &Running, writes: &[&str]) -> Option<Syscalls> {
    const READS: [&str; 4] = ["read", "readv", "recvfrom", "recvmsg"];
    const WAITS: [&str; 4] = ["epoll_wait", "epoll_pwait", "epoll_pwait2", "poll"];
    let events: Vec<_> = writes
        .iter()
        .chain(&READS)
        .chain(&WAITS)
        .map(|call| format!("syscalls:sys_enter_{call}"))
        .collect();
    let counted = Command::new("perf")
        .args(["stat", "-x", ",", "-e", &events.join(","), "-p"])
        .arg(process.0.id().to_string())
        .args(["--", "sleep", &COUNTING.to_string()])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&counted.stderr);
    let counts: Vec<(&str, f64)> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split(',');
            let count = words.next()?.parse().ok()?;
            let name = words.find_map(|word| word.strip_prefix("syscalls:sys_enter_"))?;
            Some((name.split(':').next()?, count))
        })
        .collect();
    if counts.is_empty() {
        return None;
    }
    let sum = |names: &[&str]| {
        let counted = counts.iter().filter(|(name, _)| names.contains(name));
        counted.map(|(_, count)| count).sum()
    };
    Some(Syscalls {
        writes: sum(writes),
        reads: sum(&READS),
        waits: sum(&WAITS),
    })
}
