//! A request to a pool whose reply is awaited later.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;

use crate::completions::Completions;
use crate::convert::Timeout;
use crate::error::exception;
use crate::kept::KeptReplies;
use crate::operation::Operation;
use crate::polling::poll_for;
use crate::reply::Reply;
use crate::waiting::{WaitFor, Waiting};

/// A request to a pool whose reply is awaited later. If it is forgotten, the request is cancelled.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct PoolPending {
    role: slipring::pool::RoleHandle,
    replies: Arc<KeptReplies>,
    id: slipring::RequestId,
    waiting: Waiting<slipring::pool::PoolPending>,
}

impl WaitFor for slipring::pool::PoolPending {
    fn wait_for(&mut self, longest: Duration) -> slipring::Result<Option<slipring::Reply>> {
        poll_for(longest, |context| Pin::new(&mut *self).poll(context)).transpose()
    }
}

impl PoolPending {
    pub(crate) fn new(
        role: &slipring::pool::RoleHandle,
        replies: &Arc<KeptReplies>,
        pending: slipring::pool::PoolPending,
    ) -> Self {
        let (role, replies) = (role.clone(), Arc::clone(replies));
        Self { role, replies, id: pending.id(), waiting: Waiting::new(pending) }
    }
}

#[pymethods]
impl PoolPending {
    #[getter]
    fn request(&self) -> u64 {
        self.id.get()
    }

    pub(crate) fn wait(&self, py: Python<'_>) -> PyResult<Reply> {
        Ok(Reply::new(&self.replies, self.waiting.wait(py)?))
    }

    #[pyo3(signature = (*, timeout = Timeout::seconds(0)))]
    fn poll(&self, py: Python<'_>, timeout: Timeout) -> PyResult<Option<Reply>> {
        let found = self.waiting.wait_by(py, timeout.deadline())?;
        Ok(found.map(|reply| Reply::new(&self.replies, reply)))
    }

    /// Returns an operation that ends with the reply, and has the request from now on.
    fn start(&self, py: Python<'_>, completions: &Completions) -> PyResult<Operation> {
        let (pending, replies) = (self.waiting.take(py)?, Arc::clone(&self.replies));
        Ok(Operation::start(completions, pending, move |reply| Reply::new(&replies, reply)))
    }

    pub(crate) fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        self.role.cancel(self.id).map_err(|error| exception(py, &error))
    }

    fn __repr__(&self) -> String {
        format!("<PoolPending request {}>", self.id)
    }
}
