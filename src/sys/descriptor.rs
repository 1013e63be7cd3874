//! Descriptors with higher numbers than the standard streams.
//!
//! The kernel gives a new descriptor the lowest number that is free. In a process whose standard
//! input, output or error is closed, that is 0, 1 or 2, and what the process prints would then go
//! into the library's sockets and regions. So the library holds these numbers, if they are free,
//! while it makes a descriptor.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;

/// How often a descriptor is made again because a number was freed in the same moment.
const ATTEMPTS: usize = 100;

/// Makes descriptors whose numbers are 3 or higher. `make` may be called several times.
///
/// # Errors
///
/// The errors of `make`; another one if other threads close standard streams all the time.
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

/// Makes one descriptor as [`above_stdio`] does.
pub(crate) fn one_above_stdio<F: AsFd>(mut make: impl FnMut() -> io::Result<F>) -> io::Result<F> {
    let [made] = above_stdio(|| Ok([make()?]))?;
    Ok(made)
}

/// Opens a file as [`above_stdio`] does.
pub(crate) fn open_above_stdio(
    options: &OpenOptions,
    path: impl AsRef<std::path::Path>,
) -> io::Result<File> {
    one_above_stdio(|| options.open(path.as_ref()))
}

/// Occupies the numbers 0, 1 and 2, if they are free, until the result is dropped. A number that
/// another thread frees meanwhile stays free.
pub(crate) fn hold_free_stdio() -> HeldStdio {
    let mut held = Vec::new();
    // Reading and writing through an O_PATH descriptor fails exactly as through a closed one.
    let place = || File::options().read(true).custom_flags(libc::O_PATH).open("/");
    while let Ok(place) = place()
        && place.as_raw_fd() <= libc::STDERR_FILENO
    {
        held.push(place);
    }
    HeldStdio(held)
}

/// The numbers that [`hold_free_stdio`] occupies.
#[derive(Debug)]
#[must_use = "dropping it frees the numbers"]
pub(crate) struct HeldStdio(Vec<File>);

impl Drop for HeldStdio {
    fn drop(&mut self) {
        for place in self.0.drain(..) {
            // If the host has put a stream of its own in this place, that must stay open.
            if !place.metadata().is_ok_and(|found| found.is_dir()) {
                mem::forget(place);
            }
        }
    }
}
