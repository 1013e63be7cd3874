//! A request of a task's, over all its attempts.

use std::time::Duration;

use super::attempts::Attempts;
use super::role::{Permit, RoleRef};
use crate::channel::Reply;
use crate::error::Result;
use crate::id::RequestId;
use crate::payload::Payload;
use crate::protocol::Kind;
use crate::sys::clock::{Deadline, TimeLimit};
use crate::tasks::requests;

/// A request `T` that a worker has. Dropping it cancels it; the worker is given back when it is
/// done with it.
#[derive(Debug)]
pub(super) struct Running<R: RoleRef, T> {
    parts: Option<(T, Permit<R>)>,
    id: RequestId,
}

impl<R: RoleRef, T> Running<R, T> {
    pub(super) fn new(id: RequestId, request: T, permit: Permit<R>) -> Self {
        Self { parts: Some((request, permit)), id }
    }

    pub(super) fn request(&mut self) -> Option<&mut T> {
        self.parts.as_mut().map(|(request, _)| request)
    }

    /// The request has ended. Returns its worker.
    pub(super) fn end(mut self) -> Option<(RequestId, Permit<R>)> {
        self.parts.take().map(|(_, permit)| (self.id, permit))
    }
}

impl<R: RoleRef, T> Drop for Running<R, T> {
    fn drop(&mut self) {
        if let Some((request, permit)) = self.parts.take() {
            drop(request);
            permit.linger(self.id);
        }
    }
}

/// Sends a request and awaits its reply, over all attempts.
///
/// Dropped in any state, the request is over: it leaves the queue, or it is cancelled and its worker
/// given back.
pub(super) async fn call<R: RoleRef, P: Payload + ?Sized>(
    mut attempts: Attempts<R>,
    kind: Kind,
    payload: &P,
    now: u64,
    deadline: Deadline,
) -> Result<Reply> {
    loop {
        let permit = attempts.acquire_async(now, deadline).await?;
        let limit = TimeLimit::begin(deadline.remaining());
        let sent = match permit.worker.core_for_tasks() {
            Ok(core) => requests::submit(core, kind, payload, limit, Duration::ZERO).await,
            Err(error) => Err(error),
        };
        let (permit, id, error) = match sent {
            Ok(pending) => {
                let mut running = Running::new(pending.id(), pending, permit);
                let Some(pending) = running.request() else { continue };
                let answer = pending.await;
                let Some((id, permit)) = running.end() else { continue };
                match answer {
                    Ok(reply) => return attempts.over(Ok(reply)),
                    Err(error) => (permit, Some(id), error),
                }
            }
            Err(error) => (permit, None, error),
        };
        attempts.failed_async(permit, id, error, false, deadline).await?;
    }
}
