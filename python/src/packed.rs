//! A pickle and the buffers beside it, as one message or payload.
//!
//! The number of buffers, the length of the pickle and of each buffer, each as eight bytes; then the
//! pickle and the buffers.

use std::ops::Range;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyList;
use slipring::PeerBytes;

use crate::fresh::Fresh;
use crate::reply::Reply;
use crate::request::Request;
use crate::sending::Lent;

/// Marks the length of a buffer that was read-only. It becomes `bytes`, as in a pickle that has its
/// buffers inside; others become a `bytearray`.
const READ_ONLY: u64 = 1 << 63;

/// The most buffers that a pickle may have.
const MOST_BUFFERS: u64 = 1 << 20;

/// From this length on, a pickle is not copied.
const LENT: usize = 1 << 20;

const WORD: usize = size_of::<u64>();

/// Returns what lies before the pickle.
pub(crate) fn table(pickle: &[Lent], buffers: &[Lent]) -> Vec<u8> {
    let number = |len: usize| u64::try_from(len).unwrap_or(u64::MAX);
    let len = pickle.iter().map(Lent::len).sum();
    let mut table = Vec::with_capacity((buffers.len() + 2) * WORD);
    table.extend(number(buffers.len()).to_le_bytes());
    table.extend(number(len).to_le_bytes());
    for buffer in buffers {
        let mark = if buffer.is_read_only() { READ_ONLY } else { 0 };
        table.extend((number(buffer.len()) | mark).to_le_bytes());
    }
    table
}

/// Returns how long the lengths are that follow the number of buffers; `None` if there are too many.
pub(crate) fn lengths_len(buffers: u64) -> Option<usize> {
    let words = usize::try_from(buffers).ok()?.checked_add(1)?;
    (buffers <= MOST_BUFFERS).then_some(words * WORD)
}

/// Returns the length of the pickle and the marked lengths of the buffers. `None` if they do not add up
/// to what a message of `len` bytes has.
pub(crate) fn checked(lengths: &[u64], len: u64) -> Option<(usize, &[u64])> {
    let table = u64::try_from((lengths.len() + 1) * WORD).ok()?;
    let sum = lengths.iter().try_fold(table, |sum, len| sum.checked_add(len & !READ_ONLY))?;
    let (pickle, buffers) = lengths.split_first()?;
    if sum == len { Some((usize::try_from(*pickle).ok()?, buffers)) } else { None }
}

/// Makes the object that a buffer becomes.
pub(crate) fn buffer(py: Python<'_>, marked: u64) -> PyResult<Fresh> {
    let len = usize::try_from(marked & !READ_ONLY)?;
    if marked & READ_ONLY == 0 { Fresh::bytearray(py, len) } else { Fresh::bytes(py, len) }
}

/// Returns the payload that a pickle in several parts and its buffers are.
#[pyfunction]
pub(crate) fn pack(
    py: Python<'_>,
    pickle: Vec<Bound<'_, PyAny>>,
    buffers: Vec<Bound<'_, PyAny>>,
) -> PyResult<Py<PyAny>> {
    let lend =
        |objects: &[Bound<'_, PyAny>]| objects.iter().map(Lent::of).collect::<PyResult<Vec<_>>>();
    let (pickle, buffers) = (lend(&pickle)?, lend(&buffers)?);
    let table = table(&pickle, &buffers);
    let parts = pickle.iter().chain(&buffers).map(Lent::bytes);
    let parts: Vec<_> = std::iter::once(PeerBytes::of(&table)).chain(parts).collect();
    Fresh::bytes(py, parts.iter().map(PeerBytes::len).sum())?.fill(&parts)
}

/// Returns the pickle and the buffers of a payload. A long pickle of a reply is lent where it lies.
#[pyfunction]
pub(crate) fn unpack<'py>(
    py: Python<'py>,
    payload: &Bound<'py, PyAny>,
) -> PyResult<(Py<PyAny>, Bound<'py, PyList>)> {
    if let Ok(reply) = payload.cast::<Reply>() {
        let reply = reply.get();
        return parts_of(py, reply.payload(), |place, bytes| match place.len() {
            ..LENT => copy(py, bytes),
            LENT.. => Ok(Py::new(py, reply.lease(place))?.into_any()),
        });
    }
    let copy = |_, bytes: PeerBytes<'_>| copy(py, bytes);
    match payload.cast::<Request>() {
        Ok(request) => request.get().read(|payload| parts_of(py, payload, copy)),
        Err(_) => parts_of(py, Lent::of(payload)?.bytes(), copy),
    }
}

/// `pickled` makes the object of the pickle, which lies at this place of the payload.
fn parts_of<'py>(
    py: Python<'py>,
    payload: PeerBytes<'_>,
    pickled: impl FnOnce(Range<usize>, PeerBytes<'_>) -> PyResult<Py<PyAny>>,
) -> PyResult<(Py<PyAny>, Bound<'py, PyList>)> {
    let words = |offset: usize, len: usize| {
        let mut bytes = vec![0; len];
        payload.read_at(offset, &mut bytes).map_err(|_| garbled())?;
        let (words, _) = bytes.as_chunks::<WORD>();
        PyResult::Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect::<Vec<_>>())
    };
    let count = words(0, WORD)?.first().copied().unwrap_or_default();
    // No longer than the payload, which bounds what is asked for.
    let len = lengths_len(count).filter(|len| *len <= payload.len()).ok_or_else(garbled)?;
    let lengths = words(WORD, len)?;
    let total = u64::try_from(payload.len())?;
    let (pickle, marked) = checked(&lengths, total).ok_or_else(garbled)?;
    let start = WORD + len;
    let (bytes, mut rest) = payload.split_at(start).1.split_at(pickle);
    let pickle = pickled(start..start + pickle, bytes)?;
    let buffers = PyList::empty(py);
    for marked in marked {
        let object = buffer(py, *marked)?;
        let (bytes, behind) = rest.split_at(object.len());
        buffers.append(object.fill(&[bytes])?)?;
        rest = behind;
    }
    Ok((pickle, buffers))
}

fn copy(py: Python<'_>, bytes: PeerBytes<'_>) -> PyResult<Py<PyAny>> {
    Fresh::bytes(py, bytes.len())?.fill(&[bytes])
}

#[cold]
fn garbled() -> PyErr {
    PyValueError::new_err("the payload is not a pickle with its buffers")
}
