//! The accept loop, and the connections that it has accepted.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::connection::Served;
use super::listener::Listener;
use super::places::{Places, Seat};
use super::shutdown::ShutdownHandle;
use crate::request::PeerAddr;
use crate::transport::connector::Io;

/// How long a TLS handshake may take.
#[cfg(feature = "tls")]
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long accepting rests when the system has nothing left to accept with.
const REST: Duration = Duration::from_millis(50);

/// What the accept loops of a server share.
#[derive(Clone)]
pub(super) struct Accepting {
    /// A place for each connection that may be open.
    pub(super) places: Places,
    pub(super) served: Served,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<crate::ServerTls>,
    pub(super) user_timeout: Option<Duration>,
    /// Ends accepting, and lets the connections come to their ends.
    pub(super) goaway: ShutdownHandle,
}

impl Accepting {
    /// Accepts until the end is announced, then waits until the connections are done.
    pub(super) async fn run(self, listener: Listener) {
        let mut connections = JoinSet::new();
        // What was accepted and waits for a place.
        let mut waits = None;
        let accept = async {
            loop {
                match listener.accept(self.user_timeout).await {
                    Ok(accepted) => {
                        while connections.try_join_next().is_some() {}
                        waits = Some(accepted);
                        let taken = self.places.take().await;
                        let Some((io, peer)) = waits.take() else {
                            continue;
                        };
                        let accepting = self.clone();
                        connections.spawn(async move {
                            let seat = Arc::clone(&taken.seat);
                            accepting.connection(io, peer, seat).await;
                            drop(taken);
                        });
                    }
                    // It was gone before it was accepted; the next one is not worse for that.
                    Err(error) if is_of_connection(&error) => {
                        tracing::debug!(%error, "a connection ended before it was accepted");
                    }
                    Err(error) => {
                        tracing::warn!(%error, "accepting a connection failed; accepting goes on");
                        tokio::time::sleep(REST).await;
                    }
                }
            }
        };
        tokio::select! {
            () = accept => {}
            () = self.goaway.requested() => {}
        }
        // What the system has accepted hears of the end as the others do.
        let waiting = listener.into_waiting(self.user_timeout);
        for (io, peer) in waits.into_iter().chain(waiting) {
            connections.spawn(self.clone().connection(io, peer, Seat::free()));
        }
        while connections.join_next().await.is_some() {}
    }

    async fn connection(self, io: Box<dyn Io>, peer: PeerAddr, seat: Arc<Seat>) {
        #[cfg(feature = "tls")]
        if let Some(tls) = self.tls {
            let shaken = tokio::select! {
                biased;
                shaken = tokio::time::timeout(HANDSHAKE, tls.accept(io)) => shaken,
                () = self.goaway.requested_and_late_for_tls() => {
                    tracing::debug!(%peer, "the server ended during a TLS handshake");
                    return;
                }
                () = seat.left() => {
                    tracing::debug!(%peer, "another client needs the place of a TLS handshake");
                    return;
                }
            };
            match shaken {
                Ok(Ok(io)) => self.served.serve_at(seat, io, peer, self.goaway).await,
                Ok(Err((error, io))) => {
                    tracing::debug!(%peer, %error, "a TLS handshake failed");
                    self.served.close(io).await;
                }
                Err(_) => tracing::debug!(%peer, "a TLS handshake took longer than 10 s"),
            }
            return;
        }
        self.served.serve_at(seat, io, peer, self.goaway).await;
    }
}

/// Whether accepting failed because of the one connection that was to be accepted.
fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::ConnectionRefused
            | Kind::NotConnected
            | Kind::InvalidInput
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
    )
}
