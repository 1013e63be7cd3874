//! A value that one thread uses at a time, in a process that may be forked meanwhile.
#![allow(unsafe_code, reason = "lends a value to the thread that has the turn")]

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use pyo3::prelude::*;

/// How many forks lie between the process that has loaded the module and this one.
static GENERATION: AtomicU32 = AtomicU32::new(1);

const FREE: u32 = 0;

/// Told by Python in each child of `os.fork()`, before it does anything else.
#[pyfunction]
pub(crate) fn note_fork() {
    let next = GENERATION.load(Ordering::Relaxed).wrapping_add(1);
    GENERATION.store(next.max(1), Ordering::Relaxed);
}

/// What a value does when the thread that used it is not in this process.
pub(crate) trait Recover {
    /// Forgets what the use had begun.
    fn recover(&mut self);
}

/// A value and the turn to use it.
///
/// In a forked child the turn may be held by a thread that exists in the parent only. The child takes
/// it over: its copy of the value is its own.
pub(crate) struct Turns<T> {
    /// The generation of the process whose thread has the turn.
    holder: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the value is used by the thread only that has the turn.
unsafe impl<T: Send> Sync for Turns<T> {}

/// The turn. Dropping it gives it back.
pub(crate) struct Turn<'a, T>(&'a Turns<T>);

impl<T: Recover> Turns<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { holder: AtomicU32::new(FREE), value: UnsafeCell::new(value) }
    }

    /// Waits for the turn.
    pub(crate) fn take(&self, py: Python<'_>) -> PyResult<Turn<'_, T>> {
        let mut nap = Duration::from_micros(50);
        loop {
            if let Some(turn) = self.try_take() {
                return Ok(turn);
            }
            py.check_signals()?;
            py.detach(|| thread::sleep(nap));
            nap = (nap * 2).min(Duration::from_millis(4));
        }
    }

    fn try_take(&self) -> Option<Turn<'_, T>> {
        let own = GENERATION.load(Ordering::Relaxed);
        let take =
            |from| self.holder.compare_exchange(from, own, Ordering::Acquire, Ordering::Relaxed);
        match take(FREE) {
            Ok(_) => Some(Turn(self)),
            Err(holder) if holder == own => None,
            Err(holder) => {
                take(holder).ok()?;
                let mut turn = Turn(self);
                turn.recover();
                Some(turn)
            }
        }
    }
}

impl<T> Deref for Turn<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: only one `Turn` is made until it is dropped. One that is of another generation belongs
        // to a thread of another process, which has a value of its own.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Turn<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the borrow of this one is exclusive.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Turn<'_, T> {
    fn drop(&mut self) {
        self.0.holder.store(FREE, Ordering::Release);
    }
}
