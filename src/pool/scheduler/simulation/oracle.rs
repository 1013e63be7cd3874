//! What must hold, in the simplest words: lists of all that has happened.

use std::collections::BTreeMap;

use super::super::*;
use super::world::{Effect, Request, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Answered,
    Refused(Refusal),
    /// It waited until its deadline.
    QueueTimeout,
    /// A worker had it until its deadline.
    Timeout,
    Failed(Reason),
}

pub(super) struct Oracle {
    limits: Limits,
    pub(super) outcomes: BTreeMap<u64, Outcome>,
    idempotent: BTreeMap<u64, bool>,
    begun: BTreeMap<u64, u32>,
    taken: Vec<u64>,
    retries: Vec<u64>,
    failures: Vec<u64>,
    degraded_start: Option<u64>,
}

impl Oracle {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            limits: limits.clone(),
            outcomes: BTreeMap::new(),
            idempotent: BTreeMap::new(),
            begun: BTreeMap::new(),
            taken: Vec::new(),
            retries: Vec::new(),
            failures: Vec::new(),
            degraded_start: None,
        }
    }

    pub(super) fn note_request(&mut self, _: u64, number: u64, _: &Request, history: History) {
        self.idempotent.insert(number, history.is_idempotent);
    }

    pub(super) fn note_taken(&mut self, now: u64) {
        self.taken.push(now);
    }

    /// Nothing that was begun is begun again unasked, nor more often than allowed.
    pub(super) fn note_begun(&mut self, number: u64) {
        let begun = self.begun.entry(number).or_default();
        *begun += 1;
        assert!(*begun == 1 || self.idempotent[&number], "{number} was begun again unasked");
        assert!(*begun <= self.limits.retry.max_attempts, "{number} was begun {begun} times");
    }

    /// Each request has exactly one outcome, in time, and no innocent is poison.
    pub(super) fn note_outcome(&mut self, now: u64, number: u64, request: &Request, it: Outcome) {
        let before = self.outcomes.insert(number, it);
        assert_eq!(before, None, "request {number} ended twice, the second time with {it:?}");
        assert!(now <= request.deadline, "request {number} waited past its deadline");
        let begun = self.begun.get(&number).copied().unwrap_or(0);
        match it {
            Outcome::Answered => assert!(matches!(request.effect, Effect::Answer(_))),
            Outcome::Failed(Reason::Poison) => {
                assert!(matches!(request.effect, Effect::Kill(_)), "{number} is innocent");
                assert!(begun >= 2 && self.idempotent[&number]);
            }
            Outcome::Failed(Reason::NotIdempotent) => assert!(!self.idempotent[&number]),
            Outcome::Refused(_) if !self.idempotent[&number] => {
                // What is refused was not begun, unless the role was closed under it.
                assert!(begun == 0 || it == Outcome::Refused(Refusal::Closed));
            }
            _ => {}
        }
    }

    /// The retry budget holds in the period before each retry.
    pub(super) fn note_retry(&mut self, now: u64) {
        self.retries.push(now);
        let limits = &self.limits.retry;
        let within = |events: &[u64]| events.iter().filter(|at| now - **at < limits.period).count();
        let most = (within(&self.taken) * limits.percent / 100).max(limits.least);
        assert!(within(&self.retries) <= most, "more retries than {most}");
    }

    /// The budget is not what refuses a request while there is some left.
    pub(super) fn note_verdict(&mut self, now: u64, reason: Reason, attempt: Attempt) {
        assert_ne!(attempt.was_begun, Some(false), "what was not begun is always sent again");
        if reason == Reason::Budget {
            let period = self.limits.retry.period;
            let retries = self.retries.iter().filter(|at| now - **at < period).count();
            assert!(retries >= self.limits.retry.least, "the budget was not used up");
        }
    }

    /// The role is degraded exactly if more workers have failed in a period than allowed.
    pub(super) fn note_death(
        &mut self,
        now: u64,
        scheduler: &mut Scheduler<u64>,
        id: WorkerId,
        death: Death,
    ) {
        let was_degraded = scheduler.is_degraded();
        let was_told = scheduler.slots[id.slot].state == State::Stopping;
        scheduler.note_death(now, id, death);
        if was_told || death == Death::Serving {
            assert_eq!(scheduler.is_degraded(), was_degraded, "requests degrade no role");
            return;
        }
        self.failures.push(now);
        let period = self.limits.failure_period;
        let failures = self.failures.iter().filter(|at| now - **at < period).count();
        let is_over = failures > self.limits.max_failures();
        assert_eq!(scheduler.is_degraded(), is_over || was_degraded);
    }

    /// A degraded role tries one worker at a time.
    pub(super) fn note_start(&mut self, now: u64, is_degraded: bool) {
        let last = self.degraded_start.replace(now);
        if is_degraded && let Some(last) = last {
            assert!(now - last >= self.limits.backoff.most, "a degraded role tries too often");
        }
    }

    pub(super) fn note_reset(&mut self) {
        self.failures.clear();
    }

    pub(super) fn note(&mut self, _: u64, _: Note) {}
}

/// What must hold at every moment.
pub(super) fn check(world: &World) {
    let (scheduler, limits) = (&world.scheduler, &world.limits);
    let count = |state| scheduler.count(state);
    assert!(count(State::Serving) <= limits.max_size, "more serve than allowed");
    assert!(count(State::Starting) <= limits.max_starts, "more start than allowed");
    assert!(world.workers.len() <= limits.slots(), "more processes than slots");
    assert!(scheduler.queue.len() <= limits.max_waiting + world.requests.len());
    // Nothing waits beside a worker that has a place.
    let shared = scheduler.queue.len() - scheduler.queue.count_alone();
    let has_place = scheduler.place_for(None).is_some();
    assert!(shared == 0 || !has_place, "{shared} wait, and a worker has a place");
    // All requests that were granted are known, but for those of workers that are gone.
    assert!(scheduler.in_flight <= world.in_flight());
    let slots: usize = scheduler.slots.iter().map(|slot| slot.in_flight).sum();
    assert_eq!(scheduler.in_flight, slots);
    for slot in &scheduler.slots {
        let most = if slot.reserved == Reserved::Alone { 1 } else { limits.places() };
        assert!(slot.in_flight <= most);
    }
    // An empty role keeps trying.
    let is_empty = scheduler.slots.iter().all(|slot| !slot.is_kept());
    let is_wanted = scheduler.target > 0 || !scheduler.queue.is_empty();
    let has_ending = scheduler.slots.iter().any(|slot| !slot.is_empty() && !slot.is_kept());
    if is_empty && is_wanted && !has_ending && scheduler.phase == Phase::Open {
        assert!(scheduler.next_tick(world.now).is_some(), "an empty role does not try again");
    }
}
