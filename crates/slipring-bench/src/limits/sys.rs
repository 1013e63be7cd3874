//! System calls that std does not have.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::AtomicU32;
use std::time::Duration;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Makes an anonymous file of `len` bytes in memory.
///
/// # Errors
///
/// Fails if the system call fails.
pub fn memfd(len: usize) -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string.
    let fd = check(unsafe { libc::memfd_create(c"slipring-bench".as_ptr(), libc::MFD_CLOEXEC) })?;
    // SAFETY: the kernel has just handed out this descriptor to this call.
    let file = unsafe { std::fs::File::from_raw_fd(fd) };
    file.set_len(len as u64)?;
    Ok(file.into())
}

/// Sleeps while `word` holds `value`. Can also wake without a reason.
pub fn futex_wait(word: &AtomicU32, value: u32) {
    let timeout = timespec(Duration::from_secs(1));
    // SAFETY: `word` is valid for the call, and so is the timeout.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            value,
            &raw const timeout,
            std::ptr::null::<u32>(),
            0,
        )
    };
}

/// Wakes one sleeper.
pub fn futex_wake(word: &AtomicU32) {
    // SAFETY: `word` is valid for the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Waiter {
    value: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

/// `FUTEX2_SIZE_U32`. Shared between processes, because there is a flag for private ones.
const SIZE_U32: u32 = 2;
const SYS_FUTEX_WAITV: libc::c_long = 449;

/// Sleeps as [`futex_wait`] does, on several words. Returns `false` if the kernel has no such call.
pub fn futex_waitv<const N: usize>(words: [(&AtomicU32, u32); N]) -> bool {
    let waiters = words.map(|(word, value)| Waiter {
        value: u64::from(value),
        address: word.as_ptr() as u64,
        flags: SIZE_U32,
        reserved: 0,
    });
    // Absolute and monotonic.
    let until = monotonic() + Duration::from_secs(1);
    let until = timespec(until);
    // SAFETY: the waiters and the time live across the call; so do the words.
    let result = unsafe {
        libc::syscall(
            SYS_FUTEX_WAITV,
            waiters.as_ptr(),
            N,
            0,
            &raw const until,
            libc::CLOCK_MONOTONIC,
        )
    };
    result >= 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS)
}

fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: duration.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(duration.subsec_nanos() as i32),
    }
}

fn read_clock(clock: libc::clockid_t) -> Option<Duration> {
    let mut time = timespec(Duration::ZERO);
    // SAFETY: `time` is valid for a write.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    (result == 0).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

fn monotonic() -> Duration {
    read_clock(libc::CLOCK_MONOTONIC).unwrap_or_default()
}

/// Returns the processor time of all threads of a process, or zero if it is gone.
#[must_use]
pub fn cpu_time(pid: u32) -> Duration {
    let mut clock = 0;
    // SAFETY: `clock` is valid for a write.
    let result = unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, &raw mut clock) };
    if result != 0 {
        return Duration::ZERO;
    }
    read_clock(clock).unwrap_or_default()
}

/// Returns the processors that the calling thread may run on.
#[must_use]
pub fn allowed_cpus() -> Vec<usize> {
    let mut set = empty_set();
    // SAFETY: `set` is valid for a write of its size.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    if result != 0 {
        return Vec::new();
    }
    // SAFETY: the index is below the set's size.
    (0..1024).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect()
}

/// Lets the calling thread run on these processors only.
///
/// # Errors
///
/// Fails if the system call fails.
pub fn run_on(cpus: &[usize]) -> io::Result<()> {
    let mut set = empty_set();
    for cpu in cpus.iter().filter(|cpu| **cpu < 1024) {
        // SAFETY: the index is below the set's size.
        unsafe { libc::CPU_SET(*cpu, &mut set) };
    }
    // SAFETY: `set` is valid for a read of its size.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) })
        .map(drop)
}

fn empty_set() -> libc::cpu_set_t {
    // SAFETY: all zeros is the empty set.
    unsafe { std::mem::zeroed() }
}

/// Ends this process when the thread that started it ends.
pub fn die_with_parent() {
    // SAFETY: takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// Stops a process, or continues it.
pub fn set_stopped(pid: u32, is_stopped: bool) {
    let signal = if is_stopped { libc::SIGSTOP } else { libc::SIGCONT };
    // SAFETY: takes numbers only.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

/// Sets the capacity of a pipe, unless the kernel refuses.
pub fn set_pipe_size(pipe: &impl AsRawFd, bytes: usize) {
    let fd: RawFd = pipe.as_raw_fd();
    // SAFETY: takes numbers only.
    unsafe { libc::fcntl(fd, libc::F_SETPIPE_SZ, bytes as libc::c_int) };
}
