//! `nghttpd` with `h2load`: an HTTP/2 server in C that serves a small file, without gRPC.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use benches::Outcome;
use benches::process::{COUNTING, Case, Figures, Running, Syscalls, WARM_UP, count};

use crate::options::Options;

/// As many octets as a message of 100 octets with the prefix of gRPC.
const BODY: [u8; 105] = [7; 105];
const FILE: &str = "body";
/// How many ticks of the processor time of a process there are in a second, on any Linux.
const TICKS: f64 = 100.0;

/// Whether both programs are there, and what keeps them on a core.
pub(crate) fn is_installed() -> bool {
    ["nghttpd", "h2load", "taskset"].iter().all(|program| {
        let version = Command::new(program).arg("--version").output();
        version.is_ok_and(|output| output.status.success())
    })
}

/// The only thing it is measured with.
pub(crate) fn can(case: Case) -> bool {
    case.workload == "unary-100"
}

/// A command that stays on some cores.
fn on(cores: &str, program: &str) -> Command {
    if cores == "all" {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.args(["-c", cores, program]);
    command
}

struct Served {
    server: Running,
    url: String,
    _directory: tempfile::TempDir,
}

fn serve(options: &Options, tls: Option<&Path>) -> Outcome<Served> {
    let directory = tempfile::tempdir()?;
    std::fs::write(directory.path().join(FILE), BODY)?;
    // It wants to be told a port; this one is free again in a moment.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut command = on(&options.cores.server, "nghttpd");
    command
        .args(["-a", "127.0.0.1", "-m", "1000"])
        .args(["-n", &options.cores.workers.to_string()])
        .arg("-d")
        .arg(directory.path());
    match tls {
        None => command.arg("--no-tls").arg(address.port().to_string()),
        Some(tls) => command
            .arg(address.port().to_string())
            .arg(tls.join(bench_driver::Tls::KEY))
            .arg(tls.join(bench_driver::Tls::CERTIFICATE)),
    };
    let server = Running(command.stdout(Stdio::null()).spawn()?);
    let deadline = Instant::now() + Duration::from_secs(5);
    while TcpStream::connect(address).is_err() {
        if Instant::now() > deadline {
            return Err("nghttpd does not listen".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let scheme = if tls.is_some() { "https" } else { "http" };
    Ok(Served {
        server,
        url: format!("{scheme}://{address}/{FILE}"),
        _directory: directory,
    })
}

fn load(served: &Served, case: Case, options: &Options, amount: [&str; 2]) -> Command {
    let mut command = on(&options.cores.client, "h2load");
    // It has no more threads than connections.
    let threads = options.cores.workers.min(case.connections as usize);
    command
        .args(["-t", &threads.to_string()])
        .args(["-c", &case.connections.to_string()])
        .args(["-m", &case.in_flight.to_string()])
        .args(amount)
        .arg(&served.url)
        .stderr(Stdio::null());
    command
}

/// The requests of a second, as `h2load` says in the end.
fn rate(command: &mut Command) -> Outcome<f64> {
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let rate = text.lines().find_map(|line| {
        let rest = line.strip_prefix("finished in ")?;
        let rate = rest.split(", ").nth(1)?.strip_suffix(" req/s")?;
        rate.parse().ok()
    });
    let rate: Option<f64> = rate.filter(|rate| *rate > 0.0);
    Ok(rate.ok_or("h2load has failed")?)
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.0}ms", seconds * 1000.0)
}

/// The processor time of the children of this process that have ended.
fn of_children() -> Outcome<f64> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    // The name in parentheses may hold spaces; user and system time are the 16th and 17th word.
    let (_, rest) = text.rsplit_once(')').ok_or("this is no process")?;
    let words: Vec<_> = rest.split_whitespace().collect();
    let ticks = |at: usize| words.get(at).and_then(|word| word.parse::<f64>().ok());
    match (ticks(13), ticks(14)) {
        (Some(user), Some(system)) => Ok((user + system) / TICKS),
        _ => Err("this process has no times".into()),
    }
}

pub(crate) fn measure(case: Case, options: &Options, tls: Option<&Path>) -> Outcome<Figures> {
    let served = serve(options, tls)?;
    let warm = rate(&mut load(
        &served,
        case,
        options,
        ["-D", &milliseconds(WARM_UP)],
    ))?;
    let requests = (warm * options.seconds).ceil();
    let (server, client) = (served.server.cpu()?, of_children()?);
    let amount = format!("{requests:.0}");
    let per_s = rate(&mut load(&served, case, options, ["-n", &amount]))?;
    let (server, client) = (
        served.server.cpu()?.saturating_sub(server).as_secs_f64(),
        of_children()? - client,
    );
    Ok(Figures {
        per_s,
        // It says no percentiles.
        p50_us: f64::NAN,
        p99_us: f64::NAN,
        server_cpu_us: server * 1e6 / requests,
        client_cpu_us: client * 1e6 / requests,
    })
}

pub(crate) fn count_syscalls(
    case: Case,
    options: &Options,
    tls: Option<&Path>,
) -> Outcome<Option<Syscalls>> {
    let served = serve(options, tls)?;
    let duration = milliseconds(COUNTING + 2.0 * WARM_UP);
    let mut command = load(&served, case, options, ["-D", &duration]);
    std::thread::scope(|scope| {
        let loading = scope.spawn(move || rate(&mut command).map_err(|error| error.to_string()));
        std::thread::sleep(Duration::from_secs_f64(WARM_UP));
        let counted = count(&served.server, &["write", "writev", "sendto", "sendmsg"]);
        let rate = loading.join().map_err(|_| "h2load was not run")??;
        Ok(counted.map(|counted| counted.divided_by(rate * COUNTING)))
    })
}
