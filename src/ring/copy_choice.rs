//! Which routine copies payloads into the slots of a ring, found out while the ring runs.
//!
//! Which is the fastest depends on the processor, on the caches that both sides share, on the
//! length, and on where virtual processors happen to run. A rule that was made on one machine is
//! wrong on the next. So each producer measures what its own stream achieves.
//!
//! # What is measured
//!
//! A *stretch* is what one routine copies before the next decision. A *trial* is a stretch of a
//! routine that is not known to be the best.
//!
//! A *part* is some sixteenths of the ring. Its time runs from a claim to a later claim, with all
//! waits for room in it: a routine that leaves the consumer with slow reads pays for them. The
//! consumer gives room back in lumps. So a part ends at a claim that follows a full ring, if there
//! is one soon enough.
//!
//! The *pace* of a routine is the median of a few parts:
//!
//! * of parts that begin and end with a full ring, if there are enough. While the host pauses the
//!   ring runs empty, so that a pause is in none of these;
//! * of all parts, if the ring does not fill up. A part with a pause is far above the median.
//!
//! While the ring is filling up, a part shows what the producer can do and not what the consumer
//! can. Then the bytes count that the consumer has released.
//!
//! A routine on trial first fills the ring once without being measured, as until then the consumer
//! reads what the routine before has copied. What is remembered becomes worse by at most a
//! sixteenth with each measurement, and better by at most half of the difference.
//!
//! # What it costs
//!
//! The clock is read once in a part. At first all routines are tried for half a lap each, which
//! soon leads to a good one. Later, a routine that is not the best is tried after 1, 2, 4, and at
//! most 1,024 stretches of as many bytes as the ring holds, and after 8, 64 and so on if it is very
//! slow: a trial ends early when two parts in a row take twice as long as they would with the best
//! one, or four times as long before it is measured. If the best one becomes much slower, all
//! others are tried at once, but not often. So trials cost less than 1 % once a stream is some
//! thousand stretches old.
//!
//! Lengths are learned in classes, as a routine can be the best for short payloads only. Of
//! payloads of several classes, the class that most bytes are of learns.

mod class;
mod findings;
mod samples;
mod stretch;
#[cfg(all(test, not(loom)))]
mod tests;

use crate::config::{CopyChoices, CopyRoutine};
use crate::ring::copy_choice::class::Class;
pub(crate) use crate::ring::copy_choice::findings::{FINDINGS, Findings, PeerCopies};
use crate::ring::copy_choice::stretch::Stretch;
use crate::sys::copy::{FIRST_ROUTINE, available_routines};

/// Lengths from which on a class begins. Shorter payloads are not measured.
const CLASSES: [usize; 3] = [4 << 10, 16 << 10, 128 << 10];

/// The shortest part, as a share of the ring and in bytes. The clock takes some 30 ns.
const PARTS: u64 = 16;
const SHORTEST_PART: u64 = 128 << 10;

/// A producer's choice.
#[derive(Debug)]
pub(crate) struct CopyChoice {
    /// The host's own choice: nothing is measured.
    fixed: Option<CopyRoutine>,
    capacity: u64,
    /// Bytes of the shortest part.
    part: u64,
    classes: [Class; CLASSES.len()],
    stretch: Stretch,
    /// The ring was full before the next claim.
    is_full: bool,
    /// Where the best routines are noted.
    findings: &'static Findings,
    /// A best routine has changed since the last call of [`CopyChoice::take_news`].
    has_news: bool,
}

/// A moment at which a part ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// Nanoseconds of the clock.
    pub(crate) now: u64,
    /// Bytes of slots that are not released.
    pub(crate) in_flight: u64,
}

impl CopyChoice {
    /// Makes the choice of a ring of `capacity` bytes, which begins with what is noted in
    /// `findings`.
    pub(crate) fn new(
        capacity: u64,
        fixed: Option<CopyRoutine>,
        findings: &'static Findings,
    ) -> Self {
        // Model checkers and ThreadSanitizer know nothing of time and of vector stores.
        let fixed = fixed.or((cfg!(any(loom, slipring_tsan))).then_some(FIRST_ROUTINE));
        let found = CopyChoices::routines_of(findings.bits());
        let is_here = |routine: &CopyRoutine| available_routines().any(|here| here == *routine);
        let classes = found.map(|found| Class::new(found.filter(is_here)));
        let part = (capacity / PARTS).max(SHORTEST_PART);
        let stretch = Stretch::new(0, FIRST_ROUTINE, 0);
        Self { fixed, capacity, part, classes, stretch, is_full: false, findings, has_news: true }
    }

    /// Whether the copy of a payload of this length is chosen.
    #[inline]
    pub(crate) fn is_for(len: usize) -> bool {
        len >= CLASSES[0]
    }

    /// Notes that the producer finds no room, or no credit, for the next claim.
    #[inline]
    pub(crate) fn note_full(&mut self) {
        self.is_full = true;
    }

    /// Returns the routine for a payload of `len` bytes for which [`CopyChoice::is_for`] is true, or
    /// for several of them, whose slots have been claimed and are `bytes` long in all.
    pub(crate) fn choose(
        &mut self,
        len: usize,
        bytes: u64,
        look: impl FnOnce() -> Look,
    ) -> CopyRoutine {
        if let Some(fixed) = self.fixed {
            return fixed;
        }
        let is_full = std::mem::take(&mut self.is_full);
        if self.stretch.is_part_over(self.part, is_full) {
            self.end_part(look(), is_full);
        }
        let class = CLASSES.iter().rposition(|from| len >= *from).unwrap_or(0);
        let routine = self.stretch.claim(class, bytes);
        let best = || self.classes.get(class).map_or(FIRST_ROUTINE, |class| class.best);
        routine.unwrap_or_else(best)
    }

    /// What is to be published, as [`CopyChoices::to_bits`] tells it, if that has changed.
    #[inline]
    pub(crate) fn take_news(&mut self) -> Option<u32> {
        std::mem::take(&mut self.has_news).then(|| self.found().to_bits())
    }

    /// The best routine for each class, as far as it is known.
    pub(crate) fn found(&self) -> CopyChoices {
        let routines = self.classes.map(|class| self.fixed.unwrap_or(class.best));
        let [from_4_kib, from_16_kib, from_128_kib] = routines;
        CopyChoices { from_4_kib, from_16_kib, from_128_kib }
    }

    #[cold]
    fn end_part(&mut self, look: Look, is_full: bool) {
        let Self { capacity, classes, stretch, .. } = self;
        // The peer's head may be any number.
        let in_flight = look.in_flight.min(*capacity);
        let Some(part) = stretch.end_part(look.now, is_full) else { return };
        let index = stretch.class_of(&part);
        let Some(class) = classes.get_mut(index) else { return };
        if part.is_foreign {
            return stretch.change_class(class.best, *capacity);
        }
        let best = class.best;
        let Some(next) = stretch.next_routine(class, part, in_flight, *capacity) else { return };
        let unmeasured = if class.is_new { *capacity / 4 } else { *capacity };
        stretch.follow(next, unmeasured, in_flight);
        if class.best != best {
            self.findings.note(index, class.best);
            self.has_news = true;
        }
    }
}
