//! Which workers run: starts, ends, replacements, growth, and what is done if they fail; and which of
//! them gets a request.

use super::actions::{Action, Death, Note};
use super::backoff::Backoff;
use super::limits::Limits;
use super::random::Random;
use super::slot::{Grant, RecycleReason, Reserved, Slot, State, WorkerId};
use super::window::Window;

/// The workers of a role.
#[derive(Debug)]
pub(super) struct Fleet {
    limits: Limits,
    pub(super) slots: Vec<Slot>,
    /// How many workers are to serve.
    pub(super) target: usize,
    recipe: u64,
    is_degraded: bool,
    /// When the role was last tried while it is degraded.
    tried_at: u64,
    /// No worker is started before, as long as none is ready.
    not_before: u64,
    backoff: Backoff,
    failures: Window,
    random: Random,
}

/// Whether a role takes requests, and serves those that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// What waits is still served.
    Draining,
    Closed,
}

/// What the requests of a role ask of its workers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Demand {
    /// How many requests wait.
    pub(super) waiting: usize,
    /// Since when the oldest of them waits.
    pub(super) oldest: Option<u64>,
    pub(super) phase: Phase,
}

impl Fleet {
    pub(super) fn new(limits: Limits, seed: u64) -> Self {
        Self {
            slots: (0..limits.slots()).map(|_| Slot::new()).collect(),
            target: if limits.is_lazy { 0 } else { limits.min_idle },
            recipe: 0,
            is_degraded: false,
            tried_at: 0,
            not_before: 0,
            backoff: Backoff::default(),
            failures: Window::new(limits.failure_period),
            random: Random::new(seed),
            limits,
        }
    }

    pub(super) fn failures_in_a_row(&self) -> u32 {
        self.backoff.failures()
    }

    /// The slot of a worker that has not ended.
    pub(super) fn slot_of(&mut self, worker: WorkerId) -> Option<&mut Slot> {
        slot_in(&mut self.slots, worker)
    }

