//! Requests that tasks make.

use std::sync::Arc;
use std::time::Duration;

use crate::channel::{Core, Pending, RequestSpec, Stream, StreamDeadlines};
use crate::error::Result;
use crate::id::RequestId;
use crate::payload::Payload;
use crate::protocol::Kind;
use crate::sys::clock::TimeLimit;
use crate::tasks::send;
use crate::tasks::wait::{AsyncPending, AsyncStream};
use crate::trace_context::TraceContext;

/// Sends a request whose reply is awaited later. `note_part` is told of one of which only a part was
/// sent so far.
pub(crate) async fn submit<P: Payload + ?Sized>(
    core: &Arc<Core>,
    (kind, trace): (Kind, Option<&TraceContext>),
    payload: &P,
    limit: TimeLimit,
    spin: Duration,
    note_part: impl FnMut(RequestId),
) -> Result<AsyncPending> {
    let deadline = limit.deadline();
    let spec = RequestSpec::call(kind, deadline);
    let request = send::send(core, (spec, trace), payload, deadline, note_part).await?;
    Ok(AsyncPending::new(Pending::new(Arc::clone(core), request, limit), spin))
}

/// Sends a request whose chunks are awaited. `note_part` is told as that of [`submit`].
pub(crate) async fn stream<P: Payload + ?Sized>(
    core: &Arc<Core>,
    (kind, trace): (Kind, Option<&TraceContext>),
    payload: &P,
    deadlines: StreamDeadlines,
    spin: Duration,
    note_part: impl FnMut(RequestId),
) -> Result<AsyncStream> {
    let spec = RequestSpec::stream(kind, deadlines.end_by);
    let request = send::send(core, (spec, trace), payload, deadlines.send_by(), note_part).await;
    let request = request.map_err(|error| deadlines.sending_failed(error))?;
    Ok(AsyncStream::new(Stream::new(Arc::clone(core), request, deadlines), spin))
}
