//! What a role is: how its workers are made, how many there are, and what bounds them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::scheduler::Limits;
#[cfg(feature = "async")]
use crate::backend::Backend;
use crate::channel::{Channel, Spawner};
use crate::error::{Error, Result};
use crate::protocol::Kind;
use crate::protocol::role::is_name;

/// The most workers of a role that serve, and the most spares.
const MOST_WORKERS: usize = 4096;

/// Makes one worker.
type Recipe = Arc<dyn Fn(&WorkerSlot) -> Result<Channel> + Send + Sync>;

/// The place of a worker that is about to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerSlot {
    /// The name of the worker's role.
    pub role: String,
    /// The place's number, from 0 on. No two workers of a role have the same at the same time, so
    /// that it can stand for a device. There are as many places as `max_size`, spares, and one
    /// more for replacements unless the role is [`stop_first`](Role::stop_first).
    pub index: usize,
    /// How many workers this place had before.
    pub restarts: u64,
}

/// Describes a role of a pool: a kind of worker, with its limits.
///
/// Limits that cannot work are refused by [`PoolBuilder::build`](super::PoolBuilder::build).
///
/// ```
/// use std::time::Duration;
///
/// use slipring::pool::Role;
/// use slipring::{Kind, Spawner};
///
/// let embed = Role::new(|worker| {
///     // Four devices, numbered 0 to 3: no fifth worker runs while one is replaced.
///     Ok(Spawner::current_exe()?.role("embed").env("CUDA_VISIBLE_DEVICES", worker.index.to_string()))
/// })
/// .min_idle(4)
/// .max_size(4)
/// .stop_first()
/// .max_requests(100_000)
/// .idempotent(Kind::EMBED);
/// ```
#[derive(Clone)]
#[must_use]
pub struct Role {
    pub(super) recipe: Recipe,
    pub(super) limits: Limits,
    pub(super) idempotent: BTreeSet<Kind>,
    pub(super) kind_names: BTreeMap<Kind, String>,
    pub(super) start_timeout: Duration,
    pub(super) stop_timeout: Duration,
    pub(super) hang_timeout: Option<Duration>,
    pub(super) ping_interval: Duration,
    pub(super) max_rss: Option<u64>,
    #[cfg(feature = "async")]
    pub(super) overflow: Option<Arc<dyn Backend>>,
    #[cfg(feature = "tokio")]
    pub(super) runtime: Option<tokio::runtime::Handle>,
}

impl Role {
    /// Describes a role whose workers are started by the spawners that `recipe` makes. It is
    /// called on a thread of the pool's for each worker that is started. It may block; that does not
    /// count towards the start timeout. The pool does not set the spawner's
    /// [`role`](Spawner::role), which the worker sees and logs show: set it to
    /// [`WorkerSlot::role`].
    pub fn new(recipe: impl Fn(&WorkerSlot) -> Result<Spawner> + Send + Sync + 'static) -> Self {
        Self::with_channels(move |worker| recipe(worker)?.pollable().spawn())
    }

    /// Describes a role whose workers `recipe` starts itself, such as threads in tests by
    /// `testing::spawn_thread` (feature `testing`). For
    /// [`RoleHandle::submit`](super::RoleHandle::submit) and the async view the channels must be
    /// [pollable](Spawner::pollable).
    pub fn with_channels(
        recipe: impl Fn(&WorkerSlot) -> Result<Channel> + Send + Sync + 'static,
    ) -> Self {
        Self {
            recipe: Arc::new(recipe),
            limits: Limits::default(),
            idempotent: BTreeSet::new(),
            kind_names: BTreeMap::new(),
            start_timeout: Duration::from_secs(300),
            stop_timeout: Duration::from_secs(10),
            hang_timeout: None,
            ping_interval: Duration::from_secs(30),
            max_rss: None,
            #[cfg(feature = "async")]
            overflow: None,
            #[cfg(feature = "tokio")]
            runtime: None,
        }
    }

