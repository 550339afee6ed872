//! The channel's control task: resolver, balancer and subchannels meet here, away from the calls.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::backoff::{Backoff, Range};
use super::balancer::{
    Candidate, ConnectivityState, LoadBalancer, Pick, PickContext, Picker, Updates,
};
use super::endpoint::Endpoint;
use super::idle::{Activity, IdleWatch};
use super::random::Random;
use super::resolver::Resolver;
use super::subchannel::{self, StateChange, Steering, Subchannel};
use crate::Status;
use crate::transport::target::Dialer;

/// How long the list of a resolver stands before it is asked again: changes that come together are
/// taken in together.
const LIST_STANDS: Duration = Duration::from_millis(10);

/// What calls read: the picker in force, and its number.
pub(crate) struct Snapshot {
    pub(crate) picker: Arc<dyn Picker>,
    pub(crate) generation: u64,
}

/// Where the control task puts each new picker, and where it is spoken to.
pub(crate) struct Published {
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) generation: watch::Sender<u64>,
    pub(crate) updates: Updates,
    reset_backoff: AtomicBool,
}

impl Published {
    pub(crate) fn new() -> Self {
        let first = Snapshot {
            picker: Arc::new(Fixed(None)),
            generation: 0,
        };
        Self {
            snapshot: ArcSwap::from_pointee(first),
            generation: watch::Sender::new(0),
            updates: Updates::default(),
            reset_backoff: AtomicBool::new(false),
        }
    }

    fn publish(&self, picker: Arc<dyn Picker>) {
        let generation = *self.generation.borrow() + 1;
        self.snapshot
            .store(Arc::new(Snapshot { picker, generation }));
        self.generation.send_replace(generation);
    }

    /// Ends the waits between attempts to connect, and that for the resolver.
    pub(crate) fn reset_backoff(&self) {
        self.reset_backoff.store(true, Ordering::Release);
        self.updates.request();
    }
}

/// The picker while there is no list yet: waits, or fails with the resolver's error.
struct Fixed(Option<Status>);

impl Picker for Fixed {
    fn pick(&self, _context: &PickContext<'_>) -> Pick {
        self.0.clone().map_or(Pick::Wait, Pick::Fail)
    }
}

struct Entry {
    candidate: Candidate,
    steering: Steering,
    /// How many changes of its state are known.
    seen: u64,
}

/// When a resolver is asked next. One that answers at once, with an error or with what is known, is
/// asked less and less often; one that takes its time, since it waits by itself, is asked at once.
struct Pace {
    backoff: Backoff,
    asked: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self {
            backoff: Backoff::new(Range::RESOLVE),
            asked: now,
        }
    }

    /// Takes in when an answer came, and whether it was news.
    fn answered(&mut self, now: Instant, news: bool, random: f64) {
        if news {
            self.backoff.reset();
            self.asked = now.max(self.asked + LIST_STANDS);
            return;
        }
        let next = self.asked + self.backoff.next(random);
        if next <= now {
            self.backoff.reset();
        }
        self.asked = next.max(now);
    }

    fn reset(&mut self, now: Instant) {
        self.backoff.reset();
        self.asked = self.asked.min(now);
    }
}

/// The state of the control task.
pub(crate) struct Control {
    pub(crate) target: Arc<str>,
    pub(crate) resolver: Box<dyn Resolver>,
    pub(crate) balancer: Box<dyn LoadBalancer>,
    pub(crate) dialer: Arc<Dialer>,
    /// How many connections each endpoint has.
    pub(crate) connections: usize,
    /// Between attempts to connect.
    pub(crate) backoff: Range,
    pub(crate) random: Arc<Random>,
    pub(crate) published: Arc<Published>,
    /// How long connections stay open without calls.
    pub(crate) idle_timeout: Option<Duration>,
    /// There were no calls for so long that there are no connections.
    pub(crate) rests: bool,
}

impl Control {
    /// Runs from the first call until the channel's last handle is dropped.
    pub(crate) async fn run(mut self, mut kicks: mpsc::Receiver<()>) {
        if kicks.recv().await.is_none() {
            return;
        }
        let (changes, mut changed) = mpsc::unbounded_channel();
        let mut entries: Vec<Entry> = Vec::new();
        let mut next_id = 0;
        let mut known: Option<Vec<Endpoint>> = None;
        let mut pace = Pace::new(Instant::now());
        let mut idle = IdleWatch::new(self.idle_timeout, Instant::now());
        loop {
            let due = self.balancer.next_update().filter(|_| !self.rests);
            tokio::select! {
                kick = kicks.recv() => {
                    if kick.is_none() {
                        return;
                    }
                    if std::mem::take(&mut self.rests) {
                        idle.begin(Instant::now());
                        self.update(&mut entries);
                    }
                }
                () = idle.due() => {
                    let activity = entries.iter().map(|entry| entry.candidate.subchannel.activity());
                    let activity = activity.fold(Activity::default(), Activity::add);
                    let is_idle = idle.look(Instant::now(), activity);
                    if is_idle && known.is_some() {
                        self.rest(&entries);
                    } else if is_idle {
                        // It has nothing to close, and waits for its first list.
                        idle.begin(Instant::now());
                    }
                }
                () = self.published.updates.requested() => {
                    if self.published.reset_backoff.swap(false, Ordering::Acquire) {
                        entries.iter().for_each(|entry| entry.steering.retry_now());
                        pace.reset(Instant::now());
                    }
                    self.update(&mut entries);
                }
                () = until(due) => self.update(&mut entries),
                list = next_list(&mut *self.resolver, pace.asked) => match list {
                    Ok(endpoints) => {
                        let news = known.as_ref() != Some(&endpoints);
                        pace.answered(Instant::now(), news, self.random.fraction());
                        if news {
                            tracing::info!(target = %self.target, endpoints = endpoints.len(), "resolved");
                            known = Some(endpoints.clone());
                            self.apply(endpoints, &mut entries, &mut next_id, &changes);
                            self.update(&mut entries);
                        }
                    }
                    Err(status) => {
                        pace.answered(Instant::now(), false, self.random.fraction());
                        tracing::warn!(target = %self.target, %status, "resolving failed; the last list stays");
                        if known.is_none() {
                            let status = Status::new(status.code(), format!("{} cannot be resolved", self.target)).with_source(status);
                            self.published.publish(Arc::new(Fixed(Some(status))));
                        }
                    }
                },
                change = changed.recv() => {
                    let Some(change) = change else { return };
                    let mut failed = self.note(&mut entries, change);
                    while let Ok(change) = changed.try_recv() {
                        failed |= self.note(&mut entries, change);
                    }
                    if failed {
                        self.resolver.refresh();
                    }
                    self.update(&mut entries);
                }
            }
        }
    }

