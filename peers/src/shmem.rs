//! shmem-ipc: a ring of bytes each way, with eventfds.
//!
//! Each message takes a slot of one size, with its length in the first line, and the
//! ring holds a whole number of slots: so every message is contiguous.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::process::Stdio;

use shmem_ipc::sharedring::{Receiver, Sender};
use slipring_bench::end::{End, put_stamp, stamp};
use slipring_bench::links::{EndSession, WorkerProcess};
use slipring_bench::work::Session;

use crate::{RING, failed, spin};

const LINE: usize = 64;

/// An odd number of lines, so that the below can be solved.
fn slot_len(len: usize) -> usize {
    ((len.div_ceil(LINE) + 1) | 1) * LINE
}

/// A whole number of slots, that with the line before them is a whole number of pages:
/// the library stretches a ring to the end of its last page.
fn capacity(len: usize) -> usize {
    let slot = slot_len(len);
    let fits = |slots: &usize| (slots * slot + LINE).is_multiple_of(4096);
    let slots = ((RING / slot).max(4)..).find(fits);
    slots.unwrap_or(4) * slot
}

struct Ring {
    sender: Sender<u8>,
    receiver: Receiver<u8>,
    slot: usize,
    is_blocking: bool,
}

impl End for Ring {
    #[inline]
    fn send(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> io::Result<()> {
        let slot = self.slot;
        let Self { sender, is_blocking, .. } = self;
        if *is_blocking {
            sender.block_until_writable().map_err(failed)?;
        }
        spin(|| {
            let count = sender.sender_mut().write_count().map_err(failed)?;
            Ok((count >= slot).then_some(()))
        })?;
        let write = |start: *mut u8, _: usize| {
            // SAFETY: the ring has room for a slot, which is contiguous.
            let bytes = unsafe { std::slice::from_raw_parts_mut(start, slot) };
            let (head, payload) = bytes.split_at_mut(LINE);
            put_stamp(head, len as u64);
            if let Some(payload) = payload.get_mut(..len) {
                fill(payload);
            }
            slot
        };
        if *is_blocking {
            sender.send_raw(write).map(drop).map_err(failed)
        } else {
            // Without the eventfd, for which neither end waits.
            sender.sender_mut().send(write).map(drop).map_err(failed)
        }
    }

    #[inline]
    fn recv<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> io::Result<R> {
        let slot = self.slot;
        let Self { receiver, is_blocking, .. } = self;
        if *is_blocking {
            receiver.block_until_readable().map_err(failed)?;
        } else {
            spin(|| {
                let count = receiver.receiver_mut().read_count().map_err(failed)?;
                Ok((count >= slot).then_some(()))
            })?;
        }
        let mut result = None;
        let view = |start: *const u8, _: usize| {
            // SAFETY: the ring holds a slot there, which is contiguous.
            let bytes = unsafe { std::slice::from_raw_parts(start, slot) };
            let (head, payload) = bytes.split_at(LINE);
            result = payload.get(..stamp(head) as usize).map(read);
            slot
        };
        if *is_blocking {
            receiver.receive_raw(view).map_err(failed)?;
        } else {
            receiver.receiver_mut().recv(view).map_err(failed)?;
        }
        result.ok_or(io::ErrorKind::InvalidData.into())
    }
}

/// Has the worker inherit a descriptor.
fn inherit(fd: &impl AsRawFd) -> RawFd {
    // SAFETY: takes numbers only.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) };
    fd.as_raw_fd()
}

/// Messages of up to `len` bytes.
pub fn start(len: usize, is_blocking: bool) -> io::Result<Box<dyn Session>> {
    let sender = Sender::<u8>::new(capacity(len)).map_err(failed)?;
    let receiver = Receiver::<u8>::new(capacity(len)).map_err(failed)?;
    let fds = [
        inherit(sender.memfd().as_file()),
        inherit(sender.empty_signal()),
        inherit(sender.full_signal()),
        inherit(receiver.memfd().as_file()),
        inherit(receiver.empty_signal()),
        inherit(receiver.full_signal()),
    ];
    let fds = fds.map(|fd| fd.to_string()).join(",");
    let wait = if is_blocking { "block" } else { "spin" };
    let args = ["shmem-ipc", &fds, &len.to_string(), wait];
    let worker = WorkerProcess::start(&args, Stdio::null(), Stdio::inherit())?;
    EndSession::begin(Ring { sender, receiver, slot: slot_len(len), is_blocking }, worker)
}

/// The worker's side of [`start`].
pub fn serve(fds: &str, len: usize, is_blocking: bool) -> io::Result<()> {
    let mut files = fds.split(',').map(|fd| {
        let fd: RawFd = fd.parse().map_err(failed)?;
        // SAFETY: the parent passed it on for this process alone.
        io::Result::Ok(unsafe { File::from_raw_fd(fd) })
    });
    let mut file = || files.next().unwrap_or(Err(io::ErrorKind::InvalidInput.into()));
    let mut end = || {
        let capacity = capacity(len);
        let receiver = Receiver::open(capacity, file()?, file()?, file()?).map_err(failed)?;
        let sender = Sender::open(capacity, file()?, file()?, file()?).map_err(failed)?;
        Ok(Ring { sender, receiver, slot: slot_len(len), is_blocking })
    };
    crate::serve(end())
}
