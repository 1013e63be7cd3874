//! Which routine copies payloads into the slots of a ring, found out while the ring runs.
//!
//! Which is the fastest depends on the processor, on the caches that both sides share, on the
//! length, and on where virtual processors happen to run. A rule that was made on one machine is
//! wrong on the next. So each producer measures what its own stream achieves.
//!
//! # What is measured
//!
//! A *stretch* is as many bytes of slots as the ring holds. Its time runs from a claim to a later
//! claim, with all waits for room in it: a routine that leaves the consumer with slow reads pays
//! for them. A routine on trial first fills the ring once without being measured, as until then
//! the consumer reads what the routine before has copied.
//!
//! The *pace* of a routine is its best stretch of late, as a stretch in which the host paused
//! says nothing about copies. Each further stretch makes what is remembered worse by a sixteenth,
//! so that a machine that has become slower is noticed.
//!
//! # What it costs
//!
//! The clock is read once in a sixteenth of a stretch. A routine that is not the best is tried
//! after 1, 2, 4, and at most 1,024 stretches. A trial ends early when a sixteenth of it takes
//! twice as long as it would with the best one, or four times as long before it is measured. So trials cost less than 1 % once a stream is
//! some thousand stretches old.
//!
//! Lengths are learned in classes, as a routine can be the best for short payloads only. While
//! payloads of different classes alternate, nothing is learned, and each class keeps what it has.

use crate::config::CopyRoutine;
use crate::sys::copy::{FIRST_ROUTINE, available_routines};

/// Lengths from which on a class begins. Shorter payloads are not measured.
const CLASSES: [usize; 3] = [4 << 10, 16 << 10, 128 << 10];
const ROUTINES: usize = CopyRoutine::ALL.len();

/// Parts of a stretch.
const PARTS: u64 = 16;
/// The most stretches between two trials of a routine.
const MAX_WAIT: u32 = 1024;

/// How a ring copies payloads, by their length, as far as it has found out.
///
/// A ring begins with [`CopyRoutine::Vectors`], and tries the others while it is used. See
/// [`ConfigBuilder::copy_routine`](crate::ConfigBuilder::copy_routine).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct CopyChoices {
    /// For payloads of 4 KiB and more, and less than 16 KiB.
    pub from_4_kib: CopyRoutine,
    /// For payloads of 16 KiB and more, and less than 128 KiB.
    pub from_16_kib: CopyRoutine,
    /// For longer ones.
    pub from_128_kib: CopyRoutine,
}

impl Default for CopyChoices {
    fn default() -> Self {
        let [from_4_kib, from_16_kib, from_128_kib] = [FIRST_ROUTINE; 3];
        Self { from_4_kib, from_16_kib, from_128_kib }
    }
}

/// A producer's choice.
#[derive(Debug)]
pub(crate) struct CopyChoice {
    /// The host's own choice: nothing is measured.
    fixed: Option<CopyRoutine>,
    capacity: u64,
    classes: [Class; CLASSES.len()],
    stretch: Stretch,
}

/// What is known of one class of lengths.
#[derive(Debug, Clone, Copy)]
struct Class {
    best: CopyRoutine,
    routines: [Known; ROUTINES],
}

/// What is known of a routine.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// Nanoseconds for a mebibyte; zero if it was never measured.
    pace: u64,
    /// Stretches of the best routine until the next trial.
    wait: u32,
    /// What `wait` was at first.
    last_wait: u32,
}

/// The stretch that is being copied.
#[derive(Debug)]
struct Stretch {
    class: usize,
    routine: CopyRoutine,
    /// Bytes to be copied before the measuring begins.
    unmeasured: u64,
    /// What was measured.
    time: u64,
    bytes: u64,
    /// Bytes of the part so far, and when it began; zero if that is not known.
    part: u64,
    part_start: u64,
}

