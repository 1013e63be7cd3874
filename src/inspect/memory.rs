//! Bytes that are copied out of memory that others write.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::shm::layout::{as_u64, as_usize};

/// The memory of a region.
pub(crate) trait Memory {
    fn len(&self) -> u64;

    /// Fills `out` with the bytes from `offset` on.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
}

/// The file of a region, which keeps its length.
#[derive(Debug)]
pub(super) struct RegionFile {
    pub(super) file: File,
    pub(super) len: u64,
}

impl Memory for RegionFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }
}

impl Memory for Vec<u8> {
    fn len(&self) -> u64 {
        as_u64(Self::len(self))
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = as_usize(offset);
        let end = start.saturating_add(out.len());
        let bytes = self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }
}

/// The u64 at an offset of bytes; 0 outside.
pub(super) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let bytes = bytes.get(offset..).and_then(<[u8]>::first_chunk);
    bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The u32 at an offset of bytes; 0 outside.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let bytes = bytes.get(offset..).and_then(<[u8]>::first_chunk);
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}
