//! A worker process from its start to its end: signals to it, and how it ended.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::log::Log;
use super::service::lock;
use super::supervisor;
use super::sys::process::{self as system, Reach, Waited};
use crate::error::ExitCause;

/// A handle on a worker process. The process does not depend on it: the supervisor
/// reaps it in any case, and dropping the handle does nothing to it.
#[derive(Debug, Clone)]
pub(crate) struct Child(pub(super) Arc<Process>);

impl Child {
    pub(crate) fn pid(&self) -> u32 {
        self.0.pid
    }

    /// The worker's log, when it has one.
    pub(crate) fn log(&self) -> Option<&Log> {
        self.0.log.as_ref()
    }

    /// How it ended; `None` while it runs, and until the kernel hands out its status.
    pub(crate) fn status(&self) -> Option<ExitCause> {
        self.0.status.get().copied()
    }

    /// Where [`status`](Self::status) will stand.
    pub(crate) fn status_cell(&self) -> Arc<OnceLock<ExitCause>> {
        Arc::clone(&self.0.status)
    }

    /// Whether the out-of-memory killer is suspected; set before the status is.
    pub(crate) fn oom_cell(&self) -> Arc<OnceLock<bool>> {
        Arc::clone(&self.0.oom_suspected)
    }

    /// Blocks until the process has ended and is reaped, or the deadline has passed. The
    /// cells are set then; `on_exit` may still be running. Not to be called in `on_exit`.
    pub(crate) fn wait(&self, deadline: Instant) -> Option<ExitCause> {
        if !supervisor::is_at_home() {
            return self.status();
        }
        let mut life = lock(&self.0.life);
        loop {
            if let Some(cause) = self.status() {
                return Some(cause);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let waited = self.0.ended.wait_timeout(life, left);
            life = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Sends `signal` to the process. `false`: it has ended already, or this is a fork of
    /// the process that started it. Never blocks, and never hits a recycled id.
    pub(crate) fn signal(&self, signal: i32) -> bool {
        supervisor::is_at_home() && self.0.signal(signal)
    }

    /// Kills the process and all of its process group. `false` as for
    /// [`signal`](Self::signal). Never blocks.
    pub(crate) fn kill_group(&self) -> bool {
        supervisor::is_at_home() && self.0.kill_group()
    }

    /// Leaves the process to the supervisor: SIGTERM when it has not ended after
    /// `term_after`, SIGKILL to its group after a further `kill_after`. Never blocks. Of
    /// several calls the earliest times hold.
    pub(crate) fn retire(&self, term_after: Duration, kill_after: Duration) {
        // A time beyond what the clock can tell never comes.
        let term_at = Instant::now().checked_add(term_after);
        let kill_at = term_at.and_then(|at| at.checked_add(kill_after));
        supervisor::retire(self.0.key, term_at, kill_at);
    }
}

/// What the handle and the supervisor share.
#[derive(Debug)]
pub(super) struct Process {
    key: u64,
    pid: u32,
    log: Option<Log>,
    life: Mutex<Life>,
    /// Notified, with `life`, once the status is set.
    ended: Condvar,
    /// A SIGKILL of ours says nothing about the machine's memory.
    killed_by_us: AtomicBool,
    status: Arc<OnceLock<ExitCause>>,
    oom_suspected: Arc<OnceLock<bool>>,
}

/// Held while a signal is sent by number and while the process is reaped, so that a
/// number is never used after it may have been given to somebody else.
#[derive(Debug)]
struct Life {
    pidfd: Option<OwnedFd>,
    reaped: bool,
}

/// An ended, reaped process. The pidfd is to be taken out of every epoll set before it
/// is closed.
pub(super) struct End {
    pub(super) cause: ExitCause,
    pub(super) pidfd: Option<OwnedFd>,
}

impl Process {
    pub(super) fn new(key: u64, pid: u32, pidfd: Option<OwnedFd>, log: Option<Log>) -> Self {
        Self {
            key,
            pid,
            log,
            life: Mutex::new(Life { pidfd, reaped: false }),
            ended: Condvar::new(),
            killed_by_us: AtomicBool::new(false),
            status: Arc::default(),
            oom_suspected: Arc::default(),
        }
    }

    pub(super) fn key(&self) -> u64 {
        self.key
    }

    /// Runs `with` on the pidfd, if there is one and the process is not reaped.
    pub(super) fn with_pidfd<T>(&self, with: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        lock(&self.life).pidfd.as_ref().map(|fd| with(fd.as_fd()))
    }

    pub(super) fn signal(&self, signal: i32) -> bool {
        let life = lock(&self.life);
        if life.reaped {
            return false;
        }
        if signal == libc::SIGKILL {
            self.killed_by_us.store(true, Ordering::Relaxed);
        }
        let sent = match &life.pidfd {
            Some(fd) => system::pidfd_signal(fd.as_fd(), signal, Reach::Process),
            // Someone else in this process may have reaped it.
            None if life.peek(self.pid).is_err() => return false,
            None => system::kill(self.pid, signal),
        };
        sent.is_ok()
    }

    pub(super) fn kill_group(&self) -> bool {
        let life = lock(&self.life);
        if life.reaped {
            return false;
        }
        self.killed_by_us.store(true, Ordering::Relaxed);
        life.kill_group(self.pid)
    }

    /// When the process has ended: kills what is left of its group, so that nothing it
    /// started outlives it, and takes it out of the process table.
    pub(super) fn reap_if_ended(&self) -> Option<End> {
        let mut life = lock(&self.life);
        if life.reaped {
            return None;
        }
        let cause = match life.peek(self.pid) {
            Ok(None) => return None,
            Ok(Some(cause)) => cause,
            // Reaped by somebody else, or by the kernel as SIGCHLD is ignored.
            Err(_) => ExitCause::Unknown,
        };
        // Before the reaping: until then the id of the group cannot be given away.
        life.kill_group(self.pid);
        let cause = match life.reap(self.pid) {
            Ok(_) => cause,
            Err(_) => ExitCause::Unknown,
        };
        life.reaped = true;
        Some(End { cause, pidfd: life.pidfd.take() })
    }

    /// Makes the end known: to the log, to the cells, and to those who wait.
    pub(super) fn announce(&self, cause: ExitCause, memory_ran_out: impl FnOnce() -> bool) {
        if let Some(log) = &self.log {
            log.append_reason(&cause);
        }
        let suspected = cause == ExitCause::Signaled(libc::SIGKILL)
            && !self.killed_by_us.load(Ordering::Relaxed)
            && memory_ran_out();
        // Nobody else sets these, so that a refusal cannot be.
        let _ = self.oom_suspected.set(suspected);
        let _ = self.status.set(cause);
        // A waiter that has not seen the status holds the lock until it sleeps.
        drop(lock(&self.life));
        self.ended.notify_all();
    }
}

impl Life {
    /// How the process ended, without reaping it. An error: it is not there to be reaped.
    fn peek(&self, pid: u32) -> std::io::Result<Option<ExitCause>> {
        self.exit_status(pid, false)
    }

    fn reap(&self, pid: u32) -> std::io::Result<Option<ExitCause>> {
        self.exit_status(pid, true)
    }

    fn exit_status(&self, pid: u32, reap: bool) -> std::io::Result<Option<ExitCause>> {
        if let Some(fd) = &self.pidfd {
            match system::exit_status(Waited::Pidfd(fd.as_fd()), reap) {
                // Linux 5.3 has pidfds, but cannot wait for them.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
                result => return result,
            }
        }
        system::exit_status(Waited::Pid(pid), reap)
    }

    /// Kills the group through the pidfd, which pins the group's identity, or else by its
    /// number, as long as the leader keeps that number from being given away. What then
    /// remains, on kernels before 6.9, is a host that reaps it between two system calls.
    fn kill_group(&self, pid: u32) -> bool {
        if let Some(fd) = &self.pidfd {
            match system::pidfd_signal(fd.as_fd(), libc::SIGKILL, Reach::Group) {
                Ok(()) => return true,
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return false,
                Err(_) => {}
            }
        }
        self.peek(pid).is_ok() && system::kill_group(pid, libc::SIGKILL).is_ok()
    }
}
