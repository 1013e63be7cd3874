//! Processes and threads: pidfds, waiting for children, signals, limits.
#![allow(unsafe_code, reason = "system calls")]

use std::ffi::{CStr, c_long};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use super::check;
use crate::error::ExitCause;
use crate::sys::descriptor::one_above_stdio;

/// A close-on-exec descriptor that stands for the process as long as it is open.
pub(crate) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    one_above_stdio(|| {
        // SAFETY: pidfd_open takes integers only.
        let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, c_long::from(pid), 0_usize) })?;
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel has just made this descriptor; no other code knows its number.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    })
}

/// Which processes a signal through a pidfd reaches.
#[derive(Clone, Copy)]
pub(crate) enum Reach {
    Process,
    /// The process group that the process leads. Linux 6.9; `EINVAL` before.
    Group,
}

pub(crate) fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32, reach: Reach) -> io::Result<()> {
    let flags = match reach {
        Reach::Process => 0,
        Reach::Group => libc::PIDFD_SIGNAL_PROCESS_GROUP,
    };
    let no_info: *const libc::siginfo_t = ptr::null();
    // SAFETY: without a siginfo the call takes integers only.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            c_long::from(signal),
            no_info,
            c_long::from(flags),
        )
    })?;
    Ok(())
}

/// Signals a process by number. The caller vouches that the number is not recycled.
pub(crate) fn kill(pid: u32, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes integers only.
    check(unsafe { libc::kill(positive(pid)?, signal) })?;
    Ok(())
}

/// Signals a process group by number. The caller vouches that the number is not recycled.
pub(crate) fn kill_group(group: u32, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes integers only.
    check(unsafe { libc::kill(-positive(group)?, signal) })?;
    Ok(())
}

/// The id, if it is that of one process. Negated, 0 and 1 stand for this process's own group and
/// for all processes.
fn positive(pid: u32) -> io::Result<libc::pid_t> {
    match libc::pid_t::try_from(pid) {
        Ok(pid) if pid > 1 => Ok(pid),
        _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
    }
}

/// A child to wait for.
#[derive(Clone, Copy)]
pub(crate) enum Waited<'a> {
    Pid(u32),
    Pidfd(BorrowedFd<'a>),
}

/// How a child has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) cause: ExitCause,
    pub(crate) has_dumped_core: bool,
}

/// How a child has ended, or `None` while it runs. Never blocks. With `reap`, a child that has
/// ended is also removed from the process table.
///
/// # Errors
///
/// `ECHILD` if it is no child, or was reaped already.
pub(crate) fn exit_status(child: Waited<'_>, reap: bool) -> io::Result<Option<Ended>> {
    let (kind, id) = match child {
        Waited::Pid(pid) => (libc::P_PID, pid),
        Waited::Pidfd(fd) => (libc::P_PIDFD, fd.as_raw_fd().unsigned_abs()),
    };
    let keep = if reap { 0 } else { libc::WNOWAIT };
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: `info` has room for the siginfo that the call may write.
    check(unsafe {
        libc::waitid(kind, id, info.as_mut_ptr(), libc::WEXITED | libc::WNOHANG | keep)
    })?;
    // SAFETY: all zero is a valid siginfo, and the kernel writes valid ones.
    let info = unsafe { info.assume_init() };
    // SAFETY: zeroed, or filled in for a child, which has the pid field.
    if unsafe { info.si_pid() } == 0 {
        return Ok(None);
    }
    // SAFETY: filled in for a child, which has the status field.
    let status = unsafe { info.si_status() };
    let cause = match info.si_code {
        libc::CLD_EXITED => ExitCause::Exited(status),
        libc::CLD_KILLED | libc::CLD_DUMPED => ExitCause::Signaled(status),
        _ => ExitCause::Unknown,
    };
    Ok(Some(Ended { cause, has_dumped_core: info.si_code == libc::CLD_DUMPED }))
}

