//! A worker process from its start to its end: signals to it, and how it ended.

use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::ending;
use super::log::Log;
use super::oom::OomCount;
use super::orphans;
use super::service::lock;
use super::supervisor;
use crate::error::ExitCause;
use crate::sys::process::{self as system, Reach, Waited};

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

    /// Where it will stand how the process ended: when it is reaped at the latest, and
    /// sooner if [`foretell`](Self::foretell) has found it out.
    pub(crate) fn cause_cell(&self) -> Arc<OnceLock<ExitCause>> {
        Arc::clone(&self.0.cause)
    }

    /// Whether no thread of it runs the program any more: sooner than it is reaped, if it is
    /// big. Never blocks.
    pub(crate) fn has_stopped(&self) -> bool {
        self.status().is_some() || (supervisor::is_at_home() && self.0.has_stopped())
    }

    /// Looks at how a process that has begun to end will have ended. Never blocks.
    pub(crate) fn foretell(&self) {
        if supervisor::is_at_home() {
            self.0.foretell();
        }
    }

    /// Blocks until the cell of [`cause_cell`](Self::cause_cell) is set, or the deadline has
    /// passed.
    pub(crate) fn wait_for_cause(&self, deadline: Instant) {
        if supervisor::is_at_home() {
            let _ = self.0.wait_until(deadline, || self.0.cause.get().copied());
        }
    }

    /// Whether the out-of-memory killer is suspected; set before the cause is.
    pub(crate) fn oom_cell(&self) -> Arc<OnceLock<bool>> {
        Arc::clone(&self.0.oom_suspected)
    }

    /// Blocks until the process has ended and is reaped, or the deadline has passed. The
    /// cells are set then; `on_exit` may still be running. Not to be called in `on_exit`.
    pub(crate) fn wait(&self, deadline: Instant) -> Option<ExitCause> {
        if !supervisor::is_at_home() {
            return self.status();
        }
        self.0.wait_until(deadline, || self.status())
    }

    /// Blocks until the line that tells how the process ended is in its log, or the
    /// deadline has passed. Returns at once if the process has no log.
    pub(crate) fn wait_for_last_line(&self, deadline: Instant) {
        if supervisor::is_at_home() && self.0.log.is_some() {
            let is_written = || self.0.is_log_complete.load(Ordering::Acquire).then_some(());
            let _ = self.0.wait_until(deadline, is_written);
        }
    }

    /// Shuts the bootstrap socket down. A worker that has attached ends by itself then, also
    /// one that no signal of this process may reach, and though copies of this end of the
    /// socket are open elsewhere, as in a fork of this process. Never blocks; does nothing in
    /// a fork of the process that started the worker.
    pub(crate) fn hang_up(&self) {
        if supervisor::is_at_home() {
            self.0.hang_up();
        }
    }

    /// Sends `signal` to the process. `false`: it has ended already, it may not be
    /// signalled, or this is a fork of the process that started it. Never blocks, and never
    /// hits a recycled id.
    pub(crate) fn signal(&self, signal: i32) -> bool {
        supervisor::is_at_home() && self.0.signal(signal)
    }

    /// Kills the process and all of its process group, whether it is still in that or not.
    /// `false`, for the process itself, as for [`signal`](Self::signal). Never blocks.
    pub(crate) fn kill(&self) -> bool {
        supervisor::is_at_home() && self.0.kill()
    }

    /// Leaves the process to the supervisor: when it has not ended after `term_after` it is
    /// hung up on and gets SIGTERM; after a further `kill_after` it and its group get
    /// SIGKILL. Never blocks. Of several calls the earliest times hold.
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
    /// This side's end of the bootstrap socket; gone once it is shut down.
    socket: Mutex<Option<Arc<UnixStream>>>,
    life: Mutex<Life>,
    /// Notified, with `life`, once the status is set, and once the log is complete.
    ended: Condvar,
    is_log_complete: AtomicBool,
    /// A SIGKILL of ours says nothing about the machine's memory.
    killed_by_us: AtomicBool,
    /// The count of such kills when the process was started.
    oom: Option<OomCount>,
    /// What errors say; never later than `status`.
    cause: Arc<OnceLock<ExitCause>>,
    /// Set when the process is reaped.
    status: OnceLock<ExitCause>,
    oom_suspected: Arc<OnceLock<bool>>,
}

/// Held while a signal is sent by number and while the process is reaped, so that a
/// number is never used after it may have been given to somebody else.
#[derive(Debug)]
struct Life {
    pidfd: Option<OwnedFd>,
    reaped: bool,
    /// Looks that found the process ended and did not reap it.
    looks: u32,
}

/// An ended, reaped process. The pidfd is to be taken out of every epoll set before it
/// is closed.
pub(super) struct End {
    pub(super) cause: ExitCause,
    pub(super) pidfd: Option<OwnedFd>,
    /// Pidfds of what the process has left in its group, all of it killed; only where
    /// orphans come to this process.
    pub(super) orphans: Vec<OwnedFd>,
}

/// How often the supervisor looks at a worker that has ended and whose orphans cannot be
/// pinned, before it reaps the worker without them.
const MOST_LOOKS: u32 = 20;

