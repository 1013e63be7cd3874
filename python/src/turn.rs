//! A value that one thread uses at a time, in a process that may be forked meanwhile.
#![allow(unsafe_code, reason = "lends a value to the thread that has the turn")]

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// How many forks lie between the process that has loaded the module and this one.
static GENERATION: AtomicU32 = AtomicU32::new(1);

/// The number of the thread that was given one last.
static LAST_THREAD: AtomicU32 = AtomicU32::new(0);

const FREE: u64 = 0;

/// Has Python call [`note_fork`] in each child of `os.fork()`.
pub(crate) fn watch_forks(py: Python<'_>) -> PyResult<()> {
    let told = PyDict::new(py);
    told.set_item("after_in_child", wrap_pyfunction!(note_fork, py)?)?;
    py.import("os")?.call_method("register_at_fork", (), Some(&told)).map(drop)
}

#[pyfunction]
fn note_fork() {
    let next = GENERATION.load(Ordering::Relaxed).wrapping_add(1);
    GENERATION.store(next.max(1), Ordering::Relaxed);
}

/// Returns a number that differs in a forked child.
pub(crate) fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
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
    /// The generation of the process whose thread has the turn, above the number of the thread.
    holder: AtomicU64,
    value: UnsafeCell<T>,
}

// SAFETY: the value is used by the thread only that has the turn.
unsafe impl<T: Send> Sync for Turns<T> {}

/// The turn. Dropping it gives it back.
pub(crate) struct Turn<'a, T>(&'a Turns<T>);

impl<T: Recover> Turns<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { holder: AtomicU64::new(FREE), value: UnsafeCell::new(value) }
    }

    /// Waits for the turn.
    ///
    /// # Errors
    ///
    /// `RuntimeError` if this thread has the turn. It runs a signal handler or a finalizer then, which
    /// has interrupted the use of the value, and would wait for itself.
    pub(crate) fn take(&self, py: Python<'_>) -> PyResult<Turn<'_, T>> {
        let mut nap = Duration::from_micros(50);
        loop {
            if let Some(turn) = self.try_take()? {
                return Ok(turn);
            }
            py.check_signals()?;
            py.detach(|| thread::sleep(nap));
            nap = (nap * 2).min(Duration::from_millis(4));
        }
    }

    fn try_take(&self) -> PyResult<Option<Turn<'_, T>>> {
        let (generation, thread) = (generation(), thread_number());
        let own = u64::from(generation) << 32 | u64::from(thread);
        let take =
            |from| self.holder.compare_exchange(from, own, Ordering::Acquire, Ordering::Relaxed);
        let Err(holder) = take(FREE) else { return Ok(Some(Turn(self))) };
        // Also in a child that the handler has forked: what it has interrupted goes on there as well.
        if holder & u64::from(u32::MAX) == u64::from(thread) {
            return Err(reentrant());
        }
        if holder >> 32 == u64::from(generation) || take(holder).is_err() {
            return Ok(None);
        }
        let mut turn = Turn(self);
        turn.recover();
        Ok(Some(turn))
    }
}

/// Returns a number of this thread's own, which is not zero. A forked child has the thread that has
/// forked, with its number.
fn thread_number() -> u32 {
    thread_local! {
        static NUMBER: u32 = LAST_THREAD.fetch_add(1, Ordering::Relaxed).wrapping_add(1).max(1);
    }
    NUMBER.with(|number| *number)
}

#[cold]
fn reentrant() -> PyErr {
    PyRuntimeError::new_err(
        "this thread is already using this direction of the connection: a signal handler or a \
         finalizer that has interrupted it cannot use it as well",
    )
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
