//! Which workers run: starts, ends, replacements, growth, and what is done if they fail.

use super::backoff::Backoff;
use super::slot::{RecycleReason, Slot, State, WorkerId};
use super::window::Window;
use super::{Action, Death, Note, Phase, Refusal, Scheduler, slot_of};

impl<W> Scheduler<W> {
    /// A worker is ready to serve.
    pub(crate) fn note_ready(&mut self, now: u64, worker: WorkerId) {
        let recipe = self.recipe;
        let Some(slot) = slot_of(&mut self.slots, worker) else { return };
        if slot.state != State::Starting {
            return;
        }
        slot.make_ready(now, &self.limits, &mut self.random);
        if slot.recipe != recipe {
            slot.due = Some(RecycleReason::Recipe);
        }
        self.not_before = 0;
        self.heal();
        self.plan(now);
    }

    /// A worker has ended that was not told to, or could not be started.
    pub(crate) fn note_death(&mut self, now: u64, worker: WorkerId, death: Death) {
        let Some(slot) = slot_of(&mut self.slots, worker) else { return };
        let was_told = slot.state == State::Stopping;
        if !was_told && death == Death::Failed {
            slot.not_before = self.backoff.fail(now, &self.limits.backoff, &mut self.random);
        }
        let not_before = slot.not_before;
        self.in_flight = self.in_flight.saturating_sub(slot.in_flight);
        self.orphans += slot.in_flight;
        slot.empty();
        if !was_told && death != Death::Serving {
            if !self.slots.iter().any(Slot::is_ready) {
                self.not_before = self.not_before.max(not_before);
            }
            self.failures.add(now);
            self.check_failures(now);
        }
        self.plan(now);
    }

    /// A worker has ended as it was told to.
    pub(crate) fn note_stopped(&mut self, now: u64, worker: WorkerId) {
        let Some(slot) = slot_of(&mut self.slots, worker) else { return };
        self.in_flight = self.in_flight.saturating_sub(slot.in_flight);
        self.orphans += slot.in_flight;
        slot.empty();
        self.plan(now);
    }

    /// Has a worker replaced, without hurting what it serves.
    pub(crate) fn recycle(&mut self, now: u64, worker: WorkerId, why: RecycleReason) {
        let Some(slot) = slot_of(&mut self.slots, worker) else { return };
        if slot.is_ready() && slot.due.is_none() {
            slot.due = Some(why);
            self.plan(now);
        }
    }

    /// Has all workers replaced, one after another: the role has another recipe.
    pub(crate) fn reload(&mut self, now: u64) {
        self.recipe += 1;
        for slot in self.slots.iter_mut().filter(|slot| slot.is_ready()) {
            slot.due = Some(RecycleReason::Recipe);
        }
        self.plan(now);
    }

    /// Forgets all failures.
    pub(crate) fn reset(&mut self, now: u64) {
        self.failures = Window::new(self.limits.failure_period);
        self.backoff = Backoff::default();
        self.not_before = 0;
        for slot in &mut self.slots {
            slot.not_before = 0;
        }
        self.heal();
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
        self.phase == Phase::Closed && self.slots.iter().all(|slot| slot.state == State::Empty)
    }

    pub(crate) fn is_degraded(&self) -> bool {
        self.is_degraded
    }

    /// Looks at what time has changed.
    pub(crate) fn tick(&mut self, now: u64) {
        self.plan(now);
    }

    /// When to call [`Scheduler::tick`] next, if nothing else happens.
    ///
    /// A request that ends as usual changes no plan: so that a worker which works now is looked at
    /// when it could have become idle at the soonest.
    pub(crate) fn next_tick(&self, now: u64) -> Option<u64> {
        if self.phase == Phase::Closed {
            return None;
        }
        let ready = || self.slots.iter().filter(|slot| slot.is_ready() && slot.due.is_none());
        let ends = ready().filter_map(|slot| slot.ends_at);
        let can_shrink = self.target > self.limits.min_idle;
        let timeout = self.limits.idle_timeout.filter(|_| can_shrink);
        let busy = || ready().any(|slot| slot.in_flight > 0);
        let looks = timeout.filter(|_| busy()).map(|timeout| now.saturating_add(timeout));
        let shrinks = ready().filter_map(|slot| self.is_idle_until(slot)).chain(looks);
        let grows = self.grows_at().into_iter();
        let starts = (self.missing() > 0).then(|| self.starts_at()).flatten().into_iter();
        ends.chain(shrinks).chain(grows).chain(starts).min()
    }

