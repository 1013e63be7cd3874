//! What is told of a worker: plain values.

use pyo3::prelude::*;

/// How a worker ended.
#[pyclass(frozen, get_all, module = "slipring")]
pub(crate) struct ExitCause {
    code: Option<i32>,
    signal: Option<i32>,
    signal_name: Option<&'static str>,
    text: String,
}

impl ExitCause {
    pub(crate) fn new(cause: slipring::ExitCause) -> Self {
        let (code, signal) = match cause {
            slipring::ExitCause::Exited(code) => (Some(code), None),
            slipring::ExitCause::Signaled(signal) => (None, Some(signal)),
            _ => (None, None),
        };
        Self { code, signal, signal_name: cause.signal_name(), text: cause.to_string() }
    }
}

#[pymethods]
impl ExitCause {
    #[new]
    fn from_status(code: Option<i32>, signal: Option<i32>) -> Self {
        Self::new(match (code, signal) {
            (Some(code), _) => slipring::ExitCause::Exited(code),
            (None, Some(signal)) => slipring::ExitCause::Signaled(signal),
            (None, None) => slipring::ExitCause::Unknown,
        })
    }

    /// What is pickled, as a part of an exception.
    fn __getnewargs__(&self) -> (Option<i32>, Option<i32>) {
        (self.code, self.signal)
    }

    fn __str__(&self) -> &str {
        &self.text
    }

    fn __repr__(&self) -> String {
        format!("<ExitCause: {}>", self.text)
    }
}

/// A worker's report.
#[pyclass(frozen, get_all, module = "slipring")]
pub(crate) struct Health {
    state: String,
    current_request: Option<u64>,
    busy_for: Option<f64>,
    progress: u64,
    taken: usize,
    begun: usize,
    requests_served: u64,
    bytes_received: u64,
    bytes_sent: u64,
    last_error: Option<String>,
}

impl Health {
    pub(crate) fn new(health: slipring::Health) -> Self {
        Self {
            state: format!("{:?}", health.state).to_lowercase(),
            current_request: health.current_request.map(|id| id.get()),
            busy_for: health.busy_for.map(|time| time.as_secs_f64()),
            progress: health.progress,
            taken: health.taken,
            begun: health.begun,
            requests_served: health.requests_served,
            bytes_received: health.bytes_received,
            bytes_sent: health.bytes_sent,
            last_error: health.last_error,
        }
    }
}

#[pymethods]
impl Health {
    fn __repr__(&self) -> String {
        format!("<Health: {}, {} requests served>", self.state, self.requests_served)
    }
}
