//! Descriptors: messages that carry them, waiting for them, locks, event counters.
#![allow(unsafe_code, reason = "system calls")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::{Duration, Instant};

use zerocopy::FromBytes;

use super::check;
use crate::sys::descriptor::{hold_free_stdio, one_above_stdio};

/// Linux 6.5. The number on all architectures that this library knows.
const SO_PEERPIDFD: i32 = 77;

/// The most descriptors that one message carries.
pub(crate) const MAX_FDS: usize = 32;

/// One `SCM_RIGHTS` record as the kernel lays it out. On 64-bit Linux the data of a
/// record starts right behind its 16-byte header.
#[repr(C)]
struct Rights {
    header: libc::cmsghdr,
    fds: [RawFd; MAX_FDS],
}

const HEADER: usize = size_of::<libc::cmsghdr>();
const _: () = assert!(HEADER == 16 && std::mem::offset_of!(Rights, fds) == HEADER);

impl Rights {
    fn with_room_for(count: usize) -> Self {
        let cmsg_len = HEADER + count * size_of::<RawFd>();
        Self {
            header: libc::cmsghdr {
                cmsg_len,
                cmsg_level: libc::SOL_SOCKET,
                cmsg_type: libc::SCM_RIGHTS,
            },
            fds: [-1; MAX_FDS],
        }
    }
}

fn message(part: &mut libc::iovec, rights: &mut Rights, count: usize) -> libc::msghdr {
    // The exact length, not the padded one: into padding the kernel would put one
    // descriptor more than was asked for.
    let length = if count == 0 { 0 } else { rights.header.cmsg_len };
    libc::msghdr {
        msg_name: ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: part,
        msg_iovlen: 1,
        msg_control: if count == 0 { ptr::null_mut() } else { ptr::from_mut(rights).cast() },
        msg_controllen: length,
        msg_flags: 0,
    }
}

/// Sends `bytes`, or a part of them, with `fds` on the first byte. Never waits, and causes no
/// `SIGPIPE`. Returns how many bytes were sent.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    if fds.len() > MAX_FDS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut rights = Rights::with_room_for(fds.len());
    for (to, from) in rights.fds.iter_mut().zip(fds) {
        *to = from.as_raw_fd();
    }
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let header = message(&mut part, &mut rights, fds.len());
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the header names one live buffer and one live control record, with their
    // lengths; a send only reads them.
    let sent = check(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, flags) })?;
    Ok(sent.unsigned_abs())
}

/// What one [`receive`] has received.
pub(crate) struct Arrived {
    /// The number of bytes in the buffer; zero at the end of the stream.
    pub(crate) len: usize,
    pub(crate) fds: Vec<OwnedFd>,
    /// Whether the kernel has dropped descriptors: there were more than asked for, or this
    /// process may not have more.
    pub(crate) truncated: bool,
}

