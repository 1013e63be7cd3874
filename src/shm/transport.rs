//! The seam between a channel and that which backs its memory.
//!
//! A *transport* finds or makes the two regions of a channel, checks them, and hands them over
//! as [`Regions`](super::region::Regions). Everything above works on these and does not know
//! which transport they come from:
//!
//! | transport | code | promises |
//! |---|---|---|
//! | sealed memfds | [`memfd`](super::memfd) | one writer for each region, no truncation |
//! | named segments | `named` | the same by convention only |
//! | memory of a model | [`model`](super::model) | every access is checked by the model checker |
//!
//! What differs after that is in two traits: [`Backing`], which says where the bytes are, and
//! [`Event`], for a transport that cannot use the futexes of the bells. Neither is called where a
//! frame passes: the handles that are made of a backing are plain pointers that keep it alive.
#![allow(unsafe_code, reason = "pointers into a mapping")]

use std::fmt::Debug;
use std::fs::File;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::error::Result;
use crate::sync::{AtomicU32, AtomicU64};
use crate::sys::clock::Deadline;

/// The pages of a region in this process.
///
/// # Safety
///
/// While the value lives, the `len()` bytes from `start()` on stay mapped there and can be read,
/// and written too if `is_writable()` says so. All methods return the same at each call.
///
/// For each offset at which a word lies inside, [`Self::u64_at`] and [`Self::u32_at`] return a
/// pointer to a live word, which is aligned if the offset is. An implementation that does not
/// replace them has a `start()` that is a multiple of eight.
pub(crate) unsafe trait Backing: Debug + Send + Sync {
    fn start(&self) -> NonNull<u8>;

    fn len(&self) -> usize;

    /// Whether this process can store to the pages.
    fn is_writable(&self) -> bool;

    /// Enters pages in the page table ahead of their first use, where they are not yet.
    fn prefault(&self, _offset: usize, _len: usize) {}

    /// Makes pages that are not there yet, and enters them in the page table.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Os`](crate::ErrorKind::Os) if there is no memory for them.
    fn make_pages(&self, _offset: usize, _len: usize) -> Result<()> {
        Ok(())
    }

    /// Keeps descriptors of the channel's files open for as long as the pages are mapped.
    fn keep_open(&self, _files: [File; 2]) {}

    /// The event that takes the place of the futex in the bell at this offset, if there is one.
    fn event(&self, _bell: usize) -> Option<SharedEvent> {
        None
    }

    fn byte_at(&self, offset: usize) -> NonNull<u8> {
        // SAFETY: the result is at most at the end of the mapping.
        unsafe { self.start().byte_add(offset.min(self.len())) }
    }

    fn u64_at(&self, offset: usize) -> NonNull<AtomicU64> {
        self.byte_at(offset).cast()
    }

    fn u32_at(&self, offset: usize) -> NonNull<AtomicU32> {
        self.byte_at(offset).cast()
    }

    /// Tells a model that payload bytes are written. No other build calls this.
    fn track_write(&self, _offset: usize, _len: usize) {}

    /// As [`Self::track_write`], for bytes that are read.
    fn track_read(&self, _offset: usize, _len: usize) {}
}

/// A doorbell that is no futex, for memory that comes with one of its own.
///
/// A bell sets it, and a sleeper sleeps on it, in the place of the futex. The bell's word is
/// bumped all the same, before: so every thread that sleeps sees the ring, whichever thread the
/// event wakes.
pub(crate) trait Event: Debug + Send + Sync {
    /// Ends the wait that is going on, or else the next one.
    fn set(&self);

    /// Sleeps until the event is set, the deadline has passed, or for no reason: the caller
    /// looks again. `is_still` says that there is nothing new; it is asked once this thread is
    /// sure to notice what comes later.
    fn wait(&self, is_still: &dyn Fn() -> bool, deadline: Deadline);
}

/// An event that several ends share.
pub(crate) type SharedEvent = Arc<dyn Event>;
