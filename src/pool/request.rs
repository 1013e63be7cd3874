//! A request to a role, over all its attempts.

use std::time::Duration;

use super::attempt::{attempt, ends_worker, is_unanswered};
use super::role::{Permit, RoleShared};
use super::scheduler::{Asked, History, Priority, Reason, Verdict};
use super::stream::PoolStream;
use crate::channel::{Channel, Reply, StreamTimeouts};
use crate::error::{Error, ErrorKind, Result};
use crate::id::RequestId;
use crate::payload::Payload;
use crate::protocol::Kind;
use crate::sys::clock::{Deadline, now_ns};
use crate::sys::fork;

/// A request that is about to be made, with what its role does not know by itself.
///
/// ```no_run
/// # fn example(embed: &slipring::pool::RoleHandle) -> slipring::Result<()> {
/// use std::time::Duration;
///
/// use slipring::Kind;
/// use slipring::pool::Priority;
///
/// let timeout = Duration::from_secs(10);
/// let request = embed.request(Kind::EMBED).idempotent(true).priority(Priority::Low);
/// let reply = request.call("a text", timeout)?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct PoolRequest<'a> {
    role: &'a RoleShared,
    kind: Kind,
    priority: Priority,
    key: Option<u64>,
    is_idempotent: bool,
}

impl<'a> PoolRequest<'a> {
    pub(super) fn new(role: &'a RoleShared, kind: Kind, is_idempotent: bool) -> Self {
        Self { role, kind, priority: Priority::default(), key: None, is_idempotent }
    }

    /// Whether the request may be served twice: as its role says by default.
    pub fn idempotent(mut self, is_idempotent: bool) -> Self {
        self.is_idempotent = is_idempotent;
        self
    }

    /// How important the request is among those that wait.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Sends requests with the same key to the same worker, such as those of one conversation,
    /// while that has a place; otherwise to any other.
    pub fn key(mut self, key: u64) -> Self {
        self.key = Some(key);
        self
    }

    /// Sends the request and waits for its reply: as [`RoleHandle::call`](super::RoleHandle::call).
    ///
    /// # Errors
    ///
    /// As [`RoleHandle::call`](super::RoleHandle::call).
    pub fn call<P: Payload + ?Sized>(self, payload: &P, timeout: Duration) -> Result<Reply> {
        fork::check()?;
        let now = now_ns();
        let deadline = Deadline::from(now, timeout);
        let mut attempts = Attempts::begin(&self);
        loop {
            let permit = attempts.acquire(now, deadline)?;
            let channel = channel_of(&permit)?;
            match channel.call_numbered(self.kind, payload, deadline.remaining()) {
                (_, Ok(reply)) => return Ok(reply),
                (id, Err(error)) => attempts.failed(permit, id, error, false, deadline)?,
            }
        }
    }

    /// Sends the request and returns the stream of its chunks: as
    /// [`RoleHandle::stream`](super::RoleHandle::stream).
    ///
    /// # Errors
    ///
    /// As [`RoleHandle::stream`](super::RoleHandle::stream).
    pub fn stream<P: Payload + ?Sized>(
        self,
        payload: &'a P,
        timeouts: impl Into<StreamTimeouts>,
    ) -> Result<PoolStream<'a, P>> {
        fork::check()?;
        PoolStream::begin(Attempts::begin(&self), self.kind, payload, timeouts.into())
    }
}

/// The attempts of one request.
#[derive(Debug)]
pub(super) struct Attempts<'a> {
    role: &'a RoleShared,
    asked: Asked,
    history: History,
    is_first: bool,
}

impl<'a> Attempts<'a> {
    #[inline]
    fn begin(request: &PoolRequest<'a>) -> Self {
        let PoolRequest { role, priority, key, is_idempotent, .. } = *request;
        let asked = Asked { number: role.next_number(), priority, key };
        let history = History { is_idempotent, ..History::default() };
        Self { role, asked, history, is_first: true }
    }

    /// The request's number, the same over all its attempts.
    pub(super) fn number(&self) -> u64 {
        self.asked.number
    }

    /// Gets a worker. Blocks until one has a place, or until the deadline.
    #[inline]
    pub(super) fn acquire(&mut self, now: u64, deadline: Deadline) -> Result<Permit<'a>> {
        if std::mem::replace(&mut self.is_first, false) {
            return self.role.acquire(self.asked, None, now, deadline);
        }
        let permit = self.role.acquire(self.asked, Some(&self.history), now_ns(), deadline);
        // Of all attempts, not of this one alone.
        let was_begun = self.history.begun > 0;
        permit.map_err(|error| if was_begun { error.with_begun(true) } else { error })
    }

    /// An attempt has failed. Returns the error if no other follows. Blocks until it is known
    /// whether a dead worker had begun the request, but not beyond the deadline.
    #[cold]
    pub(super) fn failed(
        &mut self,
        permit: Permit<'_>,
        id: Option<RequestId>,
        error: Error,
        has_delivered: bool,
        deadline: Deadline,
    ) -> Result<()> {
        if !ends_worker(&error) {
            if let Some(id) = id.filter(|_| is_unanswered(&error)) {
                permit.linger(id);
            }
            return Err(error);
        }
        let attempt = attempt(&error, &permit.worker, permit.is_alone(), has_delivered, deadline);
        permit.give_back_dead();
        let history = &mut self.history;
        match self.role.change(|scheduler| scheduler.judge(now_ns(), history, attempt)) {
            Verdict::Again => Ok(()),
            Verdict::Over(Reason::Poison) => {
                let message = format!(
                    "role {}: request {} is not sent again: it has killed {} workers, the last of \
                     them alone",
                    self.role.name,
                    self.number(),
                    self.history.begun
                );
                let tail = error.log_tail().map(str::to_owned);
                let poison = Error::with_source(ErrorKind::Poison, message, error);
                Err(poison.with_log_tail(tail).with_begun(true))
            }
            Verdict::Over(_) => Err(error),
        }
    }
}

/// The channel of a worker that was granted. The scheduler grants only those that are ready.
pub(super) fn channel_of<'p>(permit: &'p Permit<'_>) -> Result<&'p Channel> {
    permit.worker.channel().ok_or_else(|| Error::new(ErrorKind::Closed, "the worker is gone"))
}