/// Receives bytes and at most `max_fds` descriptors without waiting. The kernel closes any more
/// that were sent. The descriptors are close-on-exec, and their numbers are 3 or higher.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    max_fds: usize,
) -> io::Result<Arrived> {
    let max_fds = max_fds.min(MAX_FDS);
    let mut rights = Rights::with_room_for(max_fds);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut header = message(&mut part, &mut rights, max_fds);
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    let _held = (max_fds > 0).then(hold_free_stdio);
    // SAFETY: the header names one live, exclusively borrowed buffer and one control
    // record, with their lengths; the kernel writes within these.
    let len = check(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) })?;
    let mut fds = Vec::new();
    let is_rights = header.msg_controllen >= HEADER
        && rights.header.cmsg_level == libc::SOL_SOCKET
        && rights.header.cmsg_type == libc::SCM_RIGHTS;
    if is_rights {
        let count = rights.header.cmsg_len.saturating_sub(HEADER) / size_of::<RawFd>();
        for &fd in rights.fds.iter().take(count.min(max_fds)) {
            // SAFETY: the kernel has just installed this descriptor for this process, and
            // no other code has seen its number.
            fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
    // One of the standard streams' numbers may have been freed after these were held.
    for fd in fds.iter_mut().filter(|fd| fd.as_raw_fd() <= libc::STDERR_FILENO) {
        *fd = duplicate_above_stdio(fd.as_fd())?;
    }
    let truncated = header.msg_flags & libc::MSG_CTRUNC != 0;
    Ok(Arrived { len: len.unsigned_abs(), fds, truncated })
}

/// The process that has made the pair of Unix sockets of which this is one end; zero if that
/// process is outside of this one's pid namespace. `None` if this is no such socket.
pub(crate) fn maker_of_peer(socket: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    // The words of a `libc::ucred`.
    let [pid, uid, _] = socket_option::<[u32; 3]>(socket, libc::SO_PEERCRED)?;
    // Sockets of other kinds have no maker.
    Ok((uid != libc::uid_t::MAX).then_some(pid))
}

/// A close-on-exec pidfd of the process that [`maker_of_peer`] returns.
pub(crate) fn pidfd_of_peer(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    one_above_stdio(|| {
        let fd: RawFd = socket_option(socket, SO_PEERPIDFD)?;
        // SAFETY: the kernel has just made this descriptor; no other code knows its number.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    })
}

fn socket_option<T: FromBytes>(socket: BorrowedFd<'_>, option: i32) -> io::Result<T> {
    let mut value = T::new_zeroed();
    let place = (&raw mut value).cast();
    let mut len = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    let (socket, level) = (socket.as_raw_fd(), libc::SOL_SOCKET);
    // SAFETY: `value` has room for the length given, which is live as well; any bytes are a `T`.
    check(unsafe { libc::getsockopt(socket, level, option, place, &raw mut len) })?;
    Ok(value)
}

/// The device and the number of an open file.
pub(crate) type FileId = (u64, u64);

/// Identifies the open file that a descriptor leads to. Needs no free descriptor.
pub(crate) fn file_id(fd: BorrowedFd<'_>) -> io::Result<FileId> {
    let mut found = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: `found` has room for the structure that the call writes.
    check(unsafe { libc::fstat(fd.as_raw_fd(), found.as_mut_ptr()) })?;
    // SAFETY: the structure consists of integers, which zeros are, or what the call has written.
    let found = unsafe { found.assume_init() };
    Ok((found.st_dev, found.st_ino))
}

/// Readiness to wait for.
#[derive(Clone, Copy)]
pub(crate) enum Ready {
    Read,
    Write,
    /// The other end is closed.
    HangUp,
}

/// Waits until `fd` is ready, hung up or in error. Returns `false` if the deadline has passed.
/// Goes on after signals.
pub(crate) fn wait_ready(
    fd: BorrowedFd<'_>,
    ready: Ready,
    deadline: Option<Instant>,
) -> io::Result<bool> {
    let events = match ready {
        Ready::Read => libc::POLLIN,
        Ready::Write => libc::POLLOUT,
        Ready::HangUp => libc::POLLRDHUP,
    };
    let mut polled = [libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 }];
    poll(&mut polled, deadline)?;
    Ok(polled.iter().any(|fd| fd.revents != 0))
}

/// Waits until one of these is readable, hung up, in error or closed, or the deadline has passed.
/// Returns for each of them whether it is. Goes on after signals.
pub(crate) fn wait_for_any<'a>(
    fds: impl IntoIterator<Item = Option<BorrowedFd<'a>>>,
    deadline: Option<Instant>,
) -> io::Result<Vec<bool>> {
    // The kernel ignores negative descriptors.
    let readable = |fd: Option<BorrowedFd<'_>>| libc::pollfd {
        fd: fd.map_or(-1, |fd| fd.as_raw_fd()),
        events: libc::POLLIN,
        revents: 0,
    };
    let mut polled: Vec<_> = fds.into_iter().map(readable).collect();
    poll(&mut polled, deadline)?;
    Ok(polled.iter().map(|fd| fd.revents != 0).collect())
}

fn poll(fds: &mut [libc::pollfd], deadline: Option<Instant>) -> io::Result<()> {
    let count = libc::nfds_t::try_from(fds.len()).map_err(io::Error::other)?;
    loop {
        let left = deadline.map(|at| timespec(at.saturating_duration_since(Instant::now())));
        let timeout = left.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: as many live pollfds as said, a timeout that is null or live, and no signal mask.
        match check(unsafe { libc::ppoll(fds.as_mut_ptr(), count, timeout, ptr::null()) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map(drop),
        }
    }
}

fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

/// A close-on-exec duplicate whose number is 3 or higher.
pub(crate) fn duplicate_above_stdio(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes integers only.
    let copy = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: the kernel has just made this descriptor; no other code knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Clears `O_NONBLOCK` and all other changeable status flags except `O_APPEND`.
pub(crate) fn set_blocking_append(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: F_SETFL takes integers only.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_APPEND) })?;
    Ok(())
}

