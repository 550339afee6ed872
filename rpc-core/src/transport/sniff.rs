//! What a peer speaks that is not what it should, by its first octets, and what to do about it.
//!
//! A wrong port, a proxy in between, or TLS on one side only are what most connections fail of that
//! never carried a call. Each of them is told by how the peer begins.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rpc_http2::frame::{FrameHeader, HEADER, PREFACE, kind};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// So much of what a peer says first is looked at.
const FIRST: usize = 64;

/// What a peer speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Spoken {
    /// Its first line.
    Http1(String),
    Http2,
    /// An alert, or something else.
    Tls {
        alert: bool,
    },
    Ssh(String),
    /// A greeting of SMTP or FTP.
    Greeting(String),
    Text(String),
    Octets(String),
    Nothing,
}

impl Spoken {
    fn of(first: &[u8]) -> Self {
        if first.is_empty() {
            return Self::Nothing;
        }
        // RFC 8446 section 5.1: the kind of a record and its version.
        if let [record @ 0x14..=0x17, 3, 0..=4, ..] = first {
            return Self::Tls {
                alert: *record == 0x15,
            };
        }
        if first.starts_with(PREFACE.get(..14).unwrap_or_default()) || is_frame(first) {
            return Self::Http2;
        }
        let line = first.split(|octet| matches!(octet, b'\r' | b'\n')).next();
        let line = line.unwrap_or_default();
        let is_text = line.iter().all(|octet| *octet >= 0x20 && *octet != 0x7f);
        if line.is_empty() || !is_text {
            let octets: Vec<_> = first
                .iter()
                .take(16)
                .map(|octet| format!("{octet:02x}"))
                .collect();
            return Self::Octets(octets.join(" "));
        }
        let text = String::from_utf8_lossy(line).into_owned();
        let method = line
            .split(|octet| *octet == b' ')
            .next()
            .unwrap_or_default();
        let is_request = method.len() < line.len()
            && method.len() > 2
            && method.iter().all(u8::is_ascii_uppercase)
            && line.get(method.len().saturating_add(1)) == Some(&b'/');
        match line {
            [b'H', b'T', b'T', b'P', b'/', ..] => Self::Http1(text),
            _ if is_request => Self::Http1(text),
            [b'S', b'S', b'H', b'-', ..] => Self::Ssh(text),
            [b'2', b'2', b'0', b' ' | b'-', ..] => Self::Greeting(text),
            _ => Self::Text(text),
        }
    }
}

/// Whether it is a frame of HTTP/2 that a server may begin with: SETTINGS (RFC 9113 section 3.4), or
/// GOAWAY by one that has nothing else to say.
fn is_frame(first: &[u8]) -> bool {
    let Some(header) = first.first_chunk::<HEADER>() else {
        return false;
    };
    let header = FrameHeader::parse(header);
    let is_first = match header.kind {
        kind::SETTINGS => header.length.is_multiple_of(6),
        kind::GOAWAY => header.length >= 8,
        _ => false,
    };
    is_first && header.stream == 0 && header.length <= 1024
}

impl fmt::Display for Spoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http1(line) => write!(f, "in HTTP/1.1 ({line:?})"),
            Self::Http2 => f.write_str("in HTTP/2"),
            Self::Tls { alert: true } => f.write_str("with a TLS alert"),
            Self::Tls { alert: false } => f.write_str("in TLS"),
            Self::Ssh(line) => write!(f, "in SSH ({line:?})"),
            Self::Greeting(line) => write!(f, "as a server of mail or files ({line:?})"),
            Self::Text(line) => write!(f, "with text ({line:?})"),
            Self::Octets(octets) => write!(f, "with the octets {octets}"),
            Self::Nothing => f.write_str("nothing"),
        }
    }
}

/// What a server answered to HTTP/2, if that is not HTTP/2; nothing is known of one that says nothing.
pub(crate) fn not_http2(first: &[u8]) -> Option<String> {
    let spoken = Spoken::of(first);
    let advice = match &spoken {
        Spoken::Nothing | Spoken::Http2 => return None,
        Spoken::Tls { .. } => "it expects TLS: write https:// in the target",
        Spoken::Http1(_) => {
            "this is a web server, or a proxy that does not pass HTTP/2 on: look at the port"
        }
        _ => "another service listens there: look at the address and the port",
    };
    Some(format!(
        "the peer answered {spoken}, which is not HTTP/2: {advice}"
    ))
}

/// What a server answered to TLS, if that is not TLS.
#[cfg(feature = "tls")]
pub(crate) fn not_tls(first: &[u8]) -> Option<String> {
    let spoken = Spoken::of(first);
    let advice = match &spoken {
        Spoken::Tls { .. } => return None,
        Spoken::Nothing => {
            return Some(
                "the peer said nothing in TLS, as a server that does not speak it: if so, write http:// in the target"
                    .to_owned(),
            );
        }
        Spoken::Http2 => "write http:// in the target, or give the server a certificate",
        Spoken::Http1(_) => "look at the port, or write http:// in the target",
        _ => "another service listens there: look at the address and the port",
    };
    Some(format!(
        "the peer answered {spoken} and not in TLS: {advice}"
    ))
}

