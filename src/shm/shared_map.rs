//! A map of a pipe's memory. A forked child shares it with its parent: the ends of a pipe may be used
//! by several processes, one after the other.
#![allow(unsafe_code, reason = "promises that a mapping stays where it is")]

use std::fs::File;
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};

use super::region::OwnRegion;
use super::transport::Backing;
use crate::error::{Error, Result};

#[derive(Debug)]
struct SharedMap(MmapRaw);

/// Maps the first `len` bytes of a file, which is sealed against being truncated.
///
/// # Errors
///
/// [`ErrorKind::Os`](crate::ErrorKind::Os).
pub(crate) fn map(file: &File, len: usize) -> Result<OwnRegion> {
    let map = MmapOptions::new().len(len).map_raw(file);
    let map = map.map_err(|e| Error::os(format!("cannot map {len} bytes"), e))?;
    OwnRegion::over(Arc::new(SharedMap(map)))
}

// SAFETY: a writable map of `len()` bytes, at a page's start, which is unmapped when the value is
// dropped and never moved before that. Its file keeps its length: `map` asks its callers for it.
unsafe impl Backing for SharedMap {
    fn start(&self) -> NonNull<u8> {
        // Never null: memmap2 returns an error instead.
        NonNull::new(self.0.as_mut_ptr()).unwrap_or(NonNull::dangling())
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn is_writable(&self) -> bool {
        true
    }
}
