//! How the consumer of a one-way stream of short frames keeps its distance.
//!
//! A consumer that has caught up with its producer looks at the very cache lines that are about
//! to be filled, and its processor prefetches more of them. The producer then has to fetch each
//! line back, and runs at a third of its speed:
//!
//! ```text
//!   caught up    producer writes line n    <-- line n travels back and forth -->   consumer
//!   at distance  producer writes line n + 100                                      reads line n
//! ```
//!
//! So the consumer of a fast stream looks away for a while and lets the producer get ahead.
//! FastForward (Giacomoni et al., PPoPP 2008) calls this temporal slipping. The rules:
//!
//! * A *run* is the frames that came without a wait. It must be [`RUN`] bytes long, and have
//!   come faster than one byte a nanosecond.
//! * The consumer looks away for [`FIRST`] nanoseconds when it catches up the first time, and
//!   for twice as long each time after, up to [`LONGEST`].
//! * It never looks away for more nanoseconds than bytes have come since the last time.
//! * A wait ends the run. So a stream that does not come fast is never held up.

/// The longest frame that is paced, in bytes of its slot. Of a longer one few lines are near the
/// producer while it is read: no distance is kept for it.
pub(super) const PACED: u64 = 64 << 10;
/// The shortest run that says anything, in bytes of slots.
const RUN: u64 = 1 << 10;
/// How long the consumer looks away at first and at most, in nanoseconds.
const FIRST: u64 = 1_000;
const LONGEST: u64 = 16_000;
/// Bytes of the ring for each nanosecond of [`LONGEST`] in a small ring: no producer fills an
/// eighth of the ring in that time.
const CAPACITY_A_NS: u64 = 256;

/// A consumer's distance from its producer.
#[derive(Debug)]
pub(super) struct Pacing {
    /// Where the run began.
    from: u64,
    /// When it began; zero if the clock was not read.
    since: u64,
    /// How long the consumer looks away the next time, and at most.
    lag: u64,
    longest: u64,
}

impl Pacing {
    pub(super) fn new(origin: u64, capacity: u64) -> Self {
        let longest = LONGEST.min(capacity / CAPACITY_A_NS);
        Self { from: origin, since: 0, lag: FIRST.min(longest), longest }
    }

    /// Begins a run at this position and time.
    #[inline]
    pub(super) fn begin(&mut self, at: u64, since: u64) {
        self.from = at;
        self.since = since;
        self.lag = FIRST.min(self.longest);
    }

    /// Notes that the consumer has caught up at this position. Returns for how many nanoseconds
    /// it should look away.
    #[inline]
    pub(super) fn caught_up(&mut self, at: u64, clock: impl FnOnce() -> u64) -> u64 {
        let run = at.wrapping_sub(self.from);
        if run < RUN.max(self.lag) {
            return 0;
        }
        let now = clock();
        // A byte a nanosecond is fast: sixteen million of the shortest frames a second.
        if self.since == 0 || now.wrapping_sub(self.since) > run {
            self.begin(at, now);
            return 0;
        }
        self.from = at;
        self.since = now;
        let lag = self.lag;
        self.lag = (2 * lag).min(self.longest);
        lag
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const CAPACITY: u64 = 4 << 20;

    /// For how many nanoseconds the consumer looks away at each of `looks` times that it catches
    /// up, each `run` bytes and `took` nanoseconds after the one before.
    fn lags(pacing: &mut Pacing, run: u64, took: u64, looks: usize) -> Vec<u64> {
        let mut at = pacing.from;
        let mut now = pacing.since.max(1);
        let mut look = || {
            at = at.wrapping_add(run);
            now += took;
            pacing.caught_up(at, || now)
        };
        (0..looks).map(|_| look()).collect()
    }

    #[test]
    fn a_fast_stream_gets_further_ahead_each_time_that_it_is_caught_up_with() {
        let mut pacing = Pacing::new(u64::MAX - 63, CAPACITY);
        let found = lags(&mut pacing, 20_000, 5_000, 8);
        assert_eq!(found, [0, 1000, 2000, 4000, 8000, 16_000, 16_000, 16_000]);
        pacing.begin(0, 1);
        assert_eq!(lags(&mut pacing, 20_000, 5_000, 2), [1000, 2000]);
    }

    #[test]
    fn it_gets_no_further_ahead_than_it_has_come_since() {
        let mut pacing = Pacing::new(0, CAPACITY);
        let found = lags(&mut pacing, 1500, 500, 9);
        assert_eq!(found, [0, 1000, 0, 2000, 0, 0, 4000, 0, 0]);
    }

    #[test]
    fn a_stream_that_is_not_fast_is_not_held_up() {
        let mut pacing = Pacing::new(0, CAPACITY);
        assert_eq!(lags(&mut pacing, 4096, 5000, 20), [0; 20]);
        assert_eq!(lags(&mut pacing, 128, 200, 20), [0; 20]);
    }

    #[test]
    fn a_producer_does_not_fill_its_ring_meanwhile() {
        let mut pacing = Pacing::new(0, 64 << 10);
        assert_eq!(lags(&mut pacing, 2048, 200, 4), [0, 256, 256, 256]);
    }
}
