//! The arguments of calls: kinds and times.

use std::time::{Duration, Instant};

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use slipring::{StreamTimeouts, TraceContext};

/// A timeout in seconds. `None` is without end.
#[derive(Clone, Copy)]
pub(crate) struct Timeout(pub(crate) Duration);

impl Timeout {
    pub(crate) const NONE: Self = Self(Duration::MAX);

    pub(crate) const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// Returns when it has passed, if it begins now; `None` if it never does.
    pub(crate) fn deadline(self) -> Option<Instant> {
        Instant::now().checked_add(self.0)
    }
}

impl FromPyObject<'_, '_> for Timeout {
    type Error = PyErr;

    fn extract(seconds: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        match seconds.extract()? {
            None => Ok(Self::NONE),
            // So long that the library cannot count it.
            Some(seconds) if seconds > Duration::MAX.as_secs_f64() / 2.0 => Ok(Self::NONE),
            Some(seconds) => Duration::try_from_secs_f64(seconds).map(Self).map_err(|_| {
                let message = format!("a timeout of {seconds} seconds: it must be 0 or more");
                PyValueError::new_err(message)
            }),
        }
    }
}

/// The trace that a request is part of, by its `traceparent`. A malformed one is ignored.
#[derive(Clone, Default)]
pub(crate) struct Trace(pub(crate) Option<TraceContext>);

impl FromPyObject<'_, '_> for Trace {
    type Error = PyErr;

    fn extract(traceparent: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        let traceparent: Option<&str> = traceparent.extract()?;
        Ok(Self(traceparent.and_then(TraceContext::parse)))
    }
}

/// Returns the timeouts of a stream. The library has values of its own for the first chunk and for
/// the wait in the queue.
pub(crate) fn stream_timeouts(
    chunk: Timeout,
    first_chunk: Option<Timeout>,
    queue: Option<Timeout>,
    total: Timeout,
) -> StreamTimeouts {
    let mut timeouts = StreamTimeouts::new().chunk(chunk.0).total(total.0);
    if let Some(first_chunk) = first_chunk {
        timeouts = timeouts.first_chunk(first_chunk.0);
    }
    if let Some(queue) = queue {
        timeouts = timeouts.queue(queue.0);
    }
    timeouts
}

/// A kind of requests, by its name or number. Four names are those of the library's roles.
pub(crate) struct Kind(pub(crate) slipring::Kind);

impl FromPyObject<'_, '_> for Kind {
    type Error = PyErr;

    fn extract(kind: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        if let Ok(name) = kind.extract::<&str>() {
            return Ok(Self(match name {
                "embed" => slipring::Kind::EMBED,
                "chat" => slipring::Kind::CHAT,
                "rerank" => slipring::Kind::RERANK,
                "vision" => slipring::Kind::VISION,
                name => slipring::Kind::named(name),
            }));
        }
        let Ok(number) = kind.extract::<u64>() else {
            let class = kind.get_type().name()?;
            return Err(PyTypeError::new_err(format!("a kind is a str or an int, not {class}")));
        };
        match u16::try_from(number) {
            Ok(number) if number <= LAST => Ok(Self(slipring::Kind::app(number))),
            _ => Err(PyValueError::new_err(format!(
                "kind {number}: application kinds are numbered from 0 to {LAST}"
            ))),
        }
    }
}

/// The last number that [`slipring::Kind::app`] takes.
const LAST: u16 = 32_511;
