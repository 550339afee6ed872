//! All leases of one registry server: [`Leases`], and the task that holds them by one stream.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rpc_core::Status;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::backoff::{Backoff, REFUSED, UNREACHABLE};
use super::lease::Standing;
use super::peer::{FIRST_PATIENCE, PATIENCE, Peer, ended, is_refusal, refused};
use crate::generated::{Announce, Deregister, KeepAlive, RegisterRequest};
use crate::generated::{RegisterResponse, register_request, register_response};

/// The TTL that is taken for granted before the registry has told it.
const LIKELY_TTL: Duration = Duration::from_secs(5);

/// What one registry server is to be told of leases, and by whom.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    board: Mutex<Board>,
    /// Something is to be told.
    wake: Notify,
    /// Some lease is to end.
    ends: Notify,
}

#[derive(Debug, Default)]
struct Board {
    slots: HashMap<u64, Slot>,
    /// Whom to tell of, each once.
    outbox: VecDeque<u64>,
    /// Those that are to end.
    ending: HashSet<u64>,
    /// Why the registry cannot be told now, for those who come meanwhile.
    lost: Option<Status>,
    running: bool,
    /// When the registry was heard last.
    heard: Option<Instant>,
}

#[derive(Debug)]
struct Slot {
    announce: Announce,
    standing: Arc<watch::Sender<Vec<Standing>>>,
    /// Whose place in `standing` this is.
    index: usize,
    ttl: Duration,
    /// When it was last announced.
    announced: Option<Instant>,
    /// By when the goodbye has to be over.
    ending: Option<Instant>,
    queued: bool,
    /// Whether it was listed before.
    granted: bool,
    /// Refused, and announced again at that time.
    again: Option<Instant>,
    backoff: Backoff,
}

impl Slot {
    fn note(&self, standing: Standing) {
        self.standing.send_modify(|all| {
            if let Some(own) = all.get_mut(self.index) {
                *own = standing;
            }
        });
    }

    /// Until when the registry may list it, if it may. A stream that broke unnoticed has kept it up to
    /// a TTL longer than was heard of the registry.
    fn listed_until(&self, heard: Option<Instant>) -> Option<Instant> {
        let last = self
            .announced
            .max(heard.filter(|_| self.announced.is_some()))?;
        last.checked_add(self.ttl * 2)
    }
}

impl Board {
    fn enqueue(&mut self, instance: u64) {
        if let Some(slot) = self.slots.get_mut(&instance)
            && !std::mem::replace(&mut slot.queued, true)
        {
            self.outbox.push_back(instance);
        }
    }
}

impl Leases {
    fn lock(&self) -> MutexGuard<'_, Board> {
        // Each change is whole before anything could panic.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The registry cannot be told, or refuses.
    fn fail(&self, status: &Status) {
        let mut board = self.lock();
        board.lost = Some(status.clone());
        for slot in board.slots.values() {
            if slot.ending.is_none() {
                slot.note(Standing::Trying(Some(status.clone())));
            }
        }
    }

    /// Ends what nobody has to be told of, or what has waited long enough; when to look again.
    fn sweep(&self, peer: &Peer, now: Instant) -> Option<Instant> {
        let mut over = Vec::new();
        let mut next: Option<Instant> = None;
        let mut board = self.lock();
        let Board {
            slots,
            ending,
            heard,
            ..
        } = &mut *board;
        ending.retain(|instance| {
            let Some(slot) = slots.get(instance) else {
                return false;
            };
            let (listed, deadline) = (slot.listed_until(*heard), slot.ending.unwrap_or(now));
            let result = if listed.is_none_or(|until| until <= now) {
                Ok(())
            } else if deadline <= now {
                Err(Status::unavailable(format!(
                    "the registry {} may still list {}: it has not answered in time",
                    peer.address, slot.announce.service
                )))
            } else {
                next = Some(next.map_or(deadline, |next| next.min(deadline)));
                return true;
            };
            over.extend(slots.remove(instance).map(|slot| (slot, result)));
            false
        });
        drop(board);
        for (slot, result) in over {
            if let Err(status) = &result {
                tracing::warn!(service = slot.announce.service, registry = %peer.address, %status, "not deregistered");
            }
            slot.note(Standing::Ended(result));
        }
        next
    }
}

impl Peer {
    /// Holds a lease from now on, in the current runtime.
    pub(crate) fn hold(
        self: &Arc<Self>,
        announce: Announce,
        standing: &Arc<watch::Sender<Vec<Standing>>>,
        index: usize,
    ) {
        let instance = announce.instance.as_ref().map_or(0, |one| one.id);
        let slot = Slot {
            ttl: match announce.ttl_ms {
                0 => LIKELY_TTL,
                ttl => Duration::from_millis(ttl.into()),
            },
            announce,
            standing: Arc::clone(standing),
            index,
            announced: None,
            ending: None,
            queued: false,
            granted: false,
            again: None,
            backoff: Backoff::default(),
        };
        let mut board = self.leases.lock();
        if let Some(status) = board.lost.clone() {
            slot.note(Standing::Trying(Some(status)));
        }
        board.slots.insert(instance, slot);
        board.enqueue(instance);
        let start = !std::mem::replace(&mut board.running, true);
        drop(board);
        if start {
            tokio::spawn(run(Arc::clone(self)));
        }
        self.leases.wake.notify_one();
    }

