//! What an error says, as plain data.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use super::{
    Detail, EarlierAttempts, EndOfService, Error, ErrorKind, ExitCause, HandlerFailure, Overload,
    ReportPlace, Repr, RequestStage, Source, StreamTimeout, WorkerDeath,
};
use crate::id::RequestId;

/// How many sources of an error are kept: no error of this library has so many.
const MOST_SOURCES: usize = 32;

/// All that an [`Error`] says, as plain data, for a message to another host: from [`Error::report`],
/// and back by [`Error::from_report`].
///
/// What is not known yet of a worker's death stays so: see [`WorkerDeath`].
///
/// ```
/// use slipring::{Error, ErrorKind, ErrorReport};
///
/// let error = Error::invalid_payload("an image of 0 bytes");
/// let mut report: ErrorReport = error.report();
/// assert_eq!((report.kind, report.message.as_str()), (error.kind(), "an image of 0 bytes"));
/// assert_eq!(Error::from_report(report.clone()).to_string(), error.to_string());
///
/// report = ErrorReport::new(ErrorKind::Disconnected, "gpu-2 does not answer");
/// report.sources.push("connection reset by peer".into());
/// let error = Error::from_report(report);
/// assert_eq!(format!("{error:#}"), "gpu-2 does not answer: connection reset by peer");
/// assert_eq!(error.was_begun(), None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ErrorReport {
    /// What happened.
    pub kind: ErrorKind,
    /// The message. For a death or a failure of a handler what is added to these, mostly nothing.
    pub message: String,
    /// How far the worker was with the request; `None` if that is not known: [`Error::stage`].
    pub stage: Option<RequestStage>,
    /// The worker's end: [`Error::death`].
    pub death: Option<DeathReport>,
    /// What a handler reported: [`Error::handler_failure`].
    pub handler_failure: Option<HandlerFailure>,
    /// How full a role of a pool was: [`Error::overload`].
    pub overload: Option<Overload>,
    /// Which timeout of a stream has passed: [`Error::stream_timeout`].
    pub stream_timeout: Option<StreamTimeout>,
    /// A payload's length and the longest that is allowed, in bytes: [`Error::length_and_limit`].
    pub length_and_limit: Option<(usize, usize)>,
    /// How the request was sent before: [`Error::earlier_attempts`].
    pub earlier_attempts: Option<EarlierAttempts>,
    /// The end of a worker's log, for an error without a `death`: [`Error::log_tail`].
    pub log_tail: Option<String>,
    /// The path of the worker's crash report, for an error without a `death`: [`Error::crash_report`].
    pub crash_report: Option<PathBuf>,
    /// The source, if it is an error of this library, such as the death that a
    /// [`Poison`](ErrorKind::Poison) tells of.
    pub source: Option<Box<ErrorReport>>,
    /// The texts of other sources, the nearest first; not used if `source` is there.
    pub sources: Vec<String>,
}

/// What is known about the end of a worker, as plain data: of an [`ErrorReport`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct DeathReport {
    /// The worker's role.
    pub role: String,
    /// The worker's process id, on its own host.
    pub pid: u32,
    /// The worker's host; `None` for this machine. A report of [`Error::report`] has it only if the
    /// error came from another host: the sender of a message sets its own name.
    pub host: Option<String>,
    /// How the worker ended; `None` if that was not known.
    pub cause: Option<ExitCause>,
    /// The request that the error ended, by the number that the worker knows.
    pub request: Option<RequestId>,
    /// How far the worker was with that request; `None` if that was not known.
    pub stage: Option<RequestStage>,
    /// All requests that the worker was serving, in the order in which they were begun; `None` if they
    /// were not known.
    pub begun_requests: Option<Vec<RequestId>>,
    /// The path of the worker's log, on its own host.
    pub log_path: Option<PathBuf>,
    /// The end of that log.
    pub log_tail: Option<String>,
    /// The path of the worker's crash report, on its own host: [`WorkerDeath::crash_report`].
    pub crash_report: Option<PathBuf>,
    /// Whether the kernel has probably ended the worker for want of memory.
    pub is_oom_suspected: bool,
}

impl ErrorReport {
    /// Makes the report of an error of which nothing else is known.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            stage: None,
            death: None,
            handler_failure: None,
            overload: None,
            stream_timeout: None,
            length_and_limit: None,
            earlier_attempts: None,
            log_tail: None,
            crash_report: None,
            source: None,
            sources: Vec::new(),
        }
    }
}

