//! What is known of a worker's exit, and the waits for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::oom::OomCount;
use super::service::lock;
use crate::error::ExitCause;

/// How a worker process exited. Written once, in this order: the cause, the status, and that
/// the log is complete.
#[derive(Debug)]
pub(super) struct ExitRecord {
    /// What errors say. Known before the child is reaped if `/proc` has shown it.
    cause: Arc<OnceLock<ExitCause>>,
    /// Set before `cause` is.
    oom_suspected: Arc<OnceLock<bool>>,
    /// Set when the child is reaped.
    status: OnceLock<ExitCause>,
    is_log_complete: AtomicBool,
    /// A SIGKILL of this process's own says nothing about the machine's memory.
    was_killed_by_us: AtomicBool,
    /// The number of out-of-memory kills when the worker was started.
    oom: Option<OomCount>,
    /// Taken by waits, and for a moment by every change before it notifies `changed`.
    waiters: Mutex<()>,
    changed: Condvar,
}

impl ExitRecord {
    pub(super) fn new(oom: Option<OomCount>) -> Self {
        Self {
            cause: Arc::default(),
            oom_suspected: Arc::default(),
            status: OnceLock::new(),
            is_log_complete: AtomicBool::new(false),
            was_killed_by_us: AtomicBool::new(false),
            oom,
            waiters: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub(super) fn status(&self) -> Option<ExitCause> {
        self.status.get().copied()
    }

    pub(super) fn cause(&self) -> &Arc<OnceLock<ExitCause>> {
        &self.cause
    }

    pub(super) fn oom_suspected(&self) -> &Arc<OnceLock<bool>> {
        &self.oom_suspected
    }

    pub(super) fn is_log_complete(&self) -> bool {
        // Pairs with the Release store in `set_log_complete`.
        self.is_log_complete.load(Ordering::Acquire)
    }

    /// Blocks until `find` returns something, or the deadline has passed.
    pub(super) fn wait_until<T>(
        &self,
        deadline: Instant,
        find: impl Fn() -> Option<T>,
    ) -> Option<T> {
        let mut waiters = lock(&self.waiters);
        loop {
            if let Some(found) = find() {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return None;
            }
            let waited = self.changed.wait_timeout(waiters, left);
            waiters = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn note_own_kill(&self) {
        self.was_killed_by_us.store(true, Ordering::Relaxed);
    }

    /// Sets what errors say, unless that is known already.
    pub(super) fn set_cause(&self, cause: ExitCause) {
        let oom_suspected = cause == ExitCause::Signaled(libc::SIGKILL)
            && !self.was_killed_by_us.load(Ordering::Relaxed)
            && self.oom.as_ref().is_some_and(OomCount::has_grown);
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
        drop(lock(&self.waiters));
        self.changed.notify_all();
    }
}
