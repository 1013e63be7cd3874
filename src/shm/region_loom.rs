//! The backing of a region under the model checker: the same offsets, loom's atomics.
#![allow(unsafe_code, reason = "model checking only")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "model checking only")]

use std::ptr::NonNull;

use loom::cell::UnsafeCell;

use crate::sync::{AtomicU32, AtomicU64};

/// Words by offset, payload bytes, and one tracked cell per cache line of payload.
#[derive(Debug)]
pub(crate) struct Backing {
    words: Vec<AtomicU64>,
    halves: Vec<AtomicU32>,
    bytes: std::cell::UnsafeCell<Box<[u8]>>,
    lines: Vec<UnsafeCell<()>>,
}

impl Backing {
    pub(crate) fn new(len: usize) -> Self {
        Self {
            words: (0..len / 8).map(|_| AtomicU64::new(0)).collect(),
            halves: (0..len / 4).map(|_| AtomicU32::new(0)).collect(),
            bytes: std::cell::UnsafeCell::new(vec![0; len].into_boxed_slice()),
            lines: (0..len / 64).map(|_| UnsafeCell::new(())).collect(),
        }
    }

    pub(super) fn map(_: &std::fs::File, len: usize, _: bool) -> crate::error::Result<Self> {
        Ok(Self::new(len))
    }

    pub(super) fn event(&self, _: usize) -> Option<super::event::SharedEvent> {
        None
    }

    pub(super) fn len(&self) -> usize {
        self.words.len() * 8
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.byte_at(0)
    }

    pub(super) fn byte_at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset <= self.len());
        // SAFETY: the box lives as long as the backing and is never replaced.
        let start = unsafe { (*self.bytes.get()).as_mut_ptr() };
        // SAFETY: inside the box, as just checked.
        NonNull::new(unsafe { start.add(offset) }).unwrap()
    }

    pub(super) fn u64_at(&self, offset: usize) -> NonNull<AtomicU64> {
        NonNull::from(&self.words[offset / 8])
    }

    pub(super) fn u32_at(&self, offset: usize) -> NonNull<AtomicU32> {
        NonNull::from(&self.halves[offset / 4])
    }

    #[expect(clippy::unused_self, reason = "there are no pages")]
    pub(super) fn prefault(&self, _: usize, _: usize) {}

    pub(super) fn track_write(&self, offset: usize, len: usize) {
        for line in offset / 64..(offset + len).div_ceil(64) {
            self.lines[line].with_mut(|_| ());
        }
    }

    pub(super) fn track_read(&self, offset: usize, len: usize) {
        for line in offset / 64..(offset + len).div_ceil(64) {
            self.lines[line].with(|_| ());
        }
    }
}
