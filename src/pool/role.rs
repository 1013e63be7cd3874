//! A role of a pool, as its requests and its workers' threads share it.

mod requests;

use std::ops::Deref;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use super::cancels::Cancels;
use super::closing::Ended;
use super::core::{Deed, Deeds, RoleCore};
use super::events::{Event, EventKind, Readers};
use super::executor::Executor;
use super::metrics::{Counters, Loss};
#[cfg(feature = "async")]
use super::overflow::Overflow;
#[cfg(feature = "async")]
use super::room::Room;
use super::scheduler::{Death, Note, Random, Scheduler, WorkerId};
use super::seat::Seat;
use super::settings::Role;
use super::starts::Starts;
use super::ticker::Ticker;
use super::worker::Worker;
use crate::channel::Channel;
use crate::error::{Error, Overload};
use crate::protocol::Kind;
use crate::status_page;
use crate::sync::Counter;
use crate::sync::plain::Mutex;
use crate::sys::clock::now_ns;
use crate::sys::{activity, fork};

/// What the roles of a pool share.
#[derive(Debug, Clone)]
pub(super) struct PoolShared {
    pub(super) starts: Arc<Starts>,
    pub(super) readers: Arc<Readers>,
    pub(super) ticker: Arc<Ticker>,
    pub(super) ended: Arc<Ended>,
    /// Goes on with requests that were submitted.
    pub(super) executor: Arc<Executor>,
    /// Starts a worker's thread, which starts the worker.
    pub(super) start_worker: fn(&Arc<RoleShared>, WorkerId, Arc<Worker>),
}

/// A role, shared by all its handles, requests and workers.
#[derive(Debug)]
pub(super) struct RoleShared {
    pub(super) name: String,
    core: RoleCore<Worker>,
    settings: Mutex<Arc<Role>>,
    /// Set once workers are ended without giving them time.
    is_urgent: OnceLock<()>,
    /// Set once the role was closed and its last worker has ended.
    is_over: OnceLock<()>,
    /// Numbers of requests.
    numbers: Counter,
    /// Why the last worker failed.
    last_failure: Mutex<Option<Error>>,
    /// The same in words, for the status page.
    last_note: Mutex<status_page::Note>,
    pub(super) metrics: Counters,
    pub(super) pool: PoolShared,
    /// Where requests go for which no worker has a place.
    #[cfg(feature = "async")]
    pub(super) overflow: Option<Overflow>,
    /// For roles that overflow to this one.
    #[cfg(feature = "async")]
    pub(super) room: Room,
    /// Whether it has workers of its own.
    #[cfg(feature = "async")]
    pub(super) has_workers: bool,
    /// The requests that are cancelled by their numbers.
    pub(super) cancels: Cancels,
    this: Weak<Self>,
}

/// How a request knows its role: by reference for a call, or as an owner.
pub(super) trait RoleRef: Deref<Target = RoleShared> + Clone {}

impl<R: Deref<Target = RoleShared> + Clone> RoleRef for R {}

impl RoleShared {
    pub(super) fn new(name: String, settings: Role, pool: PoolShared) -> Arc<Self> {
        pool.readers.add_role();
        let seed = Random::new(now_ns() ^ u64::from(std::process::id())).next();
        Arc::new_cyclic(|this| Self {
            core: RoleCore::new(Scheduler::new(settings.limits.clone(), seed)),
            name,
            #[cfg(feature = "async")]
            overflow: settings.overflow.clone().map(|it| Overflow::new(it, &pool.ticker)),
            #[cfg(feature = "async")]
            room: Room::default(),
            #[cfg(feature = "async")]
            has_workers: settings.limits.max_size > 0,
            settings: Mutex::new(Arc::new(settings)),
            is_urgent: OnceLock::new(),
            is_over: OnceLock::new(),
            numbers: Counter::new(0),
            last_failure: Mutex::new(None),
            last_note: Mutex::new(status_page::Note::EMPTY),
            metrics: Counters::default(),
            pool,
            cancels: Cancels::default(),
            this: Weak::clone(this),
        })
    }

    /// The role, for parts of it that do not keep it.
    pub(super) fn this(&self) -> Weak<Self> {
        Weak::clone(&self.this)
    }

    /// Why the last worker failed, in words; `None` if the lock is held.
    pub(super) fn note_soon(&self) -> Option<status_page::Note> {
        self.last_note.lock_soon().map(|note| *note)
    }

    /// As [`RoleCore::look_soon`].
    pub(super) fn look_soon<R>(
        &self,
        look: impl FnOnce(&Scheduler<Arc<Seat<Worker>>>, &[Option<(WorkerId, Arc<Worker>)>]) -> R,
    ) -> Option<R> {
        self.core.look_soon(look)
    }

