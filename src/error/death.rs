//! How a worker ended, and what is known about it.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};

use super::write_log_tail;

/// How a worker process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExitCause {
    /// It called exit, with this code.
    Exited(i32),
    /// This signal killed it.
    Signaled(i32),
    /// Somebody else reaped it, so that the status is lost.
    Unknown,
}

impl ExitCause {
    /// `SIGKILL` for 9, and so on; `None` when no signal is involved.
    #[must_use]
    pub fn signal_name(self) -> Option<&'static str> {
        match self {
            Self::Signaled(number) => Some(signal_name(number)),
            Self::Exited(_) | Self::Unknown => None,
        }
    }
}

impl fmt::Display for ExitCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with code {code}"),
            Self::Signaled(n) => write!(f, "killed by signal {} ({n})", signal_name(*n)),
            Self::Unknown => f.write_str("ended, status unknown (reaped elsewhere)"),
        }
    }
}

/// What is known about the end of a worker.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WorkerDeath {
    /// The worker's role.
    pub role: String,
    /// Its process id.
    pub pid: u32,
    /// The request that the error ended, if it was sent. It was not necessarily the one that
    /// the worker served: see [`WorkerDeath::serving`] and [`WorkerDeath::was_begun`].
    pub request: Option<u64>,
    /// Its log, when it has one.
    pub log_path: Option<PathBuf>,
    /// The last 4096 bytes that it logged, lossily decoded.
    pub log_tail: Option<String>,
    pub(crate) status: Arc<OnceLock<ExitCause>>,
    pub(crate) oom_suspected: Arc<OnceLock<bool>>,
    pub(crate) end_of_service: Arc<EndOfService>,
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

/// What the worker's status line said when the worker had ended. An error outlives the
/// channel's memory, so that the line is read once and kept.
#[derive(Default)]
pub(crate) struct EndOfService {
    line: OnceLock<Weak<dyn StatusLine>>,
    has_stopped: OnceLock<HasStopped>,
    read: OnceLock<LastServed>,
}

impl EndOfService {
    /// Where to read; once.
    pub(crate) fn set_line(&self, line: Weak<dyn StatusLine>) {
        // A channel has one core, which sets this when it is made.
        let _ = self.line.set(line);
    }

    /// Whether the worker serves requests. One that uses raw rings has no line.
    fn has_line(&self) -> bool {
        self.line.get().is_some()
    }

    /// How to tell whether no thread of the worker runs any more; once.
    pub(crate) fn set_has_stopped(&self, has_stopped: HasStopped) {
        // A channel has one worker, which sets this when it is started.
        let _ = self.has_stopped.set(has_stopped);
    }

    /// What the line says once no thread of the worker runs any more, so that nothing is begun
    /// after this look. `None` before that, and if the channel's memory went first.
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

impl WorkerDeath {
    /// How it ended. A big process can be known to be dead half a second before
    /// the kernel hands out its status: until then, `None`.
    #[must_use]
    pub fn cause(&self) -> Option<ExitCause> {
        self.status.get().copied()
    }

    /// The request whose handler was running when the worker ended. `None` if no handler
    /// was, and until [`WorkerDeath::cause`] is known. A worker that uses raw rings serves
    /// no requests.
    #[must_use]
    pub fn serving(&self) -> Option<u64> {
        self.last_served().filter(|last| last.is_running).map(|last| last.begun)
    }

    /// Only once the exit status is known, and no thread of the worker runs: the first signs
    /// of a death come while some may.
    fn last_served(&self) -> Option<LastServed> {
        self.cause()?;
        self.end_of_service.last_served()
    }

    /// Whether the worker had begun to serve the request that the error ended: whether its
    /// handler was about to be called, or had been. The worker notes this in shared memory
    /// before it calls a handler, and the note is read after the worker has ended. So
    /// `Some(false)` means that no handler has seen the request, and that it can be sent to
    /// another worker without being served twice. `None` until [`WorkerDeath::cause`] is known
    /// and the last thread of the worker has stopped, which is a moment later, and always for
    /// a worker that uses raw rings: this library does not know what such a worker was asked.
    #[must_use]
    pub fn was_begun(&self) -> Option<bool> {
        let Some(request) = self.request else {
            return self.end_of_service.has_line().then_some(false);
        };
        // A request that was begun before the last one has had its last frame, which was
        // delivered: it did not end with this error.
        self.last_served().map(|last| last.begun == request)
    }

    /// The kernel's out-of-memory killer is the likely cause: it was killed by a
    /// SIGKILL that this library did not send, while the kernel's count of such
    /// kills went up.
    #[must_use]
    pub fn is_oom_suspected(&self) -> bool {
        self.oom_suspected.get().copied().unwrap_or(false)
    }
}

/// What is said of a death without a log.
pub(crate) const NO_LOG: &str = "; it has no log: `Spawner::log_dir` keeps one of a spawned worker";

/// One line; `{:#}` adds the end of the log below it.
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
        if f.alternate() { write_log_tail(f, self.log_tail.as_deref()) } else { Ok(()) }
    }
}

/// The name of a signal on Linux.
fn signal_name(number: i32) -> &'static str {
    const NAMES: [(i32, &str); 31] = [
        (libc::SIGHUP, "SIGHUP"),
        (libc::SIGINT, "SIGINT"),
        (libc::SIGQUIT, "SIGQUIT"),
        (libc::SIGILL, "SIGILL"),
        (libc::SIGTRAP, "SIGTRAP"),
        (libc::SIGABRT, "SIGABRT"),
        (libc::SIGBUS, "SIGBUS"),
        (libc::SIGFPE, "SIGFPE"),
        (libc::SIGKILL, "SIGKILL"),
        (libc::SIGUSR1, "SIGUSR1"),
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGUSR2, "SIGUSR2"),
        (libc::SIGPIPE, "SIGPIPE"),
        (libc::SIGALRM, "SIGALRM"),
        (libc::SIGTERM, "SIGTERM"),
        (libc::SIGSTKFLT, "SIGSTKFLT"),
        (libc::SIGCHLD, "SIGCHLD"),
        (libc::SIGCONT, "SIGCONT"),
        (libc::SIGSTOP, "SIGSTOP"),
        (libc::SIGTSTP, "SIGTSTP"),
        (libc::SIGTTIN, "SIGTTIN"),
        (libc::SIGTTOU, "SIGTTOU"),
        (libc::SIGURG, "SIGURG"),
        (libc::SIGXCPU, "SIGXCPU"),
        (libc::SIGXFSZ, "SIGXFSZ"),
        (libc::SIGVTALRM, "SIGVTALRM"),
        (libc::SIGPROF, "SIGPROF"),
        (libc::SIGWINCH, "SIGWINCH"),
        (libc::SIGIO, "SIGIO"),
        (libc::SIGPWR, "SIGPWR"),
        (libc::SIGSYS, "SIGSYS"),
    ];
    match NAMES.iter().find(|(n, _)| *n == number) {
        Some((_, name)) => name,
        None if (32..=64).contains(&number) => "real-time signal",
        None => "unknown signal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_has_a_name() {
        for number in 1..=31 {
            assert!(signal_name(number).starts_with("SIG"), "{number}");
        }
        assert_eq!(signal_name(99), "unknown signal");
    }
}
