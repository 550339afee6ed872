//! A server and a client process, and what the system knows of them.

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use bench_driver::Window;

use crate::figures::Figures;
use crate::{Case, Outcome};

/// How long a load goes on before it is measured.
const WARM_UP: f64 = 0.3;
/// How long writes are counted.
const COUNTING: f64 = 0.4;

/// Builds the programs of the stacks, each with its own features, and says where they are.
pub(crate) fn build(stacks: &[String]) -> Outcome<Vec<PathBuf>> {
    let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
    // `compare` itself is in the target directory, wherever that is.
    let own = std::env::current_exe()?;
    let release = own.parent().ok_or("this program has no directory")?;
    let target = release.parent().ok_or("this program is in no target")?;
    let build = |manifest: &Path, package: &[&str], target: &Path| -> Outcome<PathBuf> {
        let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args([
                "build",
                "--quiet",
                "--release",
                "--locked",
                "--manifest-path",
            ])
            .arg(manifest)
            .args(package)
            // Set by `cargo run`; build scripts of others would take it for a change and run again.
            .env_remove("OUT_DIR")
            .arg("--target-dir")
            .arg(target)
            .status()?;
        if !status.success() {
            return Err(format!("building {} failed", manifest.display()).into());
        }
        Ok(target.join("release"))
    };
    stacks
        .iter()
        .map(|stack| match stack.as_str() {
            "ours" => {
                let options = ["-p", "benches", "--bin", "echo-ours"];
                let release = build(&benches.join("Cargo.toml"), &options, target)?;
                Ok(release.join("echo-ours"))
            }
            "tonic" => {
                let manifest = benches.join("peers/Cargo.toml");
                let peers = target.join("bench-peers");
                Ok(build(&manifest, &["-p", "tonic-echo"], &peers)?.join("tonic-echo"))
            }
            other => Err(format!("there is no stack {other:?}").into()),
        })
        .collect()
}

/// A child that is killed in the end.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// The CPU time that its threads have used so far.
    fn cpu(&self) -> io::Result<Duration> {
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
}

/// A server, and a client that loads it; the client ends first, or it would complain.
pub(crate) struct Pair {
    client: Running,
    server: Running,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Pair {
    /// Starts both and lets the load run warm.
    pub(crate) fn start(program: &Path, case: Case) -> Outcome<Self> {
        let mut server = Running(
            Command::new(program)
                .args(["server", "0"])
                .stdout(Stdio::piped())
                .spawn()?,
        );
        let out = server.0.stdout.take().ok_or("it was asked for")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening on ");
        let address = address.ok_or_else(|| format!("{} does not listen", program.display()))?;
        let mut client = Running(
            Command::new(program)
                .args(["client", "1", address, case.workload])
                .args([case.connections.to_string(), case.in_flight.to_string()])
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
    pub(crate) fn measure(&mut self, seconds: f64) -> Outcome<Figures> {
        let (server, client) = (self.server.cpu()?, self.client.cpu()?);
        self.ask(seconds)?;
        let window = self.answer()?;
        let (server, client) = (self.server.cpu()? - server, self.client.cpu()? - client);
        if window.count == 0 {
            return Err("not one call came back".into());
        }
        #[allow(clippy::cast_precision_loss)] // nobody makes 2^52 calls
        let calls = window.count as f64;
        Ok(Figures {
            per_s: calls / window.seconds,
            p50_us: window.p50_us,
            p99_us: window.p99_us,
            server_cpu_us: server.as_secs_f64() * 1e6 / calls,
            client_cpu_us: client.as_secs_f64() * 1e6 / calls,
        })
    }

    /// How many times the server writes to its sockets for each call; none without `perf`.
    ///
    /// Away from the measurement, since counting costs something. tokio wakes its workers by
    /// `write`, which is not counted, and sockets are written to by the others.
    pub(crate) fn count_writes(&mut self) -> Outcome<Option<f64>> {
        self.ask(COUNTING)?;
        let calls =
            ["writev", "sendto", "sendmsg"].map(|call| format!("syscalls:sys_enter_{call}"));
        let counted = Command::new("perf")
            .args(["stat", "-x", ",", "-e", &calls.join(","), "-p"])
            .arg(self.server.0.id().to_string())
            .args(["--", "sleep", &COUNTING.to_string()])
            .output();
        let window = self.answer()?;
        let Ok(counted) = counted else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&counted.stderr);
        let counts: Vec<f64> = text
            .lines()
            .filter_map(|line| line.split(',').next()?.parse().ok())
            .collect();
        if counts.is_empty() {
            return Ok(None);
        }
        #[allow(clippy::cast_precision_loss)] // as above
        let calls = window.count as f64 / window.seconds * COUNTING;
        Ok(Some(counts.iter().sum::<f64>() / calls))
    }
}
