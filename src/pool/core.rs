//! A role's one lock, and what is done after it.
//!
//! Under the lock the scheduler decides. What it decides is done when the lock is free: requests
//! are told here, and workers are started and ended by the thread that made the change.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::scheduler::{
    Action, Admission, Asked, Ending, Grant, History, Note, Refusal, Scheduler, Ticket, WorkerId,
};
use super::seat::{Seat, Told};
use crate::sync::Mutex;
use crate::sys::activity;
use crate::sys::clock::{Deadline, now_ns};

/// The decisions of one role, and its workers `L`.
#[derive(Debug)]
pub(super) struct RoleCore<L>(Mutex<Locked<L>>);

#[derive(Debug)]
struct Locked<L> {
    scheduler: Scheduler<Arc<Seat<L>>>,
    /// The worker of each slot, from its start to its end.
    workers: Vec<Option<(WorkerId, Arc<L>)>>,
}

/// What is left to do after a change.
#[derive(Debug)]
pub(super) struct Deeds<L> {
    pub(super) deeds: Vec<Deed<L>>,
    /// When to look at the role again, if that may have changed.
    pub(super) next_tick: Option<u64>,
}

#[derive(Debug)]
pub(super) enum Deed<L> {
    Start(WorkerId, Arc<L>),
    Stop(Arc<L>),
    Note(Note),
    LookElsewhere,
    TellRoom,
}

/// Where a request is that asked for a worker.
#[derive(Debug)]
pub(super) enum Placed<L> {
    Granted(Grant, Arc<L>),
    Waits(Ticket, Arc<Seat<L>>),
    Refused(Refusal),
    /// Workers that are not the role's own are to have it.
    Elsewhere,
}

impl<L: Default> RoleCore<L> {
    pub(super) fn new(scheduler: Scheduler<Arc<Seat<L>>>) -> Self {
        Self(Mutex::new(Locked { scheduler, workers: Vec::new() }))
    }

    /// Asks for a worker for a new request.
    #[inline]
    pub(super) fn admit(&self, now: u64, asked: Asked) -> (Placed<L>, Option<Deeds<L>>) {
        self.place(|scheduler, seat| scheduler.admit(now, asked, seat))
    }

    /// Asks for a worker for a request that had one before.
    pub(super) fn admit_again(
        &self,
        now: u64,
        asked: Asked,
        history: &History,
    ) -> (Placed<L>, Option<Deeds<L>>) {
        self.place(|scheduler, seat| scheduler.admit_again(now, asked, history, seat))
    }

    /// Asks for a worker for a request that other workers have not begun: as
    /// [`Scheduler::admit_back`].
    #[cfg(feature = "async")]
    pub(super) fn admit_back(
        &self,
        now: u64,
        asked: Asked,
        from: (Option<u64>, bool),
        history: &History,
    ) -> (Placed<L>, Option<Deeds<L>>) {
        self.place(|scheduler, seat| scheduler.admit_back(now, asked, from, history, seat))
    }

    /// A request gives its worker back.
    #[inline]
    pub(super) fn finish(&self, now: u64, grant: Grant, ending: Ending) -> Option<Deeds<L>> {
        self.change(|scheduler| scheduler.finish(now, grant, ending)).1
    }

    /// Blocks until a request is told, or until the deadline. `None`: it does not wait any more.
    pub(super) fn wait(
        &self,
        ticket: Ticket,
        seat: &Seat<L>,
        deadline: Deadline,
    ) -> (Option<Told<L>>, Option<Deeds<L>>) {
        if let Some(told) = seat.wait(deadline) {
            return (Some(told), None);
        }
        match self.leave(now_ns(), ticket) {
            (true, deeds) => (None, deeds),
            // Another thread has told it, or is about to, and then gives the place back.
            (false, deeds) => (seat.abandon(), deeds),
        }
    }

    /// A request stops waiting. Returns false if it was told, or is about to be.
    pub(super) fn leave(&self, now: u64, ticket: Ticket) -> (bool, Option<Deeds<L>>) {
        // Its seat may have the last waker of a task, so that it is not dropped under the lock.
        let (left, deeds) = self.change(|scheduler| scheduler.leave(now, ticket));
        (left.is_some(), deeds)
    }