/// Locks a byte of a file, which need not exist, for this open file description. Returns whether it
/// was free. The lock ends with [`unlock_byte`], or with the last descriptor of the description.
pub(crate) fn try_lock_byte(fd: BorrowedFd<'_>, byte: i64) -> io::Result<bool> {
    match set_lock(fd, libc::F_WRLCK, byte) {
        Ok(()) => Ok(true),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Releases the lock of [`try_lock_byte`], whatever other processes have the description.
pub(crate) fn unlock_byte(fd: BorrowedFd<'_>, byte: i64) -> io::Result<()> {
    set_lock(fd, libc::F_UNLCK, byte)
}

fn set_lock(fd: BorrowedFd<'_>, kind: libc::c_int, byte: i64) -> io::Result<()> {
    let lock = libc::flock {
        l_type: kind.try_into().map_err(io::Error::other)?,
        l_whence: libc::SEEK_SET.try_into().map_err(io::Error::other)?,
        l_start: byte,
        l_len: 1,
        // The kernel wants none for a lock that belongs to a description.
        l_pid: 0,
    };
    // SAFETY: F_OFD_SETLK reads the struct, which lives until it returns.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) })?;
    Ok(())
}

/// An eventfd, which ends a wait for descriptors.
#[derive(Debug)]
pub(crate) struct EventCounter(File);

impl EventCounter {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = libc::EFD_CLOEXEC | libc::EFD_NONBLOCK;
        let file = one_above_stdio(|| {
            // SAFETY: eventfd takes integers only.
            let fd = check(unsafe { libc::eventfd(0, flags) })?;
            // SAFETY: the kernel has just made this descriptor; no other code knows its number.
            Ok(unsafe { File::from_raw_fd(fd) })
        })?;
        Ok(Self(file))
    }

    /// Makes it readable.
    pub(crate) fn raise(&self) {
        // This can fail only if the counter is full, and then it is readable.
        let _ = (&self.0).write(&1_u64.to_ne_bytes());
    }

    /// Makes it no longer readable.
    pub(crate) fn clear(&self) {
        let _ = (&self.0).read(&mut [0; 8]);
    }
}

impl AsFd for EventCounter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A set of descriptors to wait for, each known by a key.
#[derive(Debug)]
#[allow(dead_code, reason = "only the async view waits for descriptors by keys")]
pub(crate) struct Epoll(OwnedFd);

#[allow(dead_code, reason = "only the async view waits for descriptors by keys")]
impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        let set = one_above_stdio(|| {
            // SAFETY: epoll_create1 takes an integer only.
            let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
            // SAFETY: the kernel has just made this descriptor; no other code knows its number.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        })?;
        Ok(Self(set))
    }

    pub(crate) fn add(&self, fd: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN.unsigned_abs(), u64: key };
        self.control(libc::EPOLL_CTL_ADD, fd, &raw mut event)
    }

    /// Removes a descriptor, which is needed before it is closed: a fork of this process keeps
    /// the open file alive, and with it the entry in this set.
    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, ptr::null_mut())
    }

    fn control(
        &self,
        operation: i32,
        fd: BorrowedFd<'_>,
        event: *mut libc::epoll_event,
    ) -> io::Result<()> {
        let set = self.0.as_raw_fd();
        // SAFETY: `event` is live for an addition and null for a removal, which reads none.
        check(unsafe { libc::epoll_ctl(set, operation, fd.as_raw_fd(), event) })?;
        Ok(())
    }

    /// Waits until a descriptor is readable or `timeout` has passed. Appends the keys of those
    /// that are readable.
    pub(crate) fn wait(&self, timeout: Option<Duration>, keys: &mut Vec<u64>) -> io::Result<()> {
        // Rounded up: a wait that ends before a deadline would only be followed by another one.
        let timeout = timeout.map_or(-1, |left| {
            i32::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
        });
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
        // SAFETY: `events` has room for the 64 events that the call may write.
        let count = check(unsafe {
            libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), 64, timeout)
        })?;
        let count = usize::try_from(count).unwrap_or(0);
        // A packed struct on x86-64: the field is copied, never borrowed.
        keys.extend(events.iter().take(count).map(|event| event.u64));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::log::Log;
    use crate::process::socket;
    use crate::process::testing::{TempDir, alone, without_stdio};
    use crate::sys::memfd;
    use crate::sys::process::pidfd_open;
    use crate::sys::wake_fd::WakeFd;

    #[test]
    fn no_descriptor_takes_the_place_of_a_closed_standard_stream() {
        alone(|| {
            let dir = TempDir::new();
            let numbers = without_stdio(|| {
                let (a, b) = socket::pair().unwrap();
                let (wake_fd, others) = WakeFd::pair().unwrap();
                let files = [memfd::create(c"test", 4096).unwrap(), std::fs::File::from(b)];
                let (set, bell) = (Epoll::new().unwrap(), EventCounter::new().unwrap());
                let pidfd = pidfd_open(std::process::id()).unwrap();
                let log = Log::open(dir.path(), "r", None).unwrap().take_output().unwrap();
                send(a.as_fd(), b"x", &[a.as_fd(), bell.as_fd()]).unwrap();
                let received = receive(files[1].as_fd(), &mut [0], 2).unwrap().fds;
                let mut all = vec![a.as_fd(), wake_fd.as_fd(), set.0.as_fd(), bell.as_fd()];
                all.extend([pidfd.as_fd(), log.as_fd()]);
                all.extend(others.iter().chain(&received).map(AsFd::as_fd));
                all.extend(files.iter().map(AsFd::as_fd));
                all.iter().map(AsRawFd::as_raw_fd).collect::<Vec<_>>()
            });
            assert_eq!(numbers.len(), 12);
            assert!(numbers.iter().all(|number| *number > 2), "{numbers:?}");
        });
    }
}
