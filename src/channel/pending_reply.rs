//! A reply that is awaited later.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use crate::channel::core::Core;
use crate::channel::counters::{CALLS_PER_SAMPLE, is_sampled};
use crate::channel::explain::{cancelled, expired, timed_out};
use crate::channel::item::{Item, Part, Place};
use crate::channel::message_parts::PartSource;
use crate::channel::message_reader::MessageReader;
use crate::channel::reactor_turn::take_for_host;
use crate::channel::reader::Want;
use crate::channel::reply::Reply;
use crate::channel::wait::{WaitLimit, wait_for_item};
use crate::error::{Error, ErrorKind, Result};
use crate::id::RequestId;
use crate::sys::clock::{Deadline, TimeLimit};

/// A request whose reply is awaited later.
///
/// Dropping it cancels the request: a reply that still comes is dropped.
///
/// ```
#[doc = include_str!("example.md")]
/// let (first, second) = (channel.submit(ECHO, "1", timeout)?, channel.submit(ECHO, "2", timeout)?);
/// // In any order.
/// assert_eq!(second.wait()?.to_vec(), b"2");
/// assert_eq!(first.wait()?.to_vec(), b"1");
/// # channel.close(timeout)?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "a pending reply that is dropped cancels its request"]
pub struct Pending(Awaited<Arc<Core>>);

impl Pending {
    #[inline]
    pub(crate) fn new(core: Arc<Core>, request: u64, limit: TimeLimit) -> Self {
        Self(Awaited::new(core, request, limit))
    }

    /// Returns the request's id.
    #[must_use]
    pub fn id(&self) -> RequestId {
        RequestId::new(self.0.request)
    }

    /// Waits for the reply. Blocks until it comes, the timeout that the request was given
    /// passes, the request is cancelled, the channel is closed or the worker ends. The channel
    /// stays usable after a reply, a timeout and a cancel.
    ///
    /// A wait that is woken more than 100 ms late, because this process or the whole machine
    /// was stopped meanwhile, goes on for up to 200 ms, so that an answer which was held up
    /// in the same way still counts.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`], [`ErrorKind::Cancelled`]; [`ErrorKind::HandlerFailed`] with what the
    /// handler reported; [`ErrorKind::Protocol`] if the worker sent a stream;
    /// [`ErrorKind::Interrupted`] if a hook ends the wait, see
    /// [`Channel::on_interrupt`](crate::Channel::on_interrupt); [`ErrorKind::Closed`],
    /// [`ErrorKind::PeerDied`], [`ErrorKind::PeerCorrupt`], [`ErrorKind::Forked`] if the channel is
    /// over; [`ErrorKind::Session`] if that is because the session could not be built.
    #[inline]
    pub fn wait(self) -> Result<Reply> {
        self.0.wait()
    }

