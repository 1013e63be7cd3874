//! A reply that a thread of Python waits for.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use slipring::Reply;

use crate::error::{is_own, misuse};
use crate::lock::lock;
use crate::wait::wait;

/// A request to a channel or a pool. One thread at a time waits for its reply.
pub(crate) struct Waiting<P>(Mutex<State<P>>);

enum State<P> {
    Idle(P),
    /// A thread waits, and has it meanwhile.
    InUse,
    Ended,
}

/// What has a reply.
pub(crate) trait WaitFor: Send {
    /// Returns the reply if it comes within this time.
    fn wait_for(&mut self, longest: Duration) -> slipring::Result<Option<Reply>>;
}

impl<P: WaitFor> Waiting<P> {
    pub(crate) fn new(pending: P) -> Self {
        Self(Mutex::new(State::Idle(pending)))
    }

    fn replace(&self, state: State<P>) -> State<P> {
        std::mem::replace(&mut *lock(&self.0), state)
    }

    /// Takes the request, which is to be given back by `replace`.
    fn borrow(&self, py: Python<'_>) -> PyResult<P> {
        match self.replace(State::InUse) {
            State::Idle(pending) => Ok(pending),
            State::InUse => Err(misuse(py, "another thread waits for this reply")),
            State::Ended => {
                self.replace(State::Ended);
                Err(misuse(py, "the request has ended: its reply or error was returned"))
            }
        }
    }

    /// Takes the request for good: it has ended for those that wait here.
    pub(crate) fn take(&self, py: Python<'_>) -> PyResult<P> {
        let pending = self.borrow(py)?;
        self.replace(State::Ended);
        Ok(pending)
    }

    /// Waits for the reply, for as long as the timeout of the request says.
    pub(crate) fn wait(&self, py: Python<'_>) -> PyResult<Reply> {
        self.wait_by(py, None)?.ok_or_else(|| misuse(py, "there is no reply"))
    }

    /// Waits for the reply until a deadline. The request stays here if there is none then, and after
    /// the exception of a signal handler.
    pub(crate) fn wait_by(
        &self,
        py: Python<'_>,
        deadline: Option<Instant>,
    ) -> PyResult<Option<Reply>> {
        let mut pending = self.borrow(py)?;
        let found = wait(py, |longest| {
            let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
            let longest = left.map_or(longest, |left| left.min(longest));
            let reply = pending.wait_for(longest)?;
            let is_late = left.is_some_and(|left| left <= longest);
            Ok(if reply.is_some() || is_late { Some(reply) } else { None })
        });
        let has_ended = match &found {
            Ok(reply) => reply.is_some(),
            Err(error) => is_own(py, error),
        };
        self.replace(if has_ended { State::Ended } else { State::Idle(pending) });
        found
    }
}
