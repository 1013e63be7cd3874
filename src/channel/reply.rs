//! What comes back: replies, replies that are awaited later, streams of chunks.

use std::iter::FusedIterator;
use std::sync::Arc;
use std::time::Duration;

use crate::channel::ahead::Ahead;
use crate::channel::engine::{Body, Engine, Item};
use crate::channel::stream_timeouts::StreamTimeouts;
use crate::error::{Error, ErrorKind, Result};
use crate::payload::Source;
use crate::ring::position::span;
use crate::shm::bytes::PeerBytes;
use crate::shm::layout::as_usize;
use crate::sys::clock::{Deadline, now_ns};
use crate::sys::fork;

/// A reply, or one chunk of a stream. Its bytes may still lie in the ring: while it
/// lives its slot, and those after it, cannot be filled anew. Replies of up to 96 bytes and
/// chunks of up to 4 KiB are copied out of it instead; chunks share the memory that they are
/// copied to, up to 16 KiB, which lives as long as any of them. In a forked child, bytes that
/// lie in the ring are those of the reply until the parent drops it, and then any bytes.
#[derive(Debug)]
pub struct Reply {
    request: u64,
    body: Body,
}

impl Reply {
    /// The request that it answers.
    #[must_use]
    pub fn request(&self) -> u64 {
        self.request
    }

    /// How many bytes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.payload().len()
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.payload().is_empty()
    }

    /// Its bytes, in memory that the worker may be able to write.
    #[must_use]
    #[inline]
    pub fn payload(&self) -> PeerBytes<'_> {
        self.body.bytes()
    }

    /// A copy of its bytes.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.payload().to_vec()
    }

    /// Its bytes; copies them out of the ring if they lie there, and gives the slot back.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        match self.body {
            Body::Owned(bytes) => bytes,
            Body::Whole(whole) => whole.into_vec(),
            body => body.bytes().to_vec(),
        }
    }

    /// The same reply with its bytes outside the ring, whose slot is given back.
    #[must_use]
    pub fn detach(self) -> Self {
        Self { request: self.request, body: Body::Owned(self.into_vec()) }
    }
}

impl Source for Reply {
    fn len(&self) -> usize {
        Self::len(self)
    }

    fn read_at(&self, offset: usize, out: &mut [u8]) -> Result<()> {
        self.payload().read_at(offset, out)
    }
}

/// A request whose reply is awaited later. Dropping it gives the request up: the
/// worker is told, and a reply that still comes is dropped.
#[derive(Debug)]
#[must_use = "a pending reply that is dropped cancels its request"]
pub struct Pending {
    engine: Arc<Engine>,
    request: u64,
    timeout: Duration,
    deadline: Deadline,
    has_rung: bool,
}

impl Pending {
    pub(crate) fn new(
        engine: Arc<Engine>,
        request: u64,
        timeout: Duration,
        deadline: Deadline,
        has_rung: bool,
    ) -> Self {
        Self { engine, request, timeout, deadline, has_rung }
    }

    /// The request's id.
    #[must_use]
    pub fn request(&self) -> u64 {
        self.request
    }

    /// Waits for the reply. Blocks until it comes, the timeout that the request was
    /// given passes, the request is cancelled, the channel is closed or the worker ends;
    /// the channel stays usable in the first three cases. A wait that is woken more than
    /// 100 ms late, because this process or the whole machine was stopped meanwhile, goes on
    /// for up to 200 ms, so that an answer which was stopped with it still counts.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`], [`ErrorKind::Cancelled`], [`ErrorKind::Closed`],
    /// [`ErrorKind::PeerDied`], [`ErrorKind::PeerCorrupt`]; [`ErrorKind::Worker`] with what
    /// the handler reported; [`ErrorKind::Protocol`] if the worker sent a stream.
    pub fn wait(mut self) -> Result<Reply> {
        match self.engine.reply(self.request, self.deadline, self.has_rung)? {
            Some(Item::Result(body)) => {
                // It has ended, and nothing is left for `drop` to do.
                let request = std::mem::take(&mut self.request);
                Ok(Reply { request, body })
            }
            Some(item) => self.reply_of(item),
            None => Err(self.timed_out()),
        }
    }

    /// The reply if it is there, without waiting; the request itself if it is not.
    ///
    /// # Errors
    ///
    /// As [`Pending::wait`].
    pub fn try_wait(self) -> Result<std::result::Result<Reply, Self>> {
        match self.engine.try_reply(self.request)? {
            Some(item) => self.reply_of(item).map(Ok),
            None if self.deadline.has_passed() => Err(self.timed_out()),
            None => Ok(Err(self)),
        }
    }

    #[cfg(feature = "async")]
    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    #[cfg(feature = "async")]
    pub(crate) fn deadline(&self) -> Deadline {
        self.deadline
    }

