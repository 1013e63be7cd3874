//! Errors as statuses of gRPC, and back.

use std::time::Duration;

use http::HeaderMap;
use prost::Message;
use slipring::{Error, ErrorKind, ErrorReport, RequestStage};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

pub(crate) use super::report::report_of;
use super::report::{cut, from_proto};
use crate::proto;

/// The trailer that has all that an error says.
const REPORT: &str = "slipring-error-bin";
/// The longest message of a status, in bytes.
const LONGEST_MESSAGE: usize = 512;

/// Returns the code that tells other tools roughly what happened.
///
/// Some of them send a request again after `UNAVAILABLE`, so that only errors of requests that were
/// surely not begun have it.
fn code_of(error: &Error) -> Code {
    let unless_begun = match error.was_begun() {
        Some(false) => Code::Unavailable,
        _ => Code::Aborted,
    };
    match error.kind() {
        ErrorKind::InvalidInput | ErrorKind::InvalidPayload => Code::InvalidArgument,
        ErrorKind::TooLarge | ErrorKind::Overloaded | ErrorKind::TooManyInFlight => {
            Code::ResourceExhausted
        }
        ErrorKind::Timeout | ErrorKind::Stalled | ErrorKind::QueueTimeout => Code::DeadlineExceeded,
        ErrorKind::Cancelled => Code::Cancelled,
        ErrorKind::PeerDied
        | ErrorKind::PeerCorrupt
        | ErrorKind::Closed
        | ErrorKind::Degraded
        | ErrorKind::Disconnected
        | ErrorKind::Session => unless_begun,
        ErrorKind::HandlerFailed => Code::Unknown,
        ErrorKind::Unsupported => Code::Unimplemented,
        _ => Code::Internal,
    }
}

/// Returns the status that tells a remote of an error of the machine `host`.
pub(crate) fn status_of(error: &Error, host: &str) -> Status {
    let mut message = error.to_string();
    cut(&mut message, LONGEST_MESSAGE);
    let report = report_of(error, host).encode_to_vec();
    let mut metadata = MetadataMap::new();
    metadata.insert_bin(REPORT, MetadataValue::from_bytes(&report));
    Status::with_metadata(code_of(error), message, metadata)
}

/// Returns the status that headers tell of, if they do.
pub(crate) fn status_in(headers: &HeaderMap) -> Option<Status> {
    /// Not used here; tonic panics at one that does not decode.
    const DETAILS: &str = "grpc-status-details-bin";
    if !headers.contains_key(DETAILS) {
        return Status::from_header_map(headers);
    }
    let mut headers = headers.clone();
    headers.remove(DETAILS);
    Status::from_header_map(&headers)
}

/// Returns the error that a gateway's status tells of. `peer` is the gateway.
pub(crate) fn error_of(status: &Status, peer: &str) -> Error {
    let report = status.metadata().get_bin(REPORT).and_then(|report| report.to_bytes().ok());
    if let Some(report) = report.and_then(|report| proto::ErrorReport::decode(report).ok()) {
        return Error::from_report(from_proto(report));
    }
    // Something between here and the gateway has answered, or the gateway did not understand.
    let kind = match status.code() {
        Code::Unavailable | Code::Aborted => ErrorKind::Disconnected,
        Code::DeadlineExceeded => ErrorKind::Timeout,
        Code::Cancelled => ErrorKind::Cancelled,
        Code::InvalidArgument | Code::NotFound => ErrorKind::InvalidInput,
        Code::Unimplemented => ErrorKind::Unsupported,
        _ => ErrorKind::Protocol,
    };
    let (code, text) = (status.code(), status.message());
    Error::from_report(ErrorReport::new(kind, format!("{peer} answered {code:?}: {text}")))
}

/// Returns the error of a request that was seen begun, whatever it says of that itself.
pub(crate) fn begun(error: Error) -> Error {
    if error.was_begun() == Some(true) {
        return error;
    }
    let mut report = error.report();
    report.stage = Some(RequestStage::Begun);
    if let Some(death) = &mut report.death {
        death.stage = report.stage;
    }
    Error::from_report(report)
}

/// Makes an error of which it is known, or not, whether the request was begun.
fn make(kind: ErrorKind, message: String, was_begun: Option<bool>) -> Error {
    let mut report = ErrorReport::new(kind, message);
    report.stage = was_begun.map(|begun| match begun {
        true => RequestStage::Begun,
        false => RequestStage::Queued,
    });
    Error::from_report(report)
}

/// The connection to another host is lost, or cannot be made.
#[cold]
pub(crate) fn disconnected(message: String, was_begun: Option<bool>) -> Error {
    make(ErrorKind::Disconnected, message, was_begun)
}

