//! Attacks on memory, and on a peer, through descriptors.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::Map;
use super::worker::Peer;

pub fn poke(fd: RawFd) -> bool {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: one readable byte.
    unsafe { libc::send(fd, [1_u8].as_ptr().cast(), 1, flags) == 1 }
}

pub fn punch(fd: RawFd, len: usize) -> bool {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: a system call without pointers; the range is the file's own.
    unsafe { libc::fallocate(fd, mode, 0, len as i64) == 0 }
}

/// Tries everything that a process can do to memory through its descriptors, and returns what
/// worked.
pub fn attack_memory(peer: &Peer) -> String {
    let mut worked = Vec::new();
    let mut tried = |what: &str, has_worked: bool| {
        if has_worked {
            worked.push(what.to_owned());
        }
    };
    let read_write = libc::PROT_READ | libc::PROT_WRITE;
    for (name, fd, map) in [("down", &peer.fds[0], &peer.down), ("up", &peer.fds[1], &peer.own.map)]
    {
        let (raw, len) = (fd.as_raw_fd(), map.len());
        for size in [0, 4096, len as i64 - 1, len as i64 + 4096] {
            // SAFETY: a system call without pointers.
            tried(&format!("{name} ftruncate"), unsafe { libc::ftruncate(raw, size) } == 0);
        }
        // SAFETY: a system call without pointers; one page beyond the end.
        let grown = unsafe { libc::fallocate(raw, 0, len as i64, 4096) };
        tried(&format!("{name} grow"), grown == 0);
        for seal in [libc::F_SEAL_WRITE, libc::F_SEAL_FUTURE_WRITE, libc::F_SEAL_SHRINK] {
            // SAFETY: a system call without pointers.
            let sealed = unsafe { libc::fcntl(raw, libc::F_ADD_SEALS, seal) };
            tried(&format!("{name} seal"), sealed == 0);
        }
        let path = format!("/proc/self/fd/{raw}");
        let reopened = std::fs::File::options().read(true).write(true).open(path);
        let again = reopened.ok().map(OwnedFd::from);
        for (how, fd) in [("", Some(raw)), (" reopened", again.as_ref().map(AsRawFd::as_raw_fd))] {
            let Some(fd) = fd else { continue };
            let mapped = Map::new(fd, len, read_write);
            tried(&format!("{name}{how} writable map"), mapped.is_ok());
            if let Ok(map) = mapped {
                map.write(len - 8, &[0; 8]);
            }
            // SAFETY: one readable byte, written over one that is zero in an honest region.
            let written = unsafe { libc::pwrite(fd, [0_u8].as_ptr().cast(), 1, 380) };
            tried(&format!("{name}{how} write"), written == 1);
        }
        // SAFETY: the mapping's own range.
        let protected = unsafe { libc::mprotect(map.base().cast(), len, read_write) };
        tried(&format!("{name} mprotect"), protected == 0);
        if name == "down" {
            tried("down hole", punch(raw, len));
        }
    }
    worked.join(", ")
}
