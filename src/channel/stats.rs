//! Counters of a channel.

use std::time::Duration;

use crate::config::CopyChoices;
use crate::error::ErrorKind;

/// Counters of a channel since its start, from [`Channel::stats`](crate::Channel::stats); those of
/// an `AsyncChannel` are those of its `blocking` channel. What threads and tasks do counts alike.
///
/// All numbers but `in_flight`, `request_ring_used`, `reply_ring_used` and `leases_held` only grow.
/// They belong together:
/// at any moment `requests` is the sum of `completed`, `in_flight` and the requests that have ended
/// without a result. A request counts once, whatever comes for it after it has ended.
///
/// [`Channel::wait_ready`](crate::Channel::wait_ready) is a call and counts as one. Pings and
/// other questions about the worker's health do not count.
///
/// # Latencies
///
/// [`call_latency`](Self::call_latency) is an estimate for all calls that got a result. Every call
/// whose thread had to sleep for its result, or that a task awaited, is measured. A call that is
/// over before its thread would sleep takes some microseconds, and a look at the clock would be
/// a tenth of its cost. So one in 64 of these is measured, and counts 64 times. They are chosen by
/// the numbers of their requests, which have nothing to do with how long they take.
///
/// The time to the first chunk is measured for every stream, and counts once.
///
/// # Export
///
/// A function that writes all of it in the text format of Prometheus, for a channel that is used
/// without a pool. The names differ from those that a [pool](crate::pool) exports, which counts
/// requests over all attempts:
///
/// ```
/// use std::fmt::{Result, Write};
///
/// use slipring::{LatencyHistogram, Stats};
///
/// fn export(text: &mut String, role: &str, stats: &Stats) -> Result {
///     let totals = [
///         ("requests", stats.requests),
///         ("completed", stats.completed),
///         ("streams", stats.streams),
///         ("chunks", stats.chunks),
///         ("sent_bytes", stats.bytes_sent),
///         ("received_bytes", stats.bytes_received),
///         ("cancels", stats.cancels),
///     ];
///     for (name, value) in totals {
///         writeln!(text, "# TYPE slipring_channel_{name}_total counter")?;
///         writeln!(text, "slipring_channel_{name}_total{{role=\"{role}\"}} {value}")?;
///     }
///     writeln!(text, "# TYPE slipring_channel_errors_total counter")?;
///     for (kind, count) in stats.errors.iter() {
///         let kind = kind.name();
///         writeln!(text, "slipring_channel_errors_total{{role=\"{role}\",kind=\"{kind}\"}} {count}")?;
///     }
///     writeln!(text, "# TYPE slipring_channel_in_flight gauge")?;
///     writeln!(text, "slipring_channel_in_flight{{role=\"{role}\"}} {}", stats.in_flight)?;
///     histogram(text, "slipring_channel_call_seconds", role, &stats.call_latency)?;
///     histogram(text, "slipring_channel_first_chunk_seconds", role, &stats.first_chunk_latency)
/// }
///
/// fn histogram(text: &mut String, name: &str, role: &str, times: &LatencyHistogram) -> Result {
///     writeln!(text, "# TYPE {name} histogram")?;
///     for (bound, count) in times.cumulative() {
///         let le = bound.map_or("+Inf".to_owned(), |bound| bound.as_secs_f64().to_string());
///         writeln!(text, "{name}_bucket{{role=\"{role}\",le=\"{le}\"}} {count}")?;
///     }
///     writeln!(text, "{name}_sum{{role=\"{role}\"}} {}", times.sum().as_secs_f64())?;
///     writeln!(text, "{name}_count{{role=\"{role}\"}} {}", times.count())
/// }
///
/// # fn main() -> slipring::Result<()> {
/// # use slipring::{Config, Kind, RoleConfig, testing, worker::Worker};
/// # use std::time::Duration;
/// # const ECHO: Kind = Kind::named("echo");
/// # let make = || Worker::new(|_role| Ok(()))
/// #     .on(ECHO, |(), request, responder| Ok(responder.send(&request.to_vec())?));
/// # let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
/// # let timeout = Duration::from_secs(10);
/// channel.call(ECHO, "hello", timeout)?;
/// channel.call(ECHO, &vec![0; 1 << 30], timeout).unwrap_err();
///
/// let mut text = String::new();
/// export(&mut text, "embed", &channel.stats()).unwrap();
/// let has = |line| text.lines().any(|each| each == line);
/// assert!(has("slipring_channel_requests_total{role=\"embed\"} 1"));
/// assert!(has("slipring_channel_received_bytes_total{role=\"embed\"} 5"));
/// assert!(has("slipring_channel_errors_total{role=\"embed\",kind=\"too_large\"} 1"));
/// assert!(has("slipring_channel_first_chunk_seconds_bucket{role=\"embed\",le=\"0.000001\"} 0"));
/// # channel.close(timeout)?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
#[non_exhaustive]
pub struct Stats {
    /// Requests that were made: calls, streams and messages that are written in parts. Those
    /// of which nothing was sent in the end are among them.
    pub requests: u64,
    /// Requests that have ended after their result, or the end of their stream, had come.
    pub completed: u64,
    /// Requests that were made and have neither ended nor been dropped.
    pub in_flight: u64,
    /// Those of the requests that are streams.
    pub streams: u64,
    /// Chunks that came for streams.
    pub chunks: u64,
    /// Bytes of the payloads that were sent.
    pub bytes_sent: u64,
    /// Bytes of the payloads that came, those of the worker's errors included. What came for
    /// requests that had ended is not counted.
    pub bytes_received: u64,
    /// Errors that calls, streams and written messages returned, by their kind. Some end no
    /// request: for a payload that is too long none is made.
    pub errors: ErrorCounts,
    /// How long calls took, from the making of the request until its result was returned. For
    /// [`Channel::submit`](crate::Channel::submit) and
    /// [`Channel::write`](crate::Channel::write) too, with the time that the host let pass
    /// before it asked for the result. Partly a sample: see [Latencies](Self#latencies).
    pub call_latency: LatencyHistogram,
    /// How long streams took from the making of the request until their first chunk was
    /// returned.
    pub first_chunk_latency: LatencyHistogram,
    /// Frames that came for a request after its owner had dropped it; not delivered.
    pub late_frames: u64,
    /// Frames for a request that was never made, or was long finished; dropped.
    pub unknown_frames: u64,
    /// Requests that the worker was told to cancel.
    pub cancels: u64,
    /// Frames that were copied out of the ring because another thread than the owner's read
    /// them.
    pub copied_frames: u64,
    /// Frames that were recorded; 0 of a channel that is not: see
    /// [`Spawner::record`](crate::Spawner::record).
    pub recorded_frames: u64,
    /// Frames that were left out of the recording, as its queue or the disk was full.
    pub unrecorded_frames: u64,
    /// Waits that began by spinning.
    pub spins: u64,
    /// Waits that went to sleep.
    pub parks: u64,
    /// Times that a sleeping worker was woken for a request.
    pub wakes: u64,
    /// The most bytes that were in the request ring when it seemed full.
    pub request_ring_high_water: u64,
    /// Bytes in the request ring that the worker has not released: those of requests that wait
    /// there, or that a handler reads in place, and padding before the first of them.
    pub request_ring_used: u64,
    /// The most bytes that were in the reply ring when it seemed full to the worker, in its own words; 0
    /// if they cannot be.
    pub reply_ring_high_water: u64,
    /// Bytes in the reply ring that the worker cannot fill again yet: those of replies and chunks that
    /// were not read or are held, and up to an eighth of the ring that is given back in one go.
    pub reply_ring_used: u64,
    /// How payloads are copied into the request ring, as far as it has found out.
    pub request_copies: CopyChoices,
    /// How the worker copies replies and chunks, as far as it has found out, in its own words.
    /// `None` before its first of 4 KiB or more, or if it says what this version does not know.
    pub reply_copies: Option<CopyChoices>,
    /// Replies and chunks that still hold a slot. Short ones never do: see
    /// [`Reply`](crate::Reply).
    pub leases_held: usize,
}

