//! Reaping: taking an ended worker, and what it leaves behind, out of the process table.
//!
//! Processes that a worker has started become children of this process when their own parent
//! ends, if this process is a subreaper or process 1 of its pid namespace. They then stay in
//! the process table until this process reaps them. The host may wait for children of its own,
//! so only processes that are known to be a worker's are reaped: the members of the process
//! group that the worker led. The number of the group cannot be recycled until the worker
//! itself is reaped.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::process;

use super::pid_handle::PidHandle;
use crate::error::ExitCause;
use crate::sys::process::{self as system, Reach, Waited, pidfd_open};

/// How often the supervisor tries to open pidfds of the remaining members of a group before it
/// reaps the worker without reaping them.
const MAX_ATTEMPTS: u32 = 20;

/// An ended worker that has been reaped.
pub(super) struct Reaped {
    pub(super) cause: ExitCause,
    /// `None` if that is not known.
    pub(super) has_dumped_core: Option<bool>,
    /// Pidfds of the remaining members of the worker's process group, all of them killed.
    /// Empty unless this process adopts orphans.
    pub(super) members: Vec<OwnedFd>,
}

/// Reaps the worker if it has ended, after it has killed the rest of its process group.
/// `attempts` counts the calls that have found the worker ended and could not reap it.
pub(super) fn reap_if_ended(handle: &mut PidHandle, attempts: &mut u32) -> Option<Reaped> {
    if handle.is_reaped {
        return None;
    }
    let mut members = Vec::new();
    let ended = match handle.exit_status() {
        Ok(None) => return None,
        Ok(Some(ended)) => {
            // Before the worker is reaped: afterwards the group's number can be recycled.
            handle.kill_group();
            if adopts_orphans() {
                let remaining = RemainingMembers::of_group(handle.pid);
                *attempts += 1;
                if remaining.is_incomplete && *attempts < MAX_ATTEMPTS {
                    return None;
                }
                members = remaining.pidfds;
            }
            Some(ended)
        }
        // Reaped by other code, or by the kernel as the host ignores SIGCHLD. A pidfd still
        // leads to the group. Nothing tells whose children its orphaned members are.
        Err(_) => {
            handle.kill_group();
            None
        }
    };
    let ended = if handle.reap().is_ok() { ended } else { None };
    handle.is_reaped = true;
    handle.pidfd = None;
    let cause = ended.map_or(ExitCause::Unknown, |ended| ended.cause);
    Some(Reaped { cause, has_dumped_core: ended.map(|ended| ended.has_dumped_core), members })
}

/// Returns whether orphaned descendants become children of this process.
fn adopts_orphans() -> bool {
    process::id() == 1 || system::is_subreaper()
}

/// The members of a process group other than its leader.
struct RemainingMembers {
    pidfds: Vec<OwnedFd>,
    /// There are members without a pidfd that cannot be reaped yet.
    is_incomplete: bool,
}

impl RemainingMembers {
    /// Finds the members of the group of a worker that has ended and is not reaped. The group
    /// must have been killed, so that it does not grow. Where no pidfd can be opened, members
    /// that have ended are reaped at once.
    fn of_group(leader: u32) -> Self {
        let mut found = Self { pidfds: Vec::new(), is_incomplete: false };
        for pid in members(leader) {
            match pidfd_open(pid) {
                // Checked again: the process id may have been recycled before the pidfd was
                // opened.
                Ok(pidfd) if is_member(pid, leader) => found.pidfds.push(pidfd),
                Ok(_) => {}
                Err(_) => found.is_incomplete |= !reap_by_pid(pid, leader),
            }
        }
        found
    }
}

/// The result of an attempt to reap a member of a worker's group.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// It is not in the process table any more.
    Gone,
    /// It runs.
    Running,
    /// It has ended, and is not, or not yet, a child of this process.
    NotOurs,
}

/// Reaps the process if it has ended.
pub(super) fn reap_member(pidfd: &OwnedFd) -> Attempt {
    match system::exit_status(Waited::Pidfd(pidfd.as_fd()), true) {
        Ok(Some(_)) => Attempt::Gone,
        Ok(None) => Attempt::Running,
        // No child of this process: another process has reaped it, or has yet to.
        Err(_) if system::pidfd_signal(pidfd.as_fd(), 0, Reach::Process).is_err() => Attempt::Gone,
        Err(_) => Attempt::NotOurs,
    }
}

/// Reaps a member without a pidfd if it has ended. Returns whether it is gone.
fn reap_by_pid(pid: u32, leader: u32) -> bool {
    match system::exit_status(Waited::Pid(pid), false) {
        // It has ended and is not reaped, so both calls see the same process.
        Ok(Some(_)) if is_member(pid, leader) => {
            let _ = system::exit_status(Waited::Pid(pid), true);
            true
        }
        _ => !is_member(pid, leader),
    }
}

fn is_member(pid: u32, leader: u32) -> bool {
    system::group_of(pid).is_ok_and(|group| group == leader)
}

/// Lists the members of a group without its leader. Goes through all processes, as the kernel
/// has no list of a group: about a microsecond for each process of the machine.
fn members(leader: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| pid != leader && is_member(pid, leader)).collect()
}
