//! What becomes of a request whose worker has died.

use super::limits::RetryLimits;
use super::window::{CoarseWindow, Window};

/// What is known of a request that a death has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// Whether the worker had begun it; `None` if that is not known.
    pub(crate) was_begun: Option<bool>,
    /// Whether the pool had given the worker to this request alone.
    pub(crate) was_alone: bool,
    /// Whether something else than the worker's own code has ended it, such as an operator.
    pub(crate) was_killed: bool,
    /// Whether the caller has got some of the answer.
    pub(crate) has_delivered: bool,
}

/// A request over all its attempts.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct History {
    /// Whether its caller said that it may be served twice.
    pub(crate) is_idempotent: bool,
    /// Whether a worker died while it served this request: it is tried alone.
    pub(crate) is_suspect: bool,
    /// How often a worker has begun it, or may have.
    pub(crate) begun: u32,
    /// How often it was sent again.
    pub(crate) retries: u32,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is sent again.
    Again,
    /// It is not: no attempt follows for this reason.
    Over(Reason),
}

/// Why a request is not sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It was begun, or may have been, and its caller did not say that it may be served twice.
    NotIdempotent,
    /// It has killed a worker that it had for itself.
    Poison,
    /// Its caller has got some of the answer.
    Delivered,
    /// It was begun as often as allowed.
    Attempts,
    /// The role has sent as many requests again as allowed.
    Budget,
}

/// The share of a role's traffic that may be sent again.
///
/// In the period before each retry there are at most `percent` of the requests that came in it, or
/// `least` if that is more, that one counted. Requests are counted over seven eighths of the period
/// at least, retries exactly. The idea: Finagle's `RetryBudget`.
#[derive(Debug)]
pub(super) struct RetryBudget {
    limits: RetryLimits,
    requests: CoarseWindow,
    retries: Window,
}

impl RetryBudget {
    pub(super) fn new(limits: RetryLimits) -> Self {
        let (requests, retries) = (CoarseWindow::new(limits.period), Window::new(limits.period));
        Self { limits, requests, retries }
    }

    /// Counts a new request.
    pub(super) fn note_request(&mut self, now: u64) {
        self.requests.add(now);
    }

    /// Decides, and counts a retry.
    pub(super) fn judge(&mut self, now: u64, history: &mut History, attempt: Attempt) -> Verdict {
        if attempt.was_begun == Some(false) {
            return Verdict::Again;
        }
        history.begun += 1;
        // What one cannot know does not count against the request, nor what others did.
        let is_strike = attempt.was_begun == Some(true) && !attempt.was_killed;
        if is_strike && attempt.was_alone {
            return Verdict::Over(Reason::Poison);
        }
        if !history.is_idempotent {
            return Verdict::Over(Reason::NotIdempotent);
        }
        if attempt.has_delivered {
            return Verdict::Over(Reason::Delivered);
        }
        if history.begun >= self.limits.max_attempts {
            return Verdict::Over(Reason::Attempts);
        }
        let share = self.requests.count(now).saturating_mul(self.limits.percent) / 100;
        if self.retries.count(now) >= share.max(self.limits.least) {
            return Verdict::Over(Reason::Budget);
        }
        self.retries.add(now);
        history.is_suspect |= is_strike;
        history.retries += 1;
        Verdict::Again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGUN: Attempt = Attempt {
        was_begun: Some(true),
        was_alone: false,
        was_killed: false,
        has_delivered: false,
    };

    fn budget() -> RetryBudget {
        RetryBudget::new(RetryLimits { percent: 20, least: 2, period: 800, max_attempts: 4 })
    }

    fn idempotent() -> History {
        History { is_idempotent: true, ..History::default() }
    }

    #[test]
    fn what_was_not_begun_is_always_sent_again() {
        let (mut budget, mut history) = (budget(), History::default());
        for _ in 0..100 {
            let attempt = Attempt { was_begun: Some(false), ..BEGUN };
            assert_eq!(budget.judge(0, &mut history, attempt), Verdict::Again);
        }
        assert_eq!((history.begun, history.is_suspect), (0, false));
    }

    #[test]
    fn what_was_begun_or_may_have_been_is_not_sent_again_unasked() {
        for was_begun in [Some(true), None] {
            let attempt = Attempt { was_begun, ..BEGUN };
            let verdict = budget().judge(0, &mut History::default(), attempt);
            assert_eq!(verdict, Verdict::Over(Reason::NotIdempotent));
        }
        let attempt = Attempt { has_delivered: true, ..BEGUN };
        let verdict = budget().judge(0, &mut idempotent(), attempt);
        assert_eq!(verdict, Verdict::Over(Reason::Delivered));
    }

    #[test]
    fn poison_is_only_what_killed_a_worker_that_it_had_for_itself() {
        let (mut budget, mut history) = (budget(), idempotent());
        assert_eq!(budget.judge(0, &mut history, BEGUN), Verdict::Again);
        assert!(history.is_suspect);
        let alone = Attempt { was_alone: true, ..BEGUN };
        for innocent in
            [Attempt { was_begun: Some(false), ..alone }, Attempt { was_killed: true, ..alone }]
        {
            assert_eq!(budget.judge(0, &mut history.clone(), innocent), Verdict::Again);
        }
        assert_eq!(budget.judge(0, &mut history, alone), Verdict::Over(Reason::Poison));
    }

    #[test]
    fn a_kill_from_outside_makes_no_suspect() {
        let (mut budget, mut history) = (budget(), idempotent());
        let killed = Attempt { was_killed: true, ..BEGUN };
        assert_eq!(budget.judge(0, &mut history, killed), Verdict::Again);
        assert!(!history.is_suspect);
        history.begun = 3;
        assert_eq!(budget.judge(0, &mut history, killed), Verdict::Over(Reason::Attempts));
    }

    #[test]
    fn a_role_sends_no_more_again_than_its_share() {
        let mut budget = budget();
        let retry = |budget: &mut RetryBudget, now| {
            budget.judge(now, &mut idempotent(), BEGUN) == Verdict::Again
        };
        assert!(retry(&mut budget, 0) && retry(&mut budget, 0) && !retry(&mut budget, 799));
        assert!(retry(&mut budget, 800), "the two of before are a period old");
        (0..20).for_each(|_| budget.note_request(900));
        let again = (0..10).filter(|_| retry(&mut budget, 900)).count();
        assert_eq!(again, 3, "a fifth of twenty, with the one of before");
    }
}