    /// Keeps the subchannels of endpoints that stay, starts those of new ones, ends the others.
    fn apply(
        &self,
        endpoints: Vec<Endpoint>,
        entries: &mut Vec<Entry>,
        next_id: &mut u64,
        changes: &mpsc::UnboundedSender<StateChange>,
    ) {
        let old = std::mem::take(entries).into_iter();
        let mut old: HashMap<_, _> = old
            .map(|entry| (entry.candidate.endpoint.address.clone(), entry))
            .collect();
        let mut listed = HashSet::new();
        for endpoint in endpoints {
            if !listed.insert(endpoint.address.clone()) {
                continue;
            }
            if let Some(mut entry) = old.remove(&endpoint.address) {
                if *entry.candidate.endpoint != endpoint {
                    // News of it: it may be there again.
                    entry.steering.retry_now();
                    entry.candidate.endpoint = Arc::new(endpoint);
                    let described = Arc::clone(&entry.candidate.endpoint);
                    entry.candidate.subchannel.describe(described);
                }
                entries.push(entry);
                continue;
            }
            *next_id += 1;
            let endpoint = Arc::new(endpoint);
            let subchannel = Subchannel::new(*next_id, Arc::clone(&endpoint), self.connections);
            let (dialer, random) = (&self.dialer, &self.random);
            let steering = subchannel::start(&subchannel, dialer, random, self.backoff, changes);
            let candidate = Candidate {
                id: *next_id,
                endpoint,
                state: ConnectivityState::Idle,
                last_error: None,
                subchannel,
            };
            entries.push(Entry {
                candidate,
                steering,
                seen: 0,
            });
        }
    }

    /// Records a change; says whether it is a failure to connect.
    fn note(&mut self, entries: &mut [Entry], change: StateChange) -> bool {
        let Some(entry) = entries
            .iter_mut()
            .find(|entry| entry.candidate.id == change.id)
        else {
            return false;
        };
        entry.seen += 1;
        self.resolver
            .connection(&entry.candidate.endpoint.address, change.state);
        entry.candidate.state = change.state;
        if change.state == ConnectivityState::Ready {
            entry.candidate.last_error = None;
        }
        let failed = change.state == ConnectivityState::TransientFailure;
        if change.error.is_some() {
            entry.candidate.last_error = change.error;
        }
        failed
    }

    /// Closes all connections until there is a call, which finds no picker and kicks.
    fn rest(&mut self, entries: &[Entry]) {
        self.rests = true;
        tracing::info!(target = %self.target, "no calls for long: connections are closed until there are");
        entries
            .iter()
            .for_each(|entry| entry.steering.want(false, entry.seen));
        self.published.publish(Arc::new(Fixed(None)));
    }

    fn update(&mut self, entries: &mut [Entry]) {
        if self.rests {
            return;
        }
        let candidates: Vec<Candidate> = entries
            .iter()
            .map(|entry| entry.candidate.clone())
            .collect();
        let update = self.balancer.update(&candidates, Instant::now());
        let connect: HashSet<u64> = update.connect.into_iter().collect();
        for entry in entries {
            let wanted = connect.contains(&entry.candidate.id);
            entry.steering.want(wanted, entry.seen);
        }
        self.published.publish(update.picker);
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

async fn next_list(resolver: &mut dyn Resolver, from: Instant) -> Result<Vec<Endpoint>, Status> {
    if Instant::now() < from {
        tokio::time::sleep_until(from).await;
    }
    resolver.next().await
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_resolver_that_answers_at_once_is_asked_less_and_less_often() {
        let mut pace = Pace::new(Instant::now());
        let mut waits = Vec::new();
        for _ in 0..20 {
            let now = pace.asked;
            pace.answered(now, false, 0.5);
            waits.push((pace.asked - now).as_millis());
        }
        assert_eq!(waits[..3], [100, 160, 256]);
        assert_eq!(waits[19], 30_000);
        let now = pace.asked;
        pace.answered(now, true, 0.5);
        assert_eq!(pace.asked - now, LIST_STANDS);
    }

    #[test]
    fn a_resolver_that_waits_by_itself_is_asked_at_once() {
        let mut pace = Pace::new(Instant::now());
        for _ in 0..20 {
            let now = pace.asked + 200 * MS;
            pace.answered(now, false, 0.5);
            assert_eq!(pace.asked, now);
        }
    }
}
