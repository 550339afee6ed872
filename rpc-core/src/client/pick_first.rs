//! The `pick_first` policy: one connection, to the first endpoint that answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::balancer::{
    Candidate, ConnectivityState, LoadBalancer, Pick, PickContext, Picker, Update,
};
use super::standing::Standing;
use super::subchannel::Subchannel;
use crate::Status;

/// How long an endpoint may take to be reached until the next one is tried beside it (RFC 8305
/// section 5, gRFC A61).
const STAGGER: Duration = Duration::from_millis(250);
/// How long an endpoint that calls should leave is kept when none of the others can be reached.
const KEPT: Duration = Duration::from_secs(1);

/// Sends every call to the first endpoint, in the resolver's order, that can be reached.
///
/// It connects when a call comes, to one endpoint after the other with 250 ms between them, and keeps
/// the first that is there. When its connection is lost, the next call makes it connect again. An
/// endpoint that says nothing while calls wait for it, or that fails every call, is left for another
/// one if there is one.
#[derive(Debug, Default)]
pub struct PickFirst {
    phase: Phase,
    standings: HashMap<u64, Arc<Standing>>,
    calls: Arc<Calls>,
}

#[derive(Debug)]
enum Phase {
    /// Nothing is connected until a call comes.
    Idle,
    /// None is connected yet.
    Connecting(Started),
    /// Calls go to this one, until another one is there if it is to be left.
    At(u64, Leaving),
}

#[derive(Debug)]
enum Leaving {
    No,
    For(Started),
    /// None of the others could be reached then.
    Failed(Instant),
}

impl Default for Phase {
    fn default() -> Self {
        // A channel does nothing before its first call.
        Self::Connecting(Started::default())
    }
}

/// Endpoints that are being connected to.
#[derive(Debug, Default)]
struct Started {
    /// In the order of their start.
    ids: Vec<u64>,
    /// When the next one is started though those before have not failed.
    next_at: Option<Instant>,
}

impl Started {
    /// Starts the next one when those before have failed, or had their time.
    fn advance<'a>(
        &mut self,
        candidates: impl Iterator<Item = &'a Candidate> + Clone,
        now: Instant,
    ) {
        self.ids
            .retain(|id| candidates.clone().any(|candidate| candidate.id == *id));
        loop {
            let mut started = candidates
                .clone()
                .filter(|candidate| self.ids.contains(&candidate.id));
            let due = self.next_at.is_some_and(|next_at| next_at <= now);
            if !due && !started.all(has_failed) {
                return;
            }
            let mut rest = candidates
                .clone()
                .filter(|candidate| !self.ids.contains(&candidate.id));
            self.next_at = None;
            let Some(next) = rest.next() else {
                return;
            };
            if rest.next().is_some() {
                self.next_at = Some(now + STAGGER);
            }
            self.ids.push(next.id);
        }
    }
}

/// What calls have shown.
#[derive(Debug, Default)]
struct Calls {
    /// One came while nothing was connected.
    came: AtomicBool,
    /// The endpoint is not well.
    leave: AtomicBool,
}

impl LoadBalancer for PickFirst {
    fn name(&self) -> &'static str {
        "pick_first"
    }

    fn update(&mut self, candidates: &[Candidate], now: Instant) -> Update {
        self.standings
            .retain(|id, _| candidates.iter().any(|candidate| candidate.id == *id));
        let mut ready = candidates
            .iter()
            .filter(|candidate| candidate.state == ConnectivityState::Ready);
        let first = ready.clone().next();
        if let Phase::At(id, leaving) = &self.phase {
            let kept = ready.clone().find(|candidate| candidate.id == *id);
            let other = ready.find(|candidate| candidate.id != *id);
            match (kept, other, leaving) {
                (Some(_), Some(other), Leaving::For(_)) | (None, Some(other), _) => {
                    return self.go_to(other, candidates, now);
                }
                (Some(kept), ..) => return self.stay(kept, candidates, now),
                (None, None, _) => {
                    // What was known of it ended with its connection.
                    self.standings.remove(id);
                    self.calls.came.store(false, Ordering::Relaxed);
                    self.phase = Phase::Idle;
                }
            }
        }
        if let Some(first) = first {
            return self.go_to(first, candidates, now);
        }
        if matches!(self.phase, Phase::Idle) && !self.calls.came.load(Ordering::Relaxed) {
            return Update {
                connect: Vec::new(),
                picker: Arc::new(Idle(Arc::clone(&self.calls))),
            };
        }
        self.connect(candidates, now)
    }

    fn next_update(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Connecting(started) | Phase::At(_, Leaving::For(started)) => started.next_at,
            Phase::Idle | Phase::At(..) => None,
        }
    }
}

