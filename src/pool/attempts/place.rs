//! How a request gets a place with a worker, by a thread or by a task.

use super::{Attempts, Standing};
use crate::error::{Error, Result};
use crate::pool::core::Placed;
#[cfg(feature = "async")]
use crate::pool::departure::Departure;
use crate::pool::permit::Permit;
use crate::pool::role::RoleRef;
use crate::pool::scheduler::Refusal;
use crate::pool::seat::Told;
use crate::pool::task_wait::{self, Wait};
use crate::pool::worker::{Retry, Worker};
use crate::sys::clock::{Deadline, now_ns};
use crate::sys::fork;

/// Where a request goes.
#[derive(Debug)]
pub(crate) enum Destination<R: RoleRef> {
    Worker(Permit<R>),
    /// To workers that are not the role's own.
    #[cfg(feature = "async")]
    Elsewhere(Departure<R>),
}

/// A request that asked for a worker.
#[derive(Debug)]
enum Asking<R: RoleRef> {
    Has(Permit<R>),
    Waits(Wait),
    Leaves,
}

impl<R: RoleRef> Attempts<R> {
    /// Gets a worker, or has the request go elsewhere if none has a place for it. Blocks until one of
    /// both is decided, or until the deadline.
    #[inline]
    pub(crate) fn acquire(&mut self, now: u64, deadline: Deadline) -> Result<Destination<R>> {
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
    pub(crate) fn acquire_worker(&mut self, now: u64, deadline: Deadline) -> Result<Permit<R>> {
        let destination = self.acquire(now, deadline)?;
        self.worker_of(destination)
    }

    /// As [`Attempts::acquire_worker`], without blocking.
    #[cfg(feature = "async")]
    pub(crate) async fn acquire_worker_async(
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
    pub(crate) async fn acquire_async(
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

    /// The scheduler has a request leave only if it was told of others.
    #[cold]
    pub(super) fn no_others(&mut self) -> Error {
        self.of_all(self.role.refused(Refusal::Closed))
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
