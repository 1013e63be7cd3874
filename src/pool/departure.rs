//! A request on its way to workers that are not the role's own.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::overflow::{CancelElsewhere, ChunksElsewhere, Overflow};
use super::role::RoleRef;
use crate::backend::BackendRequest;
use crate::channel::{Reply, StreamDeadlines};
use crate::error::Result;
use crate::sys::fork;

/// A request that was told to leave. The role counts it as one that the load of the others does not
/// have yet, until it was sent to them or this is dropped.
#[derive(Debug)]
pub(super) struct Departure<R: RoleRef> {
    role: R,
    others: Overflow,
    cancel: Arc<CancelElsewhere>,
    is_counted: bool,
}

impl<R: RoleRef> Departure<R> {
    pub(super) fn new(role: R, others: Overflow, cancel: Arc<CancelElsewhere>) -> Self {
        Self { role, others, cancel, is_counted: false }
    }

    /// Sends the request, and awaits its reply. Dropped before its end, the request is cancelled.
    pub(super) async fn call(
        mut self,
        request: BackendRequest,
        timeout: Duration,
    ) -> Result<Reply> {
        let mut answer = self.others.backend().call(request, timeout);
        poll_fn(|context| {
            if let Some(error) = self.cancel.ended_or_wakes(context.waker(), &self.role.name) {
                return Poll::Ready(Err(error));
            }
            let answer = answer.as_mut().poll(context);
            self.note_counted();
            answer
        })
        .await
    }

    /// Sends the request for the stream of its chunks.
    pub(super) async fn stream(
        mut self,
        request: BackendRequest,
        deadlines: &StreamDeadlines,
    ) -> Result<ChunksElsewhere> {
        let opening = self.others.backend().stream(request, deadlines.left());
        let (others, cancel) = (self.others.clone(), Arc::clone(&self.cancel));
        let mut chunks = ChunksElsewhere::new(opening, others, cancel, &self.role.name);
        poll_fn(|context| {
            let opened = chunks.poll_open(context);
            self.note_counted();
            opened
        })
        .await?;
        Ok(chunks)
    }

    /// As [`Departure::call`], and blocks. Nothing is sent if this thread must not wait for the reply.
    pub(super) fn call_here(self, request: BackendRequest, timeout: Duration) -> Result<Reply> {
        let others = self.others.clone();
        others.block_on(self.call(request, timeout)).map_err(|error| error.with_begun(false))?
    }

    /// As [`Departure::stream`], and blocks. Nothing is sent if this thread must not wait for it.
    pub(super) fn stream_here(
        self,
        request: BackendRequest,
        deadlines: &StreamDeadlines,
    ) -> Result<ChunksElsewhere> {
        let others = self.others.clone();
        others.block_on(self.stream(request, deadlines)).map_err(|error| error.with_begun(false))?
    }

    fn note_counted(&mut self) {
        if !std::mem::replace(&mut self.is_counted, true) && !fork::is_forked_child() {
            self.role.change(|scheduler| scheduler.note_counted());
        }
    }
}

impl<R: RoleRef> Drop for Departure<R> {
    fn drop(&mut self) {
        self.note_counted();
    }
}
