//! Words of a region: those that this process stores to, and those of the peer.
//!
//! A word is an atomic behind a raw pointer, so that the peer may change it at any time.
#![allow(unsafe_code, reason = "dereferences words in shared memory")]

use std::ops::Deref;
use std::ptr::NonNull;

use super::mapping::Mapping;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{AtomicU32, AtomicU64, Ordering, fence};

/// A word that lies inside its mapping and keeps it alive.
#[derive(Debug)]
struct Word<T> {
    pointer: NonNull<T>,
    _mapping: Mapping,
}

// SAFETY: `T` is one of the atomics, which are Send and Sync, and `_mapping` keeps the
// memory behind `pointer` mapped for as long as the word lives.
unsafe impl<T: Sync> Send for Word<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Word<T> {}

impl<T> Deref for Word<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: `Mapping` has checked range and alignment when the word was made, the memory
        // stays mapped while `self` lives, and atomics may be aliased.
        unsafe { self.pointer.as_ref() }
    }
}

/// Loads a word that the peer writes. Only Relaxed loads are promised to work on memory that
/// is mapped read-only, as the peer's is: what `order` asks for beyond that is a fence after the
/// load, which is no instruction on x86-64.
#[inline]
pub(super) fn load_of_peer<T>(order: Ordering, load: impl FnOnce(Ordering) -> T) -> T {
    // ThreadSanitizer knows no fences. For it all maps are writable: see `file_map_tsan.rs`.
    if cfg!(slipring_tsan) {
        return load(order);
    }
    let value = load(Ordering::Relaxed);
    if order != Ordering::Relaxed {
        fence(Ordering::Acquire);
    }
    value
}

macro_rules! words {
    ($own:ident, $peer:ident, $atomic:ident, $int:ident, $at:ident) => {
        /// A word of the region that this process writes.
        #[derive(Debug)]
        pub(crate) struct $own(Word<$atomic>);

        impl $own {
            /// The word at `offset`, which is an error unless it lies inside and is aligned.
            pub(super) fn at(mapping: &Mapping, offset: usize) -> Result<Self> {
                Ok(Self(Word { pointer: mapping.$at(offset)?, _mapping: mapping.clone() }))
            }

            #[inline]
            pub(crate) fn load(&self, order: Ordering) -> $int {
                self.0.load(order)
            }

            #[inline]
            pub(crate) fn store(&self, value: $int, order: Ordering) {
                self.0.store(value, order);
            }
        }

        impl Deref for $own {
            type Target = $atomic;

            fn deref(&self) -> &$atomic {
                &self.0
            }
        }

        /// A word that the peer writes and that this process can only load.
        #[derive(Debug)]
        pub(crate) struct $peer(Word<$atomic>);

        impl $peer {
            /// The word at `offset`, which is an error unless it lies inside and is aligned.
            pub(super) fn at(mapping: &Mapping, offset: usize) -> Result<Self> {
                Ok(Self(Word { pointer: mapping.$at(offset)?, _mapping: mapping.clone() }))
            }

            #[inline]
            pub(crate) fn load(&self, order: Ordering) -> $int {
                load_of_peer(order, |order| self.0.load(order))
            }
        }
    };
}

words!(OwnU64, PeerU64, AtomicU64, u64, u64_at);
words!(OwnU32, PeerU32, AtomicU32, u32, u32_at);

impl PeerU32 {
    /// The word to sleep on. A store through it would fault.
    pub(crate) fn as_futex(&self) -> &AtomicU32 {
        &self.0
    }
}

/// For code that takes any owner of a word to sleep on.
impl Deref for PeerU32 {
    type Target = AtomicU32;

    fn deref(&self) -> &AtomicU32 {
        self.as_futex()
    }
}

/// An array of words. Indices are taken modulo its length.
#[derive(Debug)]
struct Table {
    words: Word<AtomicU64>,
    len: usize,
}

impl Table {
    fn at(mapping: &Mapping, offset: usize, len: usize) -> Result<Self> {
        if len == 0 {
            return Err(Error::new(ErrorKind::Mismatch, "a table without entries"));
        }
        mapping.check_span(offset, len.saturating_mul(size_of::<u64>()), "table")?;
        Ok(Self {
            words: Word { pointer: mapping.u64_at(offset)?, _mapping: mapping.clone() },
            len,
        })
    }

    #[inline]
    fn word(&self, index: usize) -> &AtomicU64 {
        // SAFETY: the index is below `len`, and `at` has checked that so many words lie inside
        // the region.
        let pointer = unsafe { self.words.pointer.add(index % self.len) };
        // SAFETY: a live aligned word, as above; the mapping outlives the borrow of `self`.
        unsafe { pointer.as_ref() }
    }
}

/// An array of words that this process writes.
#[derive(Debug)]
pub(crate) struct OwnTable(Table);

impl OwnTable {
    /// `len` words from `offset` on, which is an error unless they lie inside.
    pub(super) fn at(mapping: &Mapping, offset: usize, len: usize) -> Result<Self> {
        Table::at(mapping, offset, len).map(Self)
    }

    #[inline]
    pub(crate) fn load(&self, index: usize, order: Ordering) -> u64 {
        self.0.word(index).load(order)
    }

    #[inline]
    pub(crate) fn store(&self, index: usize, value: u64, order: Ordering) {
        self.0.word(index).store(value, order);
    }
}

/// An array of words that the peer writes.
#[derive(Debug)]
pub(crate) struct PeerTable(Table);

impl PeerTable {
    /// `len` words from `offset` on, which is an error unless they lie inside.
    pub(super) fn at(mapping: &Mapping, offset: usize, len: usize) -> Result<Self> {
        Table::at(mapping, offset, len).map(Self)
    }

    #[inline]
    pub(crate) fn load(&self, index: usize, order: Ordering) -> u64 {
        load_of_peer(order, |order| self.0.word(index).load(order))
    }
}
