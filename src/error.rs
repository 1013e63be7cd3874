//! The one error type of the library.
//!
//! An [`Error`] is opaque and one pointer wide. [`Error::kind`] and the `is_*`
//! predicates tell what happened; the message says what, how much, the limit
//! and the option that raises it; [`Error::death`] and [`Error::worker`] carry
//! what is known about a dead worker and about a failure inside a handler.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};

/// Result with this library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What happened, for code that must decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A configuration value that cannot work; the message has the reason.
    InvalidConfig,
    /// A payload longer than the cap; nothing was sent and the channel is usable.
    TooLarge,
    /// A typed payload that cannot be encoded, or bytes that do not decode as one.
    InvalidPayload,
    /// The deadline passed. The request is retired: a late reply is dropped.
    Timeout,
    /// A stream delivered nothing for its chunk timeout. Supervisors treat it as a crash.
    Stalled,
    /// The request was cancelled, or the abort flag was set.
    Cancelled,
    /// The channel is closed, or was closed while the operation waited.
    Closed,
    /// As many requests as the channel can hold are in flight.
    TooManyInFlight,
    /// Not possible now without waiting.
    WouldBlock,
    /// The peer process is gone; see [`Error::death`].
    PeerDied,
    /// The peer wrote something that cannot be; the channel is unusable for good.
    PeerCorrupt,
    /// The peer answered with something that the protocol does not allow here.
    Protocol,
    /// The handler in the worker failed or panicked; see [`Error::worker`].
    Worker,
    /// The program could not be started.
    Spawn,
    /// The worker did not attach: it is not a slipring worker, exited, or took too long.
    Handshake,
    /// The two sides do not agree on layout, geometry, features or seals.
    Mismatch,
    /// Used in a forked child of the process that owns the channel.
    Forked,
    /// The kernel lacks something that is needed.
    Unsupported,
    /// A system call failed; see [`std::error::Error::source`].
    Os,
}

/// An error of this library. Cheap to move and to clone.
#[derive(Clone)]
pub struct Error(Arc<Repr>);

struct Repr {
    kind: ErrorKind,
    message: Cow<'static, str>,
    detail: Detail,
    source: Option<io::Error>,
    begun: Option<bool>,
}

