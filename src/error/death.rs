//! What is known about the end of a worker.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};

use super::{ExitCause, write_log_tail};
use crate::id::RequestId;

/// What is known about the end of a worker.
///
/// The first signs of a death come before the kernel hands out the exit status: half a second
/// before, if the process is big. Until then [`cause`](Self::cause) and what depends on it
/// return `None`. They can be asked again later: no operation of the channel is needed.
///
/// `{}` writes one line. `{:#}` adds the end of the log below it.
///
/// ```no_run
/// # fn example(error: &slipring::Error) {
/// if let Some(death) = error.death() {
///     match death.cause() {
///         Some(cause) => eprintln!("worker {} {cause}", death.pid()),
///         None => eprintln!("worker {} is gone", death.pid()),
///     }
///     if let Some(request) = death.serving() {
///         eprintln!("it was serving request {request}");
///     }
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct WorkerDeath {
    pub(crate) role: String,
    pub(crate) pid: u32,
    pub(crate) request: Option<u64>,
    pub(crate) log_path: Option<PathBuf>,
    pub(crate) log_tail: Option<String>,
    pub(crate) status: Arc<OnceLock<ExitCause>>,
    pub(crate) oom_suspected: Arc<OnceLock<bool>>,
    pub(crate) end_of_service: Arc<EndOfService>,
}

impl WorkerDeath {
    /// Returns the worker's role.
    #[must_use]
    pub fn role(&self) -> &str {
        &self.role
    }

    /// Returns the worker's process id, which the kernel may have given to another process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns the request that the error ended; `None` if the error ended no request, or one
    /// that was not sent.
    ///
    /// The worker did not necessarily serve this request: see [`serving`](Self::serving) and
    /// [`was_begun`](Self::was_begun).
    #[must_use]
    pub fn request(&self) -> Option<RequestId> {
        self.request.map(RequestId::new)
    }

    /// Returns the path of the worker's log, if it has one.
    #[must_use]
    pub fn log_path(&self) -> Option<&Path> {
        self.log_path.as_deref()
    }

    /// Returns the last 4096 bytes that the worker logged, lossily decoded, if it has a log.
    #[must_use]
    pub fn log_tail(&self) -> Option<&str> {
        self.log_tail.as_deref()
    }

    /// Returns how the worker ended; `None` until that is known.
    #[must_use]
    pub fn cause(&self) -> Option<ExitCause> {
        self.status.get().copied()
    }

    /// Returns the request whose handler was running when the worker ended; `None` if no handler
    /// was running, until [`cause`](Self::cause) is known, and for a worker that uses raw rings.
    #[must_use]
    pub fn serving(&self) -> Option<RequestId> {
        let last = self.last_served().filter(|last| last.is_running);
        last.map(|last| RequestId::new(last.begun))
    }

    /// Returns whether the worker had begun to serve the request that the error ended: whether
    /// its handler had been called, or was about to be.
    ///
    /// `Some(false)` is certain: no handler has seen the request. It can be sent to another
    /// worker without being served twice.
    ///
    /// `None`: it is not known yet. The answer comes with [`cause`](Self::cause), or a moment
    /// later, when the last thread of the worker has stopped. For a worker that uses raw rings
    /// it never comes: this library does not know what such a worker was asked.
    #[must_use]
    pub fn was_begun(&self) -> Option<bool> {
        let Some(request) = self.request else {
            return self.end_of_service.has_line().then_some(false);
        };
        // A request that was begun before the last one has had its last frame, which was
        // delivered: it did not end with this error.
        self.last_served().map(|last| last.begun == request)
    }

    /// Returns whether the kernel's out-of-memory killer is the likely cause: the worker was
    /// killed by a SIGKILL that this library did not send, and the kernel's count of such kills
    /// went up meanwhile. `false` until [`cause`](Self::cause) is known.
    #[must_use]
    pub fn is_oom_suspected(&self) -> bool {
        self.oom_suspected.get().copied().unwrap_or(false)
    }

