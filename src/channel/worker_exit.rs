//! What is told of a worker that has ended.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::error::{EndOfService, Error, ExitCause, WorkerDeath};
use crate::process::exit::Child;
use crate::process::log::Log;
#[cfg(any(feature = "testing", feature = "named"))]
use crate::process::thread::ThreadWorker;
use crate::sys::clock::Deadline;

/// How long errors wait for the exit status to be known, unless the host says otherwise. Most
/// often it is known when the death is. Where only the reaping tells, the kernel has to tear
/// the process down first, which takes it a millisecond for a small one and a tenth of a
/// second for one of hundreds of megabytes.
pub(crate) const PATIENCE: Duration = Duration::from_millis(50);

/// Between two looks at whether a dead worker's threads have stopped.
const LOOK: Duration = Duration::from_micros(200);

/// What runs the worker's side.
#[derive(Debug)]
pub(crate) enum Body {
    Process(Child),
    #[cfg(any(feature = "testing", feature = "named"))]
    Thread(ThreadWorker),
}

impl Body {
    pub(crate) fn pid(&self) -> u32 {
        match self {
            Self::Process(child) => child.pid(),
            #[cfg(any(feature = "testing", feature = "named"))]
            Self::Thread(thread) => thread.pid(),
        }
    }

    pub(crate) fn status(&self) -> Option<ExitCause> {
        match self {
            Self::Process(child) => child.status(),
            #[cfg(any(feature = "testing", feature = "named"))]
            Self::Thread(thread) => thread.status(),
        }
    }

    /// Whether it is known how it ended, or will have.
    fn has_cause(&self) -> bool {
        match self {
            Self::Process(child) => child.cause_cell().get().is_some(),
            #[cfg(any(feature = "testing", feature = "named"))]
            Self::Thread(thread) => thread.status().is_some(),
        }
    }

    /// Whether no thread of it runs any more.
    fn has_stopped(&self) -> bool {
        match self {
            Self::Process(child) => child.has_stopped(),
            #[cfg(any(feature = "testing", feature = "named"))]
            Self::Thread(thread) => thread.status().is_some(),
        }
    }

    /// Blocks until that is known or the deadline has passed.
    fn wait_for_cause(&self, deadline: Instant) {
        match self {
            Self::Process(child) => child.wait_for_cause(deadline),
            #[cfg(any(feature = "testing", feature = "named"))]
            Self::Thread(thread) => {
                let _ = thread.wait(deadline);
            }
        }
    }

    /// Blocks until it has ended or the deadline has passed.
    pub(crate) fn wait(&self, deadline: Instant) -> Option<ExitCause> {
        match self {
            Self::Process(child) => child.wait(deadline),
            #[cfg(any(feature = "testing", feature = "named"))]
            Self::Thread(thread) => thread.wait(deadline),
        }
    }

    /// Whether it can be made to end.
    pub(crate) fn can_be_ended(&self) -> bool {
        match self {
            Self::Process(_) => true,
            #[cfg(any(feature = "testing", feature = "named"))]
            Self::Thread(thread) => thread.pid() == std::process::id(),
        }
    }

    /// Whether it can be killed: a thread cannot.
    pub(crate) fn can_be_killed(&self) -> bool {
        match self {
            Self::Process(_) => true,
            #[cfg(any(feature = "testing", feature = "named"))]
            Self::Thread(_) => false,
        }
    }

    /// Lets it see that this side is gone, at which a worker that has attached ends.
    pub(crate) fn hang_up(&self) {
        match self {
            Self::Process(child) => child.hang_up(),
            #[cfg(any(feature = "testing", feature = "named"))]
            Self::Thread(thread) => thread.stop(),
        }
    }

    /// Asks it to end. A thread cannot be made to.
    pub(crate) fn terminate(&self) {
        match self {
            Self::Process(child) => {
                child.signal(libc::SIGTERM);
            }
            #[cfg(any(feature = "testing", feature = "named"))]
            Self::Thread(thread) => thread.stop(),
        }
    }

    /// Kills it. False if this process may not.
    pub(crate) fn kill(&self) -> bool {
        match self {
            Self::Process(child) => child.kill(),
            #[cfg(any(feature = "testing", feature = "named"))]
            Self::Thread(thread) => {
                thread.stop();
                true
            }
        }
    }

    /// Blocks until the log tells how it ended, or the deadline has passed.
    pub(crate) fn wait_for_last_line(&self, deadline: Instant) {
        match self {
            Self::Process(child) => child.wait_for_last_line(deadline),
            #[cfg(any(feature = "testing", feature = "named"))]
            Self::Thread(_) => {}
        }
    }

    /// Leaves it to be ended and reaped in the background.
    pub(crate) fn retire(&self, term_after: Duration, kill_after: Duration) {
        match self {
            Self::Process(child) => child.retire(term_after, kill_after),
            #[cfg(any(feature = "testing", feature = "named"))]
            Self::Thread(thread) => thread.stop(),
        }
    }

    pub(crate) fn log(&self) -> Option<&Log> {
        match self {
            Self::Process(child) => child.log(),
            #[cfg(any(feature = "testing", feature = "named"))]
            Self::Thread(_) => None,
        }
    }
}

/// Who the worker is and where its end is written down.
#[derive(Debug)]
pub(crate) struct WorkerExit {
    pub(crate) role: String,
    pub(crate) body: Body,
    patience: Duration,
    /// When the patience of all errors together ends; counted from the first of them.
    patience_ends: OnceLock<Deadline>,
}

impl WorkerExit {
    /// Whether no thread of the worker runs any more.
    pub(crate) fn has_stopped(&self) -> bool {
        self.body.has_stopped()
    }

    /// Whether all that an error says of the end is known.
    pub(crate) fn is_known(&self) -> bool {
        self.body.has_cause() && self.body.has_stopped()
    }

    /// Errors that tell of the end wait for the exit status for as long as `patience`.
    pub(crate) fn new(role: String, body: Body, patience: Duration) -> Self {
        Self { role, body, patience, patience_ends: OnceLock::new() }
    }

    /// Blocks until the exit status is known, the deadline has passed, or the patience is
    /// over that all callers share: however many there are, one after the other, they do not
    /// wait for longer than one.
    pub(crate) fn wait_for_status(&self, deadline: Deadline) {
        let until = deadline.min(self.patience_ends()).instant();
        self.body.wait_for_cause(until);
        // That is known while its threads are still being stopped. A moment later it is also
        // known what it had begun.
        while !self.body.has_stopped() && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
    }

    pub(crate) fn patience_ends(&self) -> Deadline {
        *self.patience_ends.get_or_init(|| Deadline::after(self.patience))
    }

    /// The error for an operation that the worker's end has ended.
    pub(crate) fn error(&self, request: Option<u64>, end_of_service: Arc<EndOfService>) -> Error {
        let (status, oom_suspected) = match &self.body {
            Body::Process(child) => (child.cause_cell(), child.oom_cell()),
            #[cfg(any(feature = "testing", feature = "named"))]
            Body::Thread(thread) => (thread.status_cell(), Default::default()),
        };
        Error::peer_died(WorkerDeath {
            role: self.role.clone(),
            pid: self.body.pid(),
            request,
            log_path: self.body.log().map(|log| log.path().to_owned()),
            log_tail: self.body.log().and_then(Log::tail),
            status,
            oom_suspected,
            end_of_service,
        })
    }
}