    /// How workers are made, and what bounds them.
    pub(super) fn settings(&self) -> Arc<Role> {
        Arc::clone(&self.settings.lock())
    }

    /// How long a worker that is to end may take.
    pub(super) fn stop_timeout(&self) -> Duration {
        match self.is_urgent.get() {
            None => self.settings().stop_timeout,
            Some(()) => Duration::ZERO,
        }
    }

    /// Has all workers replaced by those of another recipe.
    pub(super) fn set_recipe(&self, other: Role) {
        let mut settings = self.settings.lock();
        // What the scheduler was made with stays.
        let new = Arc::new(Role { limits: settings.limits.clone(), ..other });
        let old = std::mem::replace(&mut *settings, new);
        drop(settings);
        // A host's code, which may use this role.
        drop(old);
        self.change(|scheduler| scheduler.reload(now_ns()));
    }

    pub(super) fn is_idempotent(&self, kind: Kind) -> bool {
        // In a forked child a thread may hold the lock for ever. The request is refused there.
        !fork::is_forked_child() && self.settings.lock().idempotent.contains(&kind)
    }

    /// Ends all requests that wait, and all workers with what they serve. Never blocks.
    pub(super) fn close_now(&self) {
        let _ = self.is_urgent.set(());
        self.change(|scheduler| scheduler.close_now(now_ns()));
        for (_, worker) in self.workers() {
            worker.hasten();
        }
        #[cfg(feature = "async")]
        if let Some(others) = &self.overflow {
            others.close_all();
        }
        self.pool.ended.notify();
        self.note_if_over();
    }

    /// Whether workers are ended without giving them time.
    #[cfg(feature = "async")]
    pub(super) fn is_urgent(&self) -> bool {
        self.is_urgent.get().is_some()
    }

    /// Changes what the scheduler knows, and does what follows.
    pub(super) fn change<R>(
        &self,
        change: impl FnOnce(&mut Scheduler<Arc<Seat<Worker>>>) -> R,
    ) -> R {
        let (changed, deeds) = self.core.change(change);
        self.perform(deeds);
        changed
    }

    /// Looks at what time has changed. Returns when to look again.
    pub(super) fn look(&self) -> Option<u64> {
        #[cfg(feature = "async")]
        if self.overflow.as_ref().is_some_and(Overflow::take_sign) {
            self.change(|scheduler| scheduler.note_room(now_ns()));
        }
        self.change(|scheduler| {
            let now = now_ns();
            if scheduler.next_tick(now).is_some_and(|next| next <= now) {
                scheduler.tick(now);
            }
            scheduler.next_tick(now)
        })
    }

    /// As [`RoleShared::change`], and forgets the worker, which has ended.
    pub(super) fn forget(
        &self,
        worker: WorkerId,
        change: impl FnOnce(&mut Scheduler<Arc<Seat<Worker>>>),
    ) {
        // What its channel has counted passes to the role at the moment at which it is forgotten.
        let mut ended = self.metrics.begin_pass();
        let workers = self.workers();
        let its = workers.iter().find(|(id, _)| *id == worker);
        if let Some(channel) = its.and_then(|(_, worker)| worker.channel()) {
            ended.add(&channel.stats());
        }
        let after = self.core.forget(worker, change);
        self.metrics.end_pass();
        drop(ended);
        self.pool.readers.note_end(&self.name, worker);
        self.perform(after.map(|after| self.core.tell(after)));
        self.pool.ended.notify();
        self.note_if_over();
        activity::note();
    }

    /// A request has found a worker dead, whose thread tells of its end, or has told.
    pub(super) fn note_dead(&self, worker: WorkerId) {
        if fork::is_forked_child() {
            return;
        }
        self.pool.readers.note_dead(&self.name, worker);
        // After the note: a worker that is forgotten between the two is found to be gone here.
        if !self.workers().iter().any(|(id, _)| *id == worker) {
            self.pool.readers.note_end(&self.name, worker);
        }
    }

    /// Ends the pool's events if this was its last role that was to be over.
    fn note_if_over(&self) {
        if self.change(|scheduler| scheduler.is_over()) && self.is_over.set(()).is_ok() {
            self.pool.readers.note_role_over();
        }
    }

    /// The workers that are there; none in a forked child.
    pub(super) fn workers(&self) -> Vec<(WorkerId, Arc<Worker>)> {
        if fork::is_forked_child() {
            return Vec::new();
        }
        self.core.workers()
    }

    /// Does something for each worker that is started; for none in a forked child.
    pub(super) fn on_channels<R>(&self, each: impl Fn(&Channel) -> R) -> Vec<R> {
        let workers = self.workers();
        workers.iter().filter_map(|(_, worker)| worker.channel().map(&each)).collect()
    }

