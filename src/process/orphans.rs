//! What a worker leaves behind, where orphans come to this process: it is the first of its
//! pid namespace, or it has asked for them.
//!
//! There, what a worker has started becomes a child of this process when its own parent
//! ends, and stays in the process table until this process reaps it. The host may wait for
//! children of its own, so that only those are reaped of which it is known that they are a
//! worker's: the members of the process group that the worker was started in. The worker
//! itself, ended but not reaped, keeps the group's number from being given away meanwhile.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::process;

use crate::sys::process::{self as system, Reach, Waited, pidfd_open};

/// Whether orphans come to this process.
pub(super) fn come_here() -> bool {
    process::id() == 1 || system::is_subreaper()
}

/// The members of a group, without its leader.
pub(super) struct Left {
    /// A pidfd for each, to be reaped when it has ended.
    pub(super) pinned: Vec<OwnedFd>,
    /// There are some that a number alone stands for, and that cannot be reaped yet.
    pub(super) is_unpinned: bool,
}

/// Takes stock of the group of a worker that has ended, is not reaped, and whose group was
/// killed, so that it does not grow. Where no pidfd can be had, members that have ended are
/// reaped at once.
pub(super) fn take(leader: u32) -> Left {
    let mut left = Left { pinned: Vec::new(), is_unpinned: false };
    for pid in members(leader) {
        match pidfd_open(pid) {
            // Looked at once more: the number may have been given to another process before
            // the pidfd was opened.
            Ok(pidfd) if is_in(pid, leader) => left.pinned.push(pidfd),
            Ok(_) => {}
            Err(_) => left.is_unpinned |= !reap_by_number(pid, leader),
        }
    }
    left
}

/// What became of an attempt to reap an orphan.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reaped {
    /// By this process or by another one.
    Done,
    /// It runs.
    NotEnded,
    /// It has ended, but is no child of this process: not yet, perhaps.
    NotHere,
}

pub(super) fn reap(pidfd: &OwnedFd) -> Reaped {
    match system::exit_status(Waited::Pidfd(pidfd.as_fd()), true) {
        Ok(Some(_)) => Reaped::Done,
        Ok(None) => Reaped::NotEnded,
        // Gone, and not only another process's child.
        Err(_) if system::pidfd_signal(pidfd.as_fd(), 0, Reach::Process).is_err() => Reaped::Done,
        Err(_) => Reaped::NotHere,
    }
}

/// Whether there is nothing to wait for: it is reaped, or gone.
fn reap_by_number(pid: u32, leader: u32) -> bool {
    match system::exit_status(Waited::Pid(pid), false) {
        // Ended and not reaped, it keeps its number, so that this looks at the same process.
        Ok(Some(_)) if is_in(pid, leader) => {
            let _ = system::exit_status(Waited::Pid(pid), true);
            true
        }
        _ => !is_in(pid, leader),
    }
}

fn is_in(pid: u32, group: u32) -> bool {
    system::group_of(pid).is_ok_and(|its| its == group)
}

/// Looked up in the list of all processes: nothing else shows those of a group. A microsecond
/// for each process of the machine.
fn members(leader: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| pid != leader && is_in(pid, leader)).collect()
}
