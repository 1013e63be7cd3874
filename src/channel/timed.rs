//! A lock that can be waited for until a deadline, which std's cannot.

use std::sync::PoisonError;
use std::time::Duration;

#[cfg(feature = "async")]
use crate::channel::wakers::Seat;
use crate::channel::wakers::Wakers;
use crate::sync::plain::{Condvar, Mutex};
use crate::sys::clock::Deadline;
use crate::sys::fork;

/// Something that one thread uses at a time.
#[derive(Debug)]
pub(crate) struct TimedLock<T> {
    /// `None` while it is lent.
    value: Mutex<Option<T>>,
    returned: Condvar,
    /// Tasks that wait for it.
    tasks: Wakers,
}

/// The loan; dropping it gives the value to the next.
#[derive(Debug)]
pub(crate) struct Loan<'a, T> {
    lock: &'a TimedLock<T>,
    /// Always there until the drop.
    value: Option<T>,
}

impl<T> TimedLock<T> {
    pub(crate) fn new(value: T) -> Self {
        let value = Mutex::new(Some(value));
        Self { value, returned: Condvar::new(), tasks: Wakers::default() }
    }

    /// Takes both locks, for a test of what must not wait for them.
    #[cfg(all(test, feature = "tokio", not(loom)))]
    pub(super) fn hold(&self) -> impl Sized {
        let value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        (value, self.tasks.hold())
    }

    #[cfg(feature = "async")]
    fn try_lock(&self) -> Option<Loan<'_, T>> {
        let value = self.value.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(Loan { lock: self, value: Some(value) })
    }

    /// For tasks: the loan, or a wake-up when it is worth trying again.
    #[cfg(feature = "async")]
    pub(crate) fn poll_lock(
        &self,
        seat: &mut Seat<'_>,
        waker: &std::task::Waker,
    ) -> Option<Loan<'_, T>> {
        let loan = self.try_lock().or_else(|| {
            seat.wait(waker);
            // It may have been returned before the waker was there.
            self.try_lock()
        })?;
        seat.leave();
        Some(loan)
    }

    /// A seat for [`TimedLock::poll_lock`].
    #[cfg(feature = "async")]
    pub(crate) fn seat(&self) -> Seat<'_> {
        self.tasks.seat()
    }

    /// Waits until no other thread uses it; `None` if the deadline passed first, or if
    /// `is_over` said so. That is asked before each sleep, under a lock:
    /// [`TimedLock::look_again`] must follow when its answer changes.
    pub(crate) fn lock_until(
        &self,
        deadline: Deadline,
        is_over: impl Fn() -> bool,
    ) -> Option<Loan<'_, T>> {
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(value) = value.take() {
                return Some(Loan { lock: self, value: Some(value) });
            }
            // With the lock, which `look_again` takes: no change is missed.
            if is_over() || deadline.has_passed() {
                return None;
            }
            let wait = deadline.remaining().min(Duration::from_secs(1));
            let waited = self.returned.wait_timeout(value, wait);
            value = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Has all waiting threads ask again whether it is over.
    pub(crate) fn look_again(&self) {
        // A thread that has asked, and does not wait yet, holds the lock.
        drop(self.value.lock().unwrap_or_else(PoisonError::into_inner));
        self.returned.notify_all();
    }
}

impl<T> Loan<'_, T> {
    /// Runs `with` on the value.
    pub(crate) fn with<R>(&mut self, with: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.value.as_mut().map(with)
    }
}

impl<T> Drop for Loan<'_, T> {
    fn drop(&mut self) {
        if fork::is_forked_child() {
            // It is not lent in the parent any less, and the lock may be held for ever here.
            return;
        }
        *self.lock.value.lock().unwrap_or_else(PoisonError::into_inner) = self.value.take();
        self.lock.returned.notify_one();
        self.lock.tasks.wake_all();
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn it_is_lent_to_one_at_a_time_and_waited_for_until_the_deadline() {
        let lock = TimedLock::new(1);
        let never = || false;
        let mut first = lock.lock_until(Deadline::NEVER, never).unwrap();
        let soon = Deadline::after(Duration::from_millis(5));
        assert!(lock.lock_until(soon, never).is_none());
        first.with(|n| *n += 1);
        std::thread::scope(|scope| {
            let waiter =
                scope.spawn(|| lock.lock_until(Deadline::NEVER, never).unwrap().with(|n| *n));
            drop(first);
            assert_eq!(waiter.join().unwrap(), Some(2));
        });
    }

    #[test]
    fn a_wait_without_a_deadline_ends_when_it_is_over() {
        let (lock, is_over) = (TimedLock::new(()), AtomicBool::new(false));
        let asked = AtomicUsize::new(0);
        let lent = lock.lock_until(Deadline::NEVER, || false).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let over = || {
                    asked.fetch_add(1, Ordering::SeqCst);
                    is_over.load(Ordering::SeqCst)
                };
                lock.lock_until(Deadline::NEVER, over).is_none()
            });
            while asked.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            is_over.store(true, Ordering::SeqCst);
            lock.look_again();
            assert!(waiter.join().unwrap());
        });
        drop(lent);
    }
}
