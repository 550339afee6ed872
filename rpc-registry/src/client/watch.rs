//! A service's members as the registry servers push them: [`RemoteResolver`].

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rpc_core::client::{Address, ConnectivityState, Endpoint, Resolver};
use rpc_core::{BoxFuture, RecvStream, RequestStream, Status};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::backoff::{Backoff, REFUSED, UNREACHABLE};
use super::peer::{FIRST_PATIENCE, PATIENCE, Peer, ended, is_refusal, refused};
use super::view::{Told, View};
use crate::convert;
use crate::generated::{Follow, Unfollow, WatchRequest, WatchResponse, watch_request};

/// The longest time between two signs of life of a registry, if its TTL is not shorter.
const SIGN: Duration = Duration::from_secs(5);
/// A list of so many endpoints is told again after one millisecond at the earliest: each time costs
/// in proportion to its length, and changes come together.
const PACE: usize = 100;
/// The longest such wait: somebody who leaves has to be known to leave.
const SLOWEST: Duration = Duration::from_millis(100);
/// Who comes can wait for so many times that.
const ARRIVALS: u32 = 5;

/// Follows all registry servers at once.
pub(crate) struct RemoteResolver {
    followed: Arc<Followed>,
    peers: Arc<[Arc<Peer>]>,
    /// The watch of each peer, once somebody asks.
    watches: Vec<u32>,
    /// When the next list may be told, if somebody left and if not.
    next_list: (Instant, Instant),
}

/// One service, and what is believed of it.
#[derive(Debug)]
pub(crate) struct Followed {
    service: String,
    view: Mutex<View>,
    news: Notify,
}

impl Followed {
    fn view(&self) -> MutexGuard<'_, View> {
        // Each change of the view is whole before anything could panic.
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the view, says what came of it, and has the resolver look.
    fn change(&self, change: impl FnOnce(&mut View, Instant)) {
        let mut view = self.view();
        let before = view.counts();
        change(&mut view, Instant::now());
        let (after, notes) = (view.counts(), view.notes());
        drop(view);
        let service = &*self.service;
        for note in notes {
            tracing::warn!(service, "{note}");
        }
        if after != before {
            let (members, unlisted) = after;
            tracing::info!(
                service,
                members,
                unlisted,
                members_before = before.0,
                unlisted_before = before.1,
                "the list has changed"
            );
        }
        self.news.notify_one();
    }
}

impl RemoteResolver {
    pub(crate) fn new(peers: &Arc<[Arc<Peer>]>, service: String) -> Self {
        let names = peers.iter().map(|peer| peer.address.to_string());
        let followed = Followed {
            service,
            view: Mutex::new(View::new(names)),
            news: Notify::new(),
        };
        Self {
            followed: Arc::new(followed),
            peers: Arc::clone(peers),
            watches: Vec::new(),
            next_list: (Instant::now(), Instant::now()),
        }
    }
}

impl Resolver for RemoteResolver {
    fn next(&mut self) -> BoxFuture<'_, Result<Vec<Endpoint>, Status>> {
        Box::pin(async {
            tokio::time::sleep_until(self.next_list.0).await;
            if self.watches.is_empty() {
                let follow =
                    |(index, peer): (usize, &Arc<Peer>)| peer.follow(&self.followed, index);
                self.watches = self.peers.iter().enumerate().map(follow).collect();
            }
            loop {
                self.peers.iter().for_each(Peer::keep_watching);
                let now = Instant::now();
                let mut next = now + Duration::from_secs(3600);
                let news = {
                    let mut view = self.followed.view();
                    view.settle(now);
                    next = view.next_expiry().unwrap_or(next);
                    if view.is_urgent() || now >= self.next_list.1 {
                        view.news()
                    } else {
                        next = next.min(self.next_list.1);
                        None
                    }
                };
                if let Some(news) = news {
                    if let Ok(list) = &news {
                        let pace = u64::try_from(list.len() / PACE).unwrap_or(u64::MAX);
                        let pace = Duration::from_millis(pace).min(SLOWEST);
                        self.next_list = (now + pace, now + pace * ARRIVALS);
                    }
                    return news;
                }
                tokio::select! {
                    () = self.followed.news.notified() => {}
                    () = tokio::time::sleep_until(next) => {}
                }
            }
        })
    }

    fn connection(&mut self, address: &Address, state: ConnectivityState) {
        self.followed
            .change(|view, now| view.connection(address, state, now));
    }
}

