//! All that an error says, as a message, and back.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use slipring::{
    AttemptEnd, DeathReport, EarlierAttempts, Error, ErrorKind, ErrorReport, ExitCause,
    HandlerFailure, Overload, RequestId, RequestStage, StreamTimeout,
};

use crate::proto::{self, exit_cause};

/// The longest report in bytes. In a header it is a third longer, and libraries of other languages
/// take headers of 8 KiB by default.
const LONGEST: usize = 5_600;
/// How long the texts of a report are at most, in bytes, before the rest is for the log.
const LONGEST_TEXT: usize = 400;
/// How many of the sources are kept, and of the sources that are reports themselves.
const MOST_SOURCES: usize = 4;
/// How many of the ends of earlier attempts are kept.
const MOST_ENDS: usize = 16;
/// How many errors of this library may be inside each other.
const MOST_NESTED: usize = 4;

/// Returns all that an error says, as a message that is not too long for a header. A death is one of
/// the machine `host`, unless it says another.
pub(crate) fn report_of(error: &Error, host: &str) -> proto::ErrorReport {
    let mut report = to_proto(error.report(), host, MOST_NESTED);
    let over = |report: &proto::ErrorReport| report.encoded_len().saturating_sub(LONGEST);
    // The least important first.
    if let Some(failure) = &mut report.failure {
        cut(&mut failure.backtrace, 2 * LONGEST_TEXT);
    }
    if over(&report) > 0 {
        report.source = None;
    }
    let excess = over(&report);
    if let (Some(log), 1..) = (&mut report.log_tail, excess) {
        cut_front(log, excess);
    }
    let excess = over(&report);
    let of_death = report.death.as_mut().and_then(|death| death.log_tail.as_mut());
    if let (Some(log), 1..) = (of_death, excess) {
        cut_front(log, excess);
    }
    report
}

/// Cuts the end off, and says so.
pub(crate) fn cut(text: &mut String, longest: usize) {
    if text.len() > longest {
        text.truncate(text.floor_char_boundary(longest.saturating_sub(3)));
        text.push_str("...");
    }
}

/// Cuts at least `excess` bytes off the front.
fn cut_front(text: &mut String, excess: usize) {
    let from = text.ceil_char_boundary(excess.min(text.len()));
    text.drain(..from);
}

fn short(mut text: String) -> String {
    cut(&mut text, LONGEST_TEXT);
    text
}

fn to_proto(report: ErrorReport, host: &str, nested: usize) -> proto::ErrorReport {
    let source = report.source.filter(|_| nested > 0);
    proto::ErrorReport {
        kind: signed(report.kind.code()),
        message: short(report.message),
        stage: report.stage.map(|stage| signed(stage.code())),
        sources: report.sources.into_iter().take(MOST_SOURCES).map(short).collect(),
        death: report.death.map(|death| death_to_proto(death, host)),
        failure: report.handler_failure.map(|failure| proto::HandlerFailure {
            type_name: short(failure.type_name),
            message: short(failure.message),
            sources: failure.sources.into_iter().take(MOST_SOURCES).map(short).collect(),
            backtrace: failure.backtrace,
        }),
        overload: report.overload.map(|overload| proto::Overload {
            queued: as_u64(overload.queued),
            limit: as_u64(overload.limit),
            in_flight: as_u64(overload.in_flight),
            oldest_wait_ns: nanos(overload.oldest_wait),
            retry_after_ns: nanos(overload.retry_after),
        }),
        stream_timeout: signed(report.stream_timeout.map_or(0, StreamTimeout::code)),
        too_large: report.length_and_limit.map(|(length, limit)| proto::TooLarge {
            length: as_u64(length),
            limit: as_u64(limit),
        }),
        earlier_attempts: report.earlier_attempts.map(|earlier| proto::EarlierAttempts {
            count: earlier.count,
            ends: earlier.ends.iter().take(MOST_ENDS).map(end_to_proto).collect(),
        }),
        log_tail: report.log_tail,
        source: source.map(|source| Box::new(to_proto(*source, host, nested - 1))),
    }
}

