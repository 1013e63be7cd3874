//! A stream of a role: that of one worker, sent again as long as nothing has come of it.

use super::attempts::{Attempts, Destination};
#[cfg(feature = "async")]
use super::overflow::ChunksElsewhere;
use super::permit::Permit;
use super::role::RoleShared;
#[cfg(feature = "async")]
use crate::channel::Progress;
use crate::channel::{Reply, Stream, StreamDeadlines, StreamTimeouts};
use crate::error::{Error, ErrorKind, Result};
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
    at: At<'a>,
    attempts: Attempts<&'a RoleShared>,
    kind: Kind,
    payload: &'a P,
    deadlines: StreamDeadlines,
    has_delivered: bool,
}

/// Where its attempt is.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "the others are rare, or have ended")]
enum At<'a> {
    /// At a worker of the role's own.
    Worker(Stream, Permit<&'a RoleShared>),
    #[cfg(feature = "async")]
    Elsewhere(ChunksElsewhere),
    Over,
}

impl At<'_> {
    fn next_chunk(&mut self) -> Result<Option<Reply>> {
        match self {
            Self::Worker(stream, _) => stream.next_chunk(),
            #[cfg(feature = "async")]
            Self::Elsewhere(chunks) => chunks.next_chunk(),
            Self::Over => Ok(None),
        }
    }

    /// Whether only the wait has failed so, and the stream goes on.
    #[cold]
    fn goes_on(&self, error: &Error) -> bool {
        match self {
            #[cfg(feature = "async")]
            Self::Elsewhere(chunks) if chunks.must_not_wait() => true,
            // By the host's own hook.
            _ => error.kind() == ErrorKind::Interrupted,
        }
    }
}

impl<'a, P: Payload + ?Sized> PoolStream<'a, P> {
    pub(super) fn begin(
        attempts: Attempts<&'a RoleShared>,
        kind: Kind,
        payload: &'a P,
        timeouts: StreamTimeouts,
    ) -> Result<Self> {
        let deadlines = timeouts.start();
        let (at, has_delivered) = (At::Over, false);
        let mut this = Self { at, attempts, kind, payload, deadlines, has_delivered };
        this.send()?;
        Ok(this)
    }

    /// Gets a worker and sends the request to it.
    #[cfg_attr(
        not(feature = "async"),
        allow(clippy::infallible_destructuring_match, reason = "there are other destinations")
    )]
    fn send(&mut self) -> Result<()> {
        let deadline = self.deadlines.send_by();
        loop {
            let destination = self.attempts.acquire(now_ns(), deadline);
            let permit = match destination.map_err(|error| self.deadlines.sending_failed(error))? {
                Destination::Worker(permit) => permit,
                #[cfg(feature = "async")]
                Destination::Elsewhere(departure) => {
                    let request =
                        self.attempts.request_elsewhere(self.payload, Progress::default());
                    let chunks =
                        request.and_then(|request| departure.stream_here(request, &self.deadlines));
                    match self.attempts.come_back(chunks)? {
                        Some(chunks) => {
                            self.at = At::Elsewhere(chunks);
                            return Ok(());
                        }
                        None => continue,
                    }
                }
            };
            let channel = permit.worker.channel_in_use();
            let (kind, payload, deadlines) = (self.kind, self.payload, self.deadlines);
            let sent = channel.and_then(|channel| match self.attempts.trace() {
                None => channel.stream_by(kind, payload, deadlines),
                Some(trace) => channel.traced(trace).stream_by(kind, payload, deadlines),
            });
            match sent {
                Ok(stream) => {
                    if !self.attempts.note_sent(&permit.worker, stream.id()) {
                        stream.cancel();
                    }
                    self.at = At::Worker(stream, permit);
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
            match self.at.next_chunk() {
                Ok(Some(chunk)) => {
                    self.has_delivered = true;
                    return Ok(Some(chunk));
                }
                Ok(None) if matches!(self.at, At::Over) => return Ok(None),
                Ok(None) => {
                    self.end();
                    return self.attempts.over(Ok(None));
                }
                Err(error) if self.at.goes_on(&error) => return Err(error),
                Err(error) => {
                    let (id, permit) = match std::mem::replace(&mut self.at, At::Over) {
                        At::Worker(stream, permit) => (stream.id(), permit),
                        #[cfg(feature = "async")]
                        At::Elsewhere(chunks) if !self.has_delivered => {
                            drop(chunks);
                            self.attempts.come_back::<()>(Err(error))?;
                            self.send()?;
                            continue;
                        }
                        #[cfg(feature = "async")]
                        At::Elsewhere(chunks) => {
                            drop(chunks);
                            self.attempts.end_away();
                            return self.attempts.over(Err(error));
                        }
                        _ => return self.attempts.over(Err(error)),
                    };
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
        self.at = At::Over;
        #[cfg(feature = "async")]
        self.attempts.end_away();
        self.attempts.note_ended();
    }
}

impl<P: ?Sized> Drop for PoolStream<'_, P> {
    fn drop(&mut self) {
        // The worker may be at it for a while.
        if let At::Worker(stream, permit) = std::mem::replace(&mut self.at, At::Over) {
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
