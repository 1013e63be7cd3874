//! Which worker gets which request, and which workers run: the decisions for one role.
//!
//! Nothing here waits, reads a clock or starts anything. The caller brings the time, holds the
//! lock of the role, and carries out the [`Action`]s afterwards, without the lock. So a simulation
//! can run thousands of schedules against it: `simulation.rs`.
//!
//! ```text
//!   request:  admit ---> granted ---> finish
//!               |           ^   |
//!               +--> queue -+   +---> end_dead ---> admit_again
//!
//!   worker:   Start ---> note_ready ---> serves, drains ---> Stop ---> note_stopped
//!               |                           |
//!               +------- note_death <-------+
//! ```

mod backoff;
mod limits;
mod queue;
mod random;
mod retry;
mod slot;
mod window;

mod fleet;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub(crate) use limits::Limits;
pub use queue::Priority;
pub(crate) use queue::{Ticket, Waiting};
pub(crate) use random::Random;
pub(crate) use retry::{Attempt, History, Reason, Verdict};
pub use slot::RecycleReason;
pub(crate) use slot::{Grant, WorkerId};

use backoff::Backoff;
use queue::Queue;
use retry::RetryBudget;
use slot::{Reserved, Slot, State};
use window::{CoarseWindow, Window};

/// How long the measurement of the rate goes back.
const RATE_PERIOD: u64 = 8_000_000_000;
/// What is said of the rate before anything was measured.
const UNKNOWN_RETRY_AFTER: u64 = 1_000_000_000;

/// The decisions for one role. `W` stands for the owner of a request that waits.
#[derive(Debug)]
pub(crate) struct Scheduler<W> {
    limits: Limits,
    queue: Queue<W>,
    slots: Vec<Slot>,
    /// How many workers are to serve.
    target: usize,
    in_flight: usize,
    /// Requests that were granted a worker that is gone, and have not given their place back.
    orphans: usize,
    /// Requests whose worker has died, that are about to ask again.
    returning: usize,
    recipe: u64,
    phase: Phase,
    is_degraded: bool,
    /// When the role was last tried while it is degraded.
    tried_at: u64,
    /// No worker is started before, as long as none is ready.
    not_before: u64,
    backoff: Backoff,
    failures: Window,
    retries: RetryBudget,
    finished: CoarseWindow,
    random: Random,
    has_planned: bool,
    actions: Vec<Action<W>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// What waits is still served.
    Draining,
    Closed,
}

/// What is to be done, in this order.
#[derive(Debug)]
pub(crate) enum Action<W> {
    /// The request may be sent.
    Grant {
        owner: W,
        grant: Grant,
    },
    /// The request is over.
    Refuse {
        owner: W,
        why: Refusal,
    },
    /// A worker is to be started.
    Start(WorkerId),
    /// A worker is to be ended; it has nothing in flight, unless the role was closed.
    Stop(WorkerId),
    Note(Note),
}

/// What has changed, for events and counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Note {
    Recycled { worker: WorkerId, why: RecycleReason },
    Degraded,
    Healed,
}

/// Why a request is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Overloaded(Overload),
    /// No worker can be started.
    Degraded,
    Closed,
}

/// How full a role was. Times are nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overload {
    pub(crate) queued: usize,
    pub(crate) limit: usize,
    pub(crate) in_flight: usize,
    pub(crate) oldest_wait: u64,
    pub(crate) retry_after: u64,
}

/// A request that asks for a worker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    /// Its number, which is higher than that of each request before it.
    pub(crate) number: u64,
    pub(crate) priority: Priority,
    /// Requests with the same key go to the same worker while that has a place.
    pub(crate) key: Option<u64>,
}

/// What became of a request that asked.
#[derive(Debug)]
pub(crate) enum Admission {
    Granted(Grant),
    Waits(Ticket),
    Refused(Refusal),
}

