//! One endpoint and the connections to it: [`Subchannel`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::backoff::{Backoff, Range};
use super::balancer::ConnectivityState;
use super::endpoint::Endpoint;
use super::idle::Activity;
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
    /// As the resolver has described it last.
    endpoint: ArcSwap<Endpoint>,
    name: Arc<str>,
    /// One, unless the channel was told to have more.
    connections: Box<[ArcSwapOption<Connection>]>,
    /// The place of the next call's connection, when there are several.
    turn: AtomicUsize,
    /// How many changes of state the control task was told of.
    reported: AtomicU64,
    detached_ready: bool,
}

impl Subchannel {
    pub(crate) fn new(id: u64, endpoint: Arc<Endpoint>, count: usize) -> Self {
        let name = endpoint.address.to_string().into();
        let connections = std::iter::repeat_with(ArcSwapOption::empty);
        Self(Arc::new(Inner {
            id,
            endpoint: ArcSwap::new(endpoint),
            name,
            connections: connections.take(count).collect(),
            turn: AtomicUsize::new(0),
            reported: AtomicU64::new(0),
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
            endpoint: ArcSwap::from_pointee(endpoint),
            name,
            connections: Box::default(),
            turn: AtomicUsize::new(0),
            reported: AtomicU64::new(0),
            detached_ready: ready,
        }))
    }

    /// The id of its [`Candidate`](super::Candidate).
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// The endpoint, with the weight and the metadata that it has now.
    #[must_use]
    pub fn endpoint(&self) -> Arc<Endpoint> {
        self.0.endpoint.load_full()
    }

    /// Takes in what the resolver says of the endpoint now; its address stays.
    pub(crate) fn describe(&self, endpoint: Arc<Endpoint>) {
        self.0.endpoint.store(endpoint);
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

    /// What was and is done on its connections.
    pub(crate) fn activity(&self) -> Activity {
        let all = self.0.connections.iter();
        let there = all.filter_map(ArcSwapOption::load_full);
        there
            .map(|one| one.activity())
            .fold(Activity::default(), Activity::add)
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
    wanted: watch::Sender<Wanted>,
    retry_now: Vec<Arc<Notify>>,
}

/// What the balancer wants, and what it knew of when it said so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wanted {
    connected: bool,
    /// How many changes of state it had seen.
    seen: u64,
}

impl Steering {
    /// Says whether there should be connections, in view of so many changes of state.
    pub(crate) fn want(&self, connected: bool, seen: u64) {
        let wanted = Wanted { connected, seen };
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
    backoff: Range,
    changes: &mpsc::UnboundedSender<StateChange>,
) -> Steering {
    let (wanted, wants) = watch::channel(Wanted::default());
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
            backoff: Backoff::new(backoff),
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
    wants: watch::Receiver<Wanted>,
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
            let started = Instant::now();
            // What was said before this attempt is not said of its failure.
            std::pin::pin!(self.retry_now.notified()).enable();
            let endpoint = self.subchannel.endpoint();
            let dialed = tokio::select! {
                dialed = self.dialer.dial(&endpoint) => dialed,
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
                None => self.backoff.reset(),
                Some(error) => {
                    failing = true;
                    let wait = self.backoff.next(self.random.fraction());
                    tracing::info!(endpoint = %self.subchannel.name(), %error, ?wait, "connection failed: ejected until it connects");
                    self.report(ConnectivityState::TransientFailure, Some(error));
                    tokio::select! {
                        () = tokio::time::sleep_until(started + wait) => {}
                        () = self.retry_now.notified() => self.backoff.reset(),
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

    /// Waits until a connection is wanted by a balancer that knows of the state; false when the channel
    /// is gone, whatever it wanted last.
    async fn wanted(&mut self) -> bool {
        let reported = self.subchannel.0.reported.load(Ordering::Relaxed);
        let is_wanted = |wanted: &Wanted| wanted.connected && wanted.seen >= reported;
        self.wants.has_changed().is_ok() && self.wants.wait_for(is_wanted).await.is_ok()
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
        if since.elapsed() >= LONG_LIVED
            || connection.has_answered()
            || !self.wants.borrow().connected
        {
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
        self.subchannel.0.reported.fetch_add(1, Ordering::Relaxed);
        // Nobody listens once the channel is gone, and then nobody needs to know.
        let _ = self.changes.send(StateChange {
            id: self.subchannel.id(),
            state,
            error,
        });
    }
}

async fn gone(mut wants: watch::Receiver<Wanted>) {
    // An error means that the channel is gone.
    let _ = wants.wait_for(|wanted| !wanted.connected).await;
}
