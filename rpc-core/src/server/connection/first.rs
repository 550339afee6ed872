//! What a client speaks, by its first bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rpc_http2::frame::PREFACE;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use crate::transport::connector::Io;

/// So many bytes tell HTTP/2 from a method of HTTP/1.1. No more are read, so that there is more to
/// come for whoever goes on.
const ENOUGH: usize = 4;

/// What a connection begins with, and what was read to know it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum First {
    Http2(Vec<u8>),
    Http1(Vec<u8>),
    /// Neither, or nothing at all.
    Other(Vec<u8>),
}

/// Reads as little as it takes to know.
pub(super) async fn read(io: &mut Box<dyn Io>) -> io::Result<First> {
    let mut bytes = Vec::with_capacity(ENOUGH);
    loop {
        let mut space = [0; ENOUGH];
        let room = space.get_mut(bytes.len()..).unwrap_or_default();
        let count = io.read(room).await?;
        if count == 0 {
            return Ok(First::Other(bytes));
        }
        bytes.extend_from_slice(room.get(..count).unwrap_or_default());
        if let Some(first) = decide(&bytes) {
            return Ok(match first {
                First::Http2(_) => First::Http2(bytes),
                First::Http1(_) => First::Http1(bytes),
                First::Other(_) => First::Other(bytes),
            });
        }
    }
}

fn decide(bytes: &[u8]) -> Option<First> {
    if PREFACE.starts_with(bytes) {
        return (bytes.len() >= ENOUGH).then_some(First::Http2(Vec::new()));
    }
    // A method is upper case, and a space ends it.
    let is_method = bytes
        .iter()
        .take_while(|byte| **byte != b' ')
        .all(|byte| byte.is_ascii_uppercase() || *byte == b'-');
    if !is_method || bytes.first() == Some(&b' ') {
        return Some(First::Other(Vec::new()));
    }
    (bytes.len() >= ENOUGH).then_some(First::Http1(Vec::new()))
}

/// A byte stream of which the beginning was read already.
pub(super) struct Begun {
    bytes: Vec<u8>,
    io: Box<dyn Io>,
}

impl Begun {
    pub(super) fn new(bytes: Vec<u8>, io: Box<dyn Io>) -> Self {
        Self { bytes, io }
    }
}

impl AsyncRead for Begun {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.bytes.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buffer);
        }
        let count = self.bytes.len().min(buffer.remaining());
        buffer.put_slice(self.bytes.get(..count).unwrap_or_default());
        self.bytes.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Begun {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(bytes: &[u8]) -> Option<&'static str> {
        decide(bytes).map(|first| match first {
            First::Http2(_) => "2",
            First::Http1(_) => "1.1",
            First::Other(_) => "other",
        })
    }

    #[test]
    fn first_bytes_decide() {
        for (bytes, expected) in [
            (&b"P"[..], None),
            (b"PRI", None),
            (b"PRI ", Some("2")),
            (b"GET / HTTP/1.1", Some("1.1")),
            (b"POST", Some("1.1")),
            (b"PUT ", Some("1.1")),
            (b"PO", None),
            (b"G", None),
            (b"get ", Some("other")),
            (b" GET", Some("other")),
            (b"\x16\x03\x01", Some("other")),
            (b"\0\0\0\x04", Some("other")),
        ] {
            assert_eq!(name(bytes), expected, "{bytes:?}");
        }
    }
}
