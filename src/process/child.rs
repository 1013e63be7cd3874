//! A worker process that this process has started.

use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use super::exit_record::ExitRecord;
use super::log::Log;
use super::oom::{OomCount, OomEvidence};
use super::pid_handle::PidHandle;
use super::proc_stat;
use super::reap::{self, Reaped};
use super::service::lock;
use super::worker_process::WorkerProcess;
use crate::error::ExitCause;
use crate::sys::fd::EventCounter;
use crate::sys::fork::is_forked_child;

/// A handle on a worker process. Dropping it has no effect on the process, which the supervisor
/// reaps in any case.
#[derive(Debug, Clone)]
pub(crate) struct Child(Arc<Shared>);

/// What all handles of a worker share.
#[derive(Debug)]
struct Shared {
    pid: u32,
    process: Mutex<Process>,
    exit: ExitRecord,
    log: Option<Log>,
    /// This side's end of the bootstrap socket; `None` once it is shut down.
    socket: Mutex<Option<Arc<UnixStream>>>,
    deadlines: Mutex<Deadlines>,
    /// Makes the supervisor look at `deadlines`.
    supervisor: Arc<EventCounter>,
}

#[derive(Debug)]
struct Process {
    handle: PidHandle,
    reap_attempts: u32,
}

/// When the supervisor takes the next means to end the process.
#[derive(Debug, Default)]
struct Deadlines {
    term_at: Option<Instant>,
    kill_at: Option<Instant>,
}

impl Child {
    /// Makes the handle of a process that was started. `oom` gets the number of out-of-memory
    /// kills at its start. `supervisor` is raised when the supervisor has a reason to look at this
    /// child.
    pub(super) fn new(
        handle: PidHandle,
        log: Option<Log>,
        socket: Option<Arc<UnixStream>>,
        oom: Arc<OnceLock<OomCount>>,
        supervisor: Arc<EventCounter>,
    ) -> Self {
        Self(Arc::new(Shared {
            pid: handle.pid,
            process: Mutex::new(Process { handle, reap_attempts: 0 }),
            exit: ExitRecord::new(oom),
            log,
            socket: Mutex::new(socket),
            deadlines: Mutex::default(),
            supervisor,
        }))
    }

    /// Locks the process. Returns `None` in a forked child, in which the lock can be held by a
    /// thread that does not exist.
    fn process(&self) -> Option<MutexGuard<'_, Process>> {
        if is_forked_child() { None } else { Some(lock(&self.0.process)) }
    }

    /// Looks up the cause of the end of a process that has begun to end. Never blocks.
    pub(crate) fn look_up_cause(&self) {
        let Some(process) = self.process() else { return };
        let cause = proc_stat::exit_cause(self.0.pid);
        // The child is still in the process table, so what was read is about the child.
        let cause = cause.filter(|_| process.handle.is_in_process_table());
        drop(process);
        if let Some(cause) = cause {
            self.0.exit.set_cause(cause);
        }
    }

    /// Sends a signal to the process. Returns `false` if the process has ended, or this process
    /// may not signal it. Never blocks, and never reaches a process with a recycled id.
    pub(crate) fn signal(&self, signal: i32) -> bool {
        self.process().is_some_and(|process| process.handle.signal(signal))
    }

    /// Returns the pidfd, if there is one and the process is not reaped.
    pub(super) fn pidfd(&self) -> Option<Arc<OwnedFd>> {
        lock(&self.0.process).handle.pidfd.clone()
    }

    /// Reaps the process if it has ended, and kills the rest of its group before that.
    pub(super) fn reap_if_ended(&self) -> Option<Reaped> {
        let Process { handle, reap_attempts } = &mut *lock(&self.0.process);
        reap::reap_if_ended(handle, reap_attempts)
    }

    /// Records the exit status, and returns it as it was recorded: the cause that was known
    /// before can tell more than the reaping has. Never blocks.
    pub(super) fn record_exit(&self, reaped: &Reaped) -> ExitCause {
        if let Some(has_dumped) = reaped.has_dumped_core {
            self.0.exit.note_core_dump(has_dumped);
        }
        let status = self.0.exit.set_status(reaped.cause);
        // A read of this end of the socket then returns what the worker has sent, and after
        // that the end of the stream, even if a descendant of the worker holds the other end.
        self.hang_up();
        status
    }

    /// Writes the line about the worker's end to its log. Blocks for as long as the file system
    /// does.
    pub(super) fn complete_log(&self, status: ExitCause) {
        if let Some(log) = &self.0.log {
            log.append_reason(&status);
        }
        self.0.exit.set_log_complete();
    }

    /// When [`end_if_due`](Self::end_if_due) has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let deadlines = lock(&self.0.deadlines);
        earlier(deadlines.term_at, deadlines.kill_at)
    }

    /// Takes the means to end the process whose time has come.
    pub(super) fn end_if_due(&self, now: Instant) {
        let mut deadlines = lock(&self.0.deadlines);
        let terminates = deadlines.term_at.take_if(|at| *at <= now).is_some();
        let kills = deadlines.kill_at.take_if(|at| *at <= now).is_some();
        drop(deadlines);
        if terminates {
            // First, as it also reaches a worker that this process may not signal.
            self.hang_up();
            self.terminate();
        }
        if kills {
            self.kill();
        }
    }
}