    /// Decides what each worker does, and which are started.
    pub(super) fn plan(&mut self, now: u64) {
        self.has_planned = true;
        if self.phase == Phase::Draining && self.is_drained() {
            self.phase = Phase::Closed;
        }
        if self.phase == Phase::Closed {
            self.stop_where(|slot| !matches!(slot.state, State::Empty | State::Stopping));
            return;
        }
        self.note_old(now);
        self.promote();
        self.dispatch();
        self.grow(now);
        self.replace();
        // Where the old worker had to go first, a spare serves in its place.
        self.promote();
        self.dispatch();
        self.shrink(now);
        self.drain_surplus();
        self.stop_where(|slot| slot.state == State::Draining && slot.in_flight == 0);
        if self.is_sick() {
            self.refuse_all(Refusal::Degraded);
            if self.phase == Phase::Draining && self.is_drained() {
                return self.plan(now);
            }
        }
        self.start(now);
    }

    /// Marks workers that are as old as allowed.
    fn note_old(&mut self, now: u64) {
        for slot in self.slots.iter_mut().filter(|slot| slot.is_ready()) {
            if slot.ends_at.is_some_and(|end| end <= now) && slot.due.is_none() {
                slot.due = Some(RecycleReason::Lifetime);
            }
        }
    }

    fn grow(&mut self, now: u64) {
        while self.grows_at().is_some_and(|when| when <= now) {
            self.target = (self.target + 1).max(self.limits.min_idle);
            self.promote();
            self.dispatch();
        }
    }

    /// When another worker is to be started for what waits.
    fn grows_at(&self) -> Option<u64> {
        let oldest = self.queue.oldest().filter(|_| self.target < self.limits.max_size)?;
        let missing = self.target.saturating_sub(self.count(State::Serving));
        let is_awaited = self.queue.len() <= missing * self.limits.places();
        match self.target {
            0 => Some(0),
            _ => (!is_awaited).then(|| oldest.saturating_add(self.limits.grow_after)),
        }
    }

    /// Ends workers that have had nothing to do for long, the last one first.
    fn shrink(&mut self, now: u64) {
        let is_over =
            |this: &Self, slot: &Slot| this.is_idle_until(slot).is_some_and(|end| end <= now);
        while let Some(at) = self.slots.iter().rposition(|slot| is_over(self, slot)) {
            let Some(slot) = self.slots.get_mut(at) else { return };
            slot.state = State::Draining;
            self.target -= 1;
        }
    }

    /// Until when a worker may have nothing to do.
    fn is_idle_until(&self, slot: &Slot) -> Option<u64> {
        let timeout = self.limits.idle_timeout.filter(|_| self.target > self.limits.min_idle)?;
        let is_idle = slot.is_idle() && self.queue.is_empty();
        is_idle.then(|| slot.idle_since.saturating_add(timeout))
    }

    /// Has spares serve for workers that are gone, and for growth.
    fn promote(&mut self) {
        while self.count(State::Serving) < self.target {
            let spares = self.slots.iter_mut().filter(|slot| slot.state == State::Spare);
            let Some(slot) = spares.min_by_key(|slot| slot.due.is_some()) else { return };
            slot.state = State::Serving;
        }
    }

    /// Replaces workers that are due.
    fn replace(&mut self) {
        for at in 0..self.slots.len() {
            let Some(slot) = self.slots.get(at) else { return };
            let Some(why) = slot.due.filter(|_| slot.is_ready()) else { continue };
            let worker = WorkerId { slot: at, incarnation: slot.incarnation };
            if slot.state == State::Serving && !self.make_replacement() {
                continue;
            }
            if let Some(slot) = self.slots.get_mut(at) {
                slot.state = State::Draining;
            }
            self.actions.push(Action::Note(Note::Recycled { worker, why }));
        }
    }

