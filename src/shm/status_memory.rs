//! The memory of a status page: a memfd that this process alone writes, and others read by its
//! descriptor.
//!
//! All of it is mapped before it is sealed, as it can never be mapped for writing again. But only the start
//! can be used, and has memory: what is behind it costs addresses alone, also in a process that has locked
//! all its memory (`mlockall`). [`StatusMemory::make_ready`] makes more of it usable. Nothing here
//! allocates but [`StatusMemory::create`], and writing makes no system call.
#![allow(unsafe_code, reason = "a map whose pages become usable one after another")]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::fs::MetadataExt;
use std::ptr::{self, NonNull};

use super::layout::as_u64;
use super::second_map::page_size;
use crate::error::{Error, Result};
use crate::sync::{AtomicU64, Ordering, fence};
use crate::sys::check;
use crate::sys::fork::{self, Kept};
use crate::sys::memfd::{self, SEALS_DOWN};

/// The file, which is open for as long as the page is to be found. A host that closes descriptors that it
/// does not know, as daemons do, may use the number again: what it has there is not touched.
#[derive(Debug)]
struct PageFile {
    /// `Some` until this is dropped.
    file: Option<File>,
    id: (u64, u64),
}

impl PageFile {
    fn new(file: File) -> io::Result<Self> {
        Ok(Self { id: id_of(&file)?, file: Some(file) })
    }

    fn get(&self) -> Result<&File> {
        let file = self.file.as_ref().filter(|file| id_of(file).is_ok_and(|id| id == self.id));
        let closed = || io::Error::from_raw_os_error(libc::EBADF);
        file.ok_or_else(|| Error::os("the descriptor of the status page was closed", closed()))
    }
}

impl Drop for PageFile {
    fn drop(&mut self) {
        let is_there =
            self.file.as_ref().is_some_and(|file| id_of(file).is_ok_and(|id| id == self.id));
        if !is_there && let Some(file) = self.file.take() {
            let _ = file.into_raw_fd();
        }
    }
}

