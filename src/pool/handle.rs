//! What a host holds of a role.

use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "async")]
use super::async_handle::AsyncRoleHandle;
use super::metrics::{ChannelTotals, RoleMetrics};
use super::pending::PoolPending;
use super::request::PoolRequest;
use super::role::{NO_LOAD, RoleShared, public};
use super::settings::Role;
use super::stream::PoolStream;
use crate::channel::{Channel, MessageWriter, Reply, StreamTimeouts};
use crate::error::{Overload, Result};
use crate::id::RequestId;
use crate::payload::Payload;
use crate::protocol::{Health, Kind};
use crate::sys::clock::now_ns;
use crate::sys::fork;

/// Sends requests to the workers of one role. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RoleHandle(Arc<RoleShared>);

/// How a pool is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PoolHealth {
    /// How each role is, by name.
    pub roles: Vec<RoleHealth>,
    /// How many events were dropped because their reader did not keep up.
    pub events_dropped: u64,
}

impl PoolHealth {
    /// Whether each role can serve, or will by itself.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.roles.iter().all(|role| role.is_ready)
    }
}

/// How a role is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RoleHealth {
    /// The role's name.
    pub role: String,
    /// Whether the role takes requests: not if the pool is closed, or if the role is degraded and has
    /// no worker. True while the first workers load; requests wait then. To know whether one is
    /// ready, look for [`WorkerState::Idle`](crate::WorkerState::Idle) or `Busy` in `workers`.
    pub is_ready: bool,
    /// Whether its workers have failed too often.
    pub is_degraded: bool,
    /// How full it is, whether requests are refused or not.
    pub load: Overload,
    /// Its workers, from their start to their end.
    pub workers: Vec<WorkerHealth>,
}

/// How a worker of a role is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WorkerHealth {
    /// The number of its place.
    pub index: usize,
    /// Its process id, once it is started.
    pub pid: Option<u32>,
    /// Whether its process lives and its channel is open.
    pub is_alive: bool,
    /// What it says of itself, as it stands in shared memory, once it is started.
    pub health: Option<Health>,
}

impl RoleHandle {
    pub(super) fn new(role: Arc<RoleShared>) -> Self {
        Self(role)
    }

    /// Returns the role's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Sends a request to a worker that has a place, and waits for its reply. Blocks until the
    /// reply comes, or until `timeout` has passed, over all attempts. `Duration::MAX` waits for as
    /// long as it takes.
    ///
    /// The request is sent again if a worker dies, by the rules of the [module](super). It is
    /// encoded anew for each attempt.
    ///
    /// # Errors
    ///
    /// Those of [`Channel::call`], but [`ErrorKind::PeerDied`] and `PeerCorrupt` only if the request
    /// is not sent again. Of the pool: [`ErrorKind::QueueTimeout`] if no worker had a place in time,
    /// [`ErrorKind::Overloaded`] if as many requests as allowed wait, [`ErrorKind::Degraded`] if
    /// workers fail too often, [`ErrorKind::Poison`]; [`ErrorKind::Closed`] if the pool is closed;
    /// [`ErrorKind::Forked`] in a forked child.
    ///
    /// [`ErrorKind::QueueTimeout`]: crate::ErrorKind::QueueTimeout
    /// [`ErrorKind::Overloaded`]: crate::ErrorKind::Overloaded
    /// [`ErrorKind::Degraded`]: crate::ErrorKind::Degraded
    /// [`ErrorKind::Poison`]: crate::ErrorKind::Poison
    /// [`ErrorKind::PeerDied`]: crate::ErrorKind::PeerDied
    /// [`ErrorKind::Closed`]: crate::ErrorKind::Closed
    /// [`ErrorKind::Forked`]: crate::ErrorKind::Forked
    pub fn call<P: Payload + ?Sized>(
        &self,
        kind: Kind,
        payload: &P,
        timeout: Duration,
    ) -> Result<Reply> {
        self.request(kind).call(payload, timeout)
    }

