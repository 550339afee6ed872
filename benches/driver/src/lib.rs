//! What is the same for every stack of the comparison: the command line, the runtime, the load and
//! how it is measured. A stack adds a server and a client of the Echo service, and nothing else.
//!
//! `can` prints what the stack is able to do. `server CORES WORKERS` serves until it is killed.
//! `client CORES WORKERS ADDRESS WORKLOAD CONNECTIONS IN_FLIGHT` loads it; for each line `SECONDS` on
//! its standard input it prints what it measured in that time. `hold CORES WORKERS ADDRESS CONNECTIONS
//! STREAMS` opens so many connections and so many streams on each, says `open` and keeps them until
//! its standard input ends. CORES is `all` or a list such as `0,1`. Words `name=value` may follow,
//! which are [`Settings`].

mod hold;
mod load;
mod meter;
mod settings;

use std::net::SocketAddr;
use std::process::ExitCode;

pub use load::Window;
pub use meter::Meter;
pub use settings::{Can, Settings, Tls};

/// Whatever went wrong; a bench that fails has no figures.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

fn unable<T>() -> std::future::Ready<Result<T, Error>> {
    std::future::ready(Err("this stack has no such call".into()))
}

/// A client of the Echo service over one connection, cheap to clone. What a stack has no call for it
/// leaves out, and its [`Can`] does not promise it.
pub trait Client: Clone + Send + 'static {
    /// It keeps many calls open by itself, in [`batch`](Self::batch); a task for each of them would
    /// cost more than what is to be measured.
    const BATCHES: bool = false;

    /// Connects.
    fn connect(
        address: SocketAddr,
        settings: &Settings,
    ) -> impl Future<Output = Result<Self, Error>> + Send;

    /// One call of `Unary`; the length of the answer.
    fn unary(&mut self, _body: Vec<u8>) -> impl Future<Output = Result<usize, Error>> + Send {
        unable()
    }

    /// One call of `UnaryWait`; the length of the answer.
    fn unary_wait(&mut self, _body: Vec<u8>) -> impl Future<Output = Result<usize, Error>> + Send {
        unable()
    }

    /// Reads messages of a size for ever and tells the meter of each.
    fn server_stream(
        &mut self,
        _size: u32,
        _meter: &Meter,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        unable()
    }

    /// Sends a message once the last one is back, for ever, and tells the meter of each.
    fn ping_pong(
        &mut self,
        _body: Vec<u8>,
        _meter: &Meter,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        unable()
    }

    /// Opens a stream whose handler waits for ever, says so, and keeps it open.
    fn hold(
        &mut self,
        _opened: impl FnOnce() + Send,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        unable()
    }

    /// Opens a stream, sends until there is no room and reads nothing, says so, and keeps it open.
    fn fill(
        &mut self,
        _full: impl FnOnce() + Send,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        unable()
    }

    /// Keeps so many unary calls open, for ever, and tells the meter of each.
    fn batch(
        &mut self,
        _in_flight: usize,
        _body: Vec<u8>,
        _meter: &Meter,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        unable()
    }
}

/// A stack that has a server only; its [`Can`] says that it has no client.
#[derive(Clone, Copy, Debug)]
pub struct NoClient;

impl Client for NoClient {
    async fn connect(_: SocketAddr, _: &Settings) -> Result<Self, Error> {
        Err("this stack has no client".into())
    }
}

/// A server of the Echo service.
pub trait Server {
    /// What the stack is able to do, on both sides.
    fn can() -> Can;

    /// Listens on a port of its own choice, says where, and serves.
    fn serve(
        settings: &Settings,
        listening: impl FnOnce(SocketAddr) + Send,
    ) -> impl Future<Output = Result<(), Error>> + Send;
}

/// How many seconds a call may take, on every stack.
pub const DEADLINE: std::time::Duration = std::time::Duration::from_secs(60);

/// The `main` of a stack's program.
pub fn main<S: Server, C: Client>() -> ExitCode {
    match run::<S, C>(&std::env::args().collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

const USAGE: &str = "usage: can | server CORES WORKERS [NAME=VALUE]… \
    | client CORES WORKERS ADDRESS WORKLOAD CONNECTIONS IN_FLIGHT [NAME=VALUE]… \
    | hold CORES WORKERS ADDRESS CONNECTIONS STREAMS [NAME=VALUE]…";

fn run<S: Server, C: Client>(arguments: &[String]) -> Result<(), Error> {
    let arguments: Vec<_> = arguments.iter().skip(1).map(String::as_str).collect();
    match &arguments[..] {
        ["can"] => {
            println!("{}", serde_json::to_string(&S::can())?);
            Ok(())
        }
        ["server", cores, workers, rest @ ..] => {
            let settings = Settings::parse(rest)?;
            let runtime = prepare(cores, workers)?;
            runtime.block_on(S::serve(&settings, |address| {
                println!("listening on {address}");
            }))
        }
        [
            "client",
            cores,
            workers,
            address,
            workload,
            connections,
            in_flight,
            rest @ ..,
        ] => {
            let runtime = prepare(cores, workers)?;
            let load = load::start::<C>(
                address.parse()?,
                workload.parse()?,
                connections.parse()?,
                in_flight.parse()?,
                Settings::parse(rest)?,
            );
            let meters = runtime.block_on(load)?;
            load::measure(&meters)
        }
        [
            "hold",
            cores,
            workers,
            address,
            connections,
            streams,
            rest @ ..,
        ] => {
            let runtime = prepare(cores, workers)?;
            let held = hold::open::<C>(
                address.parse()?,
                connections.parse()?,
                streams.parse()?,
                Settings::parse(rest)?,
            );
            let _held = runtime.block_on(held)?;
            hold::keep()
        }
        _ => Err(USAGE.into()),
    }
}

/// Keeps this process on its cores, lets it open many sockets and starts its runtime.
fn prepare(cores: &str, workers: &str) -> Result<tokio::runtime::Runtime, Error> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    if cores != "all" {
        let mut set = rustix::thread::CpuSet::new();
        for core in cores.split(',') {
            set.set(core.parse()?);
        }
        rustix::thread::sched_setaffinity(None, &set)?;
    }
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, limit)?;
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers.parse()?)
        .enable_all()
        .build()?)
}