    /// Waits until the reply begins to come, and returns a reader that takes it piece by piece
    /// where it lies. For replies that are longer than a frame, which [`Pending::wait`] collects
    /// first: [`MessageReader`] has examples. Blocks as [`Pending::wait`] does, until the first
    /// piece is there.
    ///
    /// # Errors
    ///
    /// As [`Pending::wait`].
    pub fn wait_reader(self) -> Result<MessageReader<'static>> {
        self.take_in_pieces();
        MessageReader::of_reply(self)
    }

    /// Returns the reply if it is there, without waiting; `None` if it is not there yet. After
    /// a reply or an error the request has ended.
    ///
    /// ```
    #[doc = include_str!("example.md")]
    /// let mut pending = channel.submit(ECHO, "hello", timeout)?;
    /// let reply = loop {
    ///     match pending.try_wait()? {
    ///         Some(reply) => break reply,
    ///         None => std::thread::yield_now(), // or do something else
    ///     }
    /// };
    /// assert_eq!(reply.to_vec(), b"hello");
    /// # channel.close(timeout)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Pending::wait`], except for [`ErrorKind::Interrupted`]; [`ErrorKind::InvalidInput`] if
    /// the request has ended.
    pub fn try_wait(&mut self) -> Result<Option<Reply>> {
        // A reactor of the host's reads the ring itself, and must not find its descriptor
        // readable for what this took.
        let awaited = &mut self.0;
        let item = match awaited.core.reactor_state.has_host_reactor() {
            true => awaited
                .active_request()
                .and_then(|request| take_for_host(&awaited.core, request, false)),
            false => awaited.await_item(Deadline::after(Duration::ZERO)),
        };
        awaited.found(item)
    }

    /// Waits for the reply for at most `timeout`, and no longer than the request's own timeout.
    /// Returns `None` if it is not there then; the request goes on. Blocks.
    ///
    /// ```
    #[doc = include_str!("example.md")]
    /// let mut pending = channel.submit(WAIT, "", timeout)?;
    /// // Not yet; the request goes on.
    /// assert!(pending.wait_timeout(Duration::from_millis(1))?.is_none());
    /// pending.cancel();
    /// assert!(pending.wait().unwrap_err().is_cancelled());
    /// # channel.close(timeout)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Pending::wait`]; [`ErrorKind::InvalidInput`] if the request has ended. After
    /// [`ErrorKind::Interrupted`] the request goes on.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<Reply>> {
        let deadline = self.0.limit.deadline().min(Deadline::after(timeout));
        let item = self.0.await_item(deadline);
        self.0.found(item)
    }

    /// Cancels the request, without waiting: [`Pending::wait`] then ends with
    /// [`ErrorKind::Cancelled`], or with the reply if that came first.
    pub fn cancel(&self) {
        self.0.core.pending.cancel(self.0.request);
    }

    /// Has the pieces of the reply given out one by one.
    pub(crate) fn take_in_pieces(&self) {
        self.0.core.pending.set_in_pieces(self.0.request, true);
    }

    /// Returns what was found, for a reader that waits for a part of the reply. `None` if that was
    /// nothing, and the deadline has not passed.
    pub(crate) fn part_of(
        &mut self,
        found: Result<Option<Item>>,
    ) -> Result<Option<(Reply, Place)>> {
        let awaited = &mut self.0;
        let part = match found {
            Ok(Some(Item::Part(part))) => part,
            other => return Ok(awaited.found(other)?.map(|reply| (reply, Place::WHOLE))),
        };
        let Part { body, place, .. } = *part;
        if place.is_last {
            awaited.note_answer(1);
            // The request of a last frame that its owner has read is dropped already.
            awaited.has_ended = true;
        }
        Ok(Some((Reply::new(awaited.request, body), place)))
    }

    pub(crate) fn request(&self) -> u64 {
        self.0.request
    }

    /// The request, for a task that awaits it.
    pub(crate) fn awaited(&self) -> &Awaited<Arc<Core>> {
        &self.0
    }

    /// Drops the request, whose reply or error was returned.
    pub(crate) fn end(&mut self) {
        self.0.end();
    }
}

/// A request whose reply is awaited. A call borrows the core of its channel, a [`Pending`] owns it.
#[derive(Debug)]
pub(crate) struct Awaited<C: Deref<Target = Core>> {
    pub(crate) core: C,
    request: u64,
    pub(crate) limit: TimeLimit,
    /// A thread was about to sleep as it waited for the reply.
    has_slept: bool,
    /// The reply or an error was returned: there is nothing left to drop.
    has_ended: bool,
}

impl<C: Deref<Target = Core>> Awaited<C> {
    #[inline]
    pub(super) fn new(core: C, request: u64, limit: TimeLimit) -> Self {
        Self { core, request, limit, has_slept: false, has_ended: false }
    }

    /// See [`Pending::wait`].
    #[inline]
    pub(super) fn wait(mut self) -> Result<Reply> {
        match self.await_item(self.limit.deadline()) {
            Ok(Some(item)) => self.finish(item),
            Ok(None) => Err(self.timed_out()),
            Err(error) => Err(self.core.counted(error)),
        }
    }

