//! A role of a pool, as its requests and its workers' threads share it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::closing::Ended;
use super::core::{Deed, Deeds, Placed, RoleCore};
use super::events::{Event, EventKind, Readers};
use super::scheduler::{
    Asked, Death, Ending, Grant, History, Note, Random, Refusal, Scheduler, WorkerId,
};
use super::seat::{Seat, Told};
use super::settings::Role;
use super::starts::Starts;
use super::ticker::Ticker;
use super::worker::{self, Worker};
use crate::error::{Error, ErrorKind, Overload, Result};
use crate::id::RequestId;
use crate::protocol::Kind;
use crate::sync::plain::Mutex;
use crate::sync::{Counter, Ordering};
use crate::sys::clock::{Deadline, now_ns};

/// A role, shared by all its handles, requests and workers.
#[derive(Debug)]
pub(super) struct RoleShared {
    pub(super) name: String,
    core: RoleCore<Worker>,
    settings: Mutex<Arc<Role>>,
    /// Not 0: workers are ended without giving them time.
    is_urgent: Counter,
    /// Numbers of requests.
    numbers: Counter,
    /// Why the last worker failed.
    last_failure: Mutex<Option<Error>>,
    pub(super) starts: Arc<Starts>,
    readers: Arc<Readers>,
    ticker: Arc<Ticker>,
    ended: Arc<Ended>,
    this: Weak<Self>,
}

/// A worker that a request has. It is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    role: &'a RoleShared,
    pub(super) worker: Arc<Worker>,
    grant: Grant,
    ending: Ending,
    /// The worker's thread gives it back.
    is_left: bool,
}

impl Permit<'_> {
    pub(super) fn is_alone(&self) -> bool {
        self.grant.is_alone
    }

    /// Gives the worker back when it is done with a request that nobody waits for any more: it may
    /// be stuck in it, and must not look free.
    pub(super) fn linger(mut self, request: RequestId) {
        self.is_left = true;
        self.worker.linger(request, self.grant);
    }

    /// Gives the worker back, which is of no use any more.
    pub(super) fn give_back_dead(mut self) {
        self.ending = Ending::WorkerDied;
        self.worker.look();
    }
}

impl Drop for Permit<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.is_left {
            self.role.finish(self.grant, self.ending);
        }
    }
}

impl RoleShared {
    pub(super) fn new(
        name: String,
        settings: Role,
        starts: Arc<Starts>,
        readers: Arc<Readers>,
        ticker: Arc<Ticker>,
        ended: Arc<Ended>,
    ) -> Arc<Self> {
        let seed = Random::new(now_ns() ^ u64::from(std::process::id())).next();
        Arc::new_cyclic(|this| Self {
            core: RoleCore::new(Scheduler::new(settings.limits.clone(), seed)),
            name,
            settings: Mutex::new(Arc::new(settings)),
            is_urgent: Counter::new(0),
            numbers: Counter::new(0),
            last_failure: Mutex::new(None),
            starts,
            readers,
            ticker,
            ended,
            this: Weak::clone(this),
        })
    }

    /// How workers are made, and what bounds them.
    pub(super) fn settings(&self) -> Arc<Role> {
        Arc::clone(&self.settings.lock())
    }

    /// How long a worker that is to end may take.
    pub(super) fn stop_timeout(&self) -> Duration {
        match self.is_urgent.load(Ordering::Relaxed) {
            0 => self.settings().stop_timeout,
            _ => Duration::ZERO,
        }
    }

    /// Has all workers replaced by those of another recipe.
    pub(super) fn set_recipe(&self, other: Role) {
        let mut settings = self.settings.lock();
        // What the scheduler was made with stays.
        *settings = Arc::new(Role { limits: settings.limits.clone(), ..other });
        drop(settings);
        self.change(|scheduler| scheduler.reload(now_ns()));
    }

    pub(super) fn is_idempotent(&self, kind: Kind) -> bool {
        self.settings.lock().idempotent.contains(&kind)
    }

    /// Ends all requests that wait, and all workers with what they serve. Never blocks.
    pub(super) fn close_now(&self) {
        self.is_urgent.store(1, Ordering::Relaxed);
        self.change(|scheduler| scheduler.close_now(now_ns()));
        self.ended.notify();
    }