fn death_to_proto(death: DeathReport, host: &str) -> proto::WorkerDeath {
    proto::WorkerDeath {
        role: short(death.role),
        pid: death.pid,
        host: Some(short(death.host.unwrap_or_else(|| host.to_owned()))),
        cause: death.cause.map(cause_to_proto),
        request: death.request.map(RequestId::get),
        begun_requests: death.begun_requests.map(|requests| proto::BegunRequests {
            requests: requests.into_iter().take(64).map(RequestId::get).collect(),
        }),
        log_path: death
            .log_path
            .map(|path| Bytes::copy_from_slice(path.as_os_str().as_bytes()))
            .filter(|path| path.len() <= LONGEST_TEXT),
        log_tail: death.log_tail,
        is_oom_suspected: death.is_oom_suspected,
        stage: death.stage.map(|stage| signed(stage.code())),
    }
}

fn end_to_proto(end: &AttemptEnd) -> proto::AttemptEnd {
    proto::AttemptEnd {
        kind: signed(end.kind.code()),
        cause: end.cause.map(cause_to_proto),
        was_begun: end.was_begun,
    }
}

fn cause_to_proto(cause: ExitCause) -> proto::ExitCause {
    proto::ExitCause {
        cause: Some(match cause {
            ExitCause::Exited(code) => exit_cause::Cause::Exited(code),
            ExitCause::Signaled(number) => exit_cause::Cause::Signaled(number),
            _ => exit_cause::Cause::Unknown(true),
        }),
    }
}

/// Returns the report that a message has. What a newer version has added is left out.
pub(crate) fn from_proto(report: proto::ErrorReport) -> ErrorReport {
    let mut made = ErrorReport::new(ErrorKind::from_code(code(report.kind)), report.message);
    made.stage = report.stage.and_then(stage);
    made.death = report.death.map(death_from_proto);
    made.handler_failure = report.failure.map(|failure| {
        let mut made = HandlerFailure::default();
        made.type_name = failure.type_name;
        made.message = failure.message;
        made.sources = failure.sources;
        made.backtrace = failure.backtrace;
        made
    });
    made.overload = report.overload.map(|overload| {
        let mut made = Overload::default();
        made.queued = as_usize(overload.queued);
        made.limit = as_usize(overload.limit);
        made.in_flight = as_usize(overload.in_flight);
        made.oldest_wait = Duration::from_nanos(overload.oldest_wait_ns);
        made.retry_after = Duration::from_nanos(overload.retry_after_ns);
        made
    });
    made.stream_timeout = StreamTimeout::from_code(code(report.stream_timeout));
    made.length_and_limit = report.too_large.map(|it| (as_usize(it.length), as_usize(it.limit)));
    made.earlier_attempts = report.earlier_attempts.map(|earlier| {
        let mut made = EarlierAttempts::default();
        made.count = earlier.count;
        made.ends = earlier.ends.into_iter().map(end_from_proto).collect();
        made
    });
    made.log_tail = report.log_tail;
    made.source = report.source.map(|source| Box::new(from_proto(*source)));
    made.sources = report.sources;
    made
}

fn death_from_proto(death: proto::WorkerDeath) -> DeathReport {
    let mut made = DeathReport::default();
    made.role = death.role;
    made.pid = death.pid;
    made.host = death.host;
    made.cause = death.cause.and_then(cause_from_proto);
    made.request = death.request.map(RequestId::from);
    made.stage = death.stage.and_then(stage);
    made.begun_requests =
        death.begun_requests.map(|begun| begun.requests.into_iter().map(RequestId::from).collect());
    made.log_path = death.log_path.map(|path| OsString::from_vec(path.to_vec()).into());
    made.log_tail = death.log_tail;
    made.is_oom_suspected = death.is_oom_suspected;
    made
}

fn end_from_proto(end: proto::AttemptEnd) -> AttemptEnd {
    let cause = end.cause.and_then(cause_from_proto);
    AttemptEnd::new(ErrorKind::from_code(code(end.kind)), cause, end.was_begun)
}

fn cause_from_proto(cause: proto::ExitCause) -> Option<ExitCause> {
    Some(match cause.cause? {
        exit_cause::Cause::Exited(code) => ExitCause::Exited(code),
        exit_cause::Cause::Signaled(number) => ExitCause::Signaled(number),
        exit_cause::Cause::Unknown(_) => ExitCause::Unknown,
    })
}

fn stage(number: i32) -> Option<RequestStage> {
    RequestStage::from_code(code(number))
}

/// Enumerations of the wire are signed.
fn signed(code: u32) -> i32 {
    i32::try_from(code).unwrap_or(0)
}