    /// Returns what the worker served last, only once the exit status is known: the first signs
    /// of a death come while threads of the worker may still run.
    fn last_served(&self) -> Option<LastServed> {
        self.cause()?;
        self.end_of_service.last_served()
    }
}

/// How the line of a death without a log ends.
pub(crate) const NO_LOG: &str = "; it has no log: `Spawner::log_dir` keeps one of a spawned worker";

impl fmt::Display for WorkerDeath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {} (pid {}) died: ", self.role, self.pid)?;
        match self.cause() {
            Some(cause) => write!(f, "{cause}")?,
            None => f.write_str("exit status not known yet")?,
        }
        if self.is_oom_suspected() {
            f.write_str(", probably by the kernel's out-of-memory killer")?;
        }
        match (self.was_begun(), self.serving(), self.request) {
            (Some(true), _, Some(request)) => write!(f, ", while it served request {request}")?,
            (_, Some(other), _) => write!(f, ", while it served request {other}")?,
            (Some(false), None, _) if self.last_served().is_some() => {
                f.write_str(", while it served no request")?;
            }
            _ => {}
        }
        match (self.was_begun(), self.request) {
            (Some(false), Some(request)) => {
                write!(f, "; request {request} had not been begun")?;
            }
            (None, Some(request)) => write!(f, ", before it had answered request {request}")?,
            _ => {}
        }
        match &self.log_path {
            Some(path) => write!(f, "; log {}", path.display())?,
            None => f.write_str(NO_LOG)?,
        }
        if f.alternate() { write_log_tail(f, self.log_tail()) } else { Ok(()) }
    }
}

impl fmt::Debug for WorkerDeath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerDeath")
            .field("role", &self.role)
            .field("pid", &self.pid)
            .field("cause", &self.cause())
            .field("request", &self.request())
            .field("was_begun", &self.was_begun())
            .field("serving", &self.serving())
            .field("is_oom_suspected", &self.is_oom_suspected())
            .field("log_path", &self.log_path)
            .field("log_tail", &self.log_tail)
            .finish()
    }
}

/// What the worker's status line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LastServed {
    /// The request that was begun last; zero if none was.
    pub(crate) begun: u64,
    /// Whether its handler was running.
    pub(crate) is_running: bool,
}

/// A worker's status line, in the memory of its channel.
pub(crate) trait StatusLine: fmt::Debug + Send + Sync {
    fn last_served(&self) -> LastServed;
}

/// Tells whether no thread of the worker runs any more.
type HasStopped = Box<dyn Fn() -> bool + Send + Sync>;

/// What the worker's status line said when the worker had ended. The line is read once and kept,
/// because an error outlives the channel's memory.
#[derive(Default)]
pub(crate) struct EndOfService {
    line: OnceLock<Weak<dyn StatusLine>>,
    has_stopped: OnceLock<HasStopped>,
    read: OnceLock<LastServed>,
}

impl EndOfService {
    /// Sets where to read, once.
    pub(crate) fn set_line(&self, line: Weak<dyn StatusLine>) {
        // A channel sets this when it is made.
        let _ = self.line.set(line);
    }

    /// Returns whether the worker serves requests. One that uses raw rings has no line.
    fn has_line(&self) -> bool {
        self.line.get().is_some()
    }

    /// Sets how to tell whether no thread of the worker runs any more, once.
    pub(crate) fn set_has_stopped(&self, has_stopped: HasStopped) {
        // A channel has one worker, which sets this when it is started.
        let _ = self.has_stopped.set(has_stopped);
    }

    /// Returns what the line says once no thread of the worker runs any more, so that nothing is
    /// begun after this look. `None` before that, and if the channel's memory is gone.
    pub(crate) fn last_served(&self) -> Option<LastServed> {
        if let Some(read) = self.read.get() {
            return Some(*read);
        }
        let line = self.line.get()?.upgrade()?;
        let has_stopped = self.has_stopped.get()?;
        has_stopped().then(|| *self.read.get_or_init(|| line.last_served()))
    }
}

impl fmt::Debug for EndOfService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndOfService").field("read", &self.read.get()).finish_non_exhaustive()
    }
}
