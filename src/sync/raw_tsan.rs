//! Locks that ThreadSanitizer sees.
//!
//! The contended half of std's locks is compiled into std, which is not instrumented: all that
//! lies behind such a lock would be reported. Here each holder stores a word that the next one
//! loads, which promises exactly what a lock does. These locks are never poisoned.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LockResult, PoisonError, TryLockError, TryLockResult, WaitTimeoutResult};
use std::time::Duration;

#[derive(Debug, Default)]
pub(crate) struct Mutex<T> {
    /// Touched only while the lock is held.
    handed_on: AtomicU32,
    inner: std::sync::Mutex<T>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { handed_on: AtomicU32::new(0), inner: std::sync::Mutex::new(value) }
    }

    pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(MutexGuard::new(&self.handed_on, inner))
    }

    pub(crate) fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        let inner = match self.inner.try_lock() {
            Ok(inner) => inner,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(TryLockError::WouldBlock),
        };
        Ok(MutexGuard::new(&self.handed_on, inner))
    }
}

#[derive(Debug)]
pub(crate) struct MutexGuard<'a, T> {
    /// Dropped first, while the lock is still held.
    hand_on: HandOn<'a>,
    inner: std::sync::MutexGuard<'a, T>,
}

impl<'a, T> MutexGuard<'a, T> {
    fn new(handed_on: &'a AtomicU32, inner: std::sync::MutexGuard<'a, T>) -> Self {
        // Pairs with the Release store of the holder before.
        handed_on.load(Ordering::Acquire);
        Self { hand_on: HandOn(handed_on), inner }
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

#[derive(Debug)]
struct HandOn<'a>(&'a AtomicU32);

impl Drop for HandOn<'_> {
    fn drop(&mut self) {
        self.0.store(1, Ordering::Release);
    }
}

#[derive(Debug, Default)]
pub(crate) struct Condvar(std::sync::Condvar);

impl Condvar {
    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        let MutexGuard { hand_on, inner } = guard;
        let handed_on = hand_on.0;
        drop(hand_on);
        let waited = self.0.wait_timeout(inner, timeout);
        let (inner, result) = waited.unwrap_or_else(PoisonError::into_inner);
        Ok((MutexGuard::new(handed_on, inner), result))
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}
