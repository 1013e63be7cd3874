//! A descriptor that becomes readable to wake a reactor.
//!
//! Both sides hold both ends of one socket pair. A byte that is written to one end makes the
//! other end readable, so that each side can wake its peer, and itself.
//!
//! A readable descriptor only says that it is time to look. The peer can fill the pair, drain it,
//! and change the flags of both ends, so nothing here relies on the bytes, or on the ends being
//! non-blocking.
#![allow(unsafe_code, reason = "send and recv with flags that std does not offer")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::activity;
use super::descriptor::above_stdio;
use crate::error::{Error, Result};

/// One side's hold on the pair.
#[derive(Debug)]
pub(crate) struct WakeFd {
    /// Readable when this side should look. A byte written to it makes the peer's end readable.
    own: OwnedFd,
    /// The peer's end. A byte written to it makes `own` readable.
    other: OwnedFd,
}

/// What [`WakeFd::drain`] has found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Drained {
    Nothing,
    Something,
    /// The peer has shut the pair down; it can never be used again.
    Broken,
}

impl WakeFd {
    /// The parent's side, and the two descriptors that the worker needs: its own end
    /// first.
    pub(crate) fn pair() -> Result<(Self, [OwnedFd; 2])> {
        let failed = |e| Error::os("cannot make a socket pair", e);
        let [ours, theirs] = above_stdio(|| UnixStream::pair().map(Into::into)).map_err(failed)?;
        // A copy of the standard library's is never below 3.
        let copies = [theirs.try_clone().map_err(failed)?, ours.try_clone().map_err(failed)?];
        let wake_fd = Self { own: ours.into(), other: theirs.into() };
        Ok((wake_fd, copies.map(OwnedFd::from)))
    }

    /// The worker's side.
    pub(crate) fn of([own, other]: [OwnedFd; 2]) -> Self {
        Self { own, other }
    }

    /// Makes the peer's end readable. Never blocks.
    pub(crate) fn wake_peer(&self) {
        write_byte(self.own.as_fd());
        activity::note();
    }

    /// Makes this end readable. Never blocks.
    pub(crate) fn wake_self(&self) {
        write_byte(self.other.as_fd());
    }

    /// Reads the bytes that made this end readable. Never blocks. Bytes that a flooding peer adds
    /// meanwhile are left for the next time.
    pub(crate) fn drain(&self) -> Drained {
        let mut bytes = [0_u8; 4096];
        let mut found = Drained::Nothing;
        for _ in 0..16 {
            // SAFETY: `bytes` may be written to for its whole length.
            let count = unsafe {
                libc::recv(
                    self.own.as_raw_fd(),
                    bytes.as_mut_ptr().cast(),
                    bytes.len(),
                    libc::MSG_DONTWAIT,
                )
            };
            match usize::try_from(count) {
                Ok(0) => return Drained::Broken,
                Ok(count) if count < bytes.len() => return Drained::Something,
                Ok(_) => found = Drained::Something,
                Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return found,
            }
        }
        found
    }
}

impl AsFd for WakeFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.own.as_fd()
    }
}

/// Writes one byte. No error matters: the other end of a full socket is readable already, and a
/// socket that is shut down tells its reader so.
fn write_byte(fd: BorrowedFd<'_>) {
    let byte = 1_u8;
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: one readable byte that outlives the call.
    let _ = unsafe { libc::send(fd.as_raw_fd(), (&raw const byte).cast(), 1, flags) };
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_side_can_wake_the_other_and_itself() {
        let (parent, fds) = WakeFd::pair().unwrap();
        let worker = WakeFd::of(fds);
        assert_eq!(parent.drain(), Drained::Nothing);
        worker.wake_peer();
        assert_eq!(worker.drain(), Drained::Nothing);
        assert_eq!(parent.drain(), Drained::Something);
        parent.wake_self();
        assert_eq!(parent.drain(), Drained::Something);
        parent.wake_peer();
        assert_eq!((parent.drain(), worker.drain()), (Drained::Nothing, Drained::Something));
    }

    #[test]
    fn a_flooded_pair_blocks_no_side_and_a_broken_one_says_so() {
        let (parent, fds) = WakeFd::pair().unwrap();
        let worker = WakeFd::of(fds);
        (0..100_000).for_each(|_| worker.wake_peer());
        while parent.drain() == Drained::Something {}
        // SAFETY: a system call on a descriptor that is open.
        let shut = unsafe { libc::shutdown(worker.own.as_raw_fd(), libc::SHUT_RDWR) };
        assert_eq!(shut, 0);
        assert_eq!(parent.drain(), Drained::Broken);
        worker.wake_peer();
    }
}
