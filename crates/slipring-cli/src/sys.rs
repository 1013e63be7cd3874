//! System calls for which neither std nor a crate offers safe code: the state of the
//! descriptors before the runtime changes it, descriptors by their numbers, the signal mask,
//! and `close` with its result.
#![allow(unsafe_code, reason = "system calls, and code that runs before main")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// The descriptors whose state at the start is known are those below this number. Shells give
/// the numbers from 63 downwards to the pipes of `>(…)`.
pub(crate) const KNOWN: i32 = 64;

/// One bit for each known descriptor that was closed when the program started.
static CLOSED: AtomicU64 = AtomicU64::new(0);

/// Notes which descriptors are closed. The program itself uses their numbers later.
///
/// Rust's runtime opens `/dev/null` in their place before `main`, so that `>&-` would seem
/// to be `>/dev/null`, and all output would be lost without an error. Once the runtime has
/// started the two cannot be told apart. The access mode does not help: the runtime opens the
/// device for reading and writing, as do Python's `DEVNULL` and `daemon(3)`, and their users
/// want the output discarded. So this function runs before the runtime starts.
extern "C" fn note_closed() {
    for fd in 0..KNOWN {
        // SAFETY: integers only; a descriptor that is not open is what is asked about.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
            CLOSED.fetch_or(1 << fd, Ordering::Relaxed);
        }
    }
}

// SAFETY: the C library calls each pointer of this section once, before `main`, with the C
// calling convention. The function ignores the arguments, and needs nothing of the runtime.
#[unsafe(link_section = ".init_array")]
#[used]
static NOTE_CLOSED: extern "C" fn() = note_closed;

/// Returns whether a descriptor was closed when the program started; `false` if that is not
/// known.
pub(crate) fn was_closed(fd: i32) -> bool {
    (0..KNOWN).contains(&fd) && CLOSED.load(Ordering::Relaxed) >> fd & 1 == 1
}

/// Returns a copy of the descriptor with this number.
pub(crate) fn copy(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: integers only; a descriptor that is not open is an error.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if copy == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was opened just now, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Lets these signals reach the calling thread, and the threads that it starts later.
pub(crate) fn unblock(signals: &[i32]) {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `set` has room for the set that the call writes.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in signals {
        // SAFETY: the set is initialised; an impossible number is refused, not written.
        unsafe { libc::sigaddset(set.as_mut_ptr(), *signal) };
    }
    // SAFETY: the set is initialised and only read. With a valid first argument the call
    // cannot fail.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), std::ptr::null_mut()) };
}

/// Whether a signal is ignored.
pub(crate) fn is_ignored(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action the call only writes the present one, for which there is
    // room; an impossible number is refused.
    unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: integers and a null pointer, which zeros are, or what the call has written.
    unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Closes a copy of the descriptor. Some file systems report only then that a write has
/// failed, above all those over a network.
pub(crate) fn flush_by_closing(fd: impl AsFd) -> io::Result<()> {
    let Ok(copy) = fd.as_fd().try_clone_to_owned() else {
        // Too many are open. That the question cannot be asked is no loss.
        return Ok(());
    };
    // SAFETY: the descriptor is open and owned here, and is closed once, whatever is returned.
    match unsafe { libc::close(copy.into_raw_fd()) } {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            interrupted if interrupted.kind() == io::ErrorKind::Interrupted => Ok(()),
            error => Err(error),
        },
    }
}
