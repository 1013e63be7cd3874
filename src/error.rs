//! The one error type of the library.

mod attempts;
mod codes;
mod crash_report;
mod death;
mod escape;
mod exit;
mod failure;
mod kind;
mod make;
mod overload;
mod report;
mod stage;
mod stream_timeout;

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use attempts::{AttemptEnd, EarlierAttempts};
pub(crate) use crash_report::ReportPlace;
use crash_report::write_path;
pub(crate) use death::NO_LOG;
pub use death::WorkerDeath;
pub(crate) use death::{EndOfService, Marks};
pub use escape::Escaped;
pub(crate) use escape::shown;
#[cfg(not(loom))]
pub(crate) use escape::steers;
pub use exit::ExitCause;
pub use failure::HandlerFailure;
pub use kind::ErrorKind;
pub use overload::Overload;
pub use report::{DeathReport, ErrorReport};
pub use stage::RequestStage;
pub(crate) use stage::{Mark, Stage};
pub use stream_timeout::StreamTimeout;

/// Result with this library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this library: opaque, one pointer wide, cheap to move and to clone.
///
/// [`kind`](Self::kind) and the `is_*` methods tell what happened. The message says what
/// happened, how much was asked for, the limit, and the option that raises it.
/// [`death`](Self::death) and [`handler_failure`](Self::handler_failure) carry what is known about
/// a dead worker and about a failure inside a handler.
///
/// `{}` writes one line, without what [`source`](std::error::Error::source) returns. `{:#}` adds
/// the sources to that line, and below it the end of a dead worker's log. `{:?}` writes the kind
/// and the same as `{:#}`.
///
/// ```no_run
/// use std::time::Duration;
///
/// use slipring::{Channel, Kind, Reply, Result};
///
/// /// Sends the text again, but never has it served twice.
/// fn embed(channel: &Channel, spare: &Channel, text: &str) -> Result<Reply> {
///     match channel.call(Kind::EMBED, text, Duration::from_secs(2)) {
///         Err(error) if error.is_fatal() && error.was_begun() == Some(false) => {
///             spare.call(Kind::EMBED, text, Duration::from_secs(2))
///         }
///         result => result,
///     }
/// }
/// ```
///
/// It converts to [`io::Error`], of which it is then the inner error:
///
/// ```
/// let error = slipring::Error::invalid_payload("an image of 0 bytes");
/// let error = std::io::Error::from(error);
/// assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
/// let ours = error.get_ref().and_then(|inner| inner.downcast_ref::<slipring::Error>());
/// assert!(ours.is_some());
/// ```
#[derive(Clone)]
pub struct Error(Arc<Repr>);

#[derive(Clone)]
struct Repr {
    kind: ErrorKind,
    message: Cow<'static, str>,
    detail: Detail,
    source: Option<Source>,
    stage: Option<RequestStage>,
    log_tail: Option<String>,
    earlier: Option<Box<EarlierAttempts>>,
    part_sent: Option<u64>,
    crash_report: Option<ReportPlace>,
}

type Source = Arc<dyn std::error::Error + Send + Sync>;

#[derive(Clone)]
enum Detail {
    None,
    TooLarge { len: usize, cap: usize },
    Handler(HandlerFailure),
    Death(WorkerDeath),
    StreamTimeout(StreamTimeout),
    Overload(Overload),
}

impl Error {
    /// Returns the request of which only a part was sent. Its worker may be at that part.
    pub(crate) fn part_sent(&self) -> Option<u64> {
        self.0.part_sent
    }