    pub(crate) fn reply_of(&self, item: Item) -> Result<Reply> {
        let request = self.request;
        match item {
            Item::Result(body) => Ok(Reply { request, body }),
            Item::Cancelled => Err(cancelled(request)),
            Item::Expired => Err(self.expired()),
            Item::Failed(error) => Err(error),
            Item::Chunk(..) | Item::End => {
                let message = format!("request {request} wants one result, the worker streams");
                Err(Error::new(ErrorKind::Protocol, message))
            }
        }
    }

    #[cold]
    fn expired(&self) -> Error {
        let (request, timeout) = (self.request, self.timeout);
        let message = format!(
            "request {request} timed out after {timeout:?}: its turn came later, and the worker \
             has not begun it"
        );
        Error::new(ErrorKind::Timeout, message).with_begun(false)
    }

    #[cold]
    pub(crate) fn timed_out(&self) -> Error {
        self.engine.timed_out(self.request, self.timeout)
    }

    /// Asks the worker to give up, without waiting: [`Pending::wait`] then ends with
    /// [`ErrorKind::Cancelled`], or with the reply if that came first.
    pub fn cancel(&self) {
        self.engine.cancel(self.request);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.request != 0 {
            self.engine.let_go(self.request);
        }
    }
}

#[cold]
fn cancelled(request: u64) -> Error {
    Error::new(ErrorKind::Cancelled, format!("request {request} was cancelled"))
}

/// The chunks of a stream, in order, each exactly once. Dropping it cancels the stream;
/// the next request is not affected.
///
/// An iterator: it ends after the last chunk, or after the first error.
#[derive(Debug)]
#[must_use = "a stream that is dropped is cancelled"]
pub struct Stream {
    engine: Arc<Engine>,
    request: u64,
    timeouts: StreamTimeouts,
    /// When the queue timeout passes.
    begin_by: Deadline,
    has_begun: bool,
    /// Requests that the worker had served at the last look at what it does.
    served: u64,
    is_over: bool,
    ahead: Ahead,
}

/// The shortest time after which a reader looks whether its request has been begun.
const SHORTEST_LOOK: Duration = Duration::from_millis(1);

impl Stream {
    pub(crate) fn new(
        engine: Arc<Engine>,
        request: u64,
        timeouts: StreamTimeouts,
        begin_by: Deadline,
    ) -> Self {
        let ahead = engine.spare_ahead.lock().take().unwrap_or_default();
        let (has_begun, is_over, served) = (false, false, engine.served());
        Self { engine, request, timeouts, begin_by, has_begun, served, is_over, ahead }
    }

    /// The request's id.
    #[must_use]
    pub fn request(&self) -> u64 {
        self.request
    }

    /// Waits for the next chunk; `None` at the end. Blocks for at most the chunk
    /// timeout, counted from this call or from when the worker begins the request, whichever
    /// is later; for a request that it does not begin, until the queue timeout has passed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Stalled`] if nothing comes in that time, and [`ErrorKind::Timeout`] if
    /// the request is not begun in time, after which the stream is over;
    /// [`ErrorKind::Worker`] if the handler fails, after the chunks that it sent before;
    /// [`ErrorKind::Cancelled`] after [`Stream::cancel`]; [`ErrorKind::Protocol`] if the
    /// worker sends one result; [`ErrorKind::Closed`], [`ErrorKind::PeerDied`],
    /// [`ErrorKind::PeerCorrupt`].
    #[inline]
    pub fn next_chunk(&mut self) -> Result<Option<Reply>> {
        match self.next_ahead() {
            Some(chunk) => Ok(Some(chunk)),
            None => self.await_chunk(),
        }
    }

    /// The next chunk of those that were copied out together. Small enough to become part of
    /// the reader's loop: to move a reply from hand to hand costs more than its copy.
    #[inline]
    fn next_ahead(&mut self) -> Option<Reply> {
        if !self.ahead.items.is_empty() || !self.engine.is_readable() {
            return None;
        }
        let part = self.ahead.next_part()?;
        self.consume(as_usize(span(part.len())));
        Some(Reply { request: self.request, body: Body::Part(part) })
    }

    #[inline(never)]
    fn await_chunk(&mut self) -> Result<Option<Reply>> {
        if self.is_over {
            return Ok(None);
        }
        if self.ahead.items.is_empty() || !self.engine.is_readable() {
            self.ahead.clear();
            match self.await_item() {
                Ok(Some(item)) => return self.chunk_of(Ok(item)),
                Ok(None) => {} // something is ahead
                Err(error) => return self.chunk_of(Err(error)),
            }
        }
        match self.ahead.items.pop_front() {
            Some(item) => self.chunk_of(Ok(item)),
            None => Ok(self.next_ahead()),
        }
    }

