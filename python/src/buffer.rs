//! Memory of Python objects, by the buffer protocol.
#![allow(unsafe_code, reason = "reads and writes memory that belongs to Python objects")]

use std::slice;

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView};
use slipring::PeerBytes;
use slipring::payload::{ElementType, MatrixShape};

use crate::fresh::Fresh;

/// Bytes of a Python object, and the header of a matrix if the object is an array of numbers.
pub(crate) trait Memory {
    /// Returns the header; empty for bytes.
    fn header(&self) -> &[u8];
    /// Returns the bytes.
    fn bytes(&self) -> &[u8];
}

/// The memory of an object that Python code may be able to change. It does not while this value is
/// used: it cannot leave the thread, which is attached, and no code of Python's runs meanwhile.
pub(crate) struct LentBuffer<'py> {
    buffer: Exported,
    _attached: Python<'py>,
}

/// The memory of an object that lends it read-only. It may be used by a thread that is not attached.
pub(crate) struct FrozenBuffer(Exported);

struct Exported {
    buffer: PyUntypedBuffer,
    header: Option<[u8; MatrixShape::HEADER_LEN]>,
}

/// Returns the buffer of an object.
pub(crate) fn lend(object: &Bound<'_, PyAny>) -> PyResult<PyUntypedBuffer> {
    // Some exporters leave the strides out, as those of `ctypes`. A view of them has strides.
    PyUntypedBuffer::get(object).or_else(|error| match PyMemoryView::from(object) {
        Ok(view) => PyUntypedBuffer::get(view.as_any()),
        Err(_) => Err(error),
    })
}

impl<'py> LentBuffer<'py> {
    /// Returns the buffer of an object. An object of one dimension whose items are bytes is bytes, and
    /// an array of one or two dimensions is a matrix. Items that do not lie row by row are copied.
    pub(crate) fn of(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let (buffer, is_bfloat16) = match lend(object) {
            Ok(buffer) => (buffer, false),
            Err(error) => match bits_of_bfloat16(object) {
                Ok(Some(bits)) => (bits, true),
                _ => return Err(explained(object, error)),
            },
        };
        let header = match (buffer.format().to_bytes(), buffer.shape()) {
            (b"B" | b"b" | b"c" | b"<B" | b"<b" | b"<c", [_]) => None,
            (format, shape) => {
                let (rows, cols) = rows_and_cols(shape)?;
                let element = if is_bfloat16 { ElementType::BF16 } else { element_of(format)? };
                let shape = MatrixShape::new(rows, cols, element);
                let shape = shape.map_err(|error| PyTypeError::new_err(error.to_string()))?;
                Some(shape.to_header())
            }
        };
        let buffer = if buffer.is_c_contiguous() { buffer } else { packed(object, is_bfloat16)? };
        Ok(Self { buffer: Exported { buffer, header }, _attached: object.py() })
    }

    /// Returns the memory for a thread that is not attached, or a copy if Python code can change it.
    pub(crate) fn freeze(self) -> Result<FrozenBuffer, Vec<u8>> {
        match self.buffer.buffer.readonly() {
            true => Ok(FrozenBuffer(self.buffer)),
            false => Err([self.header(), self.bytes()].concat()),
        }
    }
}

impl Memory for LentBuffer<'_> {
    fn header(&self) -> &[u8] {
        self.buffer.header()
    }

    fn bytes(&self) -> &[u8] {
        let Some((pointer, len)) = self.buffer.bytes() else { return &[] };
        // SAFETY: the exporter promises so many contiguous bytes at the pointer until the buffer is
        // released, which the borrow of `self` outlives. Nothing writes to them meanwhile, as the
        // type's documentation says.
        unsafe { slice::from_raw_parts(pointer, len) }
    }
}

impl Memory for FrozenBuffer {
    fn header(&self) -> &[u8] {
        self.0.header()
    }

    fn bytes(&self) -> &[u8] {
        let Some((pointer, len)) = self.0.bytes() else { return &[] };
        // SAFETY: the exporter promises so many contiguous bytes at the pointer until the buffer is
        // released, which the borrow of `self` outlives. It lends them read-only: they are those of
        // `bytes`, which never change, or the documentation says that they must not change.
        unsafe { slice::from_raw_parts(pointer, len) }
    }
}

impl Exported {
    fn header(&self) -> &[u8] {
        self.header.as_ref().map_or(&[], |header| header)
    }

    /// Returns where the bytes lie and how many there are; `None` if there are none.
    fn bytes(&self) -> Option<(*const u8, usize)> {
        let len = self.buffer.len_bytes();
        (len > 0).then(|| (self.buffer.buf_ptr().cast_const().cast(), len))
    }
}

/// Returns a copy of the bytes.
pub(crate) fn bytes<'py>(py: Python<'py>, payload: PeerBytes<'_>) -> PyResult<Bound<'py, PyBytes>> {
    let copy = Fresh::bytes(py, payload.len())?.fill(&[payload])?;
    Ok(copy.into_bound(py).cast_into()?)
}

