//! How long to wait before a worker is started again that has failed.

use super::limits::BackoffLimits;
use super::random::Random;

/// Failures in a row.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    /// A failure from this moment on is the first again.
    forgiven_at: u64,
}

impl Backoff {
    /// Returns how many failures there were in a row.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Notes a failure, and returns until when to wait.
    ///
    /// The delay doubles with each failure. It is shortened by up to a fifth, so that workers
    /// which failed together do not start together.
    pub(super) fn fail(&mut self, now: u64, limits: &BackoffLimits, random: &mut Random) -> u64 {
        self.failures = if now >= self.forgiven_at { 1 } else { self.failures.saturating_add(1) };
        let factor = 1_u64.checked_shl(self.failures - 1).unwrap_or(u64::MAX);
        let delay = limits.first.saturating_mul(factor).min(limits.most);
        let until = now.saturating_add(delay - random.below(delay / 5 + 1));
        // Counted from when it is tried again: the wait itself is no clean time.
        self.forgiven_at = until.saturating_add(limits.clean_period);
        until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BackoffLimits = BackoffLimits { first: 1000, most: 60_000, clean_period: 5000 };

    #[test]
    fn the_delay_doubles_up_to_a_limit_and_is_shortened_by_a_fifth_at_most() {
        let (mut backoff, mut random, mut now) = (Backoff::default(), Random::new(3), 0);
        for expected in [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000] {
            let until = backoff.fail(now, &LIMITS, &mut random);
            let delay = until - now;
            assert!(delay <= expected && delay >= expected * 4 / 5, "{delay} {expected}");
            now = until;
        }
        for _ in 0..100 {
            now = backoff.fail(now, &LIMITS, &mut random);
        }
    }

    #[test]
    fn failures_are_forgiven_after_a_clean_period() {
        let (mut backoff, mut random) = (Backoff::default(), Random::new(3));
        let mut tried = 0;
        for _ in 0..4 {
            tried = backoff.fail(tried, &LIMITS, &mut random);
        }
        let late = backoff.fail(tried + 4999, &LIMITS, &mut random);
        assert!(late - (tried + 4999) > 8000, "it is the fifth");
        let clean = late + 5000;
        assert!(backoff.fail(clean, &LIMITS, &mut random) - clean <= 1000, "it is the first");
    }
}
