//! What happens to the workers of a pool.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use slipring::pool::{Event, EventKind, Events};

use crate::convert::Timeout;
use crate::error::{exception, misuse};
use crate::lock::lock;
use crate::wait::wait;

/// The events of a pool from the moment on at which it was asked for: an iterator, which ends with
/// the pool.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct PoolEvents {
    state: Mutex<State>,
    is_over: AtomicBool,
}

enum State {
    Idle(Events),
    /// A thread waits, and has it meanwhile.
    InUse,
}

/// Something that happened to a role or one of its workers.
#[pyclass(frozen, get_all, module = "slipring")]
pub(crate) struct PoolEvent {
    role: String,
    worker: Option<usize>,
    pid: Option<u32>,
    kind: &'static str,
    /// For how many seconds a worker that is ready was started.
    started_for: Option<f64>,
    /// Why a worker has died or could not be started.
    error: Option<Py<PyAny>>,
    /// Why a worker is replaced.
    reason: Option<String>,
    /// The request of a worker that hangs.
    request: Option<u64>,
    progress: Option<u64>,
}

impl PoolEvents {
    pub(crate) fn new(events: Events) -> Self {
        Self { state: Mutex::new(State::Idle(events)), is_over: AtomicBool::new(false) }
    }

    fn replace(&self, state: State) -> State {
        std::mem::replace(&mut *lock(&self.state), state)
    }

    /// Waits until there is an event, or until the deadline. The outer `None` is the deadline, the
    /// inner one the end.
    fn next_by(
        &self,
        py: Python<'_>,
        deadline: Option<Instant>,
    ) -> PyResult<Option<Option<Event>>> {
        let State::Idle(mut events) = self.replace(State::InUse) else {
            return Err(misuse(py, "another thread waits for these events"));
        };
        let found = wait(py, |longest| {
            let begun = Instant::now();
            let left = deadline.map(|end| end.saturating_duration_since(begun));
            // So long that no clock counts it.
            let longest = left.map_or(longest, |left| left.min(longest)).min(ONE_DAY);
            let events = &mut events;
            if let Some(event) = events.recv_timeout(longest) {
                return Ok(Some(Some(Some(event))));
            }
            // It returns sooner at the end of the events only.
            if begun.elapsed() < longest {
                return Ok(Some(Some(None)));
            }
            let is_late = left.is_some_and(|left| left <= longest);
            Ok(if is_late { Some(None) } else { None })
        });
        self.replace(State::Idle(events));
        if matches!(found, Ok(Some(None))) {
            self.is_over.store(true, Ordering::Relaxed);
        }
        found
    }
}

const ONE_DAY: Duration = Duration::from_secs(86_400);

#[pymethods]
impl PoolEvents {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<PoolEvent>> {
        let event = self.next_by(py, None)?.flatten();
        Ok(event.map(|event| PoolEvent::new(py, event)))
    }

    /// Whether the end has been found: the pool is closed.
    #[getter]
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Returns the next event if it comes in time.
    #[pyo3(signature = (*, timeout = Timeout::seconds(0)))]
    fn poll(&self, py: Python<'_>, timeout: Timeout) -> PyResult<Option<PoolEvent>> {
        let event = self.next_by(py, timeout.deadline())?.flatten();
        Ok(event.map(|event| PoolEvent::new(py, event)))
    }
}

impl PoolEvent {
    fn new(py: Python<'_>, event: Event) -> Self {
        let mut new = Self {
            role: event.role,
            worker: event.worker,
            pid: event.pid,
            kind: "unknown",
            started_for: None,
            error: None,
            reason: None,
            request: None,
            progress: None,
        };
        let raised = |error| Some(exception(py, &error).into_value(py).into_any());
        new.kind = match event.kind {
            EventKind::Started => "started",
            EventKind::Ready(time) => {
                new.started_for = Some(time.as_secs_f64());
                "ready"
            }
            EventKind::Died(error) => {
                new.error = raised(error);
                "died"
            }
            EventKind::StartFailed(error) => {
                new.error = raised(error);
                "start_failed"
            }
            EventKind::Recycled(reason) => {
                new.reason = Some(format!("{reason:?}").to_lowercase());
                "recycled"
            }
            EventKind::Stopped => "stopped",
            EventKind::Hung { request, progress } => {
                (new.request, new.progress) = (Some(request.get()), Some(progress));
                "hung"
            }
            EventKind::Unresponsive => "unresponsive",
            EventKind::Degraded => "degraded",
            EventKind::Healed => "healed",
            EventKind::HostPanicked => "host_panicked",
            _ => "unknown",
        };
        new
    }
}

#[pymethods]
impl PoolEvent {
    fn __repr__(&self) -> String {
        let worker = self.worker.map(|index| format!(", worker {index}")).unwrap_or_default();
        format!("<PoolEvent: {} of {}{worker}>", self.kind, self.role)
    }
}
