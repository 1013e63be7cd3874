//! A stream of a role, awaited.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use super::async_call::Running;
use super::attempts::{Attempts, Destination};
use super::overflow::ChunksElsewhere;
use super::permit::{Permit, Return};
use super::role::RoleShared;
use crate::backend::BatchChunks;
use crate::channel::Observer;
use crate::channel::{Reply, StreamDeadlines};
use crate::error::{Error, Result};
use crate::id::RequestId;
use crate::payload::SharedPayload;
use crate::protocol::Kind;
use crate::shm::bytes::PeerBytes;
use crate::sys::clock::{Deadline, now_ns};
use crate::tasks::{AsyncStream, requests};

/// The stream of one attempt.
type Sent = Running<Arc<RoleShared>, AsyncStream>;

/// The next attempt, on its way.
type Sending = Pin<Box<dyn Future<Output = Result<(At, Request)>> + Send>>;

/// Where an attempt is.
#[expect(clippy::large_enum_variant, reason = "the other one is rare")]
enum At {
    /// At a worker of the role's own.
    Worker(Sent),
    Elsewhere(ChunksElsewhere),
}

/// What each attempt sends.
pub(super) struct Request {
    pub(super) attempts: Attempts<Arc<RoleShared>>,
    pub(super) kind: Kind,
    /// It lies in memory.
    pub(super) payload: SharedPayload,
    pub(super) deadlines: StreamDeadlines,
    pub(super) observer: Observer,
}

impl Request {
    /// Gets a worker and sends the request to it.
    async fn send(mut self) -> Result<(At, Self)> {
        let deadline = self.deadlines.send_by();
        loop {
            let destination = self.attempts.acquire_async(now_ns(), deadline).await;
            let destination = destination.map_err(|error| self.deadlines.sending_failed(error));
            let destination = destination.inspect_err(|error| self.observer.note_failure(error))?;
            let mut permit = match destination {
                Destination::Worker(permit) => permit,
                Destination::Elsewhere(departure) => {
                    let request =
                        self.attempts.request_elsewhere(&*self.payload, self.observer.progress());
                    let chunks = match request {
                        Ok(request) => departure.stream(request, &self.deadlines).await,
                        Err(error) => Err(error),
                    };
                    match self.attempts.come_back(chunks)? {
                        Some(chunks) => return Ok((At::Elsewhere(chunks), self)),
                        None => continue,
                    }
                }
            };
            let (kind, payload, deadlines) = (self.kind, &*self.payload, self.deadlines);
            let sent = match permit.worker.core_for_tasks() {
                Ok(core) => {
                    let note_part = |id| {
                        permit.return_by = Return::Worker(id);
                        self.observer.note_sent(permit.worker.channel(), id);
                    };
                    let traced = (kind, self.attempts.trace());
                    requests::stream(core, traced, payload, deadlines, Duration::ZERO, note_part)
                        .await
                }
                Err(error) => Err(error),
            };
            match sent {
                Ok(stream) => {
                    self.observer.note_sent(permit.worker.channel(), stream.id());
                    if !self.attempts.note_sent(&permit.worker, stream.id()) {
                        stream.cancel();
                    }
                    return Ok((At::Worker(Running::new(stream.id(), stream, permit)), self));
                }
                Err(error) => self.failed_at(permit, None, error, false, deadline).await?,
            }
        }
    }

    /// An attempt has failed. Returns the error if the request is not sent again.
    async fn failed(&mut self, at: At, error: Error, has_delivered: bool) -> Result<()> {
        let (id, permit) = match at {
            At::Worker(sent) => sent.end(),
            At::Elsewhere(chunks) => {
                // The request has ended there.
                drop(chunks);
                if has_delivered {
                    self.attempts.end_away();
                    return self.attempts.over(Err(error));
                }
                return self.attempts.come_back::<()>(Err(error)).map(drop);
            }
        };
        let later = self.deadlines.put_off_queue(permit.held_ns());
        let deadline = later.send_by();
        self.failed_at(permit, Some(id), error, has_delivered, deadline).await?;
        if self.attempts.was_begun() {
            self.deadlines = later;
        }
        Ok(())
    }

    /// As [`Attempts::failed_async`].
    async fn failed_at(
        &mut self,
        permit: Permit<Arc<RoleShared>>,
        id: Option<RequestId>,
        error: Error,
        has_delivered: bool,
        deadline: Deadline,
    ) -> Result<()> {
        let kept = error.clone();
        let again = self.attempts.failed_async(permit, id, error, has_delivered, deadline).await;
        self.observer.note_failure(again.as_ref().err().unwrap_or(&kept));
        again
    }
}

/// The chunks of a request to a role, in order, each exactly once: a `Stream` of `futures`.
/// Dropping it cancels the request.
///
/// If the worker dies before a chunk was delivered, the request is sent again as that of a call is.
/// After the first chunk it is not. It has a copy of the payload for that.
#[must_use = "a stream that is dropped is cancelled"]
pub struct AsyncPoolStream {
    role: Weak<RoleShared>,
    number: u64,
    state: State,
}