enum Detail {
    None,
    TooLarge { len: usize, cap: usize },
    Worker(WorkerFailure),
    Death(WorkerDeath),
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self::build(kind, message.into(), Detail::None, None)
    }

    pub(crate) fn os(what: impl Into<Cow<'static, str>>, source: io::Error) -> Self {
        Self::with_source(ErrorKind::Os, what, source)
    }

    pub(crate) fn last_os(what: impl Into<Cow<'static, str>>) -> Self {
        Self::os(what, io::Error::last_os_error())
    }

    pub(crate) fn with_source(
        kind: ErrorKind,
        message: impl Into<Cow<'static, str>>,
        source: io::Error,
    ) -> Self {
        Self::build(kind, message.into(), Detail::None, Some(source))
    }

    pub(crate) fn too_large(len: usize, cap: usize, option: &str) -> Self {
        let message = format!("payload of {len} bytes is over the cap of {cap} bytes; {option}");
        let detail = Detail::TooLarge { len, cap };
        Self::build(ErrorKind::TooLarge, message.into(), detail, None)
    }

    pub(crate) fn worker_failure(failure: WorkerFailure) -> Self {
        let message = failure.to_string().into();
        Self::build(ErrorKind::Worker, message, Detail::Worker(failure), None)
    }

    pub(crate) fn peer_died(death: WorkerDeath) -> Self {
        Self::build(ErrorKind::PeerDied, Cow::Borrowed(""), Detail::Death(death), None)
    }

    #[cold]
    pub(crate) fn corrupt(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::PeerCorrupt, message)
    }

    fn build(
        kind: ErrorKind,
        message: Cow<'static, str>,
        detail: Detail,
        source: Option<io::Error>,
    ) -> Self {
        Self(Arc::new(Repr { kind, message, detail, source, begun: None }))
    }

    /// Says whether a handler had begun the request. Only before the error is cloned.
    pub(crate) fn with_begun(mut self, begun: bool) -> Self {
        if let Some(repr) = Arc::get_mut(&mut self.0) {
            repr.begun = Some(begun);
        }
        self
    }

    /// What happened.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The deadline of the operation passed.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.kind() == ErrorKind::Timeout
    }

    /// A stream delivered nothing for its chunk timeout.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.kind() == ErrorKind::Stalled
    }

    /// The peer process is gone.
    #[must_use]
    pub fn is_peer_dead(&self) -> bool {
        self.kind() == ErrorKind::PeerDied
    }

    /// The channel is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.kind() == ErrorKind::Closed
    }

    /// The request was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.kind() == ErrorKind::Cancelled
    }

    /// The payload was longer than the cap.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.kind() == ErrorKind::TooLarge
    }

    /// The handler in the worker failed.
    #[must_use]
    pub fn is_worker_error(&self) -> bool {
        self.kind() == ErrorKind::Worker
    }

    /// Whether the channel can never be used again after this error: its worker
    /// is dead, wrote garbage or stalled, or the channel is closed.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        use ErrorKind as K;
        matches!(self.kind(), K::PeerDied | K::PeerCorrupt | K::Closed | K::Forked)
    }

    /// `(length, cap)` in bytes of a payload that was [`ErrorKind::TooLarge`].
    #[must_use]
    pub fn too_large_by(&self) -> Option<(usize, usize)> {
        match self.0.detail {
            Detail::TooLarge { len, cap } => Some((len, cap)),
            _ => None,
        }
    }

    /// Whether a handler had begun to serve the request that this error ended; `None` if that
    /// is not known.
    ///
    /// `Some(false)` is certain: the request was not sent, or the worker had not begun it and
    /// never will. It can be sent again, to another worker if this one is dead, without being
    /// served twice. After `Some(true)` the request may have had any part of its effects. For
    /// a dead worker the answer is known as soon as [`WorkerDeath::cause`] is.
    #[must_use]
    pub fn was_begun(&self) -> Option<bool> {
        match &self.0.detail {
            Detail::Death(death) => death.was_begun(),
            _ => self.0.begun,
        }
    }

    /// What a handler reported, when the kind is [`ErrorKind::Worker`].
    #[must_use]
    pub fn worker(&self) -> Option<&WorkerFailure> {
        match &self.0.detail {
            Detail::Worker(failure) => Some(failure),
            _ => None,
        }
    }

    /// What is known of the worker's end, when the kind is [`ErrorKind::PeerDied`].
    #[must_use]
    pub fn death(&self) -> Option<&WorkerDeath> {
        match &self.0.detail {
            Detail::Death(death) => Some(death),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.detail {
            Detail::Death(death) => death.fmt(f)?,
            _ => f.write_str(&self.0.message)?,
        }
        match &self.0.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({self})", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let source = self.0.source.as_ref()?;
        Some(source)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        use ErrorKind as K;
        let kind = match error.kind() {
            K::InvalidConfig | K::TooLarge => io::ErrorKind::InvalidInput,
            K::InvalidPayload | K::PeerCorrupt | K::Protocol | K::Mismatch => {
                io::ErrorKind::InvalidData
            }
            K::Timeout | K::Stalled => io::ErrorKind::TimedOut,
            K::Cancelled => io::ErrorKind::Interrupted,
            K::Closed => io::ErrorKind::NotConnected,
            K::TooManyInFlight | K::WouldBlock => io::ErrorKind::WouldBlock,
            K::PeerDied => io::ErrorKind::BrokenPipe,
            K::Unsupported => io::ErrorKind::Unsupported,
            K::Spawn | K::Os => {
                error.0.source.as_ref().map_or(io::ErrorKind::Other, io::Error::kind)
            }
            K::Worker | K::Handshake | K::Forked => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// What a handler reported: the failure of one request, not of the worker.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct WorkerFailure {
    /// Name of the error's type, `panic` for a panic.
    pub type_name: String,
    /// The error's own message.
    pub message: String,
    /// The messages of its sources, outermost first.
    pub sources: Vec<String>,
    /// Where it happened; empty when the worker captured none.
    pub backtrace: String,
}

impl fmt::Display for WorkerFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker failed: {}: {}", self.type_name, self.message)?;
        self.sources.iter().try_for_each(|source| write!(f, ": {source}"))
    }
}

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

