//! The HTTP/2 engine alone behind a socket: answers every request with 200 and 16 octets.
//!
//! What a conformance suite asks is about HTTP/2; the server of the framework answers a request that
//! is not of gRPC before the suite has come to its point.
use std::io::{self, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rpc_http2::hpack::Template;
use rpc_http2::{Config, Connection, Event, Fields, Output, Payload, Role, StreamKey};

const BODY: &[u8] = b"sixteen octets..";

fn main() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    for socket in listener.incoming() {
        let socket = socket?;
        std::thread::spawn(move || {
            // The suite closes its connections as it likes.
            let _ = serve(socket);
        });
    }
    Ok(())
}

fn serve(mut socket: TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let config = Config {
        // The suite takes the smallest limit for granted.
        max_frame: 16 * 1024,
        ..Config::default()
    };
    let mut connection = Connection::new(Role::Server, config, Instant::now());
    let (mut input, mut output) = (Vec::new(), Output::default());
    let mut chunk = vec![0; 16 * 1024];
    loop {
        let mut rest = input.as_slice();
        let over = loop {
            match connection.receive(&mut rest, Instant::now()) {
                Ok(Some(event)) => {
                    let ended = ended(&event);
                    if let Event::Data { stream, data, .. } = event {
                        connection.consume(stream, data.len());
                    }
                    match ended {
                        Some(Ended::Request(stream)) => answer(&mut connection, stream),
                        Some(Ended::Stream(stream)) => connection.release(stream),
                        None => {}
                    }
                }
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        let taken = input.len() - rest.len();
        input.drain(..taken);
        write(&mut connection, &mut output, &mut socket)?;
        if over || connection.is_finished() {
            return socket.shutdown(std::net::Shutdown::Both);
        }
        let wait = connection
            .next_timeout()
            .map(|due| due.saturating_duration_since(Instant::now()));
        socket.set_read_timeout(wait.map(|wait| wait.max(Duration::from_millis(1))))?;
        match socket.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(count) => input.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // It says so to the peer itself, and the next turn ends the connection.
                let _ = connection.on_timeout(Instant::now());
            }
            Err(error) => return Err(error),
        }
    }
}

enum Ended {
    Request(StreamKey),
    Stream(StreamKey),
}

fn ended(event: &Event<'_, '_>) -> Option<Ended> {
    match *event {
        Event::Head { stream, end, .. } | Event::Data { stream, end, .. } => {
            end.then_some(Ended::Request(stream))
        }
        Event::Trailers { stream, .. } => Some(Ended::Request(stream)),
        Event::Reset { stream, .. } => Some(Ended::Stream(stream)),
        _ => None,
    }
}

fn answer(connection: &mut Connection, stream: StreamKey) {
    let mut fields = Fields::new();
    fields.push(":status", "200");
    connection.respond(stream, &mut Template::new(fields), &Fields::new(), false);
    connection.send(stream, Payload::Copied(BODY), true);
    connection.release(stream);
}

fn write(
    connection: &mut Connection,
    output: &mut Output,
    socket: &mut TcpStream,
) -> io::Result<()> {
    while connection.has_output() {
        connection.take_output(output, Instant::now());
        while !output.is_empty() {
            let mut slices = [IoSlice::new(&[]); 16];
            let filled = output.slices(&mut slices);
            let written = socket.write_vectored(&slices[..filled])?;
            output.advance(written);
        }
    }
    Ok(())
}
