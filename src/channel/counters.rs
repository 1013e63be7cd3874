//! What a channel counts of its requests, for [`Stats`].
//!
//! No call pays for an atomic of its own: what changes with every request or chunk is in a
//! [`Tally`], under the lock of the pending table, which is held then anyway. [`Counters`] are
//! for what is rare, and for the calls that are measured.

use crate::channel::stats::{ErrorCounts, LatencyHistogram, Stats};
use crate::error::ErrorKind;
use crate::sync::{Counter, Ordering};
use crate::sys::activity;
use crate::sys::clock::TimeLimit;

/// What became of the requests. Numbers that only grow.
///
/// How many requests there were is known from the number of the next one, so that it costs
/// nothing to count them.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Numbers that no request got.
    skipped: u64,
    /// Requests for a stream.
    pub(super) streams: u64,
    /// Requests whose owner has dropped them.
    pub(super) ended: u64,
    /// Those of them that had got no result, or no end of the stream.
    pub(super) unanswered: u64,
    /// Bytes of the payloads that came for requests with an owner.
    pub(super) bytes: u64,
    chunks: u64,
}

impl Tally {
    /// Counts a number that no request gets, because its entry is taken.
    #[cold]
    pub(super) fn skip(&mut self) {
        self.skipped += 1;
    }

    /// Counts a frame of `len` bytes that is not the whole result of a call. `is_chunk` says that
    /// it completes a chunk.
    pub(super) fn received(&mut self, len: u32, is_chunk: bool) {
        self.bytes += u64::from(len);
        self.chunks += u64::from(is_chunk);
    }

    /// Counts chunks that were copied out together. A function of its own, so that the loop which
    /// copies them keeps its registers.
    #[inline(never)]
    pub(super) fn received_chunks(&mut self, chunks: u64, bytes: u64) {
        self.chunks += chunks;
        self.bytes += bytes;
    }

    /// Requests whose owner has not dropped them. `next` is the number of the next request.
    pub(super) fn in_flight(&self, next: u64) -> u64 {
        self.requests(next).wrapping_sub(self.ended)
    }

    fn requests(&self, next: u64) -> u64 {
        next.wrapping_sub(1).wrapping_sub(self.skipped)
    }

    /// All of these numbers.
    #[cfg_attr(loom, allow(dead_code, reason = "for the status page"))]
    pub(super) fn words(&self) -> [u64; 6] {
        let Self { skipped, streams, ended, unanswered, bytes, chunks } = *self;
        [skipped, streams, ended, unanswered, bytes, chunks]
    }

    /// Enters these numbers. `next` is the number of the next request.
    pub(super) fn enter(&self, next: u64, stats: &mut Stats) {
        stats.requests = self.requests(next);
        stats.completed = self.ended.wrapping_sub(self.unanswered);
        stats.in_flight = self.in_flight(next);
        stats.streams = self.streams;
        stats.chunks = self.chunks;
        stats.bytes_received = self.bytes;
    }
}

/// Numbers that only grow; read at any time.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(super) late_frames: Counter,
    pub(super) unknown_frames: Counter,
    pub(super) cancels: Counter,
    pub(super) copied_frames: Counter,
    errors: [Counter; ErrorKind::ALL.len()],
    call_latency: Times,
    first_chunk_latency: Times,
}

/// The buckets and the sum of a histogram.
#[derive(Debug, Default)]
struct Times {
    buckets: [Counter; LatencyHistogram::BUCKETS],
    sum_ns: Counter,
}