/// How a request that was granted ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The worker has answered, or is told that no answer is awaited.
    Over,
    /// Its worker is dead.
    WorkerDied,
}

/// How a worker ended that was not told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// While it served: the requests are charged with it.
    Serving,
    /// At its start, or without a request, by itself.
    Failed,
    /// Without a request, by something else, such as an operator.
    Killed,
}

impl<W> Scheduler<W> {
    /// Makes the scheduler of a role, whose limits were checked.
    pub(crate) fn new(limits: Limits, seed: u64) -> Self {
        let slots = (0..limits.slots()).map(|_| Slot::new()).collect();
        Self {
            queue: Queue::new(),
            slots,
            target: if limits.is_lazy { 0 } else { limits.min_idle },
            in_flight: 0,
            orphans: 0,
            returning: 0,
            recipe: 0,
            phase: Phase::Open,
            is_degraded: false,
            tried_at: 0,
            not_before: 0,
            backoff: Backoff::default(),
            failures: Window::new(limits.failure_period),
            retries: RetryBudget::new(limits.retry.clone()),
            finished: CoarseWindow::new(RATE_PERIOD),
            random: Random::new(seed),
            has_planned: false,
            actions: Vec::new(),
            limits,
        }
    }

    /// What is to be done since the last look. Carry it out without the lock of the role.
    pub(crate) fn take_actions(&mut self) -> Vec<Action<W>> {
        std::mem::take(&mut self.actions)
    }

    /// Whether there is something to be done.
    pub(crate) fn has_actions(&self) -> bool {
        !self.actions.is_empty()
    }

    /// Takes a new request: grants it a worker, or has it wait. `owner` is made only if it waits.
    pub(crate) fn admit(&mut self, now: u64, asked: Asked, owner: impl FnOnce() -> W) -> Admission {
        if self.phase != Phase::Open {
            return Admission::Refused(Refusal::Closed);
        }
        if self.is_sick() {
            // A caller wants a worker: one is tried, also if none was wanted before.
            if self.target == 0 {
                self.target = self.limits.min_idle.max(1);
                self.plan(now);
            }
            return Admission::Refused(Refusal::Degraded);
        }
        // Those that wait for a worker of their own have one kept for them.
        if (self.queue.is_empty() || self.queue.len() == self.queue.count_alone())
            && let Some(grant) = self.place_for(asked.key)
        {
            self.retries.note_request(now);
            self.grant(grant);
            return Admission::Granted(grant);
        }
        if self.queue.len() >= self.limits.max_waiting {
            return Admission::Refused(Refusal::Overloaded(self.overload(now)));
        }
        self.retries.note_request(now);
        self.wait(now, asked, false, owner)
    }

    /// Takes a request again that was taken before: there is always room for it to wait.
    pub(crate) fn admit_again(
        &mut self,
        now: u64,
        asked: Asked,
        history: &History,
        owner: impl FnOnce() -> W,
    ) -> Admission {
        if self.phase == Phase::Closed {
            return Admission::Refused(Refusal::Closed);
        }
        self.returning = self.returning.saturating_sub(1);
        if self.is_sick() {
            if self.phase == Phase::Draining {
                // It may have been the last that was waited for.
                self.plan(now);
            }
            return Admission::Refused(Refusal::Degraded);
        }
        self.wait(now, asked, history.is_suspect, owner)
    }

    fn wait(
        &mut self,
        now: u64,
        asked: Asked,
        is_alone: bool,
        owner: impl FnOnce() -> W,
    ) -> Admission {
        let waiting = Waiting { owner: owner(), since: now, is_alone };
        let ticket = self.queue.push(asked.number, asked.priority, waiting);
        self.plan(now);
        Admission::Waits(ticket)
    }

    /// Takes a request out of the queue. `None`: an action for its owner was made before.
    pub(crate) fn leave(&mut self, now: u64, ticket: Ticket) -> Option<W> {
        let left = self.queue.remove(ticket)?;
        // It may have had a worker kept free for it.
        self.plan(now);
        Some(left.owner)
    }

