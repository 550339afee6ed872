//! Reading and writing a connection's byte stream in batches.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use rpc_http2::Output;
use tokio::io::ReadBuf;

use crate::lock::Turn;
use crate::transport::connector::Io;

/// How much is read at a time.
const READ: usize = 64 * 1024;
/// The largest piece of a frame that may wait for its rest.
const CARRIED: usize = 128 * 1024;
/// How many pieces are written at a time.
const SLICES: usize = 64;

thread_local! {
    /// What is read into; a connection has memory of its own only for a frame that is not whole.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What has been read and not been taken, from one read to the next.
#[derive(Debug, Default)]
pub(crate) struct Carried(Vec<u8>);

impl Carried {
    pub(crate) fn octets(&self) -> &[u8] {
        &self.0
    }
}

/// The byte stream of a connection and what is under way on it.
pub(crate) struct Wire {
    pub(crate) io: Box<dyn Io>,
    pub(crate) carried: Carried,
    pub(crate) writing: Output,
}

impl Wire {
    /// A stream of which these octets were read already.
    pub(crate) fn new(io: Box<dyn Io>, read: Vec<u8>) -> Self {
        Self {
            io,
            carried: Carried(read),
            writing: Output::default(),
        }
    }

    /// Gives the stream up, whoever still holds a call of the connection; gives it to who has something
    /// left to do with it.
    pub(crate) fn close(&mut self) -> Box<dyn Io> {
        self.writing = Output::default();
        self.carried = Carried::default();
        std::mem::replace(&mut self.io, Box::new(tokio::io::empty()))
    }
}

/// Writes from where something is sent, when nobody else is at the wire; whether all is written.
///
/// What is alone on its connection has nobody to share a write with, so that waking the driver for it
/// would only take longer. When not all is written, the driver has to go on with it.
pub(crate) fn write_now(wire: &Turn<Wire>, take: impl FnOnce(&mut Output)) -> bool {
    let Some(mut wire) = wire.try_take() else {
        return false;
    };
    let Wire { io, writing, .. } = &mut *wire;
    if writing.is_empty() {
        take(writing);
    }
    let mut unwatched = Context::from_waker(Waker::noop());
    // TLS may keep something back that it has taken.
    matches!(
        poll_write(&mut **io, writing, &mut unwatched),
        Poll::Ready(Ok(()))
    ) && matches!(
        Pin::new(&mut **io).poll_flush(&mut unwatched),
        Poll::Ready(Ok(()))
    )
}

/// Reads once and passes on what is there, with what was left before in front.
///
/// `take` says how much it did not take. Gives the number of octets that were read, 0 at the end.
pub(crate) fn poll_read<R>(
    io: &mut dyn Io,
    carried: &mut Carried,
    cx: &mut Context<'_>,
    take: impl FnOnce(&mut &[u8]) -> R,
) -> Poll<io::Result<(usize, R)>> {
    SCRATCH.with(|scratch| {
        // A handler that runs inside may drive another connection on this thread.
        let mut own = Vec::new();
        let mut borrowed = scratch.try_borrow_mut();
        let scratch = match &mut borrowed {
            Ok(scratch) => &mut **scratch,
            Err(_) => &mut own,
        };
        let before = carried.0.len();
        if before > CARRIED {
            return Poll::Ready(Err(io::Error::other("a frame does not end")));
        }
        if scratch.len() < before + READ {
            scratch.resize(before + READ, 0);
        }
        let mut buffer = ReadBuf::new(&mut scratch[before..before + READ]);
        let result = Pin::new(io).poll_read(cx, &mut buffer);
        let count = buffer.filled().len();
        match result {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => {}
        }
        scratch[..before].copy_from_slice(&carried.0);
        let mut input = &scratch[..before + count];
        let result = take(&mut input);
        carried.0.clear();
        carried.0.shrink_to(1024);
        carried.0.extend_from_slice(input);
        Poll::Ready(Ok((count, result)))
    })
}

/// Writes as much as the stream takes; ready when all is written.
pub(crate) fn poll_write(
    io: &mut dyn Io,
    output: &mut Output,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while !output.is_empty() {
        let result = match output.plain() {
            Some(octets) => Pin::new(&mut *io).poll_write(cx, octets),
            None => {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let count = output.slices(&mut slices);
                Pin::new(&mut *io).poll_write_vectored(cx, &slices[..count])
            }
        };
        match result {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(count)) => output.advance(count),
        }
    }
    Poll::Ready(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes everything and has written nothing, as TLS over a socket that is full.
    struct Keeps;

    impl tokio::io::AsyncRead for Keeps {
        fn poll_read(
            self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            _buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl tokio::io::AsyncWrite for Keeps {
        fn poll_write(
            self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            octets: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(octets.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn what_a_stream_keeps_back_is_not_written() {
        let now = std::time::Instant::now();
        let config = rpc_http2::Config::default();
        let mut machine = rpc_http2::Connection::new(rpc_http2::Role::Client, config, now);
        let wire = Turn::new(Wire::new(Box::new(Keeps), Vec::new()));
        assert!(machine.has_output());
        assert!(!write_now(&wire, |output| machine.take_output(output, now)));
        assert!(!machine.has_output());
    }
}
