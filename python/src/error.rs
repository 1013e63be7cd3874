//! Errors of the library as exceptions of `slipring/_errors.py`.

use std::error::Error as _;
use std::path::Path;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;
use slipring::{ErrorKind, Overload, WorkerDeath};

use crate::report::ExitCause;

/// Returns the exception for an error of the library. If a signal handler of Python's has ended a
/// wait, it is the exception of that handler.
pub(crate) fn exception(py: Python<'_>, error: &slipring::Error) -> PyErr {
    if let Some(raised) = error.source().and_then(|source| source.downcast_ref::<PyErr>()) {
        return raised.clone_ref(py);
    }
    make(py, error).unwrap_or_else(|failure| failure)
}

/// Returns an exception of the kind `invalid_input`: the object cannot be used in this way now.
pub(crate) fn misuse(py: Python<'_>, message: &str) -> PyErr {
    exception_of(py, "invalid_input", message, &PyDict::new(py)).unwrap_or_else(|failure| failure)
}

/// Returns whether an exception is an error of the library, and not that of a signal handler.
pub(crate) fn is_own(py: Python<'_>, error: &PyErr) -> bool {
    is_a(py, error, "Error")
}

/// Returns whether an exception has this class of `slipring/_errors.py`.
pub(crate) fn is_a(py: Python<'_>, error: &PyErr, class: &str) -> bool {
    let class = py.import("slipring._errors").and_then(|errors| errors.getattr(class));
    class.and_then(|class| error.value(py).is_instance(&class)).unwrap_or(false)
}

fn make(py: Python<'_>, error: &slipring::Error) -> PyResult<PyErr> {
    let details = PyDict::new(py);
    let own_death = error.death();
    // Before the rest, which is not looked up again if this is known.
    let was_begun = error.was_begun();
    if let Some(death) = own_death.or_else(|| death_before(error)) {
        details.set_item("role", death.role())?;
        details.set_item("pid", death.pid())?;
        details.set_item("log_path", death.log_path())?;
        set_end(&details, death)?;
    }
    if has_reporter(error.kind()) {
        details.set_item("_report", Py::new(py, CrashReport(error.clone()))?)?;
    }
    if let (None, Some(death)) = (was_begun, own_death) {
        details.set_item("_unsettled", Py::new(py, Unsettled(death.clone()))?)?;
    }
    details.set_item("was_begun", was_begun)?;
    details.set_item("log_tail", error.log_tail())?;
    if let Some(overload) = error.overload() {
        set_overload(&details, overload)?;
    }
    if let Some(earlier) = error.earlier_attempts() {
        let ends: Vec<_> = earlier.ends.iter().map(ToString::to_string).collect();
        details.set_item("earlier_attempts", earlier.count)?;
        details.set_item("earlier_ends", ends)?;
    }
    if let Some(failure) = error.handler_failure() {
        details.set_item("type_name", failure.type_name.as_str())?;
        details.set_item("message", failure.message.as_str())?;
        details.set_item("traceback", failure.backtrace.as_str())?;
        details.set_item("sources", &failure.sources)?;
    }
    if let Some((length, limit)) = error.length_and_limit() {
        details.set_item("length", length)?;
        details.set_item("limit", limit)?;
    }
    let mut message = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let text = source.to_string();
        // The error of a role tells of its last failure itself.
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        next = source.source();
    }
    exception_of(py, error.kind().name(), &message, &details)
}

/// Returns whether an error of this kind may have the crash report of a worker.
fn has_reporter(kind: ErrorKind) -> bool {
    use ErrorKind as Kind;
    let is_end = matches!(kind, Kind::PeerDied | Kind::PeerCorrupt | Kind::Poison | Kind::Degraded);
    let is_start = matches!(kind, Kind::Spawn | Kind::Handshake | Kind::Mismatch | Kind::Session);
    is_end || is_start
}

/// The crash report of a worker, which is written a moment after the exception is made.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct CrashReport(slipring::Error);

#[pymethods]
impl CrashReport {
    /// Returns its path; `None` if it is not there, or not yet.
    fn path(&self) -> Option<&Path> {
        let before = || self.0.source()?.downcast_ref::<slipring::Error>()?.crash_report();
        self.0.crash_report().or_else(before)
    }
}

/// A death of which not everything was known when the exception was made: the last thread of the worker
/// had not stopped.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct Unsettled(WorkerDeath);

#[pymethods]
impl Unsettled {
    /// Returns what is known by now.
    fn look<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let details = PyDict::new(py);
        details.set_item("was_begun", self.0.was_begun())?;
        set_end(&details, &self.0)?;
        Ok(details)
    }
}

/// Sets what comes to be known after the first signs of a death.
fn set_end(details: &Bound<'_, PyDict>, death: &WorkerDeath) -> PyResult<()> {
    details.set_item("cause", death.cause().map(ExitCause::new))?;
    details.set_item("begun_alone", death.begun_alone())?;
    details.set_item("begun_beside", begun_beside(death))?;
    details.set_item("is_oom_suspected", death.is_oom_suspected())
}

/// Returns the death that has led to an error of another kind.
fn death_before(error: &slipring::Error) -> Option<&WorkerDeath> {
    error.source()?.downcast_ref::<slipring::Error>()?.death()
}

/// Returns how many other requests the worker had begun when it ended.
fn begun_beside(death: &WorkerDeath) -> Option<usize> {
    death.was_begun()?;
    let begun = death.begun_requests();
    Some(begun.iter().filter(|other| Some(**other) != death.request()).count())
}

fn set_overload(details: &Bound<'_, PyDict>, overload: Overload) -> PyResult<()> {
    details.set_item("queued", overload.queued)?;
    details.set_item("limit", overload.limit)?;
    details.set_item("in_flight", overload.in_flight)?;
    details.set_item("oldest_wait", overload.oldest_wait.as_secs_f64())?;
    details.set_item("retry_after", overload.retry_after.as_secs_f64())
}

fn exception_of(
    py: Python<'_>,
    kind: &str,
    message: &str,
    details: &Bound<'_, PyDict>,
) -> PyResult<PyErr> {
    static MAKE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let make = MAKE.import(py, "slipring._errors", "make")?;
    Ok(PyErr::from_value(make.call1((kind, message, details))?))
}
