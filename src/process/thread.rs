//! A worker that this process did not start, as far as its end is concerned: a thread
//! that stands in for a worker process, or a process that attached by name.

use std::fmt;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::error::ExitCause;
use crate::sync::plain::{Condvar, Mutex};
use crate::sys::fork;

/// The worker, as far as its end is concerned.
#[derive(Clone)]
pub(crate) struct ThreadWorker {
    pid: u32,
    end: Arc<End>,
    stop: Arc<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct End {
    status: Arc<OnceLock<ExitCause>>,
    lock: Mutex<()>,
    ended: Condvar,
}

impl ThreadWorker {
    /// A thread of the process `pid` that `stop` asks to end.
    pub(crate) fn new(pid: u32, stop: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self { pid, end: Arc::default(), stop }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Called by the thread itself, last thing, or by whoever has noticed its end.
    pub(crate) fn has_ended(&self, cause: ExitCause) {
        let _guard = self.end.lock.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody else sets it.
        let _ = self.end.status.set(cause);
        self.end.ended.notify_all();
    }

    pub(crate) fn status(&self) -> Option<ExitCause> {
        self.end.status.get().copied()
    }

    pub(crate) fn status_cell(&self) -> Arc<OnceLock<ExitCause>> {
        Arc::clone(&self.end.status)
    }

    pub(crate) fn wait(&self, deadline: Instant) -> Option<ExitCause> {
        if fork::is_forked_child() {
            return self.status();
        }
        let mut guard = self.end.lock.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(cause) = self.status() {
                return Some(cause);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return None;
            }
            let waited = self.end.ended.wait_timeout(guard, left);
            guard = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(crate) fn stop(&self) {
        (self.stop)();
    }
}

impl fmt::Debug for ThreadWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadWorker").field("status", &self.status()).finish_non_exhaustive()
    }
}
