//! Tasks, of any executor, that wait for the parent: for room in the reply ring, for credit, or
//! for a cancel.
//!
//! A task cannot sleep on the parent's bell. The thread that waits in the inbox does. It looks at
//! the tasks' conditions whenever the bell was rung or the alarm was raised, and wakes those that
//! can go on.
//!
//! # No wake-up is lost
//!
//! The letters are those of `ring/doorbell.rs`.
//!
//! ```text
//!   task                               thread in the inbox
//!   T1  register, under the lock       S1  b = load bell           (Acquire)
//!   T2  announce room or credit        S3  fence A                 (SeqCst)
//!   T3  fence A              (SeqCst)  S4  if a task is registered, and the bell has
//!   T4  look; done if it is there          changed: look at each, under the lock
//!                                      S5  sleep unless the bell has changed since S1
//! ```
//!
//! * The parent's change comes before the bump of the bell that tells of it. If S1 sees the bump,
//!   S4 sees the change. If it does not, S5 does not sleep, and S1 follows.
//! * If T3 comes before the fence of S3, S4 finds the task registered. If it comes after, T4 sees
//!   every change whose bump S1 has seen.
//! * What S4 has found under the lock holds until the bell changes: a task that is registered
//!   later has looked by itself. So the rings that were looked at are remembered, and a look
//!   without a new one costs four loads. Without tasks it costs one.
//! * Where T2 is needed, the parent rings only for what is announced: T3 pairs with its fence B,
//!   as a sleeper's does.
//!
//! A task is woken once for each registration. Wakers are the executor's code: they are cloned,
//! dropped and woken without any lock.

use std::collections::BTreeMap;
use std::task::Waker;

use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::sys::fork;
use crate::worker::room_queue::Ticket;

/// What a task waits for. A cancel ends every wait.
#[derive(Debug, Clone, Copy)]
pub(super) enum Awaited {
    Cancel,
    /// That the reader of its stream has consumed so many bytes.
    Credit(u64),
    /// Room for a payload of this length, when it is the task's turn.
    Room(usize),
}

/// A task that waits, of a request.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) request: u64,
    pub(super) awaited: Awaited,
    /// `None` once it was woken.
    waker: Option<Waker>,
}

/// The tasks that wait, by the ticket that each has. The lock is a leaf.
#[derive(Debug)]
pub(super) struct Wakers {
    tasks: Mutex<BTreeMap<Ticket, Waiting>>,
    /// How many these are; changes under the lock.
    count: AtomicU64,
    /// The rings at the last look.
    seen: AtomicU64,
}

impl Wakers {
    pub(super) fn new() -> Self {
        let (count, seen) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
        Self { tasks: Mutex::new(BTreeMap::new()), count, seen }
    }

    /// Whether no task waits.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Whether a task may have to be woken, as these rings have not been looked at.
    #[inline]
    pub(super) fn has_news(&self, rings: impl FnOnce() -> u64) -> bool {
        !self.is_empty() && self.seen.load(Ordering::Relaxed) != rings()
    }

    /// Registers a task: T1 above. Returns the waker that it replaces, which the caller drops
    /// without a lock.
    #[must_use]
    pub(super) fn register(
        &self,
        ticket: Ticket,
        (request, awaited): (u64, Awaited),
        waker: Waker,
    ) -> Option<Waker> {
        let mut tasks = self.tasks.lock();
        let replaced = tasks.insert(ticket, Waiting { request, awaited, waker: Some(waker) });
        self.count_tasks(&tasks);
        replaced.and_then(|task| task.waker)
    }

    /// Forgets a task. Must not be called in a forked child, where a thread that does not exist
    /// may have the lock.
    pub(super) fn leave(&self, ticket: Ticket) {
        let mut tasks = self.tasks.lock();
        let left = tasks.remove(&ticket);
        self.count_tasks(&tasks);
        drop(tasks);
        drop(left);
    }

    fn count_tasks(&self, tasks: &BTreeMap<Ticket, Waiting>) {
        self.count.store(crate::shm::layout::as_u64(tasks.len()), Ordering::Relaxed);
    }

    /// Returns for how long a payload this one of those that wait for room needs room, if it is
    /// a task.
    pub(super) fn room_for(&self, ticket: Ticket) -> Option<usize> {
        if self.is_empty() {
            return None;
        }
        match self.tasks.lock().get(&ticket)?.awaited {
            Awaited::Room(len) => Some(len),
            Awaited::Cancel | Awaited::Credit(_) => None,
        }
    }

    /// Wakes one task, if it still waits.
    pub(super) fn wake(&self, ticket: Ticket) {
        if self.is_empty() {
            return;
        }
        let waker = self.tasks.lock().get_mut(&ticket).and_then(|task| task.waker.take());
        waker.into_iter().for_each(Waker::wake);
    }

    /// Wakes the tasks that `can_go_on`, and remembers that these rings were looked at.
    pub(super) fn wake_each(&self, rings: u64, can_go_on: impl Fn(Ticket, &Waiting) -> bool) {
        if fork::is_forked_child() {
            return;
        }
        let mut woken = Vec::new();
        for (ticket, task) in &mut *self.tasks.lock() {
            if task.waker.is_some() && can_go_on(*ticket, task) {
                woken.extend(task.waker.take());
            }
        }
        self.seen.store(rings, Ordering::Relaxed);
        woken.into_iter().for_each(Waker::wake);
    }
}
