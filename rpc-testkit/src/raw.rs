//! An HTTP/2 client that sends what it is told, right or wrong: [`RawClient`].

use std::io;
use std::time::Duration;

use rpc_http2::Fields;
use rpc_http2::frame::{FrameHeader, HEADER, PREFACE, flag, kind};
use rpc_http2::hpack::{Encoder, Template};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// A frame that has arrived.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its header.
    pub header: FrameHeader,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// One frame as it is sent.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let header = FrameHeader {
        length,
        kind,
        flags,
        stream,
    };
    [&header.encode()[..], payload].concat()
}

/// An RST_STREAM frame.
#[must_use]
pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &code.to_be_bytes())
}

/// A message with its prefix.
#[must_use]
pub fn message(octets: &[u8]) -> Vec<u8> {
    let length = u32::try_from(octets.len()).unwrap_or(u32::MAX);
    [&[0][..], &length.to_be_bytes(), octets].concat()
}

/// The sending side of a connection.
#[derive(Debug)]
pub struct RawClient {
    write: OwnedWriteHalf,
    encoder: Encoder,
    next: u32,
}

/// The receiving side of a connection.
#[derive(Debug)]
pub struct RawReader {
    read: OwnedReadHalf,
    input: Vec<u8>,
}

/// How a connection ended for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With a GOAWAY of this code.
    GoAway(u32),
    /// Without a word.
    Closed,
    /// Not within the time.
    Not,
}

impl RawClient {
    /// Connects and sends the preface, these settings, and nothing else.
    ///
    /// # Errors
    /// When the server cannot be reached.
    ///
    /// # Cancel safety
    /// Dropping the future closes what it has opened.
    pub async fn connect(address: &str, settings: &[(u16, u32)]) -> io::Result<(Self, RawReader)> {
        Self::of(TcpStream::connect(address).await?, settings).await
    }

    /// The same on a socket that is connected already.
    ///
    /// # Errors
    /// When the server has closed it.
    ///
    /// # Cancel safety
    /// Dropping the future closes the socket.
    pub async fn of(stream: TcpStream, settings: &[(u16, u32)]) -> io::Result<(Self, RawReader)> {
        stream.set_nodelay(true)?;
        let (read, write) = stream.into_split();
        let mut client = Self {
            write,
            encoder: Encoder::default(),
            next: 1,
        };
        let mut payload = Vec::new();
        for (identifier, value) in settings {
            payload.extend(identifier.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        let settings = frame(kind::SETTINGS, 0, 0, &payload);
        client.write(&[&PREFACE[..], &settings].concat()).await?;
        let reader = RawReader {
            read,
            input: Vec::new(),
        };
        Ok((client, reader))
    }

    /// Sends octets.
    ///
    /// # Errors
    /// When the server has closed the connection.
    ///
    /// # Cancel safety
    /// A cancelled write has sent some of them.
    pub async fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        self.write.write_all(octets).await
    }

    /// The identifier of the next stream.
    pub fn stream(&mut self) -> u32 {
        let stream = self.next;
        self.next += 2;
        stream
    }

    /// The header block of a call.
    pub fn block(&mut self, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
        let mut template = Template::new(
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", path),
                (":authority", "attacker"),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
            ]
            .into_iter()
            .collect(),
        );
        let rest: Fields = more.iter().copied().collect();
        let mut block = Vec::new();
        self.encoder.begin(&mut block);
        self.encoder.template(&mut template, &mut block);
        self.encoder.rest(&rest, &mut block);
        block
    }

    /// The HEADERS frame of a call on the next stream.
    pub fn head(&mut self, path: &str, end: bool) -> (u32, Vec<u8>) {
        let block = self.block(path, &[]);
        let stream = self.stream();
        let end = if end { flag::END_STREAM } else { 0 };
        let head = frame(kind::HEADERS, flag::END_HEADERS | end, stream, &block);
        (stream, head)
    }

    /// A whole unary call on the next stream.
    pub fn call(&mut self, path: &str, octets: &[u8]) -> (u32, Vec<u8>) {
        let (stream, mut frames) = self.head(path, false);
        let body = message(octets);
        frames.extend(frame(kind::DATA, flag::END_STREAM, stream, &body));
        (stream, frames)
    }
}

impl Ended {
    /// What a GOAWAY says.
    #[must_use]
    pub fn of(goaway: &Frame) -> Self {
        let word = goaway.payload.get(4..8).and_then(|word| word.first_chunk());
        Self::GoAway(word.map_or(0, |word| u32::from_be_bytes(*word)))
    }
}

impl RawReader {
    /// The next frame; nothing at the end of the connection.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(header) = self.input.first_chunk::<HEADER>() {
                let header = FrameHeader::parse(header);
                let end = HEADER + header.length as usize;
                if self.input.len() >= end {
                    let payload = self.input.get(HEADER..end).unwrap_or_default().to_vec();
                    self.input.drain(..end);
                    return Some(Frame { header, payload });
                }
            }
            match self.read.read_buf(&mut self.input).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Reads until the connection ends, for so long.
    pub async fn end(&mut self, within: Duration) -> Ended {
        let mut code = None;
        let read = async {
            while let Some(frame) = self.next().await {
                if frame.header.kind == kind::GOAWAY {
                    code = Some(Ended::of(&frame));
                }
            }
        };
        let over = tokio::time::timeout(within, read).await.is_ok();
        match (over, code) {
            // NO_ERROR announces an end that has not come.
            (_, Some(ended)) if ended != Ended::GoAway(0) => ended,
            (true, _) => Ended::Closed,
            (false, _) => Ended::Not,
        }
    }
}