    /// The number of the next request.
    #[inline]
    pub(super) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Gets a worker for a request: for its first attempt without a history. Blocks until one has a
    /// place, or until the deadline.
    #[inline]
    pub(super) fn acquire(
        &self,
        asked: Asked,
        history: Option<&History>,
        now: u64,
        deadline: Deadline,
    ) -> Result<Permit<'_>> {
        let (placed, deeds) = match history {
            None => self.core.admit(now, asked),
            Some(history) => self.core.admit_again(now, asked, history),
        };
        self.perform(deeds);
        match placed {
            Placed::Granted(grant, worker) => Ok(self.permit(grant, worker)),
            Placed::Refused(why) => Err(self.refused(why)),
            Placed::Waits(ticket, seat) => self.wait(ticket, &seat, deadline),
        }
    }

    /// A request gives its worker back.
    #[inline]
    pub(super) fn finish(&self, grant: Grant, ending: Ending) {
        let deeds = self.core.finish(now_ns(), grant, ending);
        self.perform(deeds);
    }

    #[cold]
    fn wait(
        &self,
        ticket: super::scheduler::Ticket,
        seat: &Seat<Worker>,
        deadline: Deadline,
    ) -> Result<Permit<'_>> {
        let (told, deeds) = self.core.wait(ticket, seat, deadline);
        self.perform(deeds);
        let told = told.ok_or_else(|| self.waited_too_long())?;
        match told {
            Told::Granted(grant, worker) => Ok(self.permit(grant, worker)),
            Told::Refused(why) => Err(self.refused(why)),
        }
    }

    #[inline]
    fn permit(&self, grant: Grant, worker: Arc<Worker>) -> Permit<'_> {
        Permit { role: self, worker, grant, ending: Ending::Over, is_left: false }
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
        let deeds = self.core.forget(worker, change);
        self.perform(deeds);
        self.ended.notify();
    }

    /// The workers that are there.
    pub(super) fn workers(&self) -> Vec<(WorkerId, Arc<Worker>)> {
        self.core.workers()
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
            *self.last_failure.lock() = Some(error.clone());
        }
        self.tell(Some(id), pid, kind);
        self.forget(id, |scheduler| scheduler.note_death(now_ns(), id, death));
    }

    pub(super) fn tell(&self, worker: Option<WorkerId>, pid: Option<u32>, kind: EventKind) {
        let worker = worker.map(|id| id.slot);
        self.readers.tell(Event { role: self.name.clone(), worker, pid, kind });
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
            self.ticker.look_before(next);
        }
        for deed in deeds.deeds {
            match deed {
                Deed::Start(id, worker) => {
                    // The pool is there as long as one of its requests or workers is.
                    if let Some(this) = self.this.upgrade() {
                        worker::start(&this, id, worker);
                    }
                }
                Deed::Stop(worker) => worker.stop(),
                Deed::Note(Note::Recycled { worker, why }) => {
                    self.tell(Some(worker), None, EventKind::Recycled(why));
                }
                Deed::Note(Note::Degraded) => self.tell(None, None, EventKind::Degraded),
                Deed::Note(Note::Healed) => self.tell(None, None, EventKind::Healed),
            }
        }
    }

    #[cold]
    fn waited_too_long(&self) -> Error {
        let overload = self.change(|scheduler| scheduler.overload(now_ns()));
        let message = format!(
            "role {}: no worker had a place until the deadline ({} others wait, {} are with workers)",
            self.name, overload.queued, overload.in_flight
        );
        Error::new(ErrorKind::QueueTimeout, message).with_begun(false)
    }

    #[cold]
    fn refused(&self, why: Refusal) -> Error {
        let role = &self.name;
        match why {
            Refusal::Overloaded(overload) => Error::overloaded(role, public(overload)),
            Refusal::Closed => {
                Error::new(ErrorKind::Closed, format!("role {role}: the pool is closed"))
                    .with_begun(false)
            }
            Refusal::Degraded => {
                let message = format!("role {role} is degraded: its workers fail");
                let last = self.last_failure.lock().clone();
                let tail = last.as_ref().and_then(Error::log_tail).map(str::to_owned);
                let error = match last {
                    Some(last) => Error::with_source(ErrorKind::Degraded, message, last),
                    None => Error::new(ErrorKind::Degraded, message),
                };
                error.with_log_tail(tail).with_begun(false)
            }
        }
    }
}

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
