//! How many bytes the system keeps for a socket.
#![allow(unsafe_code, reason = "neither std nor tokio asks a socket for these numbers")]

use std::ffi::c_int;
use std::os::fd::AsRawFd as _;

use tokio::net::TcpStream;

/// How many bytes the system keeps for a socket, in both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Those that have come and were not read.
    pub(crate) unread: u64,
    /// Those that were written, and that the other side's system has not confirmed.
    pub(crate) unconfirmed: u64,
}

impl Kept {
    /// Asks the system.
    pub(crate) fn of(socket: &TcpStream) -> Self {
        // That of Linux for `TIOCOUTQ` is also called `SIOCOUTQ`.
        Self { unread: ask(socket, libc::FIONREAD), unconfirmed: ask(socket, libc::TIOCOUTQ) }
    }
}

fn ask(socket: &TcpStream, what: libc::Ioctl) -> u64 {
    let mut count: c_int = 0;
    // SAFETY: both requests write one `int` to the address that is given, and nothing else. It is that
    // of `count`, which nothing else refers to during the call. The descriptor is open, since the
    // socket is borrowed.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), what, &raw mut count) };
    // A socket that is not connected any more has none.
    if result == 0 { u64::try_from(count).unwrap_or(0) } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn bytes_are_kept_until_they_are_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connect = TcpStream::connect(listener.local_addr().unwrap());
        let (near, accepted) = tokio::join!(connect, listener.accept());
        let (near, far) = (near.unwrap(), accepted.unwrap().0);
        assert_eq!((Kept::of(&near), Kept::of(&far)), (Kept::default(), Kept::default()));
        // More than the reader's system takes, and no more than the writer's keeps.
        let mut written = 0;
        near.writable().await.unwrap();
        while let Ok(count) = near.try_write(&[7; 4096]) {
            written += u64::try_from(count).unwrap();
        }
        let all = async {
            while Kept::of(&near).unconfirmed + Kept::of(&far).unread != written {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), all).await.unwrap();
        assert!(Kept::of(&near).unconfirmed > 0, "all {written} were confirmed");
        assert!(Kept::of(&far).unread > 0, "of {written} none has come");
    }
}