    /// Describes a role without workers of its own: all of its requests go to those of `backend`, such
    /// as a role of another machine. Code that has a [`RoleHandle`](super::RoleHandle) need not know
    /// where the workers are.
    ///
    /// A message that is written in parts, by [`RoleHandle::write`](super::RoleHandle::write), needs a
    /// worker of this machine: it waits for one until its timeout.
    #[cfg(feature = "async")]
    pub fn elsewhere(backend: Arc<dyn Backend>) -> Self {
        let no_worker = || Error::invalid_config("the role has no workers of its own");
        let mut role = Self::with_channels(move |_| Err(no_worker())).overflow(backend);
        (role.limits.min_idle, role.limits.max_size) = (0, 0);
        role
    }

    /// Has a task of this runtime read the replies that tasks wait for, in place of the library's own
    /// thread. That saves the runtime's tasks the way over another thread, some tens of microseconds
    /// for each reply. Once a task of another executor waits for a worker, the library's thread reads
    /// from it, as for [`AsyncChannel::on_tokio`](crate::tasks::AsyncChannel::on_tokio).
    ///
    /// The runtime must have its I/O driver enabled.
    #[cfg(feature = "tokio")]
    pub fn on_tokio(mut self, runtime: tokio::runtime::Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Has requests for which no worker of the role has a place served by those of `backend`, such as
    /// a role of another machine. None by default.
    ///
    /// A request goes there if it would have to wait here and `backend` has a place, or if this role
    /// would refuse it as overloaded or degraded. The role grows meanwhile, as if the request had waited
    /// for [`grow_after`](Self::grow_after). One that waits here goes there as soon as there is a place:
    /// when a request of this role has ended there, when [`Backend::load_changed`] tells of one, and with
    /// each request that comes; and if this role becomes degraded. If `backend` refuses it without having
    /// begun it, the request gets its place in the queue here back.
    ///
    /// One that lies ready for a worker that is busy ([`prefetch`](Self::prefetch)) does not wait in this
    /// sense, and stays. With `prefetch(0)` it goes to the others if they have a place.
    ///
    /// What may have ended workers is tried again here only. A message that is written in parts, by
    /// [`RoleHandle::write`](super::RoleHandle::write), is always sent to a worker of this role.
    /// Closing the pool waits for requests that `backend` has, and does not close it.
    #[cfg(feature = "async")]
    pub fn overflow(mut self, backend: Arc<dyn Backend>) -> Self {
        self.overflow = Some(backend);
        self
    }

    #[cfg(feature = "async")]
    fn has_overflow(&self) -> bool {
        self.overflow.is_some()
    }

    #[cfg(not(feature = "async"))]
    fn has_overflow(&self) -> bool {
        false
    }

    /// How many workers are kept although nothing is asked of them: 1 by default. 0 lets the role
    /// have none, until a request comes.
    pub fn min_idle(mut self, workers: usize) -> Self {
        self.limits.min_idle = workers;
        self
    }

    /// How many workers may serve: 1 by default, 4096 at most. There may be more processes:
    /// [`spares`](Self::spares), and one more while a worker is replaced. More than `min_idle` are
    /// started when requests have waited for [`grow_after`](Self::grow_after).
    pub fn max_size(mut self, workers: usize) -> Self {
        self.limits.max_size = workers;
        self
    }

    /// How many ready workers are kept beside those that serve, so that a death costs no load
    /// time: none by default. A spare gets none until it takes a worker's place.
    pub fn spares(mut self, workers: usize) -> Self {
        self.limits.spares = workers;
        self
    }

    /// Starts nothing before the first request.
    pub fn lazy(mut self) -> Self {
        self.limits.is_lazy = true;
        self
    }

    /// How many workers of the role start at the same time at most: 2 by default. See
    /// [`PoolBuilder::max_starts`](super::PoolBuilder::max_starts) for all roles together.
    pub fn max_starts(mut self, workers: usize) -> Self {
        self.limits.max_starts = workers;
        self
    }

    /// How many requests a worker serves at the same time: 1 by default, right for a worker that
    /// serves one after another.
    pub fn concurrency(mut self, requests: usize) -> Self {
        self.limits.concurrency = requests;
        self
    }

    /// How many more requests lie ready for the worker, so that it need not wait for the next: 1
    /// by default. They were not begun if it dies, and go to another one.
    ///
    /// They wait for this worker alone, however long it is busy, also while others are free. So none is put
    /// behind the streams of a backend, such as those of a gateway's callers, if these are all that the
    /// worker serves: they last as long as their readers like. For requests of very different lengths, 0
    /// has each wait for any worker; for calls of some microseconds, a worker sleeps less with 16.
    pub fn prefetch(mut self, requests: usize) -> Self {
        self.limits.prefetch = requests;
        self
    }

    /// How many requests may wait for a worker: 1024 by default. More are refused with
    /// [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    pub fn max_waiting(mut self, requests: usize) -> Self {
        self.limits.max_waiting = requests;
        self
    }