fn id_of(file: &File) -> io::Result<(u64, u64)> {
    file.metadata().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// A map of a file for reading and writing, of which no page can be touched at first.
#[derive(Debug)]
struct Map {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the map belongs to no thread, and its words are atomics.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    fn of(file: &File, len: usize) -> io::Result<Self> {
        let fd = file.as_raw_fd();
        let (anywhere, shared) = (ptr::null_mut(), libc::MAP_SHARED);
        // SAFETY: a new map at a place that the kernel chooses.
        let start = unsafe { libc::mmap(anywhere, len, libc::PROT_NONE, shared, fd, 0) };
        let start = NonNull::new(start).filter(|start| start.as_ptr() != libc::MAP_FAILED);
        let start = start.ok_or_else(io::Error::last_os_error)?.cast();
        let map = Self { start, len };
        // In a process that locks all memory to come, it is locked already. It need not be.
        // SAFETY: changes nothing but whether pages of this map can be paged out.
        let _ = unsafe { libc::munlock(start.as_ptr().cast(), len) };
        Ok(map)
    }

    /// Has the first `len` bytes be used from now on.
    fn open(&self, len: usize) -> io::Result<()> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let len = len.min(self.len);
        // SAFETY: pages of this map, to which no reference leads that this could make invalid.
        check(unsafe { libc::mprotect(self.start.as_ptr().cast(), len, access) })?;
        Ok(())
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: mapped by `of` with this length, and no reference outlives this.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// So many blocks of `WORDS` words, the first of which is a sequence number.
#[derive(Debug)]
pub(crate) struct StatusMemory<const WORDS: usize> {
    file: PageFile,
    /// Dropped before the map: what takes its place in forked children must not be put where there is none.
    _kept: Kept,
    map: Map,
    /// How many blocks from the start on can be used, and have their memory.
    ready: usize,
}

/// How often a page is made anew.
const ATTEMPTS: u32 = 8;

/// So many bytes more are made ready at a time.
fn step() -> usize {
    page_size().max(16 << 10)
}

impl<const WORDS: usize> StatusMemory<WORDS> {
    const BLOCK: usize = WORDS * size_of::<u64>();

    /// Makes the memory, of which nothing is ready. It is sealed after it is mapped: from then on no process
    /// can map it for writing, write it, or change its length. If another one has opened it for writing
    /// before, and so may have such a map, it is made anew.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Os`](crate::ErrorKind::Os).
    pub(crate) fn create(name: &CStr, blocks: usize) -> Result<Self> {
        Self::create_beside(name, blocks, |_| ())
    }

    /// As [`StatusMemory::create`]. `others` is what happens between the memory's making and its sealing.
    fn create_beside(name: &CStr, blocks: usize, mut others: impl FnMut(&File)) -> Result<Self> {
        fork::watch()?;
        let len = blocks.saturating_mul(Self::BLOCK).next_multiple_of(step());
        for _ in 0..ATTEMPTS {
            let file = memfd::create_sparse(name, as_u64(len))?;
            let map = Map::of(&file, len)
                .map_err(|e| Error::os(format!("cannot map {len} bytes of a status page"), e))?;
            others(&file);
            memfd::seal(&file, SEALS_DOWN)?;
            // Where the kernel does not tell, the page is used: most likely no process has opened it.
            if !memfd::is_open_for_writing(&file).unwrap_or(false) {
                return Self::of(file, map);
            }
        }
        let busy = io::Error::from_raw_os_error(libc::EBUSY);
        Err(Error::os("another process opens each status page before it is sealed", busy))
    }

    fn of(file: File, map: Map) -> Result<Self> {
        // SAFETY: a whole map, which is dropped after what is returned. Its words are atomics, which may
        // have any value.
        let kept = unsafe { fork::keep(map.start, map.len) };
        let file = PageFile::new(file).map_err(|e| Error::os("cannot stat a memfd", e))?;
        Ok(Self { file, _kept: kept, map, ready: 0 })
    }

    #[cfg(test)]
    pub(crate) fn file(&self) -> &File {
        self.file.get().unwrap()
    }

    /// How many blocks from the start on can be written.
    pub(crate) fn ready(&self) -> usize {
        self.ready
    }

    /// Has the first so many blocks be written from now on, and some more. Their memory is reserved, so that
    /// a lack of it is an error here, and no signal later.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Os`](crate::ErrorKind::Os): as many as before can be written.
    pub(crate) fn make_ready(&mut self, blocks: usize) -> Result<()> {
        if blocks <= self.ready {
            return Ok(());
        }
        let from = self.ready * Self::BLOCK;
        let to = blocks.saturating_mul(Self::BLOCK).next_multiple_of(step()).min(self.map.len);
        memfd::reserve(self.file.get()?, as_u64(from), as_u64(to.saturating_sub(from)))?;
        self.map.open(to).map_err(|e| Error::os("cannot use more of a status page", e))?;
        self.ready = to / Self::BLOCK;
        Ok(())
    }

    fn block(&self, index: usize) -> Option<&[AtomicU64; WORDS]> {
        if index >= self.ready {
            return None;
        }
        // SAFETY: the block lies in the map, as `make_ready` has seen to.
        let block = unsafe { self.map.start.add(index * Self::BLOCK) };
        // SAFETY: live and aligned words, which can be read and written as `make_ready` has seen to. The map
        // outlives the borrow of `self`, and atomics may be aliased.
        Some(unsafe { block.cast().as_ref() })
    }

    /// Writes a block, unless it has these words. The first of the words is not written: the sequence number
    /// is in its place. Returns whether it has changed; false for one that is not ready.
    pub(crate) fn write(&mut self, index: usize, words: &[u64; WORDS]) -> bool {
        let Some([sequence, block @ ..]) = self.block(index).map(|block| block.as_slice()) else {
            return false;
        };
        let mut pairs = block.iter().zip(words.iter().skip(1));
        if pairs.all(|(word, value)| word.load(Ordering::Relaxed) == *value) {
            return false;
        }
        let number = sequence.load(Ordering::Relaxed);
        // A reader that finds it odd, or a checksum that is wrong, copies the block again. Readers copy
        // by a system call, so that there is nothing for these orderings to pair with but the checksum.
        sequence.store(number.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        for (word, value) in block.iter().zip(words.iter().skip(1)) {
            word.store(*value, Ordering::Relaxed);
        }
        sequence.store(number.wrapping_add(2), Ordering::Release);
        true
    }
}

#[cfg(all(test, not(slipring_tsan)))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::fs;
    use std::os::fd::{AsFd, AsRawFd};

    use super::*;
    use crate::process::testing::{TempDir, alone, inheritable_duplicate_at};

    #[test]
    fn memory_that_another_could_have_mapped_before_the_seal_is_not_used() {
        let map = |file: &File| {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let opened = File::options().read(true).write(true).open(path).unwrap();
            memmap2::MmapRaw::map_raw(&opened).unwrap()
        };
        let mut maps = Vec::new();
        let mut made = 0;
        let memory = StatusMemory::<256>::create_beside(c"test", 1, |file| {
            made += 1;
            maps.extend((made <= 2).then(|| map(file)));
        });
        memory.unwrap();
        assert_eq!(made, 3);
        let refused = StatusMemory::<256>::create_beside(c"test", 1, |file| maps.push(map(file)));
        assert_eq!(refused.unwrap_err().kind(), crate::ErrorKind::Os);
    }

    #[test]
    fn what_the_host_has_put_at_the_number_is_neither_written_nor_closed() {
        alone(|| {
            let dir = TempDir::new();
            let path = dir.path().join("file");
            fs::write(&path, "the host's").unwrap();
            let mut memory = StatusMemory::<256>::create(c"test", 99).unwrap();
            memory.make_ready(1).unwrap();
            assert!(memory.write(0, &[1; 256]));
            let number = memory.file().as_raw_fd();
            let theirs = File::options().write(true).open(&path).unwrap();
            let _theirs = inheritable_duplicate_at(theirs.as_fd(), number);
            // What has its memory needs no descriptor.
            assert!(memory.write(0, &[2; 256]));
            assert!(memory.make_ready(99).is_err() && !memory.write(98, &[1; 256]));
            drop(memory);
            assert_eq!(fs::read_to_string(&path).unwrap(), "the host's");
            assert_eq!(fs::read_link(format!("/proc/self/fd/{number}")).unwrap(), path);
        });
    }
}
