//! The server under attack, a process of its own so that its memory and its time can be read.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use rpc_core::server::Limits;
use rpc_core::{Channel, Server};
use rpc_testkit::TestService;
use rpc_testkit::proto::{Message, TestClient, TestServer};

/// How long a server may take to come to rest after an attack.
const QUIET: Duration = Duration::from_secs(30);

/// Serves the test service until standard input ends; the words say which limits are off.
pub(crate) fn serve(off: &[String]) -> ExitCode {
    std::thread::spawn(|| {
        let _ = io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let served = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map(|runtime| runtime.block_on(run(off)));
    match served {
        Ok(Ok(())) => ExitCode::SUCCESS,
        failed => {
            eprintln!("{failed:?}");
            ExitCode::FAILURE
        }
    }
}

async fn run(off: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::builder()
        .add_service(TestServer::new(TestService::default()))
        .dangerous_limits(|limits| off.iter().for_each(|name| turn_off(limits, name)))
        .bind("127.0.0.1:0")
        .await?;
    let mut out = io::stdout();
    writeln!(out, "{}", server.local_addr())?;
    out.flush()?;
    Ok(server.serve().await?)
}

fn turn_off(limits: &mut Limits, name: &str) {
    match name {
        "early_resets" => limits.early_resets = None,
        "caused_resets" => limits.caused_resets = None,
        "unsent_answers" => limits.unsent_answers = None,
        "idle_frames" => limits.idle_frames = None,
        "empty_data" => limits.empty_data = None,
        "stall" => limits.stall = None,
        // Not off, but so short that it can be waited for.
        "stall=4" => limits.stall = Some(Duration::from_secs(4)),
        "header_block" => {
            limits.header_block = usize::MAX >> 1;
            limits.continuations = u32::MAX;
        }
        "header_time" => limits.header_time = Duration::from_secs(3600),
        "handshake_time" => limits.handshake_time = Duration::from_secs(3600),
        _ => {}
    }
}

/// A running victim; it ends with this.
pub(crate) struct Victim {
    child: Child,
    pub(crate) address: String,
    /// What it has open when nobody is connected.
    quiet_descriptors: usize,
}

impl Drop for Victim {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Victim {
    /// Starts one with these limits off.
    pub(crate) fn start(off: &[&str]) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("victim")
            .args(off)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let address = line.trim().to_owned();
        let mut victim = Self {
            child,
            address,
            quiet_descriptors: 0,
        };
        victim.quiet_descriptors = victim.descriptors()?;
        Ok(victim)
    }

    /// Starts one that may have so many descriptors.
    pub(crate) fn with_descriptors(descriptors: u64) -> io::Result<Self> {
        let victim = Self::start(&[])?;
        let limit = Some(descriptors);
        let rlimit = rustix::process::Rlimit {
            current: limit,
            maximum: limit,
        };
        let pid = i32::try_from(victim.child.id()).ok();
        let pid = pid.and_then(rustix::process::Pid::from_raw);
        rustix::process::prlimit(pid, rustix::process::Resource::Nofile, rlimit)?;
        Ok(victim)
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> io::Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.count())
    }

    /// Waits until it runs no handler and holds no connection any more.
    pub(crate) async fn is_quiet(&self) -> bool {
        let quiet = async {
            loop {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let Ok(descriptors) = self.descriptors() else {
                    return false;
                };
                if descriptors > self.quiet_descriptors {
                    continue;
                }
                let Ok(channel) = Channel::connect(&format!("http://{}", self.address)).await
                else {
                    return false;
                };
                let counts = TestClient::new(channel).dropped(Message::default()).await;
                if counts.is_ok_and(|counts| counts.get_ref().started == counts.get_ref().dropped) {
                    return true;
                }
            }
        };
        tokio::time::timeout(QUIET, quiet).await.unwrap_or(false)
    }

    /// Its resident memory in KiB.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        kib.ok_or_else(|| io::Error::other("the victim is gone"))
    }

    /// The CPU time that it has used.
    pub(crate) fn cpu(&self) -> io::Result<Duration> {
        let mut total = 0;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
            let first = text.split(' ').next();
            total += first.and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(Duration::from_nanos(total))
    }
}
