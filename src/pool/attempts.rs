//! The attempts of one request, made by a thread or by a task.

#[cfg(feature = "async")]
mod elsewhere;

use std::sync::Arc;

use super::attempt::{ends_worker, is_killed_from_outside, is_unanswered, waited_in_ring};
use super::cancels::Cancel;
use super::core::Placed;
#[cfg(feature = "async")]
use super::departure::Departure;
use super::metrics::Outcome;
use super::role::{Permit, RoleRef};
use super::scheduler::{Asked, Attempt, Elsewhere, History, Priority, Reason, Refusal, Verdict};
use super::seat::Told;
use super::stream_cancel::StreamCancel;
use super::task_wait::{self, Wait};
use super::worker::{Retry, Worker};
use crate::channel::Channel;
use crate::error::{EarlierAttempts, Error, ErrorKind, Result};
use crate::id::RequestId;
use crate::protocol::Kind;
use crate::sys::clock::{Deadline, now_ns};
use crate::sys::fork;
use crate::trace_context::TraceContext;

/// The attempts of one request.
#[derive(Debug)]
pub(super) struct Attempts<R: RoleRef> {
    role: R,
    kind: Kind,
    asked: Asked,
    history: History,
    /// Whether the attempt before may have been begun; `None` before the second one.
    resent: Option<bool>,
    standing: Standing,
    /// What became of it before.
    past: Option<Box<Past>>,
    /// For a stream, which is cancelled by its number.
    cancel: Option<Arc<StreamCancel>>,
    /// Only the role's own workers can have it.
    must_stay: bool,
    #[cfg(feature = "async")]
    trace: Option<TraceContext>,
    /// What the metrics count it as: cancelled if its caller goes away before its end.
    outcome: Outcome,
}

/// What its role waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Settled,
    /// It is to be sent again, and has not asked for a worker yet.
    Returns,
    /// Workers that are not the role's own have it, or it has not asked for one here since. `is_refused`:
    /// they do not take requests as they are.
    #[cfg(feature = "async")]
    Away {
        is_refused: bool,
    },
}

/// What became of a request before.
#[derive(Debug, Default)]
struct Past {
    /// How it was sent.
    earlier: EarlierAttempts,
    /// Since when it waited here, before it left.
    #[cfg(feature = "async")]
    waited_since: Option<u64>,
    /// How often it had come from one host to another.
    #[cfg(feature = "async")]
    hops: u32,
}

/// A request that asked for a worker.
#[derive(Debug)]
enum Asking<R: RoleRef> {
    Has(Permit<R>),
    Waits(Wait),
    Leaves,
}

/// Where a request goes.
#[derive(Debug)]
pub(super) enum Destination<R: RoleRef> {
    Worker(Permit<R>),
    /// To workers that are not the role's own.
    #[cfg(feature = "async")]
    Elsewhere(Departure<R>),
}

impl<R: RoleRef> Attempts<R> {
    #[inline]
    pub(super) fn begin(
        role: R,
        kind: Kind,
        priority: Priority,
        key: Option<u64>,
        is_idempotent: bool,
    ) -> Self {
        let number = role.next_number();
        let asked = Asked { number, priority, key, elsewhere: Elsewhere::Never };
        let history = History { is_idempotent, ..History::default() };
        let outcome = Outcome::Failed(ErrorKind::Cancelled);
        Self {
            role,
            kind,
            asked,
            history,
            resent: None,
            standing: Standing::Settled,
            past: None,
            cancel: None,
            must_stay: false,
            #[cfg(feature = "async")]
            trace: None,
            outcome,
        }
    }

    /// Says which trace it is part of.
    #[cfg(feature = "async")]
    #[inline]
    pub(super) fn traced(mut self, trace: Option<&TraceContext>) -> Self {
        self.trace = trace.cloned();
        self
    }

    /// The trace that it is part of.
    #[cfg(feature = "async")]
    #[inline]
    pub(super) fn trace(&self) -> Option<&TraceContext> {
        self.trace.as_ref()
    }

    #[cfg(not(feature = "async"))]
    #[inline]
    #[expect(clippy::unused_self, reason = "there is one with `async`")]
    pub(super) fn trace(&self) -> Option<&TraceContext> {
        None
    }

    /// The role, for a part of it that does not keep it.
    #[cfg(feature = "async")]
    pub(super) fn role(&self) -> std::sync::Weak<super::role::RoleShared> {
        self.role.this()
    }

    /// The request's number, the same over all its attempts.
    pub(super) fn number(&self) -> u64 {
        self.asked.number
    }

