//! What a channel tells of its worker, and how it waits for it and ends it.

use std::path::Path;
use std::time::{Duration, Instant};

use super::Channel;
use crate::channel::recording::LAST_FRAMES;
use crate::channel::turn::prefault;
use crate::channel::warm_up::WarmUp;
use crate::error::{ExitCause, Result};
use crate::protocol::{Health, Kind};
use crate::recording::RecordingStats;
use crate::sys::clock::Deadline;
use crate::sys::fork;

/// The worker of the channel.
impl Channel {
    /// Waits until the worker has built its session, and then has it serve the warm-up request of
    /// the spawner, if there is one and it was not served before: see
    /// [`Spawner::warm_up`](crate::Spawner::warm_up). Blocks for at most `timeout`. The first time,
    /// both sides meanwhile touch the memory of the rings, which otherwise costs a page fault at
    /// the first use of each page.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Session`](crate::ErrorKind::Session) if the session could not be built; as
    /// [`Channel::call`], also for the warm-up, which the next call of `wait_ready` sends again.
    pub fn wait_ready(&self, timeout: Duration) -> Result<()> {
        let deadline = Deadline::after(timeout);
        let pending = self.submit(Kind::READY, &(), timeout)?;
        prefault(&self.core);
        pending.wait()?;
        if let Some(warm_up) = &self.warm_up
            && let Some((kind, payload)) = warm_up.request()
        {
            self.call(kind, payload, deadline.remaining())?;
            warm_up.note_served();
        }
        Ok(())
    }

    /// The warm-up request, if there is one.
    #[allow(dead_code, reason = "the async view uses it")]
    pub(crate) fn warm_up(&self) -> Option<&WarmUp> {
        self.warm_up.as_ref()
    }

    /// Asks a thread of the worker's for a report. The thread answers while a handler runs and
    /// while the rings of requests are full. Blocks for at most `timeout`.
    ///
    /// ```
    #[doc = include_str!("../example.md")]
    /// use slipring::WorkerState;
    ///
    /// let busy = channel.submit(WAIT, "", timeout)?;
    /// let report = loop {
    ///     let report = channel.ping(timeout)?;
    ///     if report.state == WorkerState::Busy { break report; }
    /// };
    /// assert_eq!(report.current_request, Some(busy.id()));
    /// # channel.close(timeout).map(drop) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) if the process does not answer: it is
    /// stopped, or gets no processor; nothing is killed.
    /// [`ErrorKind::Protocol`](crate::ErrorKind::Protocol) for a wrong answer.
    /// [`ErrorKind::Interrupted`](crate::ErrorKind::Interrupted) if a hook ends the wait, see
    /// [`Channel::on_interrupt`]: a late answer is dropped, and the worker can be asked again. As
    /// [`Channel::call`] if the channel is over.
    pub fn ping(&self, timeout: Duration) -> Result<Health> {
        self.worker.ping(timeout)
    }

    /// Returns the worker's report as it stands in shared memory, without asking the worker.
    /// Never blocks. Stays as it was when the worker is gone.
    #[must_use]
    pub fn health(&self) -> Health {
        self.core.status.health()
    }

    /// Returns the worker's role.
    #[must_use]
    pub fn role(&self) -> &str {
        self.worker.role()
    }

    /// Returns the process id of the program that was started: the worker's, unless that program
    /// runs the worker and stays.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.worker.pid()
    }

    /// Returns whether requests can be sent: the worker lives and the channel is not closed.
    /// Never blocks.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.core.is_open()
    }

    /// Returns how the worker ended; `None` while it runs, and until it is reaped. Never blocks.
    #[must_use]
    pub fn exit_cause(&self) -> Option<ExitCause> {
        self.worker.exit_cause()
    }

    /// Waits until the worker has ended, in any way, and returns how. Blocks for at most
    /// `timeout`. Does not end the worker, and uses no processor time while it waits.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) if it still runs;
    /// [`ErrorKind::Forked`](crate::ErrorKind::Forked) in a forked child.
    pub fn wait_exit(&self, timeout: Duration) -> Result<ExitCause> {
        self.worker.wait_exit(timeout)
    }

    /// Returns the path of the worker's log, if it has one.
    #[must_use]
    pub fn log_path(&self) -> Option<&Path> {
        self.worker.log_path()
    }

    /// Returns the path of the recording, if the channel is recorded: see
    /// [`Spawner::record`](crate::Spawner::record).
    #[must_use]
    pub fn recording_path(&self) -> Option<&Path> {
        self.recorder.as_ref().map(|recorder| recorder.path())
    }

    /// Returns how much of the channel was recorded so far, and how much was left out; `None` if it
    /// is not recorded, and in a forked child.
    #[must_use]
    pub fn recording_stats(&self) -> Option<RecordingStats> {
        let recorder = self.recorder.as_ref().filter(|_| !fork::is_forked_child());
        recorder.map(|recorder| recorder.stats())
    }

    /// Ends the worker, and returns how it ended. Operations in flight end with
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed) at once.
    ///
    /// The worker is asked to end and given `timeout` to do so. Then its connection is shut down
    /// and it gets SIGTERM, and two seconds later SIGKILL, as does the process group that it was
    /// started in. A worker that may not be signalled, because it runs as another user, ends
    /// within a second of the shutdown, also while a handler is stuck.
    ///
    /// Blocks until the worker is reaped and, for at most one second more each, until its log says
    /// how it ended and its recording is written. Any number of threads may call it, any number of
    /// times; all return the same.
    ///
    /// ```
    #[doc = include_str!("../example.md")]
    /// let cause = channel.close(Duration::from_secs(1))?;
    /// assert_eq!(cause, slipring::ExitCause::Exited(0));
    /// assert!(channel.call(ECHO, "", timeout).unwrap_err().is_closed());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Forked`](crate::ErrorKind::Forked) in a forked child.
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) if the worker's exit status is not known
    /// ten seconds after the kill, as for a process that hangs in a device; or two seconds after
    /// the shutdown, for a stopped worker that may not be signalled. Such a worker is reaped in the
    /// background when it ends.
    pub fn close(&self, timeout: Duration) -> Result<ExitCause> {
        let cause = self.worker.close(timeout);
        if let (Ok(_), Some(recorder)) = (&cause, &self.recorder) {
            recorder.flush(Instant::now() + LAST_FRAMES);
        }
        cause
    }

    /// Waits until nothing is in flight, and then ends the worker as [`Channel::close`] does.
    /// `timeout` bounds the wait; what is left of it is the timeout of the close. Other threads
    /// can send requests meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Channel::close`].
    pub fn close_draining(&self, timeout: Duration) -> Result<ExitCause> {
        let deadline = Deadline::after(timeout);
        self.core.drain(deadline);
        self.close(deadline.remaining())
    }
}
