//! Requests to workers.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use slipring::backend::BackendRequest;
use slipring::{Error, Reply, RequestId, Result, StreamTimeout, StreamTimeouts};
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::connection::{Connection, Shared};
use super::exchange::{Asked, Exchange, HEAD};
use super::patience::Patience;
use crate::proto;
use crate::wire::error::{empty_piece, malformed, not_whole, timed_out, too_large};
use crate::wire::message::{Pieces, head_of, reply_of};
use crate::wire::spare::Buffer;

/// How much longer than the gateway its caller waits, so that the gateway's own word on what has
/// passed arrives.
const GRACE: Duration = Duration::from_millis(50);

impl Connection {
    /// Sends a request to a worker of a role when the future is polled first, and awaits its reply.
    ///
    /// Cancel-safe: dropping the future cancels the request.
    ///
    /// # Errors
    ///
    /// Those of the role, as on the gateway's machine;
    /// [`ErrorKind::Disconnected`](slipring::ErrorKind::Disconnected) if the connection is lost.
    /// [`Error::was_begun`] is `Some(false)` then only if the request was surely not sent, or not
    /// looked at.
    pub fn call(
        &self,
        role: &str,
        request: BackendRequest,
        longest: Duration,
    ) -> impl Future<Output = Result<Reply>> + Send + use<> {
        let (shared, head) = (Arc::clone(self.shared()), head_of(role, &request, None));
        async move {
            let (progress, began) = (request.progress(), Instant::now());
            let answered = timeout(longest.saturating_add(GRACE), async {
                let place = shared.place().await;
                let (id, asked) = (shared.next_id(), Some(Asked::from(&request)));
                let pieces = Pieces::of_request(head, payload_of(request)?);
                let (left, most) = (left(longest, began), longest_message(&shared));
                let sent = Exchange::begin(&shared, "CallParts", left, pieces, asked, place, most);
                reply(&mut sent.await?, id).await
            });
            answered
                .await
                .unwrap_or_else(|_| Err(timed_out(&shared.peer, longest, progress.stage())))
        }
    }

    /// Sends a request to a worker of a role, and returns the stream of its chunks once it is sent.
    ///
    /// Cancel-safe: dropping the future, or the stream, cancels the request. A stream that is not
    /// read holds up its worker, and no other request.
    ///
    /// # Errors
    ///
    /// As [`Connection::call`].
    pub fn stream(
        &self,
        role: &str,
        request: BackendRequest,
        timeouts: StreamTimeouts,
    ) -> impl Future<Output = Result<Chunks>> + Send + use<> {
        let (shared, role) = (Arc::clone(self.shared()), role.to_owned());
        async move {
            let began = Instant::now();
            let (progress, total) = (request.progress(), timeouts.total_timeout());
            let longest = total.min(timeouts.queue_timeout());
            // From now on, and not for ever.
            let end =
                (total != Duration::MAX).then(|| Box::pin(sleep(total.saturating_add(GRACE))));
            let sent = timeout(longest, async {
                let place = shared.place().await;
                let (total, most) = (left(total, began), longest_message(&shared));
                let timeouts = timeouts.queue(left(timeouts.queue_timeout(), began));
                let head = head_of(&role, &request, Some(timeouts));
                let asked = Some(Asked::from(&request));
                let pieces = Pieces::of_request(head, payload_of(request)?);
                Exchange::begin(&shared, "StreamParts", total, pieces, asked, place, most).await
            });
            let sent = sent.await;
            let exchange =
                sent.unwrap_or_else(|_| Err(timed_out(&shared.peer, longest, progress.stage())))?;
            let timeouts = timeouts.queue(left(timeouts.queue_timeout(), began));
            let patience = Patience::begin(timeouts, shared.limits.piece_timeout);
            let (id, whole) = (shared.next_id(), Whole::default());
            Ok(Chunks {
                id,
                exchange,
                whole,
                end,
                total,
                patience,
                has_delivered: false,
                error: None,
            })
        }
    }
}

/// The chunks of a stream, in order, each exactly once: a `Stream` of `futures`. Dropping it cancels
/// the request.
#[must_use = "a stream that is dropped is cancelled"]
pub struct Chunks {
    id: RequestId,
    exchange: Exchange,
    whole: Whole,
    end: Option<Pin<Box<Sleep>>>,
    total: Duration,
    patience: Patience,
    has_delivered: bool,
    /// What is wrong with the next chunk.
    error: Option<Error>,
}

impl Chunks {
    /// Returns the next chunk, which is not the first, if it has come whole. `None` says nothing of what
    /// comes next.
    ///
    /// This needs no runtime: to enter one takes as long as all the rest of a short chunk.
    pub(super) fn take_arrived(&mut self) -> Option<Reply> {
        if !self.has_delivered {
            return None;
        }
        if self.whole.open.is_none() {
            let copy = |payload: &[u8]| Reply::copy_of(self.id, payload);
            if let Some(chunk) = self.exchange.use_short_chunk(copy) {
                return Some(chunk);
            }
        }
        let message = self.exchange.take_arrived()?;
        let chunk = self.whole.add(message, &self.exchange);
        let chunk = chunk.unwrap_or_else(|error| {
            self.error = Some(error);
            None
        });
        Some(Reply::from_owner(self.id, chunk?))
    }