    /// Whether the worker of the attempt before had begun the request, or may have.
    pub(super) fn was_begun(&self) -> bool {
        self.resent == Some(true)
    }

    /// Lets [`RoleHandle::cancel`](super::RoleHandle::cancel) and the stream itself cancel it.
    pub(super) fn cancellable(mut self) -> Self {
        let cancel = StreamCancel::new(&self.role);
        let weak = Arc::downgrade(&cancel);
        self.role.cancels.insert(self.number(), weak);
        self.cancel = Some(cancel);
        self
    }

    /// Cancels it: no attempt follows, and the one that runs is asked to end.
    pub(super) fn cancel(&self) {
        if let Some(cancel) = &self.cancel {
            Arc::clone(cancel).cancel();
        }
    }

    /// A worker has the request, which can be cancelled there. Returns false if that was done
    /// before.
    pub(super) fn note_sent(&self, worker: &Arc<Worker>, id: RequestId) -> bool {
        self.cancel.as_ref().is_none_or(|cancel| cancel.note_sent(worker, id))
    }

    /// Its worker is done with it.
    pub(super) fn note_ended(&self) {
        if let Some(cancel) = &self.cancel {
            cancel.note_over();
        }
    }

    /// Has it go to the role's own workers only.
    pub(super) fn stay(mut self) -> Self {
        self.must_stay = true;
        self
    }

    /// Gets a worker, or has the request go elsewhere if none has a place for it. Blocks until one of
    /// both is decided, or until the deadline.
    #[inline]
    pub(super) fn acquire(&mut self, now: u64, deadline: Deadline) -> Result<Destination<R>> {
        self.look_elsewhere()?;
        loop {
            match self.ask(now)? {
                Asking::Has(permit) => return Ok(Destination::Worker(permit)),
                Asking::Waits(wait) => {
                    let told = self.role.wait(wait.ticket, &wait.seat, deadline);
                    if let Some(destination) = self.told(told, wait.since)? {
                        return Ok(destination);
                    }
                }
                Asking::Leaves => return self.leave_for_others(),
            }
        }
    }

    /// As [`Attempts::acquire`], for a request that [stays](Attempts::stay).
    pub(super) fn acquire_worker(&mut self, now: u64, deadline: Deadline) -> Result<Permit<R>> {
        let destination = self.acquire(now, deadline)?;
        self.worker_of(destination)
    }

    /// As [`Attempts::acquire_worker`], without blocking.
    #[cfg(feature = "async")]
    pub(super) async fn acquire_worker_async(
        &mut self,
        now: u64,
        deadline: Deadline,
    ) -> Result<Permit<R>> {
        let destination = self.acquire_async(now, deadline).await?;
        self.worker_of(destination)
    }

    fn worker_of(&mut self, destination: Destination<R>) -> Result<Permit<R>> {
        match destination {
            Destination::Worker(permit) => Ok(permit),
            #[cfg(feature = "async")]
            Destination::Elsewhere(_) => Err(self.no_others()),
        }
    }

    /// As [`Attempts::acquire`], without blocking. A task that goes away leaves the queue, or gives
    /// its place back.
    pub(super) async fn acquire_async(
        &mut self,
        now: u64,
        deadline: Deadline,
    ) -> Result<Destination<R>> {
        fork::check().map_err(|error| self.failed_with(error))?;
        self.look_elsewhere()?;
        loop {
            match self.ask(now)? {
                Asking::Has(permit) => return Ok(Destination::Worker(permit)),
                Asking::Waits(wait) => {
                    let since = wait.since;
                    let told = task_wait::told(&self.role, wait, deadline).await;
                    let told = told.map_err(|error| self.failed_with(error))?;
                    if let Some(destination) = self.told(told, since)? {
                        return Ok(destination);
                    }
                }
                Asking::Leaves => return self.leave_for_others(),
            }
        }
    }

    /// Asks for a worker: for the first time at `now`.
    #[inline]
    fn ask(&mut self, now: u64) -> Result<Asking<R>> {
        let (placed, since) = match self.standing {
            Standing::Settled => (self.role.ask(self.asked, None, now), now),
            Standing::Returns => {
                if self.is_cancelled() {
                    return Err(self.cancelled(None));
                }
                self.standing = Standing::Settled;
                self.role.metrics.note_retry(self.was_begun());
                let now = now_ns();
                let placed = self.role.ask(self.asked, Some(&self.history), now);
                if let Placed::Granted(grant, worker) = &placed {
                    self.note_retry(worker, grant.is_alone, now);
                }
                (placed, now)
            }
            #[cfg(feature = "async")]
            Standing::Away { is_refused } => self.ask_back(is_refused),
        };
        match placed {
            Placed::Granted(grant, worker) => {
                Ok(Asking::Has(Permit::at_once(self.role.clone(), grant, worker, since)))
            }
            Placed::Refused(why) => Err(self.of_all(self.role.refused(why))),
            Placed::Waits(ticket, seat) => self.wait(Wait { ticket, seat, since }),
            Placed::Elsewhere => Ok(Asking::Leaves),
        }
    }

