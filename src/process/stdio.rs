//! Two actions of a worker on its own process: it replaces its standard input, and it exits
//! without cleaning up.
#![allow(unsafe_code, reason = "dup2 and _exit are C functions")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::error::{Error, Result};
use crate::sys::check;
use crate::sys::descriptor::open_above_stdio;

/// Returns the file that is standard input, and puts `/dev/null` in its place, so that neither
/// the handlers nor the programs that they start read from the bootstrap socket.
pub(crate) fn take_stdin() -> Result<OwnedFd> {
    let failed = |e| Error::os("cannot take standard input", e);
    let taken = io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
    let null = open_above_stdio(File::options().read(true), "/dev/null").map_err(failed)?;
    // SAFETY: both descriptors are open; 0 is replaced, and nothing in Rust owns it.
    check(unsafe { libc::dup2(null.as_raw_fd(), 0) })
        .map_err(|e| Error::os("cannot replace standard input", e))?;
    Ok(taken)
}

/// Exits without running destructors or exit handlers: other threads may execute native code
/// that does not expect them to run.
pub(crate) fn exit_at_once(code: i32) -> ! {
    // SAFETY: takes a number and does not return.
    unsafe { libc::_exit(code) }
}
