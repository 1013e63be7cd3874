//! The one error type of the library.
//!
//! An [`Error`] is opaque and one pointer wide. [`Error::kind`] and the `is_*`
//! predicates tell what happened; the message says what, how much, the limit
//! and the option that raises it; [`Error::death`] and [`Error::worker`] carry
//! what is known about a dead worker and about a failure inside a handler.
//!
//! `{}` writes one line and leaves out what [`source`](std::error::Error::source) returns.
//! `{:#}` adds the sources to that line, and below it the end of a dead worker's log.
//! `{:?}` writes the kind and the same as `{:#}`.

mod death;

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io;
use std::sync::Arc;

#[cfg(not(loom))]
pub(crate) use death::NO_LOG;
pub(crate) use death::{EndOfService, LastServed, StatusLine};
pub use death::{ExitCause, WorkerDeath};

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
    /// A stream delivered nothing for its chunk timeout, and is over. Other requests are not
    /// affected, but a worker that is stuck in its handler serves none of them.
    Stalled,
    /// The request was cancelled, or the abort flag was set.
    Cancelled,
    /// The channel is closed, or was closed while the operation waited.
    Closed,
    /// As many requests as the channel can hold are in flight.
    TooManyInFlight,
    /// The peer process is gone; see [`Error::death`].
    PeerDied,
    /// The peer wrote something that cannot be; the channel is unusable for good.
    PeerCorrupt,
    /// The peer answered with something that the protocol does not allow here.
    Protocol,
    /// The handler in the worker failed or panicked; see [`Error::worker`].
    Worker,
    /// The worker could not build its session, so that it serves nothing and ends; see
    /// [`Error::worker`].
    Session,
    /// The program could not be started.
    Spawn,
    /// The worker did not attach: it is not a slipring worker, exited, or took too long.
    Handshake,
    /// The two sides do not agree on layout, geometry, features or seals.
    Mismatch,
    /// Used in a forked child, which has not called exec, of a process that has used this
    /// library. What the child inherited belongs to its parent, and it cannot start workers.
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
    source: Option<Source>,
    begun: Option<bool>,
    log_tail: Option<String>,
}

