//! The locks of the standard library without poisoning: a panic of one thread of the host must
//! not take the channel from the others, and no code that holds these locks leaves the state
//! behind them half-changed.

use std::process::abort;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, TryLockError};
use std::time::Duration;

use super::raw;
pub(crate) use super::raw::MutexGuard;

/// Whether every lock counts as held by a thread that never releases it. After a fork, any lock
/// can be held by a thread that does not exist in the child. A test sets this in a child.
pub(crate) static ARE_ALL_HELD: AtomicBool = AtomicBool::new(false);

fn is_held_for_ever() -> bool {
    cfg!(test) && ARE_ALL_HELD.load(Ordering::Relaxed)
}

/// Called before each wait for a lock. In a test, ends a process that would wait for ever.
#[inline]
pub(crate) fn before_lock() {
    if is_held_for_ever() {
        abort();
    }
}

/// A mutex without poisoning.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(raw::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(raw::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        before_lock();
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lock if it is free now, or within the time of a long copy, and never sleeps for it. For a
    /// thread that must not wait for one that gets no processor. The guard is to be dropped after some
    /// loads: another thread may wait for it.
    #[cfg_attr(loom, allow(dead_code, reason = "for the status page"))]
    pub(crate) fn lock_soon(&self) -> Option<MutexGuard<'_, T>> {
        const ATTEMPTS: usize = 1000;
        (0..ATTEMPTS).find_map(|_| {
            let locked = self.try_lock();
            if locked.is_none() {
                std::hint::spin_loop();
            }
            locked
        })
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        if is_held_for_ever() {
            return None;
        }
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// A condition variable for these mutexes.
#[derive(Debug, Default)]
pub(crate) struct Condvar(raw::Condvar);

impl Condvar {
    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> MutexGuard<'a, T> {
        self.0.wait_timeout(guard, timeout).unwrap_or_else(PoisonError::into_inner).0
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}