/// Errors by their kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Deserialize),
    serde(from = "std::collections::HashMap<ErrorKind, u64>")
)]
pub struct ErrorCounts([u64; ErrorKind::ALL.len()]);

impl ErrorCounts {
    pub(super) fn new(counts: [u64; ErrorKind::ALL.len()]) -> Self {
        Self(counts)
    }

    /// Returns how many errors were of this kind.
    #[must_use]
    pub fn get(&self, kind: ErrorKind) -> u64 {
        self.iter().find(|(each, _)| *each == kind).map_or(0, |(_, count)| count)
    }

    /// Returns how many errors there were.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Returns all kinds, each with its count, which may be zero.
    pub fn iter(&self) -> impl Iterator<Item = (ErrorKind, u64)> + use<> {
        ErrorKind::ALL.into_iter().zip(self.0)
    }
}

impl Default for ErrorCounts {
    fn default() -> Self {
        Self([0; ErrorKind::ALL.len()])
    }
}

/// How long something took, how often: counts by buckets whose bounds are powers of two, from
/// one microsecond to 67 seconds.
///
/// A time is counted in the first bucket whose bound it does not exceed, and in the last one,
/// which has no bound, if it exceeds all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub struct LatencyHistogram {
    buckets: [u64; Self::BUCKETS],
    sum_ns: u64,
}