/// The gateway takes no more requests. Others may.
#[cold]
pub(crate) fn draining(host: &str) -> Error {
    let message = format!("the gateway of {host} takes no more requests: it ends");
    make(ErrorKind::Disconnected, message, Some(false))
}

/// A request is not what the service takes, or has not come whole. No worker has seen it.
#[cold]
pub(crate) fn refused(kind: ErrorKind, message: impl Into<String>) -> Error {
    make(kind, message.into(), Some(false))
}

/// A payload is longer than the other side takes, or this one.
#[cold]
pub(crate) fn too_large(len: usize, limit: usize, was_begun: bool) -> Error {
    let mut report = ErrorReport::new(
        ErrorKind::TooLarge,
        format!(
            "payload of {len} bytes is over the cap of {limit} bytes; raise Limits::max_message, \
             or a gateway's --max-message"
        ),
    );
    report.length_and_limit = Some((len, limit));
    report.stage = Some(if was_begun { RequestStage::Begun } else { RequestStage::Queued });
    Error::from_report(report)
}

/// The deadline has passed before the gateway said so.
#[cold]
pub(crate) fn timed_out(peer: &str, longest: Duration, stage: Option<RequestStage>) -> Error {
    let message = format!("no answer of {peer} within {longest:?}");
    // What was sent may be begun later.
    let was_begun = match stage {
        Some(RequestStage::Begun) => Some(true),
        Some(RequestStage::Queued) => Some(false),
        _ => None,
    };
    make(ErrorKind::Timeout, message, was_begun)
}

/// The gateway has no room for more bytes of requests and answers.
#[cold]
pub(crate) fn out_of_memory(host: &str, limit: usize, was_begun: bool) -> Error {
    let what = if was_begun { "the answer" } else { "the request" };
    let message = format!(
        "the gateway of {host} has no room for {what}: it keeps at most {limit} bytes that are on \
         their way; raise GatewayBuilder::max_buffered, or its --max-buffered"
    );
    make(ErrorKind::Overloaded, message, Some(was_begun))
}

/// The reader of an answer has taken no part of it for too long.
#[cold]
pub(crate) fn not_taken(longest: Duration) -> Error {
    let message = format!("no part of the answer was taken for {longest:?}");
    make(ErrorKind::Timeout, message, Some(true))
}

/// The reader of an answer has not read it in time.
#[cold]
pub(crate) fn not_read(longest: Duration) -> Error {
    make(ErrorKind::Timeout, format!("the answer was not read within {longest:?}"), Some(true))
}

/// The answer is not what a gateway sends.
#[cold]
pub(crate) fn unexpected(message: String, was_begun: Option<bool>) -> Error {
    make(ErrorKind::Protocol, message, was_begun)
}

/// A message is not what the service says.
#[cold]
pub(crate) fn malformed(error: &prost::DecodeError, was_begun: Option<bool>) -> Error {
    make(ErrorKind::Protocol, format!("an answer does not decode: {error}"), was_begun)
}

/// A piece of an answer that says that more follow, and is none.
#[cold]
pub(crate) fn empty_piece() -> Error {
    make(ErrorKind::Protocol, "a piece of an answer has no payload".to_owned(), Some(true))
}

/// The answer has not as many messages as it should.
#[cold]
pub(crate) fn not_whole(peer: &str) -> Error {
    make(ErrorKind::Protocol, format!("the answer of {peer} is not one whole reply"), Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_comes_back_whole_through_headers() {
        let mut report = ErrorReport::new(ErrorKind::Timeout, "zwölf\nTakte");
        report.stage = Some(RequestStage::Taken);
        report.sources = vec!["a source".into(), "and its own".into()];
        let error = Error::from_report(report);
        let mut headers = http::HeaderMap::new();
        status_of(&error, "gpu-1").add_header(&mut headers).unwrap();
        let status = Status::from_header_map(&headers).unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(error_of(&status, "gpu-1:7000").report(), error.report());
    }

    #[test]
    fn only_what_was_surely_not_begun_is_unavailable() {
        for (was_begun, code) in
            [(Some(false), Code::Unavailable), (None, Code::Aborted), (Some(true), Code::Aborted)]
        {
            let error = disconnected("gone".into(), was_begun);
            assert_eq!((error.was_begun(), code_of(&error)), (was_begun, code));
        }
    }

    #[test]
    fn a_status_without_a_report_is_an_error_of_which_nothing_is_known() {
        let error = error_of(&Status::unavailable("no healthy upstream"), "proxy:80");
        assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Disconnected, None));
    }
}
