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
//!               |      |
//!               +------+--> elsewhere ---> end_away, admit_back
//!
//!   worker:   Start ---> note_ready ---> serves, drains ---> Stop ---> note_stopped
//!               |                           |
//!               +------- note_death <-------+
//! ```

mod actions;
mod away;
mod backoff;
#[cfg_attr(not(feature = "async"), allow(dead_code, reason = "backends need `async`"))]
mod elsewhere;
mod fleet;
mod limits;
mod queue;
mod random;
mod retry;
mod slot;
mod window;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use crate::priority::Priority;
pub(crate) use actions::{
    Action, Admission, Asked, Death, Elsewhere, Ending, Load, Note, Overload, Refusal,
};
pub(crate) use limits::Limits;
pub(crate) use queue::{Ticket, Waiting};
pub(crate) use random::Random;
pub(crate) use retry::{Attempt, History, Reason, Verdict};
pub use slot::RecycleReason;
pub(crate) use slot::{Grant, WorkerId};

use away::Away;
use fleet::{Demand, Fleet, Phase};
use queue::Queue;
use retry::RetryBudget;
use slot::{Reserved, State};
use window::CoarseWindow;

/// How long the measurement of the rate goes back.
const RATE_PERIOD: u64 = 8_000_000_000;
/// What is said of the rate before anything was measured.
const UNKNOWN_RETRY_AFTER: u64 = 1_000_000_000;

/// The decisions for one role. `W` stands for the owner of a request that waits.
#[derive(Debug)]
pub(crate) struct Scheduler<W> {
    /// The most requests that wait for a worker.
    max_waiting: usize,
    queue: Queue<W>,
    fleet: Fleet,
    in_flight: usize,
    /// Requests that were granted a worker that is gone, and have not given their place back.
    orphans: usize,
    /// Requests whose worker has died, that are about to ask again.
    returning: usize,
    away: Away,
    phase: Phase,
    retries: RetryBudget,
    finished: CoarseWindow,
    has_planned: bool,
    actions: Vec<Action<W>>,
}

