//! How the consumer of a one-way stream of short frames keeps its distance.
//!
//! A consumer that has caught up with its producer keeps taking the lines that are about
//! to be filled, its processor's prefetching above all, and each has to be fetched back:
//! the producer then runs at a third of its speed. So where frames come fast the consumer
//! lets the producer get ahead, which FastForward (Giacomoni et al., PPoPP 2008) calls
//! temporal slipping. It begins with a microsecond and doubles that for as long as it
//! catches up again, each time only after as many bytes as it looks away nanoseconds. A
//! stream that does not come fast is never held up.

/// Longer frames, in bytes of slots, have few lines that are near the producer while they are
/// read: no distance is kept for them.
pub(super) const SHORT: u64 = 64 << 10;
/// The shortest run that says anything, in bytes of slots.
const RUN: u64 = 1 << 10;
/// How long the producer gets at first and at the most, in nanoseconds.
const FIRST: u64 = 1_000;
const LONGEST: u64 = 16_000;
/// Bytes of a ring for each nanosecond: no producer fills an eighth of the ring in it.
const CAPACITY_A_NS: u64 = 256;

/// A consumer's distance from its producer.
#[derive(Debug)]
pub(super) struct Pacing {
    /// Where the run began: frames of which none had to be waited for.
    from: u64,
    /// When it began; zero if nobody asked the clock.
    since: u64,
    /// How long the producer gets the next time, and at the most.
    lag: u64,
    longest: u64,
}

impl Pacing {
    pub(super) fn new(origin: u64, capacity: u64) -> Self {
        let longest = LONGEST.min(capacity / CAPACITY_A_NS);
        Self { from: origin, since: 0, lag: FIRST.min(longest), longest }
    }

    /// A run begins at a position.
    #[inline]
    pub(super) fn begin(&mut self, at: u64, since: u64) {
        self.from = at;
        self.since = since;
        self.lag = FIRST.min(self.longest);
    }

    /// The consumer has caught up. How many nanoseconds it should look at nothing.
    #[inline]
    pub(super) fn caught_up(&mut self, at: u64, clock: impl FnOnce() -> u64) -> u64 {
        let run = at.wrapping_sub(self.from);
        if run < RUN.max(self.lag) {
            return 0;
        }
        let now = clock();
        // A byte a nanosecond is fast: as much as eight million of the shortest frames a second.
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

    /// Nanoseconds that the producer gets at each of `looks` times that the consumer has
    /// caught up, `run` bytes and `took` nanoseconds after the last one.
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