    /// Waits for the next item, or until something is ahead, for as long as is to be waited.
    fn await_item(&mut self) -> Result<Option<Item>> {
        let mut wait = self.first_wait();
        let mut since = None;
        loop {
            let found = self.engine.next_chunk(self.request, wait, &mut self.ahead)?;
            if found.is_some() || !self.ahead.is_empty() {
                self.has_begun = true;
                return Ok(found);
            }
            // What is there already takes no look at the clock.
            let began = now_ns().saturating_sub(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX));
            wait = self.wait_on(*since.get_or_insert(began))?.remaining();
        }
    }

    /// How long to wait before a look at whether the request has been begun.
    #[inline]
    pub(crate) fn first_wait(&self) -> Duration {
        let StreamTimeouts { chunk, .. } = self.timeouts;
        if self.has_begun { chunk } else { chunk.min(self.begin_by.remaining()) }
    }

    /// Returns until when a reader goes on waiting to which nothing has come so far, or the
    /// error that ends its wait. `since` is when it began to wait, in nanoseconds of the
    /// monotonic clock.
    #[cold]
    pub(crate) fn wait_on(&mut self, since: u64) -> Result<Deadline> {
        let StreamTimeouts { chunk, .. } = self.timeouts;
        let begun_at = match self.has_begun {
            true => Some(0),
            false => self.engine.begun_at(self.request),
        };
        let Some(begun_at) = begun_at else {
            let served = std::mem::replace(&mut self.served, self.engine.served());
            let is_idle = served == self.served && self.engine.is_idle();
            if is_idle && Deadline::from(since, chunk).has_passed() {
                // It has nothing else to do, and does not take the request: it is stopped.
                return Err(self.stalled());
            }
            if self.begin_by.has_passed() {
                return Err(self.not_begun());
            }
            // If the worker begins the request right now, the stream stalls no sooner than this.
            return Ok(self.begin_by.at_most(chunk.max(SHORTEST_LOOK)));
        };
        self.has_begun = true;
        let stalls_at = Deadline::from(since.max(begun_at), chunk);
        if stalls_at.has_passed() { Err(self.stalled()) } else { Ok(stalls_at) }
    }

    /// Counts what was consumed at every eighth of the window; the engine counts the rest
    /// before it waits for more.
    #[inline]
    fn consume(&mut self, cost: usize) {
        self.ahead.consumed += cost;
        if self.ahead.consumed >= self.engine.config.stream_window / 8 {
            self.count_consumed();
        }
    }

    #[cfg(feature = "async")]
    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    #[cfg(feature = "async")]
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// What an item, or what ended the wait for it, means for the reader.
    pub(crate) fn chunk_of(&mut self, found: Result<Item>) -> Result<Option<Reply>> {
        let item = match found {
            Ok(item) => item,
            Err(error) => return self.over(Err(error)),
        };
        self.has_begun = true;
        match item {
            Item::Chunk(body, cost) => {
                self.consume(cost);
                Ok(Some(Reply { request: self.request, body }))
            }
            Item::End => self.over(Ok(None)),
            Item::Cancelled | Item::Expired => self.over(Err(cancelled(self.request))),
            Item::Failed(error) => self.over(Err(error)),
            Item::Result(_) => {
                let message =
                    format!("request {} wants a stream, the worker sent a result", self.request);
                self.over(Err(Error::new(ErrorKind::Protocol, message)))
            }
        }
    }

    #[inline(never)]
    pub(crate) fn count_consumed(&mut self) {
        let consumed = std::mem::take(&mut self.ahead.consumed);
        self.engine.consumed(self.request, consumed, false);
    }

    /// Asks the worker to end the stream, without waiting. Chunks that are on their way
    /// still come, then [`ErrorKind::Cancelled`], or the end if that came first.
    pub fn cancel(&self) {
        if !self.is_over {
            self.engine.cancel(self.request);
        }
    }

    fn over<T>(&mut self, result: Result<Option<T>>) -> Result<Option<T>> {
        self.is_over = true;
        self.ahead.clear();
        self.engine.let_go(self.request);
        result
    }

    #[cold]
    fn stalled(&self) -> Error {
        let message = format!(
            "the stream of request {} delivered nothing for {:?}; {}",
            self.request,
            self.timeouts.chunk,
            self.engine.describe_worker(Some(self.request))
        );
        Error::new(ErrorKind::Stalled, message)
    }

    #[cold]
    fn not_begun(&self) -> Error {
        let message = format!(
            "the worker did not begin the stream of request {} within {:?}; {}",
            self.request,
            self.timeouts.queue,
            self.engine.describe_worker(None)
        );
        Error::new(ErrorKind::Timeout, message)
    }
}

impl Iterator for Stream {
    type Item = Result<Reply>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match self.next_ahead() {
            Some(chunk) => Some(Ok(chunk)),
            None => self.await_chunk().transpose(),
        }
    }
}

impl FusedIterator for Stream {}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.is_over {
            self.engine.let_go(self.request);
        }
        if !fork::is_forked_child() {
            let mut ahead = std::mem::take(&mut self.ahead);
            ahead.forget();
            *self.engine.spare_ahead.lock() = Some(ahead);
        }
    }
}
