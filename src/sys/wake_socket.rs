//! One end of a socket pair that becomes readable to wake whatever polls it, and that says whether
//! the other end is still held by a process.
#![allow(unsafe_code, reason = "send and recv with flags that std does not offer")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::ptr;
use std::time::Duration;

use super::check;
use super::descriptor::above_stdio;
use crate::error::{Error, Result};
use crate::sync::yield_now;

/// How often [`WakeSocket::await_byte`] looks for a byte that is about to be sent, and how long it
/// sleeps for it after that.
const LOOKS: u32 = 64;
const PATIENCE: Duration = Duration::from_millis(50);

/// One end of the pair. Each process that holds the end holds the same socket.
#[derive(Debug)]
pub(crate) struct WakeSocket(OwnedFd);

/// What [`WakeSocket::wait`] has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Polled {
    /// There is a byte to take, or the other end is closed.
    pub(crate) is_readable: bool,
    /// No process holds the other end any more.
    pub(crate) is_closed: bool,
}

impl WakeSocket {
    /// Makes both ends.
    pub(crate) fn pair() -> Result<[Self; 2]> {
        let made = above_stdio(|| UnixStream::pair().map(Into::into));
        let [one, other]: [UnixStream; 2] =
            made.map_err(|e| Error::os("cannot make a socket pair", e))?;
        Ok([Self(one.into()), Self(other.into())])
    }

    pub(crate) fn of(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Makes the other end readable. Never blocks. Returns whether the other end is still held.
    pub(crate) fn send_byte(&self) -> bool {
        let byte = 1_u8;
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: one byte that outlives the call.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), (&raw const byte).cast(), 1, flags) };
        // A full socket is readable already.
        !matches!(check(sent), Err(e) if e.raw_os_error() == Some(libc::EPIPE))
    }

    /// Takes one byte. One that is about to be sent is waited for, as in [`Self::await_byte`].
    pub(crate) fn take_byte(&self) -> bool {
        self.try_take_byte() || self.await_byte() && self.try_take_byte()
    }

    /// Waits for a byte that is about to be sent, but for 50 ms at most: the process that was to send it
    /// may be gone. Returns whether it is there.
    pub(crate) fn await_byte(&self) -> bool {
        let is_there = (0..LOOKS).any(|look| {
            if look > 0 {
                yield_now();
            }
            self.wait(Duration::ZERO).is_readable
        });
        // Its sender may be waiting for a processor.
        is_there || self.wait(PATIENCE).is_readable
    }

    fn try_take_byte(&self) -> bool {
        let mut byte = 0_u8;
        let into = (&raw mut byte).cast();
        // SAFETY: there is room for one byte.
        let count = unsafe { libc::recv(self.0.as_raw_fd(), into, 1, libc::MSG_DONTWAIT) };
        // Zero: the other end is closed, and nothing will come.
        count >= 0
    }

    /// Sleeps until the socket is readable, the time is over or a signal handler has run.
    pub(crate) fn wait(&self, longest: Duration) -> Polled {
        let time = libc::timespec {
            tv_sec: i64::try_from(longest.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: longest.subsec_nanos().into(),
        };
        let mut polled = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one live pollfd, a live timeout, and no signal mask.
        let count = check(unsafe { libc::ppoll(&raw mut polled, 1, &raw const time, ptr::null()) });
        let found = if count.is_ok() { polled.revents } else { 0 };
        let closed = libc::POLLHUP | libc::POLLERR | libc::POLLNVAL;
        Polled { is_readable: found != 0, is_closed: found & closed != 0 }
    }

    /// Returns whether no process holds the other end any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.wait(Duration::ZERO).is_closed
    }
}

impl AsFd for WakeSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_byte_makes_the_other_end_readable_until_it_is_taken() {
        let [one, other] = WakeSocket::pair().unwrap();
        assert!(!other.wait(Duration::ZERO).is_readable);
        assert!(one.send_byte());
        assert_eq!(other.wait(Duration::MAX), Polled { is_readable: true, is_closed: false });
        assert!(other.take_byte());
        assert!(!other.take_byte());
        assert!(!other.wait(Duration::ZERO).is_readable);
    }

    #[test]
    fn a_closed_end_is_seen_and_cannot_be_woken() {
        let [one, other] = WakeSocket::pair().unwrap();
        let copy = WakeSocket::of(one.as_fd().try_clone_to_owned().unwrap());
        drop(one);
        assert!(!other.is_closed(), "a copy is held");
        drop(copy);
        assert!(other.is_closed());
        assert!(!other.send_byte());
        assert!(other.wait(Duration::MAX).is_readable);
    }

    #[test]
    fn a_flooded_socket_blocks_nothing() {
        let [one, other] = WakeSocket::pair().unwrap();
        assert!((0..100_000).all(|_| one.send_byte()));
        assert!(other.take_byte());
    }
}
