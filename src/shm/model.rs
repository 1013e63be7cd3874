//! Memory of a region for the model checker: the same offsets, loom's atomics.
#![allow(unsafe_code, reason = "model checking only")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "model checking only")]

use std::ptr::NonNull;
use std::sync::Arc;

use loom::cell::UnsafeCell;

use super::region::{OwnRegion, PeerRegion};
use super::transport::Backing;
use crate::sync::{AtomicU32, AtomicU64};

/// Words by offset, payload bytes, and one tracked cell per cache line of payload.
#[derive(Debug)]
struct ModelMemory {
    words: Vec<AtomicU64>,
    halves: Vec<AtomicU32>,
    bytes: std::cell::UnsafeCell<Box<[u8]>>,
    lines: Vec<UnsafeCell<()>>,
}

// SAFETY: plain bytes, which are reached through raw pointers only, and the checker's types,
// which report every access that another one does not happen before.
unsafe impl Send for ModelMemory {}
// SAFETY: as above.
unsafe impl Sync for ModelMemory {}

/// A region of `len` bytes of zeros, as its owner and as its peer have it.
pub(crate) fn region(len: usize) -> (OwnRegion, PeerRegion) {
    let memory = Arc::new(ModelMemory {
        words: (0..len / 8).map(|_| AtomicU64::new(0)).collect(),
        halves: (0..len / 4).map(|_| AtomicU32::new(0)).collect(),
        bytes: std::cell::UnsafeCell::new(vec![0; len].into_boxed_slice()),
        lines: (0..len / 64).map(|_| UnsafeCell::new(())).collect(),
    });
    (OwnRegion::over(memory.clone()).unwrap(), PeerRegion::over(memory))
}

// SAFETY: the box and the vectors are never replaced or resized while the value lives, and the
// words are elements of the vectors.
unsafe impl Backing for ModelMemory {
    fn start(&self) -> NonNull<u8> {
        // SAFETY: the box lives as long as the value and is never replaced.
        NonNull::new(unsafe { (*self.bytes.get()).as_mut_ptr() }).unwrap()
    }

    fn len(&self) -> usize {
        self.words.len() * 8
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn u64_at(&self, offset: usize) -> NonNull<AtomicU64> {
        NonNull::from(&self.words[offset / 8])
    }

    fn u32_at(&self, offset: usize) -> NonNull<AtomicU32> {
        NonNull::from(&self.halves[offset / 4])
    }

    fn track_write(&self, offset: usize, len: usize) {
        for line in offset / 64..(offset + len).div_ceil(64) {
            self.lines[line].with_mut(|_| ());
        }
    }

    fn track_read(&self, offset: usize, len: usize) {
        for line in offset / 64..(offset + len).div_ceil(64) {
            self.lines[line].with(|_| ());
        }
    }
}