type Source = Box<dyn std::error::Error + Send + Sync>;

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
        Self::build(kind, message.into(), Detail::None, Some(source.into()))
    }

    pub(crate) fn caused_by(
        kind: ErrorKind,
        message: impl Into<Cow<'static, str>>,
        source: impl Into<Source>,
    ) -> Self {
        Self::build(kind, message.into(), Detail::None, Some(source.into()))
    }

    /// An [`ErrorKind::InvalidPayload`], for implementations of
    /// [`Payload`](crate::payload::Payload) and [`Source`](crate::payload::Source): a value that
    /// cannot be encoded, or bytes that do not decode. The message should name what is wrong
    /// and the value that would be right.
    ///
    /// ```
    /// let error = slipring::Error::invalid_payload("an image of 0 bytes");
    /// assert_eq!(error.kind(), slipring::ErrorKind::InvalidPayload);
    /// ```
    #[must_use]
    pub fn invalid_payload(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::InvalidPayload, message)
    }

    pub(crate) fn too_large(len: usize, cap: usize, option: &str) -> Self {
        let message = format!("payload of {len} bytes is over the cap of {cap} bytes; {option}");
        let detail = Detail::TooLarge { len, cap };
        Self::build(ErrorKind::TooLarge, message.into(), detail, None)
    }

    pub(crate) fn worker_failure(failure: WorkerFailure) -> Self {
        Self::build(ErrorKind::Worker, Cow::Borrowed(""), Detail::Worker(failure), None)
    }

    pub(crate) fn session_failure(failure: WorkerFailure) -> Self {
        Self::build(ErrorKind::Session, Cow::Borrowed(""), Detail::Worker(failure), None)
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
        source: Option<Source>,
    ) -> Self {
        Self(Arc::new(Repr { kind, message, detail, source, begun: None, log_tail: None }))
    }

    /// Shows the end of the worker's log. Only before the error is cloned.
    pub(crate) fn with_log_tail(mut self, tail: Option<String>) -> Self {
        if let Some(repr) = Arc::get_mut(&mut self.0) {
            repr.log_tail = tail;
        }
        self
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

    /// Whether the channel can never be used again after this error: its worker is dead,
    /// wrote garbage or has no session, or the channel is closed, or belongs to the process
    /// that this one was forked from. After a stream that stalled and a call that timed out it
    /// can be used, although its worker may be stuck. Errors of starting a worker are not
    /// meant: there is no channel then.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        use ErrorKind as K;
        matches!(self.kind(), K::PeerDied | K::PeerCorrupt | K::Session | K::Closed | K::Forked)
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
            // A handler has answered, or there was none.
            Detail::Worker(_) => Some(self.kind() == ErrorKind::Worker),
            _ => self.0.begun,
        }
    }

    /// The last 4096 bytes that the worker logged, lossily decoded, if it has a log: when it is
    /// dead, or did not attach.
    #[must_use]
    pub fn log_tail(&self) -> Option<&str> {
        match &self.0.detail {
            Detail::Death(death) => death.log_tail.as_deref(),
            _ => self.0.log_tail.as_deref(),
        }
    }

    fn source_kind(&self) -> Option<io::ErrorKind> {
        let source = std::error::Error::source(self)?;
        let kind = source.downcast_ref::<io::Error>().map(io::Error::kind);
        kind.filter(|kind| !matches!(kind, io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock))
    }

    /// What a handler reported, when the kind is [`ErrorKind::Worker`], or the builder of the
    /// session, when it is [`ErrorKind::Session`].
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
            Detail::Death(death) => write!(f, "{death}")?,
            Detail::Worker(failure) if self.kind() == ErrorKind::Session => {
                f.write_str("the worker could not build its session: ")?;
                failure.tell(f)?;
            }
            Detail::Worker(failure) => write!(f, "{failure}")?,
            Detail::None | Detail::TooLarge { .. } => one_line(f, &self.0.message)?,
        }
        if !f.alternate() {
            return Ok(());
        }
        let mut next = std::error::Error::source(self);
        while let Some(source) = next {
            f.write_str(": ")?;
            one_line(f, &source.to_string())?;
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

/// Writes text that may come from another process: a line break or an escape sequence in it
/// is shown, and does nothing.
fn one_line(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    if !text.contains(char::is_control) {
        return f.write_str(text);
    }
    text.chars().try_for_each(|c| match c {
        '\t' => f.write_char(c),
        c if c.is_control() => write!(f, "{}", c.escape_default()),
        c => f.write_char(c),
    })
}

fn write_log_tail(f: &mut fmt::Formatter<'_>, tail: Option<&str>) -> fmt::Result {
    match tail.map(str::trim_end) {
        Some(tail) if !tail.is_empty() => write!(f, "; the log ends:\n{tail}"),
        _ => Ok(()),
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
            // Not `Interrupted`, nor `WouldBlock`: after those, loops of std and of reactors try
            // again what will never succeed.
            K::Cancelled => io::ErrorKind::ConnectionAborted,
            K::Closed => io::ErrorKind::NotConnected,
            K::TooManyInFlight => io::ErrorKind::ResourceBusy,
            K::PeerDied => io::ErrorKind::BrokenPipe,
            K::Unsupported => io::ErrorKind::Unsupported,
            K::Spawn | K::Os => error.source_kind().unwrap_or(io::ErrorKind::Other),
            K::Worker | K::Session | K::Handshake | K::Forked => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// What a handler reported, which is the failure of one request, or the builder of a session.
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

impl WorkerFailure {
    fn tell(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        one_line(f, &self.type_name)?;
        for text in std::iter::once(&self.message).chain(&self.sources) {
            f.write_str(": ")?;
            one_line(f, text)?;
        }
        Ok(())
    }
}

impl fmt::Display for WorkerFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("worker failed: ")?;
        self.tell(f)
    }
}

#[cfg(test)]
mod tests;
