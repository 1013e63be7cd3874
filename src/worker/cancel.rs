//! What ends a request early: a cancel, the abort flag, the end of the worker.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::error::{Error, ErrorKind, Result};
use crate::id::RequestId;
use crate::link::WorkerWords;
use crate::ring::doorbell::Alarm;
use crate::sync::Ordering;
use crate::trace_context::TraceTable;
use crate::worker::stop_token::StopToken;

/// The words by which the parent speaks of requests that it has sent, and the stop token.
#[derive(Debug, Clone)]
pub(super) struct Signals {
    words: Arc<WorkerWords>,
    stop: Arc<StopToken>,
}

impl Signals {
    pub(super) fn new(words: Arc<WorkerWords>, stop: Arc<StopToken>) -> Self {
        Self { words, stop }
    }

    /// Whether the parent has cancelled or dropped this request.
    #[inline]
    pub(super) fn is_request_cancelled(&self, request: u64) -> bool {
        self.words.requests.is_cancelled(request)
    }

    #[inline]
    pub(super) fn is_aborted(&self) -> bool {
        is_abort_set(&self.words)
    }

    /// Whether a handler of this request should return, for whatever reason.
    #[inline]
    pub(super) fn is_cancelled(&self, request: u64) -> bool {
        self.is_request_cancelled(request) || self.is_aborted() || self.is_stopping()
    }

    /// Returns [`ErrorKind::Cancelled`] if [`Signals::is_cancelled`].
    #[inline]
    pub(super) fn check(&self, request: u64) -> Result<()> {
        if self.is_cancelled(request) { Err(cancelled(request)) } else { Ok(()) }
    }

    #[inline]
    pub(super) fn is_stopping(&self) -> bool {
        self.stop.is_set()
    }

    #[inline]
    pub(super) fn check_stop(&self) -> Result<()> {
        self.stop.check()
    }

    /// The traces that requests are part of.
    pub(super) fn traces(&self) -> &TraceTable {
        &self.words.traces
    }

    /// Has everything of this worker that waits give up: the worker is over.
    pub(super) fn stop(&self) {
        self.stop.set();
    }

    /// Returns the alarm that is raised when the worker is to end. A cancel rings the bell.
    #[inline]
    pub(super) fn alarm(&self) -> &Alarm {
        &self.stop.alarm
    }

    /// Returns how many bytes of a stream its reader has consumed.
    #[inline]
    pub(super) fn credit(&self, request: u64) -> u64 {
        self.words.requests.credit(request)
    }

    /// Tells the parent at which credit of this request the worker is to be woken; zero if it
    /// does not wait.
    pub(super) fn announce_credit(&self, request: u64, needed: u64) {
        self.words.report.marks.await_credit(request, needed);
    }
}

#[inline]
fn is_abort_set(words: &WorkerWords) -> bool {
    words.abort.load(Ordering::Acquire) != 0
}

/// Tells whether one request is cancelled, for code that cannot borrow the
/// [`Request`](crate::worker::Request): another thread, or an object of another language.
///
/// A token may be kept for as long as is needed, also when its request has been answered or its
/// worker has ended. Once a request has been answered its token does not change by itself: it
/// says what the parent says, which has nothing to cancel any more.
///
/// [`Request::cancel_token`](crate::worker::Request::cancel_token) makes it, and has an example.
#[derive(Clone)]
pub struct CancelToken {
    signals: Signals,
    request: u64,
}

impl CancelToken {
    pub(super) fn new(signals: &Signals, request: u64) -> Self {
        Self { signals: signals.clone(), request }
    }

    /// Returns the request that the token belongs to.
    #[must_use]
    pub fn request(&self) -> RequestId {
        RequestId::new(self.request)
    }

    /// Returns whether the work for the request should end: see
    /// [`Request::is_cancelled`](crate::worker::Request::is_cancelled). Costs a few nanoseconds
    /// and never blocks.
    #[must_use]
    #[inline]
    pub fn is_cancelled(&self) -> bool {
        self.signals.is_cancelled(self.request)
    }

    /// Returns an error if [`CancelToken::is_cancelled`], for use with `?`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Cancelled`]. A handler that returns this error ends its request as cancelled.
    #[inline]
    pub fn check(&self) -> Result<()> {
        self.signals.check(self.request)
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_cancelled = self.is_cancelled();
        f.debug_struct("CancelToken")
            .field("request", &self.request)
            .field("is_cancelled", &is_cancelled)
            .finish()
    }
}

/// Tells whether the parent has set the abort flag of the channel, without a request at hand: in
/// the builder of the session, or on another thread of the worker.
///
/// [`Worker::abort_flag`](crate::worker::Worker::abort_flag) connects a flag to a worker. Before
/// the worker has attached, the flag is not set. Clones are the same flag.
///
/// ```
/// # fn main() -> slipring::Result<()> {
/// use std::time::Duration;
/// use slipring::worker::{AbortFlag, Worker};
/// use slipring::{Config, Kind, RoleConfig, testing};
///
/// let flag = AbortFlag::new();
/// let seen = flag.clone();
/// let make = move || {
///     Worker::new(|_role| Ok(()))
///         .abort_flag(&seen)
///         .on(Kind::app(0), |_, _, responder| Ok(responder.send("attached")?))
/// };
/// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
/// channel.call(Kind::app(0), "", Duration::from_secs(10))?;
/// assert!(!flag.is_set());
/// channel.abort();
/// assert!(flag.is_set());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct AbortFlag(Arc<OnceLock<Arc<WorkerWords>>>);

impl AbortFlag {
    /// Makes a flag that belongs to no worker yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns whether the flag is set. Costs a few nanoseconds and never blocks.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.get().is_some_and(|words| is_abort_set(words))
    }

    pub(super) fn connect(&self, signals: &Signals) {
        // If another worker has the flag already, it stays that worker's.
        let _ = self.0.set(Arc::clone(&signals.words));
    }
}

impl fmt::Debug for AbortFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AbortFlag").field(&self.is_set()).finish()
    }
}

/// The error that a handler gets of its own request. Its source tells it from the error of a
/// request on another channel, whose parent the handler is.
#[cold]
pub(super) fn cancelled(request: u64) -> Error {
    let message = format!("request {request} is cancelled");
    Error::with_source(ErrorKind::Cancelled, message, CancelledRequest(request))
}

/// A request of this worker's whose result is not wanted any more.
#[derive(Debug)]
pub(super) struct CancelledRequest(pub(super) u64);

impl fmt::Display for CancelledRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the parent cancelled it, or the worker is to end")
    }
}

impl std::error::Error for CancelledRequest {}