impl<W> Scheduler<W> {
    /// Makes the scheduler of a role, whose limits were checked.
    pub(crate) fn new(limits: Limits, seed: u64) -> Self {
        Self {
            max_waiting: limits.max_waiting,
            queue: Queue::new(),
            in_flight: 0,
            orphans: 0,
            returning: 0,
            away: Away::default(),
            phase: Phase::Open,
            retries: RetryBudget::new(limits.retry.clone()),
            finished: CoarseWindow::new(RATE_PERIOD),
            has_planned: false,
            actions: Vec::new(),
            fleet: Fleet::new(limits, seed),
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
        if self.fleet.is_sick() {
            // A caller wants a worker: one is tried, also if none was wanted before.
            if self.fleet.want_one() {
                self.plan(now);
            }
            return match asked.elsewhere {
                Elsewhere::Never | Elsewhere::Later => Admission::Refused(Refusal::Degraded),
                Elsewhere::IfRefused | Elsewhere::IfFull => self.pass_on(now),
            };
        }
        // Those that wait for a worker of their own have one kept for them.
        if (self.queue.is_empty() || self.queue.len() == self.queue.count_alone())
            && let Some(grant) = self.fleet.place_for(asked.key)
        {
            self.retries.note_request(now);
            return Admission::Granted(self.grant(grant, asked.is_open_ended));
        }
        if self.leaves_at_once(now, asked) {
            return self.pass_on(now);
        }
        if self.queue.len() >= self.max_waiting {
            return match asked.elsewhere {
                Elsewhere::IfRefused | Elsewhere::IfFull => self.pass_on(now),
                _ => Admission::Refused(Refusal::Overloaded(self.overload(now))),
            };
        }
        self.retries.note_request(now);
        self.wait(now, now, asked, false, owner)
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
        // Not one that may end its workers.
        let may_leave = !history.is_suspect;
        if self.fleet.is_sick() {
            return match asked.elsewhere {
                Elsewhere::IfRefused | Elsewhere::IfFull if may_leave => self.pass_on(now),
                _ => {
                    if self.phase == Phase::Draining {
                        // It may have been the last that was waited for.
                        self.plan(now);
                    }
                    Admission::Refused(Refusal::Degraded)
                }
            };
        }
        let has_place = self.queue.is_empty() && self.fleet.place_for(asked.key).is_some();
        if may_leave && !has_place && self.leaves_at_once(now, asked) {
            return self.pass_on(now);
        }
        self.wait(now, now, asked, history.is_suspect, owner)
    }

    fn wait(
        &mut self,
        now: u64,
        since: u64,
        asked: Asked,
        is_alone: bool,
        owner: impl FnOnce() -> W,
    ) -> Admission {
        let may_leave = !is_alone && asked.elsewhere != Elsewhere::Never;
        let is_open_ended = asked.is_open_ended;
        let waiting = Waiting { owner: owner(), since, is_alone, may_leave, is_open_ended };
        let ticket = self.queue.push(asked.number, asked.priority, waiting);
        self.plan(now);
        // The others may have got a place since the request has looked. Also in a pause: from this look
        // on they tell of one.
        self.note_look();
        Admission::Waits(ticket)
    }

    /// Takes a request out of the queue. `None`: an action for its owner was made before.
    pub(crate) fn leave(&mut self, now: u64, ticket: Ticket) -> Option<W> {
        let left = self.queue.remove(ticket)?;
        // It may have had a worker kept free for it.
        self.plan(now);
        Some(left.owner)
    }

    /// The caller of an open-ended request has gone, and the worker is told so: that will be done with it
    /// as with any other. Returns the grant for its end.
    pub(crate) fn end_open(&mut self, now: u64, grant: Grant) -> Grant {
        if let Some(slot) = self.fleet.slot_of(grant.worker) {
            slot.open_ended = slot.open_ended.saturating_sub(grant.is_open_ended.into());
            if !self.queue.is_quiet() {
                self.plan(now);
            }
        }
        Grant { is_open_ended: false, ..grant }
    }

    /// A request that was granted has ended, with or without an answer.
    pub(crate) fn finish(&mut self, now: u64, grant: Grant, ending: Ending) {
        self.finished.add(now);
        let Some(slot) = self.fleet.slot_of(grant.worker) else {
            self.orphans = self.orphans.saturating_sub(1);
            if self.phase == Phase::Draining {
                self.plan(now);
            }
            return;
        };
        slot.in_flight = slot.in_flight.saturating_sub(1);
        slot.open_ended = slot.open_ended.saturating_sub(grant.is_open_ended.into());
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
        let is_usual = slot.state == State::Serving && slot.due.is_none();
        if !is_usual || !self.queue.is_quiet() || self.phase != Phase::Open {
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

    /// Whether nothing waits, no worker has a request, also none elsewhere, and none is sent again.
    fn is_drained(&self) -> bool {
        let with_workers = self.in_flight + self.orphans + self.returning + self.away.count;
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
            limit: self.max_waiting,
            in_flight: self.in_flight,
            oldest_wait: self.queue.oldest().map_or(0, since),
            retry_after,
        }
    }

    /// Gives requests that wait to workers that have a place.
    fn dispatch(&mut self) {
        self.fleet.keep_for_alone(self.queue.count_alone());
        while let Some(grant) = self.fleet.place_alone() {
            let Some(next) = self.queue.pop_alone() else { break };
            let grant = self.grant(grant, next.is_open_ended);
            self.actions.push(Action::Grant { owner: next.owner, grant });
        }
        // Only requests that found no place are in the queue: a key has no choice.
        while let Some(grant) = self.fleet.place_for(None) {
            let Some(next) = self.queue.pop() else { break };
            let grant = self.grant(grant, next.is_open_ended);
            self.actions.push(Action::Grant { owner: next.owner, grant });
        }
    }

    fn grant(&mut self, grant: Grant, is_open_ended: bool) -> Grant {
        let grant = Grant { is_open_ended, ..grant };
        self.fleet.grant(grant);
        self.in_flight += 1;
        grant
    }

    /// A worker is ready to serve.
    pub(crate) fn note_ready(&mut self, now: u64, worker: WorkerId) {
        if self.fleet.note_ready(now, worker, &mut self.actions) {
            self.plan(now);
        }
    }

    /// A worker has ended that was not told to, or could not be started.
    pub(crate) fn note_death(&mut self, now: u64, worker: WorkerId, death: Death) {
        let lost = self.fleet.note_death(now, worker, death, &mut self.actions);
        self.note_end(now, lost);
    }

    /// A worker has ended as it was told to.
    pub(crate) fn note_stopped(&mut self, now: u64, worker: WorkerId) {
        let lost = self.fleet.note_stopped(worker);
        self.note_end(now, lost);
    }

    /// A worker has ended with so many requests; `None` if it had ended before.
    fn note_end(&mut self, now: u64, lost: Option<usize>) {
        let Some(lost) = lost else { return };
        self.in_flight = self.in_flight.saturating_sub(lost);
        self.orphans += lost;
        self.plan(now);
    }

    /// Has a worker replaced, without hurting what it serves.
    pub(crate) fn recycle(&mut self, now: u64, worker: WorkerId, why: RecycleReason) {
        if self.fleet.recycle(worker, why) {
            self.plan(now);
        }
    }

    /// Has all workers replaced, one after another: the role has another recipe.
    pub(crate) fn reload(&mut self, now: u64) {
        self.fleet.reload();
        self.plan(now);
    }

    /// Forgets all failures.
    pub(crate) fn reset(&mut self, now: u64) {
        self.fleet.forget_failures(&mut self.actions);
        self.plan(now);
    }

    /// Takes no new requests; once all that were taken are served, ends the workers.
    pub(crate) fn close(&mut self, now: u64) {
        if self.phase == Phase::Open {
            self.phase = Phase::Draining;
            self.plan(now);
        }
    }

    /// Ends all requests that wait, and all workers with what they serve.
    pub(crate) fn close_now(&mut self, now: u64) {
        if self.phase != Phase::Closed {
            self.phase = Phase::Closed;
            self.refuse_all(Refusal::Closed);
            self.plan(now);
        }
    }

    /// Whether the role was closed and has no worker left.
    pub(crate) fn is_over(&self) -> bool {
        self.phase == Phase::Closed && self.fleet.is_gone()
    }

    pub(crate) fn is_degraded(&self) -> bool {
        self.fleet.is_degraded()
    }

    /// Whether requests are served, or will be.
    pub(crate) fn is_ready(&self) -> bool {
        self.phase == Phase::Open && !self.fleet.is_sick()
    }

    /// How many requests wait, how many may, how many workers have, and since when the oldest waits.
    #[cfg_attr(loom, allow(dead_code, reason = "for the status page"))]
    pub(crate) fn requests(&self) -> (usize, usize, usize, Option<u64>) {
        (self.queue.len(), self.max_waiting, self.in_flight, self.queue.oldest())
    }

    /// How much it has to do. Cheaper than [`Scheduler::overload`].
    pub(crate) fn load(&self) -> Load {
        Load {
            places: self.fleet.places(),
            in_flight: self.in_flight,
            queued: self.queue.len(),
            is_ready: self.is_ready(),
            is_draining: self.phase != Phase::Open,
        }
    }

    /// How many workers have failed one after the other, so that the next one is started later.
    #[allow(dead_code, reason = "not in a model")]
    pub(crate) fn failures_in_a_row(&self) -> u32 {
        self.fleet.failures_in_a_row()
    }

    /// How many workers serve.
    pub(crate) fn serving(&self) -> usize {
        self.fleet.serving()
    }

    /// Looks at what time has changed.
    pub(crate) fn tick(&mut self, now: u64) {
        self.plan(now);
        if self.next_look().is_some_and(|next| next <= now) {
            self.look_elsewhere(now);
        }
    }

    /// When to call [`Scheduler::tick`] next, if nothing else happens.
    pub(crate) fn next_tick(&self, now: u64) -> Option<u64> {
        let change = self.fleet.next_change(now, self.demand());
        change.into_iter().chain(self.next_look()).min()
    }

    /// Whether [`Scheduler::next_tick`] may be sooner than at the last look.
    pub(crate) fn take_has_planned(&mut self) -> bool {
        std::mem::take(&mut self.has_planned)
    }

    fn demand(&self) -> Demand {
        let (waiting, oldest) = (self.queue.len(), self.queue.oldest());
        Demand { waiting, oldest, phase: self.phase }
    }

    /// Decides what each worker does, and which are started.
    fn plan(&mut self, now: u64) {
        self.has_planned = true;
        if self.phase == Phase::Draining && self.is_drained() {
            self.phase = Phase::Closed;
        }
        if self.phase == Phase::Closed {
            self.fleet.stop_all(&mut self.actions);
            return;
        }
        self.fleet.note_old(now);
        self.fleet.promote();
        self.dispatch();
        while self.fleet.grow(now, self.demand()) {
            self.dispatch();
        }
        self.fleet.replace(&mut self.actions);
        // Where the old worker had to go first, a spare serves in its place.
        self.fleet.promote();
        self.dispatch();
        self.fleet.shrink(now, self.demand());
        self.fleet.stop_unneeded(&mut self.actions);
        if self.fleet.is_sick() {
            self.refuse_sick();
            if self.phase == Phase::Draining && self.is_drained() {
                return self.plan(now);
            }
        }
        self.fleet.start(now, self.demand(), &mut self.actions);
        self.tell_room();
    }

    fn refuse_all(&mut self, why: Refusal) {
        let waiting = self.queue.drain();
        self.actions.extend(waiting.map(|it| Action::Refuse { owner: it.owner, why }));
    }
}