    /// A request that was granted has ended, with or without an answer.
    pub(crate) fn finish(&mut self, now: u64, grant: Grant, ending: Ending) {
        self.finished.add(now);
        let Some(slot) = slot_of(&mut self.slots, grant.worker) else {
            self.orphans = self.orphans.saturating_sub(1);
            if self.phase == Phase::Draining {
                self.plan(now);
            }
            return;
        };
        slot.in_flight = slot.in_flight.saturating_sub(1);
        self.in_flight = self.in_flight.saturating_sub(1);
        if grant.is_alone {
            slot.reserved = Reserved::No;
        }
        if slot.in_flight == 0 {
            slot.idle_since = now;
        }
        let was_serving = slot.state == State::Serving;
        let is_used_up = slot.most_requests.is_some_and(|most| slot.granted >= most);
        if was_serving && is_used_up {
            slot.due = Some(RecycleReason::Requests);
        }
        if ending == Ending::WorkerDied && slot.is_kept() {
            slot.state = State::Dead;
        }
        let slot = self.slots.get(grant.worker.slot);
        let is_usual = slot.is_some_and(|slot| slot.state == State::Serving && slot.due.is_none());
        if !is_usual || !self.queue.is_empty() || self.phase != Phase::Open {
            self.plan(now);
        }
    }

    /// A request whose worker has died gives its place back. Decides what becomes of the request. If
    /// it is sent again, [`Scheduler::admit_again`] or [`Scheduler::give_up`] must follow: a close
    /// waits for that.
    pub(crate) fn end_dead(
        &mut self,
        now: u64,
        grant: Grant,
        history: &mut History,
        attempt: Attempt,
    ) -> Verdict {
        let verdict = self.retries.judge(now, history, attempt);
        // Before the place is given back: otherwise a role that closes would count as drained.
        self.returning += usize::from(verdict == Verdict::Again);
        self.finish(now, grant, Ending::WorkerDied);
        verdict
    }

    /// A request that was to be sent again is not: it was cancelled, or its caller has gone.
    pub(crate) fn give_up(&mut self, now: u64) {
        self.returning = self.returning.saturating_sub(1);
        if self.phase == Phase::Draining {
            self.plan(now);
        }
    }

    /// Whether nothing waits, no worker has a request, and none is sent again.
    fn is_drained(&self) -> bool {
        let with_workers = self.in_flight + self.orphans + self.returning;
        self.queue.is_empty() && with_workers == 0
    }

    /// How full the role is.
    pub(crate) fn overload(&mut self, now: u64) -> Overload {
        let queued = self.queue.len();
        let finished = self.finished.count(now);
        let since = |since: u64| now.saturating_sub(since);
        let drained = u64::try_from(queued).unwrap_or(u64::MAX).saturating_mul(RATE_PERIOD);
        let retry_after = match u64::try_from(finished) {
            Ok(finished @ 1..) => drained / finished,
            _ => UNKNOWN_RETRY_AFTER,
        };
        Overload {
            queued,
            limit: self.limits.max_waiting,
            in_flight: self.in_flight,
            oldest_wait: self.queue.oldest().map_or(0, since),
            retry_after,
        }
    }

    /// Gives requests that wait to workers that have a place.
    fn dispatch(&mut self) {
        self.dispatch_alone();
        // Only requests that found no place are in the queue: a key has no choice.
        while let Some(grant) = self.place_for(None) {
            let Some(next) = self.queue.pop() else { break };
            self.grant(grant);
            self.actions.push(Action::Grant { owner: next.owner, grant });
        }
    }

