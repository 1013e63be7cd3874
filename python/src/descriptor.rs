//! Descriptors that Python names by their numbers.
#![allow(unsafe_code, reason = "copies descriptors that Python has")]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use pyo3::Python;

/// Returns a copy of a descriptor that Python code has, which is closed on exec.
///
/// # Errors
///
/// If there is no such descriptor.
pub(crate) fn copy(_attached: Python<'_>, number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(io::Error::other(format!("{number} is no descriptor")));
    }
    // SAFETY: the number is not -1. Python code has named it as a descriptor of its own, and does not
    // run meanwhile, as this thread is attached. If it was closed before, the copy fails, or is one of
    // what has the number now: as it would be for `os.dup`, whatever it is, it is not closed here.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    descriptor.try_clone_to_owned()
}
