//! How a thread of Python waits.
//!
//! To release the interpreter lock costs milliseconds while another thread of Python computes: the
//! lock comes back only when that thread's turn is over. So a wait looks for [`LOOK`] with the
//! lock held, which is long enough for an answer of a worker that is awake, and releases it then. A
//! thread that had to wait for the lock for longer than for the answer holds it longer the next time,
//! [`LONGEST_LOOK`] at most: as long as it takes a worker to wake up.
//!
//! The main thread alone runs Python's signal handlers. The library calls a hook when a signal has
//! interrupted a sleep, but a signal can also arrive just before the sleep, or while another thread
//! reads the channel. So the main thread sleeps for [`SLICE`] at most before it looks for signals.

use std::cell::Cell;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use slipring::{ErrorKind, Result};

use crate::error::exception;
use crate::turn::generation;

/// How long a wait holds the interpreter lock, as long as that comes back at once.
pub(crate) const LOOK: Duration = Duration::from_micros(20);

/// How long it holds the lock at most.
const LONGEST_LOOK: Duration = Duration::from_micros(400);

/// A lock that takes longer to come back is held by a thread that computes.
const TAKES_LONG: Duration = Duration::from_millis(1);

/// How long a wait for a pipe looks without the lock, if the last ones were short: long enough for a
/// process that is awake to pickle some hundred KiB.
pub(crate) const FURTHER: Duration = Duration::from_micros(60);

/// How long the main thread sleeps before it looks for signals.
pub(crate) const SLICE: Duration = Duration::from_millis(8);

/// Waits until `look` returns something. `look` waits for as long as it is told.
pub(crate) fn wait<T: Send>(
    py: Python<'_>,
    mut look: impl FnMut(Duration) -> Result<Option<T>> + Send,
) -> PyResult<T> {
    let mut found = resumable(|| look(look_time()));
    let longest = if is_main_thread(py)? { SLICE } else { Duration::MAX };
    loop {
        if let Some(found) = found.map_err(|error| exception(py, &error))?.flatten() {
            return Ok(found);
        }
        py.check_signals()?;
        found = released(py, || resumable(|| look(longest)));
    }
}

thread_local! {
    /// Whether this thread's wait can be ended by a signal, and begun again.
    static IS_RESUMABLE: Cell<bool> = const { Cell::new(false) };
}

/// Runs a part of a wait that a signal ends, which is `None`: its caller runs the signal handlers, and
/// waits again. They must not run inside: this thread may be the one that reads for all others, and a
/// handler that makes a call of its own would wait for it.
pub(crate) fn resumable<T>(look: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
    IS_RESUMABLE.set(true);
    let found = look();
    IS_RESUMABLE.set(false);
    match found {
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(None),
        found => found.map(Some),
    }
}

thread_local! {
    /// How long this thread's next wait holds the lock.
    static LOOK_TIME: Cell<Duration> = const { Cell::new(LOOK) };
}

/// How long the next wait of this thread is to look with the interpreter lock held.
pub(crate) fn look_time() -> Duration {
    LOOK_TIME.get()
}

/// Runs the part of a wait that comes after its look, without the interpreter lock, and learns from how
/// long the lock takes to come back.
pub(crate) fn released<T: Send>(py: Python<'_>, sleep: impl FnOnce() -> T + Send) -> T {
    let begun = Instant::now();
    let (slept, found) = py.detach(|| {
        let found = sleep();
        (begun.elapsed(), found)
    });
    LOOK_TIME.set(next_look(look_time(), slept, begun.elapsed().saturating_sub(slept)));
    found
}

/// How long a wait is to look after one that has looked for `look`, slept for `slept`, and waited for the
/// lock for `locked_out`.
fn next_look(look: Duration, slept: Duration, locked_out: Duration) -> Duration {
    let waited = look + slept;
    if locked_out < TAKES_LONG || waited > LONGEST_LOOK {
        return LOOK;
    }
    (2 * waited).min(LONGEST_LOOK)
}

