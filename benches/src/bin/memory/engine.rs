//! What an open stream costs the engine by itself, without sockets and handlers.
//!
//! What a client sends is recorded into a file first, and a process of its own replays it, so that
//! nothing but the engine's own streams is allocated between the two looks at the memory.

use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use benches::Outcome;
use benches::process::resident;
use bytes::Bytes;
use rpc_http2::hpack::Template;
use rpc_http2::{Config, Connection, Event, Fields, Output, Payload, Role, StreamKey};

use crate::Line;

/// What it measures.
pub(crate) const WHAT: &str = "open stream, engine alone";

/// The word that makes this program the process that replays.
pub(crate) const REPLAY: &str = "replay";
/// How much is passed to the engine at once.
const CHUNK: usize = 16 * 1024;

fn engine(role: Role, streams: u32, now: Instant) -> Connection {
    let config = Config {
        max_streams: if role == Role::Server { streams + 1 } else { 0 },
        ..Config::default()
    };
    Connection::new(role, config, now)
}

/// Takes what a side wants to write.
fn written(from: &mut Connection, now: Instant) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut output = Output::default();
    while from.has_output() {
        from.take_output(&mut output, now);
        while let Some(next) = output.plain().filter(|next| !next.is_empty()) {
            let count = next.len();
            octets.extend_from_slice(next);
            output.advance(count);
        }
    }
    octets
}

/// Passes octets to a side; messages are consumed, as a handler that waits for the next one has.
fn received(to: &mut Connection, input: &mut &[u8], now: Instant) -> Outcome<()> {
    loop {
        let consumed: Option<(StreamKey, usize)> = match to.receive(input, now) {
            Err(error) => return Err(format!("the engine: {error:?}").into()),
            Ok(None) => return Ok(()),
            Ok(Some(Event::Data { stream, data, .. })) => Some((stream, data.len())),
            Ok(Some(_)) => None,
        };
        if let Some((stream, octets)) = consumed {
            to.consume(stream, octets);
        }
    }
}

/// Writes down what a client sends that opens so many streams with a message on each.
fn record(streams: u32, file: &Path) -> Outcome<()> {
    let now = Instant::now();
    let mut client = engine(Role::Client, streams, now);
    let mut server = engine(Role::Server, streams, now);
    let mut out = BufWriter::new(std::fs::File::create(file)?);
    let mut exchange = |client: &mut Connection| -> Outcome<()> {
        let sent = written(client, now);
        out.write_all(&sent)?;
        received(&mut server, &mut &*sent, now)?;
        received(client, &mut &*written(&mut server, now), now)
    };
    exchange(&mut client)?;
    let mut fields = Fields::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/bench.Echo/PingPong"),
        (":authority", "127.0.0.1:50051"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ] {
        fields.push(name, value);
    }
    let mut head = Template::new(fields);
    let message = Bytes::from_static(&[0; 5]);
    for _ in 0..streams {
        let stream = client
            .open(&mut head, &Fields::new(), now)
            .ok_or("the client opens no stream")?;
        client.send(stream, Payload::Shared(message.clone()), false);
        exchange(&mut client)?;
    }
    if server.stream_count() != streams as usize {
        return Err(format!("only {} streams are open", server.stream_count()).into());
    }
    out.flush()?;
    Ok(())
}

/// Replays a file and prints by how many KiB the process has grown.
pub(crate) fn replay(streams: u32, file: &Path) -> Outcome<()> {
    let now = Instant::now();
    let mut server = engine(Role::Server, streams, now);
    let mut file = std::fs::File::open(file)?;
    let mut buffer = vec![0; CHUNK];
    let mut filled = 0;
    let mut before = None;
    loop {
        let read = file.read(buffer.get_mut(filled..).ok_or("a frame is too large")?)?;
        if read == 0 {
            break;
        }
        filled += read;
        let mut input = buffer.get(..filled).unwrap_or_default();
        received(&mut server, &mut input, now)?;
        let left = input.len();
        buffer.copy_within(filled - left..filled, 0);
        filled = left;
        written(&mut server, now);
        if before.is_none() {
            before = Some((resident("self")?, server.stream_count()));
        }
    }
    let (before, streams_before) = before.ok_or("the file is empty")?;
    let grown = resident("self")?.saturating_sub(before);
    println!("{grown} {}", server.stream_count() - streams_before);
    Ok(())
}

/// Measures it.
pub(crate) fn measure(streams: u32) -> Outcome<Line> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("recorded");
    record(streams, &file)?;
    let output = Command::new(std::env::current_exe()?)
        .args([REPLAY, &streams.to_string()])
        .arg(&file)
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (grown, count) = text
        .trim()
        .split_once(' ')
        .ok_or_else(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let (grown, count): (f64, f64) = (grown.parse()?, count.parse()?);
    Ok(Line {
        stack: "ours".to_owned(),
        what: WHAT.to_owned(),
        count: streams,
        server_kib: grown / count,
        client_kib: None,
    })
}
