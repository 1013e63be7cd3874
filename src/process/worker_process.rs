//! What a channel knows of the process behind it, however that was started.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::log::Log;
use super::oom::OomEvidence;
use crate::error::ExitCause;

/// The process, or the thread, that runs a worker: how it ended, and the means to end it. Only
/// the `wait` methods block. In a forked child of the process that has made this value no
/// method blocks or has an effect.
pub(crate) trait WorkerProcess: fmt::Debug + Send + Sync {
    fn pid(&self) -> u32;

    /// Returns how the worker ended; `None` while it runs, and until it is reaped.
    fn status(&self) -> Option<ExitCause>;

    /// The place in which the cause of the end is stored: when the worker is reaped at the
    /// latest, and sooner if the kernel shows it.
    fn cause(&self) -> Arc<OnceLock<ExitCause>>;

    /// The place in which it is stored whether the out-of-memory killer is suspected; set
    /// before the cause is.
    fn oom_suspected(&self) -> Arc<OnceLock<bool>> {
        Arc::default()
    }

    /// Returns what the kernel's out-of-memory killer was counted to have done while the worker ran, if
    /// the kernel shows that.
    fn oom_evidence(&self) -> Option<OomEvidence> {
        None
    }

    /// Returns whether the kernel has written a core dump of the worker; `None` if that is not known.
    fn has_dumped_core(&self) -> Option<bool> {
        None
    }

    /// Returns whether no thread of the worker runs any more. That can be known before the
    /// worker is reaped.
    fn has_stopped(&self) -> bool {
        self.status().is_some()
    }

    /// Blocks until the cause of the end is known, or the deadline has passed.
    fn wait_for_cause(&self, deadline: Instant);

    /// Blocks until the worker has ended and is reaped, or the deadline has passed. Callbacks
    /// of its end may still be running then, and must not call this.
    fn wait(&self, deadline: Instant) -> Option<ExitCause>;

    /// Returns whether this process has any means to end the worker.
    fn can_be_ended(&self) -> bool {
        true
    }

    /// Returns whether [`kill`](Self::kill) can have an effect.
    fn can_be_killed(&self) -> bool {
        true
    }

    /// Shows the worker that this side is gone, at which an attached worker ends. This also
    /// reaches a worker that this process may not signal.
    fn hang_up(&self);

    /// Asks the worker to end, by SIGTERM if it is a process.
    fn terminate(&self);

    /// Kills the process and its process group. Returns `false` if the process has ended, or
    /// this process may not signal it.
    fn kill(&self) -> bool;

    /// Ends the worker in the background: if it has not ended after `term_after`, it is hung
    /// up on and asked to end; if it has not ended `kill_after` later, it is killed. Of several
    /// calls the earliest times hold.
    fn end_later(&self, term_after: Duration, kill_after: Duration);

    /// The worker's log, if it has one.
    fn log(&self) -> Option<&Log> {
        None
    }

    /// Blocks until the last line of the log, which tells how the worker ended, is written, or
    /// the deadline has passed. Returns at once if there is no log.
    fn wait_for_log(&self, _deadline: Instant) {}
}
