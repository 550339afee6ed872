//! Calls on a schedule that does not wait for anybody: [`Load`].

use std::cell::RefCell;
use std::time::{Duration, Instant};

use rpc_core::client::FinishedCall;
use rpc_core::{Channel, Request, Status};
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use crate::Ticker;
use crate::orders::{FollowRequest, Order, OrdersClient};

/// How many events a stream has.
pub const EVENTS: u32 = 20;

/// What a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A unary call that may be repeated.
    Look,
    /// A unary call that must not be.
    Place,
    /// A stream that is taken up again where it was lost.
    Follow,
}

/// How a call ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// As it should.
    Ok,
    /// As it should, after its stream was lost and taken up again.
    Resumed,
    /// With this.
    Failed(Status),
}

/// A call that has ended.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its number, from 1; different for every call.
    pub id: u64,
    /// What it was.
    pub kind: Kind,
    /// When its time came.
    pub scheduled: Instant,
    /// When it was over.
    pub ended: Instant,
    /// The endpoint of its last attempt.
    pub endpoint: Option<String>,
    /// How many attempts it took.
    pub attempts: u32,
    /// How it ended.
    pub outcome: Outcome,
}

impl Record {
    /// Whether it ran out of time, and the machine stood still for a tenth of that or more: such a
    /// failure says more of the machine than of the service.
    #[must_use]
    pub fn is_of_the_machine(&self, ticker: &Ticker) -> bool {
        let late = self
            .failure()
            .is_some_and(|status| status.code() == rpc_core::Code::DeadlineExceeded);
        late && ticker.stalled(self.scheduled, self.ended) >= self.latency() / 10
    }

    /// Whether it was under way at some moment between these two.
    #[must_use]
    pub fn in_flight(&self, from: Instant, to: Instant) -> bool {
        self.scheduled <= to && self.ended >= from
    }

    /// From its time on the schedule to its end.
    #[must_use]
    pub fn latency(&self) -> Duration {
        self.ended - self.scheduled
    }

    /// Why it failed.
    #[must_use]
    pub fn failure(&self) -> Option<&Status> {
        match &self.outcome {
            Outcome::Failed(status) => Some(status),
            Outcome::Ok | Outcome::Resumed => None,
        }
    }
}

/// Stops a load when it is dropped.
#[derive(Debug)]
pub struct Stop(#[expect(dead_code, reason = "its end is the signal")] oneshot::Sender<()>);

tokio::task_local! {
    /// What the observer saw of the calls of this task.
    static SEEN: RefCell<(Option<String>, u32)>;
}

/// An open-loop load: a call counts when its time has come, whether or not it could start.
#[derive(Clone, Debug)]
pub struct Load {
    orders: OrdersClient,
    /// Calls a second.
    pub rate: u32,
    /// What a call may take from its time on the schedule to its end.
    pub timeout: Duration,
    /// The kinds, taken in turn.
    pub mix: Vec<Kind>,
}

impl Load {
    /// A load of `rate` calls a second on the servers of a name.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when the target is none.
    pub fn new(target: &str, rate: u32, timeout: Duration, mix: &[Kind]) -> Result<Self, Status> {
        let settings = rpc_registry::channel_builder().observer(|call: &FinishedCall<'_>| {
            // Outside a task of this load nobody asks.
            let _ = SEEN.try_with(|seen| {
                let mut seen = seen.borrow_mut();
                seen.0 = call.endpoint.map(ToOwned::to_owned);
                seen.1 += call.attempts;
            });
        });
        let channel: Channel = rpc_registry::builder(target, settings)?;
        Ok(Self {
            orders: OrdersClient::new(channel),
            rate,
            timeout,
            mix: mix.to_vec(),
        })
    }

    /// Waits until an endpoint is connected.
    ///
    /// # Errors
    /// When there is none after 10 s.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn ready(&self) -> Result<(), Status> {
        let request = Request::new(Order { id: 0 })
            .with_wait_for_ready()
            .with_timeout(Duration::from_secs(10));
        self.orders.look(request).await.map(drop)
    }

    /// Starts calls until the load is stopped. Every call sends a record, so that the receiver ends
    /// with the last call.
    #[must_use]
    pub fn start(self) -> (Stop, mpsc::UnboundedReceiver<Record>) {
        let (stop, stopped) = oneshot::channel();
        let (records, receiver) = mpsc::unbounded_channel();
        tokio::spawn(self.run(stopped, records));
        (Stop(stop), receiver)
    }

    async fn run(self, mut stopped: oneshot::Receiver<()>, records: mpsc::UnboundedSender<Record>) {
        let start = Instant::now();
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut started: u32 = 0;
        while stopped.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
            ticks.tick().await;
            while start.elapsed().as_secs_f64() * f64::from(self.rate) >= f64::from(started) {
                let scheduled =
                    start + Duration::from_secs_f64(f64::from(started) / f64::from(self.rate));
                let kind = self.mix[started as usize % self.mix.len()];
                started += 1;
                let call = self.clone().call(u64::from(started), kind, scheduled);
                let records = records.clone();
                tokio::spawn(async move {
                    // Whoever does not listen any more has seen enough.
                    let _ = records.send(call.await);
                });
            }
        }
    }

    async fn call(self, id: u64, kind: Kind, scheduled: Instant) -> Record {
        let work = async {
            let outcome = match kind {
                Kind::Look => {
                    let reply = self
                        .orders
                        .look(self.request(Order { id }, scheduled))
                        .await;
                    reply.map(|_| Outcome::Ok)
                }
                Kind::Place => {
                    let reply = self
                        .orders
                        .place(self.request(Order { id }, scheduled))
                        .await;
                    reply.map(|_| Outcome::Ok)
                }
                Kind::Follow => self.follow(id, scheduled).await,
            };
            let (endpoint, attempts) = SEEN.with(RefCell::take);
            let outcome = outcome.unwrap_or_else(Outcome::Failed);
            (outcome, endpoint, attempts)
        };
        let (outcome, endpoint, attempts) = SEEN.scope(RefCell::default(), work).await;
        Record {
            id,
            kind,
            scheduled,
            ended: Instant::now(),
            endpoint,
            attempts,
            outcome,
        }
    }

    fn request<T>(&self, message: T, scheduled: Instant) -> Request<T> {
        Request::new(message).with_timeout(self.timeout.saturating_sub(scheduled.elapsed()))
    }

    /// Reads a stream to its last event, over as many servers as that takes.
    async fn follow(&self, id: u64, scheduled: Instant) -> Result<Outcome, Status> {
        let last = EVENTS - 1;
        let mut next = 0;
        let mut outcome = Outcome::Ok;
        loop {
            let request = FollowRequest {
                id,
                first: next,
                last,
            };
            let mut events = self.orders.follow(self.request(request, scheduled));
            let lost = loop {
                match events.recv().await {
                    Ok(Some(event)) if event.index == next => next += 1,
                    Ok(Some(event)) => {
                        let what = format!("event {} came instead of {next}", event.index);
                        return Err(Status::data_loss(what));
                    }
                    Ok(None) if next == EVENTS => return Ok(outcome),
                    Ok(None) => break Status::data_loss(format!("ended before event {next}")),
                    Err(status) => break status,
                }
            };
            if lost.code() != rpc_core::Code::Unavailable {
                return Err(lost);
            }
            if next == EVENTS {
                return Ok(Outcome::Resumed);
            }
            outcome = Outcome::Resumed;
        }
    }
}
