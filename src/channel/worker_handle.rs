//! A started worker process: its health rings, its end, its exit status.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::channel::crash_report::Reporter;
use crate::channel::health::HealthClient;
use crate::channel::state::ChannelState;
use crate::channel::worker_exit::{EXIT_STATUS_TIMEOUT, WorkerExit};
use crate::error::{Error, ErrorKind, ExitCause, Result};
use crate::link::Duplex;
use crate::process::external::ExternalWorker;
use crate::process::watch::Watched;
use crate::protocol::Health;
use crate::sys::clock::Deadline;
use crate::sys::fork;
use crate::trace::{event, span};

/// How long a worker that was asked to terminate may take before it is killed.
const KILL_AFTER: Duration = Duration::from_secs(2);
/// How long the end of a worker that was killed may take.
const DEATH_THROES: Duration = Duration::from_secs(10);
/// How long a close waits for what is told of a worker that has ended, such as for a slow disk's
/// log.
const LAST_LINE: Duration = Duration::from_secs(1);
/// How long a thread that was asked to end may take: it cannot be killed.
const THREAD_GRACE: Duration = Duration::from_millis(100);
/// How long the worker of a dropped channel may take before it is asked to terminate.
const DROP_GRACE: Duration = Duration::from_secs(1);

/// The process behind a channel. Dropping it does not block: the supervisor ends and
/// reaps the process.
pub(crate) struct WorkerHandle {
    state: Arc<ChannelState>,
    health: HealthClient,
    role: String,
    pid: u32,
    _watched: Option<Watched>,
    reporter: Option<Arc<Reporter>>,
}

impl WorkerHandle {
    pub(crate) fn new(
        state: Arc<ChannelState>,
        health: HealthClient,
        exit: WorkerExit,
        watched: Option<Watched>,
    ) -> Self {
        let (role, pid) = (exit.role.clone(), exit.process.pid());
        state.set_exit(exit);
        let weak = Arc::downgrade(&state);
        state.end_of_service.set_has_stopped(Box::new(move || {
            let state = weak.upgrade();
            state.and_then(|state| state.exit().map(WorkerExit::has_stopped)).unwrap_or(false)
        }));
        Self { state, health, role, pid, _watched: watched, reporter: None }
    }

    /// Adds what writes the worker's crash report.
    pub(super) fn with_reporter(mut self, reporter: Option<Arc<Reporter>>) -> Self {
        self.reporter = reporter;
        self
    }

    /// What writes the worker's crash report, if one is to be written.
    pub(crate) fn reporter(&self) -> Option<&Reporter> {
        self.reporter.as_deref()
    }

    /// The handle on a worker that this process did not start.
    #[allow(dead_code, reason = "for the features `testing` and `named`")]
    pub(crate) fn external(
        state: &Arc<ChannelState>,
        health: Duplex,
        role: String,
        thread: ExternalWorker,
    ) -> Self {
        let exit = WorkerExit::new(role, Box::new(thread), EXIT_STATUS_TIMEOUT);
        Self::new(Arc::clone(state), HealthClient::new(health), exit, None)
    }