impl WorkerProcess for Child {
    fn pid(&self) -> u32 {
        self.0.pid
    }

    fn status(&self) -> Option<ExitCause> {
        self.0.exit.status()
    }

    fn cause(&self) -> Arc<OnceLock<ExitCause>> {
        Arc::clone(&self.0.exit.cause)
    }

    fn oom_suspected(&self) -> Arc<OnceLock<bool>> {
        Arc::clone(&self.0.exit.oom_suspected)
    }

    fn oom_evidence(&self) -> Option<OomEvidence> {
        self.0.exit.oom_evidence()
    }

    fn has_dumped_core(&self) -> Option<bool> {
        self.0.exit.has_dumped_core()
    }

    fn has_stopped(&self) -> bool {
        let Some(process) = self.process() else { return self.status().is_some() };
        process.handle.is_reaped
            || (proc_stat::has_stopped(self.0.pid) && process.handle.is_in_process_table())
    }

    fn wait_for_cause(&self, deadline: Instant) {
        let _ = self.0.exit.wait_until(deadline, || self.0.exit.cause.get().copied());
    }

    fn wait(&self, deadline: Instant) -> Option<ExitCause> {
        self.0.exit.wait_until(deadline, || self.status())
    }

    fn hang_up(&self) {
        if is_forked_child() {
            return;
        }
        // Closing it is not enough: a forked child of the host has a copy.
        if let Some(socket) = lock(&self.0.socket).take() {
            // Fails only if the other end is closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    fn kill(&self) -> bool {
        let Some(process) = self.process() else { return false };
        // Both, as the process may have left the group that it was started in.
        let is_group_killed = process.handle.kill_group();
        let is_killed = process.handle.signal(libc::SIGKILL);
        if is_group_killed || is_killed {
            self.0.exit.note_own_kill();
        }
        // Killed with its group, the process can be gone by now.
        is_killed || (is_group_killed && !matches!(process.handle.exit_status(), Ok(None)))
    }

    fn end_later(&self, term_after: Duration, kill_after: Duration) {
        if is_forked_child() {
            return;
        }
        // A time that is too far away for the clock never comes.
        let term_at = Instant::now().checked_add(term_after);
        let kill_at = term_at.and_then(|at| at.checked_add(kill_after));
        let mut deadlines = lock(&self.0.deadlines);
        deadlines.term_at = earlier(deadlines.term_at, term_at);
        deadlines.kill_at = earlier(deadlines.kill_at, kill_at);
        drop(deadlines);
        self.0.supervisor.raise();
    }

    fn log(&self) -> Option<&Log> {
        self.0.log.as_ref()
    }

    fn wait_for_log(&self, deadline: Instant) {
        if self.0.log.is_some() {
            let is_complete = || self.0.exit.is_log_complete().then_some(());
            let _ = self.0.exit.wait_until(deadline, is_complete);
        }
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    [a, b].into_iter().flatten().min()
}
