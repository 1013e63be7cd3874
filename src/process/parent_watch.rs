//! How a worker notices its parent's end.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use super::socket::is_closed;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::fd::{self as system, FileId, Ready, file_id};
use crate::sys::process::{Reach, pidfd_signal};

/// The descriptors by which a worker notices its parent's end.
#[derive(Debug)]
pub(crate) struct ParentWatch {
    socket: OwnedFd,
    /// The file that `socket` must lead to.
    socket_id: FileId,
    /// A pidfd of the parent, for a worker that is not its child: a fork of the parent can keep
    /// the other end of the socket open.
    process: Option<OwnedFd>,
}

impl ParentWatch {
    /// `is_child` means that this process is a child of the parent.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PeerDied`] when the parent is known to have ended; [`ErrorKind::Os`] when the
    /// kernel does not tell which file the socket is.
    pub(crate) fn new(socket: OwnedFd, is_child: bool) -> Result<Self> {
        let unknown = |e| Error::os("cannot look at the bootstrap socket", e);
        let socket_id = file_id(socket.as_fd()).map_err(unknown)?;
        let find = || system::pidfd_of_peer(socket.as_fd());
        let process = match (!is_child).then(find).transpose() {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {
                return Err(Error::new(ErrorKind::PeerDied, "the parent is gone"));
            }
            // A kernel before 6.5 cannot tell. Then the socket alone is watched.
            found => found.ok().flatten(),
        };
        Ok(Self { socket, socket_id, process })
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Blocks until the parent has ended or closed its end of the socket. Drops the bytes and
    /// descriptors that arrive.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Os`] when other code of this process has closed a descriptor of this watch.
    /// The file that then has the descriptor's number is not touched.
    pub(crate) fn wait(&self) -> Result<()> {
        let socket = &self.socket;
        loop {
            let process = self.process.as_ref().map(AsFd::as_fd);
            system::wait_for_any([Some(socket.as_fd()), process], None)
                .map_err(|e| Error::os("cannot watch the bootstrap socket", e))?;
            match file_id(socket.as_fd()) {
                Ok(found) if found == self.socket_id => {}
                found => return Err(was_closed("bootstrap socket", socket.as_fd(), found.err())),
            }
            if self.has_ended()? || drain(socket.as_fd())? {
                return Ok(());
            }
        }
    }

    fn has_ended(&self) -> Result<bool> {
        let Some(process) = &self.process else { return Ok(false) };
        let process = process.as_fd();
        match pidfd_signal(process, 0, Reach::Process) {
            Err(e) if e.raw_os_error() == Some(libc::EBADF) => {
                Err(was_closed("parent's pidfd", process, Some(e)))
            }
            // A process that has ended, and is not reaped, can still be signalled.
            _ => system::wait_ready(process, Ready::Read, Some(Instant::now()))
                .map_err(|e| Error::os("cannot watch the parent", e)),
        }
    }
}

fn was_closed(what: &str, fd: BorrowedFd<'_>, cause: Option<io::Error>) -> Error {
    let number = fd.as_raw_fd();
    let message = format!(
        "descriptor {number}, the {what}, was closed by other code of this process, which \
         would not notice its parent's end any more"
    );
    let other = || io::Error::other("something else has its number now");
    Error::os(message, cause.unwrap_or_else(other))
}

/// Drops the bytes that have arrived. Returns whether the other end is closed.
fn drain(socket: BorrowedFd<'_>) -> Result<bool> {
    let mut scratch = [0; 256];
    loop {
        match system::receive(socket, &mut scratch, 0) {
            Ok(arrived) if arrived.len == 0 => return Ok(true),
            Ok(_) => {}
            Err(e) if is_closed(&e) => return Ok(true),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(Error::os("cannot watch the bootstrap socket", e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;
    use crate::process::socket::{is_hung_up, pair, recv, send};
    use crate::process::testing::{message, soon};
    use crate::process::{limits, testing};

    #[test]
    fn waiting_for_the_end_ignores_stray_bytes() {
        let (a, b) = pair().unwrap();
        assert!(!is_hung_up(b.as_fd()).unwrap());
        let watch = ParentWatch::new(b, true).unwrap();
        let waiter = std::thread::spawn(move || watch.wait());
        send(a.as_fd(), &[7; 1000], &[a.as_fd()], soon()).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert!(!waiter.is_finished());
        drop(a);
        waiter.join().unwrap().unwrap();
        let (a, b) = pair().unwrap();
        drop(a);
        assert!(is_hung_up(b.as_fd()).unwrap());
    }

    #[test]
    fn a_socket_that_other_code_has_closed_or_replaced_is_an_error() {
        testing::alone(|| {
            let (_a, b) = pair().unwrap();
            let (mut reader, mut writer) = io::pipe().unwrap();
            writer.write_all(b"another's").unwrap();
            let watch = ParentWatch::new(b, true).unwrap();
            let number = watch.socket().as_raw_fd();
            // Never dropped: the number is the watch's.
            std::mem::forget(testing::inheritable_duplicate_at(reader.as_fd(), number));
            let error = watch.wait().unwrap_err();
            assert!(error.to_string().contains("was closed by other code"), "{error}");
            drop(watch);
            let (_a, b) = pair().unwrap();
            let mut watch = ParentWatch::new(b, true).unwrap();
            watch.process = Some(reader.try_clone().unwrap().into());
            let error = watch.wait().unwrap_err();
            assert!(error.to_string().contains("was closed by other code"), "{error}");
            drop((watch, writer));
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            assert_eq!(text, "another's", "what took its place is not touched");
        });
    }

    #[test]
    fn the_parents_end_is_noticed_by_a_process_without_a_free_descriptor() {
        testing::alone(|| {
            let (a, b) = pair().unwrap();
            let watch = ParentWatch::new(b, true).unwrap();
            limits::set_rlimit(libc::RLIMIT_NOFILE, 64).unwrap();
            let mut fillers = Vec::new();
            while let Ok(file) = File::open("/dev/null") {
                fillers.push(file);
            }
            // Not closed, which would free a descriptor.
            let end = UnixStream::from(a);
            end.shutdown(std::net::Shutdown::Both).unwrap();
            watch.wait().unwrap();
        });
    }

    #[test]
    fn the_end_of_a_parent_whose_fork_keeps_the_socket_is_noticed() {
        testing::alone(|| {
            let (own, of_parent) = pair().unwrap();
            let parent = std::thread::spawn(move || {
                testing::fork(|| {
                    let (a, b) = pair().unwrap();
                    send(of_parent.as_fd(), b"", &[a.as_fd(), b.as_fd()], soon()).unwrap();
                    recv(of_parent.as_fd(), 3, 0, Some(soon())).unwrap();
                    0
                })
            });
            // This process has both ends, as a fork of the parent would.
            let (_, mut ends) = message(recv(own.as_fd(), 0, 2, Some(soon())).unwrap());
            let watch = ParentWatch::new(ends.remove(1), false).unwrap();
            let is_supported = watch.process.is_some();
            send(own.as_fd(), b"end", &[], soon()).unwrap();
            assert_eq!(parent.join().unwrap(), 0);
            if is_supported {
                watch.wait().unwrap();
            }
            assert!(!is_hung_up(watch.socket()).unwrap());
        });
    }
}