/// The address of the headers of this process's program; 0 if it is not known.
pub(crate) fn program_headers() -> u64 {
    // SAFETY: getauxval takes an integer only, and knows no failure but 0.
    unsafe { libc::getauxval(libc::AT_PHDR) }
}

/// Whether this process has more rights than the one that started it, as by a set-user-id bit. Then it
/// must not write files where its environment says.
pub(crate) fn has_more_rights() -> bool {
    // SAFETY: getauxval takes an integer only, and knows no failure but 0.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// The process group of a process, which may be a zombie.
pub(crate) fn group_of(pid: u32) -> io::Result<u32> {
    // SAFETY: getpgid takes integers only.
    Ok(check(unsafe { libc::getpgid(positive(pid)?) })?.unsigned_abs())
}

/// Whether orphans among the descendants of this process become its children.
pub(crate) fn is_subreaper() -> bool {
    let mut is_set: libc::c_int = 0;
    let place = &raw mut is_set;
    // SAFETY: this operation writes one integer to a live place.
    let result = unsafe { libc::prctl(libc::PR_GET_CHILD_SUBREAPER, place) };
    result == 0 && is_set != 0
}

/// The user id with which this process opens files.
#[allow(dead_code, reason = "for transports whose memory has a name")]
pub(crate) fn user_id() -> u32 {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// The calling thread's id.
pub(crate) fn thread_id() -> u32 {
    // SAFETY: gettid takes nothing and cannot fail.
    unsafe { libc::gettid() }.unsigned_abs()
}

/// Has the kernel send `signal` to this process when the thread that started it ends.
pub(crate) fn set_parent_death_signal(signal: i32) -> io::Result<()> {
    // SAFETY: this operation takes integers only.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, c_long::from(signal)) })?;
    Ok(())
}

/// Names the calling thread; the kernel keeps the first 15 bytes.
pub(crate) fn set_thread_name(name: &CStr) -> io::Result<()> {
    // SAFETY: a live string with its terminator, which the kernel only reads.
    check(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) })?;
    Ok(())
}

/// A resource that can be limited, one of `libc::RLIMIT_*`.
pub(crate) type Resource = libc::__rlimit_resource_t;

/// The soft and the hard limit.
pub(crate) fn limit(resource: Resource) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` has room for what the call writes.
    check(unsafe { libc::getrlimit(resource, &raw mut limit) })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

pub(crate) fn set_limit(resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` is live and only read.
    check(unsafe { libc::setrlimit(resource, &raw const limit) })?;
    Ok(())
}

/// Sets the calling thread's nice value, which threads that it starts inherit.
pub(crate) fn set_nice(nice: i32) -> io::Result<()> {
    // SAFETY: setpriority takes integers only.
    check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) })?;
    Ok(())
}

/// The calling thread's nice value, which is -1 also if it cannot be seen.
pub(crate) fn nice() -> i32 {
    // SAFETY: getpriority takes integers only.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}

/// A set of processors, one bit for each; wide enough for any kernel.
pub(crate) type CpuMask = [u64; 1024];

pub(crate) const NO_CPUS: CpuMask = [0; 1024];

/// The processors that a thread may use; 0 is the calling one.
pub(crate) fn affinity(thread: u32) -> io::Result<CpuMask> {
    let mut mask = NO_CPUS;
    let thread = libc::pid_t::try_from(thread).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most the given number of bytes, which `mask` has.
    check(unsafe {
        libc::sched_getaffinity(thread, size_of::<CpuMask>(), mask.as_mut_ptr().cast())
    })?;
    Ok(mask)
}

/// Binds the calling thread, and threads that it starts, to the processors in `mask`.
pub(crate) fn set_affinity(mask: &CpuMask) -> io::Result<()> {
    // SAFETY: the kernel reads at most the given number of bytes, which `mask` has.
    check(unsafe { libc::sched_setaffinity(0, size_of::<CpuMask>(), mask.as_ptr().cast()) })?;
    Ok(())
}
