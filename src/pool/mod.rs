//! A pool that keeps workers alive: restarts, retries, limits, and one queue for each role.
//!
//! A [`Role`] is a kind of worker: how it is made, and how many there are. A [`Pool`] has one or
//! more. A [`RoleHandle`] sends requests to whichever worker has a place:
//!
//! ```
//! use std::time::Duration;
//!
//! use slipring::pool::{Pool, Role};
//! use slipring::worker::Worker;
//! use slipring::{Config, Kind, RoleConfig, testing};
//!
//! const SHOUT: Kind = Kind::named("shout");
//!
//! fn worker() -> Worker<()> {
//!     Worker::new(|_role| Ok(())).on(SHOUT, |(), request, responder| {
//!         Ok(responder.send(&request.text()?.to_uppercase())?)
//!     })
//! }
//!
//! # fn main() -> slipring::Result<()> {
//! // A host starts processes:
//! // `Role::new(|slot| Ok(Spawner::current_exe()?.role(slot.role.as_str())))`.
//! let role = Role::with_channels(|_| {
//!     testing::spawn_thread(&Config::small(), RoleConfig::default(), worker)
//! });
//! let pool = Pool::builder().role("shout", role.max_size(2).idempotent(SHOUT)).build()?;
//! let shout = pool.role("shout")?;
//! let reply = shout.call(SHOUT, "hello", Duration::from_secs(10))?;
//! assert_eq!(reply.text()?, "HELLO");
//! pool.close(Duration::from_secs(10))?;
//! # Ok(()) }
//! ```
//!
//! # What becomes of a request whose worker dies
//!
//! * What was not begun is sent again without asking, to another worker.
//! * What was begun, or may have been, is sent again only if its kind or the request was declared
//!   [idempotent](Role::idempotent). Otherwise it fails with
//!   [`ErrorKind::PeerDied`], which tells what it was begun beside.
//! * An idempotent request that was being served when its worker crashed is tried again, alone on a
//!   worker. If that crashes too, the request fails with [`ErrorKind::Poison`]. A death by SIGKILL,
//!   SIGTERM, SIGINT or SIGHUP is not held against it, unless memory ran out or the pool itself has
//!   killed the worker because it hung.
//! * A begun request is not sent again after [`max_attempts`](Role::max_attempts) either, nor when the
//!   [`retry_budget`](Role::retry_budget) is used up. It fails with the error of the last death.
//! * A stream that has delivered a chunk is not sent again.
//!
//! A handler's error is an answer: the request is not sent again.
//!
//! # Deadlines
//!
//! A timeout counts from the call, over all attempts.
//! [`ErrorKind::QueueTimeout`] means that the request waited too long: no worker had a place for it,
//! or the one that had it did not begin it. [`ErrorKind::Timeout`] means that a worker had begun it
//! and took too long.
//!
//! An error says of the attempts before it how often the request was sent and how each of these
//! ended: [`Error::earlier_attempts`]. That of a death says why the request is not sent again.
//!
//! # When workers cannot start
//!
//! A request waits while workers fail to start, and its [`ErrorKind::QueueTimeout`] does not tell
//! why. [`EventKind::StartFailed`] of [`Pool::events`] has the error of each failed start. Once too many
//! have failed, requests end with [`ErrorKind::Degraded`]. The last failed start is the source of that
//! error: `{:#}` shows it. Until then [`PoolHealth::is_ready`] is true.
//!
//! # Threads and tasks
//!
//! A pool has one thread, and one for each worker. All of them sleep while nothing happens. A
//! worker's wakes for each ping, four times in a `hang_timeout` if one is set, and every 1 to 100 ms
//! while the worker is at a request that was given up. A call runs on the caller's thread from its
//! begin to its end.
//!
//! [`RoleHandle::submit`] has many requests in flight from one thread. The first starts two more:
//! one of the pool's that sends requests when a worker has a place, and the one of the library's
//! that reads for tasks. [`RoleHandle::to_async`](RoleHandle) is the view for tasks of any executor,
//! with the feature `async`; its calls run on their own tasks.
//!
//! A pool hands out the chunks of a stream one by one, and a reply whole. Batches of chunks
//! ([`Stream::next_chunks`](crate::Stream::next_chunks)) and replies that are read piece by piece
//! ([`Pending::wait_reader`](crate::Pending::wait_reader)) need a [`Channel`](crate::Channel) of the
//! host's own.

mod async_call;
#[cfg(feature = "async")]
mod async_handle;
#[cfg(feature = "async")]
mod async_stream;
mod attempt;
mod attempts;
#[cfg(feature = "async")]
mod backend;
mod cancels;
mod closing;
mod core;
mod crash_row;
#[cfg(feature = "async")]
mod departure;
mod event_order;
mod events;
mod executor;
#[cfg(all(test, feature = "tokio"))]
mod forked_tests;
mod handle;
#[cfg(test)]
mod host_code_tests;
mod keeper;
mod metrics;
#[cfg(feature = "async")]
mod overflow;
mod pending;
mod permit;
#[cfg_attr(
    not(feature = "async"),
    allow(dead_code, unreachable_pub, reason = "backends need `async`")
)]
mod request;
mod role;
#[cfg(feature = "async")]
mod role_room;
#[cfg(feature = "async")]
mod room;
mod scheduler;
mod seat;
#[cfg(feature = "tower")]
mod service;
mod settings;
mod starts;
mod status_row;
mod stream;
mod stream_cancel;
mod task_wait;
mod ticker;
mod worker;

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::process::service::start_thread;
use crate::sys::clock::{Deadline, now_ns};
use crate::sys::fork;

