//! A request to a pool whose reply is awaited later.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use pyo3::prelude::*;

use crate::completions::Completions;
use crate::convert;
use crate::error::{exception, is_own, misuse};
use crate::kept::KeptReplies;
use crate::polling::poll_for;
use crate::reply::Reply;
use crate::wait::wait;

/// A request to a pool whose reply is awaited later. If it is forgotten, the request is cancelled.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct PoolPending {
    role: slipring::pool::RoleHandle,
    replies: Arc<KeptReplies>,
    id: slipring::RequestId,
    state: Mutex<State>,
}

enum State {
    Waiting(slipring::pool::PoolPending),
    /// A thread waits, and has it meanwhile.
    InUse,
    Ended,
}

impl PoolPending {
    pub(crate) fn new(
        role: &slipring::pool::RoleHandle,
        replies: &Arc<KeptReplies>,
        pending: slipring::pool::PoolPending,
    ) -> Self {
        let (role, replies) = (role.clone(), Arc::clone(replies));
        Self { role, replies, id: pending.id(), state: Mutex::new(State::Waiting(pending)) }
    }

    fn replace(&self, state: State) -> State {
        let mut now = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut now, state)
    }

    /// Calls `look` with the request, which stays in this object if `look` returns `None`, or the
    /// exception of a signal handler.
    fn with(
        &self,
        py: Python<'_>,
        look: impl FnOnce(&mut slipring::pool::PoolPending) -> PyResult<Option<slipring::Reply>>,
    ) -> PyResult<Option<Reply>> {
        let mut pending = match self.replace(State::InUse) {
            State::Waiting(pending) => pending,
            State::InUse => return Err(misuse(py, "another thread waits for this reply")),
            State::Ended => {
                self.replace(State::Ended);
                return Err(misuse(py, "the request has ended: its reply or error was returned"));
            }
        };
        let found = look(&mut pending);
        let has_ended = match &found {
            Ok(reply) => reply.is_some(),
            Err(error) => is_own(py, error),
        };
        self.replace(if has_ended { State::Ended } else { State::Waiting(pending) });
        Ok(found?.map(|reply| Reply::new(&self.replies, reply)))
    }
}

/// Looks for the reply without a wait.
fn poll(
    pending: &mut slipring::pool::PoolPending,
    context: &mut Context<'_>,
) -> Poll<slipring::Result<slipring::Reply>> {
    Pin::new(pending).poll(context)
}

#[pymethods]
impl PoolPending {
    #[getter]
    fn request(&self) -> u64 {
        self.id.get()
    }

    pub(crate) fn wait(&self, py: Python<'_>) -> PyResult<Reply> {
        let found = self.with(py, |pending| {
            let look = |longest| poll_for(longest, |context| poll(pending, context)).transpose();
            wait(py, look).map(Some)
        })?;
        found.ok_or_else(|| misuse(py, "there is no reply"))
    }

    #[pyo3(signature = (*, timeout = 0.0))]
    fn poll(&self, py: Python<'_>, timeout: f64) -> PyResult<Option<Reply>> {
        let deadline = Instant::now().checked_add(convert::timeout(Some(timeout))?);
        self.with(py, |pending| {
            wait(py, |longest| {
                let now = Instant::now();
                let left = deadline.map(|end| end.saturating_duration_since(now));
                let longest = left.map_or(longest, |left| left.min(longest));
                let reply = poll_for(longest, |context| poll(pending, context)).transpose()?;
                let is_late = left.is_some_and(|left| left <= longest);
                Ok(if reply.is_some() || is_late { Some(reply) } else { None })
            })
        })
    }

    /// Returns the reply if it is there. If not, adds the token once it is to be asked again.
    fn poll_with(
        &self,
        py: Python<'_>,
        completions: &Completions,
        token: u64,
    ) -> PyResult<Option<Reply>> {
        let waker = completions.waker(token);
        self.with(py, |pending| match poll(pending, &mut Context::from_waker(&waker)) {
            Poll::Ready(Ok(reply)) => Ok(Some(reply)),
            Poll::Ready(Err(error)) => Err(exception(py, &error)),
            Poll::Pending => Ok(None),
        })
    }

    pub(crate) fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        self.role.cancel(self.id).map_err(|error| exception(py, &error))
    }

    fn __repr__(&self) -> String {
        format!("<PoolPending request {}>", self.id)
    }
}