impl CopyChoice {
    pub(crate) fn new(capacity: u64, fixed: Option<CopyRoutine>) -> Self {
        // Model checkers and ThreadSanitizer know nothing of time and of vector stores.
        let fixed = fixed.or((cfg!(any(loom, slipring_tsan))).then_some(FIRST_ROUTINE));
        let class = Class { best: FIRST_ROUTINE, routines: [Known::default(); ROUTINES] };
        let classes = [class; CLASSES.len()];
        Self { fixed, capacity, classes, stretch: Stretch::new(0, FIRST_ROUTINE, capacity) }
    }

    /// Whether the copy of a payload of this length is chosen.
    #[inline]
    pub(crate) fn is_for(len: usize) -> bool {
        len >= CLASSES[0]
    }

    /// Returns the routine for a payload of `len` bytes for which [`CopyChoice::is_for`] is true, or
    /// for several of them, whose slots have been claimed and are `bytes` long in all.
    pub(crate) fn choose(
        &mut self,
        len: usize,
        bytes: u64,
        now: impl FnOnce() -> u64,
    ) -> CopyRoutine {
        if let Some(fixed) = self.fixed {
            return fixed;
        }
        let class = CLASSES.iter().rposition(|from| len >= *from).unwrap_or(0);
        if class != self.stretch.class {
            let best = self.classes.get(class).map_or(FIRST_ROUTINE, |class| class.best);
            self.stretch = Stretch::new(class, best, self.capacity);
        } else if self.stretch.part >= self.capacity / PARTS {
            self.end_part(now());
        }
        self.stretch.part += bytes;
        self.stretch.routine
    }

    /// The best routine for each class, as far as it is known.
    pub(crate) fn found(&self) -> CopyChoices {
        let routines = self.classes.map(|class| self.fixed.unwrap_or(class.best));
        let [from_4_kib, from_16_kib, from_128_kib] = routines;
        CopyChoices { from_4_kib, from_16_kib, from_128_kib }
    }

    #[cold]
    fn end_part(&mut self, now: u64) {
        let Self { capacity, classes, stretch, .. } = self;
        let Some(class) = classes.get_mut(stretch.class) else { return };
        let (start, bytes) = (stretch.part_start, std::mem::take(&mut stretch.part));
        stretch.part_start = now;
        let time = if start == 0 { 0 } else { now.saturating_sub(start) };
        // While the lines of the ring come into the caches again, a good routine may be slow.
        let most = if stretch.unmeasured > 0 { 4 } else { 2 };
        let next = if class.is_hopeless(stretch.routine, pace(time, bytes), most) {
            class.put_off(stretch.routine);
            class.best
        } else if stretch.unmeasured > 0 {
            stretch.unmeasured = stretch.unmeasured.saturating_sub(bytes);
            return;
        } else {
            stretch.time += time;
            stretch.bytes += bytes;
            if stretch.bytes < *capacity {
                return;
            }
            class.learn(stretch.routine, pace(stretch.time, stretch.bytes));
            class.next()
        };
        let unmeasured = if next == stretch.routine { 0 } else { *capacity };
        *stretch = Stretch { part_start: now, ..Stretch::new(stretch.class, next, unmeasured) };
    }
}

impl Class {
    fn known(&mut self, routine: CopyRoutine) -> &mut Known {
        let [library, vectors, past_caches] = &mut self.routines;
        match routine {
            CopyRoutine::Library => library,
            CopyRoutine::Vectors => vectors,
            CopyRoutine::PastCaches => past_caches,
        }
    }

    /// Whether a routine on trial takes more than `most` times as long as the best.
    fn is_hopeless(&mut self, routine: CopyRoutine, pace: u64, most: u64) -> bool {
        let best = self.known(self.best).pace;
        routine != self.best && best != 0 && pace > most * best
    }

