//! New objects of Python's that are filled here, before any other code knows them.
#![allow(unsafe_code, reason = "fills the memory of new objects")]

use std::ffi::c_char;
use std::mem::MaybeUninit;
use std::ptr::{NonNull, null};
use std::slice;

use pyo3::exceptions::PyMemoryError;
use pyo3::ffi;
use pyo3::prelude::*;
use slipring::PeerBytes;

/// From this length on, memory that comes new from the kernel is asked for in pages of 2 MiB. The page
/// faults of 64 MiB in pages of 4 KiB take two to three times as long as to copy them.
const HUGE: usize = 4 << 20;

/// A new `bytes` or `bytearray`, which is being filled. It may be filled by a thread that is not
/// attached.
pub(crate) struct Fresh {
    object: Py<PyAny>,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory belongs to the object, which this value owns and nothing else knows.
unsafe impl Send for Fresh {}

impl Fresh {
    pub(crate) fn bytes(py: Python<'_>, len: usize) -> PyResult<Self> {
        Self::new(py, len, ffi::PyBytes_FromStringAndSize, ffi::PyBytes_AsString)
    }

    pub(crate) fn bytearray(py: Python<'_>, len: usize) -> PyResult<Self> {
        Self::new(py, len, ffi::PyByteArray_FromStringAndSize, ffi::PyByteArray_AsString)
    }

    /// `start_of` returns where the bytes of an object lie that `make` has made.
    fn new(
        py: Python<'_>,
        len: usize,
        make: unsafe extern "C" fn(*const c_char, ffi::Py_ssize_t) -> *mut ffi::PyObject,
        start_of: unsafe extern "C" fn(*mut ffi::PyObject) -> *mut c_char,
    ) -> PyResult<Self> {
        let size = ffi::Py_ssize_t::try_from(len).map_err(|_| no_memory())?;
        // SAFETY: with no source, the call makes an object whose bytes are not initialized. This thread
        // is attached.
        let made = unsafe { make(null(), size) };
        // SAFETY: a new reference, or null with an exception that is set.
        let object = unsafe { Bound::from_owned_ptr_or_err(py, made) }?;
        // SAFETY: the object is one of the type that both functions are for.
        let start = unsafe { start_of(object.as_ptr()) };
        let start = NonNull::new(start.cast()).ok_or_else(no_memory)?;
        let mut fresh = Self { object: object.unbind(), start, len };
        if len >= HUGE {
            fresh.ask_for_huge_pages();
        }
        Ok(fresh)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The bytes from `filled` on.
    pub(crate) fn rest(&mut self, filled: usize) -> &mut [MaybeUninit<u8>] {
        let filled = filled.min(self.len);
        // SAFETY: at most at the end of the object's bytes.
        let start = unsafe { self.start.byte_add(filled) };
        // SAFETY: so many bytes are left of the object, whose bytes are reached only through this value:
        // nothing else knows the object. Empty objects may be shared, and then there are no bytes.
        unsafe { slice::from_raw_parts_mut(start.cast().as_ptr(), self.len - filled) }
    }

    /// Fills all of it with these bytes, one part behind the other, which others may write to meanwhile.
    pub(crate) fn fill(mut self, parts: &[PeerBytes<'_>]) -> PyResult<Py<PyAny>> {
        let mut filled = 0;
        for part in parts {
            let out = self.rest(filled);
            let (target, len) = (out.as_mut_ptr(), part.len());
            if out.len() < len {
                return Err(no_memory());
            }
            // SAFETY: so many bytes lie at the source for as long as the part is borrowed, and at the
            // target, as just checked. The two do not overlap, as nothing else knows the target. Each
            // byte is read once, by the C library's copy, so that the object has some value of each,
            // also if another process writes meanwhile.
            unsafe { libc::memcpy(target.cast(), part.as_ptr().cast(), len) };
            filled += len;
        }
        if filled == self.len { Ok(self.object) } else { Err(no_memory()) }
    }

    /// Returns the object. What was not filled of it has any value.
    pub(crate) fn into_object(self) -> Py<PyAny> {
        self.object
    }

    fn ask_for_huge_pages(&mut self) {
        const PAGE: usize = 4096;
        let bytes = self.rest(0);
        let skipped = bytes.as_ptr().align_offset(PAGE).min(bytes.len());
        let (_, bytes) = bytes.split_at_mut(skipped);
        let len = bytes.len() - bytes.len() % PAGE;
        // SAFETY: the advice changes no byte and takes no page away. It is for whole pages inside of the
        // object. If the kernel refuses it, nothing is lost but time.
        let _ = unsafe { libc::madvise(bytes.as_mut_ptr().cast(), len, libc::MADV_HUGEPAGE) };
    }
}

#[cold]
fn no_memory() -> PyErr {
    PyMemoryError::new_err("there is no object of this length")
}