    /// Sends a request and returns the stream of its chunks. Blocks until it is sent: for at most
    /// the queue timeout or the total of `timeouts`.
    ///
    /// If the worker dies before the first chunk was delivered, the request is sent again by the
    /// rules of the [module](super). The queue timeout bounds its waits altogether: each attempt has
    /// what the waits before it have left. The time in which a worker was at the request does not
    /// count. A wait that is too long for a worker ends with
    /// [`ErrorKind::QueueTimeout`](crate::ErrorKind::QueueTimeout), and
    /// [`Error::stream_timeout`](crate::Error::stream_timeout) says which timeout it was.
    ///
    /// # Errors
    ///
    /// As [`RoleHandle::call`], and those of [`Channel::stream`].
    pub fn stream<'a, P: Payload + ?Sized>(
        &'a self,
        kind: Kind,
        payload: &'a P,
        timeouts: impl Into<StreamTimeouts>,
    ) -> Result<PoolStream<'a, P>> {
        self.request(kind).stream(payload, timeouts)
    }

    /// Takes a request, whose reply is waited for later: many may be in flight from one thread.
    /// Never blocks.
    ///
    /// The request is sent at once if a worker has a place. If not, it waits in the role's queue,
    /// with a copy of its payload, and is sent when a worker has one, although no caller waits for it.
    /// A reply is copied, too, and its worker's place is free for the next request. `timeout` counts
    /// from this call. It is sent again as that of a call is.
    ///
    /// The workers' channels must be [pollable](crate::Spawner::pollable): those of
    /// [`Role::new`] are. The pool starts one thread for all requests that are submitted, at the
    /// first.
    ///
    /// [`PoolPending`] has an example.
    ///
    /// # Errors
    ///
    /// An error that is known at once, as of an overload, is returned here, others by
    /// [`PoolPending::wait`]. They are those of [`RoleHandle::call`],
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) if the worker's channel is not
    /// pollable, and [`ErrorKind::Os`](crate::ErrorKind::Os) if a thread cannot be started.
    pub fn submit<P: Payload + ?Sized>(
        &self,
        kind: Kind,
        payload: &P,
        timeout: Duration,
    ) -> Result<PoolPending> {
        self.request(kind).submit(payload, timeout)
    }

    /// Cancels a submitted request by its [id](PoolPending::id), or a stream by its
    /// [id](PoolStream::id), from any thread and without waiting: as [`PoolPending::cancel`] and
    /// [`PoolStream::cancel`]. Does nothing if its pending reply or its stream is gone.
    ///
    /// Calls and messages that are written have no id that a caller learns before their end. A
    /// task cancels its own by dropping the future; a call of a thread ends with its reply or its
    /// timeout. An error that the closure of [`RoleHandle::write`] returns cancels the message.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Forked`](crate::ErrorKind::Forked) in a forked child.
    pub fn cancel(&self, id: RequestId) -> Result<()> {
        fork::check()?;
        self.0.cancels.cancel(id.get());
        Ok(())
    }

    /// Sends a message that `write` writes in parts, and whose length need not be known, and waits
    /// for its reply. Blocks as [`Channel::write`] and [`RoleHandle::call`] do. An error of `write`
    /// cancels the message and is returned.
    ///
    /// It is sent once: if its worker dies after `write` was called, it fails.
    ///
    /// ```no_run
    /// # fn example(vision: &slipring::pool::RoleHandle) -> slipring::Result<()> {
    /// # let pages: Vec<Vec<u8>> = Vec::new();
    /// use std::time::Duration;
    ///
    /// use slipring::Kind;
    ///
    /// let reply = vision.write(Kind::VISION, Duration::from_secs(60), |message| {
    ///     pages.iter().try_for_each(|page| message.push(page))
    /// })?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`RoleHandle::call`], and those of [`Channel::write`] and of `write`.
    pub fn write(
        &self,
        kind: Kind,
        timeout: Duration,
        write: impl FnOnce(&mut MessageWriter<'_>) -> Result<()>,
    ) -> Result<Reply> {
        self.request(kind).write(timeout, write)
    }

    /// Returns the handle for tasks.
    #[cfg(feature = "async")]
    #[must_use]
    pub fn to_async(&self) -> AsyncRoleHandle {
        AsyncRoleHandle::new(Arc::clone(&self.0))
    }

    /// Describes a request of this kind, for a priority, a key, or another idempotence than the
    /// role's.
    pub fn request(&self, kind: Kind) -> PoolRequest<'_> {
        PoolRequest::new(&self.0, kind, self.0.is_idempotent(kind))
    }

    /// Asks each worker of the role's own for a report, one after another. Blocks for at most `timeout`
    /// for each. The
    /// reports do not name their worker: see [`RoleHealth::workers`].
    ///
    /// # Errors
    ///
    /// None of its own: each worker's report, or why there is none, as [`Channel::ping`].
    pub fn ping(&self, timeout: Duration) -> Vec<Result<Health>> {
        self.0.on_channels(|channel| channel.ping(timeout))
    }

    /// Sets the abort flag of each worker that is there: as [`Channel::abort`]. Workers that start
    /// later have it not set. Those to which requests [overflow](Role::overflow) get it, too.
    pub fn abort(&self) {
        self.0.abort();
    }

    /// Resets the abort flag of each worker: as [`Channel::clear_abort`].
    pub fn clear_abort(&self) {
        self.0.clear_abort();
    }

    /// Replaces all workers, one after another, by those that `role` describes. Takes from `role` the
    /// recipe, the idempotent kinds, the names of kinds, `max_rss`, and the start, stop, hang and ping
    /// times. **Declare idempotent kinds again: those of before are forgotten.** All else, such as
    /// sizes, lifetimes, backoff and retries, stays as it was. Fails no request. Does not block.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for what cannot work,
    /// [`ErrorKind::Forked`](crate::ErrorKind::Forked) in a forked child.
    pub fn reload(&self, role: Role) -> Result<()> {
        fork::check()?;
        role.check(self.name())?;
        self.0.set_recipe(role);
        Ok(())
    }

    /// Forgets all failures of workers: what waits for its backoff is started at once, and a
    /// degraded role is not degraded any more. Does nothing in a forked child.
    pub fn reset(&self) {
        if fork::is_forked_child() {
            return;
        }
        self.0.change(|scheduler| scheduler.reset(now_ns()));
    }

    /// Returns how the role is. In a forked child it is not ready, and has no worker.
    #[must_use]
    pub fn health(&self) -> RoleHealth {
        health(&self.0)
    }

    /// Returns what the role has counted. Blocks no longer than [`Channel::stats`] of each worker. In a
    /// forked child: what it had counted before the fork, without its load and its channels.
    #[must_use]
    pub fn metrics(&self) -> RoleMetrics {
        metrics(&self.0)
    }
}