enum State {
    /// Chunks are read, and the request may be sent again before the first.
    Reads(Box<Reads>),
    /// It is decided whether the request is sent again, and then it is.
    Sends(Sending),
    Over,
}

struct Reads {
    at: At,
    request: Request,
    /// The reader has got a chunk.
    has_delivered: bool,
}

impl State {
    fn reads((at, request): (At, Request)) -> Self {
        Self::Reads(Box::new(Reads { at, request, has_delivered: false }))
    }
}

impl At {
    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Reply>>> {
        match self {
            Self::Worker(sent) => sent.request.poll_chunk(context),
            Self::Elsewhere(chunks) => chunks.poll_chunk(context),
        }
    }
}

impl AsyncPoolStream {
    pub(super) async fn begin(request: Request) -> Result<Self> {
        let (role, number) = (request.attempts.role(), request.attempts.number());
        Ok(Self { role, number, state: State::reads(request.send().await?) })
    }

    /// Returns the request's id: as [`PoolPending::id`](super::PoolPending::id).
    #[must_use]
    pub fn id(&self) -> RequestId {
        RequestId::new(self.number)
    }

    /// Cancels the stream: as [`PoolStream::cancel`](super::PoolStream::cancel).
    pub fn cancel(&self) {
        if let Some(role) = self.role.upgrade() {
            role.cancels.cancel(self.number);
        }
    }

    /// Returns the next chunk, `None` at the end: as
    /// [`AsyncStream::next_chunk`](crate::tasks::AsyncStream::next_chunk). Waits meanwhile for
    /// another worker, too, if the request is sent again.
    ///
    /// Cancel-safe: dropped while it is awaited, no chunk is lost, and the next call goes on.
    ///
    /// # Errors
    ///
    /// As [`PoolStream::next_chunk`](super::PoolStream::next_chunk). After an error the stream is
    /// over.
    pub async fn next_chunk(&mut self) -> Result<Option<Reply>> {
        let awaited = Awaited(self);
        poll_fn(|context| awaited.0.poll_chunk(context)).await
    }

    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Reply>>> {
        loop {
            match &mut self.state {
                State::Over => return Poll::Ready(Ok(None)),
                State::Sends(sending) => match sending.as_mut().poll(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(sent)) => self.state = State::reads(sent),
                    Poll::Ready(Err(error)) => {
                        self.state = State::Over;
                        return Poll::Ready(Err(error));
                    }
                },
                State::Reads(reads) => {
                    let chunk = match reads.at.poll_chunk(context) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(chunk) => chunk,
                    };
                    match chunk {
                        Ok(Some(chunk)) => {
                            if !reads.has_delivered {
                                reads.request.observer.note_answer();
                            }
                            reads.has_delivered = true;
                            return Poll::Ready(Ok(Some(chunk)));
                        }
                        Ok(None) => {
                            self.end();
                            return Poll::Ready(Ok(None));
                        }
                        Err(error) => self.fail(error),
                    }
                }
            }
        }
    }

    /// The stream has ended, and its worker is free again.
    fn end(&mut self) {
        if let State::Reads(mut reads) = std::mem::replace(&mut self.state, State::Over) {
            reads.request.observer.note_answer();
            let _ = reads.request.attempts.over(Ok(()));
            match reads.at {
                At::Worker(sent) => drop(sent.end()),
                At::Elsewhere(chunks) => {
                    drop(chunks);
                    reads.request.attempts.end_away();
                }
            }
        }
    }

    /// An attempt has failed.
    fn fail(&mut self, error: Error) {
        if let State::Reads(reads) = std::mem::replace(&mut self.state, State::Over) {
            let Reads { at, mut request, has_delivered } = *reads;
            self.state = State::Sends(Box::pin(async move {
                request.failed(at, error, has_delivered).await?;
                request.send().await
            }));
        }
    }
}

/// A stream whose next chunk is awaited. Dropping this ends the wait, and so what counts towards
/// the chunk timeout.
struct Awaited<'a>(&'a mut AsyncPoolStream);

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        if let State::Reads(reads) = &mut self.0.state
            && let At::Worker(sent) = &mut reads.at
        {
            sent.request.end_wait();
        }
    }
}

impl futures_core::Stream for AsyncPoolStream {
    type Item = Result<Reply>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_chunk(context).map(Result::transpose)
    }
}

impl BatchChunks for AsyncPoolStream {
    fn take_ready(mut self: Pin<&mut Self>, take: &mut dyn FnMut(PeerBytes<'_>) -> bool) {
        // None can be the first, of which more is noted.
        if let State::Reads(reads) = &mut self.state
            && let At::Worker(sent) = &mut reads.at
            && reads.has_delivered
        {
            sent.request.take_ready(take);
        }
    }
}

impl fmt::Debug for AsyncPoolStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncPoolStream").field("number", &self.number).finish_non_exhaustive()
    }
}
