//! The channel's control task: resolver, balancer and subchannels meet here, away from the calls.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::balancer::{Candidate, ConnectivityState, LoadBalancer, Pick, PickContext, Picker};
use super::endpoint::Endpoint;
use super::random::Random;
use super::resolver::Resolver;
use super::subchannel::{self, StateChange, Steering, Subchannel};
use crate::Status;
use crate::transport::target::Dialer;

/// What calls read: the picker in force, and its number.
pub(crate) struct Snapshot {
    pub(crate) picker: Arc<dyn Picker>,
    pub(crate) generation: u64,
}

/// Where the control task puts each new picker.
pub(crate) struct Published {
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) generation: watch::Sender<u64>,
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
        }
    }

    fn publish(&self, picker: Arc<dyn Picker>) {
        let generation = *self.generation.borrow() + 1;
        self.snapshot
            .store(Arc::new(Snapshot { picker, generation }));
        self.generation.send_replace(generation);
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
}

/// The state of the control task.
pub(crate) struct Control {
    pub(crate) target: Arc<str>,
    pub(crate) resolver: Box<dyn Resolver>,
    pub(crate) balancer: Box<dyn LoadBalancer>,
    pub(crate) dialer: Arc<Dialer>,
    /// How many connections each endpoint has.
    pub(crate) connections: usize,
    pub(crate) random: Arc<Random>,
    pub(crate) published: Arc<Published>,
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
        let mut resolved = false;
        loop {
            tokio::select! {
                kick = kicks.recv() => if kick.is_none() { return },
                list = self.resolver.next() => match list {
                    Ok(endpoints) => {
                        resolved = true;
                        tracing::info!(target = %self.target, endpoints = endpoints.len(), "resolved");
                        self.apply(endpoints, &mut entries, &mut next_id, &changes);
                        self.update(&mut entries);
                    }
                    Err(status) => {
                        tracing::warn!(target = %self.target, %status, "resolving failed; the last list stays");
                        if !resolved {
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
        let mut old = std::mem::take(entries);
        for endpoint in endpoints {
            if entries
                .iter()
                .any(|entry| entry.candidate.endpoint.address == endpoint.address)
            {
                continue;
            }
            let known = old
                .iter()
                .position(|entry| entry.candidate.endpoint.address == endpoint.address);
            if let Some(index) = known {
                let mut entry = old.swap_remove(index);
                if entry.candidate.endpoint.instance != endpoint.instance {
                    entry.steering.retry_now();
                }
                entry.candidate.endpoint = Arc::new(endpoint);
                entries.push(entry);
                continue;
            }
            *next_id += 1;
            let endpoint = Arc::new(endpoint);
            let subchannel = Subchannel::new(*next_id, Arc::clone(&endpoint), self.connections);
            let steering = subchannel::start(&subchannel, &self.dialer, &self.random, changes);
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

    fn update(&mut self, entries: &mut [Entry]) {
        let candidates: Vec<Candidate> = entries
            .iter()
            .map(|entry| entry.candidate.clone())
            .collect();
        let update = self.balancer.update(&candidates, Instant::now());
        for entry in entries {
            let wanted = update.connect.contains(&entry.candidate.id);
            entry.steering.want(wanted);
        }
        self.published.publish(update.picker);
    }
}
