//! Python objects as payloads of the library.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyList, PyString, PyTuple};
use slipring::Payload;
use slipring::payload::TextBatch;

use crate::buffer::{FrozenBuffer, LentBuffer, Memory};

/// A payload that is made of a Python object.
pub(crate) enum Outgoing<M> {
    Empty,
    Text(PyBackedStr),
    Texts(Vec<PyBackedStr>),
    Memory(M),
    /// A copy of memory that Python code can change.
    Copy(Vec<u8>),
}

/// A payload that a thread uses while it is attached.
pub(crate) type Lent<'py> = Outgoing<LentBuffer<'py>>;

/// `None` is empty, a `str` its UTF-8, a list of them a batch of texts, an array a matrix, and any other
/// buffer its bytes.
impl<'py> FromPyObject<'_, 'py> for Lent<'py> {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if object.is_none() {
            return Ok(Self::Empty);
        }
        if object.is_instance_of::<PyString>() {
            return Ok(Self::Text(object.extract()?));
        }
        let made = if object.is_instance_of::<PyList>() || object.is_instance_of::<PyTuple>() {
            object.extract().map(Self::Texts)
        } else {
            LentBuffer::of(&object).map(Self::Memory)
        };
        made.map_err(|error| {
            let class = object.get_type().name().map(|name| name.to_string()).unwrap_or_default();
            let why = error.value(object.py());
            PyTypeError::new_err(format!(
                "a payload is bytes, a str, a list of str, or an array, not {class}: {why}"
            ))
        })
    }
}

impl Lent<'_> {
    /// Returns the payload for a thread that is not attached.
    pub(crate) fn detached(self) -> Outgoing<FrozenBuffer> {
        match self {
            Self::Empty => Outgoing::Empty,
            Self::Text(text) => Outgoing::Text(text),
            Self::Texts(texts) => Outgoing::Texts(texts),
            Self::Memory(memory) => memory.freeze().map_or_else(Outgoing::Copy, Outgoing::Memory),
            Self::Copy(bytes) => Outgoing::Copy(bytes),
        }
    }
}

impl<M: Memory> Payload for Outgoing<M> {
    fn encoded_len(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::Text(text) => text.len(),
            // The error comes from `encode`.
            Self::Texts(texts) => TextBatch::new(texts).map_or(0, |batch| batch.encoded_len()),
            Self::Memory(memory) => memory.header().len() + memory.bytes().len(),
            Self::Copy(bytes) => bytes.len(),
        }
    }

    fn encode(&self, out: &mut [u8]) -> slipring::Result<()> {
        match self {
            Self::Empty => ().encode(out),
            Self::Text(text) => text.as_bytes().encode(out),
            Self::Texts(texts) => TextBatch::new(texts)?.encode(out),
            Self::Memory(memory) => {
                let Some((header, data)) = out.split_at_mut_checked(memory.header().len()) else {
                    return Err(slipring::Error::invalid_payload("no room for the header"));
                };
                memory.header().encode(header)?;
                memory.bytes().encode(data)
            }
            Self::Copy(bytes) => bytes.as_slice().encode(out),
        }
    }

    fn as_parts(&self) -> Option<[&[u8]; 3]> {
        match self {
            Self::Empty => Some([&[]; 3]),
            Self::Text(text) => Some([text.as_bytes(), &[], &[]]),
            Self::Texts(_) => None,
            Self::Memory(memory) => Some([memory.header(), memory.bytes(), &[]]),
            Self::Copy(bytes) => Some([bytes, &[], &[]]),
        }
    }
}