impl Process {
    pub(super) fn new(
        key: u64,
        pid: u32,
        pidfd: Option<OwnedFd>,
        log: Option<Log>,
        socket: Option<Arc<UnixStream>>,
        oom: Option<OomCount>,
    ) -> Self {
        Self {
            key,
            pid,
            log,
            socket: Mutex::new(socket),
            life: Mutex::new(Life { pidfd, reaped: false, looks: 0 }),
            ended: Condvar::new(),
            is_log_complete: AtomicBool::new(false),
            killed_by_us: AtomicBool::new(false),
            oom,
            cause: Arc::default(),
            status: OnceLock::new(),
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

    /// Blocks until `is_there` says something, or the deadline has passed.
    fn wait_until<T>(&self, deadline: Instant, is_there: impl Fn() -> Option<T>) -> Option<T> {
        let mut life = lock(&self.life);
        loop {
            if let Some(found) = is_there() {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let waited = self.ended.wait_timeout(life, left);
            life = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn notify(&self) {
        // A waiter that has not seen what is new holds the lock until it sleeps.
        drop(lock(&self.life));
        self.ended.notify_all();
    }

    pub(super) fn hang_up(&self) {
        // Closing it would not be enough: a forked child of the host has a copy.
        if let Some(socket) = lock(&self.socket).take() {
            // Fails only if the other end is gone already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    pub(super) fn signal(&self, signal: i32) -> bool {
        let life = lock(&self.life);
        !life.reaped && life.signal(self.pid, signal)
    }

    pub(super) fn kill(&self) -> bool {
        let life = lock(&self.life);
        if life.reaped {
            return false;
        }
        // Both, as the process may have left the group that it was given.
        let group = life.kill_group(self.pid);
        let process = life.signal(self.pid, libc::SIGKILL);
        if group || process {
            self.killed_by_us.store(true, Ordering::Relaxed);
        }
        // Reached as one of its group, it can be gone by now.
        process || (group && !matches!(life.peek(self.pid), Ok(None)))
    }

    /// When the process has ended: kills what is left of its group, so that nothing it
    /// started outlives it, and takes it out of the process table.
    pub(super) fn reap_if_ended(&self) -> Option<End> {
        let mut life = lock(&self.life);
        if life.reaped {
            return None;
        }
        let mut orphans = Vec::new();
        let cause = match life.peek(self.pid) {
            Ok(None) => return None,
            Ok(Some(cause)) => {
                // Before the reaping: until then the id of the group cannot be given away.
                life.kill_group(self.pid);
                if orphans::come_here() {
                    let left = orphans::take(self.pid);
                    life.looks += 1;
                    if left.is_unpinned && life.looks < MOST_LOOKS {
                        return None;
                    }
                    orphans = left.pinned;
                }
                cause
            }
            // Reaped by somebody else, or by the kernel as SIGCHLD is ignored. A pidfd still
            // leads to the group; nobody can tell whose child an orphan is.
            Err(_) => {
                life.kill_group(self.pid);
                ExitCause::Unknown
            }
        };
        let cause = match life.reap(self.pid) {
            Ok(_) => cause,
            Err(_) => ExitCause::Unknown,
        };
        life.reaped = true;
        Some(End { cause, pidfd: life.pidfd.take(), orphans })
    }

    fn has_stopped(&self) -> bool {
        // Not reaped meanwhile, so that the number is this process's.
        let life = lock(&self.life);
        life.reaped || (ending::has_stopped(self.pid) && life.peek(self.pid).is_ok())
    }

    fn foretell(&self) {
        let life = lock(&self.life);
        // Still there after the look, and so it was the one that was looked at.
        let cause = ending::cause(self.pid).filter(|_| !life.reaped && life.peek(self.pid).is_ok());
        drop(life);
        if let Some(cause) = cause {
            self.tell(cause);
            self.notify();
        }
    }

    /// Sets what errors say, unless that is known.
    fn tell(&self, cause: ExitCause) {
        let suspected = cause == ExitCause::Signaled(libc::SIGKILL)
            && !self.killed_by_us.load(Ordering::Relaxed)
            && self.oom.as_ref().is_some_and(OomCount::has_grown);
        // What is set already was found in the same place.
        let _ = self.oom_suspected.set(suspected);
        let _ = self.cause.set(cause);
    }

    /// Makes the end known to the cells and to those who wait; returns it as they know it,
    /// which may be more than the reaping has told. Never blocks.
    pub(super) fn announce(&self, reaped: ExitCause) -> ExitCause {
        self.tell(reaped);
        let told = self.cause.get().copied().filter(|_| reaped == ExitCause::Unknown);
        let cause = told.unwrap_or(reaped);
        // Nobody else sets it, so that a refusal cannot be.
        let _ = self.status.set(cause);
        self.notify();
        // Whoever waits at this end for an answer reads what was sent, and then the end,
        // although something that the worker has started may hold the other end.
        self.hang_up();
        cause
    }

    pub(super) fn has_log(&self) -> bool {
        self.log.is_some()
    }

    /// Completes the log by the line that tells how the process ended. May block, as long
    /// as the file system does.
    pub(super) fn complete_log(&self, cause: ExitCause) {
        if let Some(log) = &self.log {
            log.append_reason(&cause);
        }
        // Pairs with the Acquire load in `wait_for_last_line`.
        self.is_log_complete.store(true, Ordering::Release);
        self.notify();
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

    /// Signals the process through the pidfd, or else by its number, as long as it is a
    /// child that nobody has reaped.
    fn signal(&self, pid: u32, signal: i32) -> bool {
        if let Some(fd) = &self.pidfd
            && system::pidfd_signal(fd.as_fd(), signal, Reach::Process).is_ok()
        {
            return true;
        }
        self.peek(pid).is_ok() && system::kill(pid, signal).is_ok()
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
