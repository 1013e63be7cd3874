//! What a host sees of a role's counters.

use super::super::scheduler::RecycleReason;
use super::histogram::Histogram;
use super::requests::Outcome;
use crate::error::{ErrorKind, Overload};
use crate::protocol::Kind;

/// The counters of a pool, from [`Pool::metrics`](crate::pool::Pool::metrics).
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PoolMetrics {
    /// Those of each role, by name.
    pub roles: Vec<RoleMetrics>,
}

/// The counters of a role since the pool was built, from
/// [`RoleHandle::metrics`](crate::pool::RoleHandle::metrics).
///
/// All numbers but `load` and those of `channels` that say so only grow, also when workers die.
///
/// ```
/// # use std::time::Duration;
/// # use slipring::pool::{Outcome, Pool, Role};
/// # use slipring::{Config, Kind, RoleConfig, testing, worker::Worker};
/// # const ECHO: Kind = Kind::named("echo");
/// # fn main() -> slipring::Result<()> {
/// # let make = || Worker::new(|_| Ok(()))
/// #     .on(ECHO, |(), request, responder| Ok(responder.send(&request.to_vec())?));
/// # let role = Role::with_channels(move |_| {
/// #     testing::spawn_thread(&Config::small(), RoleConfig::default(), make)
/// # });
/// let pool = Pool::builder().role("echo", role.kind_name(ECHO, "echo")).build()?;
/// let echo = pool.role("echo")?;
/// echo.call(ECHO, "hello", Duration::from_secs(10))?;
/// let metrics = echo.metrics();
/// assert_eq!(metrics.requests_with(Outcome::Answered), 1);
/// assert_eq!(metrics.requests[0].kind_name, "echo");
/// let median = metrics.service_times.quantile(0.5);
/// assert!(median.is_some_and(|time| time <= metrics.service_times.sum() * 33 / 32));
/// # pool.close(Duration::from_secs(10)) }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RoleMetrics {
    /// The role's name.
    pub role: String,
    /// Requests that have ended, by kind and outcome. Each request counts once, however often it
    /// was sent. Counts of zero are left out.
    pub requests: Vec<RequestCount>,
    /// How long requests waited for a worker: those that got one, also at once, and those that
    /// left the queue, such as for a timeout. A request that is sent again waits again. A request
    /// that was refused at once did not wait, and is not counted.
    pub queue_times: Histogram,
    /// How long requests had a worker: from the moment at which they got it until they gave it
    /// back, or until their callers gave up. One time for each attempt.
    pub service_times: Histogram,
    /// How often a request was sent again that its dead worker had not begun.
    pub resent_unbegun: u64,
    /// How often a request was sent again that its dead worker had begun, or may have.
    pub resent_begun: u64,
    /// How often a request went to the backend that the role [overflows](crate::pool::Role::overflow)
    /// to.
    pub overflowed: u64,
    /// How often one came back from there, as it was not begun.
    pub overflowed_back: u64,
    /// What has become of workers.
    pub workers: WorkerCounts,
    /// How full the role is now.
    pub load: Overload,
    /// What the channels to the workers have counted.
    pub channels: ChannelTotals,
}

impl RoleMetrics {
    /// Returns how many requests have ended like this, of all kinds.
    #[must_use]
    pub fn requests_with(&self, outcome: Outcome) -> u64 {
        self.requests.iter().filter(|each| each.outcome == outcome).map(|each| each.count).sum()
    }

    /// Returns how many requests were refused: [`ErrorKind::Overloaded`], [`ErrorKind::Degraded`]
    /// and [`ErrorKind::Closed`].
    #[must_use]
    pub fn refused(&self) -> u64 {
        let refusals = [ErrorKind::Overloaded, ErrorKind::Degraded, ErrorKind::Closed];
        refusals.into_iter().map(|kind| self.requests_with(Outcome::Failed(kind))).sum()
    }
}

/// How many requests of a kind ended in a way.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestCount {
    /// The kind. `None` for all beyond the first 32 kinds of a role, which are counted together.
    pub kind: Option<Kind>,
    /// Its name: as [`Role::kind_name`](crate::pool::Role::kind_name) says, or one that is made of
    /// its code.
    pub kind_name: String,
    /// How they ended.
    pub outcome: Outcome,
    /// How many there were.
    pub count: u64,
}

/// What has become of a role's workers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct WorkerCounts {
    /// Workers that were started.
    pub started: u64,
    /// Those of them that replace one that was lost, with those that are about to be started.
    pub restarted: u64,
    /// Workers that could not be started, or that died before they were ready.
    pub failed_to_start: u64,
    /// Workers that died while they served a request.
    pub died_serving: u64,
    /// Workers that died by themselves without a request.
    pub died_idle: u64,
    /// Workers that were killed from outside while they had no request.
    pub killed_idle: u64,
    /// Workers that the pool has killed because a request made no progress. They are also among
    /// those that died.
    pub hung: u64,
    /// Workers that were replaced or ended although they could go on, by reason.
    pub recycled: Vec<(RecycleReason, u64)>,
}

/// What the channels to a role's workers have counted: of those that are there and of those that
/// have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ChannelTotals {
    /// Bytes of the payloads that were sent.
    pub bytes_sent: u64,
    /// Bytes of the payloads that came.
    pub bytes_received: u64,
    /// Chunks that came for streams.
    pub chunks: u64,
    /// Waits that began by spinning.
    pub spins: u64,
    /// Waits that went to sleep.
    pub parks: u64,
    /// Times that a sleeping worker was woken for a request.
    pub wakes: u64,
    /// Frames that were recorded.
    pub recorded_frames: u64,
    /// Frames that were left out of a recording, as its queue or the disk was full.
    pub unrecorded_frames: u64,
    /// The most bytes that were in one request ring when it seemed full.
    pub ring_high_water: u64,
    /// The most bytes that were in one reply ring when it seemed full, as the workers say: as
    /// [`Stats::reply_ring_high_water`](crate::Stats::reply_ring_high_water).
    pub reply_ring_high_water: u64,
    /// Workers that are there now.
    pub workers: u64,
    /// Bytes in the request rings of the workers that are there now, altogether.
    pub ring_used: u64,
    /// The capacity of these rings in bytes, altogether.
    pub ring_capacity: u64,
    /// Bytes in the reply rings of the workers that are there now, altogether: as
    /// [`Stats::reply_ring_used`](crate::Stats::reply_ring_used).
    pub reply_ring_used: u64,
    /// The capacity of these rings in bytes, altogether.
    pub reply_ring_capacity: u64,
    /// Replies and chunks that are held and keep room in a reply ring.
    pub reply_leases: u64,
}
