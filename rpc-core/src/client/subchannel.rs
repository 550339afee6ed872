//! One endpoint and the connections to it: [`Subchannel`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::balancer::ConnectivityState;
use super::endpoint::Endpoint;
use super::random::Random;
use crate::Status;
use crate::transport::http2::client::Connection;
use crate::transport::target::Dialer;

/// How long a connection that has answered no call has to live for the next attempt to start without
/// backoff.
const LONG_LIVED: Duration = Duration::from_secs(1);

/// A handle on one endpoint and the connections to it; cheap to clone.
#[derive(Clone, Debug)]
pub struct Subchannel(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: u64,
    endpoint: Arc<Endpoint>,
    name: Arc<str>,
    /// One, unless the channel was told to have more.
    connections: Box<[ArcSwapOption<Connection>]>,
    /// The place of the next call's connection, when there are several.
    turn: AtomicUsize,
    detached_ready: bool,
}

impl Subchannel {
    pub(crate) fn new(id: u64, endpoint: Arc<Endpoint>, count: usize) -> Self {
        let name = endpoint.address.to_string().into();
        let connections = std::iter::repeat_with(ArcSwapOption::empty);
        Self(Arc::new(Inner {
            id,
            endpoint,
            name,
            connections: connections.take(count).collect(),
            turn: AtomicUsize::new(0),
            detached_ready: false,
        }))
    }

    /// A handle without a connection, for tests of pickers; its id is the port of a TCP address.
    #[must_use]
    pub fn detached(endpoint: Endpoint, ready: bool) -> Self {
        let id = match &endpoint.address {
            super::Address::Tcp { port, .. } => u64::from(*port),
            _ => 0,
        };
        let name = endpoint.address.to_string().into();
        Self(Arc::new(Inner {
            id,
            endpoint: Arc::new(endpoint),
            name,
            connections: Box::default(),
            turn: AtomicUsize::new(0),
            detached_ready: ready,
        }))
    }

    /// The id of its [`Candidate`](super::Candidate).
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// The endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    /// Whether calls can be sent to it now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.detached_ready
            || self.0.connections.iter().any(|connection| {
                let connection = connection.load();
                connection.as_ref().is_some_and(|one| one.is_usable())
            })
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// The connection of the next call: each in turn, and those that cannot be used left out.
    pub(crate) fn connection(&self) -> Option<Arc<Connection>> {
        let all = &*self.0.connections;
        let usable = |connection: &ArcSwapOption<Connection>| {
            connection.load_full().filter(|one| one.is_usable())
        };
        if let [only] = all {
            return usable(only);
        }
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed);
        let (before, from) = all.split_at(turn.checked_rem(all.len())?);
        from.iter().chain(before).find_map(usable)
    }
}

/// A change of a subchannel's state.
#[derive(Debug)]
pub(crate) struct StateChange {
    pub(crate) id: u64,
    pub(crate) state: ConnectivityState,
    pub(crate) error: Option<Status>,
}

/// How the control task steers a subchannel's tasks; dropping it ends them.
#[derive(Debug)]
pub(crate) struct Steering {
    wanted: watch::Sender<bool>,
    retry_now: Vec<Arc<Notify>>,
}

impl Steering {
    /// Says whether there should be connections.
    pub(crate) fn want(&self, wanted: bool) {
        self.wanted
            .send_if_modified(|current| std::mem::replace(current, wanted) != wanted);
    }

    /// Ends the wait between attempts to connect.
    pub(crate) fn retry_now(&self) {
        self.retry_now.iter().for_each(|notify| notify.notify_one());
    }
}

/// Keeps one endpoint connected for as long as that is wanted.
pub(crate) fn start(
    subchannel: &Subchannel,
    dialer: &Arc<Dialer>,
    random: &Arc<Random>,
    changes: &mpsc::UnboundedSender<StateChange>,
) -> Steering {
    let (wanted, wants) = watch::channel(false);
    let start = |place| {
        let retry_now = Arc::new(Notify::new());
        let runner = Runner {
            subchannel: subchannel.clone(),
            place,
            dialer: Arc::clone(dialer),
            random: Arc::clone(random),
            changes: changes.clone(),
            wants: wants.clone(),
            retry_now: Arc::clone(&retry_now),
            backoff: Backoff::default(),
        };
        tokio::spawn(runner.run());
        retry_now
    };
    let retry_now = (0..subchannel.0.connections.len()).map(start).collect();
    Steering { wanted, retry_now }
}

/// Keeps one connection of an endpoint open.
struct Runner {
    subchannel: Subchannel,
    /// Which of the connections.
    place: usize,
    dialer: Arc<Dialer>,
    random: Arc<Random>,
    changes: mpsc::UnboundedSender<StateChange>,
    wants: watch::Receiver<bool>,
    retry_now: Arc<Notify>,
    backoff: Backoff,
}

