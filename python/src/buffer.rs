//! Memory of Python objects, by the buffer protocol.
#![allow(unsafe_code, reason = "reads and writes memory that belongs to Python objects")]

use std::slice;

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::prelude::*;
use slipring::payload::{ElementType, MatrixShape};

/// The bytes of an object, and the header of a matrix if the object is an array of numbers.
pub(crate) struct Buffer {
    buffer: PyUntypedBuffer,
    header: Option<[u8; MatrixShape::HEADER_LEN]>,
}

impl Buffer {
    /// Returns the buffer of an object. An object of one dimension whose items are bytes is bytes,
    /// and an array of two dimensions is a matrix.
    pub(crate) fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let buffer = PyUntypedBuffer::get(object)?;
        if !buffer.is_c_contiguous() {
            let message = "the array is not contiguous: use numpy.ascontiguousarray";
            return Err(PyBufferError::new_err(message));
        }
        let header = match (buffer.format().to_bytes(), buffer.shape()) {
            (b"B" | b"b" | b"c", [_]) => None,
            (format, [rows, cols]) => {
                let element = element_of(format)?;
                let shape = MatrixShape::new(*rows, *cols, element);
                let shape = shape.map_err(|error| PyTypeError::new_err(error.to_string()))?;
                Some(shape.to_header())
            }
            (format, shape) => {
                return Err(PyTypeError::new_err(format!(
                    "an array of {} dimensions with items of the format '{}': bytes have one \
                     dimension, and arrays of numbers two",
                    shape.len(),
                    String::from_utf8_lossy(format)
                )));
            }
        };
        Ok(Self { buffer, header })
    }

    pub(crate) fn header(&self) -> &[u8] {
        self.header.as_ref().map_or(&[], |header| header)
    }

    /// Returns whether Python code can change the bytes.
    pub(crate) fn is_mutable(&self) -> bool {
        !self.buffer.readonly()
    }

    pub(crate) fn len(&self) -> usize {
        self.buffer.len_bytes()
    }

    /// Returns the bytes. Of a buffer that is mutable, only while this thread is attached: see
    /// `outgoing.rs`, the only caller.
    pub(crate) fn bytes(&self) -> &[u8] {
        if self.len() == 0 {
            return &[];
        }
        // SAFETY: the exporter promises `len_bytes` contiguous bytes at the pointer until the
        // buffer is released, which the borrow of `self` outlives. Nothing writes to them
        // meanwhile: they are read-only, or this thread keeps other Python code from running.
        unsafe { slice::from_raw_parts(self.buffer.buf_ptr().cast(), self.len()) }
    }
}

/// Fills a new array, which nothing else knows yet.
pub(crate) fn fill(
    array: &Bound<'_, PyAny>,
    write: impl FnOnce(&mut [u8]) -> slipring::Result<()>,
) -> PyResult<()> {
    let buffer = PyUntypedBuffer::get(array)?;
    if buffer.readonly() || !buffer.is_c_contiguous() {
        return Err(PyBufferError::new_err("numpy.empty made an array that cannot be filled"));
    }
    if buffer.len_bytes() == 0 {
        return Ok(());
    }
    let pointer = buffer.buf_ptr().cast();
    // SAFETY: the exporter promises that so many writable bytes lie there until the buffer is
    // released, below. The array was just made, and this thread is attached, so that no other
    // reference to its bytes is used. Numbers of any bytes are valid.
    let bytes = unsafe { slice::from_raw_parts_mut(pointer, buffer.len_bytes()) };
    write(bytes).map_err(|error| crate::error::exception(array.py(), &error))
}

fn element_of(format: &[u8]) -> PyResult<ElementType> {
    Ok(match format {
        b"f" | b"<f" | b"=f" => ElementType::F32,
        b"e" | b"<e" | b"=e" => ElementType::F16,
        b"b" => ElementType::I8,
        b"B" => ElementType::U8,
        other => {
            return Err(PyTypeError::new_err(format!(
                "an array of the format '{}': it must be float32, float16, int8 or uint8",
                String::from_utf8_lossy(other)
            )));
        }
    })
}
