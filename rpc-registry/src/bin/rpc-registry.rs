//! The registry as a program.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use rpc_core::Server;
use rpc_registry::RegistryServer;

const USAGE: &str = "\
The registry: servers register with it under a name, clients find them by it.

Usage: rpc-registry [--listen ADDR] [--state FILE] [--ttl SECONDS]

  --listen ADDR   where to listen, host:port or unix:/path [127.0.0.1:50100]
  --state FILE    keeps the list in this file across restarts
  --ttl SECONDS   how long a server without a connection stays listed [5]

Prints `listening on ADDR` once it does. SIGTERM ends it gracefully.";

struct Arguments {
    listen: String,
    state: Option<String>,
    ttl: Duration,
}

/// Reads the arguments; `None` when help is asked for.
fn arguments(mut given: impl Iterator<Item = String>) -> Result<Option<Arguments>, String> {
    let mut arguments = Arguments {
        listen: "127.0.0.1:50100".into(),
        state: None,
        ttl: rpc_registry::DEFAULT_TTL,
    };
    while let Some(argument) = given.next() {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        if name == "--help" || name == "-h" {
            return Ok(None);
        }
        if !["--listen", "--state", "--ttl"].contains(&name.as_str()) {
            return Err(format!("there is no argument {name}"));
        }
        let value = value
            .or_else(|| given.next())
            .ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--listen" => arguments.listen = value,
            "--state" => arguments.state = Some(value),
            _ => {
                arguments.ttl =
                    seconds(&value).ok_or_else(|| format!("{value:?} is no number of seconds"))?
            }
        }
    }
    Ok(Some(arguments))
}

fn seconds(text: &str) -> Option<Duration> {
    let text = text.strip_suffix('s').unwrap_or(text);
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|ttl| !ttl.is_zero())
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let mut settings = RegistryServer::builder().ttl(arguments.ttl);
    if let Some(file) = arguments.state {
        settings = settings.state_file(file);
    }
    let registry = settings.build()?;
    let server = Server::builder()
        .add_service(registry.clone())
        .on_shutdown(registry)
        .bind(&arguments.listen)
        .await?;
    let mut out = std::io::stdout();
    writeln!(out, "listening on {}", server.local_addr())?;
    out.flush()?;
    server.serve_until_terminated().await?;
    Ok(())
}

fn main() -> ExitCode {
    let arguments = match arguments(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("rpc-registry: {error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("rpc-registry: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut message = format!("rpc-registry: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                message.push_str(&format!(": {error}"));
                cause = error.source();
            }
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