    /// The worker that the next request with this key goes to.
    pub(super) fn place_for(&self, key: Option<u64>) -> Option<Grant> {
        let serving = || self.slots.iter().enumerate().filter(|(_, s)| s.state == State::Serving);
        let grant = |(slot, at): (usize, &Slot)| Grant {
            worker: WorkerId { slot, incarnation: at.incarnation },
            is_alone: false,
            is_open_ended: false,
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

    /// Keeps workers free for so many requests that are tried alone: no more than half of those that
    /// serve, but one.
    pub(super) fn keep_for_alone(&mut self, waiting: usize) {
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
    }

    /// A worker that is kept for a request that is tried alone, and has nothing left.
    pub(super) fn place_alone(&self) -> Option<Grant> {
        let is_free = |slot: &Slot| {
            let is_kept = slot.state == State::Serving && slot.reserved == Reserved::Kept;
            is_kept && slot.in_flight == 0
        };
        let slot = self.slots.iter().position(is_free)?;
        let incarnation = self.slots.get(slot)?.incarnation;
        let worker = WorkerId { slot, incarnation };
        Some(Grant { worker, is_alone: true, is_open_ended: false })
    }

    /// A request gets a place of a worker.
    pub(super) fn grant(&mut self, grant: Grant) {
        let Some(slot) = self.slots.get_mut(grant.worker.slot) else { return };
        slot.in_flight += 1;
        slot.open_ended += usize::from(grant.is_open_ended);
        slot.granted += 1;
        if grant.is_alone {
            slot.reserved = Reserved::Alone;
        }
    }

    /// Has a worker tried if none is wanted. Returns whether that was so.
    pub(super) fn want_one(&mut self) -> bool {
        let is_none_wanted = self.target == 0;
        if is_none_wanted {
            self.target = self.limits.min_idle.max(1);
        }
        is_none_wanted
    }

    /// A worker is ready to serve. Returns false if it was not being started.
    pub(super) fn note_ready<W>(
        &mut self,
        now: u64,
        worker: WorkerId,
        actions: &mut Vec<Action<W>>,
    ) -> bool {
        let Some(slot) = slot_in(&mut self.slots, worker) else { return false };
        if slot.state != State::Starting {
            return false;
        }
        slot.make_ready(now, &self.limits, &mut self.random);
        if slot.recipe != self.recipe {
            slot.due = Some(RecycleReason::Recipe);
        }
        self.not_before = 0;
        self.heal(actions);
        true
    }

    /// A worker has ended that was not told to, or could not be started. Returns how many requests it
    /// had; `None` if it had ended before.
    pub(super) fn note_death<W>(
        &mut self,
        now: u64,
        worker: WorkerId,
        death: Death,
        actions: &mut Vec<Action<W>>,
    ) -> Option<usize> {
        let slot = slot_in(&mut self.slots, worker)?;
        let was_told = slot.state == State::Stopping;
        if !was_told && death == Death::Failed {
            slot.not_before = self.backoff.fail(now, &self.limits.backoff, &mut self.random);
        }
        let (not_before, lost) = (slot.not_before, slot.in_flight);
        slot.empty();
        if !was_told && death != Death::Serving {
            if !self.slots.iter().any(Slot::is_ready) {
                self.not_before = self.not_before.max(not_before);
            }
            self.failures.add(now);
            self.check_failures(now, actions);
        }
        Some(lost)
    }

    /// A worker has ended as it was told to. Returns as [`Fleet::note_death`].
    pub(super) fn note_stopped(&mut self, worker: WorkerId) -> Option<usize> {
        let slot = self.slot_of(worker)?;
        let lost = slot.in_flight;
        slot.empty();
        Some(lost)
    }

    /// Has a worker replaced. Returns false if it is about to go anyway.
    pub(super) fn recycle(&mut self, worker: WorkerId, why: RecycleReason) -> bool {
        let Some(slot) = self.slot_of(worker) else { return false };
        let is_new = slot.is_ready() && slot.due.is_none();
        if is_new {
            slot.due = Some(why);
        }
        is_new
    }

    /// Has all workers replaced.
    pub(super) fn reload(&mut self) {
        self.recipe += 1;
        for slot in self.slots.iter_mut().filter(|slot| slot.is_ready()) {
            slot.due = Some(RecycleReason::Recipe);
        }
    }

    pub(super) fn forget_failures<W>(&mut self, actions: &mut Vec<Action<W>>) {
        self.failures = Window::new(self.limits.failure_period);
        self.backoff = Backoff::default();
        self.not_before = 0;
        for slot in &mut self.slots {
            slot.not_before = 0;
        }
        self.heal(actions);
    }

    /// Whether no worker is left.
    pub(super) fn is_gone(&self) -> bool {
        self.slots.iter().all(Slot::is_empty)
    }

    pub(super) fn is_degraded(&self) -> bool {
        self.is_degraded
    }

    /// Whether nothing serves and there is no hope that something soon will.
    pub(super) fn is_sick(&self) -> bool {
        self.is_degraded && self.serving() == 0
    }

    /// How many requests are served at the same time if all workers are there.
    pub(super) fn places(&self) -> usize {
        self.limits.max_size.saturating_mul(self.limits.concurrency)
    }

    /// How many workers serve.
    pub(super) fn serving(&self) -> usize {
        self.count(State::Serving)
    }

    /// When time changes what runs next, if nothing else happens.
    ///
    /// A request that ends as usual changes no plan: so that a worker which works now is looked at
    /// when it could have become idle at the soonest.
    pub(super) fn next_change(&self, now: u64, demand: Demand) -> Option<u64> {
        if demand.phase == Phase::Closed {
            return None;
        }
        let ready = || self.slots.iter().filter(|slot| slot.is_ready() && slot.due.is_none());
        let ends = ready().filter_map(|slot| slot.ends_at);
        let can_shrink = self.target > self.limits.min_idle;
        let timeout = self.limits.idle_timeout.filter(|_| can_shrink);
        let busy = || ready().any(|slot| slot.in_flight > 0);
        let looks = timeout.filter(|_| busy()).map(|timeout| now.saturating_add(timeout));
        let shrinks = ready().filter_map(|slot| self.is_idle_until(slot, demand)).chain(looks);
        let grows = self.grows_at(demand).into_iter();
        let starts = (self.missing(demand) > 0).then(|| self.starts_at()).flatten().into_iter();
        ends.chain(shrinks).chain(grows).chain(starts).min()
    }

    /// Marks workers that are as old as allowed.
    pub(super) fn note_old(&mut self, now: u64) {
        for slot in self.slots.iter_mut().filter(|slot| slot.is_ready()) {
            if slot.ends_at.is_some_and(|end| end <= now) && slot.due.is_none() {
                slot.due = Some(RecycleReason::Lifetime);
            }
        }
    }

    /// Has one more worker serve if something has waited for long enough. Returns whether that was so.
    pub(super) fn grow(&mut self, now: u64, demand: Demand) -> bool {
        let is_due = self.grows_at(demand).is_some_and(|when| when <= now);
        if is_due {
            self.target = (self.target + 1).max(self.limits.min_idle);
            self.promote();
        }
        is_due
    }

    /// Has one more worker serve for a request that went elsewhere, if none is on its way. Returns
    /// whether that was so.
    pub(super) fn grow_at_once(&mut self) -> bool {
        let is_due = self.target < self.limits.max_size && self.target <= self.serving();
        if is_due {
            self.target = (self.target + 1).max(self.limits.min_idle);
            self.promote();
        }
        is_due
    }

    /// When another worker is to be started for what waits.
    fn grows_at(&self, demand: Demand) -> Option<u64> {
        let oldest = demand.oldest.filter(|_| self.target < self.limits.max_size)?;
        let missing = self.target.saturating_sub(self.serving());
        let is_awaited = demand.waiting <= missing * self.limits.places();
        match self.target {
            0 => Some(0),
            _ => (!is_awaited).then(|| oldest.saturating_add(self.limits.grow_after)),
        }
    }

    /// Ends workers that have had nothing to do for long, the last one first.
    pub(super) fn shrink(&mut self, now: u64, demand: Demand) {
        let is_over = |this: &Self, slot: &Slot| {
            this.is_idle_until(slot, demand).is_some_and(|end| end <= now)
        };
        while let Some(at) = self.slots.iter().rposition(|slot| is_over(self, slot)) {
            let Some(slot) = self.slots.get_mut(at) else { return };
            slot.state = State::Draining;
            self.target -= 1;
        }
    }

    /// Until when a worker may have nothing to do.
    fn is_idle_until(&self, slot: &Slot, demand: Demand) -> Option<u64> {
        let timeout = self.limits.idle_timeout.filter(|_| self.target > self.limits.min_idle)?;
        let is_idle = slot.is_idle() && demand.waiting == 0;
        is_idle.then(|| slot.idle_since.saturating_add(timeout))
    }

    /// Has spares serve for workers that are gone, and for growth.
    pub(super) fn promote(&mut self) {
        while self.serving() < self.target {
            let spares = self.slots.iter_mut().filter(|slot| slot.state == State::Spare);
            let Some(slot) = spares.min_by_key(|slot| slot.due.is_some()) else { return };
            slot.state = State::Serving;
        }
    }

    /// Replaces workers that are due.
    pub(super) fn replace<W>(&mut self, actions: &mut Vec<Action<W>>) {
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
            actions.push(Action::Note(Note::Recycled { worker, why }));
        }
    }

    /// Whether a worker that is due can go: another one took its place, or it has to go first.
    fn make_replacement(&mut self) -> bool {
        if self.limits.stop_first {
            // None goes while another one is missing: a worker that cannot be started takes no others
            // along.
            let is_moving = |slot: &Slot| !slot.is_empty() && !slot.is_ready();
            let is_whole = self.serving() >= self.target;
            return is_whole && !self.slots.iter().any(is_moving);
        }
        let mut spares = self.slots.iter_mut().filter(|slot| slot.state == State::Spare);
        let Some(spare) = spares.find(|slot| slot.due.is_none()) else { return false };
        spare.state = State::Serving;
        true
    }

    /// Ends workers that get nothing more and have nothing left, and spares that are not needed.
    pub(super) fn stop_unneeded<W>(&mut self, actions: &mut Vec<Action<W>>) {
        self.drain_surplus();
        self.stop_where(actions, |slot| slot.state == State::Draining && slot.in_flight == 0);
    }

    /// Ends all workers.
    pub(super) fn stop_all<W>(&mut self, actions: &mut Vec<Action<W>>) {
        self.stop_where(actions, |slot| !matches!(slot.state, State::Empty | State::Stopping));
    }

    fn drain_surplus(&mut self) {
        while self.count(State::Spare) > self.spares() {
            let mut slots = self.slots.iter_mut().rev();
            let Some(slot) = slots.find(|slot| slot.state == State::Spare) else { return };
            slot.state = State::Draining;
        }
    }

    /// Starts the workers that are missing and may be started.
    pub(super) fn start<W>(&mut self, now: u64, demand: Demand, actions: &mut Vec<Action<W>>) {
        let mut missing = self.missing(demand);
        while missing > 0 && self.starts_at().is_some_and(|when| when <= now) {
            let empty = self.slots.iter_mut().enumerate();
            let empty = empty.filter(|(_, slot)| slot.is_empty());
            let Some((at, slot)) = empty.min_by_key(|(_, slot)| slot.not_before) else { return };
            slot.start(self.recipe);
            let worker = WorkerId { slot: at, incarnation: slot.incarnation };
            actions.push(Action::Start(worker));
            self.tried_at = now;
            missing -= 1;
        }
    }

    /// How many workers are to be ready beside those that serve: none beside none.
    fn spares(&self) -> usize {
        if self.target == 0 { 0 } else { self.limits.spares }
    }

    /// How many workers are to be started.
    fn missing(&self, demand: Demand) -> usize {
        let is_due = |slot: &Slot| slot.state == State::Serving && slot.due.is_some();
        let extra = !self.limits.stop_first && self.slots.iter().any(is_due);
        let wanted = match demand.phase {
            Phase::Open => self.target + self.spares() + usize::from(extra),
            // Only for what waits.
            Phase::Draining => self.target.min(demand.waiting),
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
    fn check_failures<W>(&mut self, now: u64, actions: &mut Vec<Action<W>>) {
        if self.failures.count(now) > self.limits.max_failures() && !self.is_degraded {
            self.is_degraded = true;
            actions.push(Action::Note(Note::Degraded));
        }
    }

    fn heal<W>(&mut self, actions: &mut Vec<Action<W>>) {
        if std::mem::take(&mut self.is_degraded) {
            actions.push(Action::Note(Note::Healed));
        }
    }

    fn stop_where<W>(&mut self, actions: &mut Vec<Action<W>>, is_it: impl Fn(&Slot) -> bool) {
        for (at, slot) in self.slots.iter_mut().enumerate().filter(|(_, slot)| is_it(slot)) {
            slot.state = State::Stopping;
            let worker = WorkerId { slot: at, incarnation: slot.incarnation };
            actions.push(Action::Stop(worker));
        }
    }

    pub(super) fn count(&self, state: State) -> usize {
        self.slots.iter().filter(|slot| slot.state == state).count()
    }
}

pub(super) fn weight(key: u64, slot: usize) -> u64 {
    let slot = u64::try_from(slot).unwrap_or(0);
    Random::new(key ^ slot.wrapping_mul(0xD6E8_FEB8_6659_FD93)).next()
}

fn slot_in(slots: &mut [Slot], worker: WorkerId) -> Option<&mut Slot> {
    slots.get_mut(worker.slot).filter(|slot| slot.incarnation == worker.incarnation)
}