    /// Keeps workers free for requests that are tried alone: no more than half of those that
    /// serve, but one.
    fn dispatch_alone(&mut self) {
        let waiting = self.queue.count_alone();
        let count = |slots: &[Slot], is_it: fn(&Slot) -> bool| {
            slots.iter().filter(|slot| slot.state == State::Serving && is_it(slot)).count()
        };
        let most = (count(&self.slots, |_| true) / 2).max(1);
        let kept = |slots: &[Slot]| count(slots, |slot| slot.reserved == Reserved::Kept);
        while kept(&self.slots) > waiting {
            let mut slots = self.slots.iter_mut();
            let Some(slot) = slots.find(|slot| slot.reserved == Reserved::Kept) else { break };
            slot.reserved = Reserved::No;
        }
        while kept(&self.slots) < waiting
            && count(&self.slots, |slot| slot.reserved != Reserved::No) < most
        {
            let serving = self.slots.iter_mut().filter(|slot| slot.state == State::Serving);
            let free = serving.filter(|slot| slot.reserved == Reserved::No);
            let Some(slot) = free.min_by_key(|slot| slot.in_flight) else { break };
            slot.reserved = Reserved::Kept;
        }
        for at in 0..self.slots.len() {
            let Some(slot) = self.slots.get(at) else { break };
            let is_kept = slot.state == State::Serving && slot.reserved == Reserved::Kept;
            if !is_kept || slot.in_flight > 0 {
                continue;
            }
            let Some(next) = self.queue.pop_alone() else { break };
            let worker = WorkerId { slot: at, incarnation: slot.incarnation };
            let grant = Grant { worker, is_alone: true };
            self.grant(grant);
            self.actions.push(Action::Grant { owner: next.owner, grant });
        }
    }

    /// The worker that the next request with this key goes to.
    fn place_for(&self, key: Option<u64>) -> Option<Grant> {
        let serving = || self.slots.iter().enumerate().filter(|(_, s)| s.state == State::Serving);
        let grant = |(slot, at): (usize, &Slot)| Grant {
            worker: WorkerId { slot, incarnation: at.incarnation },
            is_alone: false,
        };
        if let Some(key) = key {
            // Rendezvous hashing (Thaler, Ravishankar, 1996): only the keys of a worker that is
            // gone move.
            let preferred = serving().max_by_key(|(slot, _)| weight(key, *slot));
            if let Some(preferred) = preferred.filter(|(_, slot)| slot.has_place(&self.limits)) {
                return Some(grant(preferred));
            }
        }
        let with_place = serving().filter(|(_, slot)| slot.has_place(&self.limits));
        with_place.min_by_key(|(_, slot)| (slot.due.is_some(), slot.in_flight)).map(grant)
    }

    /// Whether [`Scheduler::next_tick`] may be sooner than at the last look.
    pub(crate) fn take_has_planned(&mut self) -> bool {
        std::mem::take(&mut self.has_planned)
    }

    fn grant(&mut self, grant: Grant) {
        let Some(slot) = self.slots.get_mut(grant.worker.slot) else { return };
        slot.in_flight += 1;
        slot.granted += 1;
        if grant.is_alone {
            slot.reserved = Reserved::Alone;
        }
        self.in_flight += 1;
    }

    /// Whether requests are served, or will be.
    pub(crate) fn is_ready(&self) -> bool {
        self.phase == Phase::Open && !self.is_sick()
    }

    /// How many workers serve.
    pub(crate) fn serving(&self) -> usize {
        self.count(State::Serving)
    }

    /// Whether nothing serves and there is no hope that something soon will.
    fn is_sick(&self) -> bool {
        self.is_degraded && self.serving() == 0
    }
}

fn weight(key: u64, slot: usize) -> u64 {
    let slot = u64::try_from(slot).unwrap_or(0);
    Random::new(key ^ slot.wrapping_mul(0xD6E8_FEB8_6659_FD93)).next()
}

fn slot_of(slots: &mut [Slot], worker: WorkerId) -> Option<&mut Slot> {
    slots.get_mut(worker.slot).filter(|slot| slot.incarnation == worker.incarnation)
}
