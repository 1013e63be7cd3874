//! Descriptors that stand above the standard streams.
//!
//! The kernel gives out the lowest number that is free. In a process whose standard input,
//! output or error is closed, that is 0, 1 or 2: what the process prints would then go into
//! the library's sockets and regions. So the free ones of these numbers are held while a
//! descriptor is made.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;

/// How often a descriptor is made anew because a number was freed in the same moment.
const ATTEMPTS: usize = 100;

/// Makes descriptors whose numbers are 3 or higher; `make` may be called several times.
///
/// # Errors
///
/// Those of `make`; another one if standard streams are closed by other threads all the time.
pub(crate) fn above_stdio<F: AsFd, const N: usize>(
    mut make: impl FnMut() -> io::Result<[F; N]>,
) -> io::Result<[F; N]> {
    for _ in 0..ATTEMPTS {
        let _held = hold_free_stdio();
        let made = make()?;
        if made.iter().all(|fd| fd.as_fd().as_raw_fd() > libc::STDERR_FILENO) {
            return Ok(made);
        }
    }
    Err(io::Error::other("no descriptor above the standard streams, which are being closed"))
}

/// Opens a file as [`above_stdio`] does.
pub(crate) fn open_above_stdio(
    options: &OpenOptions,
    path: impl AsRef<std::path::Path>,
) -> io::Result<File> {
    let [file] = above_stdio(|| Ok([options.open(path.as_ref())?]))?;
    Ok(file)
}

/// Takes those of the numbers 0, 1 and 2 that are free, until it is dropped. Best effort: a
/// number that another thread frees meanwhile stays free.
pub(crate) fn hold_free_stdio() -> HeldStdio {
    let mut held = Vec::new();
    // Reading and writing through such a descriptor fails exactly as through a closed one.
    let place = || File::options().read(true).custom_flags(libc::O_PATH).open("/");
    while let Ok(place) = place()
        && place.as_raw_fd() <= libc::STDERR_FILENO
    {
        held.push(place);
    }
    HeldStdio(held)
}

/// See [`hold_free_stdio`].
#[derive(Debug)]
#[must_use = "dropping it frees the numbers"]
pub(crate) struct HeldStdio(Vec<File>);

impl Drop for HeldStdio {
    fn drop(&mut self) {
        for place in self.0.drain(..) {
            // The host may have put a stream of its own in this place: that is not closed.
            if !place.metadata().is_ok_and(|found| found.is_dir()) {
                mem::forget(place);
            }
        }
    }
}
