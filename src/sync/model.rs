//! What the model checker puts in the place of what ships.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

pub(crate) use loom::hint::spin_loop;
pub(crate) use loom::sync::MutexGuard;
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};
pub(crate) use loom::thread::yield_now;

use super::{Counter, Ordering};

/// None: it would make good a wake-up that was lost.
pub(crate) const BACKSTOP: Duration = Duration::MAX;

/// Looking again and again only makes a model larger.
pub(crate) const MAY_SPIN: bool = false;

/// A mutex without poisoning.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A condition variable for these mutexes, whose waits never end for no reason.
#[derive(Debug, Default)]
pub(crate) struct Condvar(loom::sync::Condvar);

impl Condvar {
    /// A timeout of less than an hour passes at once; any other never does.
    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> MutexGuard<'a, T> {
        if timeout < Duration::from_secs(3600) {
            pass(timeout);
            return guard;
        }
        self.0.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }
}

loom::lazy_static! {
    static ref FULL_FENCES: AtomicU32 = AtomicU32::new(0);
    /// Nanoseconds. A loom atomic would be one more step of each thread that asks.
    static ref CLOCK: Counter = Counter::new(0);
}

loom::thread_local! {
    static SEAT: Thread = Thread::default();
}

/// What the clock shows. Time passes only when a thread sleeps with a deadline.
pub(crate) fn model_now_ns() -> Option<u64> {
    Some(CLOCK.load(Ordering::Relaxed))
}

/// Runs `step`, which tells the checker something.
pub(crate) fn in_model(step: impl FnOnce()) {
    step();
}

/// Ends a sleep with a deadline, which nothing but its deadline ends in a model.
pub(crate) fn pass(time: Duration) {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    CLOCK.fetch_add(nanos, Ordering::Relaxed);
}

/// A lock as std's. The checker's own makes a thread that is about to try the lock sleep when
/// another one takes it. A failed try is a Relaxed load, which need not see the last unlock.
#[derive(Debug)]
pub(crate) struct TryLock<T> {
    is_taken: AtomicU32,
    value: std::sync::Mutex<T>,
}

#[derive(Debug)]
pub(crate) struct TryGuard<'a, T> {
    is_taken: &'a AtomicU32,
    /// `Some` until the drop.
    value: Option<std::sync::MutexGuard<'a, T>>,
}

impl<T> TryLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { is_taken: AtomicU32::new(0), value: std::sync::Mutex::new(value) }
    }

    pub(crate) fn try_lock(&self) -> Option<TryGuard<'_, T>> {
        let is_taken = &self.is_taken;
        let is_free = is_taken.load(Ordering::Relaxed) == 0
            && is_taken.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok();
        is_free.then(|| TryGuard { is_taken, value: self.value.try_lock().ok() })
    }
}

impl<T> std::ops::Deref for TryGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("the flag is taken, so the lock is held")
    }
}

impl<T> std::ops::DerefMut for TryGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("the flag is taken, so the lock is held")
    }
}

impl<T> Drop for TryGuard<'_, T> {
    fn drop(&mut self) {
        self.value = None;
        self.is_taken.store(0, Ordering::Release);
    }
}

/// A thread that can be unparked. The checker's own unpark would also wake it from a lock.
#[derive(Debug, Clone, Default)]
pub(crate) struct Thread(Arc<(Mutex<bool>, Condvar)>);

impl Thread {
    pub(crate) fn unpark(&self) {
        *self.0.0.lock() = true;
        self.0.1.notify_one();
    }
}

pub(crate) fn current() -> Thread {
    SEAT.with(Thread::clone)
}

/// Sleeps until this thread is unparked, and never wakes for no reason. A timeout that is not
/// endless passes at once.
pub(crate) fn park_timeout(timeout: Duration) {
    let Thread(seat) = current();
    let mut is_unparked = seat.0.lock();
    if !*is_unparked && timeout != Duration::MAX {
        pass(timeout);
        return;
    }
    while !*is_unparked {
        is_unparked = seat.1.wait_timeout(is_unparked, Duration::MAX);
    }
    *is_unparked = false;
}

/// The checker never switches threads between an access and the fence after it, and takes runs
/// for equal that differ in the order of their fences only. So every full fence is an access
/// as well, to one word that all of them share.
pub(crate) fn fence(order: Ordering) {
    if order == Ordering::SeqCst {
        FULL_FENCES.fetch_add(1, Ordering::Relaxed);
    }
    loom::sync::atomic::fence(order);
}
