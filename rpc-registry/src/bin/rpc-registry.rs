//! The registry as a program.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use rpc_core::client::Address;
use rpc_core::{Server, ServerTls};
use rpc_registry::RegistryServer;

const USAGE: &str = "\
The registry: servers register with it under a name, clients find them by it.

Usage: rpc-registry [--listen ADDR] [--state FILE] [--ttl SECONDS] [--token-file FILE]
                    [--tls-chain FILE --tls-key FILE] [--dangerous-open]

  --listen ADDR      where to listen, host:port or unix:/path [127.0.0.1:50100]
  --state FILE       keeps the list in this file across restarts
  --ttl SECONDS      how long a server without a connection stays listed [5]
  --token-file FILE  what servers and clients have to show, as RPC_REGISTRY_TOKEN; by default the
                     value of RPC_REGISTRY_TOKEN, if there is one
  --tls-chain FILE   the certificate chain in PEM; clients write registry+tls://
  --tls-key FILE     its key in PEM
  --dangerous-open   listens to other machines without a token or without TLS

Other machines are listened to with a token and TLS only; 127.0.0.1 and unix sockets need neither.
Prints `listening on ADDR` once it does. SIGTERM ends it gracefully.";

struct Arguments {
    listen: String,
    state: Option<String>,
    ttl: Duration,
    token_file: Option<String>,
    tls_chain: Option<String>,
    tls_key: Option<String>,
    open: bool,
}

/// Reads the arguments; `None` when help is asked for.
fn arguments(mut given: impl Iterator<Item = String>) -> Result<Option<Arguments>, String> {
    let mut arguments = Arguments {
        listen: "127.0.0.1:50100".into(),
        state: None,
        ttl: rpc_registry::DEFAULT_TTL,
        token_file: None,
        tls_chain: None,
        tls_key: None,
        open: false,
    };
    while let Some(argument) = given.next() {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        if name == "--help" || name == "-h" {
            return Ok(None);
        }
        if name == "--dangerous-open" && value.is_none() {
            arguments.open = true;
            continue;
        }
        let place = match name.as_str() {
            "--listen" | "--ttl" => None,
            "--state" => Some(&mut arguments.state),
            "--token-file" => Some(&mut arguments.token_file),
            "--tls-chain" => Some(&mut arguments.tls_chain),
            "--tls-key" => Some(&mut arguments.tls_key),
            _ => return Err(format!("there is no argument {name}")),
        };
        let value = value
            .or_else(|| given.next())
            .ok_or_else(|| format!("{name} needs a value"))?;
        match place {
            Some(place) => *place = Some(value),
            None if name == "--listen" => arguments.listen = value,
            None => {
                arguments.ttl =
                    seconds(&value).ok_or_else(|| format!("{value:?} is no number of seconds"))?
            }
        }
    }
    if arguments.tls_chain.is_some() != arguments.tls_key.is_some() {
        return Err("--tls-chain and --tls-key go together".into());
    }
    Ok(Some(arguments))
}

/// Whether only this machine can reach an address that is listened on.
fn is_near(listen: &str) -> bool {
    match listen.parse() {
        Ok(Address::Tcp { host, .. }) => {
            &*host == "localhost"
                || host
                    .parse::<std::net::IpAddr>()
                    .is_ok_and(|ip| ip.to_canonical().is_loopback())
        }
        Ok(Address::Unix(_) | Address::UnixAbstract(_)) => true,
        _ => false,
    }
}

/// The token, from the file or the environment.
fn token(file: Option<&str>) -> std::io::Result<Option<String>> {
    match file {
        Some(file) => match std::fs::read_to_string(file) {
            Ok(token) => Ok(Some(token)),
            Err(error) => Err(std::io::Error::new(
                error.kind(),
                format!("reading the token in {file}: {error}"),
            )),
        },
        None => Ok(std::env::var("RPC_REGISTRY_TOKEN")
            .ok()
            .filter(|token| !token.is_empty())),
    }
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
    let token = token(arguments.token_file.as_deref())?;
    let has_token = token.is_some();
    if let Some(token) = token {
        settings = settings.token(token);
    }
    let mut server = Server::builder();
    let mut has_tls = false;
    if let (Some(chain), Some(key)) = (arguments.tls_chain, arguments.tls_key) {
        server = server.tls(ServerTls::from_files(chain, key)?);
        has_tls = true;
    }
    let is_safe = is_near(&arguments.listen) || (has_token && has_tls);
    if arguments.open {
        settings = settings.dangerous_open();
    } else if !is_safe {
        return Err(format!(
            "whoever reaches {} could list and unlist servers, or read the token: give --token-file, --tls-chain and --tls-key, or --dangerous-open where everyone is trusted",
            arguments.listen
        )
        .into());
    }
    let registry = settings.build()?;
    let server = server
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