/// Returns a copy of the bytes that Python code can change.
pub(crate) fn bytearray<'py>(
    py: Python<'py>,
    payload: PeerBytes<'_>,
) -> PyResult<Bound<'py, PyByteArray>> {
    let copy = Fresh::bytearray(py, payload.len())?.fill(&[payload])?;
    Ok(copy.into_bound(py).cast_into()?)
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

/// Returns the buffer of an array of bfloat16 as integers of 16 bits: numpy lends no buffer of a type
/// that is not its own. `None` if the object is no such array.
fn bits_of_bfloat16(object: &Bound<'_, PyAny>) -> PyResult<Option<PyUntypedBuffer>> {
    let is_bfloat16 = object
        .getattr("dtype")
        .and_then(|dtype| dtype.getattr("name"))
        .and_then(|name| name.eq("bfloat16"))
        .unwrap_or(false);
    if !is_bfloat16 {
        return Ok(None);
    }
    PyUntypedBuffer::get(&object.call_method1("view", ("uint16",))?).map(Some)
}

/// Returns the buffer of a copy whose items lie row by row.
fn packed(object: &Bound<'_, PyAny>, is_bfloat16: bool) -> PyResult<PyUntypedBuffer> {
    let copy = if is_bfloat16 {
        object.call_method0("tobytes")?
    } else {
        PyMemoryView::from(object)?.call_method0("tobytes")?
    };
    PyUntypedBuffer::get(&copy)
}

/// Returns the rows and columns of the matrix that an array of this shape is.
fn rows_and_cols(shape: &[usize]) -> PyResult<(usize, usize)> {
    match shape {
        [cols] => Ok((1, *cols)),
        [rows, cols] => Ok((*rows, *cols)),
        _ => {
            let dimensions = match shape.len() {
                0 => "no".to_owned(),
                dimensions => dimensions.to_string(),
            };
            let message = format!(
                "an array of {dimensions} dimensions: it must have two, or one, which makes a row: \
                 use reshape"
            );
            Err(PyTypeError::new_err(message))
        }
    }
}

/// Returns why an object that lends no memory is no payload.
#[cold]
fn explained(object: &Bound<'_, PyAny>, error: PyErr) -> PyErr {
    let dimensions = PyMemoryView::from(object).and_then(|view| view.getattr("ndim"));
    let dimensions = dimensions.or_else(|_| object.getattr("ndim"));
    if dimensions.and_then(|dimensions| dimensions.extract()).is_ok_and(|none: usize| none == 0) {
        return rows_and_cols(&[]).err().unwrap_or(error);
    }
    let name = object.getattr("dtype").and_then(|dtype| dtype.getattr("name"));
    match name {
        Ok(name) => PyTypeError::new_err(format!("an array of {name}: {TYPES}: use astype")),
        Err(_) => error,
    }
}

const TYPES: &str = "it must be float32, float16, bfloat16, int8 or uint8";

fn element_of(format: &[u8]) -> PyResult<ElementType> {
    Ok(match format {
        b"f" | b"<f" | b"=f" => ElementType::F32,
        b"e" | b"<e" | b"=e" => ElementType::F16,
        b"b" | b"<b" => ElementType::I8,
        b"B" | b"<B" => ElementType::U8,
        other => {
            let why = match other {
                b">f" | b">e" => "its bytes are in the order of other machines",
                _ => TYPES,
            };
            return Err(PyTypeError::new_err(format!(
                "an array of the format '{}': {why}: use astype",
                String::from_utf8_lossy(other)
            )));
        }
    })
}

/// Returns how many bytes an object lends that can be written to.
pub(crate) fn writable_len(object: &Bound<'_, PyAny>) -> PyResult<usize> {
    let buffer = lend(object)?;
    if buffer.readonly() || !buffer.is_c_contiguous() {
        return Err(PyTypeError::new_err(
            "the object has no contiguous memory that can be written to",
        ));
    }
    Ok(buffer.len_bytes())
}

/// Copies bytes into the memory of an object, from `offset` on.
pub(crate) fn copy_into(object: &Bound<'_, PyAny>, offset: usize, bytes: &[u8]) -> PyResult<()> {
    let len = writable_len(object)?;
    let buffer = lend(object)?;
    if bytes.is_empty() || buffer.len_bytes() != len || len.saturating_sub(offset) < bytes.len() {
        return Ok(());
    }
    let start: *mut u8 = buffer.buf_ptr().cast();
    // SAFETY: the exporter lends `len` writable bytes from `start` on until the buffer is released,
    // below, and the offset lies among them, as just checked.
    let target = unsafe { start.byte_add(offset) };
    // SAFETY: so many bytes fit, as just checked. The source is a `bytes` object, which lends no
    // memory that can be written to, so that the two do not overlap. This thread is attached, so that
    // no code of Python's runs meanwhile.
    unsafe { target.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    Ok(())
}
