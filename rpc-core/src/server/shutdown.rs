//! The end of a server: [`ShutdownHandle`], [`ShutdownHook`].

use tokio::sync::watch;

use crate::BoxFuture;

/// What happens first when a server ends, such as leaving a registry.
pub trait ShutdownHook: Send + Sync + 'static {
    /// Runs before clients are told to go away.
    fn shutdown(&self) -> BoxFuture<'_, ()>;
}

/// Starts the graceful end of a server.
#[derive(Clone, Debug)]
pub struct ShutdownHandle(pub(crate) watch::Sender<bool>);

impl ShutdownHandle {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Runs the hooks, tells the clients to go away, lets open calls end within the drain timeout,
    /// closes. Returns at once; `serve` returns when all of it is done.
    pub fn shutdown(&self) {
        self.0.send_replace(true);
    }

    pub(crate) async fn requested(&self) {
        let mut requested = self.0.subscribe();
        // The handle holds a sender, so this cannot fail before it is true.
        let _ = requested.wait_for(|requested| *requested).await;
    }
}