impl Drop for RemoteResolver {
    fn drop(&mut self) {
        for (peer, watch) in self.peers.iter().zip(&self.watches) {
            peer.unfollow(*watch);
        }
    }
}

/// The watches of one registry server.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    board: Mutex<Board>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Board {
    watches: HashMap<u32, Watch>,
    last: u32,
    /// Watches that the registry is to be told of: that they began, or ended.
    outbox: VecDeque<u32>,
    /// Why the registry cannot be asked now, for those who come meanwhile.
    lost: Option<Status>,
    running: bool,
}

#[derive(Clone, Debug)]
struct Watch {
    followed: Arc<Followed>,
    /// Which source of the view the registry is.
    source: usize,
    /// Refused, and asked for again at that time.
    again: Option<Instant>,
    backoff: Backoff,
}

impl Watches {
    fn lock(&self) -> MutexGuard<'_, Board> {
        // Each change is whole before anything could panic.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<Watch> {
        self.lock().watches.values().cloned().collect()
    }
}

impl Peer {
    fn follow(self: &Arc<Self>, followed: &Arc<Followed>, source: usize) -> u32 {
        let mut board = self.watches.lock();
        loop {
            board.last = board.last.wrapping_add(1);
            let watch = board.last;
            if watch != 0 && !board.watches.contains_key(&watch) {
                let new = Watch {
                    followed: Arc::clone(followed),
                    source,
                    again: None,
                    backoff: Backoff::default(),
                };
                board.watches.insert(watch, new);
                board.outbox.push_back(watch);
                let lost = board.lost.clone();
                drop(board);
                if let Some(status) = lost {
                    followed.change(|view, now| view.lose(source, &status, now));
                }
                self.watches.wake.notify_one();
                return watch;
            }
        }
    }

    fn unfollow(&self, watch: u32) {
        let mut board = self.watches.lock();
        let ended = board.watches.remove(&watch);
        board.outbox.push_back(watch);
        drop(board);
        drop(ended);
        self.watches.wake.notify_one();
    }

    /// Starts the task that watches, unless it runs: it ends with the runtime that it was started in.
    fn keep_watching(self: &Arc<Self>) {
        let mut board = self.watches.lock();
        let start = !board.watches.is_empty() && !std::mem::replace(&mut board.running, true);
        drop(board);
        if start {
            tokio::spawn(run(Arc::clone(self)));
        }
    }
}

/// The task that runs; when it ends with its runtime, the resolvers of others start another.
struct Running(Option<Arc<Peer>>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(peer) = &self.0 {
            peer.watches.lock().running = false;
            for watch in peer.watches.all() {
                watch.followed.news.notify_one();
            }
        }
    }
}

async fn run(peer: Arc<Peer>) {
    let mut running = Running(Some(Arc::clone(&peer)));
    let mut backoff = Backoff::default();
    while !stop_if_idle(&peer) {
        let status = match session(&peer, &mut backoff).await {
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
        peer.watches.lock().lost = Some(status.clone());
        for watch in peer.watches.all() {
            let source = watch.source;
            watch
                .followed
                .change(|view, now| view.lose(source, &status, now));
        }
        tokio::time::sleep(wait).await;
    }
    // Another may run already.
    running.0 = None;
}

/// Whether there is nothing to watch; then the task has to end.
fn stop_if_idle(peer: &Peer) -> bool {
    let mut board = peer.watches.lock();
    if board.watches.is_empty() {
        board.running = false;
        board.outbox.clear();
        board.lost = None;
        return true;
    }
    false
}

async fn session(peer: &Peer, backoff: &mut Backoff) -> Result<(), Status> {
    let (number, client) = peer.client().await?;
    let (requests, responses) = client.watch(peer.request()?);
    let mut session = Session {
        peer,
        requests,
        responses,
        told: HashMap::new(),
    };
    let result = session.run(backoff).await;
    if let Err(status) = &result {
        peer.discard(number, status).await;
    }
    result
}

/// One stream to a registry.
struct Session<'a> {
    peer: &'a Peer,
    requests: RequestStream<WatchRequest>,
    responses: RecvStream<WatchResponse>,
    /// The watches that the registry knows of on this stream.
    told: HashMap<u32, Watch>,
}

