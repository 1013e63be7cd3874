//! A stretch of copies with one routine, and what it shows of the routine.

use crate::config::CopyRoutine;
use crate::ring::copy_choice::class::Class;
use crate::ring::copy_choice::samples::{SAMPLES, Samples, pace};

/// Parts of a measurement in the first trials.
const FIRST_SAMPLES: usize = 2;
/// A part that takes so many times as long as the median has a pause in it.
const PAUSE: u64 = 4;
/// The shortest parts after which one ends although the ring is not full. The consumer gives room
/// back in eighths of the ring.
const LONGEST_PART: u64 = 3;
/// The parts after which a measurement ends, although few of them count.
const MOST_PARTS: u32 = 16;

/// The stretch that is being copied.
#[derive(Debug)]
pub(super) struct Stretch {
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
pub(super) struct Part {
    /// Nanoseconds.
    time: u64,
    bytes: u64,
    /// Most of them are of other classes than the stretch's.
    pub(super) is_foreign: bool,
    /// It began and ended with a full ring.
    is_full: bool,
}

impl Stretch {
    /// A stretch of which so many bytes are copied before the measuring begins. It is not known
    /// when its first part begins.
    pub(super) fn new(class: usize, routine: CopyRoutine, unmeasured: u64) -> Self {
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

    /// Begins the stretch that follows this one, which has just ended a part.
    pub(super) fn follow(&mut self, routine: CopyRoutine, unmeasured: u64, in_flight: u64) {
        let is_switch = routine != self.routine;
        let unmeasured = if is_switch { unmeasured } else { 0 };
        let (start, is_full) = (self.start, self.is_full);
        *self = Self { is_switch, start, is_full, ..Self::new(self.class, routine, unmeasured) };
        self.begin_measuring(in_flight);
    }

    /// Begins a stretch of another class at the end of a part.
    pub(super) fn change_class(&mut self, routine: CopyRoutine, unmeasured: u64) {
        *self = Self { start: self.start, ..Self::new(self.foreign_class, routine, unmeasured) };
    }

    /// Returns whether the next claim, which follows a full ring or not, begins a new part. The
    /// shortest part has `shortest` bytes.
    #[inline]
    pub(super) fn is_part_over(&self, shortest: u64, is_full: bool) -> bool {
        // Before the measuring begins, a short look tells of a routine that is very slow.
        let is_short = is_full || self.unmeasured > 0;
        let longest = if is_short { shortest } else { LONGEST_PART * shortest };
        self.bytes + self.foreign >= longest
    }

    /// Adds a claim to the part. Returns the routine, unless the claim is of another class.
    #[inline]
    pub(super) fn claim(&mut self, class: usize, bytes: u64) -> Option<CopyRoutine> {
        if class == self.class {
            self.bytes += bytes;
            return Some(self.routine);
        }
        self.foreign += bytes;
        self.foreign_class = class;
        None
    }

    /// The class that has the most bytes of a part.
    pub(super) fn class_of(&self, part: &Part) -> usize {
        if part.is_foreign { self.foreign_class } else { self.class }
    }

    /// Ends the part so far, and begins the next one. Returns `None` if it is not known when that
    /// part began.
    pub(super) fn end_part(&mut self, now: u64, is_full: bool) -> Option<Part> {
        let was_full = std::mem::replace(&mut self.is_full, is_full);
        let bytes = self.bytes + self.foreign;
        let part = Part {
            time: now.saturating_sub(self.start),
            bytes,
            is_foreign: self.foreign > bytes / 2,
            is_full: was_full && is_full,
        };
        let is_known = self.start != 0;
        (self.start, self.bytes, self.foreign) = (now, 0, 0);
        is_known.then_some(part)
    }

    /// Takes a part into account. Returns the routine for the next stretch if this one is over.
    pub(super) fn next_routine(
        &mut self,
        class: &mut Class,
        part: Part,
        in_flight: u64,
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
        Some(class.learn(self.routine, pace))
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
        if pace > self.all.median().saturating_mul(PAUSE) {
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
