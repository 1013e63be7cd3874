//! What is told of a worker that has ended.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::error::{EndOfService, Error, ReportPlace, WorkerDeath};
use crate::process::log::Log;
use crate::process::worker_process::WorkerProcess;
use crate::sys::clock::Deadline;

/// How long errors wait for the exit status to be known, unless the host says otherwise. Most
/// often it is known when the death is. Where only the reaping tells, the kernel has to tear
/// the process down first, which takes it a millisecond for a small one and a tenth of a
/// second for one of hundreds of megabytes.
pub(crate) const EXIT_STATUS_TIMEOUT: Duration = Duration::from_millis(50);

/// Between two looks at whether a dead worker's threads have stopped.
const LOOK: Duration = Duration::from_micros(200);

/// The worker's role and process, and how long errors wait for its exit status.
#[derive(Debug)]
pub(crate) struct WorkerExit {
    pub(crate) role: String,
    pub(crate) process: Box<dyn WorkerProcess>,
    exit_status_timeout: Duration,
    /// When all errors together stop waiting; counted from the first of them.
    exit_status_deadline: OnceLock<Deadline>,
}

impl WorkerExit {
    /// Whether no thread of the worker runs any more.
    pub(crate) fn has_stopped(&self) -> bool {
        self.process.has_stopped()
    }

    /// Whether all that an error says of the end is known.
    pub(crate) fn is_known(&self) -> bool {
        self.process.cause().get().is_some() && self.process.has_stopped()
    }

    /// Errors that tell of the end wait for the exit status for as long as `exit_status_timeout`.
    pub(crate) fn new(
        role: String,
        process: Box<dyn WorkerProcess>,
        exit_status_timeout: Duration,
    ) -> Self {
        Self { role, process, exit_status_timeout, exit_status_deadline: OnceLock::new() }
    }

    /// Blocks until the exit status is known, or until the deadline, or until that which all
    /// callers share: however many there are, one after the other, they do not wait for longer
    /// than one.
    pub(crate) fn wait_for_status(&self, deadline: Deadline) {
        let until = deadline.min(self.exit_status_deadline()).instant();
        self.process.wait_for_cause(until);
        // That is known while its threads are still being stopped. A moment later it is also
        // known what it had begun.
        while !self.process.has_stopped() && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
    }

    /// Until when errors wait for the exit status.
    pub(crate) fn exit_status_deadline(&self) -> Deadline {
        *self.exit_status_deadline.get_or_init(|| Deadline::after(self.exit_status_timeout))
    }

    /// The error for an operation that the worker's end has ended.
    pub(crate) fn error(
        &self,
        request: Option<u64>,
        end_of_service: Arc<EndOfService>,
        crash_report: Option<ReportPlace>,
    ) -> Error {
        Error::peer_died(WorkerDeath {
            role: self.role.clone(),
            pid: self.process.pid(),
            host: None,
            request,
            log_path: self.process.log().map(|log| log.path().to_owned()),
            log_tail: self.process.log().and_then(Log::tail),
            status: self.process.cause(),
            oom_suspected: self.process.oom_suspected(),
            end_of_service,
            crash_report,
        })
    }
}
