//! The system calls of the process layer, wrapped one by one into safe functions.
//!
//! They add no policy: no retry, no fallback. `EINTR` is reported to the caller
//! unless the text of a function says otherwise.

pub(crate) mod fd;
pub(crate) mod futex;
pub(crate) mod posix_spawn;
pub(crate) mod process;
pub(crate) mod signal;

use std::io;

/// Turns the `-1` of a call into the error that it left in `errno`.
fn check<T: Copy + PartialOrd + From<i8>>(result: T) -> io::Result<T> {
    if result < T::from(0) { Err(io::Error::last_os_error()) } else { Ok(result) }
}