    #[cold]
    fn wait(&mut self, wait: Wait) -> Result<Asking<R>> {
        if self.cancel.as_ref().is_none_or(|cancel| cancel.note_wait(wait.ticket, &wait.seat)) {
            return Ok(Asking::Waits(wait));
        }
        // It was cancelled before. If it has got a place meanwhile, gives that back.
        let told = self.role.leave(wait.ticket, &wait.seat);
        Err(match self.told(told.or(Some(Told::Cancelled)), wait.since) {
            Ok(_) => self.cancelled(None),
            Err(error) => error,
        })
    }

    /// What a request that has waited since `since` was told; nothing if its deadline has passed.
    /// Returns `None` if it is to ask for a worker here again.
    #[cold]
    fn told(&mut self, told: Option<Told<Worker>>, since: u64) -> Result<Option<Destination<R>>> {
        let now = now_ns();
        self.role.metrics.note_wait(now.saturating_sub(since));
        match told {
            Some(Told::Granted(grant, worker)) => {
                if self.resent.is_some() {
                    self.note_retry(&worker, grant.is_alone, now);
                }
                let permit = Permit::new(self.role.clone(), grant, worker, now);
                // The cancel came when the place was on its way.
                if self.is_cancelled() {
                    return Err(self.cancelled(None));
                }
                Ok(Some(Destination::Worker(permit)))
            }
            Some(Told::Leave) => self.leave_after(since),
            Some(Told::Refused(why)) => Err(self.of_all(self.role.refused(why))),
            Some(Told::Cancelled) => Err(self.cancelled(None)),
            None => Err(self.of_all(self.role.waited_too_long())),
        }
    }

    /// Its worker may die, and then its crash report tells of this.
    #[cold]
    fn note_retry(&self, worker: &Worker, is_alone: bool, since: u64) {
        let earlier = self.past.as_ref().map_or(0, |past| past.earlier.count);
        let attempt = u64::from(earlier) + 1;
        let (number, kind) = (self.number(), self.kind);
        worker.note_retry(Retry { number, kind, attempt, since, is_alone });
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.as_ref().is_some_and(|cancel| cancel.is_cancelled())
    }

    /// The error of a request that was cancelled, after the death of its worker if that has died.
    #[cold]
    fn cancelled(&mut self, death: Option<Error>) -> Error {
        let (role, number) = (&self.role.name, self.number());
        let message = format!("role {role}: request {number} was cancelled, and is not sent again");
        let error = match death {
            Some(death) => {
                let was_begun = death.was_begun();
                let error = Error::with_source(ErrorKind::Cancelled, message, death);
                match was_begun {
                    Some(was_begun) => error.with_begun(was_begun),
                    None => error,
                }
            }
            None => Error::new(ErrorKind::Cancelled, message),
        };
        self.of_all(error)
    }

    /// The scheduler has a request leave only if it was told of others.
    #[cold]
    fn no_others(&mut self) -> Error {
        self.of_all(self.role.refused(Refusal::Closed))
    }

    /// What an error says of all attempts, not of the last alone.
    fn of_all(&mut self, error: Error) -> Error {
        let was_begun = self.history.begun > 0;
        self.failed_with(if was_begun { error.with_begun(true) } else { error })
    }

    /// The request is over with this result.
    #[inline]
    pub(super) fn over<T>(&mut self, result: Result<T>) -> Result<T> {
        match &result {
            Ok(_) => self.outcome = Outcome::Answered,
            Err(error) => self.outcome = Outcome::Failed(error.kind()),
        }
        result
    }

    /// The request is over with this error, which tells of its earlier attempts, too.
    #[cold]
    fn failed_with(&mut self, error: Error) -> Error {
        let error = match self.past.take() {
            Some(past) if past.earlier.count > 0 => error.with_earlier_attempts(past.earlier),
            _ => error,
        };
        self.outcome = Outcome::Failed(error.kind());
        error
    }

