//! How many requests of each kind ended how.

use crate::error::ErrorKind;
use crate::protocol::Kind;
use crate::sync::{Counter, Ordering};
use crate::sys::activity;

/// How a request to a role has ended, over all its attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// Its reply was returned, or the end of its stream.
    Answered,
    /// The error that was returned. A stream or a future that was dropped before its end counts as
    /// [`ErrorKind::Cancelled`].
    Failed(ErrorKind),
}

impl Outcome {
    /// Returns the outcome's name for a label of a metric: `ok`, or [`ErrorKind::name`].
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Answered => "ok",
            Self::Failed(kind) => kind.name(),
        }
    }
}

/// The number of kinds that are counted apart; others are counted together.
const KINDS: usize = 32;

/// Counters by kind and outcome. A kind takes a row with its first request, and keeps it.
#[derive(Debug, Default)]
pub(super) struct Requests {
    rows: [Row; KINDS],
    others: Row,
}

#[derive(Debug, Default)]
struct Row {
    /// The kind's code. 0, which no request has, stands for a free row.
    code: Counter,
    outcomes: Outcomes,
}

/// Counters by outcome.
#[derive(Debug, Default)]
pub struct Outcomes {
    answered: Counter,
    failed: [Counter; ErrorKind::ALL.len()],
}

impl Requests {
    /// Counts a request that has ended.
    #[inline]
    pub(super) fn count(&self, kind: Kind, outcome: Outcome) {
        self.row(u64::from(kind.code())).outcomes.count(outcome);
    }

    #[inline]
    fn row(&self, code: u64) -> &Row {
        match self.rows.first() {
            // Most roles have one kind.
            Some(first) if first.code.load(Ordering::Relaxed) == code => first,
            _ => self.find(code),
        }
    }

    fn find(&self, code: u64) -> &Row {
        // Relaxed: a row's counters are valid, whichever kind has it.
        let is_it = |row: &&Row| {
            let taken = row.code.compare_exchange(0, code, Ordering::Relaxed, Ordering::Relaxed);
            taken.map_or_else(|before| before == code, |_| true)
        };
        let row = match code {
            0 => None,
            _ => self.rows.iter().find(is_it),
        };
        row.unwrap_or(&self.others)
    }

    /// All counts that are not zero. Kinds that are counted together are `None`.
    pub(super) fn each(&self) -> impl Iterator<Item = (Option<Kind>, Outcome, u64)> {
        let kind_of = |row: &Row| {
            let code = u16::try_from(row.code.load(Ordering::Relaxed)).ok()?;
            (code != 0).then(|| Kind::from_code(code))
        };
        self.rows.iter().chain([&self.others]).flat_map(move |row| {
            let kind = kind_of(row);
            row.outcomes.counts().map(move |(outcome, count)| (kind, outcome, count))
        })
    }

    /// How many were answered, and how many failed by each kind of error, over all kinds of requests.
    pub(super) fn outcomes(&self) -> (u64, [u64; ErrorKind::ALL.len()]) {
        let (mut answered, mut failed) = (0, [0; ErrorKind::ALL.len()]);
        for row in self.rows.iter().chain([&self.others]) {
            answered += row.outcomes.answered.load(Ordering::Relaxed);
            for (sum, count) in failed.iter_mut().zip(&row.outcomes.failed) {
                *sum += count.load(Ordering::Relaxed);
            }
        }
        (answered, failed)
    }
}

impl Outcomes {
    /// Counts a request that has ended so.
    #[inline]
    pub fn count(&self, outcome: Outcome) {
        match outcome {
            Outcome::Answered => {
                self.answered.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Failed(error) => self.count_failed(error),
        }
    }

    /// All counts that are not zero.
    pub fn counts(&self) -> impl Iterator<Item = (Outcome, u64)> {
        let failed = ErrorKind::ALL.into_iter().map(Outcome::Failed).zip(&self.failed);
        let all = [(Outcome::Answered, &self.answered)].into_iter().chain(failed);
        let all = all.map(|(outcome, count)| (outcome, count.load(Ordering::Relaxed)));
        all.filter(|(_, count)| *count != 0)
    }

    #[cold]
    fn count_failed(&self, error: ErrorKind) {
        let at = ErrorKind::ALL.iter().position(|kind| *kind == error);
        // The position is always one of the counters.
        let counter = at.and_then(|at| self.failed.get(at)).unwrap_or(&self.answered);
        counter.fetch_add(1, Ordering::Relaxed);
        activity::note();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_and_outcome_is_counted_alone() {
        let requests = Requests::default();
        for kind in [Kind::EMBED, Kind::CHAT] {
            requests.count(kind, Outcome::Answered);
            for error in ErrorKind::ALL {
                requests.count(kind, Outcome::Failed(error));
                requests.count(kind, Outcome::Failed(ErrorKind::Poison));
            }
        }
        let counts: Vec<_> = requests.each().collect();
        assert_eq!(counts.len(), 2 * (1 + ErrorKind::ALL.len()));
        for (kind, outcome, count) in counts {
            let all = 1 + u64::try_from(ErrorKind::ALL.len()).unwrap();
            let is_poison = outcome == Outcome::Failed(ErrorKind::Poison);
            assert_eq!(count, if is_poison { all } else { 1 }, "{kind:?} {outcome:?}");
        }
    }

    #[test]
    fn kinds_beyond_those_with_a_row_are_counted_together() {
        let requests = Requests::default();
        let kinds = u16::try_from(KINDS).unwrap();
        (0..kinds + 8).for_each(|n| requests.count(Kind::app(n), Outcome::Answered));
        requests.count(Kind::app(0), Outcome::Answered);
        requests.count(Kind::from_code(0), Outcome::Answered);
        let counts: Vec<_> = requests.each().collect();
        assert_eq!(counts[0], (Some(Kind::app(0)), Outcome::Answered, 2));
        assert_eq!(counts.last(), Some(&(None, Outcome::Answered, 9)));
        assert_eq!(counts.len(), KINDS + 1);
    }
}
