//! A request of a task's, over all its attempts.

#[cfg(feature = "async")]
use std::sync::Arc;
use std::time::Duration;

use super::attempts::{Attempts, Destination};
use super::permit::{Permit, Return};
use super::role::RoleRef;
use crate::channel::Observer;
use crate::channel::Reply;
use crate::error::{Error, Result};
use crate::id::RequestId;
use crate::payload::Payload;
use crate::protocol::Kind;
use crate::sys::clock::{Deadline, TimeLimit};
#[cfg(feature = "async")]
use crate::tasks::AsyncMessageWriter;
use crate::tasks::{AsyncPending, requests};

/// A request `T` that a worker has. Dropping it cancels it; the worker is given back when it is
/// done with it.
#[derive(Debug)]
pub(super) struct Running<R: RoleRef, T> {
    // It is dropped before its worker is given back.
    pub(super) request: T,
    permit: Permit<R>,
    id: RequestId,
}

impl<R: RoleRef, T> Running<R, T> {
    pub(super) fn new(id: RequestId, request: T, mut permit: Permit<R>) -> Self {
        permit.set_lingering(Some(id));
        Self { request, permit, id }
    }

    /// The request has ended. Returns its worker.
    pub(super) fn end(mut self) -> (RequestId, Permit<R>) {
        self.permit.set_lingering(None);
        (self.id, self.permit)
    }
}

/// Sends a request and awaits its reply, over all attempts.
///
/// Dropped in any state, the request is over: it leaves the queue, or it is cancelled and its worker
/// given back.
#[cfg_attr(
    not(feature = "async"),
    allow(clippy::infallible_destructuring_match, reason = "there are other destinations")
)]
pub(super) async fn call<R: RoleRef, P: Payload + ?Sized>(
    mut attempts: Attempts<R>,
    kind: Kind,
    payload: &P,
    now: u64,
    deadline: Deadline,
    observer: Observer,
) -> Result<Reply> {
    loop {
        let destination = attempts.acquire_async(now, deadline).await;
        let mut permit = match destination.inspect_err(|error| observer.note_failure(error))? {
            Destination::Worker(permit) => permit,
            #[cfg(feature = "async")]
            Destination::Elsewhere(departure) => {
                let answer = match attempts.request_elsewhere(payload, observer.progress()) {
                    Ok(request) => departure.call(request, deadline.remaining()).await,
                    Err(error) => Err(error),
                };
                match attempts.come_back(answer)? {
                    Some(reply) => return attempts.over(Ok(reply)),
                    None => continue,
                }
            }
        };
        let limit = TimeLimit::begin(deadline.remaining());
        let sent = match permit.worker.core_for_tasks() {
            Ok(core) => {
                let note_part = |id| {
                    permit.return_by = Return::Worker(id);
                    observer.note_sent(permit.worker.channel(), id);
                };
                let traced = (kind, attempts.trace());
                requests::submit(core, traced, payload, limit, Duration::ZERO, note_part).await
            }
            Err(error) => Err(error),
        };
        let (permit, id, error) = match sent {
            Ok(pending) => {
                observer.note_sent(permit.worker.channel(), pending.id());
                match answer(pending, permit).await {
                    Ok(reply) => {
                        observer.note_answer();
                        return attempts.over(Ok(reply));
                    }
                    Err((permit, id, error)) => (permit, Some(id), error),
                }
            }
            Err(error) => (permit, None, error),
        };
        let kept = error.clone();
        let again = attempts.failed_async(permit, id, error, false, deadline).await;
        observer.note_failure(again.as_ref().err().unwrap_or(&kept));
        again?;
    }
}

/// Sends a message that `write` writes in parts and awaits its reply, as
/// [`RoleHandle::write`](super::RoleHandle::write) does.
///
/// Dropped in any state, the request is over: as that of [`call`].
#[cfg(feature = "async")]
pub(super) async fn write<R: RoleRef>(
    attempts: Attempts<R>,
    kind: Kind,
    now: u64,
    deadline: Deadline,
    write: impl AsyncFnOnce(&mut AsyncMessageWriter<'_>) -> Result<()>,
) -> Result<Reply> {
    let mut attempts = attempts.stay();
    let (permit, id, error) = loop {
        let mut permit = attempts.acquire_worker_async(now, deadline).await?;
        let worker = Arc::clone(&permit.worker);
        let begun = match worker.core_for_tasks() {
            Ok(core) => {
                let left = deadline.remaining();
                let begun = AsyncMessageWriter::begin(core, kind, left, Duration::ZERO).await;
                begun.map(|writer| match attempts.trace() {
                    None => writer,
                    Some(trace) => writer.traced(trace),
                })
            }
            Err(error) => Err(error),
        };
        let mut writer = match begun {
            Ok(writer) => writer,
            Err(error) => {
                attempts.failed_async(permit, None, error, false, deadline).await?;
                continue;
            }
        };
        // Whatever ends the writing, also that this is dropped: the worker may be at the part that
        // was sent.
        permit.set_lingering(Some(writer.id()));
        let sent = match write(&mut writer).await {
            Ok(()) => writer.finish().await,
            Err(error) => Err(error),
        };
        match sent {
            Ok(pending) => match answer(pending, permit).await {
                Ok(reply) => return attempts.over(Ok(reply)),
                Err((permit, id, error)) => break (permit, Some(id), error),
            },
            Err(error) => break (permit, None, error),
        }
    };
    // It cannot be written again.
    let kept = error.clone();
    attempts.failed_async(permit, id, error, true, deadline).await?;
    attempts.over(Err(kept))
}

/// Awaits the reply of an attempt. An error is that of the attempt, with its worker.
async fn answer<R: RoleRef>(
    pending: AsyncPending,
    permit: Permit<R>,
) -> Result<Reply, (Permit<R>, RequestId, Error)> {
    let mut running = Running::new(pending.id(), pending, permit);
    let answer = (&mut running.request).await;
    let (id, permit) = running.end();
    answer.map_err(|error| (permit, id, error))
}
