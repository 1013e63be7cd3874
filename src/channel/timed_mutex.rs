//! A lock that threads wait for until a deadline, which std's mutex does not allow, and that tasks
//! can wait for, too.
//!
//! The value is taken out of a mutex of std's, which is held only for that. A guard has the value
//! and puts it back when it is dropped.

use std::time::Duration;

use crate::channel::wait_list::{WaitList, WaitRegistration};
use crate::sync::plain::{Condvar, Mutex};
use crate::sys::clock::Deadline;
use crate::sys::fork;

/// A value that one thread or task uses at a time.
#[derive(Debug)]
pub(crate) struct TimedMutex<T> {
    /// `None` while a guard has the value.
    value: Mutex<Option<T>>,
    returned: Condvar,
    /// Tasks that wait for the value.
    tasks: WaitList,
}

/// The right to use the value. Dropping it puts the value back, and wakes one thread and all tasks
/// that wait.
#[derive(Debug)]
pub(crate) struct TimedGuard<'a, T> {
    lock: &'a TimedMutex<T>,
    /// `Some` until the guard is dropped.
    value: Option<T>,
}

impl<T> TimedMutex<T> {
    pub(crate) fn new(value: T) -> Self {
        let value = Mutex::new(Some(value));
        Self { value, returned: Condvar::default(), tasks: WaitList::default() }
    }

    /// Returns the guard if no other thread or task has it.
    fn try_lock(&self) -> Option<TimedGuard<'_, T>> {
        let value = self.value.lock().take()?;
        Some(TimedGuard { lock: self, value: Some(value) })
    }

    /// Returns the guard to a task, or wakes `waker` when the value is put back.
    pub(crate) fn poll_lock(
        &self,
        registration: &mut WaitRegistration<'_>,
        waker: &std::task::Waker,
    ) -> Option<TimedGuard<'_, T>> {
        let guard = self.try_lock().or_else(|| {
            registration.wait(waker);
            // The value may have been put back before the waker was registered.
            self.try_lock()
        })?;
        registration.leave();
        Some(guard)
    }

    /// Makes a registration for [`TimedMutex::poll_lock`].
    pub(crate) fn register(&self) -> WaitRegistration<'_> {
        self.tasks.register()
    }

    /// Waits until no other thread or task has the value. Returns `None` if the deadline passes
    /// first, or if `is_over` returns true. `is_over` is called before each sleep and under a lock.
    /// When its result changes, [`TimedMutex::look_again`] must be called.
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
            // `look_again` takes the lock that is held here, so that no change is missed.
            if is_over() || deadline.has_passed() {
                return None;
            }
            let wait = deadline.remaining().min(Duration::from_secs(1));
            value = self.returned.wait_timeout(value, wait);
        }
    }

    /// Has all waiting threads call `is_over` again.
    pub(crate) fn look_again(&self) {
        // A thread that has called `is_over` and does not sleep yet holds the lock.
        drop(self.value.lock());
        self.returned.notify_all();
    }
}

impl<T> TimedGuard<'_, T> {
    /// Calls `with` with the value.
    pub(crate) fn with<R>(&mut self, with: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.value.as_mut().map(with)
    }
}

impl<T> Drop for TimedGuard<'_, T> {
    fn drop(&mut self) {
        if fork::is_forked_child() {
            // The parent's value is not touched by this, and a thread that does not exist in the
            // child may hold the lock.
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
