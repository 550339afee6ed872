//! No RPC at all: frames of a length and a body over a socket. What this costs is the system's and
//! tokio's share of the cost of every other stack.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Instant;

use bench_driver::{Can, Client, Error, Meter, Server, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PREFIX: usize = 4;
const BUFFER: usize = 64 * 1024;

/// What has been read and is no whole frame yet.
struct Frames {
    buffer: Vec<u8>,
    filled: usize,
}

impl Frames {
    fn new() -> Self {
        Self {
            buffer: vec![0; BUFFER],
            filled: 0,
        }
    }

    /// Reads once.
    async fn read(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        let read = stream.read(&mut self.buffer[self.filled..]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.filled += read;
        Ok(())
    }

    /// How many octets of whole frames there are, and how many frames.
    fn whole(&self) -> (usize, usize) {
        let (mut end, mut frames) = (0, 0);
        while let Some(prefix) = self.buffer[end..self.filled].first_chunk::<PREFIX>() {
            let next = end + PREFIX + u32::from_le_bytes(*prefix) as usize;
            if next > self.filled {
                break;
            }
            end = next;
            frames += 1;
        }
        (end, frames)
    }

    /// Forgets so many octets.
    fn consume(&mut self, octets: usize) {
        self.buffer.copy_within(octets..self.filled, 0);
        self.filled -= octets;
    }
}

/// Every whole frame of a read goes back in one write.
async fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut frames = Frames::new();
    loop {
        frames.read(&mut stream).await?;
        let (end, _) = frames.whole();
        stream.write_all(&frames.buffer[..end]).await?;
        frames.consume(end);
    }
}

struct Tcp;

impl Server for Tcp {
    fn can() -> Can {
        Can::floor()
    }

    async fn serve(_: &Settings, listening: impl FnOnce(SocketAddr) + Send) -> Result<(), Error> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        listening(listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            // A client that goes away is no failure of the server's.
            tokio::spawn(async { drop(echo(stream).await) });
        }
    }
}

#[derive(Clone, Copy)]
struct TcpClient(SocketAddr);

impl Client for TcpClient {
    const BATCHES: bool = true;

    async fn connect(address: SocketAddr, _: &Settings) -> Result<Self, Error> {
        Ok(Self(address))
    }

    /// As many frames as have come back go out again in one write.
    async fn batch(&mut self, in_flight: usize, body: Vec<u8>, meter: &Meter) -> Result<(), Error> {
        let mut stream = TcpStream::connect(self.0).await?;
        stream.set_nodelay(true)?;
        let mut frame = u32::try_from(body.len())?.to_le_bytes().to_vec();
        frame.extend_from_slice(&body);
        let all = frame.repeat(in_flight);
        let mut frames = Frames::new();
        let mut started = std::collections::VecDeque::new();
        let mut due = in_flight;
        loop {
            let now = Instant::now();
            started.extend(std::iter::repeat_n(now, due));
            stream.write_all(&all[..due * frame.len()]).await?;
            due = 0;
            while due == 0 {
                frames.read(&mut stream).await?;
                let (end, count) = frames.whole();
                for started in started.drain(..count) {
                    meter.done(started);
                }
                frames.consume(end);
                due = count;
            }
        }
    }
}

fn main() -> ExitCode {
    bench_driver::main::<Tcp, TcpClient>()
}