    /// Returns what happened.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns whether the deadline of the operation passed, also if that was while a request
    /// waited for a worker of a pool.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self.kind(), ErrorKind::Timeout | ErrorKind::QueueTimeout)
    }

    /// Returns whether a stream delivered nothing within the timeout of its first chunk or of a
    /// further one.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.kind() == ErrorKind::Stalled
    }

    /// Returns whether the worker process is gone.
    #[must_use]
    pub fn is_peer_dead(&self) -> bool {
        self.kind() == ErrorKind::PeerDied
    }

    /// Returns whether the channel is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.kind() == ErrorKind::Closed
    }

    /// Returns whether the request was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.kind() == ErrorKind::Cancelled
    }

    /// Returns whether the payload was longer than allowed.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.kind() == ErrorKind::TooLarge
    }

    /// Returns whether the handler in the worker failed.
    #[must_use]
    pub fn is_handler_error(&self) -> bool {
        self.kind() == ErrorKind::HandlerFailed
    }

    /// Returns whether the channel can never be used again after this error: its worker is dead,
    /// wrote garbage or has no session, the channel is closed, or it belongs to the process that
    /// this one was forked from.
    ///
    /// A channel is usable after a call that timed out and a stream that stalled, although its
    /// worker may be stuck. The method says nothing about errors of starting a worker: there is
    /// no channel then.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        use ErrorKind as K;
        matches!(self.kind(), K::PeerDied | K::PeerCorrupt | K::Session | K::Closed | K::Forked)
    }

    /// Returns the length of the payload and the longest that is allowed, both in bytes, for an
    /// [`ErrorKind::TooLarge`].
    ///
    /// ```no_run
    /// # fn example(channel: &slipring::Channel) {
    /// use std::time::Duration;
    ///
    /// use slipring::Kind;
    ///
    /// let error = channel.call(Kind::EMBED, &vec![0; 1 << 30], Duration::from_secs(1)).unwrap_err();
    /// let limit = channel.config().max_message();
    /// assert_eq!(error.length_and_limit(), Some((1 << 30, limit)));
    /// # }
    /// ```
    #[must_use]
    pub fn length_and_limit(&self) -> Option<(usize, usize)> {
        match self.0.detail {
            Detail::TooLarge { len, cap } => Some((len, cap)),
            _ => None,
        }
    }

    /// Returns whether the worker had begun to serve the request that this error ended; `None` if
    /// that is not known.
    ///
    /// `Some(false)` is certain: the request was not sent, or the worker may have taken it, but had
    /// not begun it and never will. It can be sent again, to another worker if this one is dead,
    /// without being served twice. After `Some(true)` the request may have had any part of its
    /// effects. For a dead worker see [`WorkerDeath::was_begun`], which says when the answer is
    /// known.
    #[must_use]
    pub fn was_begun(&self) -> Option<bool> {
        match &self.0.detail {
            Detail::Death(death) => death.was_begun(),
            _ => self.0.stage.map(|stage| stage == RequestStage::Begun),
        }
    }

    /// Returns how far the worker was with the request that this error ended; `None` if that is
    /// not known. It tells more than [`was_begun`](Self::was_begun) where a worker serves many
    /// requests at the same time.
    ///
    /// After a timeout it is [`RequestStage::Begun`], if the worker had begun the request, or
    /// `None`: a request that waited when its timeout passed can still be begun until the worker
    /// finds it cancelled. The message says where it waited at that moment. Only if the worker
    /// itself has found the deadline passed it is [`RequestStage::Queued`].
    #[must_use]
    pub fn stage(&self) -> Option<RequestStage> {
        match &self.0.detail {
            Detail::Death(death) => death.stage(),
            _ => self.0.stage,
        }
    }

    /// Returns whether the request that this error ended was the only one that the worker had
    /// begun when it ended: see [`WorkerDeath::begun_alone`]. `None` if that is not known, and for
    /// errors that are not of a worker's end.
    #[must_use]
    pub fn begun_alone(&self) -> Option<bool> {
        self.death()?.begun_alone()
    }

    /// Returns which timeout of a stream has passed, if that is what ended it.
    ///
    /// ```
    /// # fn main() -> slipring::Result<()> {
    /// use std::time::Duration;
    ///
    /// use slipring::worker::Worker;
    /// use slipring::{Config, Kind, RoleConfig, StreamTimeout, StreamTimeouts, testing};
    ///
    /// let make = || Worker::new(|_role| Ok(())).on(Kind::CHAT, |(), request, _| loop {
    ///     request.check_cancelled()?;
    /// });
    /// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
    /// let timeouts = StreamTimeouts::new().first_chunk(Duration::from_millis(20));
    /// let mut stream = channel.stream(Kind::CHAT, "hello", timeouts)?;
    /// let error = stream.next_chunk().unwrap_err();
    /// assert_eq!(error.stream_timeout(), Some(StreamTimeout::FirstChunk));
    /// assert!(error.is_stalled());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn stream_timeout(&self) -> Option<StreamTimeout> {
        match self.0.detail {
            Detail::StreamTimeout(which) => Some(which),
            _ => None,
        }
    }

    /// Returns how full the role of a pool was, if the kind is [`ErrorKind::Overloaded`].
    #[must_use]
    pub fn overload(&self) -> Option<Overload> {
        match self.0.detail {
            Detail::Overload(overload) => Some(overload),
            _ => None,
        }
    }

    /// Returns how often the request was sent to workers of a pool before the attempt that this error
    /// tells of, and how each of these ended; `None` if it was sent once at most. The message says
    /// it, too.
    ///
    /// ```
    /// fn attempts(error: &slipring::Error) -> u32 {
    ///     1 + error.earlier_attempts().map_or(0, |earlier| earlier.count)
    /// }
    /// # assert_eq!(attempts(&slipring::Error::invalid_payload("")), 1);
    /// ```
    #[must_use]
    pub fn earlier_attempts(&self) -> Option<&EarlierAttempts> {
        self.0.earlier.as_deref()
    }

    /// Returns the last 4096 bytes that the worker logged, lossily decoded, if the worker is
    /// dead or did not attach, and has a log.
    #[must_use]
    pub fn log_tail(&self) -> Option<&str> {
        match &self.0.detail {
            Detail::Death(death) => death.log_tail(),
            _ => self.0.log_tail.as_deref(),
        }
    }

    /// Returns what a handler reported, if the kind is [`ErrorKind::HandlerFailed`], or the builder
    /// of the session, if it is [`ErrorKind::Session`].
    #[must_use]
    pub fn handler_failure(&self) -> Option<&HandlerFailure> {
        match &self.0.detail {
            Detail::Handler(failure) => Some(failure),
            _ => None,
        }
    }

    /// Returns what is known about the worker's end, if the kind is [`ErrorKind::PeerDied`].
    #[must_use]
    pub fn death(&self) -> Option<&WorkerDeath> {
        match &self.0.detail {
            Detail::Death(death) => Some(death),
            _ => None,
        }
    }

    /// Returns the path of the worker's [crash report](crate::CrashReports), if there is one and it is
    /// written: it is written a moment after the end of the worker, and no operation waits for it. `None`
    /// at first, then, and later the path. Errors of a worker that wrote garbage, or has no session, have
    /// one, too.
    ///
    /// ```no_run
    /// # fn example(error: &slipring::Error, reports: &slipring::CrashReports) {
    /// use std::time::Duration;
    ///
    /// reports.wait(Duration::from_secs(1));
    /// if let Some(path) = error.crash_report() {
    ///     eprintln!("please send {}", path.display());
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn crash_report(&self) -> Option<&Path> {
        self.report_place()?.path()
    }

    fn report_place(&self) -> Option<&ReportPlace> {
        match &self.0.detail {
            Detail::Death(death) => death.crash_report.as_ref(),
            _ => self.0.crash_report.as_ref(),
        }
    }

    fn source_kind(&self) -> Option<io::ErrorKind> {
        let source = std::error::Error::source(self)?;
        let kind = source.downcast_ref::<io::Error>().map(io::Error::kind);
        kind.filter(|kind| !matches!(kind, io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.detail {
            Detail::Death(death) => {
                write!(f, "{death}")?;
                if !self.0.message.is_empty() {
                    write!(f, "; {}", Escaped(&self.0.message))?;
                }
            }
            Detail::Handler(failure) if self.kind() == ErrorKind::Session => {
                write!(f, "the worker could not build its session: {failure}")?;
            }
            Detail::Handler(failure) => write!(f, "handler failed: {failure}")?,
            Detail::None
            | Detail::TooLarge { .. }
            | Detail::StreamTimeout(_)
            | Detail::Overload(_) => {
                write!(f, "{}", Escaped(&self.0.message))?;
            }
        }
        if self.death().is_none() {
            write_path(f, self.crash_report())?;
        }
        if let Some(why) = self.report_place().and_then(|place| place.failure()) {
            write!(f, "; no crash report: {}", Escaped(why))?;
        }
        if let Some(earlier) = self.earlier_attempts() {
            write!(f, "; {earlier}")?;
        }
        if !f.alternate() {
            return Ok(());
        }
        let mut next = std::error::Error::source(self);
        while let Some(source) = next {
            write!(f, ": {}", Escaped(source))?;
            next = source.source();
        }
        write_log_tail(f, self.log_tail())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({self:#})", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let source: &(dyn std::error::Error + 'static) = self.0.source.as_deref()?;
        Some(source)
    }
}

fn write_log_tail(f: &mut fmt::Formatter<'_>, tail: Option<&str>) -> fmt::Result {
    match tail.map(str::trim_end) {
        Some(tail) if !tail.is_empty() => write!(f, "; the log ends:\n{tail}"),
        _ => Ok(()),
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = error.kind().io_kind().or_else(|| error.source_kind());
        Self::new(kind.unwrap_or(io::ErrorKind::Other), error)
    }
}

#[cfg(all(test, not(loom)))]
mod report_tests;
#[cfg(test)]
mod tests;
