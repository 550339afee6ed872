//! The server under attack, a process of its own so that its memory and its time can be read.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use rpc_core::server::Limits;
use rpc_core::{Channel, ClientTls, Keepalive, Request, Response, Server, ServerTls, Status};
use rpc_testkit::TestService;
use rpc_testkit::heavy::{Heavy, HeavyServer, Load, Weight};
use rpc_testkit::proto::{Message, TestClient, TestServer};

/// How long a server may take to come to rest after an attack.
const QUIET: Duration = Duration::from_secs(30);
/// The core that it runs on when there are two.
pub(crate) const VICTIM_CORE: usize = 0;

/// Serves the test service until standard input ends; the words say which limits are off.
pub(crate) fn serve(off: &[String]) -> ExitCode {
    crate::pin(VICTIM_CORE);
    let (line, input) = (&mut String::new(), io::stdin());
    let tls = off.iter().any(|word| word == "tls");
    // A certificate and its key, whose lines have `|` for their ends.
    if tls && input.lock().read_line(line).is_err() {
        return ExitCode::FAILURE;
    }
    std::thread::spawn(move || {
        let _ = input.lock().read(&mut [0]);
        std::process::exit(0);
    });
    let served = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map(|runtime| runtime.block_on(run(off, line)));
    match served {
        Ok(Ok(())) => ExitCode::SUCCESS,
        failed => {
            eprintln!("{failed:?}");
            ExitCode::FAILURE
        }
    }
}

async fn run(off: &[String], identity: &str) -> Result<(), Box<dyn std::error::Error>> {
    let mut server = Server::builder()
        .add_service(TestServer::new(TestService::default()))
        .add_service(HeavyServer::new(Scales))
        .add_service(rpc_registry::RegistryServer::new())
        .dangerous_limits(|limits| off.iter().for_each(|name| turn_off(limits, name)));
    let budget = off.iter().find_map(|word| word.strip_prefix("budget="));
    if let Some(bytes) = budget {
        server = server.memory_budget(bytes.parse()?);
    }
    if off.iter().any(|word| word == "message_size") {
        server = server.max_receive_message_size(1 << 30);
    }
    for word in off {
        server = match word.split_once('=') {
            Some(("connections", count)) => server.max_connections(count.parse()?),
            Some(("keepalive", "off")) => server.keepalive(None),
            Some(("keepalive", seconds)) => {
                let time = Duration::from_secs(seconds.parse()?);
                server.keepalive(Keepalive::every(time).timeout(time))
            }
            _ => server,
        };
    }
    if let Some((chain, key)) = identity.trim_end().replace('|', "\n").split_once("\n\n") {
        server = server.tls(ServerTls::from_pem(chain, key)?);
    }
    let server = server.bind("127.0.0.1:0").await?;
    let mut out = io::stdout();
    writeln!(out, "{}", server.local_addr())?;
    out.flush()?;
    Ok(server.serve().await?)
}

/// Counts elements.
struct Scales;

impl Heavy for Scales {
    async fn weigh(&self, request: Request<Load>) -> Result<Response<Weight>, Status> {
        let load = request.into_inner();
        let elements = load.nothings.len()
            + load.numbers.len()
            + load.texts.len()
            + load.blobs.len()
            + load.pairs.len()
            + load.loads.len()
            + load.switches.len();
        Ok(Response::new(Weight {
            elements: elements as u64,
        }))
    }
}

fn turn_off(limits: &mut Limits, name: &str) {
    match name {
        "early_resets" => limits.early_resets = None,
        "caused_resets" => limits.caused_resets = None,
        "unsent_answers" => limits.unsent_answers = None,
        "idle_frames" => limits.idle_frames = None,
        "empty_data" => limits.empty_data = None,
        "stall" => limits.stall = None,
        "settings" => limits.settings = None,
        "pings" => limits.pings = None,
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

/// What a client that means well has to know of a victim.
pub(crate) struct Client {
    address: String,
    tls: Option<ClientTls>,
}

impl Client {
    pub(crate) async fn channel(&self) -> Result<Channel, Status> {
        match &self.tls {
            Some(tls) => {
                let builder = Channel::builder().tls(tls.clone());
                builder.connect(&format!("https://{}", self.address)).await
            }
            None => Channel::connect(&format!("http://{}", self.address)).await,
        }
    }
}

/// A running victim; it ends with this.
pub(crate) struct Victim {
    child: Child,
    pub(crate) address: String,
    tls: Option<ClientTls>,
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
        Self::spawn(off, None)
    }

    /// Starts one that speaks TLS only.
    pub(crate) fn with_tls() -> io::Result<Self> {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]);
        let made = made.map_err(io::Error::other)?;
        let chain = made.cert.pem();
        let key = made.signing_key.serialize_pem();
        let mut victim = Self::spawn(&["tls"], Some(&format!("{}\n\n{key}", chain.trim())))?;
        victim.tls = Some(ClientTls::from_root_pem(&chain)?);
        Ok(victim)
    }

    fn spawn(off: &[&str], identity: Option<&str>) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("victim")
            .args(off)
            // What is free goes back to the system, so that what is resident is what is held.
            .env("MALLOC_ARENA_MAX", "1")
            .env("MALLOC_MMAP_THRESHOLD_", "131072")
            .env("MALLOC_TRIM_THRESHOLD_", "131072")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        if let (Some(identity), Some(input)) = (identity, &mut child.stdin) {
            writeln!(input, "{}", identity.replace('\r', "").replace('\n', "|"))?;
        }
        let out = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let address = line.trim().to_owned();
        let mut victim = Self {
            child,
            address,
            tls: None,
            quiet_descriptors: 0,
        };
        victim.quiet_descriptors = victim.descriptors()?;
        Ok(victim)
    }

    /// Connects a client that means well.
    pub(crate) async fn channel(&self) -> Result<Channel, Status> {
        self.client().channel().await
    }

    /// What such a client has to know.
    pub(crate) fn client(&self) -> Client {
        Client {
            address: self.address.clone(),
            tls: self.tls.clone(),
        }
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

    /// Waits until it runs no handler, holds no connection and not more memory than this, in KiB.
    /// What it holds then; nothing when it still has handlers or connections.
    pub(crate) async fn is_quiet(&self, memory: u64) -> Option<u64> {
        let mut held = None;
        let quiet = async {
            loop {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let Ok(descriptors) = self.descriptors() else {
                    return;
                };
                if descriptors > self.quiet_descriptors {
                    held = None;
                    continue;
                }
                let Ok(channel) = self.channel().await else {
                    return;
                };
                let counts = TestClient::new(channel).dropped(Message::default()).await;
                if counts.is_ok_and(|counts| counts.get_ref().started == counts.get_ref().dropped) {
                    held = self.memory().ok();
                    if held.is_some_and(|held| held <= memory) {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        };
        // What is held says when it took too long.
        let _ = tokio::time::timeout(QUIET, quiet).await;
        held
    }

    /// Its resident memory in KiB.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        self.status("VmRSS:")
    }

    /// The most that its resident memory has been since [`forget_peak`](Self::forget_peak), in KiB.
    pub(crate) fn peak(&self) -> io::Result<u64> {
        self.status("VmHWM:")
    }

    /// Begins to look for the peak anew.
    pub(crate) fn forget_peak(&self) -> io::Result<()> {
        // proc(5): 5 sets the peak to what is resident now.
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5")
    }

    fn status(&self, name: &str) -> io::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
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