    /// Tells the registry what a lease says of itself now.
    pub(crate) fn change(&self, announce: Announce) {
        let instance = announce.instance.as_ref().map_or(0, |one| one.id);
        let mut board = self.leases.lock();
        if let Some(slot) = board.slots.get_mut(&instance)
            && slot.ending.is_none()
        {
            slot.announce = announce;
            board.enqueue(instance);
        }
        drop(board);
        self.leases.wake.notify_one();
    }

    /// Ends a lease, once.
    pub(crate) fn let_go(&self, instance: u64) {
        let mut board = self.leases.lock();
        if let Some(slot) = board.slots.get_mut(&instance)
            && slot.ending.is_none()
        {
            slot.ending = Instant::now().checked_add(PATIENCE);
            board.ending.insert(instance);
            board.enqueue(instance);
        }
        drop(board);
        self.leases.ends.notify_one();
        self.leases.wake.notify_one();
    }
}

/// The task that runs; when it ends with its runtime, the next lease starts another.
struct Running(Option<Arc<Peer>>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(peer) = &self.0 {
            peer.leases.lock().running = false;
        }
    }
}

async fn run(peer: Arc<Peer>) {
    let mut running = Running(Some(Arc::clone(&peer)));
    let sweeping = async {
        loop {
            let next = peer.leases.sweep(&peer, Instant::now());
            let far = Instant::now() + Duration::from_secs(3600);
            tokio::select! {
                () = peer.leases.ends.notified() => {}
                () = tokio::time::sleep_until(next.unwrap_or(far)) => {}
            }
            // Woken with the others when the last one has ended, to see that.
            peer.leases.wake.notify_one();
        }
    };
    tokio::select! {
        () = hold(&peer) => {}
        () = sweeping => {}
    }
    // Another may run already.
    running.0 = None;
}

/// Registers, and again whenever that is lost, until nothing is left to hold.
async fn hold(peer: &Arc<Peer>) {
    let mut backoff = Backoff::default();
    loop {
        if stop_if_idle(peer) {
            return;
        }
        let status = match session(peer, &mut backoff).await {
            Ok(()) => continue,
            Err(status) => status,
        };
        let most = if is_refusal(&status) {
            REFUSED
        } else {
            UNREACHABLE
        };
        let wait = backoff.next(most, fastrand::f64());
        peer.lost(&status, wait);
        peer.leases.fail(&status);
        let over = tokio::time::sleep(wait);
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => break,
                () = peer.leases.wake.notified() => if stop_if_idle(peer) { return },
            }
        }
    }
}

/// Whether there is nothing to hold; then the task has to end.
fn stop_if_idle(peer: &Peer) -> bool {
    let mut board = peer.leases.lock();
    if board.slots.is_empty() {
        board.running = false;
        board.outbox.clear();
        board.ending.clear();
        board.lost = None;
        board.heard = None;
        return true;
    }
    false
}

async fn session(peer: &Arc<Peer>, backoff: &mut Backoff) -> Result<(), Status> {
    let (number, client) = peer.client().await?;
    let (requests, responses) = client.register(peer.request()?);
    let mut session = Session {
        peer,
        requests,
        responses,
        shortest: LIKELY_TTL,
    };
    let result = session.run(backoff).await;
    if let Err(status) = &result {
        peer.discard(number, status).await;
    }
    result
}

/// One stream to a registry.
struct Session<'a> {
    peer: &'a Arc<Peer>,
    requests: rpc_core::RequestStream<RegisterRequest>,
    responses: rpc_core::RecvStream<RegisterResponse>,
    /// The shortest TTL of the leases.
    shortest: Duration,
}

