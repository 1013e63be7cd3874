//! The bootstrap socket: the worker's standard input, over which it gets its setup and
//! descriptors, and whose end-of-file later tells it that the parent is gone.
//!
//! A message is a little-endian u32 length and that many bytes. Its descriptors are attached to
//! the first byte.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use crate::error::{Error, ErrorKind, Result};
use crate::sys::descriptor::above_stdio;
use crate::sys::fd::{self as system, Ready, file_id};

/// The result of [`recv`].
#[derive(Debug)]
pub(crate) enum Received {
    Message {
        bytes: Vec<u8>,
        fds: Vec<OwnedFd>,
    },
    /// The other end is closed, and no message is left.
    Eof,
}

/// Returns two connected ends. Both are close-on-exec, and their numbers are 3 or higher.
///
/// # Errors
///
/// [`ErrorKind::Os`] if no descriptor is free.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd)> {
    let [ours, theirs] = above_stdio(|| UnixStream::pair().map(Into::into))
        .map_err(|e| Error::os("cannot make the bootstrap socket", e))?;
    Ok((ours.into(), theirs.into()))
}

/// Sends one message with at most [`system::MAX_FDS`] descriptors. Blocks while the socket's
/// buffer is full, until `deadline` at most.
///
/// # Errors
///
/// [`ErrorKind::Handshake`] if the other end is closed, [`ErrorKind::Timeout`] after the
/// deadline, [`ErrorKind::Os`] for anything else. A part of the message may have been sent, so
/// the socket must not be used any more.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    deadline: Instant,
) -> Result<()> {
    let Ok(length) = u32::try_from(bytes.len()) else {
        return Err(Error::too_large(bytes.len(), 0xFFFF_FFFF, "a bootstrap message is small"));
    };
    let framed = [&length.to_le_bytes(), bytes].concat();
    let mut rest = framed.as_slice();
    let mut fds = fds;
    while !rest.is_empty() {
        match system::send(socket, rest, fds) {
            Ok(sent) => {
                rest = rest.get(sent..).unwrap_or_default();
                fds = &[];
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                wait(socket, Ready::Write, Some(deadline))?;
            }
            Err(e) if is_closed(&e) => {
                let message = "the other end of the bootstrap socket is closed";
                return Err(Error::with_source(ErrorKind::Handshake, message, e));
            }
            Err(e) => return Err(Error::os("cannot send on the bootstrap socket", e)),
        }
    }
    Ok(())
}

/// Receives one message. Blocks until `deadline` at most; without one, for ever. The descriptors
/// are close-on-exec, and their numbers are 3 or higher. None is left open after an error.
///
/// # Errors
///
/// [`ErrorKind::Handshake`] if a message is longer than `max_len`, has more than `max_fds`
/// descriptors, has descriptors on another byte than the first, or ends early;
/// [`ErrorKind::Timeout`] after the deadline; [`ErrorKind::Os`] for anything else.
pub(crate) fn recv(
    socket: BorrowedFd<'_>,
    max_len: usize,
    max_fds: usize,
    deadline: Option<Instant>,
) -> Result<Received> {
    let mut prefix = [0; 4];
    let (read, fds) = fill(socket, &mut prefix, max_fds, deadline)?;
    match read {
        4 => {}
        0 => return Ok(Received::Eof),
        _ => return Err(broken_off()),
    }
    let length = usize::try_from(u32::from_le_bytes(prefix)).unwrap_or(usize::MAX);
    if length > max_len {
        return Err(Error::new(
            ErrorKind::Handshake,
            format!("a bootstrap message of {length} bytes, where at most {max_len} are allowed"),
        ));
    }
    let mut bytes = vec![0; length];
    if fill(socket, &mut bytes, 0, deadline)?.0 < length {
        return Err(broken_off());
    }
    Ok(Received::Message { bytes, fds })
}

/// Returns whether the other end is closed. Never blocks.
///
/// # Errors
///
/// [`ErrorKind::Os`].
pub(crate) fn is_hung_up(socket: BorrowedFd<'_>) -> Result<bool> {
    system::wait_ready(socket, Ready::HangUp, Some(Instant::now()))
        .map_err(|e| Error::os("cannot look at the bootstrap socket", e))
}

/// Returns the socket's inode number, which no other socket of the machine has while it is open.
pub(crate) fn inode(socket: BorrowedFd<'_>) -> io::Result<u64> {
    file_id(socket).map(|(_, inode)| inode)
}

/// Reads until `buffer` is full or the stream ends. Returns how many bytes were read, and the
/// descriptors that came with the first one, of which there may be `max_fds`.
fn fill(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    max_fds: usize,
    deadline: Option<Instant>,
) -> Result<(usize, Vec<OwnedFd>)> {
    let (mut filled, mut fds) = (0, Vec::new());
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let max_fds = if filled == 0 { max_fds } else { 0 };
        match system::receive(socket, rest, max_fds) {
            Ok(arrived) if arrived.truncated => return Err(truncated(max_fds)),
            Ok(arrived) if arrived.len == 0 => break,
            Ok(arrived) => {
                filled += arrived.len;
                fds.extend(arrived.fds);
            }
            Err(e) if is_closed(&e) => break,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                wait(socket, Ready::Read, deadline)?;
            }
            Err(e) => return Err(Error::os("cannot receive on the bootstrap socket", e)),
        }
    }
    Ok((filled, fds))
}

