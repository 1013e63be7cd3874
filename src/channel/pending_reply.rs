//! A reply that is awaited later.

use std::sync::Arc;
use std::time::Duration;

use crate::channel::core::{Core, Sent};
use crate::channel::counters::{CALLS_PER_SAMPLE, is_sampled};
use crate::channel::deliver::Item;
use crate::channel::explain::{cancelled, expired, timed_out};
use crate::channel::reactor_turn::take_for_host;
use crate::channel::reply::Reply;
use crate::channel::wait::await_reply;
use crate::error::{Error, ErrorKind, Result};
use crate::id::RequestId;
use crate::sys::clock::{Deadline, TimeLimit};

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
    limit: TimeLimit,
    has_rung: bool,
    stage: Stage,
}

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Sent,
    /// As `Sent`; its time is measured even if the thread need not sleep.
    SentAndSampled,
    /// The reply or an error was returned: there is nothing left to let go of.
    Ended,
}

impl Pending {
    #[inline]
    pub(crate) fn new(core: Arc<Core>, sent: Sent, limit: TimeLimit) -> Self {
        let Sent { request, has_rung } = sent;
        let stage = if is_sampled(request) { Stage::SentAndSampled } else { Stage::Sent };
        Self { core, request, limit, has_rung, stage }
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
        if self.stage == Stage::Sent { self.wait_sent(0) } else { self.wait_sampled() }
    }

    /// As [`Pending::wait`], for a request that is in the sample or has ended.
    #[cold]
    fn wait_sampled(&mut self) -> Result<Reply> {
        self.live()?;
        self.wait_sent(CALLS_PER_SAMPLE)
    }

    /// As [`Pending::wait`]. `calls` is for how many calls the time of this one stands if the
    /// thread does not sleep.
    #[inline]
    fn wait_sent(&mut self, calls: u64) -> Result<Reply> {
        let mut has_slept = false;
        let (core, deadline) = (&*self.core, self.deadline());
        match await_reply(core, self.request, deadline, self.has_rung, &mut has_slept) {
            Ok(Some(item)) => {
                let reply = self.finish(item);
                if has_slept {
                    self.note_answer(&reply, 1);
                } else if calls != 0 {
                    self.note_answer(&reply, calls);
                }
                reply
            }
            Ok(None) => Err(self.timed_out()),
            Err(error) => Err(self.core.counted(error)),
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
        let item = self.try_item().map_err(|error| self.core.counted(error))?;
        self.found(item, false)
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
        let deadline = self.deadline().min(Deadline::after(longest));
        let mut has_slept = false;
        let item = await_reply(&self.core, self.live()?, deadline, self.has_rung, &mut has_slept);
        let item = item.map_err(|error| self.core.counted(error))?;
        self.found(item, has_slept)
    }

    fn found(&mut self, item: Option<Item>, has_slept: bool) -> Result<Option<Reply>> {
        match item {
            Some(item) => {
                let is_sampled = self.stage == Stage::SentAndSampled;
                let reply = self.finish(item);
                if has_slept || is_sampled {
                    self.note_answer(&reply, if has_slept { 1 } else { CALLS_PER_SAMPLE });
                }
                reply.map(Some)
            }
            None if self.deadline().has_passed() => {
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
                self.stage = Stage::Ended;
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
        if std::mem::replace(&mut self.stage, Stage::Ended) != Stage::Ended {
            self.core.pending.release(self.request);
        }
    }

    /// Notes the time of a request whose owner gets this reply. It stands for so many calls.
    #[cold]
    pub(crate) fn note_answer(&self, reply: &Result<Reply>, calls: u64) {
        if reply.is_ok() {
            self.core.counters().call_answered(self.limit, calls);
        }
    }

    /// The request, unless it has ended.
    #[inline]
    fn live(&self) -> Result<u64> {
        if self.stage == Stage::Ended { Err(has_ended()) } else { Ok(self.request) }
    }

    /// What has come, without waiting. A reactor of the host's reads the ring itself,
    /// and must not find its descriptor readable for what this took.
    fn try_item(&self) -> Result<Option<Item>> {
        let (core, request) = (&*self.core, self.live()?);
        if !core.reactor.has_host_reactor() {
            return await_reply(core, request, Deadline::after(Duration::ZERO), true, &mut false);
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
        self.limit.deadline()
    }

    /// What an item means for the owner of a call.
    pub(crate) fn reply_of(&self, item: Item) -> Result<Reply> {
        let request = self.request;
        let error = match item {
            Item::Result(body) => return Ok(Reply::new(request, body)),
            Item::Cancelled => cancelled(request),
            Item::Expired => expired(request, self.limit.timeout()),
            Item::Failed(error) => error,
            Item::Chunk(..) | Item::End => {
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
        if self.stage != Stage::Ended {
            self.core.pending.release(self.request);
        }
    }
}
