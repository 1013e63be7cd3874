//! Log-linear histograms of times.

use std::time::Duration;

use crate::channel::LatencyHistogram;
use crate::sync::{Counter, Ordering};

/// Each power of two is cut into two to the power of so many parts.
const PART_BITS: u32 = 5;
const PARTS: usize = 1 << PART_BITS;
/// Times from here on, in nanoseconds, are in the last bucket: two to the power of so many.
const LAST_BIT: u32 = 44;
/// The number of buckets: those below `PARTS` nanoseconds, one for each; then `PARTS` for each
/// power of two.
const BUCKETS: usize = PARTS * 40;

/// The powers of two, in nanoseconds, that [`Histogram::by_powers_of_two`] lists.
#[cfg(feature = "prometheus")]
const LISTED: std::ops::RangeInclusive<u32> = 10..=36;

/// A histogram that threads add to.
#[derive(Debug)]
pub struct Times {
    buckets: Box<[Counter]>,
    sum_ns: Counter,
}

impl Default for Times {
    fn default() -> Self {
        let buckets = (0..BUCKETS).map(|_| Counter::new(0)).collect();
        Self { buckets, sum_ns: Counter::new(0) }
    }
}

impl Times {
    /// Adds a time in nanoseconds.
    #[inline]
    pub fn add(&self, nanos: u64) {
        if let Some(bucket) = self.buckets.get(bucket_of(nanos)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        // Most waits take no time.
        if nanos != 0 {
            self.sum_ns.fetch_add(nanos, Ordering::Relaxed);
        }
    }

    /// What was added until now, in the buckets of a [`LatencyHistogram`], with the sum in nanoseconds. A time
    /// that is just below a bound may be counted beyond it, as these buckets tell times only up to 3 %.
    pub(super) fn in_wide_buckets(&self) -> (u64, [u64; LatencyHistogram::BUCKETS]) {
        let mut wide = [0; LatencyHistogram::BUCKETS];
        for (bucket, count) in self.buckets.iter().enumerate() {
            let count = count.load(Ordering::Relaxed);
            if count != 0
                && let Some(sum) = wide.get_mut(LatencyHistogram::bucket_of(bound_of(bucket)))
            {
                *sum += count;
            }
        }
        (self.sum_ns.load(Ordering::Relaxed), wide)
    }

    /// What was added until now.
    #[must_use]
    pub fn histogram(&self) -> Histogram {
        let sum_ns = self.sum_ns.load(Ordering::Relaxed);
        let buckets = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        Histogram { buckets, sum_ns }
    }
}

/// The bucket of a time in nanoseconds. A time that is a bucket's bound is in that bucket.
#[inline]
fn bucket_of(nanos: u64) -> usize {
    let below = nanos.saturating_sub(1).min((1 << LAST_BIT) - 1);
    // The shift leaves `PART_BITS` bits behind the first.
    let shift = (u64::BITS - below.leading_zeros()).saturating_sub(PART_BITS + 1);
    let part = usize::try_from(below >> shift).unwrap_or(usize::MAX);
    part + usize::try_from(shift).unwrap_or(0) * PARTS
}

/// The longest time in a bucket, in nanoseconds.
fn bound_of(bucket: usize) -> u64 {
    let (power, part) = (bucket / PARTS, bucket % PARTS);
    let (shift, part) = if power == 0 { (0, part) } else { (power - 1, part + PARTS) };
    u64::try_from(part + 1).unwrap_or(u64::MAX) << shift
}

/// How often something took how long: counts in 1280 buckets, from one nanosecond to nearly five
/// hours. Longer times are in the last one.
///
/// Each power of two is cut into 32 buckets of the same width. So what the histogram says of a time
/// is at most 1/32, or 3.2 %, longer than that was, and never shorter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    buckets: Box<[u64]>,
    sum_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS].into_boxed_slice(), sum_ns: 0 }
    }
}