impl Error {
    /// Returns all that the error says, as plain data. [`ErrorReport`] has an example.
    #[must_use]
    pub fn report(&self) -> ErrorReport {
        let source = std::error::Error::source(self);
        let own_source = source.and_then(|source| source.downcast_ref::<Self>());
        let others = source.filter(|_| own_source.is_none());
        let mut message = self.0.message.to_string();
        if let Some(why) = self.report_place().and_then(|place| place.failure()) {
            let before = if message.is_empty() { "" } else { "; " };
            message.push_str(&format!("{before}no crash report: {why}"));
        }
        ErrorReport {
            stage: self.stage(),
            death: self.death().map(DeathReport::of),
            handler_failure: self.handler_failure().cloned(),
            overload: self.overload(),
            stream_timeout: self.stream_timeout(),
            length_and_limit: self.length_and_limit(),
            earlier_attempts: self.earlier_attempts().cloned(),
            log_tail: self.0.log_tail.clone(),
            crash_report: self.crash_report().filter(|_| self.death().is_none()).map(Into::into),
            source: own_source.map(|source| Box::new(source.report())),
            sources: std::iter::successors(others, |source| source.source())
                .take(MOST_SOURCES)
                .map(ToString::to_string)
                .collect(),
            ..ErrorReport::new(self.kind(), message)
        }
    }

    /// Makes the error of a report. It says what the error said of which the report was made: all
    /// methods return the same, and `{}` and `{:#}` write the same. The sources that are not errors of
    /// this library are those of before in their texts alone.
    ///
    /// Never fails. Of a death, a handler's failure and what else belongs to one kind of error, the
    /// first that is there counts, in the order of the report's fields. At most 32 sources are kept.
    #[must_use]
    pub fn from_report(report: ErrorReport) -> Self {
        Self::from_nested(report, MOST_SOURCES)
    }

    /// As [`Error::from_report`], with so many sources at most.
    fn from_nested(report: ErrorReport, sources: usize) -> Self {
        let source = match (report.source, sources.checked_sub(1)) {
            (_, None) => None,
            (Some(source), Some(left)) => {
                let source: Source = Arc::new(Self::from_nested(*source, left));
                Some(source)
            }
            (None, _) => SourceText::chain(report.sources, sources),
        };
        let detail = if let Some(death) = report.death {
            Detail::Death(death.into())
        } else if let Some(failure) = report.handler_failure {
            Detail::Handler(failure)
        } else if let Some(overload) = report.overload {
            Detail::Overload(overload)
        } else if let Some(which) = report.stream_timeout {
            Detail::StreamTimeout(which)
        } else if let Some((len, cap)) = report.length_and_limit {
            Detail::TooLarge { len, cap }
        } else {
            Detail::None
        };
        Self(Arc::new(Repr {
            kind: report.kind,
            message: report.message.into(),
            detail,
            source,
            stage: report.stage,
            log_tail: report.log_tail,
            earlier: report.earlier_attempts.map(Box::new),
            part_sent: None,
            crash_report: report.crash_report.map(ReportPlace::written),
        }))
    }
}

impl DeathReport {
    fn of(death: &WorkerDeath) -> Self {
        // First: what depends on it may become known meanwhile.
        let cause = death.cause();
        let begun_requests = death.known_begun_requests().filter(|_| cause.is_some());
        let is_known = begun_requests.is_some() || death.request().is_none();
        Self {
            role: death.role.clone(),
            pid: death.pid,
            host: death.host.clone(),
            cause,
            request: death.request(),
            stage: death.stage().filter(|_| is_known),
            begun_requests,
            log_path: death.log_path.clone(),
            log_tail: death.log_tail.clone(),
            crash_report: death.crash_report().map(Into::into),
            is_oom_suspected: death.is_oom_suspected() && cause.is_some(),
        }
    }
}

impl From<DeathReport> for WorkerDeath {
    fn from(report: DeathReport) -> Self {
        let request = report.request.map(RequestId::get);
        let end_of_service =
            EndOfService::told(request, report.stage, report.begun_requests.as_deref());
        Self {
            role: report.role,
            pid: report.pid,
            host: report.host,
            request,
            log_path: report.log_path,
            log_tail: report.log_tail,
            status: Arc::new(report.cause.map_or_else(OnceLock::new, OnceLock::from)),
            oom_suspected: Arc::new(OnceLock::from(report.is_oom_suspected)),
            end_of_service: Arc::new(end_of_service),
            crash_report: report.crash_report.map(ReportPlace::written),
        }
    }
}

/// The text of a source, and the next one.
#[derive(Debug)]
struct SourceText {
    text: String,
    source: Option<Source>,
}

impl SourceText {
    fn chain(texts: Vec<String>, most: usize) -> Option<Source> {
        let texts = texts.into_iter().take(most).collect::<Vec<_>>();
        texts.into_iter().rev().fold(None, |source, text| {
            let text: Source = Arc::new(Self { text, source });
            Some(text)
        })
    }
}

impl fmt::Display for SourceText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for SourceText {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let source: &(dyn std::error::Error + 'static) = self.source.as_deref()?;
        Some(source)
    }
}