/// What the worker's status line said when the worker had ended. An error outlives the
/// channel's memory, so that the line is read once and kept.
#[derive(Debug, Default)]
pub(crate) struct EndOfService {
    line: OnceLock<Weak<dyn StatusLine>>,
    read: OnceLock<LastServed>,
}

impl EndOfService {
    /// Where to read; once.
    pub(crate) fn set_line(&self, line: Weak<dyn StatusLine>) {
        // A channel has one engine, which sets this when it is made.
        let _ = self.line.set(line);
    }

    /// What the line says. Only for a worker that has ended: no thread of it runs any more,
    /// so that nothing is begun after this look. `None` if the channel's memory went first.
    pub(crate) fn last_served(&self) -> Option<LastServed> {
        if let Some(read) = self.read.get() {
            return Some(*read);
        }
        let line = self.line.get()?.upgrade()?;
        Some(*self.read.get_or_init(|| line.last_served()))
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

    /// Only once the exit status is known: the first sign of a death comes while threads of
    /// the worker may still run.
    fn last_served(&self) -> Option<LastServed> {
        self.cause()?;
        self.end_of_service.last_served()
    }

    /// Whether the worker had begun to serve the request that the error ended: whether its
    /// handler was about to be called, or had been. The worker notes this in shared memory
    /// before it calls a handler, and the note is read after the worker has ended. So
    /// `Some(false)` means that no handler has seen the request, and that it can be sent to
    /// another worker without being served twice. `None` until [`WorkerDeath::cause`] is known.
    #[must_use]
    pub fn was_begun(&self) -> Option<bool> {
        let Some(request) = self.request else { return Some(false) };
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
        if let Some(path) = &self.log_path {
            write!(f, "; log {}", path.display())?;
        } else {
            f.write_str(NO_LOG)?;
        }
        match self.log_tail.as_deref().map(str::trim_end) {
            Some(tail) if !tail.is_empty() => write!(f, ", which ends:\n{tail}"),
            _ => Ok(()),
        }
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
    fn an_error_is_one_pointer_wide_and_so_is_its_option() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
        assert_eq!(size_of::<Option<Error>>(), size_of::<usize>());
    }

    #[test]
    fn a_payload_over_the_cap_is_told_with_both_numbers_and_the_option() {
        let error = Error::too_large(70, 64, "raise max_frame");
        assert_eq!(error.too_large_by(), Some((70, 64)));
        assert_eq!(
            error.to_string(),
            "payload of 70 bytes is over the cap of 64 bytes; raise max_frame"
        );
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidInput);
    }

    impl StatusLine for LastServed {
        fn last_served(&self) -> LastServed {
            *self
        }
    }

    #[test]
    fn a_death_names_its_signal_its_log_and_the_last_lines_once_they_are_known() {
        let death = WorkerDeath {
            role: "embed".into(),
            pid: 7,
            request: Some(3),
            log_path: Some("/tmp/worker-embed.log".into()),
            log_tail: Some("loading\nboom\n".into()),
            status: Arc::default(),
            oom_suspected: Arc::default(),
            end_of_service: Arc::default(),
        };
        let error = Error::peer_died(death.clone());
        assert!(error.to_string().contains("exit status not known yet"));
        assert_eq!(error.was_begun(), None);
        death.status.set(ExitCause::Signaled(9)).unwrap();
        let line: Arc<dyn StatusLine> = Arc::new(LastServed { begun: 3, is_running: true });
        death.end_of_service.set_line(Arc::downgrade(&line));
        assert_eq!(
            error.to_string(),
            "worker embed (pid 7) died: killed by signal SIGKILL (9), while it served request 3; \
             log /tmp/worker-embed.log, which ends:\nloading\nboom"
        );
        assert!(error.is_peer_dead() && error.is_fatal());
    }

    #[test]
    fn every_signal_has_a_name() {
        for number in 1..=31 {
            assert!(signal_name(number).starts_with("SIG"), "{number}");
        }
        assert_eq!(signal_name(99), "unknown signal");
    }
}