impl Histogram {
    /// Returns how many times were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Returns the sum of all times that were counted, exactly.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns)
    }

    /// Returns the time that this share of all times did not exceed: 0.5 for the median, 0.99 for
    /// the 99th percentile, 1.0 for the longest. `None` if nothing was counted. Shares below 0
    /// count as 0, those over 1 as 1.
    #[must_use]
    #[expect(
        clippy::as_conversions,
        reason = "numbers below 2^53 are exact, and a share of more need not be"
    )]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let rank = (self.count() as f64 * share.clamp(0.0, 1.0)).ceil() as u64;
        let rank = rank.max(1);
        let mut sum = 0;
        let found = self.buckets().find(|(_, count)| {
            sum += count;
            sum >= rank
        });
        found.map(|(bound, _)| bound)
    }

    /// Returns the buckets that are not empty, the shortest times first: the longest time of each,
    /// and how many times are in it.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let all = self.buckets.iter().enumerate().filter(|(_, count)| **count != 0);
        all.map(|(bucket, count)| (Duration::from_nanos(bound_of(bucket)), *count))
    }

    /// Returns how many times did not exceed `time`: exactly for the bound of a bucket, such as a
    /// power of two of nanoseconds; otherwise with those of the whole bucket that `time` is in.
    #[must_use]
    pub fn count_up_to(&self, time: Duration) -> u64 {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.buckets.iter().take(bucket_of(nanos) + 1).sum()
    }

    /// As [`Histogram::buckets`], of the times that were counted since `before`.
    #[cfg(feature = "metrics")]
    pub(super) fn buckets_since(&self, before: &Self) -> impl Iterator<Item = (Duration, u64)> {
        let both = self.buckets.iter().zip(&before.buckets).enumerate();
        let counts = both.map(|(bucket, (now, before))| (bucket, now.saturating_sub(*before)));
        let counts = counts.filter(|(_, count)| *count != 0);
        counts.map(|(bucket, count)| (Duration::from_nanos(bound_of(bucket)), count))
    }

    /// How many times did not exceed a bound, for bounds from about a microsecond to a minute. The
    /// bound is in seconds.
    #[cfg(feature = "prometheus")]
    pub(super) fn by_powers_of_two(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        LISTED.map(|bit| {
            let bound = Duration::from_nanos(1 << bit);
            (bound.as_secs_f64(), self.count_up_to(bound))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        for bucket in 0..BUCKETS - 1 {
            let bound = bound_of(bucket);
            assert_eq!([bound, bound + 1].map(bucket_of), [bucket, bucket + 1], "{bound}");
        }
        assert_eq!([0, 1, u64::MAX].map(bucket_of), [0, 0, BUCKETS - 1]);
        assert_eq!(bound_of(BUCKETS - 1), 1 << LAST_BIT);
    }

    #[test]
    fn what_is_said_of_a_time_is_at_most_a_thirty_second_too_long() {
        for bit in 0..LAST_BIT {
            for nanos in [1 << bit, (1 << bit) + 1, (1 << bit) * 3 / 2, (2 << bit) - 1] {
                let told = bound_of(bucket_of(nanos));
                assert!(told >= nanos && told - nanos <= nanos / 32, "{nanos}: {told}");
            }
        }
    }

    #[test]
    fn quantiles_are_those_of_the_times_in_order() {
        let times = Times::default();
        assert_eq!(times.histogram().quantile(0.5), None);
        // Below 64 each bucket is one nanosecond wide.
        (1..=50).for_each(|nanos| times.add(nanos));
        let histogram = times.histogram();
        let quantiles = [-1.0, 0.0, 0.5, 0.51, 0.99, 1.0, 2.0].map(|q| histogram.quantile(q));
        assert_eq!(quantiles, [1, 1, 25, 26, 50, 50, 50].map(|n| Some(Duration::from_nanos(n))));
        assert_eq!((histogram.count(), histogram.sum()), (50, Duration::from_nanos(1275)));
        assert_eq!(histogram.count_up_to(Duration::from_nanos(32)), 32);
        assert_eq!(histogram.buckets().map(|(_, count)| count).sum::<u64>(), 50);
    }
}
