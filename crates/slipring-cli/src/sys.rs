//! System calls for which neither std nor a crate offers safe code: the state of the
//! descriptors before the runtime changes it, descriptors by their numbers, the signal mask,
//! `close` with its result, and calls that are only tried.
#![allow(unsafe_code, reason = "system calls, and code that runs before main")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
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
    mask(libc::SIG_UNBLOCK, signals);
}

/// Keeps these signals from the calling thread.
pub(crate) fn block(signals: &[i32]) {
    mask(libc::SIG_BLOCK, signals);
}

fn mask(how: i32, signals: &[i32]) {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `set` has room for the set that the call writes.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in signals {
        // SAFETY: the set is initialised; an impossible number is refused, not written.
        unsafe { libc::sigaddset(set.as_mut_ptr(), *signal) };
    }
    // SAFETY: the set is initialised and only read. With a valid first argument the call
    // cannot fail.
    unsafe { libc::pthread_sigmask(how, set.as_ptr(), std::ptr::null_mut()) };
}

/// Stops the process as this signal does without a handler, until the process is continued, unless `is_wanted`
/// says no. Returns at once if the kernel does not stop it, as no shell is there that could continue it.
///
/// The signal waits while `is_wanted` is asked: to continue the process takes back one that waits, but not one
/// that is sent later.
pub(crate) fn stop_by(signal: i32, is_wanted: impl FnOnce() -> bool) {
    let mut default = MaybeUninit::<libc::sigaction>::zeroed();
    let mut handler = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: integers and null pointers, for which zeros are good; a mask of zeros is empty.
    unsafe { default.assume_init_mut() }.sa_sigaction = libc::SIG_DFL;
    block(&[signal]);
    // SAFETY: the call reads the one and writes the other, both live.
    unsafe { libc::sigaction(signal, default.as_ptr(), handler.as_mut_ptr()) };
    // SAFETY: integers only.
    unsafe { libc::raise(signal) };
    if !is_wanted() {
        // SAFETY: as above. To ignore a signal takes back one that waits.
        unsafe { default.assume_init_mut() }.sa_sigaction = libc::SIG_IGN;
        // SAFETY: the call reads what is live.
        unsafe { libc::sigaction(signal, default.as_ptr(), std::ptr::null_mut()) };
    }
    // The signal has reached this thread when this returns.
    unblock(&[signal]);
    // SAFETY: reads what the call above has written; a handler that was good then is so now.
    unsafe { libc::sigaction(signal, handler.as_ptr(), std::ptr::null_mut()) };
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

/// Registers the calling thread's list of robust futexes once more.
pub(crate) fn register_robust_list_again() -> io::Result<()> {
    let mut head = std::ptr::null_mut::<libc::c_void>();
    let mut length = 0_usize;
    // SAFETY: both places are live and have the size that the kernel writes; 0 is this thread.
    check(unsafe {
        libc::syscall(libc::SYS_get_robust_list, 0_usize, &raw mut head, &raw mut length)
    })?;
    // SAFETY: the C library has registered this very list for this thread, and keeps it.
    check(unsafe { libc::syscall(libc::SYS_set_robust_list, head, length) })
}

/// Whether a signal could be sent to the group of the process of this pidfd. Sends none.
pub(crate) fn may_signal_group(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    // Of linux/pidfd.h; the C library's headers are older.
    const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 1 << 2;
    // SAFETY: integers and a null pointer, which stands for no further facts about the signal; signal
    // 0 is a check only.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            0,
            std::ptr::null::<libc::siginfo_t>(),
            PIDFD_SIGNAL_PROCESS_GROUP,
        )
    })
}

/// Closes the descriptors of a range in which there are none.
pub(crate) fn close_range_of_none() -> io::Result<()> {
    let (first, last) = (libc::c_uint::MAX - 1, libc::c_uint::MAX);
    // SAFETY: no descriptor has such a number, so that none is closed.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })
}

/// Locks a byte of a file by its open description.
pub(crate) fn lock_description(file: impl AsFd) -> io::Result<()> {
    let lock = libc::flock {
        l_type: libc::F_WRLCK.try_into().map_err(io::Error::other)?,
        l_whence: libc::SEEK_SET.try_into().map_err(io::Error::other)?,
        l_start: 0,
        l_len: 1,
        l_pid: 0,
    };
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: the call reads the struct, which lives until it returns.
    let locked = unsafe { libc::fcntl(fd, libc::F_OFD_SETLK, &raw const lock) };
    check(locked.into())
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