    /// How long requests wait before another worker is started for them: 50 ms by default.
    pub fn grow_after(mut self, wait: Duration) -> Self {
        self.limits.grow_after = nanos(wait);
        self
    }

    /// How long a worker beyond `min_idle` may have nothing to do before it is ended: ten minutes
    /// by default; `None` for ever.
    pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.limits.idle_timeout = timeout.into().map(nanos);
        self
    }

    /// How old a worker gets before it is replaced: any age by default. Up to a tenth is taken off
    /// at random, so that workers that started together do not end together; of
    /// [`max_requests`](Self::max_requests), too.
    pub fn max_lifetime(mut self, age: Duration) -> Self {
        self.limits.max_lifetime = Some(nanos(age));
        self
    }

    /// How many requests a worker gets before it is replaced: any number by default.
    pub fn max_requests(mut self, requests: u64) -> Self {
        self.limits.max_requests = Some(requests);
        self
    }

    /// How many bytes of memory a worker may have (its resident set) before it is replaced: any by
    /// default. Looked at as often as the worker is [pinged](Self::ping_interval).
    pub fn max_rss(mut self, bytes: u64) -> Self {
        self.max_rss = Some(bytes);
        self
    }

    /// Ends a worker before its replacement is started, where a device holds one model only.
    /// Otherwise the new one is ready first.
    pub fn stop_first(mut self) -> Self {
        self.limits.stop_first = true;
        self
    }

    /// How long to wait before a worker is started again that has failed at its start or without a
    /// request: one second by default, doubled with each failure up to `most`, 60 seconds, and
    /// shortened by up to a fifth at random. After `clean_period` without a failure, 60 seconds,
    /// it is `first` again. A worker that died while it served is started again at once.
    pub fn backoff(mut self, first: Duration, most: Duration, clean_period: Duration) -> Self {
        let backoff = &mut self.limits.backoff;
        (backoff.first, backoff.most) = (nanos(first), nanos(most));
        backoff.clean_period = nanos(clean_period);
        self
    }

    /// How many workers may fail at their start or without a request, for each of `max_size`, in
    /// `period`: 5 in 60 seconds by default. A worker without a request that is killed from outside
    /// counts, too. With more the role is degraded: without a worker it
    /// refuses requests with [`ErrorKind::Degraded`](crate::ErrorKind::Degraded), and tries one
    /// start in each `most` of the [`backoff`](Self::backoff) until one works.
    pub fn max_failures(mut self, per_worker: usize, period: Duration) -> Self {
        self.limits.failures_per_worker = per_worker;
        self.limits.failure_period = nanos(period);
        self
    }

    /// How many requests that were begun may be sent again in `period`: `percent` of those that
    /// came in it, or `least` if that is more; 20, 10 and 10 seconds by default. Requests that
    /// were not begun do not count.
    pub fn retry_budget(mut self, percent: usize, least: usize, period: Duration) -> Self {
        let retry = &mut self.limits.retry;
        (retry.percent, retry.least, retry.period) = (percent, least, nanos(period));
        self
    }

    /// How often a request may be begun, if it is idempotent: 3 times by default.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.limits.retry.max_attempts = attempts;
        self
    }

    /// Declares that requests of this kind may be served twice, so that one whose worker died with
    /// it is sent again. For single requests:
    /// [`PoolRequest::idempotent`](super::PoolRequest::idempotent).
    pub fn idempotent(mut self, kind: Kind) -> Self {
        self.idempotent.insert(kind);
        self
    }

    /// What [metrics](super::RoleMetrics) call requests of this kind. [`Kind::named`] keeps no name,
    /// so that without this they show its code.
    pub fn kind_name(mut self, kind: Kind, name: impl Into<String>) -> Self {
        self.kind_names.insert(kind, name.into());
        self
    }

    /// How long a worker may take to start and to build its session: 300 seconds by default.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = timeout;
        self
    }

    /// How long a worker may take to end before it is killed: 10 seconds by default.
    pub fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.stop_timeout = timeout;
        self
    }

    /// How long a request may be served without
    /// [progress](crate::worker::Request::set_progress) before its worker counts as hung, and is
    /// killed: for ever by default, as a handler that does not report progress looks the same. A
    /// stream makes progress also when its reader takes chunks, and one that waits for its reader
    /// does not count.
    pub fn hang_timeout(mut self, timeout: Duration) -> Self {
        self.hang_timeout = Some(timeout);
        self
    }

    /// How often each worker is asked how it is: every 30 seconds by default.
    pub fn ping_interval(mut self, interval: Duration) -> Self {
        self.ping_interval = interval;
        self
    }

    /// What metrics call this kind: a name without spaces.
    pub(super) fn name_of(&self, kind: Kind) -> String {
        let name = self.kind_names.get(&kind).cloned();
        name.unwrap_or_else(|| kind.to_string().replace(' ', "_"))
    }

    /// Refuses what cannot work.
    pub(super) fn check(&self, name: &str) -> Result<()> {
        let Limits { min_idle, max_size, max_starts, concurrency, backoff, retry, .. } =
            &self.limits;
        let is_zero = |value: &Duration| value.is_zero();
        let wrong = if !is_name(name) {
            "a name must be 1 to 32 letters, digits, `_`, `-` or `.`, as that of a worker's role"
                .to_owned()
        } else if *max_size == 0 && !self.has_overflow() {
            "a max_size of 0: no worker could serve".to_owned()
        } else if *max_size > MOST_WORKERS || self.limits.spares > MOST_WORKERS {
            format!("a max_size or spares of more than {MOST_WORKERS}")
        } else if min_idle > max_size {
            format!("a min_idle of {min_idle} is over the max_size of {max_size}")
        } else if self.limits.max_waiting == 0 && (*min_idle == 0 || self.limits.is_lazy) {
            "max_waiting of 0 and no worker from the start: no request could wait for one"
                .to_owned()
        } else if *max_starts == 0 {
            "max_starts of 0: no worker could start".to_owned()
        } else if *concurrency == 0 {
            "a concurrency of 0: workers could serve nothing".to_owned()
        } else if retry.max_attempts == 0 {
            "max_attempts of 0: no request could be sent".to_owned()
        } else if self.limits.max_requests == Some(0) {
            "max_requests of 0: workers could serve nothing".to_owned()
        } else if self.limits.max_lifetime == Some(0) || self.limits.idle_timeout == Some(0) {
            "a lifetime or an idle timeout of 0: workers would end at once".to_owned()
        } else if backoff.first == 0 || backoff.first > backoff.most {
            "a backoff must be longer than 0, and its first not longer than its longest".to_owned()
        } else if is_zero(&self.start_timeout) || is_zero(&self.ping_interval) {
            "a start timeout or a ping interval of 0".to_owned()
        } else if self.hang_timeout.as_ref().is_some_and(is_zero) {
            "a hang timeout of 0: every request would count as hung".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::invalid_config(format!("role {name}: {wrong}")))
    }
}

impl fmt::Debug for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Role").field("limits", &self.limits).finish_non_exhaustive()
    }
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
