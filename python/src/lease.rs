//! What a view of a reply holds on to.
#![allow(unsafe_code, reason = "lends bytes of a reply by the buffer protocol")]

use std::ffi::c_int;
use std::ops::Range;
use std::sync::Arc;

use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;
use pyo3::{PyResult, ffi};

/// Read-only bytes of a reply, where they lie. They stay there until the last array, slice or
/// memoryview over them is gone, whether they leave the ring meanwhile or not.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct Lease {
    reply: Arc<slipring::Reply>,
    range: Range<usize>,
}

impl Lease {
    /// Leases a range of the payload of a reply, which is one that may be kept.
    pub(crate) fn new(reply: &Arc<slipring::Reply>, range: Range<usize>) -> Self {
        Self { reply: Arc::clone(reply), range }
    }
}

#[pymethods]
impl Lease {
    fn __len__(&self) -> usize {
        self.range.len()
    }

    /// Lends the bytes.
    ///
    /// # Safety
    ///
    /// As CPython's `bf_getbuffer`: `view` is valid.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let Self { reply, range } = slf.get();
        let payload = reply.payload();
        let (true, Ok(len)) = (range.end <= payload.len(), range.len().try_into()) else {
            return Err(PyBufferError::new_err("the bytes are not inside the reply"));
        };
        let pointer = payload.as_ptr().wrapping_add(range.start);
        // SAFETY: the pointer is to `range.len()` bytes of a reply, which stay where they are as
        // long as the reply lives: `Reply::keep` says so. The filled view owns a reference to this object, which owns it. The
        // bytes are lent read-only, so that Python does not write to them; that the worker could is no
        // undefined behaviour for code outside of Rust, which reads them.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(view, slf.as_ptr(), pointer.cast_mut().cast(), len, 1, flags)
        };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}
