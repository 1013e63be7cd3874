//! A request whose reply is awaited later.

use std::time::Duration;

use pyo3::prelude::*;

use crate::convert::Timeout;
use crate::reply::Reply;
use crate::shared::SharedChannel;
use crate::waiting::{WaitFor, Waiting};

/// A request whose reply is awaited later. If it is forgotten, the request is cancelled.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct Pending {
    channel: SharedChannel,
    id: slipring::RequestId,
    waiting: Waiting<slipring::Pending>,
}

impl WaitFor for slipring::Pending {
    fn wait_for(&mut self, longest: Duration) -> slipring::Result<Option<slipring::Reply>> {
        self.wait_timeout(longest)
    }
}

impl Pending {
    pub(crate) fn new(channel: &SharedChannel, pending: slipring::Pending) -> Self {
        let channel = channel.clone();
        Self { channel, id: pending.id(), waiting: Waiting::new(pending) }
    }
}

#[pymethods]
impl Pending {
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

    fn cancel(&self) {
        self.channel.cancel(self.id);
    }

    fn __repr__(&self) -> String {
        format!("<Pending request {}>", self.id)
    }
}