impl PickFirst {
    /// Until one of the endpoints is connected.
    fn connect(&mut self, candidates: &[Candidate], now: Instant) -> Update {
        let mut started = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Connecting(started) => started,
            Phase::Idle | Phase::At(..) => Started::default(),
        };
        started.advance(candidates.iter(), now);
        let picker: Arc<dyn Picker> = if candidates.iter().all(has_failed) {
            Arc::new(Failing(failure(candidates)))
        } else {
            Arc::new(Waiting)
        };
        let connect = started.ids.clone();
        self.phase = Phase::Connecting(started);
        Update { connect, picker }
    }

    /// Calls go to this one from now on.
    fn go_to(&mut self, chosen: &Candidate, candidates: &[Candidate], now: Instant) -> Update {
        self.calls.leave.store(false, Ordering::Relaxed);
        self.phase = Phase::At(chosen.id, Leaving::No);
        self.stay(chosen, candidates, now)
    }

    /// Calls go on to this one.
    fn stay(&mut self, kept: &Candidate, candidates: &[Candidate], now: Instant) -> Update {
        let mut connect = vec![kept.id];
        let mut leaving = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::At(_, Leaving::Failed(then)) if then + KEPT <= now => Leaving::No,
            Phase::At(_, leaving) => leaving,
            Phase::Idle | Phase::Connecting(_) => Leaving::No,
        };
        if self.calls.leave.load(Ordering::Relaxed) && matches!(leaving, Leaving::No) {
            leaving = Leaving::For(Started::default());
        }
        if let Leaving::For(started) = &mut leaving {
            let others = candidates.iter().filter(|other| other.id != kept.id);
            started.advance(others.clone(), now);
            connect.extend(&started.ids);
            if started.ids.len() == others.clone().count() && others.clone().all(has_failed) {
                leaving = Leaving::Failed(now);
                connect.truncate(1);
            }
        }
        // As long as it is being left, pickers need not say so again.
        let leaves = matches!(leaving, Leaving::For(_));
        self.calls.leave.store(leaves, Ordering::Relaxed);
        let picker = self.picker(kept, candidates, &leaving, now);
        self.phase = Phase::At(kept.id, leaving);
        Update { connect, picker }
    }

    fn picker(
        &mut self,
        kept: &Candidate,
        candidates: &[Candidate],
        leaving: &Leaving,
        now: Instant,
    ) -> Arc<dyn Picker> {
        let subchannel = kept.subchannel.clone();
        if candidates.len() == 1 {
            return Arc::new(One(subchannel));
        }
        let standing = self.standings.entry(kept.id);
        let standing = standing.or_insert_with(|| Arc::new(Standing::new(now)));
        Arc::new(OneOfMany {
            subchannel,
            standing: Arc::clone(standing),
            calls: Arc::clone(&self.calls),
            stays: match leaving {
                Leaving::Failed(then) => Some(*then + KEPT),
                Leaving::No | Leaving::For(_) => None,
            },
        })
    }
}

fn has_failed(candidate: &Candidate) -> bool {
    candidate.state == ConnectivityState::TransientFailure
}

/// What a call is told when no candidate can be reached.
fn failure(candidates: &[Candidate]) -> Status {
    let Some(first) = candidates.first() else {
        return Status::unavailable("the name resolves to no endpoint");
    };
    let mut message = format!("none of {} endpoints can be reached", candidates.len());
    if candidates.len() == 1 {
        message = format!("{} cannot be reached", first.endpoint.address);
    }
    let cause = candidates
        .iter()
        .rev()
        .find_map(|candidate| candidate.last_error.clone());
    let status = Status::unavailable(message);
    match cause {
        Some(cause) => {
            let message = format!("{}: {}", status.message(), cause.message());
            Status::unavailable(message).with_source(cause)
        }
        None => status,
    }
}

struct One(Subchannel);

impl Picker for One {
    fn pick(&self, _context: &PickContext<'_>) -> Pick {
        Pick::To(self.0.clone(), None)
    }
}

/// One endpoint that may be left for others.
struct OneOfMany {
    subchannel: Subchannel,
    standing: Arc<Standing>,
    calls: Arc<Calls>,
    /// Until when there is nowhere else to go.
    stays: Option<Instant>,
}

impl Picker for OneOfMany {
    fn pick(&self, context: &PickContext<'_>) -> Pick {
        let here = || {
            let standing = Arc::clone(&self.standing);
            Pick::To(self.subchannel.clone(), Some(standing as _))
        };
        let stays = self.stays.is_some_and(|until| context.now < until);
        if stays || !self.standing.is_suspect(context.now) {
            return here();
        }
        if !self.calls.leave.swap(true, Ordering::Relaxed) {
            context.updates.request();
        }
        // A call that has failed here waits for the others.
        if context.avoid.contains(&self.subchannel.id()) {
            return Pick::Wait;
        }
        here()
    }
}

struct Waiting;

impl Picker for Waiting {
    fn pick(&self, _context: &PickContext<'_>) -> Pick {
        Pick::Wait
    }
}

/// Asks for a connection when a call comes.
struct Idle(Arc<Calls>);

impl Picker for Idle {
    fn pick(&self, context: &PickContext<'_>) -> Pick {
        if !self.0.came.swap(true, Ordering::Relaxed) {
            context.updates.request();
        }
        Pick::Wait
    }
}

struct Failing(Status);

impl Picker for Failing {
    fn pick(&self, _context: &PickContext<'_>) -> Pick {
        Pick::Fail(self.0.clone())
    }
}

#[cfg(test)]
mod tests;
