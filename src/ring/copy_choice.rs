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

use std::sync::atomic::AtomicU32;

use crate::config::{CopyChoices, CopyRoutine};
use crate::shm::words::PeerU32;
use crate::sync::Ordering;
use crate::sys::copy::{FIRST_ROUTINE, available_routines};

/// Lengths from which on a class begins. Shorter payloads are not measured.
const CLASSES: [usize; 3] = [4 << 10, 16 << 10, 128 << 10];
const ROUTINES: usize = CopyRoutine::ALL.len();

/// The shortest part, as a share of the ring and in bytes. The clock takes some 30 ns.
const PARTS: u64 = 16;
const SHORTEST_PART: u64 = 128 << 10;
/// The shortest parts after which one ends although the ring is not full. The consumer gives room
/// back in eighths of the ring.
const LONGEST_PART: u64 = 3;
/// Parts of a measurement, in the first trials and later.
const FIRST_SAMPLES: usize = 2;
const SAMPLES: usize = 5;
/// A part that takes so many times as long as the median has a pause in it.
const PAUSE: u64 = 4;
/// The parts after which a measurement ends, although few of them count.
const MOST_PARTS: u32 = 16;
/// The most stretches between two trials of a routine.
const MAX_WAIT: u32 = 1024;
/// Stretches after which the others are tried at once if the best routine has become much slower.
const RESTART: u32 = 1024;
/// Stretches before the first trial of another routine than the one that the ring began with
/// because another ring had found it, and before the second trial of one that is slow.
const WAIT_AFTER_HINT: u32 = 4;
const WAIT_IF_SLOW: u32 = 4;

/// What the rings of this process have found last, for those that are made later.
#[derive(Debug)]
pub(crate) struct Findings(AtomicU32);

/// The findings of this process.
pub(crate) static FINDINGS: Findings = Findings::new();

