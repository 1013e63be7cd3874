//! What an async host holds of a role.

use std::sync::Arc;
use std::time::Duration;

use super::async_stream::{AsyncPoolStream, Request};
use super::attempts::Attempts;
use super::closing::LAST_WAIT;
use super::overflow::Overflow;
use super::pending::PoolPending;
use super::request::PoolRequest;
use super::role::RoleShared;
use super::role_room::RoleRoom;
use super::scheduler::{Load, Priority};
use super::{async_call, task_wait};
use crate::channel::{Observer, Progress};
use crate::channel::{Reply, StreamDeadlines, StreamTimeouts};
use crate::error::{Error, ErrorKind, Result};
use crate::payload::{Payload, SharedPayload, encoded_bytes, in_memory};
use crate::protocol::{Health, Kind};
use crate::sys::clock::{Deadline, now_ns};
use crate::sys::fork;
use crate::tasks::{AsyncMessageWriter, health};
use crate::trace_context::TraceContext;

/// Sends requests to the workers of one role, from tasks of any executor:
/// [`RoleHandle::to_async`](super::RoleHandle::to_async). Cheap to clone. Threads and tasks may use
/// one role at the same time.
///
/// The workers' channels must be [pollable](crate::Spawner::pollable): those of
/// [`Role::new`](super::Role::new) are.
///
/// ```
/// # use std::time::Duration;
/// # use slipring::pool::{Pool, Role};
/// # use slipring::{Config, Kind, RoleConfig, testing, worker::Worker};
/// # const ECHO: Kind = Kind::named("echo");
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let make = || Worker::new(|_| Ok(()))
/// #     .on(ECHO, |(), request, responder| Ok(responder.send(&request.to_vec())?));
/// # let role = Role::with_channels(move |_| {
/// #     testing::spawn_thread(&Config::small(), RoleConfig::default(), make)
/// # });
/// # let pool = Pool::builder().role("echo", role.max_size(2).idempotent(ECHO)).build()?;
/// # let timeout = Duration::from_secs(10);
/// let echo = pool.role("echo")?.to_async();
/// # #[cfg(feature = "tokio")]
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// assert_eq!(echo.call(ECHO, "hello", timeout).await?.text()?, "hello");
/// // Many at the same time.
/// let (first, second) = (echo.submit(ECHO, "1", timeout)?, echo.submit(ECHO, "2", timeout)?);
/// assert_eq!(second.await?.text()?, "2");
/// assert_eq!(first.await?.text()?, "1");
/// # Ok::<(), slipring::Error>(())
/// # })?;
/// # Ok(pool.close(timeout)?) }
/// ```
#[derive(Debug, Clone)]
pub struct AsyncRoleHandle(Arc<RoleShared>);

/// A request that is about to be made by a task: as [`PoolRequest`](super::PoolRequest).
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct AsyncPoolRequest<'a>(PoolRequest<'a>);

impl AsyncRoleHandle {
    pub(super) fn new(role: Arc<RoleShared>) -> Self {
        Self(role)
    }

