//! The memory of a status page: a memfd that this process alone writes, and others read by its
//! descriptor.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::MetadataExt;

use super::file_map;
use super::layout::{as_u64, as_usize};
use super::region::OwnRegion;
use super::words::Table;
use crate::error::{Error, Result};
use crate::sync::{Ordering, fence};
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
        if self.get().is_err()
            && let Some(file) = self.file.take()
        {
            let _ = file.into_raw_fd();
        }
    }
}

fn id_of(file: &File) -> io::Result<(u64, u64)> {
    file.metadata().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// So many blocks of `WORDS` words, the first of which is a sequence number.
#[derive(Debug)]
pub(crate) struct StatusMemory<const WORDS: usize> {
    file: PageFile,
    blocks: Table<WORDS>,
    /// How many blocks from the start on have their memory.
    reserved: usize,
}

impl<const WORDS: usize> StatusMemory<WORDS> {
    const BLOCK: usize = WORDS * size_of::<u64>();

    /// Makes the memory. It is sealed after it is mapped: from then on no process can map it for
    /// writing, write it, or change its length.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Os`](crate::ErrorKind::Os).
    pub(crate) fn create(name: &CStr, blocks: usize) -> Result<Self> {
        let len = as_u64(blocks.saturating_mul(Self::BLOCK));
        let file = memfd::create_sparse(name, len)?;
        let map = file_map::map(&file, as_usize(len), true)?;
        memfd::seal(&file, SEALS_DOWN)?;
        let blocks = OwnRegion::over(map)?.table(0, blocks)?;
        let file = PageFile::new(file).map_err(|e| Error::os("cannot stat a memfd", e))?;
        Ok(Self { file, blocks, reserved: 0 })
    }

    #[cfg(test)]
    pub(crate) fn file(&self) -> &File {
        self.file.get().unwrap()
    }

    /// Writes a block, unless it has these words. One without memory yet gets it first, so that a lack of
    /// memory is an error here. The first of the words is not written: the sequence number is in its place.
    /// Returns whether it has changed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Os`](crate::ErrorKind::Os): nothing was written.
    pub(crate) fn write(&mut self, index: usize, words: &[u64; WORDS]) -> Result<bool> {
        if index >= self.reserved {
            let from = self.reserved * Self::BLOCK;
            memfd::reserve(
                self.file.get()?,
                as_u64(from),
                as_u64((index + 1) * Self::BLOCK - from),
            )?;
            self.reserved = index + 1;
        }
        let [sequence, block @ ..] = self.blocks.entry(as_u64(index)).as_slice() else {
            return Ok(false);
        };
        let mut pairs = block.iter().zip(words.iter().skip(1));
        if pairs.all(|(word, value)| word.load(Ordering::Relaxed) == *value) {
            return Ok(false);
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
        Ok(true)
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
    fn what_the_host_has_put_at_the_number_is_neither_written_nor_closed() {
        alone(|| {
            let dir = TempDir::new();
            let path = dir.path().join("file");
            fs::write(&path, "the host's").unwrap();
            let mut memory = StatusMemory::<256>::create(c"test", 9).unwrap();
            assert!(memory.write(0, &[1; 256]).unwrap());
            let number = memory.file().as_raw_fd();
            let theirs = File::options().write(true).open(&path).unwrap();
            let _theirs = inheritable_duplicate_at(theirs.as_fd(), number);
            // What has its memory needs no descriptor.
            assert!(memory.write(0, &[2; 256]).unwrap());
            assert!(memory.write(8, &[1; 256]).is_err());
            drop(memory);
            assert_eq!(fs::read_to_string(&path).unwrap(), "the host's");
            assert_eq!(fs::read_link(format!("/proc/self/fd/{number}")).unwrap(), path);
        });
    }
}
