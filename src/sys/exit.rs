//! What a process does before it ends by itself.
#![allow(unsafe_code, reason = "atexit")]

/// Has `run` called when the process exits: when `main` has returned, or something calls `exit`, in whatever
/// language. Not when a signal or `_exit` ends it. Forked children call it, too. Does nothing if the C
/// library has no memory for that.
pub(crate) fn at_exit(run: extern "C" fn()) {
    // SAFETY: the function lives as long as the code that it is part of. The C library calls it before it
    // unloads that code, and not again.
    let _ = unsafe { libc::atexit(run) };
}