    /// Returns the role's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Sends a request to a worker that has a place, and awaits its reply: as
    /// [`RoleHandle::call`](super::RoleHandle::call).
    ///
    /// Cancel-safe: dropped at any await, the request leaves the queue, or it is cancelled. Its
    /// worker's place is free again when the worker is done with it.
    ///
    /// # Errors
    ///
    /// As [`RoleHandle::call`](super::RoleHandle::call);
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) if the worker's channel is not
    /// pollable; [`ErrorKind::Os`](crate::ErrorKind::Os) if the thread that reads for tasks cannot
    /// be started.
    pub async fn call<P: Payload + ?Sized>(
        &self,
        kind: Kind,
        payload: &P,
        timeout: Duration,
    ) -> Result<Reply> {
        self.request(kind).call(payload, timeout).await
    }

    /// Sends a request and returns the stream of its chunks: as
    /// [`RoleHandle::stream`](super::RoleHandle::stream). The future waits until the request is
    /// sent.
    ///
    /// Cancel-safe, as [`AsyncRoleHandle::call`].
    ///
    /// # Errors
    ///
    /// As [`RoleHandle::stream`](super::RoleHandle::stream) and [`AsyncRoleHandle::call`].
    pub async fn stream<P: Payload + ?Sized>(
        &self,
        kind: Kind,
        payload: &P,
        timeouts: impl Into<StreamTimeouts>,
    ) -> Result<AsyncPoolStream> {
        self.request(kind).stream(payload, timeouts).await
    }

    /// Takes a request, whose reply is awaited later: as
    /// [`RoleHandle::submit`](super::RoleHandle::submit). Never blocks.
    ///
    /// # Errors
    ///
    /// As [`RoleHandle::submit`](super::RoleHandle::submit).
    pub fn submit<P: Payload + ?Sized>(
        &self,
        kind: Kind,
        payload: &P,
        timeout: Duration,
    ) -> Result<PoolPending> {
        self.request(kind).submit(payload, timeout)
    }

    /// Sends a message that `write` writes in parts, and awaits its reply: as
    /// [`RoleHandle::write`](super::RoleHandle::write). An error of `write` cancels the message and
    /// is returned. It is sent once: if its worker dies after `write` was called, it fails.
    ///
    /// Cancel-safe, as [`AsyncRoleHandle::call`]: dropped before its end, the message is cancelled.
    ///
    /// ```no_run
    /// # async fn example(vision: &slipring::pool::AsyncRoleHandle) -> slipring::Result<()> {
    /// # let pages: Vec<Vec<u8>> = Vec::new();
    /// use std::time::Duration;
    ///
    /// use slipring::Kind;
    ///
    /// let write = vision.write(Kind::VISION, Duration::from_secs(60), async |message| {
    ///     for page in &pages {
    ///         message.push(page).await?;
    ///     }
    ///     Ok(())
    /// });
    /// let reply = write.await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`RoleHandle::write`](super::RoleHandle::write) and [`AsyncRoleHandle::call`].
    pub async fn write(
        &self,
        kind: Kind,
        timeout: Duration,
        write: impl AsyncFnOnce(&mut AsyncMessageWriter<'_>) -> Result<()>,
    ) -> Result<Reply> {
        self.request(kind).write(timeout, write).await
    }

    /// Sets the abort flag of each worker that is there: as
    /// [`RoleHandle::abort`](super::RoleHandle::abort). Does not block.
    pub fn abort(&self) {
        self.0.abort();
    }

    /// Resets the abort flag of each worker. Does not block.
    pub fn clear_abort(&self) {
        self.0.clear_abort();
    }

    /// How much the role has to do.
    pub(crate) fn load(&self) -> Load {
        // In a forked child a thread may hold the lock for ever.
        if fork::is_forked_child() {
            return Load::default();
        }
        self.0.change(|scheduler| scheduler.load())
    }

    /// The workers to which its requests overflow.
    pub(super) fn overflow(&self) -> Option<&Overflow> {
        self.0.overflow.as_ref()
    }

    /// The same if the role has no workers of its own.
    pub(super) fn others_alone(&self) -> Option<&Overflow> {
        self.overflow().filter(|_| !self.0.has_workers)
    }

    /// Completes when the role has a place that it had not.
    pub(super) fn room(&self) -> RoleRoom {
        RoleRoom::new(Arc::clone(&self.0))
    }

    /// Ends the role, as [`Pool::close_async`](super::Pool::close_async) ends all.
    pub(crate) async fn close_role(&self, timeout: Duration) -> Result<()> {
        fork::check()?;
        let deadline = Deadline::after(timeout);
        self.0.change(|scheduler| scheduler.close(now_ns()));
        let is_over = || self.0.change(|scheduler| scheduler.is_over());
        let is_closed = task_wait::until(deadline, is_over).await || {
            self.0.close_now();
            task_wait::until(Deadline::after(LAST_WAIT), is_over).await
        };
        if is_closed {
            return Ok(());
        }
        let message = format!("a worker of role {} has not ended", self.name());
        Err(Error::new(ErrorKind::Timeout, message))
    }

    /// Describes a request of this kind, for a priority, a key, or another idempotence than the
    /// role's.
    pub fn request(&self, kind: Kind) -> AsyncPoolRequest<'_> {
        AsyncPoolRequest(PoolRequest::new(&self.0, kind, self.0.is_idempotent(kind)))
    }

    /// Asks each worker for a report, one after another. Waits for at most `timeout` for each.
    ///
    /// Cancel-safe: an answer that comes later is dropped.
    ///
    /// # Errors
    ///
    /// None of its own: each worker's report, or why there is none, as
    /// [`AsyncChannel::ping`](crate::tasks::AsyncChannel::ping).
    pub async fn ping(&self, timeout: Duration) -> Vec<Result<Health>> {
        let mut reports = Vec::new();
        for (_, worker) in self.0.workers() {
            let Some(channel) = worker.channel() else { continue };
            reports.push(match worker.core_for_tasks() {
                Ok(_) => health::ping(channel, timeout).await,
                Err(error) => Err(error),
            });
        }
        reports
    }
}

impl<'a> AsyncPoolRequest<'a> {
    /// Whether the request may be served twice: as its role says by default.
    pub fn idempotent(self, is_idempotent: bool) -> Self {
        Self(self.0.idempotent(is_idempotent))
    }

    /// How important the request is among those that wait.
    pub fn priority(self, priority: Priority) -> Self {
        Self(self.0.priority(priority))
    }