    /// Takes what a stretch has shown into account.
    fn learn(&mut self, routine: CopyRoutine, measured: u64) {
        let known = self.known(routine);
        let remembered = known.pace + known.pace / 16;
        let pace = if remembered == 0 { measured } else { measured.min(remembered) };
        known.pace = pace;
        if routine == self.best {
            return;
        }
        let best = self.known(self.best).pace;
        // What differs by less may be noise, and each change costs a stretch.
        if pace + pace / 16 < best {
            self.best = routine;
            self.routines =
                self.routines.map(|known| Known { pace: known.pace, ..Known::default() });
        } else {
            self.put_off(routine);
        }
    }

    /// Has a routine wait for twice as long until its next trial.
    fn put_off(&mut self, routine: CopyRoutine) {
        let known = self.known(routine);
        known.last_wait = (2 * known.last_wait).clamp(1, MAX_WAIT);
        known.wait = known.last_wait;
    }

    /// Returns the routine for the next stretch.
    fn next(&mut self) -> CopyRoutine {
        let best = self.best;
        let mut next = best;
        for routine in available_routines().filter(|routine| *routine != best) {
            let known = self.known(routine);
            if known.wait > 0 {
                known.wait -= 1;
            } else if next == best {
                next = routine;
            }
        }
        next
    }
}

impl Stretch {
    fn new(class: usize, routine: CopyRoutine, unmeasured: u64) -> Self {
        Self { class, routine, unmeasured, time: 0, bytes: 0, part: 0, part_start: 0 }
    }
}

