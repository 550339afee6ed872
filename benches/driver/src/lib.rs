//! What is the same for every stack of the comparison: the command line, the runtime, the load and
//! how it is measured. A stack adds a server and a client of the Echo service, and nothing else.
//!
//! `server CORE` serves until it is killed. `client CORE ADDRESS WORKLOAD CONNECTIONS IN_FLIGHT`
//! loads it; for each line `SECONDS` on its standard input it prints what it measured in that time.

mod load;
mod meter;

use std::net::SocketAddr;
use std::process::ExitCode;

pub use load::Window;
pub use meter::Meter;

/// Whatever went wrong; a bench that fails has no figures.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A client of the Echo service over one connection, cheap to clone.
pub trait Client: Clone + Send + 'static {
    /// Connects.
    fn connect(address: SocketAddr) -> impl Future<Output = Result<Self, Error>> + Send;

    /// One call of `Unary`; the length of the answer.
    fn unary(&mut self, body: Vec<u8>) -> impl Future<Output = Result<usize, Error>> + Send;

    /// One call of `UnaryWait`; the length of the answer.
    fn unary_wait(&mut self, body: Vec<u8>) -> impl Future<Output = Result<usize, Error>> + Send;

    /// Reads messages of a size for ever and tells the meter of each.
    fn server_stream(
        &mut self,
        size: u32,
        meter: &Meter,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Sends a message once the last one is back, for ever, and tells the meter of each.
    fn ping_pong(
        &mut self,
        body: Vec<u8>,
        meter: &Meter,
    ) -> impl Future<Output = Result<(), Error>> + Send;
}

/// A server of the Echo service.
pub trait Server {
    /// Listens on a port of its own choice, says where, and serves.
    fn serve(
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

fn run<S: Server, C: Client>(arguments: &[String]) -> Result<(), Error> {
    let arguments: Vec<_> = arguments.iter().skip(1).map(String::as_str).collect();
    match arguments[..] {
        ["server", core] => {
            pin(core)?;
            runtime()?.block_on(S::serve(|address| println!("listening on {address}")))
        }
        ["client", core, address, workload, connections, in_flight] => {
            pin(core)?;
            let runtime = runtime()?;
            let load = load::start::<C>(
                address.parse()?,
                workload.parse()?,
                connections.parse()?,
                in_flight.parse()?,
            );
            let meters = runtime.block_on(load)?;
            load::measure(&meters)
        }
        _ => Err("usage: server CORE | client CORE ADDRESS WORKLOAD CONNECTIONS IN_FLIGHT".into()),
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
}

/// Keeps this process on one core.
fn pin(core: &str) -> Result<(), Error> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core.parse()?);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}
