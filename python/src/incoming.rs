//! Payloads that came, as Python objects.

use pyo3::exceptions::{PyImportError, PyTypeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyString};
use slipring::PeerBytes;
use slipring::payload::{ElementType, MatrixShape, Texts};

use crate::buffer::fill;
use crate::error::exception;

/// Returns the payload as one text.
pub(crate) fn text<'py>(py: Python<'py>, payload: PeerBytes<'_>) -> PyResult<Bound<'py, PyString>> {
    Ok(PyString::new(py, &raised(py, payload.text())?))
}

/// Returns the batch of texts that the payload is.
pub(crate) fn texts<'py>(py: Python<'py>, payload: PeerBytes<'_>) -> PyResult<Bound<'py, PyList>> {
    let texts = raised(py, Texts::decode(&payload))?;
    PyList::new(py, texts.iter())
}

/// Returns the matrix that the payload is, as an array of its own.
pub(crate) fn array<'py>(py: Python<'py>, payload: PeerBytes<'_>) -> PyResult<Bound<'py, PyAny>> {
    static EMPTY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let shape = shape(py, payload)?;
    let empty = EMPTY.import(py, "numpy", "empty")?;
    let array = empty.call1(((shape.rows(), shape.cols()), dtype(py, shape.element())?))?;
    let read = |out: &mut [u8]| payload.read_at(shape.data_range().start, out);
    if shape.element() == ElementType::BF16 {
        // numpy lends no buffer of a type that is not its own.
        fill(&array.call_method1("view", ("uint16",))?, read)?;
    } else {
        fill(&array, read)?;
    }
    Ok(array)
}

/// Returns an array over the bytes of `lease`, which is the base of it.
pub(crate) fn view<'py>(
    py: Python<'py>,
    lease: Bound<'py, PyAny>,
    shape: MatrixShape,
) -> PyResult<Bound<'py, PyAny>> {
    static FROM_BUFFER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    if shape.data_len() == 0 {
        // numpy takes no empty buffer, and there is nothing to lease.
        let empty = py.import("numpy")?.getattr("empty")?;
        return empty.call1(((shape.rows(), shape.cols()), dtype(py, shape.element())?));
    }
    let from_buffer = FROM_BUFFER.import(py, "numpy", "frombuffer")?;
    let flat = from_buffer.call1((lease, dtype(py, shape.element())?))?;
    flat.call_method1("reshape", (shape.rows(), shape.cols()))
}

/// Returns the shape of the matrix that the payload is.
pub(crate) fn shape(py: Python<'_>, payload: PeerBytes<'_>) -> PyResult<MatrixShape> {
    raised(py, MatrixShape::decode(&payload))
}

/// Returns numpy's type of these elements. That of bfloat16 is of another package.
fn dtype(py: Python<'_>, element: ElementType) -> PyResult<Bound<'_, PyAny>> {
    static TYPES: [PyOnceLock<Py<PyAny>>; 5] = [const { PyOnceLock::new() }; 5];
    let (cell, package, name) = match element {
        ElementType::F32 => (&TYPES[0], "numpy", "float32"),
        ElementType::F16 => (&TYPES[1], "numpy", "float16"),
        ElementType::I8 => (&TYPES[2], "numpy", "int8"),
        ElementType::U8 => (&TYPES[3], "numpy", "uint8"),
        ElementType::BF16 => (&TYPES[4], "ml_dtypes", "bfloat16"),
        other => {
            let message = format!("numpy has no type for elements of the type {other}");
            return Err(PyTypeError::new_err(message));
        }
    };
    let made = cell.get_or_try_init(py, || {
        let module = py.import(package).map_err(|error| {
            let message = format!("an array of {name} needs the package {package}: {error}");
            PyImportError::new_err(message)
        })?;
        let dtype = py.import("numpy")?.getattr("dtype")?.call1((module.getattr(name)?,))?;
        PyResult::Ok(dtype.unbind())
    })?;
    Ok(made.bind(py).clone())
}

fn raised<T>(py: Python<'_>, result: slipring::Result<T>) -> PyResult<T> {
    result.map_err(|error| exception(py, &error))
}
