//! A started worker process: its health rings, its end, its exit status.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::channel::death::Deathbed;
use crate::channel::health::HealthClient;
use crate::channel::life::{Life, check_not_forked};
use crate::error::{Error, ErrorKind, ExitCause, Result};
use crate::process::watch::Watched;
use crate::protocol::Health;
use crate::shm::clock::Deadline;
use crate::shm::fork;
use crate::trace::{event, span};

/// How long a worker that was asked to terminate may take before it is killed.
const KILL_AFTER: Duration = Duration::from_secs(2);
/// How long the worker of a dropped channel may take before it is asked to terminate.
const DROP_GRACE: Duration = Duration::from_secs(1);

/// The process behind a channel. Dropping it does not block: the supervisor ends and
/// reaps the process.
pub(crate) struct WorkerHandle {
    life: Arc<Life>,
    health: HealthClient,
    role: String,
    pid: u32,
    /// End-of-file on its other end tells the worker that this side is gone.
    socket: Mutex<Option<OwnedFd>>,
    _watched: Option<Watched>,
}

impl WorkerHandle {
    pub(crate) fn new(
        life: Arc<Life>,
        health: HealthClient,
        deathbed: Deathbed,
        process: Option<(OwnedFd, Watched)>,
    ) -> Self {
        let (role, pid) = (deathbed.role.clone(), deathbed.body.pid());
        // Once: the life was made for this worker.
        let _ = life.deathbed.set(deathbed);
        let (socket, watched) = process.unzip();
        Self { life, health, role, pid, socket: Mutex::new(socket), _watched: watched }
    }

    pub(crate) fn role(&self) -> &str {
        &self.role
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    fn deathbed(&self) -> Option<&Deathbed> {
        self.life.deathbed.get()
    }

    pub(crate) fn exit_cause(&self) -> Option<ExitCause> {
        self.deathbed()?.body.status()
    }

    pub(crate) fn log_path(&self) -> Option<&Path> {
        self.deathbed()?.body.log().map(|log| log.path())
    }

    pub(crate) fn ping(&self, timeout: Duration) -> Result<Health> {
        self.health.ping(&self.life, timeout).map_err(|error| self.note(error))
    }

    /// What breaks the health rings breaks the channel.
    pub(crate) fn note(&self, error: Error) -> Error {
        if error.kind() == ErrorKind::PeerCorrupt {
            self.life.fail(error.clone());
        }
        error
    }

    pub(crate) fn close(&self, timeout: Duration) -> Result<ExitCause> {
        check_not_forked()?;
        span!("close", role = self.role.as_str(), pid = self.pid);
        self.life.close();
        self.health.look_again();
        let deadline = Deadline::after(timeout);
        // Whether it answers or not, what counts is that it ends.
        let _ = self.health.shutdown(&self.life, deadline);
        let cause = self.reap(deadline);
        self.life.closed();
        self.hang_up();
        event!(INFO, role = self.role.as_str(), pid = self.pid, ?cause, "worker closed");
        cause
    }

    /// Begins to close without waiting: the supervisor ends the worker if it does not end
    /// within `timeout` by itself.
    #[cfg(feature = "async")]
    pub(crate) fn begin_close(&self, timeout: Duration) -> Result<()> {
        check_not_forked()?;
        self.life.close();
        self.health.look_again();
        if let Some(bed) = self.deathbed() {
            bed.body.retire(timeout, KILL_AFTER);
        }
        Ok(())
    }

    /// The worker has ended.
    #[cfg(feature = "async")]
    pub(crate) fn end_close(&self) {
        self.life.closed();
        self.hang_up();
    }

    #[cfg(feature = "async")]
    pub(crate) fn life(&self) -> &Life {
        &self.life
    }

    #[cfg(feature = "async")]
    pub(crate) fn health(&self) -> &HealthClient {
        &self.health
    }

    fn reap(&self, deadline: Deadline) -> Result<ExitCause> {
        let Some(Deathbed { body, .. }) = self.deathbed() else { return Ok(ExitCause::Unknown) };
        if let Some(cause) = body.wait(instant(deadline)) {
            return Ok(cause);
        }
        if !body.can_be_ended() {
            let (role, pid) = (&self.role, self.pid);
            let message = format!(
                "worker {role} (pid {pid}) has not detached; it is not this process's to kill"
            );
            return Err(Error::new(ErrorKind::Timeout, message));
        }
        body.terminate();
        if let Some(cause) = body.wait(Instant::now() + KILL_AFTER) {
            return Ok(cause);
        }
        body.kill();
        body.wait(Instant::now() + Duration::from_secs(10)).ok_or_else(|| {
            let (role, pid) = (&self.role, self.pid);
            let message = format!("worker {role} (pid {pid}) was killed but has not ended");
            Error::new(ErrorKind::Timeout, message)
        })
    }

    fn hang_up(&self) {
        drop(self.socket.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// A deadline for calls of the standard library, which cannot have one without end.
pub(super) fn instant(deadline: Deadline) -> Instant {
    let far = Duration::from_secs(100 * 365 * 24 * 3600);
    Instant::now() + deadline.remaining().min(far)
}

impl fmt::Debug for WorkerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Worker");
        debug.field("role", &self.role).field("pid", &self.pid).field("life", &self.life).finish()
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        if fork::is_forked_child() {
            return;
        }
        self.life.close();
        self.hang_up();
        if let Some(bed) = self.deathbed() {
            bed.body.retire(DROP_GRACE, KILL_AFTER);
        }
    }
}