fn code(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

fn as_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn as_usize(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn death() -> ErrorReport {
        let mut report = ErrorReport::new(ErrorKind::PeerDied, "it is not idempotent");
        let mut death = DeathReport::default();
        death.role = "embed".into();
        death.pid = 4711;
        death.cause = Some(ExitCause::Signaled(9));
        death.request = Some(RequestId::from(7));
        death.stage = Some(RequestStage::Begun);
        death.begun_requests = Some(vec![RequestId::from(7), RequestId::from(8)]);
        death.log_path = Some("/var/log/embed".into());
        death.log_tail = Some("loading\nout of luck\n".into());
        death.is_oom_suspected = true;
        report.stage = Some(RequestStage::Begun);
        report.death = Some(death);
        let mut earlier = EarlierAttempts::default();
        earlier.count = 1;
        earlier.ends = vec![AttemptEnd::new(ErrorKind::PeerDied, Some(ExitCause::Exited(3)), None)];
        report.earlier_attempts = Some(earlier);
        report
    }

    #[test]
    fn a_report_comes_back_as_it_went_and_a_death_says_its_host() {
        let mut failed = ErrorReport::new(ErrorKind::HandlerFailed, "");
        let mut failure = HandlerFailure::default();
        failure.type_name = "NoModel".into();
        failure.message = "none".into();
        failure.sources = vec!["no file".into()];
        failed.handler_failure = Some(failure);
        let mut overloaded = ErrorReport::new(ErrorKind::Overloaded, "full");
        let mut overload = Overload::default();
        overload.queued = 3;
        overload.retry_after = Duration::from_millis(5);
        overloaded.overload = Some(overload);
        let mut stalled = ErrorReport::new(ErrorKind::Stalled, "no chunk");
        stalled.stream_timeout = Some(StreamTimeout::FirstChunk);
        let mut large = ErrorReport::new(ErrorKind::TooLarge, "long");
        large.length_and_limit = Some((9, 8));
        let mut poison = ErrorReport::new(ErrorKind::Poison, "twice");
        poison.source = Some(Box::new(death()));
        for report in [death(), failed, overloaded, stalled, large, poison] {
            let error = Error::from_report(report);
            let message = report_of(&error, "gpu-1").encode_to_vec();
            let message = proto::ErrorReport::decode(&message[..]).unwrap();
            let mut back = Error::from_report(from_proto(message)).report();
            for report in [Some(&mut back.death), back.source.as_mut().map(|it| &mut it.death)] {
                if let Some(Some(death)) = report {
                    assert_eq!(death.host.take().as_deref(), Some("gpu-1"));
                }
            }
            assert_eq!(back, error.report());
        }
    }

    #[test]
    fn a_long_report_fits_a_header_and_keeps_the_end_of_the_log() {
        let mut report = death();
        report.message = "ä".repeat(5_000);
        report.sources = vec!["s".repeat(5_000); 40];
        report.source = Some(Box::new(death()));
        report.death.as_mut().unwrap().log_tail = Some(format!("{}the end", "ö".repeat(4_000)));
        // Such an error comes from a gateway that is not this one.
        report.log_tail = Some("x".repeat(9_000));
        let mut earlier = EarlierAttempts::default();
        earlier.ends = vec![AttemptEnd::new(ErrorKind::PeerDied, None, Some(false)); 5_000];
        report.earlier_attempts = Some(earlier);
        let message = report_of(&Error::from_report(report), "gpu-1");
        assert!(message.encoded_len() <= LONGEST + 8, "{}", message.encoded_len());
        let log = message.death.unwrap().log_tail.unwrap();
        assert!(log.len() > 2_000 && log.ends_with("the end"), "{}", log.len());
    }

    #[test]
    fn a_log_of_4096_bytes_is_whole() {
        let mut report = death();
        report.death.as_mut().unwrap().log_tail = Some("l".repeat(4_096));
        let message = report_of(&Error::from_report(report), "gpu-1");
        assert_eq!(message.death.unwrap().log_tail.unwrap().len(), 4_096);
    }

    #[test]
    fn numbers_of_a_newer_peer_are_taken() {
        let message = proto::ErrorReport {
            kind: 4_000,
            stage: Some(77),
            stream_timeout: -1,
            ..proto::ErrorReport::default()
        };
        let report = from_proto(message);
        assert_eq!((report.kind, report.stage), (ErrorKind::Unknown, None));
        assert_eq!(report.stream_timeout, None);
    }
}
