//! A request to a pool whose reply is awaited later.

use std::pin::Pin;
use std::time::Duration;

use pyo3::prelude::*;

use crate::completions::Completions;
use crate::convert::Timeout;
use crate::error::exception;
use crate::operation::Operation;
use crate::polling::poll_for;
use crate::reply::Reply;
use crate::waiting::{WaitFor, Waiting};

/// A request to a pool whose reply is awaited later. If it is forgotten, the request is cancelled.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct PoolPending {
    role: slipring::pool::RoleHandle,
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
        pending: slipring::pool::PoolPending,
    ) -> Self {
        let role = role.clone();
        Self { role, id: pending.id(), waiting: Waiting::new(pending) }
    }
}

#[pymethods]
impl PoolPending {
    #[getter]
    fn request(&self) -> u64 {
        self.id.get()
    }

    pub(crate) fn wait(&self, py: Python<'_>) -> PyResult<Reply> {
        Ok(Reply::new(self.waiting.wait(py)?))
    }

    #[pyo3(signature = (*, timeout = Timeout::seconds(0)))]
    fn poll(&self, py: Python<'_>, timeout: Timeout) -> PyResult<Option<Reply>> {
        let found = self.waiting.wait_by(py, timeout.deadline())?;
        Ok(found.map(Reply::new))
    }

    /// Returns an operation that ends with the reply, and has the request from now on.
    fn start(&self, py: Python<'_>, completions: &Completions) -> PyResult<Operation> {
        let pending = self.waiting.take(py)?;
        Ok(Operation::start(completions, pending, Reply::new))
    }

    pub(crate) fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        self.role.cancel(self.id).map_err(|error| exception(py, &error))
    }

    fn __repr__(&self) -> String {
        format!("<PoolPending request {}>", self.id)
    }
}