/// Runs what blocks and cannot look for signals. In the main thread it runs on a thread of its own,
/// and goes on there if a signal handler raises an exception.
pub(crate) fn aside<T: Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce() -> T + Send + 'static,
) -> PyResult<T> {
    if !is_main_thread(py)? {
        return Ok(py.detach(work));
    }
    let mut aside = Aside::start(work)?;
    aside.wait(py)
}

/// Work on a thread of its own.
pub(crate) struct Aside<T>(Option<mpsc::Receiver<T>>);

impl<T: Send + 'static> Aside<T> {
    pub(crate) fn start(work: impl FnOnce() -> T + Send + 'static) -> PyResult<Self> {
        let (done, result) = mpsc::sync_channel(1);
        // If no thread waits for it any more, the result is dropped.
        let run = move || drop(done.send(work()));
        thread::Builder::new().name("slipring-wait".to_owned()).spawn(run)?;
        Ok(Self(Some(result)))
    }

    /// Waits for the result. After an exception of a signal handler the work goes on, and can be
    /// waited for again.
    pub(crate) fn wait(&mut self, py: Python<'_>) -> PyResult<T> {
        loop {
            let Some(result) = self.0.take() else { return Err(ended()) };
            let (result, found) = py.detach(move || {
                let found = result.recv_timeout(SLICE);
                (result, found)
            });
            match found {
                Ok(found) => return Ok(found),
                Err(mpsc::RecvTimeoutError::Timeout) => self.0 = Some(result),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(ended()),
            }
            py.check_signals()?;
        }
    }
}

fn ended() -> PyErr {
    pyo3::exceptions::PyRuntimeError::new_err("the thread that waits has ended")
}

/// What the library calls when a signal has interrupted a wait of a channel or of a worker. Ends a wait
/// that is begun again, and runs the signal handlers inside of any other.
pub(crate) fn on_interrupt() -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
    if IS_RESUMABLE.get() {
        return Err("to run signal handlers".into());
    }
    // While the interpreter ends there is no handler to run.
    Python::try_attach(|py| py.check_signals()).unwrap_or(Ok(())).map_err(Into::into)
}

/// Returns whether this thread runs Python's signal handlers.
pub(crate) fn is_main_thread(py: Python<'_>) -> PyResult<bool> {
    thread_local! {
        /// Of this process: in a forked child the thread that has forked is the main one.
        static IS_MAIN: Cell<Option<(u32, bool)>> = const { Cell::new(None) };
    }
    static MAIN_THREAD: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let here = generation();
    if let Some((_, is_main)) = IS_MAIN.get().filter(|(process, _)| *process == here) {
        return Ok(is_main);
    }
    let main = MAIN_THREAD.import(py, "threading", "main_thread")?.call0()?.getattr("ident")?;
    let own = py.import("threading")?.getattr("get_ident")?.call0()?;
    let is_main = main.eq(own)?;
    IS_MAIN.set(Some((here, is_main)));
    Ok(is_main)
}

/// How long a thread that waits for a pipe sleeps before it looks for signals. A signal that arrives
/// during the sleep ends it, so that only one that arrives just before it has to wait.
pub(crate) struct Slices(Duration);

/// The longest sleep.
const LONGEST_SLICE: Duration = Duration::from_secs(1);

impl Slices {
    pub(crate) fn new(py: Python<'_>) -> PyResult<Self> {
        Ok(Self(if is_main_thread(py)? { SLICE } else { LONGEST_SLICE }))
    }

    /// How long the next sleep is to be at most.
    pub(crate) fn next(&self) -> Duration {
        self.0
    }

    /// Makes the next sleep longer.
    pub(crate) fn lengthen(&mut self) {
        self.0 = (self.0 * 2).min(LONGEST_SLICE);
    }
}