impl Runner {
    async fn run(mut self) {
        let mut failing = false;
        while self.wanted().await {
            if !failing {
                self.report(ConnectivityState::Connecting, None);
            }
            let dialed = tokio::select! {
                dialed = self.dialer.dial(self.subchannel.endpoint()) => dialed,
                () = gone(self.wants.clone()) => continue,
            };
            let failure = match dialed {
                Ok(connection) => {
                    failing = false;
                    self.serve(connection).await
                }
                Err(error) => Some(error),
            };
            match failure {
                None => self.backoff = Backoff::default(),
                Some(error) => {
                    failing = true;
                    let wait = self.backoff.next(self.random.fraction());
                    tracing::info!(endpoint = %self.subchannel.name(), %error, ?wait, "connection failed: ejected until it connects");
                    self.report(ConnectivityState::TransientFailure, Some(error));
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = self.retry_now.notified() => self.backoff = Backoff::default(),
                        () = gone(self.wants.clone()) => {}
                    }
                }
            }
        }
        self.store(None);
    }

    fn store(&self, connection: Option<Arc<Connection>>) {
        if let Some(place) = self.subchannel.0.connections.get(self.place) {
            place.store(connection);
        }
    }

    /// Waits until a connection is wanted; false when the channel is gone, whatever it wanted last.
    async fn wanted(&mut self) -> bool {
        self.wants.has_changed().is_ok() && self.wants.wait_for(|wanted| *wanted).await.is_ok()
    }

    /// Gives the connection to calls until it takes no more; says why when it did not live long enough.
    async fn serve(&mut self, connection: Connection) -> Option<Status> {
        let since = Instant::now();
        let connection = Arc::new(connection);
        tracing::info!(endpoint = %self.subchannel.name(), "connected");
        self.store(Some(Arc::clone(&connection)));
        self.report(ConnectivityState::Ready, None);
        tokio::select! {
            () = connection.unusable() => {}
            () = gone(self.wants.clone()) => {}
        }
        self.store(None);
        if connection.has_asked_too_often() {
            self.dialer.ask_less_often();
            tracing::warn!(endpoint = %self.subchannel.name(), "the server does not allow as many keepalive PINGs; the next connection sends half as many");
        }
        tracing::info!(endpoint = %self.subchannel.name(), "disconnected");
        self.report(ConnectivityState::Idle, None);
        if since.elapsed() >= LONG_LIVED || connection.has_answered() || !*self.wants.borrow() {
            return None;
        }
        let name = self.subchannel.name();
        Some(Status::unavailable(match connection.why_unusable() {
            Some(why) => format!("{name} closed the connection at once: {why}"),
            None => format!("{name} closed the connection at once"),
        }))
    }

    fn report(&self, state: ConnectivityState, error: Option<Status>) {
        // As long as another connection is there, the endpoint is ready.
        if state != ConnectivityState::Ready && self.subchannel.is_ready() {
            return;
        }
        // Nobody listens once the channel is gone, and then nobody needs to know.
        let _ = self.changes.send(StateChange {
            id: self.subchannel.id(),
            state,
            error,
        });
    }
}

async fn gone(mut wants: watch::Receiver<bool>) {
    // An error means that the channel is gone.
    let _ = wants.wait_for(|wanted| !wanted).await;
}

/// The wait between connection attempts: 1 s, times 1.6 each, at most 120 s, give or take a fifth.
///
/// Source: <https://github.com/grpc/grpc/blob/master/doc/connection-backoff.md>.
#[derive(Debug, Default)]
struct Backoff {
    failures: i32,
}

impl Backoff {
    fn next(&mut self, random: f64) -> Duration {
        let base = (1.6f64.powi(self.failures)).min(120.0);
        self.failures = self.failures.saturating_add(1);
        Duration::from_secs_f64(base * (0.8 + 0.4 * random))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_two_minutes_with_jitter() {
        let mut backoff = Backoff::default();
        let waits: Vec<f64> = (0..15).map(|_| backoff.next(0.5).as_secs_f64()).collect();
        assert!(
            (waits[0] - 1.0).abs() < 1e-9
                && (waits[1] - 1.6).abs() < 1e-9
                && (waits[2] - 2.56).abs() < 1e-9
        );
        assert!((waits[14] - 120.0).abs() < 1e-9);
        assert_eq!(Backoff::default().next(0.0), Duration::from_millis(800));
        assert_eq!(Backoff::default().next(1.0), Duration::from_millis(1200));
    }
}