    /// Sets the abort flag of all workers, also of those elsewhere.
    pub(super) fn abort(&self) {
        self.on_channels(Channel::abort);
        #[cfg(feature = "async")]
        if let Some(others) = &self.overflow {
            others.abort();
        }
    }

    pub(super) fn clear_abort(&self) {
        self.on_channels(Channel::clear_abort);
        #[cfg(feature = "async")]
        if let Some(others) = &self.overflow {
            others.clear_abort();
        }
    }

    /// A worker has failed, or could not be started.
    pub(super) fn note_failure(
        &self,
        id: WorkerId,
        pid: Option<u32>,
        kind: EventKind,
        death: Death,
    ) {
        if let EventKind::Died(error) | EventKind::StartFailed(error) = &kind {
            let note = status_page::Note::of(error);
            *self.last_note.lock() = note;
            let before = self.last_failure.lock().replace(error.clone());
            // Its source may be an error of the host's, which uses the role as it is dropped.
            self.guard(|| drop(before));
        }
        self.metrics.note_loss(match (&kind, death) {
            (EventKind::StartFailed(_), _) => Loss::Start,
            (_, Death::Serving) => Loss::Serving,
            (_, Death::Failed) => Loss::Idle,
            (_, Death::Killed) => Loss::Killed,
        });
        self.tell(Some(id), pid, kind);
        self.forget(id, |scheduler| scheduler.note_death(now_ns(), id, death));
    }

    pub(super) fn tell(&self, worker: Option<WorkerId>, pid: Option<u32>, kind: EventKind) {
        match &kind {
            EventKind::Started => self.metrics.note_start(),
            EventKind::Recycled(why) => self.metrics.note_recycled(*why),
            EventKind::Hung { .. } => self.metrics.note_hung(),
            _ => {}
        }
        let (role, slot) = (self.name.clone(), worker.map(|id| id.slot));
        self.pool.readers.tell(worker, Event { role, worker: slot, pid, kind });
        activity::note();
    }

    /// Does what the scheduler has decided.
    #[inline]
    fn perform(&self, deeds: Option<Deeds<Worker>>) {
        if let Some(deeds) = deeds {
            self.perform_all(deeds);
        }
    }

    #[cold]
    fn perform_all(&self, deeds: Deeds<Worker>) {
        if let Some(next) = deeds.next_tick {
            self.pool.ticker.look_before(next);
        }
        for deed in deeds.deeds {
            // One that panics must not keep the others from being done.
            self.guard(|| self.perform_one(deed));
        }
    }

    fn perform_one(&self, deed: Deed<Worker>) {
        match deed {
            Deed::Start(id, worker) => {
                // The pool is there as long as one of its requests or workers is.
                if let Some(this) = self.this.upgrade() {
                    (self.pool.start_worker)(&this, id, worker);
                }
            }
            Deed::Stop(worker) => worker.stop(),
            Deed::Note(Note::Recycled { worker, why }) => {
                self.tell(Some(worker), None, EventKind::Recycled(why));
            }
            Deed::Note(Note::Degraded) => self.tell(None, None, EventKind::Degraded),
            Deed::Note(Note::Healed) => self.tell(None, None, EventKind::Healed),
            #[cfg(feature = "async")]
            Deed::LookElsewhere => self.look_elsewhere(),
            #[cfg(feature = "async")]
            Deed::TellRoom => self.room.tell(),
            // Backends need `async`.
            #[cfg(not(feature = "async"))]
            Deed::LookElsewhere | Deed::TellRoom => {}
        }
    }

    /// Offers requests that wait to other workers that have a place.
    #[cfg(feature = "async")]
    fn look_elsewhere(&self) {
        let Some(others) = &self.overflow else { return };
        // Before the look, so that no place that comes after it is missed.
        let has_changed = others.watch();
        let places = others.free_places().unwrap_or(0);
        self.change(|scheduler| scheduler.offer(now_ns(), places, has_changed));
    }

    /// Runs what may run code of the host's: as [`Readers::guard`].
    pub(super) fn guard<T>(&self, body: impl FnOnce() -> T) -> Option<T> {
        self.pool.readers.guard(&self.name, body)
    }
}

impl Drop for RoleShared {
    fn drop(&mut self) {
        status_page::remove(self);
    }
}

/// The load of a role in a forked child, in which nothing is sent.
pub(super) const NO_LOAD: super::scheduler::Overload = super::scheduler::Overload {
    queued: 0,
    limit: 0,
    in_flight: 0,
    oldest_wait: 0,
    retry_after: 0,
};

/// How full the role is, with times as hosts know them.
pub(super) fn public(overload: super::scheduler::Overload) -> Overload {
    Overload {
        queued: overload.queued,
        limit: overload.limit,
        in_flight: overload.in_flight,
        oldest_wait: Duration::from_nanos(overload.oldest_wait),
        retry_after: Duration::from_nanos(overload.retry_after),
    }
}
