//! An end of a pipe as its descriptors.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::layout::{
    CAPACITY_AT, Direction, MAGIC, MAGIC_AT, RINGS_AT, VERSION, VERSION_AT, check_capacity,
    memory_len,
};
use super::sockets::{Line, Sockets};
use super::{PipeReader, PipeWriter};
use crate::error::{Error, Result};
use crate::shm::layout::{as_u64, as_usize};
use crate::shm::region::OwnRegion;
use crate::shm::shared_map;
use crate::sync::Ordering;
use crate::sys::memfd::{self, SEALS_UP};
use crate::sys::wake_socket::WakeSocket;

/// One end of a pipe, which is not mapped yet: three descriptors.
///
/// It is closed when it and all that was made of it by [`Self::attach`] are dropped, in each process
/// that holds it.
#[derive(Debug)]
pub struct PipeEnd {
    memory: Arc<File>,
    sockets: Arc<Sockets>,
    is_first: bool,
}

/// An end that can be used. A pipe of one direction is read at its first end and written at its second.
#[derive(Debug)]
pub struct Attached {
    /// Takes messages, if the end has such a direction.
    pub reader: Option<PipeReader>,
    /// Sends messages, if the end has such a direction.
    pub writer: Option<PipeWriter>,
}

/// Makes a pipe whose rings have `capacity` bytes: a power of two, 4 KiB at least. Messages can be
/// longer. All memory is reserved: a pipe takes it from the start. A duplex pipe has two rings.
///
/// # Errors
///
/// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) for another capacity;
/// [`ErrorKind::Os`](crate::ErrorKind::Os) if memory or descriptors run out.
pub fn pair(capacity: usize, is_duplex: bool) -> Result<(PipeEnd, PipeEnd)> {
    check_capacity(capacity)?;
    let rings = if is_duplex { 2 } else { 1 };
    let len = memory_len(rings, capacity);
    let file = memfd::create(c"slipring-pipe", as_u64(len))?;
    memfd::seal(&file, SEALS_UP)?;
    let memory = shared_map::map(&file, len)?;
    for index in 0..rings {
        super::prepare(&memory, &Direction::new(index, capacity))?;
    }
    memory.u64_at(VERSION_AT)?.store(VERSION, Ordering::Relaxed);
    memory.u64_at(CAPACITY_AT)?.store(as_u64(capacity), Ordering::Relaxed);
    memory.u64_at(RINGS_AT)?.store(as_u64(rings), Ordering::Relaxed);
    memory.u64_at(MAGIC_AT)?.store(MAGIC, Ordering::Release);
    let file = Arc::new(file);
    // Bytes for the first end wake the first socket of a pair, and room for the second one's does, too.
    let ([bytes, other_bytes], [room, other_room]) = (WakeSocket::pair()?, WakeSocket::pair()?);
    let end = |bytes, room, is_first| PipeEnd {
        memory: Arc::clone(&file),
        sockets: Arc::new(Sockets::new(bytes, room)),
        is_first,
    };
    Ok((end(bytes, room, true), end(other_bytes, other_room, false)))
}

impl PipeEnd {
    /// Makes an end of the descriptors that [`Self::descriptors`] has returned, in this process or
    /// another one, and of what [`Self::is_first`] has returned.
    #[must_use]
    pub fn from_descriptors([memory, bytes, room]: [OwnedFd; 3], is_first: bool) -> Self {
        let sockets = Sockets::new(WakeSocket::of(bytes), WakeSocket::of(room));
        Self { memory: Arc::new(File::from(memory)), sockets: Arc::new(sockets), is_first }
    }

    /// Returns the descriptors of this end.
    #[must_use]
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 3] {
        let socket = |line| self.sockets.of(line).as_fd();
        [self.memory.as_fd(), socket(Line::Bytes), socket(Line::Room)]
    }

    /// Returns whether this is the first of both ends.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.is_first
    }

    /// Maps the memory. To be called once in a process; the result stays usable in a forked child,
    /// which holds the end as well.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) if the descriptor is not that of a pipe of
    /// this version; [`ErrorKind::Os`](crate::ErrorKind::Os).
    pub fn attach(&self) -> Result<Attached> {
        // First: with these seals the file cannot shrink any more.
        memfd::check_seals(&self.memory, SEALS_UP)?;
        let len = self.memory.metadata().map_err(|e| Error::os("cannot stat a pipe", e))?.len();
        let memory = shared_map::map(&self.memory, as_usize(len))?;
        let (rings, capacity) = check_header(&memory, len)?;
        let [first, second] = [0, 1].map(|index| Direction::new(index, capacity));
        let is_duplex = rings == 2;
        let (into, out) = match self.is_first {
            true => (Some(first), is_duplex.then_some(second)),
            false => (is_duplex.then_some(second), Some(first)),
        };
        if into.is_none() {
            self.sockets.tell_none();
        }
        let reader = into.map(|at| super::reader(&memory, &at, &self.sockets)).transpose()?;
        let writer = out.map(|at| super::writer(&memory, &at, &self.sockets)).transpose()?;
        Ok(Attached { reader, writer })
    }
}

impl Drop for PipeEnd {
    /// An end that was never used has to be mapped to tell the other one that it is closed.
    fn drop(&mut self) {
        if !self.sockets.is_told() {
            // If that fails, the other end notices a moment later.
            let _ = self.attach();
        }
    }
}

/// Checks the header once. Nothing looks at it again.
fn check_header(memory: &OwnRegion, len: u64) -> Result<(usize, usize)> {
    let word = |at| memory.u64_at(at).map(|word| word.load(Ordering::Acquire));
    let (magic, version) = (word(MAGIC_AT)?, word(VERSION_AT)?);
    if (magic, version) != (MAGIC, VERSION) {
        return Err(Error::mismatch(format!(
            "a pipe's memory with magic {magic:#x} and version {version}, expected {MAGIC:#x} and \
             {VERSION}"
        )));
    }
    let (capacity, rings) = (as_usize(word(CAPACITY_AT)?), as_usize(word(RINGS_AT)?));
    let is_sane = check_capacity(capacity).is_ok() && (1..=2).contains(&rings);
    if !is_sane || as_u64(memory_len(rings, capacity)) != len {
        return Err(Error::mismatch(format!(
            "a pipe's memory of {len} bytes with {rings} rings of {capacity} bytes"
        )));
    }
    Ok((rings, capacity))
}
