//! Connections that are pipes, and frames to put into them.

use std::io;

use rpc_core::client::Address;
use rpc_core::{BoxFuture, Connector, Io};
use rpc_http2::frame::{FrameHeader, HEADER};
use rpc_http2::hpack::{Encoder, Template};
use tokio::io::{AsyncRead, AsyncReadExt as _, DuplexStream};
use tokio::sync::mpsc;

/// A connector whose streams are pipes; the test has their other ends.
pub(crate) struct Pipes(mpsc::UnboundedSender<DuplexStream>);

/// A connector, and the other ends of what it opens; without them it is refused.
pub(crate) fn pipes() -> (Pipes, mpsc::UnboundedReceiver<DuplexStream>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Pipes(sender), receiver)
}

impl Connector for Pipes {
    fn connect<'a>(&'a self, _address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let sent = self.0.send(theirs);
        Box::pin(async move {
            sent.map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
            Ok(Box::new(ours) as Box<dyn Io>)
        })
    }
}

/// The header block of these fields, without the memory of a connection.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut template = Template::new(fields.iter().copied().collect());
    let (mut encoder, mut block) = (Encoder::default(), Vec::new());
    encoder.begin(&mut block);
    encoder.template(&mut template, &mut block);
    block
}

/// The head of a response of gRPC.
pub(crate) fn response() -> Vec<u8> {
    block(&[(":status", "200"), ("content-type", "application/grpc")])
}

/// The head of a call.
pub(crate) fn request(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "test"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ];
    block(&[&fields[..], more].concat())
}

/// Reads frames until this many of a kind have come.
pub(crate) async fn read_frames(from: &mut (impl AsyncRead + Unpin), kind: u8, count: usize) {
    for _ in 0..count {
        loop {
            let mut header = [0; HEADER];
            from.read_exact(&mut header).await.unwrap();
            let header = FrameHeader::parse(&header);
            let mut payload = vec![0; header.length as usize];
            from.read_exact(&mut payload).await.unwrap();
            if header.kind == kind {
                break;
            }
        }
    }
}

/// Reads and forgets until there is nothing more.
pub(crate) async fn read_to_end(from: &mut (impl AsyncRead + Unpin)) {
    let mut rest = vec![0; 64 * 1024];
    while from.read(&mut rest).await.is_ok_and(|count| count > 0) {}
}
