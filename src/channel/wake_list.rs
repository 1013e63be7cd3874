//! Tasks that the channel's reader has news for, woken once its lock is given back.
//!
//! A waker is the executor's code: it may take long, block, or come back to this channel. So
//! none runs while the reader's lock is held. Threads are woken at once: that is a system
//! call and nothing else.

use std::task::Waker;

use crate::channel::engine::Engine;
use crate::protocol::table::Waiter;
use crate::ring::Consumer;
use crate::sync::{Counter, Mutex, Ordering, TryGuard};
use crate::sys::fork;

/// Wakers that are to be woken.
#[derive(Debug, Default)]
pub(super) struct WakeList {
    wakers: Mutex<Vec<Waker>>,
    /// How many there are, so that an empty list costs a load.
    count: Counter,
}

impl WakeList {
    /// Wakes a thread, or notes a task for [`WakeList::wake_all`].
    pub(super) fn add(&self, waiter: Waiter) {
        match waiter {
            Waiter::Task(waker) => {
                self.wakers.lock().push(waker);
                // Seen by this thread, which gives the reader's lock back and then looks.
                self.count.fetch_add(1, Ordering::Relaxed);
            }
            thread @ Waiter::Thread(_) => thread.wake(),
        }
    }

    /// Takes the lock, for a test of what must not wait for it.
    #[cfg(all(test, feature = "tokio", not(loom)))]
    pub(super) fn hold(&self) -> impl Sized {
        self.wakers.lock()
    }

    /// Whether a task is to be woken.
    #[inline]
    pub(super) fn has_tasks(&self) -> bool {
        self.count.load(Ordering::Relaxed) != 0
    }

    /// Wakes all tasks on the list, without a lock.
    #[inline]
    pub(super) fn wake_all(&self) {
        if self.has_tasks() {
            self.wake_listed();
        }
    }

    /// As [`WakeList::wake_all`], for a thread that serves all workers, and is not to be held
    /// up by a task's executor.
    pub(super) fn wake_all_elsewhere(&self) {
        #[cfg(feature = "async")]
        {
            let wakers = std::mem::take(&mut *self.wakers.lock());
            self.count.fetch_sub(wakers.len().try_into().unwrap_or(0), Ordering::Relaxed);
            crate::process::notifier::wake(wakers);
        }
    }

    #[cold]
    fn wake_listed(&self) {
        if fork::is_forked_child() {
            // The tasks are the parent's, and the lock may be held for ever here.
            return;
        }
        loop {
            // One at a time: the list keeps its room, and nothing is held meanwhile.
            let Some(waker) = self.wakers.lock().pop() else { return };
            self.count.fetch_sub(1, Ordering::Relaxed);
            waker.wake();
        }
    }
}

/// The reader's lock. The fields are dropped in this order: first the lock is given back,
/// then tasks are woken.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    pub(super) consumer: TryGuard<'a, Consumer>,
    _after: WakesListed<'a>,
}

#[derive(Debug)]
struct WakesListed<'a>(&'a WakeList);

impl Drop for WakesListed<'_> {
    fn drop(&mut self) {
        self.0.wake_all();
    }
}

impl Engine {
    /// The reader's lock, if no other thread has it.
    #[inline]
    pub(super) fn try_read(&self) -> Option<Reading<'_>> {
        let consumer = self.reader.try_lock()?;
        Some(Reading { consumer, _after: WakesListed(&self.wake_list) })
    }
}
