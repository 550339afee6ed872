//! Which endpoint takes a call: [`LoadBalancer`] and [`Picker`].

use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::subchannel::Subchannel;
use super::tracker::CallTracker;
use crate::Status;

/// The state of the connection to one endpoint.
///
/// Source: <https://github.com/grpc/grpc/blob/master/doc/connectivity-semantics-and-api.md>.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectivityState {
    /// Not connected, and nobody asked for it.
    Idle,
    /// A connection is being opened for the first time since it last worked.
    Connecting,
    /// Connected.
    Ready,
    /// The last connection attempt failed; it stays so until one succeeds.
    TransientFailure,
}

/// One endpoint as a balancer sees it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Names the subchannel; the same across updates for as long as the endpoint is listed.
    pub id: u64,
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// The state of its connection.
    pub state: ConnectivityState,
    /// Why the last connection attempt failed.
    pub last_error: Option<Status>,
    /// What a picker gives out.
    pub subchannel: Subchannel,
}

/// Decides which endpoints to connect to and how to choose among them.
///
/// Runs in the channel's control task, never in a call.
pub trait LoadBalancer: Send + 'static {
    /// The name of the policy, for logs.
    fn name(&self) -> &'static str;

    /// Called with all endpoints whenever one of them, or the state of one, has changed.
    fn update(&mut self, candidates: &[Candidate], now: Instant) -> Update;

    /// When [`update`](Self::update) is to be called though nothing has changed; by default never.
    fn next_update(&self) -> Option<Instant> {
        None
    }
}

/// Asks for [`LoadBalancer::update`] to be called soon though nothing has changed: how a picker tells
/// its balancer of what calls have shown.
#[derive(Debug, Default)]
pub struct Updates(Notify);

impl Updates {
    /// Asks for an update; any number of times until it happens is once.
    pub fn request(&self) {
        self.0.notify_one();
    }

    pub(crate) async fn requested(&self) {
        self.0.notified().await;
    }
}

/// What a balancer decided.
#[derive(Clone)]
pub struct Update {
    /// The candidates to connect to and to keep connected, with backoff.
    pub connect: Vec<u64>,
    /// What calls ask from now on.
    pub picker: Arc<dyn Picker>,
}

/// An immutable snapshot that every call asks where to go; it must not block.
pub trait Picker: Send + Sync + 'static {
    /// Chooses for one attempt of one call.
    fn pick(&self, context: &PickContext<'_>) -> Pick;
}

/// What a picker may know of the call.
#[derive(Clone, Copy, Debug)]
pub struct PickContext<'a> {
    /// The path of the method.
    pub path: &'a str,
    /// The caller's key for hashing policies.
    pub hash_key: Option<u64>,
    /// Candidates that this call has failed on already; another one is better if there is one.
    pub avoid: &'a [u64],
    /// A fresh random number.
    pub random: u64,
    /// The time.
    pub now: Instant,
    /// The way to the balancer.
    pub updates: &'a Updates,
}

/// Where an attempt goes.
#[derive(Clone)]
pub enum Pick {
    /// To this endpoint; the tracker is told when the attempt starts and ends.
    To(Subchannel, Option<Arc<dyn CallTracker>>),
    /// Nowhere yet: something is connecting, so ask the next picker.
    Wait,
    /// Nowhere: every candidate is failing. A call that waits for ready asks the next picker instead.
    Fail(Status),
}
