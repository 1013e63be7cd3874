//! Python objects as payloads of the library.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyList, PyString, PyTuple};
use slipring::Payload;
use slipring::payload::TextBatch;

use crate::buffer::Buffer;

/// A payload that is made of a Python object.
pub(crate) enum Outgoing {
    Empty,
    Text(PyBackedStr),
    Texts(Vec<PyBackedStr>),
    /// Only to be encoded by an attached thread while it is mutable.
    Buffer(Buffer),
    /// A copy of a buffer that Python code can change.
    Copy(Vec<u8>),
}

impl Outgoing {
    /// Returns the payload that an object is: `None` is empty, a `str` its UTF-8, a list of them a
    /// batch of texts, an array of two dimensions a matrix, and any other buffer its bytes.
    pub(crate) fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        if object.is_none() {
            return Ok(Self::Empty);
        }
        if object.is_instance_of::<PyString>() {
            return Ok(Self::Text(object.extract()?));
        }
        if object.is_instance_of::<PyList>() || object.is_instance_of::<PyTuple>() {
            return Ok(Self::Texts(object.extract()?));
        }
        Buffer::of(object).map(Self::Buffer).map_err(|error| {
            let class = object.get_type().name().map(|name| name.to_string()).unwrap_or_default();
            let py = object.py();
            let message = format!(
                "a payload is bytes, a str, a list of str, or an array, not {class}: {}",
                error.value(py)
            );
            PyTypeError::new_err(message)
        })
    }

    /// Returns the payload as a thread may encode it that is not attached.
    pub(crate) fn detached(self) -> Self {
        match self {
            Self::Buffer(buffer) if buffer.is_mutable() => {
                Self::Copy([buffer.header(), buffer.bytes()].concat())
            }
            other => other,
        }
    }
}

impl Payload for Outgoing {
    fn encoded_len(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::Text(text) => text.len(),
            // The error comes from `encode`.
            Self::Texts(texts) => TextBatch::new(texts).map_or(0, |batch| batch.encoded_len()),
            Self::Buffer(buffer) => buffer.header().len() + buffer.len(),
            Self::Copy(bytes) => bytes.len(),
        }
    }

    fn encode(&self, out: &mut [u8]) -> slipring::Result<()> {
        match self {
            Self::Empty => ().encode(out),
            Self::Text(text) => text.as_bytes().encode(out),
            Self::Texts(texts) => TextBatch::new(texts)?.encode(out),
            Self::Buffer(buffer) => {
                let Some((header, data)) = out.split_at_mut_checked(buffer.header().len()) else {
                    return Err(slipring::Error::invalid_payload("no room for the header"));
                };
                buffer.header().encode(header)?;
                buffer.bytes().encode(data)
            }
            Self::Copy(bytes) => bytes[..].encode(out),
        }
    }

    fn as_parts(&self) -> Option<[&[u8]; 3]> {
        match self {
            Self::Empty => Some([&[]; 3]),
            Self::Text(text) => Some([text.as_bytes(), &[], &[]]),
            Self::Texts(_) => None,
            Self::Buffer(buffer) => Some([buffer.header(), buffer.bytes(), &[]]),
            Self::Copy(bytes) => Some([bytes, &[], &[]]),
        }
    }
}
