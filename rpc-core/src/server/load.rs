//! What a server has taken on, and how much more it takes: handlers that run, octets that it holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::builder::Options;
use crate::Status;

/// The least that there is for calls unless a server is told otherwise.
const BUDGET: usize = 192 * 1024 * 1024;
/// So many of the largest messages there is room for at least unless a server is told otherwise.
const LARGEST: usize = 4;

/// So many connections that are over may wait for their clients at once.
const LINGERING: usize = 64;

/// What all connections of a server have taken on together.
#[derive(Debug)]
pub(crate) struct Load {
    /// Handlers that are running.
    handlers: AtomicUsize,
    max_handlers: usize,
    /// Octets that are held for calls beyond what flow control bounds.
    held: AtomicUsize,
    budget: usize,
    /// Connections that are over and wait for their clients.
    lingering: AtomicUsize,
}

impl Load {
    pub(crate) fn new(options: &Options) -> Arc<Self> {
        let usual = || BUDGET.max(options.receive_limit.saturating_mul(LARGEST));
        Arc::new(Self {
            handlers: AtomicUsize::new(0),
            max_handlers: options.max_handlers,
            held: AtomicUsize::new(0),
            budget: options.memory_budget.unwrap_or_else(usual),
            lingering: AtomicUsize::new(0),
        })
    }

    /// How many octets are held.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// A place among the connections that wait for their clients, if there is one.
    pub(crate) fn linger(&self) -> Option<Lingering<'_>> {
        let place = Lingering(self);
        (self.lingering.fetch_add(1, Ordering::Relaxed) < LINGERING).then_some(place)
    }

    /// Why no handler can run any more.
    pub(crate) fn too_many(&self) -> Status {
        Status::resource_exhausted(format!(
            "{} handlers are running, as many as this server allows (ServerBuilder::max_handlers)",
            self.max_handlers
        ))
    }

    /// Why nothing more can be held.
    fn too_much(&self) -> Status {
        Status::resource_exhausted(format!(
            "this server holds as much for its calls as its memory budget of {} bytes allows (ServerBuilder::memory_budget)",
            self.budget
        ))
    }
}

/// A place of a connection that waits for its client.
pub(crate) struct Lingering<'a>(&'a Load);

