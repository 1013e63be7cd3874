//! Memory that two processes share. They trust each other.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// A mapped file in memory. It stays mapped while the process lives, because the ends keep
/// pointers into it.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping lives as long as the process; what is reached through it are
// atomics, and bytes that the protocols hand from one end to the other.
unsafe impl Send for Memory {}

impl Memory {
    /// Makes memory, and the file to hand to the other process.
    ///
    /// # Errors
    ///
    /// Fails if the system call fails.
    pub fn create(len: usize) -> io::Result<(Self, OwnedFd)> {
        let file = super::sys::memfd(len)?;
        Ok((Self::map(&file)?, file))
    }

    /// Maps all of a file and touches every page.
    ///
    /// # Errors
    ///
    /// Fails if the system call fails.
    pub fn map(file: &impl AsFd) -> io::Result<Self> {
        let fd = file.as_fd();
        let len = std::fs::File::from(fd.try_clone_to_owned()?).metadata()?.len() as usize;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { base, len })
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether its length is zero.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        debug_assert!(offset + len <= self.len, "{offset} + {len} in {}", self.len);
        // SAFETY: the protocols stay inside the mapping: they checked their sizes when
        // they were made.
        unsafe { self.base.as_ptr().add(offset) }
    }

    /// Returns the word at a multiple of eight.
    #[inline]
    pub(crate) fn word(&self, offset: usize) -> &'static AtomicU64 {
        // SAFETY: mapped for ever, aligned, and only ever used as an atomic.
        unsafe { AtomicU64::from_ptr(self.at(offset, 8).cast()) }
    }

    /// Returns the lower half of the word at a multiple of eight, for a futex.
    #[inline]
    pub(super) fn half(&self, offset: usize) -> &'static AtomicU32 {
        // SAFETY: mapped for ever, aligned; the kernel only compares it, and no code
        // stores to it.
        unsafe { AtomicU32::from_ptr(self.at(offset, 4).cast()) }
    }

    /// Returns bytes that belong to this end until it publishes them.
    #[inline]
    #[allow(clippy::mut_from_ref, reason = "the protocol hands out each range once")]
    pub(crate) fn bytes(&self, offset: usize, len: usize) -> &mut [u8] {
        // SAFETY: mapped for ever; the other end does not touch them before they are published.
        unsafe { std::slice::from_raw_parts_mut(self.at(offset, len), len) }
    }
}
