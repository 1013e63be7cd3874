//! What must hold, in the simplest words: lists of all that has happened.

use std::collections::BTreeMap;

use super::super::*;
use super::actors::{Effect, Request};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Answered,
    Refused(Refusal),
    /// It waited until its deadline.
    QueueTimeout,
    /// A worker had it until its deadline.
    Timeout,
    Failed(Reason),
    Cancelled,
    /// Workers that are not the role's own get it.
    Elsewhere,
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
    /// Since when the oldest waited, and how many were to serve, after the last step.
    before: (Option<u64>, usize),
    may_heal: bool,
    /// A request went elsewhere since the last step.
    has_passed_on: bool,
    /// When the others have refused a request last, if none has ended there since.
    refused_at: Option<u64>,
    /// The first request that came after a close, and whether that has ended those before it.
    close: Option<(u64, bool)>,
    /// As told.
    is_degraded: bool,
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
            before: (None, usize::MAX),
            may_heal: false,
            has_passed_on: false,
            refused_at: None,
            close: None,
            is_degraded: false,
        }
    }

    pub(super) fn note_request(&mut self, number: u64, history: History) {
        self.idempotent.insert(number, history.is_idempotent);
    }

    pub(super) fn note_taken(&mut self, now: u64) {
        self.taken.push(now);
    }

    pub(super) fn note_close(&mut self, first: u64, is_now: bool) {
        self.close = Some((first, is_now));
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
                let is_guilty = matches!(request.effect, Effect::Kill(_) | Effect::Hang);
                assert!(is_guilty, "{number} is innocent");
                assert!(begun >= 2 && self.idempotent[&number]);
            }
            Outcome::Refused(Refusal::Closed) if self.close.is_some_and(|(_, is_now)| !is_now) => {
                let (first, _) = self.close.unwrap();
                assert!(number >= first, "a close that drains has refused {number}");
            }
            Outcome::Failed(Reason::NotIdempotent) => assert!(!self.idempotent[&number]),
            Outcome::Refused(_) if !self.idempotent[&number] => {
                // What is refused was not begun, unless the role was closed under it.
                assert!(begun == 0 || it == Outcome::Refused(Refusal::Closed));
            }
            _ => {}
        }
    }

    pub(super) fn note_leave(&mut self, number: u64, request: &Request) {
        self.has_passed_on = true;
        assert_ne!(request.asked.elsewhere, Elsewhere::Never, "{number} must stay");
        assert!(!request.history.is_suspect, "{number} may end workers elsewhere");
        let is_closed = self.close.is_some_and(|(_, is_now)| is_now);
        assert!(!is_closed, "{number} leaves a role that is closed");
    }

    /// A request is in the queue again, with the time that it had waited.
    pub(super) fn note_back(&mut self) {
        self.has_passed_on = true;
    }

    pub(super) fn note_refused(&mut self, now: u64) {
        self.refused_at = Some(now);
    }

    pub(super) fn note_end_away(&mut self) {
        self.refused_at = None;
    }

    pub(super) fn last_refusal(&self) -> Option<u64> {
        self.refused_at
    }

    /// A request is taken that had left as it came.
    pub(super) fn note_taken_back(&mut self, now: u64, history: &History) {
        if history.retries == 0 {
            self.note_taken(now);
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

    /// A request is a suspect exactly if its worker has died of itself while it served it.
    pub(super) fn note_judged(
        &mut self,
        before: History,
        after: History,
        attempt: Attempt,
        verdict: Verdict,
    ) {
        let is_strike = attempt.was_begun == Some(true) && !attempt.was_killed;
        let is_again = verdict == Verdict::Again;
        assert_eq!(after.is_suspect, before.is_suspect || is_again && is_strike);
        let may_be_begun = attempt.was_begun != Some(false);
        assert_eq!(after.begun, before.begun + u32::from(may_be_begun));
        assert_eq!(after.retries, before.retries + u32::from(may_be_begun && is_again));
        let is_poison = is_strike && attempt.was_alone && before.is_suspect;
        assert_eq!(verdict == Verdict::Over(Reason::Poison), is_poison);
    }

    /// The budget is not what refuses a request while there is some left.
    pub(super) fn note_verdict(&mut self, now: u64, reason: Reason, attempt: Attempt) {
        assert_ne!(attempt.was_begun, Some(false), "what was not begun is always sent again");
        if reason == Reason::Budget {
            let period = self.limits.retry.period;
            let retries = self.retries.iter().filter(|at| now - **at < period).count();
            // Requests are counted for seven eighths of the period at least.
            let counted = period - period / 8;
            let taken = self.taken.iter().filter(|at| now - **at < counted).count();
            let most = (taken * self.limits.retry.percent / 100).max(self.limits.retry.least);
            assert!(retries >= most, "the budget of {most} was not used up");
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
        let was_told = scheduler.fleet.slots[id.slot].state == State::Stopping;
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

    pub(super) fn note_ready(&mut self) {
        self.may_heal = true;
    }

    pub(super) fn note_reset(&mut self) {
        self.failures.clear();
        self.may_heal = true;
    }

    /// Each change is told once. Only a worker that is ready heals a role, or its host.
    pub(super) fn note(&mut self, note: Note) {
        if matches!(note, Note::Degraded | Note::Healed) {
            let was_degraded = std::mem::replace(&mut self.is_degraded, note == Note::Degraded);
            assert_eq!(was_degraded, note == Note::Healed, "told twice");
        }
        assert!(note != Note::Healed || self.may_heal, "it has healed by itself");
    }

    /// A role grows only for what has waited for long, for what it had no place for, or as nothing
    /// serves; it shrinks to `min_idle` at most.
    pub(super) fn note_step(&mut self, now: u64, oldest: Option<u64>, target: usize) {
        let (waited_since, before) = std::mem::replace(&mut self.before, (oldest, target));
        self.may_heal = false;
        let has_waited = |since: u64| since + self.limits.grow_after <= now;
        let is_first = before == 0 || before == usize::MAX || self.limits.grow_after == 0;
        let passed_on = std::mem::take(&mut self.has_passed_on);
        let may_grow = is_first || passed_on || waited_since.is_some_and(has_waited);
        assert!(target <= before || may_grow, "it has grown from {before} to {target} unasked");
        let has_shrunk = before != usize::MAX && target < before;
        assert!(!has_shrunk || target >= self.limits.min_idle, "it has shrunk to {target}");
    }
}
