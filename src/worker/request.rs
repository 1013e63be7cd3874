//! What a handler is asked.

use std::fmt;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::link::WorkerWords;
use crate::payload::Source;
use crate::protocol::Kind;
use crate::shm::bytes::PeerBytes;
use crate::sync::Ordering;
use crate::sys::clock::Deadline;
use crate::worker::stop::Stop;

/// One request. Its bytes lie in the ring until the handler returns, or in memory of
/// this process if they came as a chain of frames.
#[derive(Debug)]
pub struct Request<'a> {
    pub(super) kind: Kind,
    pub(super) id: u64,
    pub(super) is_stream: bool,
    pub(super) deadline: Deadline,
    pub(super) payload: PeerBytes<'a>,
    pub(super) words: &'a WorkerWords,
    pub(super) stop: &'a Stop,
}

impl<'a> Request<'a> {
    /// What is asked for.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The request's id, never used twice on a channel.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether the parent reads a stream of chunks, and not one result.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        self.is_stream
    }

    /// Payload length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.payload.len()
    }

    /// Whether the payload is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> PeerBytes<'a> {
        self.payload
    }

    /// A copy of the payload.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.payload.to_vec()
    }

    /// How long the parent still waits; [`Duration::MAX`] if for ever.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        self.deadline.remaining()
    }

    /// Whether the handler should give up: this request was cancelled, timed out or
    /// dropped, the channel's abort flag is set, or the worker is told to end. Costs a
    /// few nanoseconds and never blocks.
    #[must_use]
    #[inline]
    pub fn is_cancelled(&self) -> bool {
        is_cancelled(self.words, self.stop, self.id)
    }

    /// [`ErrorKind::Cancelled`] if [`Request::is_cancelled`], for use with `?`.
    ///
    /// # Errors
    ///
    /// As said.
    #[inline]
    pub fn check_cancelled(&self) -> Result<()> {
        if self.is_cancelled() { Err(cancelled(self.id)) } else { Ok(()) }
    }

    /// Whether the channel's abort flag is set.
    #[must_use]
    #[inline]
    pub fn is_aborted(&self) -> bool {
        self.words.abort.load(Ordering::Acquire) != 0
    }

    /// Publishes a number that the parent sees in the worker's health.
    pub fn set_progress(&self, progress: u64) {
        self.words.progress.store(progress, Ordering::Relaxed);
    }
}

impl Source for Request<'_> {
    fn len(&self) -> usize {
        self.payload.len()
    }

    fn read_at(&self, offset: usize, out: &mut [u8]) -> Result<()> {
        self.payload.read_at(offset, out)
    }
}

#[inline]
pub(super) fn is_cancelled(words: &WorkerWords, stop: &Stop, request: u64) -> bool {
    words.requests.is_cancelled(request)
        || words.abort.load(Ordering::Acquire) != 0
        || stop.is_set()
}

/// The error that a handler gets of its own request. Its source tells it from that of a
/// request on a channel whose parent the handler is.
#[cold]
pub(super) fn cancelled(request: u64) -> Error {
    let message = format!("request {request} is cancelled");
    Error::caused_by(ErrorKind::Cancelled, message, GivenUp(request))
}

/// A request of this worker's that nobody waits for any more.
#[derive(Debug)]
pub(super) struct GivenUp(pub(super) u64);

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("its caller gave it up, or the worker is to end")
    }
}

impl std::error::Error for GivenUp {}
