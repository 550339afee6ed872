//! The places of a server's connections, and who gives one up when there is none left.
//!
//! A connection without calls costs its client nothing to open again, so that it is asked to go, by a
//! graceful end, when another client needs its place: the one that was silent for longest first. One
//! whose client is gone is given up by that as well.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// A connection that was silent for less than this is not idle.
const IDLE: Duration = Duration::from_millis(250);
/// How long a newcomer waits until it is looked again who is idle.
const LOOK: Duration = Duration::from_millis(100);
/// So many of those that are idle for longest are found in one look at all connections.
const FOUND: usize = 256;
/// One in so many may be on its way out beside those that have places.
const LEAVING: usize = 10;

/// Says since when a connection is idle.
pub(super) trait IdleSince: Send + Sync {
    /// Nothing while it has calls.
    fn idle_since(&self) -> Option<Instant>;
}

/// The place of one connection.
pub(crate) struct Seat {
    taken: Instant,
    /// Who says whether it is idle, once it speaks HTTP/2; until then it is.
    connection: Mutex<Option<Weak<dyn IdleSince>>>,
    /// What holds the place: given up with the connection, or before it by one that is asked to go.
    permit: Mutex<Option<OwnedSemaphorePermit>>,
    leave: Notify,
    is_leaving: AtomicBool,
}

impl Seat {
    /// One that nobody waits for.
    pub(crate) fn free() -> Arc<Self> {
        Arc::new(Self::new(None))
    }

    fn new(permit: Option<OwnedSemaphorePermit>) -> Self {
        Self {
            taken: Instant::now(),
            connection: Mutex::new(None),
            permit: Mutex::new(permit),
            leave: Notify::new(),
            is_leaving: AtomicBool::new(false),
        }
    }

    /// Waits until the connection is asked to go.
    pub(super) async fn left(&self) {
        self.leave.notified().await;
    }

    /// Who says from now on whether the connection is idle.
    pub(super) fn ask(&self, connection: Weak<dyn IdleSince>) {
        *lock(&self.connection) = Some(connection);
    }

    /// Since when the connection is idle, if it is and was not asked to go.
    fn idle_since(&self) -> Option<Instant> {
        if self.is_leaving.load(Ordering::Relaxed) {
            return None;
        }
        let connection = lock(&self.connection).clone();
        match connection {
            None => Some(self.taken),
            Some(connection) => connection.upgrade()?.idle_since(),
        }
    }
}

/// The places of all connections.
#[derive(Clone)]
pub(super) struct Places(Arc<Inner>);

struct Inner {
    free: Arc<Semaphore>,
    leaving: Arc<Semaphore>,
    seats: Mutex<Seats>,
}

#[derive(Default)]
struct Seats {
    next: u64,
    taken: HashMap<u64, Arc<Seat>>,
    /// Those that were idle for longest at the last look, the longest last.
    idle: Vec<Weak<Seat>>,
}

/// A seat that is taken as long as this is there.
pub(super) struct Taken {
    places: Places,
    number: u64,
    pub(super) seat: Arc<Seat>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let seat = lock(&self.places.0.seats).taken.remove(&self.number);
        drop(seat);
    }
}

impl Places {
    pub(super) fn new(count: usize) -> Self {
        let count = count.min(Semaphore::MAX_PERMITS);
        Self(Arc::new(Inner {
            free: Arc::new(Semaphore::new(count)),
            leaving: Arc::new(Semaphore::new((count / LEAVING).max(1))),
            seats: Mutex::default(),
        }))
    }

    /// Waits for a place, and has an idle connection go when there is none.
    pub(super) async fn take(&self) -> Taken {
        let inner = &self.0;
        let permit = loop {
            if let Ok(permit) = Arc::clone(&inner.free).try_acquire_owned() {
                break permit;
            }
            if self.make_room() {
                continue;
            }
            let waited = tokio::time::timeout(LOOK, Arc::clone(&inner.free).acquire_owned());
            // The semaphore is never closed.
            if let Ok(Ok(permit)) = waited.await {
                break permit;
            }
        };
        let seat = Arc::new(Seat::new(Some(permit)));
        let mut seats = lock(&inner.seats);
        let number = seats.next;
        seats.next += 1;
        seats.taken.insert(number, Arc::clone(&seat));
        drop(seats);
        Taken {
            places: self.clone(),
            number,
            seat,
        }
    }