    /// Ends the stream.
    fn give_up(&mut self) {
        (self.end, self.whole) = (None, Whole::default());
        self.exchange.give_up();
    }
}

impl futures_core::Stream for Chunks {
    type Item = Result<Reply>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(error) = this.error.take() {
                this.give_up();
                return Poll::Ready(Some(Err(error)));
            }
            let Poll::Ready(message) = this.exchange.poll_message(context) else {
                let end = this.end.as_mut().map(|end| end.as_mut().poll(context));
                let peer = &this.exchange.shared().peer;
                let error = if end.is_some_and(|end| end.is_ready()) {
                    let stage = this.exchange.was_begun().map(|_| slipring::RequestStage::Begun);
                    timed_out(peer, this.total, stage)
                } else {
                    let waits_for = match (this.exchange.was_begun(), this.has_delivered) {
                        (None, _) => StreamTimeout::Queue,
                        (_, false) => StreamTimeout::FirstChunk,
                        (_, true) => StreamTimeout::Chunk,
                    };
                    let moved = this.exchange.moved();
                    ready!(this.patience.poll(context, waits_for, moved, peer))
                };
                this.give_up();
                return Poll::Ready(Some(Err(error)));
            };
            let whole = match message {
                Ok(Some(message)) => this.whole.add(message, &this.exchange),
                Ok(None) if this.whole.open.is_some() => {
                    Err(not_whole(&this.exchange.shared().peer))
                }
                Ok(None) => return Poll::Ready(None),
                Err(error) => Err(error),
            };
            match whole {
                Ok(Some(chunk)) => {
                    this.has_delivered = true;
                    this.patience.pause();
                    return Poll::Ready(Some(Ok(Reply::from_owner(this.id, chunk))));
                }
                Ok(None) => {}
                Err(error) => {
                    this.give_up();
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}

impl fmt::Debug for Chunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunks").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Puts pieces together.
#[derive(Debug, Default)]
struct Whole {
    /// What came of a payload whose last piece did not.
    open: Option<Buffer>,
}

impl Whole {
    /// Adds a message. Returns the payload if it is whole now: that of one message without a copy.
    fn add(&mut self, message: Bytes, exchange: &Exchange) -> Result<Option<Bytes>> {
        let proto::Reply { more, payload } =
            reply_of(message).map_err(|error| malformed(&error, exchange.was_begun()))?;
        if !more && self.open.is_none() {
            return Ok(Some(payload));
        }
        if more && payload.is_empty() {
            return Err(empty_piece());
        }
        let mut open = self.open.take().unwrap_or_else(|| exchange.shared().spare.buffer());
        let limit = exchange.shared().limits.max_message;
        let len = open.len().saturating_add(payload.len());
        if len > limit {
            return Err(too_large(len, limit, true));
        }
        open.push(&payload);
        if !more {
            return Ok(Some(open.freeze()));
        }
        self.open = Some(open);
        Ok(None)
    }
}

/// Awaits the one reply to a call, and the status behind it.
async fn reply(exchange: &mut Exchange, id: RequestId) -> Result<Reply> {
    let mut whole = Whole::default();
    let mut reply = None;
    while let Some(message) = exchange.message().await? {
        if reply.is_some() {
            return Err(not_whole(&exchange.shared().peer));
        }
        reply = whole.add(message, exchange)?;
    }
    let reply = reply.ok_or_else(|| not_whole(&exchange.shared().peer))?;
    Ok(Reply::from_owner(id, reply))
}

/// What is left of a timeout. For ever stays for ever.
fn left(timeout: Duration, began: Instant) -> Duration {
    if timeout == Duration::MAX { timeout } else { timeout.saturating_sub(began.elapsed()) }
}

/// How long a message of an answer may be.
fn longest_message(shared: &Shared) -> usize {
    shared.limits.max_message.saturating_add(HEAD)
}

/// Returns the bytes of a payload: where they lie, if they lie in one part.
fn payload_of(request: BackendRequest) -> Result<Bytes> {
    if matches!(request.payload().as_parts(), Some([_, [], []])) {
        return Ok(Bytes::from_owner(InOnePart(request)));
    }
    let payload = request.payload();
    let encode = || match payload.as_parts() {
        Some(parts) => Ok(parts.concat()),
        None => {
            let mut bytes = vec![0; payload.encoded_len()];
            payload.encode(&mut bytes).map(|()| bytes)
        }
    };
    let encoded: Result<Vec<u8>, Error> = encode();
    encoded.map(Bytes::from)
}

/// A request whose payload is sent from where it lies.
struct InOnePart(BackendRequest);

impl AsRef<[u8]> for InOnePart {
    fn as_ref(&self) -> &[u8] {
        match self.0.payload().as_parts() {
            Some([bytes, ..]) => bytes,
            None => &[],
        }
    }
}
