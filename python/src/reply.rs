//! A reply, or a chunk of a stream.

use std::sync::Arc;

use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyList, PyString};
use slipring::PeerBytes;

use crate::buffer;
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
        self.read(py, |payload| buffer::bytes(py, payload))
    }

    fn bytearray<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyByteArray>> {
        self.read(py, |payload| buffer::bytearray(py, payload))
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

    /// The matrix for a library that takes DLPack: a copy, unless it asks for none and knows arrays
    /// that must not be written. To write to a view of the ring would end the process.
    #[pyo3(signature = (*, stream = None, max_version = None, dl_device = None, copy = None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if stream.is_some() || dl_device.is_some_and(|device| device != CPU) {
            return Err(PyBufferError::new_err("a reply lies in the memory of the processor"));
        }
        let options = PyDict::new(py);
        let array = match (copy, max_version) {
            (Some(false), Some(version @ (1.., _))) => {
                options.set_item("max_version", version)?;
                self.view(py)?
            }
            (Some(false), _) => {
                let message =
                    "a reply without a copy is read-only, which needs version 1 of DLPack";
                return Err(PyBufferError::new_err(message));
            }
            _ => self.array(py)?,
        };
        array.call_method("__dlpack__", (), Some(&options))
    }

    fn __dlpack_device__(&self) -> (i32, i32) {
        CPU
    }

    fn __repr__(&self) -> String {
        format!("<Reply to request {}: {} bytes>", self.request, self.len)
    }
}

/// The first processor, as DLPack numbers devices.
const CPU: (i32, i32) = (1, 0);
const GONE: &str = "another thread copies the reply";