#[cfg(feature = "async")]
pub use async_handle::{AsyncPoolRequest, AsyncRoleHandle};
#[cfg(feature = "async")]
pub use async_stream::AsyncPoolStream;
use closing::LAST_WAIT;
pub use events::{Event, EventKind, Events};
pub use handle::{PoolHealth, RoleHandle, RoleHealth, WorkerHealth};
#[cfg(feature = "metrics")]
pub use metrics::MetricsPublisher;
#[cfg(feature = "prometheus")]
pub use metrics::PoolCollector;
#[doc(hidden)]
pub use metrics::export;
pub use metrics::{
    ChannelTotals, Histogram, Outcome, PoolMetrics, RequestCount, RoleMetrics, WorkerCounts,
};
pub use pending::PoolPending;
pub use request::PoolRequest;
use role::{PoolShared, RoleShared};
pub use scheduler::{Priority, RecycleReason};
#[cfg(feature = "tower")]
pub use service::{RoleService, ServiceReply, ServiceRequest};
pub use settings::{Role, WorkerSlot};
use starts::Starts;
pub use stream::PoolStream;
use ticker::Ticker;

/// Workers of one or more roles. Dropping it does not block: requests that wait fail, and the
/// workers are ended in the background.
#[derive(Debug)]
pub struct Pool {
    roles: BTreeMap<String, Arc<RoleShared>>,
    shared: PoolShared,
}

/// Describes a pool.
#[derive(Debug, Default)]
#[must_use]
pub struct PoolBuilder {
    roles: Vec<(String, Role)>,
    max_starts: Option<usize>,
}

impl PoolBuilder {
    /// Adds a role, by the name under which [`Pool::role`] finds it. The pool takes any name. A
    /// recipe that gives it to [`Spawner::role`](crate::Spawner::role) needs one that this takes:
    /// otherwise no worker can start.
    pub fn role(mut self, name: impl Into<String>, role: Role) -> Self {
        self.roles.push((name.into(), role));
        self
    }

    /// How many workers of all roles start at the same time at most: as many as the machine has
    /// processors by default.
    pub fn max_starts(mut self, workers: usize) -> Self {
        self.max_starts = Some(workers);
        self
    }

    /// Makes the pool, and begins to start its first workers. Does not wait until they are ready:
    /// requests wait for that.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] for what cannot work, [`ErrorKind::Os`] if the pool's thread
    /// cannot be started, [`ErrorKind::Forked`] in a forked child.
    pub fn build(self) -> Result<Pool> {
        fork::watch()?;
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        let starts = self.max_starts.unwrap_or_else(processors);
        if starts == 0 {
            return Err(Error::invalid_config("max_starts of 0: no worker could start"));
        }
        if self.roles.is_empty() {
            return Err(Error::invalid_config("a pool needs a role"));
        }
        let shared = PoolShared {
            starts: Arc::new(Starts::new(starts)),
            readers: Arc::default(),
            ticker: Arc::new(Ticker::new()),
            ended: Arc::default(),
            executor: Arc::default(),
            start_worker: keeper::start,
        };
        let mut roles = BTreeMap::new();
        for (name, role) in self.roles {
            role.check(&name)?;
            let role = RoleShared::new(name.clone(), role, shared.clone());
            if roles.insert(name.clone(), role).is_some() {
                return Err(Error::invalid_config(format!("the pool has two roles named {name}")));
            }
        }
        start_ticker(&shared.ticker, roles.values().map(Arc::downgrade).collect())?;
        for role in roles.values() {
            status_row::add(role);
            role.change(|scheduler| scheduler.tick(now_ns()));
        }
        Ok(Pool { roles, shared })
    }
}

/// Starts the pool's thread. It ends with the pool.
fn start_ticker(ticker: &Arc<Ticker>, roles: Vec<Weak<RoleShared>>) -> Result<()> {
    let ticker = Arc::clone(ticker);
    let look = move || {
        // A role whose last owner this thread is drops code of the host's, which may panic.
        let look = |role: &Weak<RoleShared>| catch_unwind(|| role.upgrade()?.look()).ok()?;
        roles.iter().filter_map(look).min()
    };
    start_thread("slipring-pool", move || ticker.run(look))
        .map_err(|error| Error::os("cannot start the pool's thread", error))
}

