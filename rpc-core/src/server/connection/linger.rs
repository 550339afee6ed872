//! The end of a connection whose client may still be sending.
//!
//! A socket that is closed while there is unread input resets its connection, and a reset takes away
//! from the client what it has not read: why the connection ended, or the end of a response.

use std::time::Duration;

use rpc_http2::frame::{FrameHeader, kind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::server::load::Load;
use crate::transport::connector::Io;

/// So much is read of what nobody wants.
const MOST: u64 = 64 * 1024;
/// How long the client may take to close its side.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a client that was turned away may take to close its side.
const HURRY: Duration = Duration::from_millis(50);
/// The last stream that was looked at, and NO_ERROR.
const NOTHING_TAKEN: [u8; 8] = [0; 8];

/// Ends a connection that nothing was read from: tells a client of HTTP/2 that none of its calls
/// were looked at, so that it can make them elsewhere (RFC 9113 sections 3.4 and 6.8).
pub(super) async fn turn_away(mut io: Box<dyn Io>) {
    let header = |kind, length| {
        let header = FrameHeader {
            length,
            kind,
            flags: 0,
            stream: 0,
        };
        header.encode()
    };
    let going = [
        &header(kind::SETTINGS, 0)[..],
        &header(kind::GOAWAY, 8)[..],
        &NOTHING_TAKEN[..],
    ]
    .concat();
    let end = async {
        io.write_all(&going).await?;
        io.shutdown().await?;
        tokio::io::copy(&mut io.take(MOST), &mut tokio::io::sink()).await
    };
    // Whatever comes of it, nothing is left to say.
    let _ = tokio::time::timeout(HURRY, end).await;
}

/// Ends this side, then reads and forgets until the client has ended its side.
///
/// When many connections do so already, this one just closes.
pub(super) async fn linger(mut io: Box<dyn Io>, load: &Load) {
    let place = load.linger();
    let end = async {
        io.shutdown().await?;
        if place.is_some() {
            tokio::io::copy(&mut io.take(MOST), &mut tokio::io::sink()).await?;
        }
        std::io::Result::Ok(())
    };
    // Whatever comes of it, nothing is left to say.
    let _ = tokio::time::timeout(PATIENCE, end).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Options;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_close_is_left_after_a_second() {
        let load = Load::new(&Options::default());
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let start = Instant::now();
        let lingering = linger(Box::new(ours), &load);
        let (_, read) = tokio::join!(lingering, async {
            theirs.write_all(&[1; 500]).await.unwrap();
            theirs.read(&mut [0]).await.unwrap()
        });
        assert_eq!((read, start.elapsed()), (0, PATIENCE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_goes_on_sending_is_left_after_64_kib() {
        let load = Load::new(&Options::default());
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let start = Instant::now();
        let lingering = linger(Box::new(ours), &load);
        let sending = async { theirs.write_all(&[1; 2 * MOST as usize]).await };
        let (_, sent) = tokio::join!(lingering, sending);
        assert!(sent.is_err() && start.elapsed() < PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_linger() {
        let load = Load::new(&Options::default());
        let places: Vec<_> = std::iter::from_fn(|| load.linger()).collect();
        assert_eq!(places.len(), 64);
        let (ours, _theirs) = tokio::io::duplex(1024);
        let start = Instant::now();
        linger(Box::new(ours), &load).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        drop(places);
        assert!(load.linger().is_some());
    }
}