impl Counters {
    /// Counts an error that an operation returns.
    #[cold]
    pub(super) fn count_error(&self, kind: ErrorKind) {
        let index = ErrorKind::ALL.iter().position(|each| *each == kind);
        if let Some(counter) = index.and_then(|index| self.errors.get(index)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        activity::note();
    }

    /// Notes that the owner of a call has got its result. The time of this one stands for so many
    /// calls.
    pub(super) fn call_answered(&self, limit: TimeLimit, calls: u64) {
        self.call_latency.add(limit, calls);
    }

    /// Notes that the reader of a stream has got the first chunk.
    pub(super) fn stream_answered(&self, queue: TimeLimit) {
        self.first_chunk_latency.add(queue, 1);
    }

    /// The numbers that may change without those of a [`Tally`].
    #[cfg_attr(loom, allow(dead_code, reason = "for the status page"))]
    pub(super) fn words(&self) -> [u64; 5] {
        let relaxed = |counter: &Counter| counter.load(Ordering::Relaxed);
        let Self { late_frames, unknown_frames, cancels, copied_frames, .. } = self;
        let [late, unknown, copied] = [late_frames, unknown_frames, copied_frames].map(relaxed);
        [late, unknown, copied, relaxed(cancels), self.errors.iter().map(relaxed).sum()]
    }

    pub(super) fn stats(&self) -> Stats {
        let relaxed = |counter: &Counter| counter.load(Ordering::Relaxed);
        Stats {
            late_frames: relaxed(&self.late_frames),
            unknown_frames: relaxed(&self.unknown_frames),
            cancels: relaxed(&self.cancels),
            copied_frames: relaxed(&self.copied_frames),
            errors: ErrorCounts::new(self.errors.each_ref().map(relaxed)),
            call_latency: self.call_latency.histogram(),
            first_chunk_latency: self.first_chunk_latency.histogram(),
            ..Stats::default()
        }
    }
}

impl Times {
    /// Adds the time since `limit` has begun, so many times.
    fn add(&self, limit: TimeLimit, times: u64) {
        let nanos = limit.elapsed_ns();
        if let Some(bucket) = self.buckets.get(LatencyHistogram::bucket_of(nanos)) {
            self.sum_ns.fetch_add(nanos.wrapping_mul(times), Ordering::Relaxed);
            bucket.fetch_add(times, Ordering::Relaxed);
        }
    }

    fn histogram(&self) -> LatencyHistogram {
        let buckets = self.buckets.each_ref().map(|bucket| bucket.load(Ordering::Relaxed));
        LatencyHistogram::new(buckets, self.sum_ns.load(Ordering::Relaxed))
    }
}

/// Calls that do not sleep for each one of them that is measured.
pub(super) const CALLS_PER_SAMPLE: u64 = 64;

/// Whether a call is measured even if its thread does not sleep: one in [`CALLS_PER_SAMPLE`].
///
/// The numbers are mixed, so that the calls that are chosen are spread over those of a host
/// which sends the same batch again and again.
#[inline]
pub(super) fn is_sampled(request: u64) -> bool {
    // The odd number next to 2^32 / phi^2. Of the 32 bits of its multiples, the upper ones are
    // evenly spread.
    const MIX: u64 = 0x61C8_8647;
    const BITS: u64 = (CALLS_PER_SAMPLE - 1) << 26;
    request.wrapping_mul(MIX) & BITS == 0
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_call_in_sixty_four_is_sampled_whatever_the_size_of_the_batches() {
        let calls = 1 << 18;
        for batch in [1, 2, 3, 10, 16, 17, 32, 64, 100, 128, 1024] {
            // The calls at one place of each batch.
            let measured = (0..calls).filter(|call| is_sampled(7 + call * batch)).count() as u64;
            let wanted = calls / CALLS_PER_SAMPLE;
            assert!(measured.abs_diff(wanted) < wanted / 10, "{measured} of {wanted}, {batch}");
        }
    }

    #[test]
    fn an_error_is_counted_under_its_kind_alone() {
        let counters = Counters::default();
        for kind in ErrorKind::ALL {
            counters.count_error(kind);
            counters.count_error(ErrorKind::Timeout);
        }
        let errors = counters.stats().errors;
        for (kind, count) in errors.iter() {
            let all = u64::try_from(ErrorKind::ALL.len()).unwrap();
            assert_eq!(count, if kind == ErrorKind::Timeout { all + 1 } else { 1 }, "{kind:?}");
        }
    }

    #[test]
    fn a_time_is_counted_in_its_bucket_and_in_the_sum() {
        let times = Times::default();
        times.add(TimeLimit::begin(Duration::MAX), 1);
        let first = times.histogram();
        std::thread::sleep(Duration::from_millis(3));
        let limit = TimeLimit::begin(Duration::MAX);
        std::thread::sleep(Duration::from_millis(3));
        times.add(limit, 2);
        let both = times.histogram();
        assert_eq!((first.count(), both.count()), (1, 3));
        assert!(both.sum() >= first.sum() + Duration::from_millis(6));
        let below = |limit| move |(bound, _): &(Option<Duration>, u64)| *bound == Some(limit);
        let short = both.cumulative().find(below(Duration::from_micros(2048))).unwrap();
        assert!(short.1 <= 1, "{both:?}");
    }
}