/// What a client began with at a port with TLS, if that is not TLS.
#[cfg(feature = "tls")]
pub(crate) fn client_without_tls(first: &[u8]) -> Option<String> {
    let spoken = Spoken::of(first);
    let advice = match &spoken {
        Spoken::Tls { .. } | Spoken::Nothing => return None,
        Spoken::Http1(_) | Spoken::Http2 => "its target has to be https://",
        _ => "it looks for another service",
    };
    Some(format!(
        "the client began {spoken} at a port with TLS: {advice}"
    ))
}

/// What a client began with at a port without TLS.
pub(crate) fn client_unknown(first: &[u8]) -> String {
    let spoken = Spoken::of(first);
    let advice = match &spoken {
        Spoken::Nothing => return "the client closed the connection and said nothing".to_owned(),
        Spoken::Tls { .. } => {
            "this port is without TLS: the target has to be http://, or this server needs a certificate"
        }
        _ => "it looks for another service",
    };
    format!("the client began {spoken}, which is neither HTTP/2 nor HTTP/1.1: {advice}")
}

/// A byte stream that remembers how its peer began.
#[cfg(feature = "tls")]
pub(crate) struct Begins<T> {
    pub(crate) io: T,
    first: Vec<u8>,
    /// The beginning is all there, or of no interest any more.
    done: bool,
}

#[cfg(feature = "tls")]
impl<T> Begins<T> {
    pub(crate) fn new(io: T) -> Self {
        Self {
            io,
            first: Vec::new(),
            done: false,
        }
    }

    /// What came first.
    pub(crate) fn first(&self) -> &[u8] {
        &self.first
    }

    /// Forgets it.
    pub(crate) fn forget(&mut self) {
        self.first = Vec::new();
        self.done = true;
    }
}

#[cfg(feature = "tls")]
impl<T: AsyncRead + Unpin> AsyncRead for Begins<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { io, first, done } = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(io).poll_read(cx, buffer);
        if !*done {
            let came = buffer.filled().get(before..).unwrap_or_default();
            let room = FIRST.saturating_sub(first.len());
            first.extend_from_slice(came.get(..room.min(came.len())).unwrap_or_default());
            *done = first.len() >= FIRST;
        }
        polled
    }
}

#[cfg(feature = "tls")]
impl<T: AsyncWrite + Unpin> AsyncWrite for Begins<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, octets)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The first octets of what a peer has said, for [`not_http2`].
pub(crate) fn first(octets: &[u8]) -> &[u8] {
    octets.get(..FIRST).unwrap_or(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_told_by_how_they_begin() {
        for (first, spoken) in [
            (
                &b"HTTP/1.1 400 Bad Request\r\nx: y"[..],
                "in HTTP/1.1 (\"HTTP/1.1 400 Bad Request\")",
            ),
            (b"HTTP/1.1", "in HTTP/1.1 (\"HTTP/1.1\")"),
            (b"GET / HTTP/1.1\r\n", "in HTTP/1.1 (\"GET / HTTP/1.1\")"),
            (
                b"SSH-2.0-OpenSSH_9.6\r\n",
                "in SSH (\"SSH-2.0-OpenSSH_9.6\")",
            ),
            (
                b"220 mail.example ESMTP\r\n",
                "as a server of mail or files (\"220 mail.example ESMTP\")",
            ),
            (
                b"-ERR unknown command",
                "with text (\"-ERR unknown command\")",
            ),
            (b"\x15\x03\x01\0\x02\x02\x46", "with a TLS alert"),
            (b"\x16\x03\x01\x02\0\x01", "in TLS"),
            (b"\x16\x03\x01", "in TLS"),
            (b"PRI * HTTP/2.0\r\n\r\n", "in HTTP/2"),
            (b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64", "in HTTP/2"),
            (
                b"\x4a\0\0\0\x0a8.0.36\0",
                "with the octets 4a 00 00 00 0a 38 2e 30 2e 33 36 00",
            ),
            (b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0b", "in HTTP/2"),
            (b"", "nothing"),
        ] {
            assert_eq!(Spoken::of(first).to_string(), spoken, "{first:?}");
        }
    }

    #[test]
    fn a_server_says_what_a_client_spoke() {
        for (first, parts) in [
            (&b"\x16\x03\x01\x02"[..], ["in TLS", "http://"]),
            (b"hell", ["\"hell\"", "another service"]),
            (b"\0\x01\x02\x03", ["00 01 02 03", "another service"]),
            (b"", ["said nothing", "closed"]),
        ] {
            let told = client_unknown(first);
            assert!(parts.iter().all(|part| told.contains(part)), "{told}");
        }
    }

    #[test]
    fn what_is_right_is_not_told() {
        assert_eq!(not_http2(b"\0\0\0\x04\0\0\0\0\0"), None);
        assert_eq!(not_http2(b""), None);
        #[cfg(feature = "tls")]
        {
            assert_eq!(not_tls(b"\x15\x03\x03\0\x02\x02\x28"), None);
            assert_eq!(client_without_tls(b"\x16\x03\x01\x02\0"), None);
            assert_eq!(client_without_tls(b""), None);
        }
    }
}