    /// An attempt has failed. Returns the error if no other follows. Blocks until it is known
    /// whether a dead worker had begun the request, but not beyond the deadline.
    #[cold]
    pub(super) fn failed(
        &mut self,
        permit: Permit<R>,
        id: Option<RequestId>,
        error: Error,
        has_delivered: bool,
        deadline: Deadline,
    ) -> Result<()> {
        let dead = self.death_of(permit, id, error, has_delivered)?;
        if dead.is_unclear() {
            dead.permit.worker.wait_until_known(deadline);
        }
        self.judge(dead)
    }

    /// As [`Attempts::failed`], without blocking.
    pub(super) async fn failed_async(
        &mut self,
        permit: Permit<R>,
        id: Option<RequestId>,
        error: Error,
        has_delivered: bool,
        deadline: Deadline,
    ) -> Result<()> {
        let dead = self.death_of(permit, id, error, has_delivered)?;
        if dead.is_unclear() {
            task_wait::until_known(&dead.permit.worker, deadline).await;
        }
        self.judge(dead)
    }

    /// An attempt that its worker's end has ended, or else the error, which no attempt follows.
    fn death_of(
        &mut self,
        mut permit: Permit<R>,
        id: Option<RequestId>,
        error: Error,
        has_delivered: bool,
    ) -> Result<Dead<R>> {
        // An error of the host's own code, such as an encoder, may be that of another worker.
        let is_alive = permit.worker.channel().is_some_and(Channel::is_alive);
        if ends_worker(&error) && !is_alive {
            permit.note_dead();
            return Ok(Dead { permit, error, has_delivered });
        }
        let sent_in_part = error.part_sent().map(RequestId::new);
        if let Some(id) = id.filter(|_| is_unanswered(&error)).or(sent_in_part) {
            permit.linger(id);
        }
        // That of a request that was not sent may be the host's own, too.
        let is_late = id.is_some() && waited_in_ring(&error);
        let error = if is_late { self.waited_in_ring(error) } else { error };
        Err(self.failed_with(error))
    }

    /// The error of a request that has waited in its worker's ring until its deadline.
    fn waited_in_ring(&self, error: Error) -> Error {
        let (role, number) = (&self.role.name, self.number());
        let message = format!("role {role}: request {number} waited too long for its worker");
        let (which, was_begun) = (error.stream_timeout(), error.was_begun());
        let mut late = Error::with_source(ErrorKind::QueueTimeout, message, error);
        if let Some(which) = which {
            late = late.with_stream_timeout(which);
        }
        match was_begun {
            Some(was_begun) => late.with_begun(was_begun),
            // The worker may still begin it, until it finds it cancelled.
            None => late,
        }
    }

    fn judge(&mut self, dead: Dead<R>) -> Result<()> {
        if self.is_cancelled() {
            let Dead { permit, error, .. } = dead;
            drop(permit);
            return Err(self.cancelled(Some(error)));
        }
        let attempt = dead.attempt();
        let Dead { permit, error, .. } = dead;
        match permit.end_dead(&mut self.history, attempt) {
            Verdict::Again => {
                self.resent = Some(attempt.was_begun != Some(false));
                self.standing = Standing::Returns;
                self.past.get_or_insert_default().earlier.push(&error);
                Ok(())
            }
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
                Err(self.failed_with(poison.with_log_tail(tail).with_begun(true)))
            }
            Verdict::Over(reason) => {
                let error = error.with_note(&self.not_again(reason));
                Err(self.failed_with(error))
            }
        }
    }

    /// Why a request is not sent again whose worker has died.
    fn not_again(&self, reason: Reason) -> String {
        let why = match reason {
            Reason::NotIdempotent => "it may have been begun, and is not declared idempotent",
            Reason::Delivered => "a part of it was delivered, or cannot be sent twice",
            Reason::Attempts => "it was begun as often as max_attempts allows",
            Reason::Budget => "the role's retry_budget is used up",
            Reason::Poison => "it has killed its worker",
        };
        format!("role {}: request {} is not sent again: {why}", self.role.name, self.number())
    }
}

impl<R: RoleRef> Attempts<R> {
    /// Takes out what its role keeps of it. Not called in a forked child, where the locks may be held
    /// for ever.
    #[cold]
    fn leave(&mut self) {
        match self.standing {
            Standing::Settled => {}
            Standing::Returns => self.role.change(|scheduler| scheduler.give_up(now_ns())),
            #[cfg(feature = "async")]
            Standing::Away { .. } => self.end_away(),
        }
        if self.cancel.is_some() {
            self.role.cancels.remove(self.number());
        }
    }
}

impl<R: RoleRef> Drop for Attempts<R> {
    #[inline]
    fn drop(&mut self) {
        self.role.metrics.note_outcome(self.kind, self.outcome);
        if (self.standing != Standing::Settled || self.cancel.is_some()) && !fork::is_forked_child()
        {
            self.leave();
        }
    }
}

