//! The messages of timeouts: what the worker does, and what holds the rings.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::channel::core::Core;
use crate::channel::turn::end_turn;
use crate::error::{Error, ErrorKind, RequestStage, StreamTimeout};

/// What the worker does and what holds the reply ring: for a timeout of the request `own`, or
/// of one that found no room.
#[cold]
pub(crate) fn describe_worker(core: &Core, own: Option<u64>) -> String {
    let mut text =
        core.status.describe(own, |request| core.pending.requests().is_open_stream(request));
    let Some(turn) = core.receiver.try_turn() else { return text };
    let (holders, bytes) = turn.holders();
    end_turn(core, turn);
    if !holders.is_empty() {
        let count = holders.len();
        let requests: BTreeSet<u64> = holders.into_iter().collect();
        let shown: Vec<String> = requests.iter().take(4).map(u64::to_string).collect();
        text.push_str(&format!(
            "; {count} leases that are still held, of requests {}, hold {bytes} bytes of the \
             reply ring",
            shown.join(", ")
        ));
    }
    text
}

/// No reply has come within the timeout.
#[cold]
pub(crate) fn timed_out(core: &Core, request: u64, after: Duration) -> Error {
    let busy = describe_worker(core, Some(request));
    let message = format!("request {request} timed out after {after:?}; {busy}");
    with_stage(core, request, Error::new(ErrorKind::Timeout, message))
}

/// The error, which says that the request was begun if it was. If it was not it can still be, until
/// the worker finds it cancelled.
pub(super) fn with_stage(core: &Core, request: u64, error: Error) -> Error {
    match core.status.stage(request) {
        RequestStage::Begun => error.with_begun(true),
        RequestStage::Queued | RequestStage::Taken => error,
    }
}

/// The worker found the deadline of the request passed when its turn came.
#[cold]
pub(crate) fn expired(request: u64, after: Duration) -> Error {
    let message = format!(
        "request {request} timed out after {after:?}: its turn came later, and the worker has \
         not begun it"
    );
    Error::new(ErrorKind::Timeout, message).with_begun(false)
}

/// The same of a stream.
#[cold]
pub(crate) fn stream_expired(request: u64, after: Duration) -> Error {
    expired(request, after).with_stream_timeout(StreamTimeout::Total)
}

/// The request ring had no room within the timeout. `Outgoing::ended_by` adds whether the request
/// was begun.
#[cold]
pub(crate) fn ring_full(core: &Core, len: usize) -> Error {
    let in_flight = core.sender.in_flight();
    let busy = describe_worker(core, None);
    let message = format!(
        "no room for {len} bytes in the request ring within the timeout, {in_flight} bytes are in \
         flight; {busy}"
    );
    Error::new(ErrorKind::Timeout, message)
}

/// The turn to send a long message did not come within the timeout.
#[cold]
pub(crate) fn no_turn() -> Error {
    let message = "another long message was on its way during the whole timeout";
    Error::new(ErrorKind::Timeout, message).with_begun(false)
}

/// A stream got no chunk within the timeout of its first chunk or of a further one.
#[cold]
pub(crate) fn stalled(core: &Core, request: u64, after: Duration, which: StreamTimeout) -> Error {
    let what = match which {
        StreamTimeout::FirstChunk => "sent no first chunk within",
        _ => "delivered nothing for",
    };
    of_stream(core, request, which, &format!("the stream of request {request} {what} {after:?}"))
}

/// The worker did not begin a stream within its queue timeout.
#[cold]
pub(crate) fn not_begun(core: &Core, request: u64, after: Duration) -> Error {
    let what = format!("the worker did not begin the stream of request {request} within {after:?}");
    of_stream(core, request, StreamTimeout::Queue, &what)
}

/// A stream was not over within its total timeout.
#[cold]
pub(crate) fn not_over(core: &Core, request: u64, after: Duration) -> Error {
    let what = format!("the stream of request {request} was not over within {after:?}");
    of_stream(core, request, StreamTimeout::Total, &what)
}

fn of_stream(core: &Core, request: u64, which: StreamTimeout, what: &str) -> Error {
    let busy = describe_worker(core, Some(request));
    let error = Error::new(which.kind(), format!("{what}; {busy}"));
    with_stage(core, request, error).with_stream_timeout(which)
}

#[cold]
pub(crate) fn cancelled(request: u64) -> Error {
    Error::new(ErrorKind::Cancelled, format!("request {request} was cancelled"))
}
