//! Locks under which no code of others runs.
//!
//! Wakers, observers, handlers, the spawning of tasks and the drop of what users have made may all
//! come back into this crate: under a lock they would wait for themselves. What they are needed for is
//! put off under the lock and done after it, which [`Guard`] sees to when it is dropped, so that
//! nobody can forget it.
//!
//! A debug build counts the locks of each thread, and panics where [`outside`] is called or a second
//! lock is taken while there is one.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::{Context, Waker};

/// What a [`Lock`] guards, with what it puts off.
pub(crate) trait Guarded {
    /// Does what was put off when it is dropped.
    type After;

    /// What was put off since the last time, if anything was.
    fn take_after(&mut self) -> Option<Self::After>;
}

/// A lock whose guard does what was put off once the lock has been given back.
#[derive(Debug)]
pub(crate) struct Lock<T>(Mutex<T>);

impl<T: Guarded> Lock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    #[inline]
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        outside("another lock");
        // Nothing that runs under a lock leaves its value half changed.
        let guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Guard {
            guard,
            _held: Held::new(),
            after: None,
        }
    }
}

/// A lock that is held. Its fields are dropped in their order: the lock is given back first.
pub(crate) struct Guard<'a, T: Guarded> {
    guard: MutexGuard<'a, T>,
    _held: Held,
    after: Option<T::After>,
}

impl<T: Guarded> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T: Guarded> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<T: Guarded> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.after = self.guard.take_after();
    }
}

/// What one task has for as long as it works with it, and others use only when nobody has it.
///
/// It is no lock in the sense of this file: nobody but that task waits for it, so code of others may
/// run while it is held.
#[derive(Debug)]
pub(crate) struct Turn<T>(Mutex<T>);

impl<T> Turn<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// For its own task alone.
    pub(crate) fn wait(&self) -> MutexGuard<'_, T> {
        outside("a turn that may have to be waited for");
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For everybody else.
    pub(crate) fn try_take(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(value) => Some(value),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// Tasks that have to be woken, which the drop of this does.
#[derive(Debug, Default)]
pub(crate) struct Wakers {
    /// Most of the time there is no other.
    first: Option<Waker>,
    more: Option<Box<More>>,
}

#[derive(Debug, Default)]
struct More {
    wakers: Vec<Waker>,
    /// Wakers that were replaced: their drop may be the end of somebody's task.
    stale: Vec<Waker>,
}

impl Wakers {
    /// Wakes a task later.
    #[inline]
    pub(crate) fn push(&mut self, waker: Option<Waker>) {
        if let Some(waker) = waker {
            self.push_one(waker);
        }
    }

    fn push_one(&mut self, waker: Waker) {
        if self.first.is_none() {
            self.first = Some(waker);
        } else {
            self.more.get_or_insert_default().wakers.push(waker);
        }
    }

    /// Lets go of a waker later, without waking its task.
    #[inline]
    pub(crate) fn forget(&mut self, waker: Option<Waker>) {
        if let Some(waker) = waker {
            self.forget_one(waker);
        }
    }

    #[cold]
    fn forget_one(&mut self, waker: Waker) {
        self.more.get_or_insert_default().stale.push(waker);
    }

    /// Wakes all, and keeps the memory for the next ones.
    pub(crate) fn wake(&mut self) {
        if let Some(first) = self.first.take() {
            outside("a waker");
            first.wake();
        }
        if let Some(more) = &mut self.more {
            outside("a waker");
            more.wakers.drain(..).for_each(Waker::wake);
            more.wakers.shrink_to(256);
            more.stale.clear();
        }
    }

    /// Takes what there is out of its place.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<Self> {
        (self.first.is_some() || self.more.is_some()).then(|| std::mem::take(self))
    }
}

impl Drop for Wakers {
    fn drop(&mut self) {
        self.wake();
    }
}

/// Puts the waker of a task in its place; gives the one that was there before, for
/// [`Wakers::forget`].
#[must_use = "it must not be dropped under a lock"]
pub(crate) fn watch(place: &mut Option<Waker>, cx: &Context<'_>) -> Option<Waker> {
    match place {
        Some(waker) if waker.will_wake(cx.waker()) => None,
        _ => place.replace(cx.waker().clone()),
    }
}

#[cfg(debug_assertions)]
mod held {
    use std::cell::Cell;

    thread_local! {
        static HELD: Cell<u32> = const { Cell::new(0) };
    }

    /// Counts a lock for as long as it is held.
    pub(super) struct Held(());

    impl Held {
        pub(super) fn new() -> Self {
            HELD.set(HELD.get() + 1);
            Self(())
        }

        pub(super) fn is_any() -> bool {
            // What is dropped at the end of a thread finds none.
            HELD.try_with(Cell::get).unwrap_or(0) > 0
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            HELD.set(HELD.get() - 1);
        }
    }
}

#[cfg(not(debug_assertions))]
mod held {
    /// Nothing is counted.
    pub(super) struct Held(());

    impl Held {
        pub(super) fn new() -> Self {
            Self(())
        }
    }
}

use held::Held;

/// Where code of others is entered: a debug build panics if that is under a lock.
#[inline]
#[track_caller]
pub(crate) fn outside(what: &str) {
    #[cfg(debug_assertions)]
    if Held::is_any() && !std::thread::panicking() {
        panic!("{what} is entered under a lock");
    }
    #[cfg(not(debug_assertions))]
    let _ = what;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(Wakers);

    impl Guarded for Woken {
        type After = Wakers;

        fn take_after(&mut self) -> Option<Wakers> {
            self.0.take()
        }
    }

    /// Takes the lock when it is woken, as a task might that is run at once.
    struct Locks(Arc<Lock<Woken>>, AtomicUsize);

    impl Wake for Locks {
        fn wake(self: Arc<Self>) {
            drop(self.0.lock());
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_is_put_off_is_done_once_the_lock_has_been_given_back() {
        let lock = Arc::new(Lock::new(Woken::default()));
        let task = Arc::new(Locks(Arc::clone(&lock), AtomicUsize::new(0)));
        let mut guard = lock.lock();
        for _ in 0..3 {
            guard.0.push(Some(Arc::clone(&task).into()));
        }
        guard.0.forget(Some(Arc::clone(&task).into()));
        assert_eq!(task.1.load(Ordering::Relaxed), 0);
        drop(guard);
        assert_eq!(task.1.load(Ordering::Relaxed), 3);
        assert_eq!(Arc::strong_count(&task), 1);
    }

    #[test]
    fn wakers_that_are_dropped_wake() {
        let lock = Arc::new(Lock::new(Woken::default()));
        let task = Arc::new(Locks(lock, AtomicUsize::new(0)));
        let mut wakers = Wakers::default();
        wakers.push(Some(Arc::clone(&task).into()));
        drop(wakers);
        assert_eq!(task.1.load(Ordering::Relaxed), 1);
    }

    #[cfg(debug_assertions)]
    #[test]
    #[should_panic(expected = "a handler is entered under a lock")]
    fn code_of_others_is_not_entered_under_a_lock() {
        let lock = Lock::new(Woken::default());
        let _guard = lock.lock();
        outside("a handler");
    }

    #[cfg(debug_assertions)]
    #[test]
    #[should_panic(expected = "another lock is entered under a lock")]
    fn a_lock_is_not_taken_under_another() {
        let (one, other) = (Lock::new(Woken::default()), Lock::new(Woken::default()));
        let _guard = one.lock();
        drop(other.lock());
    }
}
