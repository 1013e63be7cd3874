//! Whether there is something to read.

#[cfg(not(loom))]
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::bell::Bell;
use super::spin::Spin;
use crate::shm::words::{OwnU32, OwnU64};
use crate::sync::{BACKSTOP, Ordering};
use crate::sys::wake_socket::Polled;

/// What has come for a [`PipeReader`](super::PipeReader), for any thread, also while another one reads.
#[derive(Debug)]
pub struct PipeWatch {
    pub(super) tail: OwnU64,
    pub(super) head: OwnU64,
    pub(super) bell: Bell,
    /// Not zero once a reactor polls the descriptor.
    pub(super) polled: OwnU32,
    pub(super) spin: Spin,
}

/// How a wait has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// What was waited for is there.
    Ready,
    /// It is not there, and never will be: no process holds the other end any more.
    Closed,
    /// It is not there yet: the time is over, a signal handler has run, or a look is due.
    Look,
}

impl PipeWatch {
    /// Returns whether there are bytes to read: a message, or a part of one. Never blocks.
    #[must_use]
    #[inline]
    pub fn has_bytes(&self) -> bool {
        // Pairs with the store in `PipeWriter::publish`.
        self.tail.load(Ordering::Acquire) != self.head.load(Ordering::Relaxed)
    }

    /// Returns what [`Self::wait`] would return at once. Never blocks.
    #[must_use]
    pub fn look(&self) -> Wake {
        if self.has_bytes() {
            return Wake::Ready;
        }
        self.settle();
        self.after(self.bell.socket().wait(Duration::ZERO))
    }

    /// Looks for bytes for `longest` at most, and for less where that does not help: if the other side
    /// needs this processor, or the last waits were long. Returns whether there are some.
    #[must_use]
    pub fn spin(&self, longest: Duration) -> bool {
        self.spin.until(longest, || self.has_bytes())
    }

    /// Waits for bytes. Blocks for at most `longest`, and for a second at most.
    #[must_use]
    pub fn wait(&self, longest: Duration) -> Wake {
        if self.has_bytes() || self.arm() {
            return Wake::Ready;
        }
        let polled = self.spin.around_sleep(|| self.bell.socket().wait(longest.min(BACKSTOP)));
        self.after(polled)
    }

    /// Returns the descriptor that is readable exactly if there are bytes to read or no process
    /// holds the other end any more. It must not be read from. From the first call on, whichever
    /// process reads from this end keeps the descriptor so, which costs a system call for each time
    /// that it has read everything.
    #[cfg(not(loom))]
    #[must_use]
    pub fn poll_fd(&self) -> BorrowedFd<'_> {
        self.polled.store(1, Ordering::Relaxed);
        self.settle();
        self.bell.socket().as_fd()
    }

    /// Makes the descriptor tell the truth, if it is polled: to be called after each read.
    #[inline]
    pub fn settle(&self) {
        if self.polled.load(Ordering::Relaxed) == 0 || self.has_bytes() {
            return;
        }
        if !self.bell.is_armed_at(self.head.load(Ordering::Relaxed)) {
            self.arm();
        }
    }

    /// Asks for a byte when there is something behind the head, unless there is already.
    fn arm(&self) -> bool {
        self.bell.arm(self.head.load(Ordering::Relaxed), || self.has_bytes())
    }

    fn after(&self, polled: Polled) -> Wake {
        if self.has_bytes() {
            return Wake::Ready;
        }
        if polled.is_closed {
            // What was sent before the close was sent before this look.
            return if self.has_bytes() { Wake::Ready } else { Wake::Closed };
        }
        if polled.is_readable && self.bell.is_armed() {
            // A byte that does not belong there: of a process that was killed, or that must not.
            self.bell.socket().take_byte();
        }
        Wake::Look
    }
}
