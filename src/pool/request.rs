//! A request to a role, over all its attempts.

use std::sync::Arc;
use std::time::Duration;

use super::async_call;
use super::attempts::{Attempts, Destination};
use super::pending::PoolPending;
use super::role::{RoleRef, RoleShared};
use super::scheduler::Priority;
use super::stream::PoolStream;
use crate::channel::Observer;
#[cfg(feature = "async")]
use crate::channel::Progress;
use crate::channel::{MessageWriter, Reply, StreamTimeouts};
use crate::error::Result;
use crate::payload::{Payload, encoded_bytes};
use crate::protocol::Kind;
use crate::sys::clock::{Deadline, now_ns};
use crate::sys::fork;
#[cfg(feature = "async")]
use crate::trace_context::TraceContext;

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
    role: &'a Arc<RoleShared>,
    kind: Kind,
    priority: Priority,
    key: Option<u64>,
    is_idempotent: bool,
    #[cfg(feature = "async")]
    trace: Option<&'a TraceContext>,
}

impl<'a> PoolRequest<'a> {
    pub(super) fn new(role: &'a Arc<RoleShared>, kind: Kind, is_idempotent: bool) -> Self {
        Self {
            role,
            kind,
            priority: Priority::default(),
            key: None,
            is_idempotent,
            #[cfg(feature = "async")]
            trace: None,
        }
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

    /// Says which trace the request is part of. Its worker is told, as by
    /// [`Channel::traced`](crate::Channel::traced), and so is a gateway to whose workers it
    /// [overflows](super::Role::overflow).
    #[cfg(feature = "async")]
    pub fn trace(mut self, trace: &'a TraceContext) -> Self {
        self.trace = Some(trace);
        self
    }

    /// Sends the request and waits for its reply: as [`RoleHandle::call`](super::RoleHandle::call).
    ///
    /// # Errors
    ///
    /// As [`RoleHandle::call`](super::RoleHandle::call).
    #[cfg_attr(
        not(feature = "async"),
        allow(clippy::infallible_destructuring_match, reason = "there are other destinations")
    )]
    pub fn call<P: Payload + ?Sized>(self, payload: &P, timeout: Duration) -> Result<Reply> {
        fork::check()?;
        let now = now_ns();
        let deadline = Deadline::from(now, timeout);
        let mut attempts = self.attempts();
        loop {
            let permit = match attempts.acquire(now, deadline)? {
                Destination::Worker(permit) => permit,
                #[cfg(feature = "async")]
                Destination::Elsewhere(departure) => {
                    let request = attempts.request_elsewhere(payload, Progress::default());
                    let left = deadline.remaining();
                    let answer = request.and_then(|it| departure.call_here(it, left));
                    match attempts.come_back(answer)? {
                        Some(reply) => return attempts.over(Ok(reply)),
                        None => continue,
                    }
                }
            };
            let channel = permit.worker.channel_in_use()?;
            let left = deadline.remaining();
            let called = match attempts.trace() {
                None => channel.call_numbered(self.kind, payload, left),
                Some(trace) => channel.traced(trace).call_numbered(self.kind, payload, left),
            };
            match called {
                (_, Ok(reply)) => return attempts.over(Ok(reply)),
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
        PoolStream::begin(self.attempts().cancellable(), self.kind, payload, timeouts.into())
    }

    /// Takes the request, whose reply is waited for later: as
    /// [`RoleHandle::submit`](super::RoleHandle::submit).
    ///
    /// # Errors
    ///
    /// As [`RoleHandle::submit`](super::RoleHandle::submit).
    pub fn submit<P: Payload + ?Sized>(
        self,
        payload: &P,
        timeout: Duration,
    ) -> Result<PoolPending> {
        fork::check()?;
        let now = now_ns();
        let (payload, attempts) = (encoded_bytes(payload)?, self.owned_attempts());
        self.submit_owned(attempts, payload, now, timeout, Observer::default())
    }

    /// Takes the request, which keeps its payload, at `now`.
    pub(super) fn submit_owned(
        self,
        attempts: Attempts<Arc<RoleShared>>,
        payload: impl Payload + Send + Sync + 'static,
        now: u64,
        timeout: Duration,
        observer: Observer,
    ) -> Result<PoolPending> {
        let deadline = Deadline::from(now, timeout);
        let (kind, number) = (self.kind, attempts.number());
        let submitted = self.role.pool.executor.submit(number, async move {
            let call = async_call::call(attempts, kind, &payload, now, deadline, observer);
            let reply = call.await;
            // Its owner may take it late, and the ring is to be filled again.
            reply.map(Reply::detach)
        })?;
        Ok(PoolPending::new(Arc::clone(self.role), number, submitted))
    }

    /// Sends a message that `write` writes in parts, and waits for its reply: as
    /// [`RoleHandle::write`](super::RoleHandle::write).
    ///
    /// # Errors
    ///
    /// As [`RoleHandle::write`](super::RoleHandle::write).
    pub fn write(
        self,
        timeout: Duration,
        write: impl FnOnce(&mut MessageWriter<'_>) -> Result<()>,
    ) -> Result<Reply> {
        fork::check()?;
        let now = now_ns();
        let deadline = Deadline::from(now, timeout);
        let mut attempts = self.attempts().stay();
        let (permit, id, error) = loop {
            let mut permit = attempts.acquire_worker(now, deadline)?;
            let worker = Arc::clone(&permit.worker);
            let begun = worker
                .channel_in_use()
                .and_then(|channel| channel.write(self.kind, deadline.remaining()))
                .map(|writer| match attempts.trace() {
                    None => writer,
                    Some(trace) => writer.traced(trace),
                });
            let mut writer = match begun {
                Ok(writer) => writer,
                Err(error) => {
                    attempts.failed(permit, None, error, false, deadline)?;
                    continue;
                }
            };
            let id = writer.id();
            // Whatever ends the writing: the worker may be at the part that was sent.
            permit.set_lingering(Some(id));
            let sent = write(&mut writer).and_then(|()| writer.finish());
            match sent {
                Ok(pending) => {
                    let reply = pending.wait();
                    permit.set_lingering(None);
                    match reply {
                        Ok(reply) => return attempts.over(Ok(reply)),
                        Err(error) => break (permit, Some(id), error),
                    }
                }
                Err(error) => break (permit, None, error),
            }
        };
        // It cannot be written again.
        let kept = error.clone();
        attempts.failed(permit, id, error, true, deadline)?;
        attempts.over(Err(kept))
    }

    #[inline]
    pub(super) fn attempts(&self) -> Attempts<&'a RoleShared> {
        self.begin(&**self.role)
    }

    /// The attempts of a request that outlives the handle.
    pub(super) fn owned_attempts(&self) -> Attempts<Arc<RoleShared>> {
        self.begin(Arc::clone(self.role))
    }

    #[inline]
    fn begin<R: RoleRef>(&self, role: R) -> Attempts<R> {
        let attempts =
            Attempts::begin(role, self.kind, self.priority, self.key, self.is_idempotent);
        #[cfg(feature = "async")]
        let attempts = attempts.traced(self.trace);
        attempts
    }

    #[cfg(feature = "async")]
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }
}
