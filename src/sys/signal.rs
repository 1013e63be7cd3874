//! Signal sets and the calling thread's signal mask.
#![allow(unsafe_code, reason = "system calls")]

use std::io;
use std::mem::MaybeUninit;

/// Whether this process has left a signal to its default action.
pub(crate) fn has_default_action(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: `action` has room for what the call writes, and nothing is set.
    unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: written by the call, and else zeros, which are a valid value.
    unsafe { action.assume_init() }.sa_sigaction == libc::SIG_DFL
}

/// A set of signals.
pub(crate) struct SignalSet(libc::sigset_t);

impl SignalSet {
    pub(crate) fn empty() -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: `set` has room for the set that the call writes.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: sigemptyset has written it; with a valid pointer it cannot fail.
        Self(unsafe { set.assume_init() })
    }

    /// All signals except those that the C library keeps for itself.
    pub(crate) fn full() -> Self {
        let mut set = Self::empty();
        // SAFETY: the set is initialised.
        unsafe { libc::sigfillset(&raw mut set.0) };
        set
    }

    pub(crate) fn remove(&mut self, signal: i32) {
        // SAFETY: the set is initialised; an impossible number is refused, not written.
        unsafe { libc::sigdelset(&raw mut self.0, signal) };
    }

    pub(crate) fn as_ptr(&self) -> *const libc::sigset_t {
        &raw const self.0
    }

    /// Makes this the calling thread's mask and returns the one before.
    pub(crate) fn set_as_mask(&self) -> io::Result<Self> {
        let mut before = Self::empty();
        let (how, set) = (libc::SIG_SETMASK, self.as_ptr());
        // SAFETY: both sets are live and initialised, and the second is written only.
        let error = unsafe { libc::pthread_sigmask(how, set, &raw mut before.0) };
        if error == 0 { Ok(before) } else { Err(io::Error::from_raw_os_error(error)) }
    }
}
