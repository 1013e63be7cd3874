//! The kernel's handle on a worker process: its pidfd, or else its process id as long as that
//! cannot have been recycled.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use crate::sys::process::{self as system, Ended, Reach, Waited};

/// A child of this process. Its owner keeps it locked while a signal is sent by process id and
/// while the child is reaped, so that no process id is used after it may have been recycled.
#[derive(Debug)]
pub(super) struct PidHandle {
    pub(super) pid: u32,
    /// `None` where the kernel has no pidfds or a filter forbids them, and once the child is
    /// reaped.
    pub(super) pidfd: Option<Arc<OwnedFd>>,
    pub(super) is_reaped: bool,
}

impl PidHandle {
    pub(super) fn new(pid: u32, pidfd: Option<OwnedFd>) -> Self {
        Self { pid, pidfd: pidfd.map(Arc::new), is_reaped: false }
    }

    /// Returns how the child ended, without reaping it; `None` while it runs. An error means
    /// that there is no such child any more: another part of this process has reaped it, or
    /// the kernel has, because the host ignores SIGCHLD.
    pub(super) fn exit_status(&self) -> io::Result<Option<Ended>> {
        self.wait_status(false)
    }

    /// Reaps the child if it has ended. Otherwise as [`exit_status`](Self::exit_status).
    pub(super) fn reap(&self) -> io::Result<Option<Ended>> {
        self.wait_status(true)
    }

    fn wait_status(&self, reap: bool) -> io::Result<Option<Ended>> {
        if let Some(fd) = &self.pidfd {
            match system::exit_status(Waited::Pidfd(fd.as_fd()), reap) {
                // Linux 5.3 has pidfds, but cannot wait for them.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
                result => return result,
            }
        }
        system::exit_status(Waited::Pid(self.pid), reap)
    }

    /// Returns whether `pid` still stands for this child, be it a zombie.
    pub(super) fn is_in_process_table(&self) -> bool {
        !self.is_reaped && self.exit_status().is_ok()
    }

    /// Sends a signal to the child: through the pidfd, or by process id if the child is not
    /// reaped yet. Returns whether it was sent.
    pub(super) fn signal(&self, signal: i32) -> bool {
        if let Some(fd) = &self.pidfd
            && system::pidfd_signal(fd.as_fd(), signal, Reach::Process).is_ok()
        {
            return true;
        }
        self.is_in_process_table() && system::kill(self.pid, signal).is_ok()
    }

    /// Kills the child's process group: through the pidfd, which cannot stand for another
    /// group, or by number while the child, its leader, is in the process table. Returns
    /// whether the group had a member.
    ///
    /// On kernels before 6.9, which lack the former, a race is left: the host can reap the
    /// child between the check and the signal.
    pub(super) fn kill_group(&self) -> bool {
        if let Some(fd) = &self.pidfd {
            match system::pidfd_signal(fd.as_fd(), libc::SIGKILL, Reach::Group) {
                Ok(()) => return true,
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return false,
                Err(_) => {}
            }
        }
        self.is_in_process_table() && system::kill_group(self.pid, libc::SIGKILL).is_ok()
    }
}
