//! The end of a server: [`ShutdownHandle`], [`ShutdownHook`], [`ServerDraining`].

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;

use crate::BoxFuture;

/// How long a connection that has said nothing yet may take to say it once the server ends: what is
/// on its way arrives, and who is silent costs no more than that.
const LATE: Duration = Duration::from_millis(50);
/// The same for a TLS handshake, which takes round trips, and many of them a busy server's time.
#[cfg(feature = "tls")]
const LATE_HANDSHAKE: Duration = Duration::from_millis(500);

/// What happens first when a server ends, such as leaving a registry.
pub trait ShutdownHook: Send + Sync + 'static {
    /// Runs before clients are told to go away, beside the other hooks.
    ///
    /// After half of the drain timeout they are told without it, and at the end of the drain timeout
    /// it is dropped where it is.
    fn shutdown(&self) -> BoxFuture<'_, ()>;
}

/// How far the end of a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    Ending,
    /// Nothing is waited for any more.
    Now,
}

/// Starts the graceful end of a server.
#[derive(Clone, Debug)]
pub struct ShutdownHandle(watch::Sender<Phase>);

impl ShutdownHandle {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Phase::Serving))
    }

    /// Runs the hooks, tells the clients to go away, lets open calls end, closes; all of it within the
    /// drain timeout. A second call waits for nothing any more: open calls are cut.
    ///
    /// Returns at once; `serve` returns when all of it is done.
    pub fn shutdown(&self) {
        self.0.send_modify(|phase| {
            *phase = match phase {
                Phase::Serving => Phase::Ending,
                Phase::Ending | Phase::Now => Phase::Now,
            };
        });
    }

    pub(crate) fn is_requested(&self) -> bool {
        *self.0.borrow() >= Phase::Ending
    }

    pub(crate) async fn requested(&self) {
        self.reached(Phase::Ending).await;
    }

    /// The end was asked for, and whoever was about to say something has had the time for it.
    pub(crate) async fn requested_and_late(&self) {
        self.requested().await;
        tokio::time::sleep(LATE).await;
    }

    /// The same for who is about to shake hands.
    #[cfg(feature = "tls")]
    pub(crate) async fn requested_and_late_for_tls(&self) {
        self.requested().await;
        tokio::time::sleep(LATE_HANDSHAKE).await;
    }

    /// The end was asked for a second time.
    pub(crate) async fn requested_again(&self) {
        self.reached(Phase::Now).await;
    }

    async fn reached(&self, phase: Phase) {
        let mut current = self.0.subscribe();
        // The handle holds a sender, so this cannot fail before it is true.
        let _ = current.wait_for(|current| *current >= phase).await;
    }
}

/// When the server of a call drains: given by [`Request::server_draining`](crate::Request::server_draining).
///
/// A future that is ready from the moment at which clients are told to go away; it can be asked again,
/// and dropping it loses nothing. A call that ends in time after that is answered as any other; one
/// that does not is cut at the drain timeout.
#[derive(Default)]
pub struct ServerDraining {
    end: Option<ShutdownHandle>,
    waiting: Option<BoxFuture<'static, ()>>,
}

impl ServerDraining {
    pub(crate) fn new(end: Option<ShutdownHandle>) -> Self {
        Self { end, waiting: None }
    }

    /// Whether it drains already.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.end.as_ref().is_some_and(ShutdownHandle::is_requested)
    }
}

impl Clone for ServerDraining {
    fn clone(&self) -> Self {
        Self::new(self.end.clone())
    }
}

impl std::fmt::Debug for ServerDraining {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServerDraining({})", self.has_begun())
    }
}

impl Future for ServerDraining {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.has_begun() {
            this.waiting = None;
            return Poll::Ready(());
        }
        let Some(end) = &this.end else {
            return Poll::Pending;
        };
        let waiting = this.waiting.get_or_insert_with(|| {
            let end = end.clone();
            Box::pin(async move { end.requested().await })
        });
        waiting.as_mut().poll(cx)
    }
}