    /// Has the connection go that was idle for longest; false when none was for long enough, or too
    /// many are on their way out.
    fn make_room(&self) -> bool {
        let Ok(leaving) = Arc::clone(&self.0.leaving).try_acquire_owned() else {
            return false;
        };
        let is_idle = |seat: &Arc<Seat>| {
            let since = seat.idle_since();
            since.is_some_and(|since| since.elapsed() >= IDLE)
        };
        let mut has_looked = false;
        loop {
            let next = lock(&self.0.seats).idle.pop();
            let Some(next) = next else {
                if std::mem::replace(&mut has_looked, true) {
                    return false;
                }
                self.look();
                continue;
            };
            let Some(seat) = next.upgrade().filter(is_idle) else {
                continue;
            };
            if seat.is_leaving.swap(true, Ordering::Relaxed) {
                continue;
            }
            // The place is free at once, and the way out has one of its own.
            let permit = lock(&seat.permit).replace(leaving);
            drop(permit);
            seat.leave.notify_one();
            return true;
        }
    }

    /// Finds those that are idle for longest.
    fn look(&self) {
        let all: Vec<Arc<Seat>> = lock(&self.0.seats).taken.values().cloned().collect();
        let mut idle: Vec<(Instant, Weak<Seat>)> = all
            .iter()
            .filter_map(|seat| Some((seat.idle_since()?, Arc::downgrade(seat))))
            .collect();
        idle.sort_unstable_by_key(|(since, _)| *since);
        idle.truncate(FOUND);
        let idle = idle.into_iter().rev().map(|(_, seat)| seat).collect();
        lock(&self.0.seats).idle = idle;
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that runs under the locks leaves anything half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection that is idle since a time, or busy.
    struct Connection(Mutex<Option<Instant>>);

    impl IdleSince for Connection {
        fn idle_since(&self) -> Option<Instant> {
            *self.0.lock().unwrap()
        }
    }

    async fn connect(places: &Places) -> (Taken, Arc<Connection>) {
        let taken = places.take().await;
        let connection = Arc::new(Connection(Mutex::new(Some(Instant::now()))));
        let weak = Arc::downgrade(&connection);
        taken.seat.ask(weak);
        (taken, connection)
    }

    async fn is_asked_to_go(taken: &Taken) -> bool {
        let left = tokio::time::timeout(Duration::ZERO, taken.seat.left());
        left.await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_idle_for_longest_gives_its_place_to_a_newcomer() {
        let places = Places::new(20);
        let mut all = Vec::new();
        for _ in 0..20 {
            all.push(connect(&places).await);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        // The first is busy, the second was a moment ago.
        *all[0].1.0.lock().unwrap() = None;
        *all[1].1.0.lock().unwrap() = Some(Instant::now());
        let start = Instant::now();
        let newcomers = [places.take().await, places.take().await];
        assert_eq!(start.elapsed(), Duration::ZERO);
        for (place, (taken, _)) in all.iter().enumerate() {
            assert_eq!(
                is_asked_to_go(taken).await,
                (2..4).contains(&place),
                "{place}"
            );
        }
        // No more may be on their way out than a tenth.
        let next = tokio::time::timeout(Duration::from_secs(60), places.take());
        assert!(next.await.is_err());
        drop(all.remove(2));
        let start = Instant::now();
        let next = places.take().await;
        assert!(start.elapsed() <= LOOK);
        drop((newcomers, next));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_has_to_go_who_has_calls() {
        let places = Places::new(2);
        let (first, one) = connect(&places).await;
        let (_second, two) = connect(&places).await;
        for busy in [&one, &two] {
            *busy.0.lock().unwrap() = None;
        }
        let next = tokio::time::timeout(Duration::from_secs(3600), places.take());
        assert!(next.await.is_err());
        // A place that gets free is taken at once, and so is one whose calls have ended.
        let (start, newcomer) = (Instant::now(), places.take());
        drop(first);
        let newcomer = newcomer.await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        newcomer
            .seat
            .ask(Arc::downgrade(&one) as Weak<dyn IdleSince>);
        *two.0.lock().unwrap() = Some(Instant::now());
        let start = Instant::now();
        places.take().await;
        assert!(start.elapsed() <= IDLE + LOOK);
    }

    /// As 10,000 sockets that have said nothing yet.
    #[tokio::test(start_paused = true)]
    async fn a_crowd_that_says_nothing_costs_a_newcomer_a_moment() {
        let places = Places::new(10_000);
        let mut crowd = Vec::new();
        for _ in 0..10_000 {
            crowd.push(places.take().await);
        }
        let start = Instant::now();
        let newcomer = places.take().await;
        assert!(start.elapsed() <= IDLE + LOOK);
        assert!(is_asked_to_go(&crowd[0]).await || crowd.len() == 10_000);
        drop(newcomer);
        drop(crowd);
        assert!(lock(&places.0.seats).taken.is_empty());
        assert_eq!(places.0.free.available_permits(), 10_000);
        assert_eq!(places.0.leaving.available_permits(), 1_000);
    }
}
