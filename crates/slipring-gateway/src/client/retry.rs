//! What becomes of a request whose attempt has failed.

use slipring::ErrorKind;

use super::fleet::Ending;

/// Whether a request may be sent to another gateway after this error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Surely nothing of it was begun, and the next gateway may take it.
    Elsewhere,
    /// It was begun, or may have been: only if it may be served twice.
    IfIdempotent,
    /// Another gateway would say the same, or the gateway's pool has decided.
    Over,
}

/// Decides by what has failed. A worker that has died is the business of its own pool, which sends
/// the request again as often as is good.
pub(super) fn fate(kind: ErrorKind, was_begun: Option<bool>) -> Fate {
    let is_of_gateway = matches!(kind, ErrorKind::Disconnected | ErrorKind::Closed);
    let is_of_its_role = matches!(
        kind,
        ErrorKind::Overloaded
            | ErrorKind::TooManyInFlight
            | ErrorKind::Degraded
            | ErrorKind::Session
            | ErrorKind::PeerDied
            | ErrorKind::PeerCorrupt
    );
    match was_begun {
        Some(false) if is_of_gateway || is_of_its_role => Fate::Elsewhere,
        Some(true) | None if is_of_gateway => Fate::IfIdempotent,
        _ => Fate::Over,
    }
}

/// What an error tells of the gateway that it came from.
pub(super) fn ending(kind: ErrorKind, is_open: bool) -> Ending {
    match kind {
        // A lost connection counts by itself, once for all its requests.
        ErrorKind::Disconnected if !is_open => Ending::Neutral,
        ErrorKind::Disconnected
        | ErrorKind::Degraded
        | ErrorKind::Session
        | ErrorKind::Mismatch
        | ErrorKind::Os
        | ErrorKind::PeerCorrupt
        | ErrorKind::Protocol
        | ErrorKind::Spawn
        | ErrorKind::Unsupported => Ending::Failed,
        // It says of itself that it ends, or that it is full.
        ErrorKind::Closed
        | ErrorKind::Overloaded
        | ErrorKind::TooManyInFlight
        | ErrorKind::Cancelled
        | ErrorKind::Timeout
        | ErrorKind::QueueTimeout
        | ErrorKind::Stalled => Ending::Neutral,
        _ => Ending::Answered,
    }
}

/// How much may be sent again that may have been begun: a share of all requests, and so many in any
/// case. The idea: Finagle's `RetryBudget`, as a bucket.
#[derive(Debug, Clone)]
pub(super) struct RetryLimits {
    /// Retries in percent of the requests.
    pub(super) percent: u64,
    /// Retries in a period, however few the requests are.
    pub(super) least: u64,
    /// In nanoseconds.
    pub(super) period: u64,
    /// The most times that one request is begun.
    pub(super) max_attempts: u32,
}

impl Default for RetryLimits {
    fn default() -> Self {
        Self { percent: 20, least: 10, period: 10_000_000_000, max_attempts: 3 }
    }
}

/// What is left of the budget.
#[derive(Debug)]
pub(super) struct RetryBudget {
    limits: RetryLimits,
    /// In hundredths of a retry.
    saved: u64,
    /// Of those that are given in each period.
    given: u64,
    period_ends: u64,
}

/// The most that requests can save, in hundredths of a retry.
const MOST_SAVED: u64 = 100 * 100;

impl RetryBudget {
    pub(super) fn new(limits: RetryLimits) -> Self {
        Self { given: limits.least, limits, saved: 0, period_ends: 0 }
    }

    /// Counts a new request.
    pub(super) fn note_request(&mut self) {
        self.saved = self.saved.saturating_add(self.limits.percent).min(MOST_SAVED);
    }

    /// Takes a retry out of the budget, or returns why there is none for a request that was begun so
    /// often.
    pub(super) fn take(&mut self, now: u64, begun: u32) -> Result<(), &'static str> {
        if begun >= self.limits.max_attempts {
            return Err("it was begun as often as allowed");
        }
        if now >= self.period_ends {
            self.given = self.limits.least;
            self.period_ends = now.saturating_add(self.limits.period);
        }
        if self.saved >= 100 {
            self.saved -= 100;
        } else if self.given > 0 {
            self.given -= 1;
        } else {
            return Err("too many requests are sent again already");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_surely_not_begun_goes_elsewhere_unasked() {
        for kind in [ErrorKind::Disconnected, ErrorKind::Closed] {
            assert_eq!(fate(kind, Some(false)), Fate::Elsewhere);
            assert_eq!(fate(kind, Some(true)), Fate::IfIdempotent);
            assert_eq!(fate(kind, None), Fate::IfIdempotent);
        }
        for kind in [ErrorKind::Overloaded, ErrorKind::Degraded, ErrorKind::PeerDied] {
            assert_eq!(fate(kind, Some(false)), Fate::Elsewhere);
            assert_eq!((fate(kind, Some(true)), fate(kind, None)), (Fate::Over, Fate::Over));
        }
        for kind in [ErrorKind::HandlerFailed, ErrorKind::TooLarge, ErrorKind::QueueTimeout] {
            assert_eq!((fate(kind, Some(false)), fate(kind, None)), (Fate::Over, Fate::Over));
        }
    }

    #[test]
    fn an_error_counts_against_its_gateway_and_not_against_others() {
        assert_eq!(ending(ErrorKind::HandlerFailed, true), Ending::Answered);
        assert_eq!(ending(ErrorKind::Overloaded, true), Ending::Neutral);
        assert_eq!(ending(ErrorKind::Degraded, true), Ending::Failed);
        assert_eq!(ending(ErrorKind::Disconnected, true), Ending::Failed);
        assert_eq!(ending(ErrorKind::Disconnected, false), Ending::Neutral);
    }

    #[test]
    fn retries_are_a_share_of_the_requests_and_some_in_any_case() {
        let limits = RetryLimits { percent: 20, least: 2, period: 1000, max_attempts: 3 };
        let mut budget = RetryBudget::new(limits);
        let count = |budget: &mut RetryBudget, now| {
            (0..1000).take_while(|_| budget.take(now, 1).is_ok()).count()
        };
        assert_eq!((count(&mut budget, 0), count(&mut budget, 999)), (2, 0));
        (0..25).for_each(|_| budget.note_request());
        assert_eq!((count(&mut budget, 999), count(&mut budget, 1000)), (5, 2));
        (0..100_000).for_each(|_| budget.note_request());
        assert_eq!(count(&mut budget, 1000), 100, "no more is saved");
        (0..5).for_each(|_| budget.note_request());
        assert!(budget.take(1000, 3).is_err() && budget.take(1000, 2).is_ok());
    }
}