impl Drop for Lingering<'_> {
    fn drop(&mut self) {
        self.0.lingering.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The call's place among the handlers that may run at once.
pub(crate) struct Admission(Arc<Load>);

impl Admission {
    pub(crate) fn try_new(load: &Arc<Load>) -> Option<Self> {
        if load.handlers.fetch_add(1, Ordering::Relaxed) >= load.max_handlers {
            load.handlers.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Self(Arc::clone(load)))
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.handlers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the calls of one connection hold.
#[derive(Debug)]
pub(crate) struct Account {
    load: Arc<Load>,
    held: AtomicUsize,
}

impl Account {
    pub(crate) fn new(load: &Arc<Load>) -> Arc<Self> {
        Arc::new(Self {
            load: Arc::clone(load),
            held: AtomicUsize::new(0),
        })
    }

    /// Why nothing more can be held.
    pub(crate) fn too_much(&self) -> Status {
        self.load.too_much()
    }

    /// Whether this connection holds anything.
    pub(crate) fn is_holding(&self) -> bool {
        self.held.load(Ordering::Relaxed) > 0
    }

    /// Whether memory is short enough not to leave it to those who make nothing of it: half of the
    /// budget is used up, by this connection too.
    pub(crate) fn is_crowded(&self) -> bool {
        self.patience().is_some()
    }

    /// How many looks a call may make no progress; nothing while there is memory. The shorter it is,
    /// the fewer, so that those go first on all connections that have stood still for longest.
    pub(crate) fn patience(&self) -> Option<u8> {
        let (held, budget) = (self.load.held(), self.load.budget);
        match held {
            _ if held < budget / 2 || !self.is_holding() => None,
            _ if held < budget - budget / 4 => Some(2),
            _ => Some(1),
        }
    }

    /// Whether new calls are not taken: nine tenths of the budget are used up, by this connection
    /// too. One that holds nothing is not made to pay for the others.
    pub(crate) fn is_pressed(&self) -> bool {
        self.is_holding() && self.load.held() >= self.load.budget - self.load.budget / 10
    }
}

/// What one call holds of the budget; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    account: Arc<Account>,
    octets: usize,
    /// How much it was at the last look; 0 when there was none since something was taken.
    seen: usize,
    /// Looks, one after the other, that have found no progress.
    looks: u8,
}

impl Held {
    /// Nothing yet.
    pub(crate) fn new(account: &Arc<Account>) -> Self {
        Self {
            account: Arc::clone(account),
            octets: 0,
            seen: 0,
            looks: 0,
        }
    }

    /// How much it is.
    pub(crate) fn octets(&self) -> usize {
        self.octets
    }

    /// Holds so much from now on; false when the budget has no room for it, and then as much as before.
    pub(crate) fn set(&mut self, octets: usize) -> bool {
        let Account { load, held } = &*self.account;
        let before = self.octets;
        if octets == before {
            return true;
        }
        if octets < before {
            load.held.fetch_sub(before - octets, Ordering::Relaxed);
            held.fetch_sub(before - octets, Ordering::Relaxed);
        } else {
            let more = octets - before;
            let room = load.budget.checked_sub(more);
            let taken = load
                .held
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
                    (held <= room?).then(|| held + more)
                });
            if taken.is_err() {
                return false;
            }
            held.fetch_add(more, Ordering::Relaxed);
        }
        self.octets = octets;
        true
    }

    /// Holds so much from now on, whatever the budget has room for: what is there already counts.
    pub(crate) fn put(&mut self, octets: usize) {
        if !self.set(octets) {
            let more = octets - self.octets;
            self.account.load.held.fetch_add(more, Ordering::Relaxed);
            self.account.held.fetch_add(more, Ordering::Relaxed);
            self.octets = octets;
        }
    }

    /// How many looks, one after the other, have found that it makes no progress: it is not new since
    /// the last look, nothing was taken from it, and it has not grown by so much, if that counts.
    pub(crate) fn look(&mut self, enough: Option<usize>) -> u8 {
        let octets = self.octets;
        let seen = std::mem::replace(&mut self.seen, octets);
        let grown = enough.is_some_and(|enough| octets >= seen.saturating_add(enough));
        self.looks = match seen == 0 || octets < seen || grown {
            true => 0,
            false => self.looks.saturating_add(1),
        };
        self.looks
    }

    /// Something was taken, and so much is left at most.
    pub(crate) fn taken(&mut self, octets: usize) {
        self.seen = 0;
        self.set(octets.min(self.octets));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(budget: usize) -> Arc<Account> {
        Account::new(&Load::new(&Options {
            memory_budget: Some(budget),
            ..Options::default()
        }))
    }

    #[test]
    fn what_is_held_is_bounded_and_given_back() {
        let account = account(100);
        let (mut one, mut other) = (Held::new(&account), Held::new(&account));
        assert!(one.set(60) && other.set(40) && !other.set(41));
        assert_eq!(account.load.held(), 100);
        assert!(one.set(20) && other.set(80));
        drop(one);
        assert_eq!((account.load.held(), other.octets), (80, 80));
        drop(other);
        assert_eq!(account.load.held(), 0);
    }

    #[test]
    fn what_is_there_counts_past_the_budget() {
        let account = account(100);
        let (mut one, mut other) = (Held::new(&account), Held::new(&account));
        one.put(90);
        one.put(120);
        assert_eq!((account.load.held(), one.octets()), (120, 120));
        assert!(!other.set(1) && other.set(0));
        one.put(0);
        assert!(other.set(100));
    }

    #[test]
    fn patience_is_shorter_the_less_memory_there_is() {
        let account = account(100);
        let quiet = Account::new(&account.load);
        let mut held = Held::new(&account);
        for (octets, patience) in [(0, None), (49, None), (50, Some(2)), (75, Some(1))] {
            assert!(held.set(octets));
            assert_eq!(account.patience(), patience, "{octets}");
            assert_eq!(quiet.patience(), None);
        }
    }

    #[test]
    fn progress_is_what_was_taken_or_what_has_come() {
        let account = account(1000);
        let mut held = Held::new(&account);
        assert!(held.set(100));
        assert_eq!([held.look(Some(10)), held.look(Some(10))], [0, 1]);
        assert!(held.set(109));
        assert_eq!(held.look(Some(10)), 2);
        assert!(held.set(119));
        assert_eq!(held.look(Some(10)), 0);
        // What comes is no progress of who does not take it.
        assert!(held.set(200));
        assert_eq!(held.look(None), 1);
        held.taken(150);
        assert!(held.set(300));
        assert_eq!([held.look(None), held.look(None)], [0, 1]);
    }

    #[test]
    fn who_holds_nothing_is_not_pressed() {
        let account = account(100);
        let quiet = Account::new(&account.load);
        let mut held = Held::new(&account);
        assert!(held.set(89) && !account.is_pressed());
        assert!(held.set(90) && account.is_pressed() && !quiet.is_pressed());
        drop(held);
        assert!(!account.is_pressed());
    }

    #[test]
    fn the_budget_has_room_for_several_of_the_largest_messages() {
        let mut options = Options::default();
        assert_eq!(Load::new(&options).budget, BUDGET);
        options.receive_limit = 100 << 20;
        assert_eq!(Load::new(&options).budget, 400 << 20);
        options.memory_budget = Some(5);
        assert_eq!(Load::new(&options).budget, 5);
    }
}
