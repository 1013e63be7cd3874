//! The pages of a region in this process.
#![allow(unsafe_code, reason = "pointers into a mapping")]

use std::fs::File;
use std::ptr::NonNull;

use memmap2::{Advice, MmapOptions, MmapRaw};

use super::event::SharedEvent;
#[cfg(feature = "named")]
use super::named::Segment;
use crate::error::{Error, Result};
use crate::sync::{AtomicU32, AtomicU64};
use crate::sys::fork::{self, Kept};

/// The pages of a region in this process.
#[derive(Debug)]
pub(super) enum Backing {
    File {
        /// Dropped first: what takes the place of the map in forked children must not be put
        /// where there is none.
        kept: Option<Kept>,
        map: MmapRaw,
    },
    /// Writable on both sides: who writes to what is a convention there.
    #[cfg(feature = "named")]
    Named(std::sync::Arc<Segment>),
}

impl Backing {
    pub(super) fn map(file: &File, len: usize, is_writable: bool) -> Result<Self> {
        fork::watch()?;
        let mut options = MmapOptions::new();
        options.len(len);
        let map = if is_writable { options.map_raw(file) } else { options.map_raw_read_only(file) };
        let map = map.map_err(|e| Error::os(format!("cannot map {len} bytes"), e))?;
        // A host that forks without exec would otherwise share the map with its child, in
        // spite of the seal. What can only be read stays readable there: replies that the
        // child inherited lie in it.
        let kept = is_writable.then_some(NonNull::new(map.as_mut_ptr())).flatten().map(|start| {
            // SAFETY: a whole map, which is dropped after what is returned. Its words are
            // atomics, its payloads bytes, all of which may have any value.
            unsafe { fork::keep(start, map.len()) }
        });
        Ok(Self::File { kept, map })
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::File { map, .. } => map.len(),
            #[cfg(feature = "named")]
            Self::Named(segment) => segment.len(),
        }
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        match self {
            // Never null: memmap2 returns an error instead.
            Self::File { map, .. } => NonNull::new(map.as_mut_ptr()).unwrap_or(NonNull::dangling()),
            #[cfg(feature = "named")]
            Self::Named(segment) => segment.base(),
        }
    }

    /// What rings, and is slept on, in the place of the bell at `offset`, if its futex
    /// is not used.
    #[cfg_attr(not(feature = "named"), expect(clippy::unused_self, reason = "only memfds"))]
    pub(super) fn event(&self, offset: usize) -> Option<SharedEvent> {
        #[cfg(feature = "named")]
        if let Self::Named(segment) = self {
            return segment.event(offset);
        }
        let _ = offset;
        None
    }

    pub(super) fn u64_at(&self, offset: usize) -> NonNull<AtomicU64> {
        self.at(offset)
    }

    pub(super) fn u32_at(&self, offset: usize) -> NonNull<AtomicU32> {
        self.at(offset)
    }

    pub(super) fn byte_at(&self, offset: usize) -> NonNull<u8> {
        self.at(offset)
    }

    fn at<T>(&self, offset: usize) -> NonNull<T> {
        // SAFETY: callers have checked that offset + size_of::<T>() <= len, so the
        // result stays inside the mapping.
        unsafe { self.base().byte_add(offset) }.cast()
    }

    /// Enters pages in the page table ahead of their first use. Kernels before 5.14 cannot,
    /// and take a fault for each.
    pub(super) fn prefault(&self, offset: usize, len: usize) {
        match self {
            // There they would be private pages, which nothing uses.
            Self::File { .. } if fork::is_forked_child() => {}
            Self::File { kept, map } => {
                let how = if kept.is_some() { Advice::PopulateWrite } else { Advice::PopulateRead };
                // Nothing depends on it: the pages are reserved.
                let _ = map.advise_range(how, offset, len);
            }
            // Its pages were entered when they were reserved.
            #[cfg(feature = "named")]
            Self::Named(_) => {}
        }
    }

    #[expect(clippy::unused_self, reason = "the model checker's backing tracks accesses")]
    pub(super) fn track_write(&self, _offset: usize, _len: usize) {}

    #[expect(clippy::unused_self, reason = "the model checker's backing tracks accesses")]
    pub(super) fn track_read(&self, _offset: usize, _len: usize) {}
}
