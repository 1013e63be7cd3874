//! A lock that can be waited for until a deadline, which std's cannot.

use std::time::Duration;

use crate::channel::wait_list::{Registration, WaitList};
use crate::sync::plain::{Condvar, Mutex};
use crate::sys::clock::Deadline;
use crate::sys::fork;

/// Something that one thread uses at a time.
#[derive(Debug)]
pub(crate) struct TimedMutex<T> {
    /// `None` while it is lent.
    value: Mutex<Option<T>>,
    returned: Condvar,
    /// Tasks that wait for it.
    tasks: WaitList,
}

/// The guard; dropping it gives the value to the next.
#[derive(Debug)]
pub(crate) struct TimedGuard<'a, T> {
    lock: &'a TimedMutex<T>,
    /// Always there until the drop.
    value: Option<T>,
}

impl<T> TimedMutex<T> {
    pub(crate) fn new(value: T) -> Self {
        let value = Mutex::new(Some(value));
        Self { value, returned: Condvar::default(), tasks: WaitList::default() }
    }

    fn try_lock(&self) -> Option<TimedGuard<'_, T>> {
        let value = self.value.lock().take()?;
        Some(TimedGuard { lock: self, value: Some(value) })
    }

    /// For tasks: the guard, or a wake-up when it is worth trying again.
    pub(crate) fn poll_lock(
        &self,
        registration: &mut Registration<'_>,
        waker: &std::task::Waker,
    ) -> Option<TimedGuard<'_, T>> {
        let guard = self.try_lock().or_else(|| {
            registration.wait(waker);
            // It may have been returned before the waker was there.
            self.try_lock()
        })?;
        registration.leave();
        Some(guard)
    }

    /// A registration for [`TimedMutex::poll_lock`].
    pub(crate) fn register(&self) -> Registration<'_> {
        self.tasks.register()
    }

    /// Waits until no other thread uses it; `None` if the deadline passed first, or if
    /// `is_over` said so. That is asked before each sleep, under a lock:
    /// [`TimedMutex::look_again`] must follow when its answer changes.
    pub(crate) fn lock_until(
        &self,
        deadline: Deadline,
        is_over: impl Fn() -> bool,
    ) -> Option<TimedGuard<'_, T>> {
        let mut value = self.value.lock();
        loop {
            if let Some(value) = value.take() {
                return Some(TimedGuard { lock: self, value: Some(value) });
            }
            // With the lock, which `look_again` takes: no change is missed.
            if is_over() || deadline.has_passed() {
                return None;
            }
            let wait = deadline.remaining().min(Duration::from_secs(1));
            value = self.returned.wait_timeout(value, wait);
        }
    }

    /// Has all waiting threads ask again whether it is over.
    pub(crate) fn look_again(&self) {
        // A thread that has asked, and does not wait yet, holds the lock.
        drop(self.value.lock());
        self.returned.notify_all();
    }
}

impl<T> TimedGuard<'_, T> {
    /// Runs `with` on the value.
    pub(crate) fn with<R>(&mut self, with: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.value.as_mut().map(with)
    }
}

impl<T> Drop for TimedGuard<'_, T> {
    fn drop(&mut self) {
        if fork::is_forked_child() {
            // It is not lent in the parent any less, and the lock may be held for ever here.
            return;
        }
        *self.lock.value.lock() = self.value.take();
        self.lock.returned.notify_one();
        self.lock.tasks.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn it_is_lent_to_one_at_a_time_and_waited_for_until_the_deadline() {
        let lock = TimedMutex::new(1);
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
        let (lock, is_over) = (TimedMutex::new(()), AtomicBool::new(false));
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