    /// Sends requests with the same key to the same worker: as
    /// [`PoolRequest::key`](super::PoolRequest::key).
    pub fn key(self, key: u64) -> Self {
        Self(self.0.key(key))
    }

    /// Says which trace the request is part of: as
    /// [`PoolRequest::trace`](super::PoolRequest::trace).
    pub fn trace(self, trace: &'a TraceContext) -> Self {
        Self(self.0.trace(trace))
    }

    /// Sends the request and awaits its reply: as [`AsyncRoleHandle::call`].
    ///
    /// # Errors
    ///
    /// As [`AsyncRoleHandle::call`].
    pub async fn call<P: Payload + ?Sized>(self, payload: &P, timeout: Duration) -> Result<Reply> {
        fork::check()?;
        let now = now_ns();
        let deadline = Deadline::from(now, timeout);
        let (kind, observer) = (self.0.kind(), Observer::default());
        async_call::call(self.0.attempts(), kind, payload, now, deadline, observer).await
    }

    /// As [`AsyncPoolRequest::call`], of a request that has come by so many hosts, and says how far it is.
    pub(crate) async fn call_observed<P: Payload + ?Sized>(
        self,
        hops: u32,
        payload: &P,
        timeout: Duration,
        progress: Progress,
    ) -> Result<Reply> {
        fork::check()?;
        let now = now_ns();
        let deadline = Deadline::from(now, timeout);
        let (kind, observer) = (self.0.kind(), Observer::new(progress));
        let attempts = self.0.attempts().came_by(hops);
        async_call::call(attempts, kind, payload, now, deadline, observer).await
    }

    /// Sends the request and returns the stream of its chunks: as [`AsyncRoleHandle::stream`].
    ///
    /// # Errors
    ///
    /// As [`AsyncRoleHandle::stream`].
    pub async fn stream<P: Payload + ?Sized>(
        self,
        payload: &P,
        timeouts: impl Into<StreamTimeouts>,
    ) -> Result<AsyncPoolStream> {
        fork::check()?;
        let deadlines = timeouts.into().start();
        let payload = Arc::new(encoded_bytes(payload)?);
        let attempts = self.0.owned_attempts();
        self.begin_stream(attempts, payload, deadlines, Observer::default()).await
    }

    /// As [`AsyncPoolRequest::stream`], of a payload that the request keeps, and says how far the
    /// request is.
    pub(crate) async fn stream_observed(
        self,
        hops: u32,
        payload: SharedPayload,
        timeouts: StreamTimeouts,
        progress: Progress,
    ) -> Result<AsyncPoolStream> {
        fork::check()?;
        let deadlines = timeouts.start();
        let attempts = self.0.owned_attempts().open_ended().came_by(hops);
        self.begin_stream(attempts, in_memory(payload)?, deadlines, Observer::new(progress)).await
    }

    async fn begin_stream(
        self,
        attempts: Attempts<Arc<RoleShared>>,
        payload: SharedPayload,
        deadlines: StreamDeadlines,
        observer: Observer,
    ) -> Result<AsyncPoolStream> {
        let attempts = attempts.cancellable();
        let kind = self.0.kind();
        AsyncPoolStream::begin(Request { attempts, kind, payload, deadlines, observer }).await
    }

    /// Sends a message that `write` writes in parts, and awaits its reply: as
    /// [`AsyncRoleHandle::write`].
    ///
    /// # Errors
    ///
    /// As [`AsyncRoleHandle::write`].
    pub async fn write(
        self,
        timeout: Duration,
        write: impl AsyncFnOnce(&mut AsyncMessageWriter<'_>) -> Result<()>,
    ) -> Result<Reply> {
        fork::check()?;
        let now = now_ns();
        let deadline = Deadline::from(now, timeout);
        async_call::write(self.0.attempts(), self.0.kind(), now, deadline, write).await
    }

    /// Takes the request, whose reply is awaited later: as [`AsyncRoleHandle::submit`].
    ///
    /// # Errors
    ///
    /// As [`AsyncRoleHandle::submit`].
    pub fn submit<P: Payload + ?Sized>(
        self,
        payload: &P,
        timeout: Duration,
    ) -> Result<PoolPending> {
        self.0.submit(payload, timeout)
    }

    /// As [`AsyncPoolRequest::submit`], of a payload that the request keeps, and says how far the
    /// request is.
    pub(crate) fn submit_observed(
        self,
        hops: u32,
        payload: SharedPayload,
        timeout: Duration,
        progress: Progress,
    ) -> Result<PoolPending> {
        fork::check()?;
        let now = now_ns();
        let (payload, attempts) = (in_memory(payload)?, self.0.owned_attempts().came_by(hops));
        self.0.submit_owned(attempts, payload, now, timeout, Observer::new(progress))
    }
}
