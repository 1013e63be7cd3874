//! A request whose reply is awaited later.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;

use crate::convert;
use crate::error::{is_own, misuse};
use crate::kept::KeptReplies;
use crate::reply::Reply;
use crate::shared::SharedChannel;
use crate::wait::wait;

/// A request whose reply is awaited later. If it is forgotten, the request is cancelled.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct Pending {
    channel: SharedChannel,
    replies: Arc<KeptReplies>,
    id: slipring::RequestId,
    state: Mutex<State>,
}

enum State {
    Waiting(slipring::Pending),
    /// A thread waits, and has it meanwhile.
    InUse,
    Ended,
}

impl Pending {
    pub(crate) fn new(
        channel: &SharedChannel,
        replies: &Arc<KeptReplies>,
        pending: slipring::Pending,
    ) -> Self {
        let (channel, replies) = (channel.clone(), Arc::clone(replies));
        Self { channel, replies, id: pending.id(), state: Mutex::new(State::Waiting(pending)) }
    }

    fn replace(&self, state: State) -> State {
        let mut now = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut now, state)
    }

    /// Calls `look` with the request, which stays in this object if it has not ended.
    fn with<T>(
        &self,
        py: Python<'_>,
        look: impl FnOnce(&mut slipring::Pending) -> PyResult<T>,
        has_ended: impl FnOnce(&PyResult<T>) -> bool,
    ) -> PyResult<T> {
        let mut pending = match self.replace(State::InUse) {
            State::Waiting(pending) => pending,
            State::InUse => return Err(misuse(py, "another thread waits for this reply")),
            State::Ended => {
                self.replace(State::Ended);
                return Err(misuse(py, "the request has ended: its reply or error was returned"));
            }
        };
        let found = look(&mut pending);
        let state = if has_ended(&found) { State::Ended } else { State::Waiting(pending) };
        self.replace(state);
        found
    }
}

#[pymethods]
impl Pending {
    #[getter]
    fn request(&self) -> u64 {
        self.id.get()
    }

    pub(crate) fn wait(&self, py: Python<'_>) -> PyResult<Reply> {
        let found = self.with(
            py,
            |pending| wait(py, |longest| pending.wait_timeout(longest)),
            // Another exception is that of a signal handler: the request goes on.
            |found| found.as_ref().err().is_none_or(|error| is_own(py, error)),
        );
        found.map(|reply| Reply::new(&self.replies, reply))
    }

    #[pyo3(signature = (*, timeout = 0.0))]
    fn poll(&self, py: Python<'_>, timeout: f64) -> PyResult<Option<Reply>> {
        let deadline = std::time::Instant::now().checked_add(convert::timeout(Some(timeout))?);
        let found = self.with(
            py,
            |pending| {
                wait(py, |longest| {
                    let now = std::time::Instant::now();
                    let left = deadline.map(|end| end.saturating_duration_since(now));
                    let longest = left.map_or(longest, |left| left.min(longest));
                    let reply = pending.wait_timeout(longest)?;
                    let is_late = left.is_some_and(|left| left <= longest);
                    Ok(if reply.is_some() || is_late { Some(reply) } else { None })
                })
            },
            |found| match found {
                Ok(reply) => reply.is_some(),
                Err(error) => is_own(py, error),
            },
        );
        found.map(|reply| reply.map(|reply| Reply::new(&self.replies, reply)))
    }

    fn cancel(&self) {
        self.channel.cancel(self.id);
    }

    fn __repr__(&self) -> String {
        format!("<Pending request {}>", self.id)
    }
}
