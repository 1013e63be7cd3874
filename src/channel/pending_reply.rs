//! A reply that is awaited later.

use std::sync::Arc;
use std::time::Duration;

use crate::channel::core::{Core, Sent};
use crate::channel::deliver::Item;
use crate::channel::explain::{cancelled, expired, timed_out};
use crate::channel::reactor_turn::take_for_host;
use crate::channel::reply::Reply;
use crate::channel::wait::await_reply;
use crate::error::{Error, ErrorKind, Result};
use crate::id::RequestId;
use crate::sys::clock::Deadline;

/// A request whose reply is awaited later.
///
/// Dropping it gives the request up: the worker is told, and a reply that still comes is
/// dropped.
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
pub struct Pending {
    core: Arc<Core>,
    request: u64,
    timeout: Duration,
    deadline: Deadline,
    has_rung: bool,
    /// The reply or an error was returned: there is nothing left to let go of.
    has_ended: bool,
}

impl Pending {
    #[inline]
    pub(crate) fn new(core: Arc<Core>, sent: Sent, timeout: Duration, deadline: Deadline) -> Self {
        let Sent { request, has_rung } = sent;
        Self { core, request, timeout, deadline, has_rung, has_ended: false }
    }

    /// Returns the request's id.
    #[must_use]
    pub fn id(&self) -> RequestId {
        RequestId::new(self.request)
    }

    /// Waits for the reply. Blocks until it comes, the timeout that the request was given
    /// passes, the request is cancelled, the channel is closed or the worker ends. The channel
    /// stays usable after a reply, a timeout and a cancel.
    ///
    /// A wait that is woken more than 100 ms late, because this process or the whole machine
    /// was stopped meanwhile, goes on for up to 200 ms, so that an answer which was stopped
    /// with it still counts.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`], [`ErrorKind::Cancelled`]; [`ErrorKind::Worker`] with what the
    /// handler reported; [`ErrorKind::Protocol`] if the worker sent a stream;
    /// [`ErrorKind::Interrupted`] if a hook ends the wait, see
    /// [`Channel::on_interrupt`](crate::Channel::on_interrupt); [`ErrorKind::Closed`],
    /// [`ErrorKind::PeerDied`], [`ErrorKind::PeerCorrupt`], [`ErrorKind::Forked`] if the channel is
    /// over; [`ErrorKind::Session`] if that is because the session could not be built.
    #[inline]
    pub fn wait(mut self) -> Result<Reply> {
        match await_reply(&self.core, self.live()?, self.deadline, self.has_rung)? {
            Some(item) => self.finish(item),
            None => Err(self.timed_out()),
        }
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
    /// As [`Pending::wait`], except for [`ErrorKind::Interrupted`]; [`ErrorKind::Protocol`] if the
    /// request has ended.
    pub fn try_wait(&mut self) -> Result<Option<Reply>> {
        let item = self.try_item()?;
        self.found(item)
    }

    /// Waits for the reply for at most `longest`, and no longer than the request's own timeout.
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
    /// As [`Pending::wait`]; [`ErrorKind::Protocol`] if the request has ended. After
    /// [`ErrorKind::Interrupted`] the request goes on.
    pub fn wait_timeout(&mut self, longest: Duration) -> Result<Option<Reply>> {
        let deadline = self.deadline.min(Deadline::after(longest));
        let item = await_reply(&self.core, self.live()?, deadline, self.has_rung)?;
        self.found(item)
    }

    fn found(&mut self, item: Option<Item>) -> Result<Option<Reply>> {
        match item {
            Some(item) => self.finish(item).map(Some),
            None if self.deadline.has_passed() => {
                let error = self.timed_out();
                self.end();
                Err(error)
            }
            None => Ok(None),
        }
    }

    /// What the last item means. The request has ended.
    #[inline]
    fn finish(&mut self, item: Item) -> Result<Reply> {
        match item {
            Item::Result(body) => {
                // A last frame that its owner has read is let go of already.
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

    /// Lets go of the request, whose reply or error was returned.
    pub(crate) fn end(&mut self) {
        if !std::mem::replace(&mut self.has_ended, true) {
            self.core.pending.release(self.request);
        }
    }

    /// The request, unless it has ended.
    #[inline]
    fn live(&self) -> Result<u64> {
        if self.has_ended { Err(has_ended()) } else { Ok(self.request) }
    }

    /// What has come, without waiting. A reactor of the host's reads the ring itself,
    /// and must not find its descriptor readable for what this took.
    fn try_item(&self) -> Result<Option<Item>> {
        let (core, request) = (&*self.core, self.live()?);
        if !core.reactor.has_host_reactor() {
            return await_reply(core, request, Deadline::after(Duration::ZERO), true);
        }
        take_for_host(core, request, false)
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(crate) fn request(&self) -> u64 {
        self.request
    }

    pub(crate) fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// What an item means for the owner of a call.
    pub(crate) fn reply_of(&self, item: Item) -> Result<Reply> {
        let request = self.request;
        match item {
            Item::Result(body) => Ok(Reply::new(request, body)),
            Item::Cancelled => Err(cancelled(request)),
            Item::Expired => Err(expired(request, self.timeout)),
            Item::Failed(error) => Err(error),
            Item::Chunk(..) | Item::End => {
                let message = format!("request {request} wants one result, the worker streams");
                Err(Error::new(ErrorKind::Protocol, message))
            }
        }
    }

    #[cold]
    pub(crate) fn timed_out(&self) -> Error {
        timed_out(&self.core, self.request, self.timeout)
    }

    /// Asks the worker to give up, without waiting: [`Pending::wait`] then ends with
    /// [`ErrorKind::Cancelled`], or with the reply if that came first.
    pub fn cancel(&self) {
        self.core.pending.cancel(self.request);
    }
}

#[cold]
fn has_ended() -> Error {
    Error::new(ErrorKind::Protocol, "the request has ended: its reply or error was returned")
}

impl Drop for Pending {
    #[inline]
    fn drop(&mut self) {
        if !self.has_ended {
            self.core.pending.release(self.request);
        }
    }
}