impl Session<'_> {
    /// Runs until the stream breaks, or nothing is left to watch.
    async fn run(&mut self, backoff: &mut Backoff) -> Result<(), Status> {
        {
            let mut board = self.peer.watches.lock();
            board.outbox = board.watches.keys().copied().collect();
        }
        let mut answered = false;
        let mut patience = FIRST_PATIENCE;
        let mut silent = Instant::now() + patience;
        let mut look = Instant::now();
        loop {
            let something = {
                let board = self.peer.watches.lock();
                if board.watches.is_empty() {
                    return Ok(());
                }
                !board.outbox.is_empty()
            };
            tokio::select! {
                piece = self.responses.recv() => {
                    let piece = piece?.ok_or_else(|| ended(&self.peer.address))?;
                    if !std::mem::replace(&mut answered, true) {
                        backoff.reset();
                        self.peer.watches.lock().lost = None;
                        self.peer.reached();
                    }
                    let sign = Duration::from_millis(piece.ttl_ms.into()).min(SIGN);
                    // Whatever arrives is a sign of life.
                    patience = (sign * 2).max(PATIENCE);
                    silent = Instant::now() + patience;
                    self.take(piece);
                }
                permit = self.requests.reserve(), if something => {
                    let permit = permit?;
                    if let Some(message) = next_message(self.peer, &mut self.told) {
                        permit.send(message)?;
                    }
                }
                () = self.peer.watches.wake.notified() => {}
                () = tokio::time::sleep_until(look) => {
                    look = Instant::now() + Duration::from_secs(1);
                    self.ask_refused_again();
                }
                () = tokio::time::sleep_until(silent) => {
                    return Err(Status::unavailable(format!("the registry {} is silent for {patience:?}", self.peer.address)));
                }
            }
        }
    }

    fn ask_refused_again(&mut self) {
        let now = Instant::now();
        let mut board = self.peer.watches.lock();
        let Board {
            watches, outbox, ..
        } = &mut *board;
        for (id, watch) in watches {
            if watch.again.take_if(|again| *again <= now).is_some() {
                outbox.push_back(*id);
            }
        }
    }

    fn take(&mut self, piece: WatchResponse) {
        let id = piece.watch;
        // A sign of life is of no watch.
        let Some(watch) = self.told.get(&id) else {
            return;
        };
        let (followed, source) = (Arc::clone(&watch.followed), watch.source);
        if let Some(refusal) = piece.refused {
            self.told.remove(&id);
            let status = refused(refusal);
            let mut wait = Duration::ZERO;
            if let Some(watch) = self.peer.watches.lock().watches.get_mut(&id) {
                wait = watch.backoff.next(REFUSED, fastrand::f64());
                watch.again = Instant::now().checked_add(wait);
            }
            let (service, registry) = (&*followed.service, &self.peer.address);
            tracing::warn!(service, %registry, %status, retry_in = ?wait, "the registry refuses the watch");
            followed.change(|view, now| view.lose(source, &status, now));
            return;
        }
        let told = self.told_by(piece, &followed.service);
        followed.change(|view, now| view.hear(source, told, now));
    }

    fn told_by(&self, piece: WatchResponse, service: &str) -> Told {
        let endpoint = |instance| match convert::to_endpoint(instance) {
            Ok(endpoint) => Some(endpoint),
            Err(status) => {
                let registry = &self.peer.address;
                tracing::warn!(service, %registry, %status, "the registry lists what is no endpoint");
                None
            }
        };
        Told {
            incarnation: piece.incarnation,
            revision: piece.revision,
            ttl: Duration::from_millis(piece.ttl_ms.into()),
            whole: piece.whole,
            more: piece.more,
            refilling: piece.refilling,
            listed: piece.instances.into_iter().filter_map(endpoint).collect(),
            gone: piece
                .gone
                .into_iter()
                .map(|gone| (gone.id, gone.deregistered))
                .collect(),
        }
    }
}

/// Which watch began or ended, that the registry has not been told of on this stream.
fn next_message(peer: &Peer, told: &mut HashMap<u32, Watch>) -> Option<WatchRequest> {
    loop {
        let (id, watch) = {
            let mut board = peer.watches.lock();
            let id = board.outbox.pop_front()?;
            (id, board.watches.get(&id).cloned())
        };
        let step = match watch {
            Some(watch) if !told.contains_key(&id) => {
                let (incarnation, revision) = watch.followed.view().known(watch.source);
                let service = watch.followed.service.clone();
                told.insert(id, watch);
                watch_request::Step::Follow(Follow {
                    service,
                    incarnation,
                    revision,
                })
            }
            None if told.remove(&id).is_some() => watch_request::Step::Unfollow(Unfollow {}),
            _ => continue,
        };
        return Some(WatchRequest {
            watch: id,
            step: Some(step),
        });
    }
}
