//! Errors of requests that were sent to several gateways, or to none.

use slipring::{
    AttemptEnd, EarlierAttempts, Error, ErrorKind, ErrorReport, RequestStage, StreamTimeout,
};

use super::shared::Stage;

/// How many of the ends of earlier attempts are kept.
const KEPT: usize = 8;

/// What is known of a request over all its attempts.
#[derive(Debug, Default)]
pub(super) struct History {
    /// How often a worker has begun it, or may have.
    pub(super) begun: u32,
    was_seen_begun: bool,
    earlier: Option<EarlierAttempts>,
}

impl History {
    /// An attempt ended with this error; nothing was begun of it.
    pub(super) fn note_not_begun(&mut self, error: &Error) {
        // A gateway that has refused it, such as a full one, did not make an attempt.
        if error.kind() == ErrorKind::Disconnected {
            self.push(error);
        }
    }

    /// An attempt ended with this error; it was begun, or may have been.
    pub(super) fn note_begun(&mut self, error: &Error) {
        self.begun = self.begun.saturating_add(1);
        self.was_seen_begun |= error.was_begun() == Some(true);
    }

    /// Another attempt follows one that ended with this error.
    pub(super) fn push(&mut self, error: &Error) {
        let earlier = self.earlier.get_or_insert_default();
        earlier.count = earlier.count.saturating_add(1);
        if earlier.ends.len() == KEPT {
            earlier.ends.remove(0);
        }
        let cause = error.death().and_then(|death| death.cause());
        earlier.ends.push(AttemptEnd::new(error.kind(), cause, error.was_begun()));
    }

    /// Adds to the last error what it does not say: what became of the attempts before.
    pub(super) fn complete(&mut self, error: Error, note: Option<&str>) -> Error {
        if self.earlier.is_none() && self.begun == 0 && note.is_none() {
            return error;
        }
        let mut report = error.report();
        if let Some(note) = note {
            let before = if report.message.is_empty() { "" } else { "; " };
            report.message = format!("{}{before}{note}", report.message);
        }
        if self.was_seen_begun {
            report.stage = Some(RequestStage::Begun);
        } else if self.begun > 0 && report.stage != Some(RequestStage::Begun) {
            report.stage = None;
        }
        if let (Some(death), true) = (&mut report.death, self.was_seen_begun) {
            death.stage = Some(RequestStage::Begun);
        }
        if let Some(earlier) = self.earlier.take() {
            report.earlier_attempts = Some(earlier);
        }
        Error::from_report(report)
    }
}

/// A request that no gateway had, since they were not found, full or about to end.
pub(super) fn waited_too_long(
    role: &str,
    source: Option<&Error>,
    problem: Option<String>,
) -> Error {
    let message = format!("role {role}: the request waited too long for a gateway that takes it");
    let mut report = ErrorReport::new(ErrorKind::QueueTimeout, message);
    report.stage = Some(RequestStage::Queued);
    report.source = source.map(|source| Box::new(source.report()));
    if source.is_none() {
        report.sources.extend(problem);
    }
    Error::from_report(report)
}

/// A request that no gateway had, since none was connected.
pub(super) fn not_connected(role: &str, problem: Option<String>) -> Error {
    let message = format!("role {role}: no gateway is connected");
    let mut report = ErrorReport::new(ErrorKind::Disconnected, message);
    report.stage = Some(RequestStage::Queued);
    report.sources.extend(problem);
    Error::from_report(report)
}

/// Says which of a stream's timeouts has passed while it waited for a gateway.
pub(super) fn of_stream(error: Error, which: StreamTimeout) -> Error {
    if error.kind() != ErrorKind::QueueTimeout {
        return error;
    }
    let mut report = error.report();
    report.stream_timeout = Some(which);
    Error::from_report(report)
}

/// A request that goes round.
#[cold]
pub(super) fn passed_round(role: &str, hops: u32) -> Error {
    let message = format!(
        "role {role}: the request has come by {hops} machines, and none of them has workers for it"
    );
    let mut report = ErrorReport::new(ErrorKind::Unsupported, message);
    report.stage = Some(RequestStage::Queued);
    Error::from_report(report)
}

/// A thread that would wait for tasks which it, or no thread, runs.
#[cold]
pub(super) fn waits_for_itself(role: &str) -> Error {
    let message = format!(
        "role {role}: no other thread runs the tasks that this one would wait for. Use the async methods, \
         `spawn_blocking`, or a runtime for the role whose threads are others: `RemoteRoleBuilder::runtime`"
    );
    Error::from_report(ErrorReport::new(ErrorKind::InvalidInput, message))
}

pub(super) fn closed(role: &str, stage: Stage) -> Error {
    let why = match stage {
        Stage::ShutDown => "its runtime was shut down",
        _ => "its host sends no more requests to gateways",
    };
    let message = format!("role {role} is closed: {why}");
    let mut report = ErrorReport::new(ErrorKind::Closed, message);
    report.stage = Some(RequestStage::Queued);
    Error::from_report(report)
}

/// The error of a request whose connection was cut by a close that waited no longer.
pub(super) fn cut_by_close(role: &str, stage: Stage, error: &Error) -> Error {
    let mut report = closed(role, stage).report();
    report.stage = error.stage();
    report.source = Some(Box::new(error.report()));
    Error::from_report(report)
}

pub(super) fn close_timed_out(role: &str, left: usize) -> Error {
    let message = format!("role {role} was closed while {left} requests were not over");
    Error::from_report(ErrorReport::new(ErrorKind::Timeout, message))
}

pub(super) fn invalid_config(message: impl Into<String>) -> Error {
    Error::from_report(ErrorReport::new(ErrorKind::InvalidConfig, message))
}
