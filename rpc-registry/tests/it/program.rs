//! The program `rpc-registry`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rpc_registry::Registry;

use crate::support::{address, listed, register, soon, until, uri};

const PROGRAM: &str = env!("CARGO_BIN_EXE_rpc-registry");

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(arguments: &[&str]) -> (Running, u16) {
    let mut child = Command::new(PROGRAM)
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let address = line
        .trim()
        .strip_prefix("listening on ")
        .unwrap_or_else(|| panic!("{line:?}"));
    let port = address.rsplit_once(':').unwrap().1.parse().unwrap();
    (Running(child), port)
}

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).output().unwrap()
}

#[tokio::test]
async fn it_serves_and_ends_on_sigterm_with_open_streams() {
    let (mut running, port) = start(&["--listen", "127.0.0.1:0", "--ttl", "2"]);
    let registry = Registry::connect(&uri(&[port])).unwrap();
    let _lease = register(&registry, "s", address(1)).await;
    until(&mut *registry.resolver("s"), &[1]).await;
    assert_eq!(listed(port).await[0].entries[0].ttl_ms, 2000);
    assert!(
        Command::new("kill")
            .arg(running.0.id().to_string())
            .status()
            .unwrap()
            .success()
    );
    let ended = async {
        loop {
            if let Some(status) = running.0.try_wait().unwrap() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(soon(ended).await.success());
}

#[tokio::test]
async fn killed_and_started_again_it_knows_its_entries() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state").display().to_string();
    let (running, port) = start(&["--listen=127.0.0.1:0", "--state", &file]);
    let registry = Registry::connect(&uri(&[port])).unwrap();
    let one = register(&registry, "s", address(1)).await;
    let _two = register(&registry, "s", address(2)).await;
    // Its acknowledgement waits for the disk, which then holds the other one.
    soon(one.deregister()).await.unwrap();
    drop(running);
    let (_running, other) = start(&["--listen", "127.0.0.1:0", "--state", &file]);
    assert_eq!(listed(other).await[0].entries.len(), 1);
}

#[test]
fn wrong_arguments_and_help() {
    let wrong = run(&["--port", "1"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("--listen ADDR"));
    assert_eq!(run(&["--listen"]).status.code(), Some(2));
    assert_eq!(run(&["--ttl", "soon"]).status.code(), Some(2));
    let help = run(&["--help"]);
    assert!(
        help.status.success() && String::from_utf8_lossy(&help.stdout).contains("--state FILE")
    );
}

#[test]
fn an_address_that_cannot_be_listened_on_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(&["--listen", &address]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        message.contains(&address) && message.contains("in use"),
        "{message}"
    );
}

#[test]
fn other_machines_are_listened_to_with_a_token_and_tls_only() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token").display().to_string();
    std::fs::write(&token, "a token").unwrap();
    for arguments in [
        &["--listen", "0.0.0.0:0"][..],
        &["--listen", "[::]:0"],
        &["--listen", "0.0.0.0:0", "--token-file", &token],
    ] {
        let output = run(arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(message.contains("--dangerous-open"), "{message}");
    }
    drop(start(&["--listen", "0.0.0.0:0", "--dangerous-open"]));
    drop(start(&["--listen", "127.0.0.1:0", "--token-file", &token]));
    std::fs::write(&token, " ").unwrap();
    let output = run(&["--listen", "127.0.0.1:0", "--token-file", &token]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("empty"));
}
