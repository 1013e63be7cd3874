//! A worker that the supervisor has not started: a thread that stands in for the process, or a
//! process that has attached by name.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::exit_record::ExitRecord;
use super::worker_process::WorkerProcess;
use crate::error::ExitCause;

/// A worker whose end is noticed by other means than the supervisor's.
#[derive(Clone)]
pub(crate) struct ExternalWorker {
    pid: u32,
    exit: Arc<ExitRecord>,
    stop: Arc<dyn Fn() + Send + Sync>,
}

impl ExternalWorker {
    /// A worker in the process `pid`. `stop` asks it to end, and must not block.
    pub(crate) fn new(pid: u32, stop: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self { pid, exit: Arc::default(), stop }
    }

    /// Records the worker's end. Called once: by the worker's thread as its last action, or by
    /// the thread that has noticed the end.
    pub(crate) fn record_exit(&self, cause: ExitCause) {
        self.exit.set_status(cause);
    }
}

impl WorkerProcess for ExternalWorker {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn status(&self) -> Option<ExitCause> {
        self.exit.status()
    }

    fn cause(&self) -> Arc<OnceLock<ExitCause>> {
        Arc::clone(&self.exit.cause)
    }

    fn wait_for_cause(&self, deadline: Instant) {
        let _ = self.wait(deadline);
    }

    fn wait(&self, deadline: Instant) -> Option<ExitCause> {
        self.exit.wait_until(deadline, || self.status())
    }

    /// Only a thread of this process ends when it is asked to.
    fn can_be_ended(&self) -> bool {
        self.pid == std::process::id()
    }

    fn can_be_killed(&self) -> bool {
        false
    }

    fn hang_up(&self) {
        (self.stop)();
    }

    fn terminate(&self) {
        (self.stop)();
    }

    fn kill(&self) -> bool {
        (self.stop)();
        true
    }

    fn end_later(&self, _term_after: Duration, _kill_after: Duration) {
        (self.stop)();
    }
}

impl fmt::Debug for ExternalWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExternalWorker").field("status", &self.status()).finish_non_exhaustive()
    }
}
