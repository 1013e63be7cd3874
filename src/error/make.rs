//! How errors are made, and what is added to them on their way to the caller.

use std::borrow::Cow;
use std::io;
use std::str::Utf8Error;
use std::sync::Arc;

use super::{
    Detail, EarlierAttempts, Error, ErrorKind, HandlerFailure, Overload, ReportPlace, Repr,
    RequestStage, Source, StreamTimeout, WorkerDeath,
};

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self::build(kind, message.into(), Detail::None, None)
    }

    pub(crate) fn os(what: impl Into<Cow<'static, str>>, source: io::Error) -> Self {
        Self::with_source(ErrorKind::Os, what, source)
    }

    pub(crate) fn with_source(
        kind: ErrorKind,
        message: impl Into<Cow<'static, str>>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::build(kind, message.into(), Detail::None, Some(source.into().into()))
    }

    /// Makes an [`ErrorKind::InvalidPayload`], for implementations of
    /// [`Payload`](crate::payload::Payload) and [`Source`](crate::payload::Source): a value
    /// cannot be encoded, or bytes do not decode. The message should name what is wrong and what
    /// would be right.
    ///
    /// ```
    /// let error = slipring::Error::invalid_payload("an image of 0 bytes");
    /// assert_eq!(error.kind(), slipring::ErrorKind::InvalidPayload);
    /// ```
    #[must_use]
    pub fn invalid_payload(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::InvalidPayload, message)
    }

    /// Makes an [`ErrorKind::Spawn`], for the recipe of a pool's [role](crate::pool::Role::new) that
    /// cannot make a spawner. What went wrong is the [`source`](std::error::Error::source).
    ///
    /// ```
    /// use slipring::{Error, ErrorKind, Spawner, pool::Role};
    ///
    /// let role = Role::new(|worker| {
    ///     let program = std::fs::read_to_string("worker.conf").map_err(Error::spawn_failed)?;
    ///     Ok(Spawner::program(program).role(worker.role.as_str()))
    /// });
    /// # let _ = role;
    /// assert_eq!(Error::spawn_failed("no device is free").kind(), ErrorKind::Spawn);
    /// ```
    #[must_use]
    pub fn spawn_failed(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::with_source(ErrorKind::Spawn, "the worker could not be described", source)
    }

    /// Makes an [`ErrorKind::Disconnected`], for implementations of `backend::Backend` (feature
    /// `async`). The message should name the other host. `was_begun` is what
    /// [`Error::was_begun`] returns.
    ///
    /// ```
    /// let error = slipring::Error::disconnected("cannot connect to gpu-2:7000", Some(false));
    /// assert_eq!(error.kind(), slipring::ErrorKind::Disconnected);
    /// assert_eq!(error.was_begun(), Some(false));
    /// ```
    #[cold]
    #[must_use]
    pub fn disconnected(message: impl Into<Cow<'static, str>>, was_begun: Option<bool>) -> Self {
        let error = Self::new(ErrorKind::Disconnected, message);
        match was_begun {
            Some(was_begun) => error.with_begun(was_begun),
            None => error,
        }
    }

    #[cold]
    pub(crate) fn invalid_config(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::InvalidConfig, message)
    }

    #[cold]
    pub(crate) fn mismatch(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Mismatch, message)
    }

    /// Makes the error of a payload of `len` bytes that is not text.
    #[cold]
    pub(crate) fn not_utf8(len: usize, error: Utf8Error) -> Self {
        let at = error.valid_up_to();
        let message = format!("a payload of {len} bytes is not UTF-8 from byte {at} on");
        Self::with_source(ErrorKind::InvalidPayload, message, error)
    }

    pub(crate) fn too_large(len: usize, cap: usize, option: &str) -> Self {
        let message = format!("payload of {len} bytes is over the cap of {cap} bytes; {option}");
        let detail = Detail::TooLarge { len, cap };
        Self::build(ErrorKind::TooLarge, message.into(), detail, None)
    }

    pub(crate) fn handler_failed(failure: HandlerFailure, was_begun: bool) -> Self {
        let detail = Detail::Handler(failure);
        Self::build(ErrorKind::HandlerFailed, Cow::Borrowed(""), detail, None).with_begun(was_begun)
    }

    pub(crate) fn session_failure(failure: HandlerFailure) -> Self {
        let detail = Detail::Handler(failure);
        Self::build(ErrorKind::Session, Cow::Borrowed(""), detail, None).with_begun(false)
    }

    pub(crate) fn peer_died(death: WorkerDeath) -> Self {
        Self::build(ErrorKind::PeerDied, Cow::Borrowed(""), Detail::Death(death), None)
    }

    pub(crate) fn overloaded(role: &str, overload: Overload) -> Self {
        let message = format!("role {role} is overloaded: {overload}");
        let detail = Detail::Overload(overload);
        Self::build(ErrorKind::Overloaded, message.into(), detail, None).with_begun(false)
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
        Self(Arc::new(Repr {
            kind,
            message,
            detail,
            source,
            stage: None,
            log_tail: None,
            part_sent: None,
            earlier: None,
            crash_report: None,
        }))
    }

    /// Adds the end of the worker's log. Only before the error is cloned.
    pub(crate) fn with_log_tail(mut self, tail: Option<String>) -> Self {
        if let Some(repr) = Arc::get_mut(&mut self.0) {
            repr.log_tail = tail;
        }
        self
    }

    /// Adds where the crash report of the worker will be. A death has it already.
    pub(crate) fn with_crash_report(mut self, place: ReportPlace) -> Self {
        if self.death().is_none() {
            Arc::make_mut(&mut self.0).crash_report = Some(place);
        }
        self
    }

    /// Adds how often the request was sent before, and how that ended.
    pub(crate) fn with_earlier_attempts(mut self, earlier: EarlierAttempts) -> Self {
        Arc::make_mut(&mut self.0).earlier = Some(Box::new(earlier));
        self
    }

    /// Adds to the end of the message, such as why the request is not sent again.
    pub(crate) fn with_note(mut self, note: &str) -> Self {
        let message = &mut Arc::make_mut(&mut self.0).message;
        let before = if message.is_empty() { "" } else { "; " };
        *message = format!("{message}{before}{note}").into();
        self
    }

    /// Adds whether a handler had begun the request. Only before the error is cloned.
    pub(crate) fn with_begun(mut self, begun: bool) -> Self {
        if let Some(repr) = Arc::get_mut(&mut self.0) {
            repr.stage = Some(if begun { RequestStage::Begun } else { RequestStage::Queued });
        }
        self
    }

    /// Adds the request that the worker's death ended. Other errors stay as they are.
    pub(crate) fn with_request(self, request: u64) -> Self {
        match &self.0.detail {
            Detail::Death(death) => {
                Self::peer_died(WorkerDeath { request: Some(request), ..death.clone() })
            }
            _ => self,
        }
    }

    /// Adds the request of which a part was sent, and the rest will not be.
    pub(crate) fn with_part_sent(mut self, request: u64) -> Self {
        Arc::make_mut(&mut self.0).part_sent = Some(request);
        self
    }

    /// Adds which timeout of a stream has passed. Only before the error is cloned.
    pub(crate) fn with_stream_timeout(mut self, which: StreamTimeout) -> Self {
        if let Some(repr) = Arc::get_mut(&mut self.0) {
            repr.detail = Detail::StreamTimeout(which);
        }
        self
    }
}