impl Session<'_> {
    /// Runs until the stream breaks, or nothing is left to hold.
    async fn run(&mut self, backoff: &mut Backoff) -> Result<(), Status> {
        self.begin();
        let mut heard = Instant::now();
        let mut answered = false;
        let mut keep_alive_at = Instant::now();
        let mut keep_alive_due = false;
        loop {
            let something = {
                let board = self.peer.leases.lock();
                if board.slots.is_empty() {
                    return Ok(());
                }
                !board.outbox.is_empty()
            };
            let patience = if answered {
                self.shortest
            } else {
                FIRST_PATIENCE
            };
            let silent = heard + patience;
            tokio::select! {
                answer = self.responses.recv() => {
                    let answer = answer?.ok_or_else(|| ended(&self.peer.address))?;
                    heard = Instant::now();
                    if !std::mem::replace(&mut answered, true) {
                        keep_alive_at = heard + self.shortest / 3;
                        backoff.reset();
                        self.peer.leases.lock().lost = None;
                        self.peer.reached();
                    }
                    self.take(answer, heard);
                    keep_alive_at = keep_alive_at.min(heard + self.shortest / 3);
                }
                permit = self.requests.reserve(), if something || keep_alive_due => {
                    let permit = permit?;
                    // First, as the announcements of many take their time.
                    if std::mem::take(&mut keep_alive_due) {
                        permit.send(step(register_request::Step::KeepAlive(KeepAlive {})))?;
                    } else if let Some(message) = next_message(self.peer) {
                        permit.send(message)?;
                    }
                }
                () = self.peer.leases.wake.notified() => {}
                () = tokio::time::sleep_until(keep_alive_at), if answered && !keep_alive_due => {
                    keep_alive_due = true;
                    keep_alive_at = Instant::now() + self.shortest / 3;
                    self.try_refused_again();
                }
                () = tokio::time::sleep_until(silent) => {
                    return Err(Status::unavailable(format!("the registry {} is silent for {patience:?}", self.peer.address)));
                }
            }
        }
    }

    /// Everything is to be announced on the new stream.
    fn begin(&mut self) {
        let mut board = self.peer.leases.lock();
        let ttl = board.slots.values().map(|slot| slot.ttl).min();
        self.shortest = ttl.unwrap_or(LIKELY_TTL);
        let all: Vec<u64> = board.slots.keys().copied().collect();
        all.into_iter().for_each(|instance| board.enqueue(instance));
    }

    fn try_refused_again(&self) {
        let now = Instant::now();
        let mut board = self.peer.leases.lock();
        let due = |slot: &mut Slot| slot.again.take_if(|again| *again <= now).is_some();
        let again: Vec<u64> = board
            .slots
            .iter_mut()
            .filter_map(|(instance, slot)| due(slot).then_some(*instance))
            .collect();
        again.into_iter().for_each(|one| board.enqueue(one));
    }

    fn take(&mut self, answer: RegisterResponse, now: Instant) {
        use register_response::Step;
        let peer = self.peer;
        let registry = &peer.address;
        let mut board = peer.leases.lock();
        board.heard = Some(now);
        let instance = answer.instance_id;
        let Some(slot) = board.slots.get_mut(&instance) else {
            return;
        };
        let service = slot.announce.service.clone();
        match answer.step {
            Some(Step::Granted(granted)) => {
                slot.ttl = Duration::from_millis(granted.ttl_ms.max(10).into());
                self.shortest = self.shortest.min(slot.ttl);
                slot.backoff.reset();
                slot.again = None;
                if slot.ending.is_none() {
                    slot.note(Standing::Listed);
                }
                let again = std::mem::replace(&mut slot.granted, true);
                drop(board);
                let what = if again {
                    "registered again"
                } else {
                    "registered"
                };
                tracing::info!(service, %registry, instance, revision = granted.revision, "{what}");
            }
            Some(Step::Deregistered(_)) => {
                let slot = board.slots.remove(&instance);
                drop(board);
                if let Some(slot) = slot {
                    slot.note(Standing::Ended(Ok(())));
                }
                tracing::info!(service, %registry, instance, "deregistered");
            }
            Some(Step::Lost(_)) => {
                if slot.ending.is_none() {
                    slot.note(Standing::Trying(None));
                }
                board.enqueue(instance);
                drop(board);
                tracing::warn!(service, %registry, instance, "the registry has dropped the lease; registering again");
            }
            Some(Step::Refused(refusal)) => {
                let status = refused(refusal);
                let wait = slot.backoff.next(REFUSED, fastrand::f64());
                if slot.ending.is_some() {
                    let slot = board.slots.remove(&instance);
                    drop(board);
                    if let Some(slot) = slot {
                        slot.note(Standing::Ended(Err(status.clone())));
                    }
                } else {
                    slot.again = Some(now + wait);
                    slot.note(Standing::Trying(Some(status.clone())));
                    drop(board);
                }
                tracing::warn!(service, %registry, instance, %status, retry_in = ?wait, "the registry refuses the lease");
            }
            Some(Step::KeptAlive(_)) | None => {}
        }
    }
}

/// What to tell next: the state in which a lease is by now.
fn next_message(peer: &Peer) -> Option<RegisterRequest> {
    let mut board = peer.leases.lock();
    loop {
        let instance = board.outbox.pop_front()?;
        // One that has ended is in the outbox still.
        let Some(slot) = board.slots.get_mut(&instance) else {
            continue;
        };
        slot.queued = false;
        return Some(step(if slot.ending.is_some() {
            register_request::Step::Deregister(Deregister {
                service: slot.announce.service.clone(),
                instance_id: instance,
                secret: slot.announce.secret.clone(),
            })
        } else {
            slot.announced = Some(Instant::now());
            register_request::Step::Announce(slot.announce.clone())
        }));
    }
}

fn step(step: register_request::Step) -> RegisterRequest {
    RegisterRequest { step: Some(step) }
}
