//! Every example does what it says.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

/// A server that is killed when the test ends, and the address it has printed.
struct Server(Child, String);

impl Server {
    fn start(program: &str) -> Self {
        let mut child = Command::new(program)
            .arg("127.0.0.1:0")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        let uri = line
            .trim()
            .strip_prefix("listening on ")
            .unwrap()
            .to_owned();
        Self(child, uri)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

const HELLO_CLIENT: &str = env!("CARGO_BIN_EXE_hello_client");

#[test]
fn hello() {
    let server = Server::start(env!("CARGO_BIN_EXE_hello_server"));
    assert_eq!(output(HELLO_CLIENT, &[&server.1]), "Hello, world!\n");
}

#[test]
fn hello_files_are_short() {
    for file in [
        include_str!("../src/bin/hello_server.rs"),
        include_str!("../src/bin/hello_client.rs"),
    ] {
        assert!(file.lines().count() < 30);
    }
}

#[test]
fn a_client_without_a_server_says_what_is_wrong() {
    let output = Command::new(HELLO_CLIENT)
        .arg("http://127.0.0.1:1")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("127.0.0.1:1"), "{said}");
}

#[test]
fn route_guide() {
    assert_eq!(
        output(env!("CARGO_BIN_EXE_route_guide"), &[]),
        "at the first point: Lighthouse\n\
         in the rectangle: Lighthouse\n\
         in the rectangle: Old mill\n\
         walked 3 points, 3 sights, 10373 m\n\
         somebody wrote here: First!\n"
    );
}

#[test]
fn calls_and_pages_on_one_port() {
    let server = Server::start(env!("CARGO_BIN_EXE_axum_mount"));
    assert_eq!(output(HELLO_CLIENT, &[&server.1]), "Hello, world!\n");
    let mut page = TcpStream::connect(server.1.trim_start_matches("http://")).unwrap();
    page.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    page.read_to_string(&mut text).unwrap();
    assert!(
        text.starts_with("HTTP/1.1 200") && text.ends_with("a page\n"),
        "{text}"
    );
}