/// Nanoseconds for a mebibyte.
fn pace(time: u64, bytes: u64) -> u64 {
    let pace = (u128::from(time) << 20) / u128::from(bytes.max(1));
    u64::try_from(pace).unwrap_or(u64::MAX)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::shm::layout::as_u64;

    const CAPACITY: u64 = 4 << 20;

    /// A machine on which each routine takes so many nanoseconds for a kibibyte, which the
    /// consumer feels only once it reads what the routine has copied.
    struct Machine {
        now: u64,
        choice: CopyChoice,
        /// Time that the stream would have taken with the best routine, and bytes of each routine.
        ideal: u64,
        copied: [u64; ROUTINES],
    }

    fn machine() -> Machine {
        Machine { now: 1, choice: CopyChoice::new(CAPACITY, None), ideal: 0, copied: [0; ROUTINES] }
    }

    impl Machine {
        /// Copies so many stretches of frames of `len` bytes. `pace` gives nanoseconds for a KiB.
        fn run(&mut self, len: usize, stretches: u64, pace: impl Fn(CopyRoutine) -> u64) {
            let bytes = as_u64(len);
            let best = available_routines().map(&pace).min().unwrap();
            for _ in 0..stretches * CAPACITY / bytes {
                let now = self.now;
                let routine = self.choice.choose(len, bytes, || now);
                self.now += (pace(routine) * bytes) >> 10;
                self.ideal += (best * bytes) >> 10;
                self.copied[CopyRoutine::ALL.iter().position(|r| *r == routine).unwrap()] += bytes;
            }
        }

        fn best(&self, len: usize) -> CopyRoutine {
            let CopyChoices { from_4_kib, from_16_kib, from_128_kib } = self.choice.found();
            let mut of_classes = CLASSES.into_iter().zip([from_4_kib, from_16_kib, from_128_kib]);
            of_classes.rfind(|(from, _)| len >= *from).unwrap().1
        }
    }

    fn others(best: CopyRoutine, slow: u64) -> impl Fn(CopyRoutine) -> u64 {
        move |routine| if routine == best { 100 } else { slow }
    }

    #[test]
    fn the_fastest_routine_is_found_and_found_again_when_another_becomes_it() {
        for len in [4 << 10, 96 << 10, 1 << 20] {
            for first in available_routines() {
                for then in available_routines() {
                    let mut machine = machine();
                    machine.run(len, 30, others(first, 150));
                    assert_eq!(machine.best(len), first, "{len} {first:?}");
                    machine.run(len, 2000, others(first, 150));
                    assert_eq!(machine.best(len), first, "{len} {first:?}");
                    machine.run(len, 2200, others(then, 150));
                    assert_eq!(machine.best(len), then, "{len} {first:?} {then:?}");
                }
            }
        }
    }

    #[test]
    fn trials_cost_less_than_a_hundredth_however_slow_a_routine_is() {
        for slow in [101, 150, 199, 250, 1000, 3000] {
            for best in available_routines() {
                let mut machine = machine();
                machine.run(96 << 10, 3000, others(best, slow));
                let (start, ideal) = (machine.now, machine.ideal);
                machine.run(96 << 10, 8000, others(best, slow));
                let (took, ideal) = (machine.now - start, machine.ideal - ideal);
                assert!(took < ideal + ideal / 100, "{slow} {best:?}: {took} for {ideal}");
            }
        }
    }

    #[test]
    fn the_first_trials_of_a_very_slow_routine_end_early() {
        let mut machine = machine();
        machine.run(4 << 10, 100, others(FIRST_ROUTINE, 3000));
        assert!(machine.now < 2 * machine.ideal, "{} for {}", machine.now, machine.ideal);
    }

    #[test]
    fn pauses_of_the_host_are_not_taken_for_slow_copies() {
        for best in available_routines() {
            let mut machine = machine();
            for round in 0..400_u64 {
                machine.run(96 << 10, 2, others(best, 150));
                // Every third round something else is done.
                machine.now += if round % 3 == 0 { 50_000_000 } else { 0 };
            }
            assert_eq!(machine.best(96 << 10), best);
        }
    }

    #[test]
    fn a_routine_that_is_slow_for_its_first_lap_only_is_found() {
        let available: Vec<CopyRoutine> = available_routines().collect();
        let (first, last) = (available[0], available[available.len() - 1]);
        let mut machine = machine();
        machine.run(96 << 10, 50, others(last, 150));
        assert_eq!(machine.best(96 << 10), last);
        // The ring's lines are in memory now, from where they come at the first lap.
        let (mut lap_of_first, bytes) = (0, 96 << 10);
        for _ in 0..2200 * CAPACITY / bytes {
            let now = machine.now;
            let is_first = machine.choice.choose(96 << 10, bytes, || now) == first;
            lap_of_first = if is_first { lap_of_first + bytes } else { 0 };
            let slow = if lap_of_first <= CAPACITY { 300 } else { 80 };
            machine.now += ((if is_first { slow } else { 100 }) * bytes) >> 10;
        }
        assert_eq!(machine.best(96 << 10), first);
    }

    #[test]
    fn each_class_of_lengths_has_a_choice_of_its_own() {
        let mut machine = machine();
        let all: Vec<CopyRoutine> = available_routines().collect();
        let (short, long) = (all[0], all[all.len() - 1]);
        machine.run(4 << 10, 50, others(short, 150));
        machine.run(1 << 20, 50, others(long, 150));
        assert_eq!((machine.best(4 << 10), machine.best(1 << 20)), (short, long));
        // One frame of each in turn: both keep what they have.
        for _ in 0..1000 {
            for len in [4 << 10, 1 << 20] {
                let routine = machine.choice.choose(len, as_u64(len), || 5);
                assert_eq!(routine, machine.best(len));
            }
        }
    }

    #[test]
    fn a_choice_of_the_hosts_is_kept() {
        for fixed in CopyRoutine::ALL {
            let mut machine = machine();
            machine.choice = CopyChoice::new(CAPACITY, Some(fixed));
            machine.run(96 << 10, 100, |routine| if routine == fixed { 300 } else { 100 });
            assert_eq!(machine.copied.iter().filter(|bytes| **bytes > 0).count(), 1);
            assert_eq!(machine.best(96 << 10), fixed);
        }
    }
}
