//! Two things a worker does to itself: taking its standard input away, and ending at once.
#![allow(unsafe_code, reason = "dup2 and _exit are C functions")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::error::{Error, Result};
use crate::sys::descriptor::open_above_stdio;

/// Takes what is standard input, and leaves `/dev/null` in its place: neither the
/// handlers nor what they start can read from the bootstrap socket.
pub(crate) fn take_stdin() -> Result<OwnedFd> {
    let failed = |e| Error::os("cannot take standard input", e);
    let taken = io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
    let null = open_above_stdio(File::options().read(true), "/dev/null").map_err(failed)?;
    // SAFETY: both descriptors are open; 0 is replaced, and nobody owns it in Rust's sense.
    if unsafe { libc::dup2(null.as_raw_fd(), 0) } < 0 {
        return Err(Error::last_os("cannot replace standard input"));
    }
    Ok(taken)
}

/// Ends the process without running anything more of it: its other threads may be in
/// the middle of native code that does not expect destructors to run.
pub(crate) fn exit_at_once(code: i32) -> ! {
    // SAFETY: takes a number and does not return.
    unsafe { libc::_exit(code) }
}
