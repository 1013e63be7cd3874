//! Which interpreters may load the module.
#![allow(unsafe_code, reason = "asks CPython for the number of the interpreter")]

use pyo3::exceptions::PyImportError;
use pyo3::{PyResult, ffi};

/// Refuses interpreters other than the main one. Signal handlers run in the main one only, and the
/// objects of this module keep references to exceptions and to numpy, which belong to one
/// interpreter.
pub(crate) fn refuse_subinterpreters() -> PyResult<()> {
    // SAFETY: the caller is the initialisation of a module, which runs attached to an interpreter.
    let interpreter = unsafe { ffi::PyInterpreterState_Get() };
    // SAFETY: as above, so that the pointer is to the interpreter that this thread is attached to.
    match unsafe { ffi::PyInterpreterState_GetID(interpreter) } {
        0 => Ok(()),
        number => Err(PyImportError::new_err(format!(
            "slipring can be used in the main interpreter only, and this is subinterpreter {number}"
        ))),
    }
}