impl LatencyHistogram {
    /// The bound of the first bucket. Each further bound is twice the one before.
    pub const FIRST_BOUND: Duration = Duration::from_micros(1);
    /// The number of buckets, with the one that has no bound.
    pub const BUCKETS: usize = 28;

    pub(super) fn new(buckets: [u64; Self::BUCKETS], sum_ns: u64) -> Self {
        Self { buckets, sum_ns }
    }

    /// The bucket of a time in nanoseconds.
    pub(crate) fn bucket_of(nanos: u64) -> usize {
        let micros = nanos.div_ceil(1000);
        let doublings = micros.checked_next_power_of_two().map_or(u64::BITS, u64::trailing_zeros);
        usize::try_from(doublings).unwrap_or(usize::MAX).min(Self::BUCKETS - 1)
    }

    /// Returns the bound of each bucket and how many times did not exceed it. The last bound is
    /// `None`, and its number is [`count`](Self::count).
    pub fn cumulative(&self) -> impl Iterator<Item = (Option<Duration>, u64)> + use<> {
        let mut bound = Self::FIRST_BOUND;
        let mut sum = 0;
        self.buckets.into_iter().enumerate().map(move |(index, count)| {
            sum += count;
            let next = bound.saturating_mul(2);
            let this = std::mem::replace(&mut bound, next);
            ((index + 1 < Self::BUCKETS).then_some(this), sum)
        })
    }

    /// Returns how many times are in each bucket alone, that without a bound last.
    #[must_use]
    pub fn buckets(&self) -> [u64; Self::BUCKETS] {
        self.buckets
    }

    /// Returns how many times were counted: the sum of all buckets.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Returns the sum of all times that were counted.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns)
    }
}

/// Writes a map from the kinds to their counts, without those that are zero.
#[cfg(feature = "serde")]
impl serde::Serialize for ErrorCounts {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().filter(|(_, count)| *count != 0))
    }
}

#[cfg(feature = "serde")]
impl From<std::collections::HashMap<ErrorKind, u64>> for ErrorCounts {
    fn from(counts: std::collections::HashMap<ErrorKind, u64>) -> Self {
        Self(ErrorKind::ALL.map(|kind| counts.get(&kind).copied().unwrap_or(0)))
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        let bounds = LatencyHistogram::default().cumulative().map(|(bound, _)| bound);
        for (index, bound) in bounds.enumerate() {
            let Some(bound) = bound else {
                assert_eq!(index, LatencyHistogram::BUCKETS - 1);
                continue;
            };
            assert_eq!(bound, LatencyHistogram::FIRST_BOUND * (1 << index));
            let nanos = u64::try_from(bound.as_nanos()).unwrap();
            let found = [nanos / 2 + 1, nanos, nanos + 1].map(LatencyHistogram::bucket_of);
            assert_eq!(found, [index, index, index + 1], "{bound:?}");
        }
        let last = LatencyHistogram::BUCKETS - 1;
        assert_eq!([0, u64::MAX].map(LatencyHistogram::bucket_of), [0, last]);
    }

    #[test]
    fn the_last_cumulative_number_is_the_count() {
        let mut buckets = [0; LatencyHistogram::BUCKETS];
        (buckets[0], buckets[3], buckets[27]) = (5, 2, 1);
        let histogram = LatencyHistogram::new(buckets, 1_500);
        let sums: Vec<u64> = histogram.cumulative().map(|(_, sum)| sum).collect();
        assert_eq!((&sums[..5], sums[26], sums[27]), (&[5, 5, 5, 7, 7][..], 7, 8));
        assert_eq!((histogram.count(), histogram.sum()), (8, Duration::from_nanos(1_500)));
        assert_eq!(histogram.buckets(), buckets);
    }

    #[test]
    fn an_error_count_is_found_by_its_kind() {
        let mut counts = [0; ErrorKind::ALL.len()];
        (counts[0], counts[ErrorKind::ALL.len() - 1]) = (3, 4);
        let errors = ErrorCounts::new(counts);
        let found = [ErrorKind::InvalidConfig, ErrorKind::Timeout, ErrorKind::Unknown];
        assert_eq!(found.map(|kind| errors.get(kind)), [3, 0, 4]);
        assert_eq!((errors.total(), errors.iter().count()), (7, ErrorKind::ALL.len()));
    }
}
