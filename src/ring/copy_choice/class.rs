//! What a ring has learnt of the routines for one class of lengths, and which one is next.

use crate::config::CopyRoutine;
use crate::sys::copy::{FIRST_ROUTINE, available_routines};

pub(super) const ROUTINES: usize = CopyRoutine::ALL.len();

/// The most stretches between two trials of a routine.
const MAX_WAIT: u32 = 1024;
/// Stretches after which the others are tried at once if the best routine has become much slower.
const RESTART: u32 = 1024;
/// Stretches before the first trial of another routine than the one that the ring began with
/// because another ring had found it, and before the second trial of one that is slow.
const WAIT_AFTER_HINT: u32 = 4;
const WAIT_IF_SLOW: u32 = 4;

/// What is known of one class of lengths.
#[derive(Debug, Clone, Copy)]
pub(super) struct Class {
    pub(super) best: CopyRoutine,
    routines: [Known; ROUTINES],
    /// The first trials are not over.
    pub(super) is_new: bool,
    /// The best routine's pace when the others were last tried at once, or less if it has become
    /// faster; and its stretches since.
    usual: u64,
    since: u32,
}

/// What is known of a routine.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    /// Nanoseconds for a mebibyte; zero if it was never measured.
    pub(super) pace: u64,
    /// Stretches of the best routine until the next trial.
    wait: u32,
    /// What `wait` was at first.
    last_wait: u32,
}

impl Class {
    /// A class that begins with what another ring has found, if one has.
    pub(super) fn new(found: Option<CopyRoutine>) -> Self {
        let wait = if found.is_some() { WAIT_AFTER_HINT } else { 0 };
        let known = Known { wait, ..Known::default() };
        Self {
            best: found.unwrap_or(FIRST_ROUTINE),
            routines: [known; ROUTINES],
            is_new: found.is_none(),
            usual: 0,
            since: 0,
        }
    }

    pub(super) fn known(&mut self, routine: CopyRoutine) -> &mut Known {
        let [library, vectors, past_caches] = &mut self.routines;
        match routine {
            CopyRoutine::Library => library,
            CopyRoutine::Vectors => vectors,
            CopyRoutine::PastCaches => past_caches,
        }
    }

    /// Takes what a stretch has shown into account. Returns the routine for the next one.
    pub(super) fn learn(&mut self, routine: CopyRoutine, measured: u64) -> CopyRoutine {
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
            return self.next();
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
        self.best
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
    pub(super) fn give_up(&mut self, routine: CopyRoutine, pace: u64) -> CopyRoutine {
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

    /// Returns the routine for the next stretch, after one of the best.
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