    fn found(&mut self, item: Result<Option<Item>>) -> Result<Option<Reply>> {
        match item {
            Ok(Some(item)) => self.finish(item).map(Some),
            Ok(None) if self.limit.deadline().has_passed() => {
                let error = self.timed_out();
                self.end();
                Err(error)
            }
            Ok(None) => Ok(None),
            Err(error) => Err(self.core.counted(error)),
        }
    }

    /// What the last item means. The request has ended.
    #[inline]
    fn finish(&mut self, item: Item) -> Result<Reply> {
        match item {
            Item::Result(body) => {
                if self.has_slept {
                    self.note_answer(1);
                } else if is_sampled(self.request) {
                    self.note_answer(CALLS_PER_SAMPLE);
                }
                // The request of a last frame that its owner has read is dropped already.
                self.has_ended = true;
                Ok(Reply::new(self.request, body))
            }
            item => {
                let reply = self.reply_of(item);
                self.end();
                reply
            }
        }
    }

    /// Drops the request, whose reply or error was returned.
    pub(crate) fn end(&mut self) {
        if !std::mem::replace(&mut self.has_ended, true) {
            self.core.pending.drop_request(self.request);
        }
    }

    /// Notes the time of a request whose owner gets its result. It stands for so many calls.
    #[cold]
    pub(crate) fn note_answer(&self, calls: u64) {
        self.core.counters().call_answered(self.limit, calls);
    }

    /// The request, unless it has ended.
    #[inline]
    fn active_request(&self) -> Result<u64> {
        if self.has_ended { Err(has_ended()) } else { Ok(self.request) }
    }

    #[inline]
    fn await_item(&mut self, deadline: Deadline) -> Result<Option<Item>> {
        let want = Want::Reply(self.active_request()?);
        let limit = WaitLimit::Until(deadline);
        wait_for_item(&self.core, want, limit, &mut self.has_slept)
    }

    /// What an item means for the owner of a call.
    pub(crate) fn reply_of(&self, item: Item) -> Result<Reply> {
        let request = self.request;
        let error = match item {
            Item::Result(body) => return Ok(Reply::new(request, body)),
            Item::Cancelled => cancelled(request),
            Item::Expired => expired(request, self.limit.timeout()),
            Item::Failed(error) => error,
            Item::Chunk(..) | Item::Part(_) | Item::End => {
                let message = format!("request {request} wants one result, the worker streams");
                Error::new(ErrorKind::Protocol, message)
            }
        };
        Err(self.core.counted(error))
    }

    #[cold]
    pub(crate) fn timed_out(&self) -> Error {
        self.core.counted(timed_out(&self.core, self.request, self.limit.timeout()))
    }
}

#[cold]
fn has_ended() -> Error {
    Error::new(ErrorKind::InvalidInput, "the request has ended: its reply or error was returned")
}

impl PartSource for Pending {
    fn request(&self) -> u64 {
        self.0.request
    }

    fn core(&self) -> &Core {
        &self.0.core
    }

    #[cold]
    fn next_part(&mut self) -> Result<Option<(Reply, Place)>> {
        loop {
            let found = self.0.await_item(self.0.limit.deadline());
            // If there is nothing, the deadline has passed, and the next look says so.
            if let part @ Some(_) = self.part_of(found)? {
                return Ok(part);
            }
        }
    }

    fn end_with(&mut self, error: Error) -> Error {
        self.0.end();
        self.0.core.counted(error)
    }

    /// Does nothing: the request goes with its reader.
    fn end_reader(&mut self, _: bool) {}
}

impl<C: Deref<Target = Core>> Drop for Awaited<C> {
    #[inline]
    fn drop(&mut self) {
        if !self.has_ended {
            self.core.pending.drop_request(self.request);
        }
    }
}