    /// Changes what the scheduler knows, and returns what is left to do.
    #[inline]
    pub(super) fn change<R>(
        &self,
        change: impl FnOnce(&mut Scheduler<Arc<Seat<L>>>) -> R,
    ) -> (R, Option<Deeds<L>>) {
        let mut locked = self.0.lock();
        let changed = change(&mut locked.scheduler);
        let after = locked.after();
        drop(locked);
        (changed, after.map(|after| self.tell(after)))
    }

    /// Looks at the scheduler and at the worker of each slot; `None` if the lock is held. For the status
    /// page: `look` is to make some loads only.
    #[cfg(not(loom))]
    pub(super) fn look_soon<R>(
        &self,
        look: impl FnOnce(&Scheduler<Arc<Seat<L>>>, &[Option<(WorkerId, Arc<L>)>]) -> R,
    ) -> Option<R> {
        let locked = self.0.lock_soon()?;
        Some(look(&locked.scheduler, &locked.workers))
    }

    /// The workers that are there.
    pub(super) fn workers(&self) -> Vec<(WorkerId, Arc<L>)> {
        self.0.lock().workers.iter().flatten().map(|(id, live)| (*id, Arc::clone(live))).collect()
    }

    /// Forgets a worker that has ended, after `change`. The caller tells what follows.
    pub(super) fn forget(
        &self,
        worker: WorkerId,
        change: impl FnOnce(&mut Scheduler<Arc<Seat<L>>>),
    ) -> Option<After<L>> {
        let mut locked = self.0.lock();
        let mut gone = None;
        if let Some(place) = locked.workers.get_mut(worker.slot)
            && place.as_ref().is_some_and(|(id, _)| *id == worker)
        {
            gone = place.take();
        }
        change(&mut locked.scheduler);
        let after = locked.after();
        drop(locked);
        drop(gone);
        after
    }

    #[inline]
    fn place(
        &self,
        admit: impl FnOnce(&mut Scheduler<Arc<Seat<L>>>, &mut dyn FnMut() -> Arc<Seat<L>>) -> Admission,
    ) -> (Placed<L>, Option<Deeds<L>>) {
        let mut locked = self.0.lock();
        let mut seat = None;
        let mut make = || Arc::clone(seat.get_or_insert_with(|| Arc::new(Seat::new())));
        let admission = admit(&mut locked.scheduler, &mut make);
        let placed = match (admission, seat) {
            (Admission::Granted(grant), _) => match locked.worker(grant.worker) {
                Some(live) => Placed::Granted(grant, live),
                // The scheduler grants only workers that it has been told of.
                None => Placed::Refused(Refusal::Closed),
            },
            (Admission::Waits(ticket), Some(seat)) => {
                activity::note();
                Placed::Waits(ticket, seat)
            }
            (Admission::Waits(_), None) => Placed::Refused(Refusal::Closed),
            (Admission::Refused(why), _) => Placed::Refused(why),
            (Admission::Elsewhere, _) => Placed::Elsewhere,
        };
        let after = locked.after();
        drop(locked);
        (placed, after.map(|after| self.tell(after)))
    }

    /// Tells requests what becomes of them.
    #[cold]
    pub(super) fn tell(&self, After { told, mut deeds }: After<L>) -> Deeds<L> {
        for (seat, told) in told {
            // A waker that panics must not keep the others asleep.
            let told = catch_unwind(AssertUnwindSafe(|| seat.tell(told))).unwrap_or(None);
            // Its owner has gone meanwhile.
            let more = match told {
                Some(Told::Granted(grant, _)) => self.finish(now_ns(), grant, Ending::Over),
                Some(Told::Leave) => self.change(|scheduler| scheduler.forget_leaver(now_ns())).1,
                Some(Told::Refused(_) | Told::Cancelled) | None => None,
            };
            if let Some(more) = more {
                deeds.deeds.extend(more.deeds);
                deeds.next_tick = more.next_tick;
            }
        }
        deeds
    }
}

/// What was decided, with the requests that are to be told.
pub(super) struct After<L> {
    told: Vec<(Arc<Seat<L>>, Told<L>)>,
    deeds: Deeds<L>,
}

impl<L: Default> Locked<L> {
    fn worker(&self, id: WorkerId) -> Option<Arc<L>> {
        let (its, live) = self.workers.get(id.slot)?.as_ref()?;
        (*its == id).then(|| Arc::clone(live))
    }

