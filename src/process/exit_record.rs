//! What is known of a worker's exit, and the waits for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::oom::{OomCount, OomEvidence};
use crate::error::ExitCause;
use crate::sync::plain::{Condvar, Mutex};
use crate::sys::fork;

/// How a worker exited. Written once, in this order: the cause, the status, and that the log is
/// complete.
#[derive(Debug, Default)]
pub(super) struct ExitRecord {
    /// What errors say. Known before the child is reaped if `/proc` has shown it.
    pub(super) cause: Arc<OnceLock<ExitCause>>,
    /// Set before `cause` is.
    pub(super) oom_suspected: Arc<OnceLock<bool>>,
    /// Set before `status` is, if the reaping has told.
    has_dumped_core: OnceLock<bool>,
    /// Set when the child is reaped.
    status: OnceLock<ExitCause>,
    is_log_complete: AtomicBool,
    /// A SIGKILL of this process's own says nothing about the machine's memory.
    was_killed_by_us: AtomicBool,
    /// The number of out-of-memory kills when the worker was started. Set soon after that.
    oom: Arc<OnceLock<OomCount>>,
    /// Taken by waits, and for a moment by every change before it notifies `changed`.
    waiters: Mutex<()>,
    changed: Condvar,
}

impl ExitRecord {
    pub(super) fn new(oom: Arc<OnceLock<OomCount>>) -> Self {
        Self { oom, ..Self::default() }
    }

    pub(super) fn status(&self) -> Option<ExitCause> {
        self.status.get().copied()
    }

    pub(super) fn oom_evidence(&self) -> Option<OomEvidence> {
        self.oom.get()?.evidence()
    }

    pub(super) fn has_dumped_core(&self) -> Option<bool> {
        self.has_dumped_core.get().copied()
    }

    pub(super) fn note_core_dump(&self, has_dumped: bool) {
        // A child is reaped once.
        let _ = self.has_dumped_core.set(has_dumped);
    }

    pub(super) fn is_log_complete(&self) -> bool {
        // Pairs with the Release store in `set_log_complete`.
        self.is_log_complete.load(Ordering::Acquire)
    }

    /// Blocks until `find` returns something, or the deadline has passed. Does not block in a
    /// forked child, in which the lock can be held by a thread that does not exist.
    pub(super) fn wait_until<T>(
        &self,
        deadline: Instant,
        find: impl Fn() -> Option<T>,
    ) -> Option<T> {
        if fork::is_forked_child() {
            return find();
        }
        let mut waiters = self.waiters.lock();
        loop {
            let found = find();
            let left = deadline.saturating_duration_since(Instant::now());
            if found.is_some() || left == Duration::ZERO {
                return found;
            }
            waiters = self.changed.wait_timeout(waiters, left);
        }
    }

    pub(super) fn note_own_kill(&self) {
        self.was_killed_by_us.store(true, Ordering::Relaxed);
    }

    /// Sets what errors say, unless that is known already.
    pub(super) fn set_cause(&self, cause: ExitCause) {
        let oom_suspected = cause == ExitCause::Signaled(libc::SIGKILL)
            && !self.was_killed_by_us.load(Ordering::Relaxed)
            && self.oom.get().is_some_and(OomCount::has_grown);
        let _ = self.oom_suspected.set(oom_suspected);
        let _ = self.cause.set(cause);
        self.notify();
    }

    /// Sets the exit status, and returns it. It is the cause that was known before if the
    /// reaping has told nothing.
    pub(super) fn set_status(&self, reaped: ExitCause) -> ExitCause {
        self.set_cause(reaped);
        let known = self.cause.get().copied().filter(|_| reaped == ExitCause::Unknown);
        let status = known.unwrap_or(reaped);
        let _ = self.status.set(status);
        self.notify();
        status
    }

    pub(super) fn set_log_complete(&self) {
        // Pairs with the Acquire load in `is_log_complete`.
        self.is_log_complete.store(true, Ordering::Release);
        self.notify();
    }

    fn notify(&self) {
        // A waiter that has not seen the change holds the lock until it sleeps.
        drop(self.waiters.lock());
        self.changed.notify_all();
    }
}
