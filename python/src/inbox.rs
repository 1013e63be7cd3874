//! Where a worker takes requests that are answered later.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::completions::Completions;
use crate::convert::Timeout;
use crate::error::{exception, is_a};
use crate::feed::Feed;
use crate::incoming_request::{Incoming, Names};
use crate::wait::{is_main_thread, look_time, released, resumable};

/// How long the main thread of a worker sleeps before it looks for signals. One that comes while it
/// sleeps wakes it.
const SLICE: Duration = Duration::from_millis(100);

/// The requests of a worker's host. Threads share it.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct Inbox {
    inbox: Arc<slipring::worker::Inbox>,
    names: Option<Arc<Names>>,
}

impl Inbox {
    /// Makes an inbox for requests of these kinds, or for all kinds, which are called by their codes.
    pub(crate) fn new(inbox: &Arc<slipring::worker::Inbox>, names: Option<Arc<Names>>) -> Self {
        Self { inbox: Arc::clone(inbox), names }
    }

    /// Takes the next request; `None` if the deadline has passed, or at once if that is over.
    fn take_by(&self, py: Python<'_>, deadline: Option<Instant>) -> PyResult<Option<Incoming>> {
        let slice = if is_main_thread(py)? { SLICE } else { Duration::MAX };
        let left = || deadline.map(|end| end.saturating_duration_since(Instant::now()));
        let within = |longest: Duration| left().map_or(longest, |left| left.min(longest));
        let mut longest = within(look_time());
        let look = |longest| resumable(|| self.inbox.recv_timeout(longest)).map(Option::flatten);
        let mut found = look(longest);
        loop {
            match found {
                Ok(Some(taken)) => match Incoming::of(py, taken, self.names.as_deref())? {
                    Some(incoming) => return Ok(Some(incoming)),
                    None => longest = within(look_time()),
                },
                Ok(None) if left().is_some_and(|left| left.is_zero()) => return Ok(None),
                Ok(None) => longest = within(slice),
                Err(error) => return Err(exception(py, &error)),
            }
            py.check_signals()?;
            found = released(py, || look(longest));
        }
    }
}

#[pymethods]
impl Inbox {
    #[pyo3(signature = (*, timeout = Timeout::NONE))]
    fn take(&self, py: Python<'_>, timeout: Timeout) -> PyResult<Option<Incoming>> {
        self.take_by(py, timeout.deadline())
    }

    #[pyo3(signature = (limit, *, within = Timeout::seconds(0)))]
    fn take_many(&self, py: Python<'_>, limit: usize, within: Timeout) -> PyResult<Vec<Incoming>> {
        let mut taken = Vec::new();
        taken.extend(self.take_by(py, None)?);
        let end = within.deadline();
        while taken.len() < limit {
            match self.take_by(py, end) {
                Ok(Some(incoming)) => taken.push(incoming),
                Ok(None) => break,
                // Of the end of the worker the next call tells. What was taken is answered first.
                Err(error) if is_a(py, &error, "Closed") => break,
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }

    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Incoming>> {
        match self.take_by(py, None) {
            Err(error) if is_a(py, &error, "Closed") => Ok(None),
            found => found,
        }
    }

    /// Starts a thread that takes the requests for an event loop.
    fn feed(&self, completions: &Completions) -> PyResult<Feed> {
        Feed::start(&self.inbox, completions, self.names.clone())
    }
}
