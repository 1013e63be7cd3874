//! A reply, or a chunk of a stream.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyList, PyString};
use slipring::PeerBytes;

use crate::error::misuse;
use crate::incoming;
use crate::kept::{KeptReplies, KeptReply};
use crate::lease::Lease;

/// A reply, or a chunk of a stream.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct Reply {
    kept: Arc<KeptReply>,
    len: usize,
    #[pyo3(get)]
    request: u64,
}

impl Reply {
    pub(crate) fn new(replies: &Arc<KeptReplies>, reply: slipring::Reply) -> Self {
        let (len, request) = (reply.len(), reply.request().get());
        Self { kept: replies.keep(reply), len, request }
    }

    fn read<T>(
        &self,
        py: Python<'_>,
        read: impl FnOnce(PeerBytes<'_>) -> PyResult<T>,
    ) -> PyResult<T> {
        let reply = self.kept.get().ok_or_else(|| misuse(py, GONE))?;
        read(reply.payload())
    }
}

#[pymethods]
impl Reply {
    fn __len__(&self) -> usize {
        self.len
    }

    fn __bytes__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.read(py, |payload| incoming::bytes(py, payload))
    }

    fn bytearray<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyByteArray>> {
        self.read(py, |payload| incoming::bytearray(py, payload))
    }

    fn text<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyString>> {
        self.read(py, |payload| incoming::text(py, payload))
    }

    fn texts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.read(py, |payload| incoming::texts(py, payload))
    }

    fn array<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.read(py, |payload| incoming::array(py, payload))
    }

    fn view<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let shape = self.read(py, |payload| incoming::shape(py, payload))?;
        let pinned = self.kept.pin().ok_or_else(|| misuse(py, GONE))?;
        let lease = Lease::new(pinned, shape.data_range());
        incoming::view(py, Bound::new(py, lease)?.into_any(), shape)
    }

    fn __repr__(&self) -> String {
        format!("<Reply to request {}: {} bytes>", self.request, self.len)
    }
}

const GONE: &str = "another thread copies the reply";