    pub(crate) fn role(&self) -> &str {
        &self.role
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    fn exit(&self) -> Option<&WorkerExit> {
        self.state.exit()
    }

    pub(crate) fn exit_cause(&self) -> Option<ExitCause> {
        self.exit()?.process.status()
    }

    /// Blocks until the worker has ended or the timeout has passed.
    pub(crate) fn wait_exit(&self, timeout: Duration) -> Result<ExitCause> {
        fork::check()?;
        let deadline = Deadline::after(timeout).instant();
        let cause = self.exit().and_then(|exit| exit.process.wait(deadline));
        cause.ok_or_else(|| {
            let (role, pid) = (&self.role, self.pid);
            let message = format!("worker {role} (pid {pid}) still runs after {timeout:?}");
            Error::new(ErrorKind::Timeout, message)
        })
    }

    pub(crate) fn log_path(&self) -> Option<&Path> {
        self.exit()?.process.log().map(|log| log.path())
    }

    pub(crate) fn ping(&self, timeout: Duration) -> Result<Health> {
        let deadline = Deadline::after(timeout);
        let asked = self.health.ping(&self.state, timeout);
        asked.map_err(|error| self.state.with_exit_status(self.note(error), deadline))
    }

    /// What breaks the health rings breaks the channel.
    pub(crate) fn note(&self, error: Error) -> Error {
        if error.kind() == ErrorKind::PeerCorrupt {
            self.state.fail(error.clone());
        }
        error
    }

    pub(crate) fn close(&self, timeout: Duration) -> Result<ExitCause> {
        fork::check()?;
        span!("close", role = self.role.as_str(), pid = self.pid);
        self.state.close();
        self.health.look_again();
        let deadline = Deadline::after(timeout);
        // Whether it answers or not, what counts is that it ends.
        let _ = self.health.shutdown(&self.state, deadline);
        let cause = self.reap(deadline);
        self.state.note_closed();
        if let (Ok(_), Some(exit)) = (&cause, self.exit()) {
            exit.process.wait_for_log(Instant::now() + LAST_LINE);
        }
        event!(INFO, role = self.role.as_str(), pid = self.pid, ?cause, "worker closed");
        cause
    }

    /// Begins to close without waiting: the supervisor ends the worker, as a close does, if it
    /// does not end within `timeout` by itself.
    pub(crate) fn begin_close(&self, timeout: Duration) -> Result<()> {
        fork::check()?;
        self.state.close();
        self.health.look_again();
        if let Some(exit) = self.exit() {
            exit.process.end_later(timeout, KILL_AFTER);
        }
        Ok(())
    }

    /// The worker has ended.
    pub(crate) fn end_close(&self) {
        self.state.note_closed();
    }

    pub(crate) fn state(&self) -> &ChannelState {
        &self.state
    }

    pub(crate) fn health(&self) -> &HealthClient {
        &self.health
    }

    /// Ends the worker: by what was asked of it until the deadline, and then by each means
    /// in turn if the one before fails.
    fn reap(&self, deadline: Deadline) -> Result<ExitCause> {
        let Some(WorkerExit { process, .. }) = self.exit() else { return Ok(ExitCause::Unknown) };
        if let Some(cause) = process.wait(deadline.instant()) {
            return Ok(cause);
        }
        if !process.can_be_ended() {
            let (role, pid) = (&self.role, self.pid);
            let message = format!(
                "worker {role} (pid {pid}) has not detached; it is not this process's to kill"
            );
            return Err(Error::new(ErrorKind::Timeout, message));
        }
        // First, as it reaches also a worker that this process may not signal.
        process.hang_up();
        process.terminate();
        let (role, pid) = (&self.role, self.pid);
        let grace = if process.can_be_killed() { KILL_AFTER } else { THREAD_GRACE };
        if let Some(cause) = process.wait(Instant::now() + grace) {
            return Ok(cause);
        }
        if !process.can_be_killed() {
            let message = format!("worker {role} is a thread, whose handler has not returned");
            return Err(Error::new(ErrorKind::Timeout, message));
        }
        let (patience, state) = match process.kill() {
            true => (DEATH_THROES, "was killed but has not ended"),
            // It is out of reach, or was reaped a moment ago, by the supervisor or beside another
            // close, and that is about to be known.
            false => (LAST_LINE, "has not ended, and this process may not kill it"),
        };
        process.wait(Instant::now() + patience).ok_or_else(|| {
            Error::new(ErrorKind::Timeout, format!("worker {role} (pid {pid}) {state}"))
        })
    }

    fn hang_up(&self) {
        if let Some(exit) = self.exit() {
            exit.process.hang_up();
        }
    }
}

impl fmt::Debug for WorkerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Worker");
        debug.field("role", &self.role).field("pid", &self.pid).field("state", &self.state).finish()
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        if fork::is_forked_child() {
            return;
        }
        self.state.close();
        self.hang_up();
        if let Some(exit) = self.exit() {
            exit.process.end_later(DROP_GRACE, KILL_AFTER);
        }
    }
}
