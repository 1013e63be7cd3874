//! A thread or a task that waits, and the tasks that a reader wakes after its turn.
//!
//! A waker is the executor's code: it may take long, block, or call this channel again. So no
//! waker runs while the receiver's turn or a lock is held. Threads are woken at once: that is
//! one system call.

use std::task::Waker;

use crate::process::service::{wake_task, wake_tasks};
use crate::sync::{Counter, Mutex, Ordering, Thread};
use crate::sys::fork;

/// A thread or a task that waits for a request or for room.
#[derive(Debug)]
pub(crate) enum Waiter {
    Thread(Thread),
    Task(Waker),
}

impl Waiter {
    /// Whether this is a thread, which could read the ring instead of waiting.
    pub(super) fn is_thread(&self) -> bool {
        matches!(self, Self::Thread(_))
    }

    pub(super) fn wake(self) {
        match self {
            Self::Thread(thread) => thread.unpark(),
            Self::Task(waker) => wake_task(waker),
        }
    }
}

/// Tasks that a reader has news for. It wakes them when it has given the turn back.
#[derive(Debug, Default)]
pub(super) struct WakeList {
    wakers: Mutex<Vec<Waker>>,
    /// The list's length, so that a look at an empty list costs one load.
    count: Counter,
}

impl WakeList {
    /// Wakes a thread, or adds a task to the list.
    pub(super) fn add(&self, waiter: Waiter) {
        match waiter {
            Waiter::Task(waker) => {
                self.wakers.lock().push(waker);
                // Relaxed: the thread that adds also wakes the list afterwards.
                self.count.fetch_add(1, Ordering::Relaxed);
            }
            thread @ Waiter::Thread(_) => thread.wake(),
        }
    }

    /// Whether tasks are listed.
    #[inline]
    pub(super) fn has_tasks(&self) -> bool {
        self.count.load(Ordering::Relaxed) != 0
    }

    /// Wakes all tasks of the list. The caller holds no lock.
    #[inline]
    pub(super) fn wake_all(&self) {
        if self.has_tasks() {
            self.wake_listed();
        }
    }

    /// As [`WakeList::wake_all`], on a thread of its own.
    pub(super) fn wake_all_elsewhere(&self) {
        let wakers = std::mem::take(&mut *self.wakers.lock());
        self.count.fetch_sub(wakers.len().try_into().unwrap_or(0), Ordering::Relaxed);
        wake_tasks(wakers);
    }

    #[cold]
    fn wake_listed(&self) {
        if fork::is_forked_child() {
            // The tasks are the parent's, and the child may wait for the lock for ever.
            return;
        }
        loop {
            // One at a time: the list keeps its buffer, and no lock is held during a wake.
            let Some(waker) = self.wakers.lock().pop() else { return };
            self.count.fetch_sub(1, Ordering::Relaxed);
            wake_task(waker);
        }
    }
}