fn wait(socket: BorrowedFd<'_>, ready: Ready, deadline: Option<Instant>) -> Result<()> {
    match system::wait_ready(socket, ready, deadline) {
        Ok(true) => Ok(()),
        Ok(false) => {
            let did_not = match ready {
                Ready::Write => "the bootstrap socket was not read before the deadline",
                _ => "nothing came over the bootstrap socket before the deadline",
            };
            Err(Error::new(ErrorKind::Timeout, did_not))
        }
        Err(e) => Err(Error::os("cannot wait for the bootstrap socket", e)),
    }
}

/// Returns whether an error means that the other end is closed. It is a reset if there were
/// unread bytes in that end.
pub(super) fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

fn broken_off() -> Error {
    Error::new(ErrorKind::Handshake, "the bootstrap socket ended in the middle of a message")
}

fn truncated(max_fds: usize) -> Error {
    let message = format!(
        "a bootstrap message lost descriptors: it had more than {max_fds}, or this process has no \
         free descriptor"
    );
    Error::new(ErrorKind::Handshake, message)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;
    use crate::process::testing::{self, message, soon};

    fn kind(result: Result<Received>) -> ErrorKind {
        result.unwrap_err().kind()
    }

    #[test]
    fn messages_keep_their_bytes_their_bounds_and_their_descriptors() {
        let (a, b) = pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        send(a.as_fd(), b"one", &[writer.as_fd(), a.as_fd()], soon()).unwrap();
        send(a.as_fd(), b"", &[], soon()).unwrap();
        drop(writer);
        let (bytes, mut fds) = message(recv(b.as_fd(), 3, 2, Some(soon())).unwrap());
        assert_eq!((bytes.as_slice(), fds.len()), (b"one".as_slice(), 2));
        assert!(fds.iter().all(|fd| testing::is_close_on_exec(fd.as_fd())));
        File::from(fds.remove(0)).write_all(b"through").unwrap();
        let mut through = String::new();
        reader.read_to_string(&mut through).unwrap();
        assert_eq!(through, "through");
        let (bytes, fds) = message(recv(b.as_fd(), 0, 0, None).unwrap());
        assert!(bytes.is_empty() && fds.is_empty());
    }

    #[test]
    fn a_message_larger_than_the_socket_buffer_arrives_whole() {
        let (a, b) = pair().unwrap();
        let sent: Vec<u8> = (0..3_000_000_u32).map(|i| i.to_le_bytes()[1]).collect();
        let copy = sent.clone();
        let sender = std::thread::spawn(move || send(a.as_fd(), &copy, &[a.as_fd()], soon()));
        let (bytes, fds) = message(recv(b.as_fd(), 3_000_000, 1, Some(soon())).unwrap());
        sender.join().unwrap().unwrap();
        assert!(bytes == sent && fds.len() == 1);
    }

    #[test]
    fn the_end_of_the_stream_is_no_error_but_half_a_message_is() {
        let (a, b) = pair().unwrap();
        File::from(a).write_all(&[5, 0, 0, 0, 1]).unwrap();
        assert_eq!(kind(recv(b.as_fd(), 9, 0, None)), ErrorKind::Handshake);
        let (a, b) = pair().unwrap();
        File::from(a).write_all(&[5, 0]).unwrap();
        assert_eq!(kind(recv(b.as_fd(), 9, 0, None)), ErrorKind::Handshake);
        assert!(matches!(recv(b.as_fd(), 9, 0, None).unwrap(), Received::Eof));
    }

    #[test]
    fn a_peer_that_ends_without_reading_is_an_end_too() {
        let (a, b) = pair().unwrap();
        send(b.as_fd(), b"never read", &[], soon()).unwrap();
        drop(a);
        assert!(matches!(recv(b.as_fd(), 9, 0, None).unwrap(), Received::Eof));
        let error = send(b.as_fd(), b"late", &[], soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Handshake, "{error}");
    }

    #[test]
    fn too_long_a_message_is_refused_before_anything_is_allocated() {
        let (a, b) = pair().unwrap();
        File::from(a).write_all(&u32::MAX.to_le_bytes()).unwrap();
        let error = recv(b.as_fd(), 64, 0, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Handshake);
        assert!(error.to_string().contains("4294967295") && error.to_string().contains("64"));
    }

    #[test]
    fn surplus_and_misplaced_descriptors_are_refused_and_closed() {
        for max in [0, 1, 2] {
            let (a, b) = pair().unwrap();
            let (mut reader, writer) = io::pipe().unwrap();
            send(a.as_fd(), b"x", &[writer.as_fd(); 3], soon()).unwrap();
            drop(writer);
            assert_eq!(kind(recv(b.as_fd(), 1, max, None)), ErrorKind::Handshake, "{max}");
            assert_eq!(reader.read(&mut [0]).unwrap(), 0, "a copy of the pipe leaked");
        }
        let (a, b) = pair().unwrap();
        File::from(a.try_clone().unwrap()).write_all(&[2, 0, 0, 0]).unwrap();
        system::send(a.as_fd(), b"xy", &[a.as_fd()]).unwrap();
        assert_eq!(kind(recv(b.as_fd(), 2, 4, None)), ErrorKind::Handshake);
    }

    #[test]
    fn neither_side_waits_past_its_deadline() {
        let (a, b) = pair().unwrap();
        let at = Instant::now() + Duration::from_millis(20);
        assert_eq!(kind(recv(b.as_fd(), 1, 0, Some(at))), ErrorKind::Timeout);
        let error = send(a.as_fd(), &vec![0; 8 << 20], &[], at).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(Instant::now() >= at);
    }
}