    /// Whether a worker that is due can go: another one took its place, or it has to go first.
    fn make_replacement(&mut self) -> bool {
        if self.limits.stop_first {
            // None goes while another one is missing: a worker that cannot be started takes no others
            // along.
            let is_moving = |slot: &Slot| !slot.is_empty() && !slot.is_ready();
            let is_whole = self.count(State::Serving) >= self.target;
            return is_whole && !self.slots.iter().any(is_moving);
        }
        let mut spares = self.slots.iter_mut().filter(|slot| slot.state == State::Spare);
        let Some(spare) = spares.find(|slot| slot.due.is_none()) else { return false };
        spare.state = State::Serving;
        true
    }

    /// Ends spares that are not needed any more.
    fn drain_surplus(&mut self) {
        while self.count(State::Spare) > self.spares() {
            let mut slots = self.slots.iter_mut().rev();
            let Some(slot) = slots.find(|slot| slot.state == State::Spare) else { return };
            slot.state = State::Draining;
        }
    }

    fn start(&mut self, now: u64) {
        let mut missing = self.missing();
        while missing > 0 && self.starts_at().is_some_and(|when| when <= now) {
            let empty = self.slots.iter_mut().enumerate();
            let empty = empty.filter(|(_, slot)| slot.is_empty());
            let Some((at, slot)) = empty.min_by_key(|(_, slot)| slot.not_before) else { return };
            slot.start(self.recipe);
            let worker = WorkerId { slot: at, incarnation: slot.incarnation };
            self.actions.push(Action::Start(worker));
            self.tried_at = now;
            missing -= 1;
        }
    }

    /// How many workers are to be ready beside those that serve: none beside none.
    fn spares(&self) -> usize {
        if self.target == 0 { 0 } else { self.limits.spares }
    }

    /// How many workers are to be started.
    fn missing(&self) -> usize {
        let is_due = |slot: &Slot| slot.state == State::Serving && slot.due.is_some();
        let extra = !self.limits.stop_first && self.slots.iter().any(is_due);
        let wanted = match self.phase {
            Phase::Open => self.target + self.spares() + usize::from(extra),
            // Only for what waits.
            Phase::Draining => self.target.min(self.queue.len()),
            Phase::Closed => 0,
        };
        wanted.saturating_sub(self.slots.iter().filter(|slot| slot.is_kept()).count())
    }

    /// When a worker may be started.
    fn starts_at(&self) -> Option<u64> {
        let starting = self.count(State::Starting);
        if starting >= if self.is_degraded { 1 } else { self.limits.max_starts } {
            return None;
        }
        let empty = self.slots.iter().filter(|slot| slot.is_empty());
        let earliest = empty.map(|slot| slot.not_before).min()?;
        let trial = self.tried_at.saturating_add(self.limits.backoff.most);
        Some(earliest.max(self.not_before).max(if self.is_degraded { trial } else { 0 }))
    }

    /// Too many failures degrade the role.
    fn check_failures(&mut self, now: u64) {
        if self.failures.count(now) > self.limits.max_failures() && !self.is_degraded {
            self.is_degraded = true;
            self.actions.push(Action::Note(Note::Degraded));
        }
    }

    fn heal(&mut self) {
        if std::mem::take(&mut self.is_degraded) {
            self.actions.push(Action::Note(Note::Healed));
        }
    }

    fn refuse_all(&mut self, why: Refusal) {
        let waiting = self.queue.drain();
        self.actions.extend(waiting.map(|it| Action::Refuse { owner: it.owner, why }));
    }

    fn stop_where(&mut self, is_it: impl Fn(&Slot) -> bool) {
        for (at, slot) in self.slots.iter_mut().enumerate().filter(|(_, slot)| is_it(slot)) {
            slot.state = State::Stopping;
            let worker = WorkerId { slot: at, incarnation: slot.incarnation };
            self.actions.push(Action::Stop(worker));
        }
    }

    pub(super) fn count(&self, state: State) -> usize {
        self.slots.iter().filter(|slot| slot.state == state).count()
    }
}
