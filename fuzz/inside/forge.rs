//! Writes to a worker's region that no honest worker makes.

use std::fs::File;

use crate::shm::layout::{RingLayout, as_usize, control};
use crate::shm::memfd;
use crate::shm::region::OwnRegion;
use crate::sync::Ordering;

/// Writes any word of the region that the worker's process can write: all of the region up.
#[derive(Clone)]
pub(super) struct Forge {
    region: OwnRegion,
    len: usize,
}

impl Forge {
    /// Maps the region once more, beside the map of the honest code.
    pub(super) fn new(up: &File) -> Self {
        let len = up.metadata().unwrap().len();
        Self { region: memfd::map_own(up, len).unwrap(), len: as_usize(len) }
    }

    /// Stores a word at `offset`, taken modulo the region's length and rounded down to a word.
    pub(super) fn set_word(&self, offset: usize, value: u64) {
        let offset = (offset % self.len) & !7;
        self.region.u64_at(offset).unwrap().store(value, Ordering::Release);
    }

    /// Writes the whole words of `bytes` into a ring, at most once around, from the line at
    /// `position` on.
    pub(super) fn write_ring(&self, ring: &RingLayout, position: u64, bytes: &[u8]) {
        let (start, capacity) = (as_usize(ring.offset), as_usize(ring.capacity));
        let line = as_usize(position) & !63;
        for (index, word) in bytes.as_chunks::<8>().0.iter().take(capacity / 8).enumerate() {
            let inside = line.wrapping_add(8 * index) % capacity;
            let word = u64::from_le_bytes(*word);
            self.region.u64_at(start + inside).unwrap().store(word, Ordering::Relaxed);
        }
    }

    /// Publishes a head of the ring down: how far the worker claims to have read.
    pub(super) fn set_head(&self, side: usize, head: u64) {
        self.region.u64_at(side + control::HEAD).unwrap().store(head, Ordering::Release);
    }

    /// Rings a bell of the parent's that many times, without a wake.
    pub(super) fn ring_bell(&self, side: usize, times: u32) {
        let bell = self.region.u32_at(side + control::BELL).unwrap();
        bell.store(bell.load(Ordering::Relaxed).wrapping_add(times), Ordering::Release);
    }
}