/// Without the feature `async` there are no workers elsewhere.
#[cfg(not(feature = "async"))]
impl<R: RoleRef> Attempts<R> {
    fn look_elsewhere(&mut self) -> Result<()> {
        Ok(())
    }

    fn leave_for_others(&mut self) -> Result<Destination<R>> {
        Err(self.no_others())
    }

    fn leave_after(&mut self, _: u64) -> Result<Option<Destination<R>>> {
        Err(self.no_others())
    }
}

/// An attempt that its worker's end has ended. Dropping it gives the worker back.
#[derive(Debug)]
struct Dead<R: RoleRef> {
    permit: Permit<R>,
    error: Error,
    has_delivered: bool,
}

impl<R: RoleRef> Dead<R> {
    /// Whether it is to be waited for until it is known whether the worker had begun the request.
    fn is_unclear(&self) -> bool {
        self.error.was_begun().is_none() && self.error.is_peer_dead()
    }

    /// What is known of the attempt.
    fn attempt(&self) -> Attempt {
        let Self { permit, error, has_delivered } = self;
        let has_delivered = *has_delivered;
        let is_killed = error.death().is_some_and(is_killed_from_outside);
        Attempt {
            // What has answered was begun, whatever the worker's memory says.
            was_begun: error.was_begun().filter(|was_begun| *was_begun || !has_delivered),
            // Also by what the worker itself has marked: it may be at a request that was given up.
            was_alone: permit.is_alone() && error.begun_alone() == Some(true),
            was_killed: is_killed && !permit.worker.was_hung(),
            has_delivered,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::*;
    use crate::error::{EndOfService, ExitCause, Mark, Marks, Stage, WorkerDeath};
    use crate::pool::role::RoleShared;
    use crate::pool::scheduler::{Grant, WorkerId};
    use crate::pool::{Pool, Role};

    const REQUEST: u64 = 7;

    /// What a worker has marked as it ended.
    #[derive(Debug)]
    struct Marked(Vec<Mark>);

    impl Marks for Marked {
        fn all(&self) -> Vec<Mark> {
            self.0.clone()
        }
    }

    /// The death of a worker by its own code that had begun these requests, and so ended `REQUEST`.
    fn death(begun: &[u64]) -> Error {
        let mark = |request: &u64| Mark {
            request: *request,
            stage: Stage::Begun,
            since: *request,
            progress: 0,
            awaits_credit: false,
        };
        let marks: Arc<dyn Marks> = Arc::new(Marked(begun.iter().map(mark).collect()));
        let end_of_service = Arc::new(EndOfService::default());
        end_of_service.set_source(Arc::downgrade(&marks));
        end_of_service.set_has_stopped(Box::new(|| true));
        assert!(end_of_service.marks().is_some());
        Error::peer_died(WorkerDeath {
            role: "one".to_owned(),
            pid: 1,
            host: None,
            request: Some(REQUEST),
            log_path: None,
            log_tail: None,
            status: Arc::new(OnceLock::from(ExitCause::Signaled(libc::SIGSEGV))),
            oom_suspected: Arc::default(),
            end_of_service,
            crash_report: None,
        })
    }

    /// What becomes of an idempotent request whose worker the pool has given to it alone, or not.
    fn outcome(role: &Arc<RoleShared>, is_alone: bool, error: Error) -> Result<()> {
        let worker = WorkerId { slot: 0, incarnation: 0 };
        let grant = Grant { worker, is_alone };
        let permit = Permit::new(Arc::clone(role), grant, Arc::default(), 0);
        let mut attempts =
            Attempts::begin(Arc::clone(role), Kind::app(1), Priority::Normal, None, true);
        attempts.judge(Dead { permit, error, has_delivered: false })
    }

    #[test]
    fn a_request_is_poison_only_if_the_pool_and_its_worker_say_it_was_alone() {
        let role = Role::with_channels(|_| Err(Error::invalid_config("no worker"))).lazy();
        let pool = Pool::builder().role("one", role).build().unwrap();
        let role = pool.roles.get("one").unwrap();
        let (alone, beside) = ([REQUEST], [REQUEST, 3]);
        let poison = outcome(role, true, death(&alone)).unwrap_err();
        assert_eq!(poison.kind(), ErrorKind::Poison);
        // The worker was at one that was given up, or the pool had others with it.
        for (is_alone, begun) in [(true, &beside[..]), (false, &alone), (false, &beside)] {
            assert!(outcome(role, is_alone, death(begun)).is_ok(), "{is_alone} {begun:?}");
        }
    }
}
