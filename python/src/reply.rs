//! A reply, or a chunk of a stream.

use std::ops::Range;
use std::sync::Arc;

use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyList, PyString};
use slipring::PeerBytes;

use crate::buffer;
use crate::incoming;
use crate::lease::Lease;

/// A reply, or a chunk of a stream.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct Reply {
    reply: Arc<slipring::Reply>,
}

impl Reply {
    /// Python keeps results, for any time. A reply that held its slot meanwhile would stop the worker.
    pub(crate) fn new(reply: slipring::Reply) -> Self {
        Self { reply: Arc::new(reply.keep()) }
    }

    /// Returns bytes of the payload, without a copy, as an object that lends them.
    pub(crate) fn lease(&self, range: Range<usize>) -> Lease {
        Lease::new(&self.reply, range)
    }

    pub(crate) fn payload(&self) -> PeerBytes<'_> {
        self.reply.payload()
    }
}

#[pymethods]
impl Reply {
    #[getter]
    fn request(&self) -> u64 {
        self.reply.request().get()
    }

    fn __len__(&self) -> usize {
        self.reply.len()
    }

    fn __bytes__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        buffer::bytes(py, self.payload())
    }

    fn bytearray<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyByteArray>> {
        buffer::bytearray(py, self.payload())
    }

    fn text<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyString>> {
        incoming::text(py, self.payload())
    }

    fn texts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        incoming::texts(py, self.payload())
    }

    fn array<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        incoming::array(py, self.payload())
    }

    fn view<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let shape = incoming::shape(py, self.payload())?;
        let lease = self.lease(shape.data_range());
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
        format!("<Reply to request {}: {} bytes>", self.request(), self.reply.len())
    }
}

/// The first processor, as DLPack numbers devices.
const CPU: (i32, i32) = (1, 0);
