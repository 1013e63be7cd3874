//! A thread that stands in for a worker process, as far as its end is concerned.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::error::ExitCause;

/// The worker thread, as far as its end is concerned.
#[derive(Clone)]
pub(crate) struct ThreadWorker {
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
    /// A thread that `stop` asks to end.
    pub(crate) fn new(stop: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self { end: Arc::default(), stop }
    }

    /// Called by the thread itself, last thing.
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
