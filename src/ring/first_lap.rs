//! The pages of a ring, which are made while it is used for the first time.
//!
//! A ring of 4 MiB takes a millisecond to reserve, and most channels need little of it. So the
//! kernel makes pages as the ring's first lap comes to them, a step at a time, and tells when there
//! is no memory. A page that is made by a mere access to it costs a fault, and ends the process
//! with SIGBUS where memory is limited.
//!
//! Both ends keep out of pages that they have not asked for, at no cost to their usual path: until
//! the lap is over, the producer takes the ring to be full where its pages end, and the consumer
//! looks closer at a frame that ends there. That is when they ask for the next step.

use crate::error::Result;
use crate::ring::position::span;
use crate::shm::layout::RingLayout;

/// The least bytes that are asked for at a time. It grows with the lap, up to [`MAX_STEP`].
const MIN_STEP: u64 = 16 << 10;
const MAX_STEP: u64 = 128 << 10;

/// How far one end is in the first lap.
#[derive(Debug)]
pub(super) struct FirstLap {
    origin: u64,
    /// The position up to which there are pages.
    made: u64,
    /// The position at which the lap is over.
    end: u64,
}

impl FirstLap {
    pub(super) fn new(layout: &RingLayout) -> Self {
        let RingLayout { origin, capacity, .. } = *layout;
        Self { origin, made: origin, end: origin.wrapping_add(capacity) }
    }

    /// The position at which the ring begins.
    pub(super) fn origin(&self) -> u64 {
        self.origin
    }

    /// The position up to which this end has pages, or `None` if it has all.
    #[inline]
    pub(super) fn made(&self) -> Option<u64> {
        (self.made != self.end).then_some(self.made)
    }

    /// Makes sure that there are pages for a frame that ends at `end`, and for the commit word
    /// behind it. `make` makes those between two positions.
    ///
    /// # Errors
    ///
    /// That of `make`. The next call tries again.
    #[cold]
    pub(super) fn make(
        &mut self,
        end: u64,
        make: impl FnOnce(u64, u64) -> Result<()>,
    ) -> Result<()> {
        let left = self.end.wrapping_sub(self.made);
        let wanted = end.wrapping_add(span(0)).wrapping_sub(self.made);
        // Far in front of `made` is what lies behind it: there are pages already.
        if left == 0 || wanted.cast_signed() <= 0 {
            return Ok(());
        }
        let step = self.made.wrapping_sub(self.origin).clamp(MIN_STEP, MAX_STEP);
        let to = self.made.wrapping_add(wanted.max(step).min(left));
        make(self.made, to)?;
        self.made = to;
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::config::RingConfig;
    use crate::error::Error;

    const CAPACITY: u64 = 1 << 20;

    fn lap(origin: u64) -> FirstLap {
        let config = RingConfig { capacity: 1 << 20, max_frame: 1 << 18 };
        FirstLap::new(&RingLayout::of(config, 0, origin))
    }

    #[test]
    fn pages_are_made_a_step_at_a_time_until_the_lap_is_over() {
        for origin in [0, 4096, u64::MAX - 4095] {
            let (mut lap, mut steps) = (lap(origin), Vec::new());
            for end in (64..=2 * CAPACITY).step_by(64) {
                let end = origin.wrapping_add(end);
                lap.make(end, |from, to| {
                    steps.push((from.wrapping_sub(origin), to.wrapping_sub(origin)));
                    Ok(())
                })
                .unwrap();
                let is_covered = |made: u64| made.wrapping_sub(end).cast_signed() >= 64;
                assert!(lap.made().is_none_or(is_covered), "{end}");
            }
            let starts = [0, 16, 32, 64, 128, 256, 384, 512, 640, 768, 896, 1024].map(|k| k << 10);
            let expected: Vec<_> = starts.windows(2).map(|pair| (pair[0], pair[1])).collect();
            assert_eq!(steps, expected);
            assert_eq!(lap.made(), None);
        }
    }

    #[test]
    fn a_long_frame_gets_all_its_pages_at_once() {
        let mut lap = lap(0);
        lap.make(300 << 10, |from, to| {
            assert_eq!((from, to), (0, (300 << 10) + 64));
            Ok(())
        })
        .unwrap();
        lap.make(CAPACITY + 8192, |from, to| {
            assert_eq!((from, to), ((300 << 10) + 64, CAPACITY));
            Ok(())
        })
        .unwrap();
        assert_eq!(lap.made(), None);
    }

    #[test]
    fn pages_that_could_not_be_made_are_asked_for_again() {
        let mut lap = lap(0);
        let error = lap.make(64, |_, _| Err(Error::corrupt("no memory"))).unwrap_err();
        assert!(error.to_string().contains("no memory"));
        assert_eq!(lap.made(), Some(0));
        lap.make(64, |from, to| {
            assert_eq!((from, to), (0, MIN_STEP));
            Ok(())
        })
        .unwrap();
    }
}