impl Pool {
    /// Describes a pool.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::default()
    }

    /// Returns the handle on a role. Cheap; clone it for other threads. It does not keep the pool:
    /// once that is dropped, requests fail with [`ErrorKind::Closed`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if the pool has no role of this name.
    pub fn role(&self, name: &str) -> Result<RoleHandle> {
        let role = self.roles.get(name).map(Arc::clone).map(RoleHandle::new);
        role.ok_or_else(|| {
            let names: Vec<_> = self.roles.keys().map(String::as_str).collect();
            let message = format!("the pool has no role {name:?}, only {}", names.join(", "));
            Error::new(ErrorKind::InvalidInput, message)
        })
    }

    /// Returns what happens from now on. A reader that does not keep up misses events, and delays
    /// nothing: see [`PoolHealth::events_dropped`].
    ///
    /// In a forked child there are none.
    pub fn events(&self) -> Events {
        self.shared.readers.add()
    }

    /// Returns how the pool is. Never blocks for longer than a lock is held. In a forked child no role
    /// is ready, and none has a worker.
    #[must_use]
    pub fn health(&self) -> PoolHealth {
        let roles = self.roles.values().map(|role| handle::health(role)).collect();
        PoolHealth { roles, events_dropped: self.shared.readers.dropped() }
    }

    /// Returns what the pool has counted. Blocks as [`RoleHandle::metrics`] of each role.
    #[must_use]
    pub fn metrics(&self) -> PoolMetrics {
        metrics_of(self.roles.values())
    }

    /// Returns a collector of the pool's metrics, to be registered in the host's registry. When the
    /// pool is gone, it collects what was counted until then.
    #[cfg(feature = "prometheus")]
    #[must_use]
    pub fn collector(&self) -> PoolCollector {
        let roles: Vec<_> = self.roles.values().map(Arc::clone).collect();
        PoolCollector::new(move || metrics_of(&roles))
    }

    /// Returns what tells the pool's metrics to the recorder that the host has installed.
    #[cfg(feature = "metrics")]
    #[must_use]
    pub fn metrics_publisher(&self) -> MetricsPublisher {
        let roles: Vec<_> = self.roles.values().map(Arc::clone).collect();
        MetricsPublisher::new(move || metrics_of(&roles))
    }

    /// Ends the pool: takes no more requests, serves those that it has, and ends all workers at
    /// the same time. When `timeout` has passed, requests that wait fail with
    /// [`ErrorKind::Closed`], and so do those that are being served, here or
    /// elsewhere. Requests
    /// that lose their worker before that are sent again by the rules of the [module](self).
    ///
    /// Blocks until all workers have ended: beyond `timeout` for at most 15 seconds, within which
    /// those that do not end are killed. Any number of threads may call it, any number of times.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`] if a worker has not ended by then; [`ErrorKind::Forked`] in a forked
    /// child.
    pub fn close(&self, timeout: Duration) -> Result<()> {
        let deadline = self.begin_close(timeout)?;
        let is_closed = self.shared.ended.wait(deadline, || self.is_over()) || {
            self.close_now();
            self.shared.ended.wait(Deadline::after(LAST_WAIT), || self.is_over())
        };
        self.end_close(is_closed)
    }

    /// Ends the pool: as [`Pool::close`], without blocking.
    ///
    /// Cancel-safe: once it has been polled the pool takes no more requests. Dropped then, it goes
    /// on with those that it has; call this or [`Pool::close`] again, or drop the pool.
    ///
    /// # Errors
    ///
    /// As [`Pool::close`].
    #[cfg(feature = "async")]
    pub async fn close_async(&self, timeout: Duration) -> Result<()> {
        let deadline = self.begin_close(timeout)?;
        let is_closed = task_wait::until(deadline, || self.is_over()).await || {
            self.close_now();
            task_wait::until(Deadline::after(LAST_WAIT), || self.is_over()).await
        };
        self.end_close(is_closed)
    }

    /// Takes no more requests. Returns until when those that it has are served.
    fn begin_close(&self, timeout: Duration) -> Result<Deadline> {
        fork::check()?;
        let deadline = Deadline::after(timeout);
        for role in self.roles.values() {
            role.change(|scheduler| scheduler.close(now_ns()));
        }
        Ok(deadline)
    }

    /// Whether all workers have ended.
    fn is_over(&self) -> bool {
        self.roles.values().all(|role| role.change(|scheduler| scheduler.is_over()))
    }

    fn close_now(&self) {
        for role in self.roles.values() {
            role.close_now();
        }
    }

    fn end_close(&self, is_closed: bool) -> Result<()> {
        self.shared.ticker.end();
        self.shared.executor.end();
        self.shared.readers.end();
        match is_closed {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Timeout, "a worker of the pool has not ended")),
        }
    }
}

fn metrics_of<'a>(roles: impl IntoIterator<Item = &'a Arc<RoleShared>>) -> PoolMetrics {
    PoolMetrics { roles: roles.into_iter().map(|role| handle::metrics(role)).collect() }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if fork::is_forked_child() {
            return;
        }
        self.close_now();
        self.shared.ticker.end();
        self.shared.executor.end();
    }
}
