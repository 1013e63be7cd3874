//! A stream of a role: that of one worker, sent again as long as nothing has come of it.

use super::attempts::Attempts;
use super::role::{Permit, RoleShared};
use crate::channel::{Reply, Stream, StreamDeadlines, StreamTimeouts};
use crate::error::{ErrorKind, Result};
use crate::id::RequestId;
use crate::payload::Payload;
use crate::protocol::Kind;
use crate::sys::clock::now_ns;

/// The chunks of a request to a role. Dropping it cancels the request.
///
/// If the worker dies before a chunk was delivered, the request is sent again as that of a call is.
/// After the first chunk it is not.
#[derive(Debug)]
#[must_use = "a stream that is dropped is cancelled"]
pub struct PoolStream<'a, P: ?Sized> {
    stream: Option<Stream>,
    permit: Option<Permit<&'a RoleShared>>,
    attempts: Attempts<&'a RoleShared>,
    kind: Kind,
    payload: &'a P,
    deadlines: StreamDeadlines,
    has_delivered: bool,
}

impl<'a, P: Payload + ?Sized> PoolStream<'a, P> {
    pub(super) fn begin(
        attempts: Attempts<&'a RoleShared>,
        kind: Kind,
        payload: &'a P,
        timeouts: StreamTimeouts,
    ) -> Result<Self> {
        let deadlines = timeouts.start();
        let (stream, permit, has_delivered) = (None, None, false);
        let mut this = Self { stream, permit, attempts, kind, payload, deadlines, has_delivered };
        this.send()?;
        Ok(this)
    }

    /// Gets a worker and sends the request to it.
    fn send(&mut self) -> Result<()> {
        let deadline = self.deadlines.send_by();
        loop {
            let permit = self.attempts.acquire(now_ns(), deadline);
            let permit = permit.map_err(|error| self.deadlines.sending_failed(error))?;
            let channel = permit.worker.channel_in_use();
            let sent = channel.and_then(|it| it.stream_by(self.kind, self.payload, self.deadlines));
            match sent {
                Ok(stream) => {
                    if !self.attempts.note_sent(&permit.worker, stream.id()) {
                        stream.cancel();
                    }
                    (self.stream, self.permit) = (Some(stream), Some(permit));
                    return Ok(());
                }
                Err(error) => self.attempts.failed(permit, None, error, false, deadline)?,
            }
        }
    }

    /// Returns the next chunk, `None` at the end: as [`Stream::next_chunk`]. Blocks as that does,
    /// and while the request waits for another worker.
    ///
    /// # Errors
    ///
    /// As [`Stream::next_chunk`], and if the request is to be sent again as
    /// [`RoleHandle::call`](super::RoleHandle::call).
    pub fn next_chunk(&mut self) -> Result<Option<Reply>> {
        loop {
            let Some(stream) = &mut self.stream else { return Ok(None) };
            match stream.next_chunk() {
                Ok(Some(chunk)) => {
                    self.has_delivered = true;
                    return Ok(Some(chunk));
                }
                Ok(None) => {
                    self.end();
                    return self.attempts.over(Ok(None));
                }
                // The host's own hook ended the wait, and the stream goes on.
                Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
                Err(error) => {
                    let id = stream.id();
                    self.stream = None;
                    let Some(permit) = self.permit.take() else { return Err(error) };
                    let later = self.deadlines.put_off_queue(permit.held_ns());
                    let (has_delivered, deadline) = (self.has_delivered, later.send_by());
                    self.attempts.failed(permit, Some(id), error, has_delivered, deadline)?;
                    if self.attempts.was_begun() {
                        self.deadlines = later;
                    }
                    self.send()?;
                }
            }
        }
    }

    /// Returns the request's id: as [`PoolPending::id`](super::PoolPending::id).
    #[must_use]
    pub fn id(&self) -> RequestId {
        RequestId::new(self.attempts.number())
    }

    /// Cancels the stream, without waiting. A worker that has it is asked to end it, as by
    /// [`Stream::cancel`]. The request is not sent again, and waits for no worker any more:
    /// [`PoolStream::next_chunk`] then returns
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled). From another thread:
    /// [`RoleHandle::cancel`](super::RoleHandle::cancel).
    pub fn cancel(&self) {
        self.attempts.cancel();
    }

    fn end(&mut self) {
        self.stream = None;
        self.permit = None;
        self.attempts.note_ended();
    }
}

impl<P: ?Sized> Drop for PoolStream<'_, P> {
    fn drop(&mut self) {
        // The worker may be at it for a while.
        if let (Some(stream), Some(permit)) = (self.stream.take(), self.permit.take()) {
            let id = stream.id();
            drop(stream);
            permit.linger(id);
        }
    }
}

impl<P: Payload + ?Sized> Iterator for PoolStream<'_, P> {
    type Item = Result<Reply>;

    /// As [`PoolStream::next_chunk`]. After an error there is nothing more.
    fn next(&mut self) -> Option<Self::Item> {
        self.next_chunk().transpose()
    }
}