impl Findings {
    const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// What was found, as [`CopyChoices::to_bits`] tells it: zero for a class of which nothing is
    /// known.
    pub(crate) fn bits(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes what another process has found for its own, if nothing is known yet.
    pub(crate) fn begin_with(&self, bits: u32) {
        // One that fails has found something.
        let _ = self.0.compare_exchange(0, bits, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Notes the best routine of a class. Of two rings that do so at the same time, one may be
    /// lost: it is a hint.
    fn note(&self, class: usize, routine: CopyRoutine) {
        self.0.store(CopyChoices::bits_with(self.bits(), class, routine), Ordering::Relaxed);
    }
}

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

/// What a peer's producer says of its choice.
#[derive(Debug)]
pub(crate) struct PeerCopies(PeerU32);

impl PeerCopies {
    pub(crate) fn new(word: PeerU32) -> Self {
        Self(word)
    }

    /// `None` if the peer says nothing that this version knows.
    pub(crate) fn read(&self) -> Option<CopyChoices> {
        CopyChoices::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// A moment at which a part ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// Nanoseconds of the clock.
    pub(crate) now: u64,
    /// Bytes of slots that are not released.
    pub(crate) in_flight: u64,
}

/// What is known of one class of lengths.
#[derive(Debug, Clone, Copy)]
struct Class {
    best: CopyRoutine,
    routines: [Known; ROUTINES],
    /// The first trials are not over.
    is_new: bool,
    /// The best routine's pace when the others were last tried at once, or less if it has become
    /// faster; and its stretches since.
    usual: u64,
    since: u32,
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
    /// Bytes to be copied before the measuring begins, and bytes copied since the stretch began.
    unmeasured: u64,
    copied: u64,
    /// Another routine has copied before.
    is_switch: bool,
    /// The part so far: when it began, zero if that is not known; whether with a full ring; its
    /// bytes, and those of other classes.
    start: u64,
    is_full: bool,
    bytes: u64,
    foreign: u64,
    /// The class of the latter.
    foreign_class: usize,
    /// Hopeless parts in a row.
    hopeless: u32,
    /// Parts that were measured, the paces of those that began and ended with a full ring, and of
    /// all.
    parts: u32,
    full: Samples,
    all: Samples,
    /// Bytes that were measured, without parts with a pause.
    measured: u64,
    /// Bytes in flight when the measuring began, and when the last part ended.
    in_flight: u64,
    in_flight_now: u64,
}

/// A part that is over.
#[derive(Debug, Clone, Copy)]
struct Part {
    /// Nanoseconds.
    time: u64,
    bytes: u64,
    /// Bytes of other classes than the stretch's.
    foreign: u64,
    /// It began and ended with a full ring.
    is_full: bool,
}

/// The last few paces.
#[derive(Debug, Clone, Copy, Default)]
struct Samples {
    paces: [u64; SAMPLES],
    count: usize,
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
        let stretch = &self.stretch;
        // Before the measuring begins, a short look tells of a routine that is very slow.
        let is_short = is_full || stretch.unmeasured > 0;
        let longest = if is_short { self.part } else { LONGEST_PART * self.part };
        if stretch.start == 0 || stretch.bytes + stretch.foreign >= longest {
            self.end_part(look(), is_full);
        }
        let class = CLASSES.iter().rposition(|from| len >= *from).unwrap_or(0);
        let stretch = &mut self.stretch;
        if class == stretch.class {
            stretch.bytes += bytes;
            return stretch.routine;
        }
        stretch.foreign += bytes;
        stretch.foreign_class = class;
        self.classes.get(class).map_or(FIRST_ROUTINE, |class| class.best)
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
    fn end_part(&mut self, mut look: Look, is_full: bool) {
        // The peer's head may be any number.
        look.in_flight = look.in_flight.min(self.capacity);
        let Self { capacity, classes, stretch, .. } = self;
        let Some(part) = stretch.end_part(look.now, is_full) else { return };
        let is_foreign = part.foreign > part.bytes / 2;
        let index = if is_foreign { stretch.foreign_class } else { stretch.class };
        let Some(class) = classes.get_mut(index) else { return };
        if is_foreign {
            *stretch = Stretch::new(index, class.best, *capacity);
            stretch.start = look.now;
            return;
        }
        let (best, routine) = (class.best, stretch.routine);
        let Some(next) = stretch.next_routine(class, part, look, *capacity) else { return };
        let is_switch = next != routine;
        let unmeasured = if class.is_new { *capacity / 4 } else { *capacity };
        *stretch = Stretch::new(index, next, if is_switch { unmeasured } else { 0 });
        (stretch.start, stretch.is_full, stretch.is_switch) = (look.now, is_full, is_switch);
        stretch.begin_measuring(look.in_flight);
        if class.best != best {
            self.findings.note(index, class.best);
            self.has_news = true;
        }
    }
}

impl Class {
    /// A class that begins with what another ring has found, if one has.
    fn new(found: Option<CopyRoutine>) -> Self {
        let wait = if found.is_some() { WAIT_AFTER_HINT } else { 0 };
        let known = Known { pace: 0, wait, last_wait: wait };
        Self {
            best: found.unwrap_or(FIRST_ROUTINE),
            routines: [known; ROUTINES],
            is_new: found.is_none(),
            usual: 0,
            since: 0,
        }
    }

    fn known(&mut self, routine: CopyRoutine) -> &mut Known {
        let [library, vectors, past_caches] = &mut self.routines;
        match routine {
            CopyRoutine::Library => library,
            CopyRoutine::Vectors => vectors,
            CopyRoutine::PastCaches => past_caches,
        }
    }

    /// Takes what a stretch has shown into account, which was so many times as long as the ring.
    /// Returns the routine for the next one.
    fn learn(&mut self, routine: CopyRoutine, measured: u64, laps: u64) -> CopyRoutine {
        if self.is_new {
            self.known(routine).pace = measured;
            return self.next_new();
        }
        let best = self.best;
        if routine == best {
            let remembered = self.known(best).pace;
            let pace = match remembered {
                0 => measured,
                _ if measured < remembered => remembered.midpoint(measured),
                _ => measured.min(remembered + remembered / 16),
            };
            self.known(best).pace = pace;
            self.look_for_change(pace, measured);
            return self.next(u32::try_from(laps.max(1)).unwrap_or(u32::MAX));
        }
        self.known(routine).pace = measured;
        // What differs by less may be noise, and each change costs a stretch.
        if measured + measured / 16 < self.known(best).pace {
            self.best = routine;
            self.usual = measured;
            self.routines =
                self.routines.map(|known| Known { pace: known.pace, ..Known::default() });
        } else {
            self.put_off(routine, 2);
        }
        self.next(0)
    }

    /// Returns the next routine of the first trials: the best one once all were tried.
    fn next_new(&mut self) -> CopyRoutine {
        let untried = available_routines().find(|routine| self.known(*routine).pace == 0);
        if let Some(untried) = untried {
            return untried;
        }
        let best = available_routines().min_by_key(|routine| self.known(*routine).pace);
        self.best = best.unwrap_or(FIRST_ROUTINE);
        self.is_new = false;
        let best = self.known(self.best).pace;
        // They were tried for too short a time to compare later ones with it. Those that are much
        // slower can wait.
        self.routines = self.routines.map(|known| {
            let wait = if known.pace > best + best / 2 { WAIT_IF_SLOW } else { 0 };
            Known { pace: 0, wait, last_wait: wait }
        });
        self.best
    }

    /// Has the others tried at once if the best routine is much slower than it was: virtual
    /// processors move.
    fn look_for_change(&mut self, pace: u64, measured: u64) {
        self.since = self.since.saturating_add(1);
        if self.usual == 0 || pace < self.usual {
            self.usual = pace;
        } else if pace > self.usual + self.usual / 4 && self.since >= RESTART {
            (self.usual, self.since) = (measured, 0);
            self.known(self.best).pace = measured;
            self.routines = self.routines.map(|known| Known { wait: 0, ..known });
        }
    }

    /// Ends the trial of a routine that is very slow. Returns the routine for the next stretch.
    fn give_up(&mut self, routine: CopyRoutine, pace: u64) -> CopyRoutine {
        if self.is_new {
            self.known(routine).pace = pace;
            return self.next_new();
        }
        self.put_off(routine, 8);
        self.best
    }

    /// Has a routine wait for so many times as long until its next trial.
    fn put_off(&mut self, routine: CopyRoutine, times: u32) {
        let known = self.known(routine);
        known.last_wait = known.last_wait.saturating_mul(times).clamp(1, MAX_WAIT);
        known.wait = known.last_wait;
    }

    /// Returns the routine for the next stretch, after so many of the best one.
    fn next(&mut self, stretches: u32) -> CopyRoutine {
        let best = self.best;
        let mut next = best;
        for routine in available_routines().filter(|routine| *routine != best) {
            let known = self.known(routine);
            if known.wait > 0 {
                known.wait = known.wait.saturating_sub(stretches);
            } else if next == best {
                next = routine;
            }
        }
        next
    }
}

impl Stretch {
    fn new(class: usize, routine: CopyRoutine, unmeasured: u64) -> Self {
        Self {
            class,
            routine,
            unmeasured,
            copied: 0,
            is_switch: false,
            start: 0,
            is_full: false,
            bytes: 0,
            foreign: 0,
            foreign_class: 0,
            hopeless: 0,
            parts: 0,
            full: Samples::default(),
            all: Samples::default(),
            measured: 0,
            in_flight: 0,
            in_flight_now: 0,
        }
    }

    /// Ends the part so far, and begins the next one. Returns `None` if it is not known when that
    /// part began.
    fn end_part(&mut self, now: u64, is_full: bool) -> Option<Part> {
        let was_full = std::mem::replace(&mut self.is_full, is_full);
        let part = Part {
            time: now.saturating_sub(self.start),
            bytes: self.bytes + self.foreign,
            foreign: self.foreign,
            is_full: was_full && is_full,
        };
        let is_known = self.start != 0;
        (self.start, self.bytes, self.foreign) = (now, 0, 0);
        is_known.then_some(part)
    }

    /// Takes a part into account. Returns the routine for the next stretch if this one is over.
    fn next_routine(
        &mut self,
        class: &mut Class,
        part: Part,
        Look { in_flight, .. }: Look,
        capacity: u64,
    ) -> Option<CopyRoutine> {
        let pace = pace(part.time, part.bytes);
        self.copied += part.bytes;
        if self.is_hopeless(class, pace) {
            return Some(class.give_up(self.routine, pace));
        }
        if self.unmeasured > 0 || (self.is_switch && in_flight > self.copied) {
            // The consumer may still read what the routine before has copied.
            self.unmeasured = self.unmeasured.saturating_sub(part.bytes);
            self.begin_measuring(in_flight);
            return None;
        }
        self.add(pace, part, in_flight);
        let is_final = !class.is_new;
        // Routines wait for their trials for whole stretches of the best one.
        if self.routine == class.best && is_final && self.copied < capacity {
            return None;
        }
        let pace = self.pace(is_final, in_flight, capacity)?;
        Some(class.learn(self.routine, pace, self.copied / capacity))
    }

    /// Whether this is a trial, and two parts in a row took much longer than with the best.
    fn is_hopeless(&mut self, class: &mut Class, pace: u64) -> bool {
        let best = class.known(class.best).pace;
        // While the lines of the ring come into the caches again, a good routine may be slow.
        let most = if self.unmeasured > 0 { 4 } else { 2 };
        let is_slow = self.routine != class.best && best != 0 && pace > best.saturating_mul(most);
        self.hopeless = if is_slow { self.hopeless + 1 } else { 0 };
        self.hopeless >= 2
    }

    /// Begins to measure, with so many bytes in flight.
    fn begin_measuring(&mut self, in_flight: u64) {
        (self.measured, self.all) = (0, Samples::default());
        (self.in_flight, self.in_flight_now) = (in_flight, in_flight);
    }

    /// Adds a part that was measured.
    fn add(&mut self, pace: u64, part: Part, in_flight: u64) {
        self.parts += 1;
        if part.is_full {
            self.full.add(pace);
        }
        let before = std::mem::replace(&mut self.in_flight_now, in_flight);
        if self.all.count > 0 && pace > self.all.median().saturating_mul(PAUSE) {
            // As if it had not been: what was released in a pause does not count either.
            self.in_flight = (self.in_flight + in_flight).saturating_sub(before);
            return;
        }
        self.measured += part.bytes;
        self.all.add(pace);
    }

    /// The pace, once there are enough parts: fewer if it is not final.
    fn pace(&self, is_final: bool, in_flight: u64, capacity: u64) -> Option<u64> {
        let (wanted, long) =
            if is_final { (SAMPLES, capacity) } else { (FIRST_SAMPLES, capacity / 2) };
        let growth = in_flight.saturating_sub(self.in_flight);
        if self.full.count >= wanted {
            Some(self.full.median())
        } else if self.all.count < wanted && self.parts < MOST_PARTS {
            None
        } else if growth <= capacity / 8 || self.parts >= MOST_PARTS {
            Some(self.all.median())
        } else {
            // The ring fills up: the bytes count that the consumer has released.
            let time = self.all.median().saturating_mul(self.measured) >> 20;
            (self.measured >= long).then(|| pace(time, self.measured.saturating_sub(growth)))
        }
    }
}

impl Samples {
    fn add(&mut self, pace: u64) {
        if let Some(place) = self.paces.get_mut(self.count % SAMPLES) {
            *place = pace;
        }
        self.count += 1;
    }

    /// The middle one; of an even number, the lower one of the two.
    fn median(&self) -> u64 {
        let mut paces = self.paces;
        let count = self.count.min(SAMPLES);
        let sorted = paces.get_mut(..count).unwrap_or_default();
        sorted.sort_unstable();
        sorted.get(count.saturating_sub(1) / 2).copied().unwrap_or(u64::MAX)
    }
}

/// Nanoseconds for a mebibyte. At least one: zero stands for a pace that is not known.
fn pace(time: u64, bytes: u64) -> u64 {
    let pace = (u128::from(time) << 20) / u128::from(bytes.max(1));
    u64::try_from(pace).unwrap_or(u64::MAX).max(1)
}

#[cfg(all(test, not(loom)))]
#[path = "copy_choice_tests.rs"]
mod tests;