    #[inline]
    fn after(&mut self) -> Option<After<L>> {
        let has_planned = self.scheduler.take_has_planned();
        (has_planned || self.scheduler.has_actions()).then(|| self.collect())
    }

    fn collect(&mut self) -> After<L> {
        let (mut told, mut deeds) = (Vec::new(), Vec::new());
        for action in self.scheduler.take_actions() {
            match action {
                Action::Grant { owner, grant } => match self.worker(grant.worker) {
                    Some(live) => told.push((owner, Told::Granted(grant, live))),
                    None => told.push((owner, Told::Refused(Refusal::Closed))),
                },
                Action::Refuse { owner, why } => told.push((owner, Told::Refused(why))),
                Action::Start(id) => {
                    let live = Arc::new(L::default());
                    if self.workers.len() <= id.slot {
                        self.workers.resize_with(id.slot + 1, || None);
                    }
                    if let Some(place) = self.workers.get_mut(id.slot) {
                        *place = Some((id, Arc::clone(&live)));
                    }
                    deeds.push(Deed::Start(id, live));
                }
                Action::Stop(id) => {
                    if let Some(live) = self.worker(id) {
                        deeds.push(Deed::Stop(live));
                    }
                }
                Action::Note(note) => deeds.push(Deed::Note(note)),
                Action::Leave { owner } => told.push((owner, Told::Leave)),
                Action::LookElsewhere => deeds.push(Deed::LookElsewhere),
                Action::TellRoom => deeds.push(Deed::TellRoom),
            }
        }
        let next_tick = self.scheduler.next_tick(now_ns());
        After { told, deeds: Deeds { deeds, next_tick } }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Wake, Waker};
    use std::time::Duration;

    use super::*;
    use crate::pool::scheduler::{Elsewhere, Limits, Priority};
    use crate::sys::clock::Deadline;

    #[test]
    fn a_place_whose_request_has_left_goes_to_the_next_that_waits() {
        let limits = Limits { prefetch: 0, ..Limits::default() };
        let core = RoleCore::<()>::new(Scheduler::new(limits, 1));
        let ask = |number| {
            core.admit(
                number,
                Asked {
                    number,
                    priority: Priority::Normal,
                    key: None,
                    elsewhere: Elsewhere::Never,
                    is_open_ended: false,
                },
            )
            .0
        };
        let (_, deeds) = core.change(|scheduler| scheduler.tick(0));
        let Some(Deed::Start(worker, _)) = deeds.and_then(|mut deeds| deeds.deeds.pop()) else {
            panic!("no worker is started")
        };
        core.change(|scheduler| scheduler.note_ready(0, worker));
        let Placed::Granted(first, _) = ask(1) else { panic!("the worker is free") };
        let (Placed::Waits(_, gone), Placed::Waits(_, next)) = (ask(2), ask(3)) else {
            panic!("the worker is taken")
        };
        // As a future that is dropped when its place is on its way.
        assert!(gone.abandon().is_none());
        core.finish(4, first, Ending::Over);
        let Some(Told::Granted(grant, _)) = next.wait(Deadline::after(Duration::ZERO)) else {
            panic!("the next was not told")
        };
        core.finish(5, grant, Ending::Over);
        assert_eq!(core.change(|scheduler| scheduler.overload(6)).0.in_flight, 0);
    }
    struct Panics;

    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker of the host's");
        }
    }

    #[test]
    fn a_waker_that_panics_keeps_no_other_request_from_hearing() {
        let core = RoleCore::<()>::new(Scheduler::new(Limits::default(), 1));
        let wait = |number| {
            let asked = Asked {
                number,
                priority: Priority::Normal,
                key: None,
                elsewhere: Elsewhere::Never,
                is_open_ended: false,
            };
            let Placed::Waits(_, seat) = core.admit(0, asked).0 else {
                panic!("no worker is there")
            };
            seat
        };
        let (first, second) = (wait(1), wait(2));
        assert!(first.poll(&Waker::from(Arc::new(Panics))).is_none());
        let close = || core.change(|scheduler| scheduler.close_now(1)).0;
        let closed = catch_unwind(AssertUnwindSafe(close));
        assert!(closed.is_ok(), "the panic is the waker's own");
        let told = second.wait(Deadline::after(Duration::ZERO));
        assert!(matches!(told, Some(Told::Refused(Refusal::Closed))));
    }
}