pub(super) fn health(role: &RoleShared) -> RoleHealth {
    if fork::is_forked_child() {
        let (role, load, workers) = (role.name.clone(), public(NO_LOAD), Vec::new());
        return RoleHealth { role, is_ready: false, is_degraded: false, load, workers };
    }
    let (is_ready, is_degraded, load) = role.change(|scheduler| {
        (scheduler.is_ready(), scheduler.is_degraded(), scheduler.overload(now_ns()))
    });
    let workers = role.workers();
    let worker = |(id, worker): &(super::scheduler::WorkerId, Arc<super::worker::Worker>)| {
        let channel = worker.channel();
        WorkerHealth {
            index: id.slot,
            pid: channel.map(Channel::pid),
            is_alive: channel.is_some_and(Channel::is_alive),
            health: channel.map(Channel::health),
        }
    };
    RoleHealth {
        role: role.name.clone(),
        is_ready,
        is_degraded,
        load: public(load),
        workers: workers.iter().map(worker).collect(),
    }
}

pub(super) fn metrics(role: &RoleShared) -> RoleMetrics {
    metrics_at(role, now_ns())
}

/// As [`metrics`]: what waits does so at `now`.
pub(super) fn metrics_at(role: &RoleShared, now: u64) -> RoleMetrics {
    if fork::is_forked_child() {
        let (load, channels) = (public(NO_LOAD), ChannelTotals::default());
        return role.metrics.snapshot(role.name.clone(), load, channels, |kind| kind.to_string());
    }
    let load = role.change(|scheduler| scheduler.overload(now));
    let ended = role.metrics.ended();
    let mut channels = *ended;
    for (_, worker) in role.workers() {
        let Some(channel) = worker.channel() else { continue };
        let stats = channel.stats();
        channels.add(&stats);
        channels.add_present(&stats, channel.config());
    }
    drop(ended);
    let settings = role.settings();
    role.metrics.snapshot(role.name.clone(), public(load), channels, |kind| settings.name_of(kind))
}
