//! The memory of a status page: a memfd that this process alone writes, and others read by its
//! descriptor.

use std::ffi::CStr;
use std::fs::File;

use super::file_map;
use super::layout::{as_u64, as_usize};
use super::region::OwnRegion;
use super::words::Table;
use crate::error::Result;
use crate::sync::{Ordering, fence};
use crate::sys::memfd::{self, SEALS_DOWN};

/// So many blocks of `WORDS` words, the first of which is a sequence number.
#[derive(Debug)]
pub(crate) struct StatusMemory<const WORDS: usize> {
    /// Open for as long as the page is to be found.
    file: File,
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
        Ok(Self { file, blocks, reserved: 0 })
    }

    #[cfg(test)]
    pub(crate) fn file(&self) -> &File {
        &self.file
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
            memfd::reserve(&self.file, as_u64(from), as_u64((index + 1) * Self::BLOCK - from))?;
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
