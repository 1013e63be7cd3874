//! Words of a region: those that this process stores to, and those of the peer.
//!
//! A word is an atomic behind a raw pointer, so that the peer may change it at any time.
#![allow(unsafe_code, reason = "dereferences words in shared memory")]

use std::ops::Deref;
use std::ptr::NonNull;

use super::layout::{as_u64, request_entry};
use super::mapping::Mapping;
use crate::error::{Error, Result};
use crate::sync::{AtomicU32, AtomicU64, Ordering, fence};

/// A word of the region that this process writes. It lies inside its mapping and keeps that alive.
#[derive(Debug)]
pub(crate) struct Own<T> {
    pointer: NonNull<T>,
    _mapping: Mapping,
}

/// A word that the peer writes and that this process can only load.
#[derive(Debug)]
pub(crate) struct Peer<T>(pub(super) Own<T>);

pub(crate) type OwnU64 = Own<AtomicU64>;
pub(crate) type OwnU32 = Own<AtomicU32>;
pub(crate) type PeerU64 = Peer<AtomicU64>;
pub(crate) type PeerU32 = Peer<AtomicU32>;

// SAFETY: `T` is one of the atomics, which are Send and Sync, and `_mapping` keeps the
// memory behind `pointer` mapped for as long as the word lives.
unsafe impl<T: Sync> Send for Own<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Own<T> {}

impl OwnU64 {
    /// The word at `offset`, which is an error unless it lies inside and is aligned.
    pub(super) fn at(mapping: &Mapping, offset: usize) -> Result<Self> {
        mapping.check_word(offset, size_of::<u64>())?;
        Ok(Self { pointer: mapping.u64_at(offset), _mapping: mapping.clone() })
    }
}

impl OwnU32 {
    /// The word at `offset`, which is an error unless it lies inside and is aligned.
    pub(super) fn at(mapping: &Mapping, offset: usize) -> Result<Self> {
        mapping.check_word(offset, size_of::<u32>())?;
        Ok(Self { pointer: mapping.u32_at(offset), _mapping: mapping.clone() })
    }
}

impl<T> Deref for Own<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: `at` has checked range and alignment, the memory stays mapped while `self`
        // lives, and atomics may be aliased.
        unsafe { self.pointer.as_ref() }
    }
}

impl PeerU64 {
    #[inline]
    pub(crate) fn load(&self, order: Ordering) -> u64 {
        load_of_peer(order, |order| self.0.load(order))
    }
}

impl PeerU32 {
    #[inline]
    pub(crate) fn load(&self, order: Ordering) -> u32 {
        load_of_peer(order, |order| self.0.load(order))
    }
}

/// The word to sleep on. A store through it would fault.
impl Deref for PeerU32 {
    type Target = AtomicU32;

    fn deref(&self) -> &AtomicU32 {
        &self.0
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

/// An array of entries of `N` words, one for each request in flight.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    first: OwnU64,
    entries: u64,
}

impl<const N: usize> Table<N> {
    /// So many entries from `offset` on, which is an error unless they lie inside.
    pub(super) fn at(mapping: &Mapping, offset: usize, entries: usize) -> Result<Self> {
        if entries == 0 {
            return Err(Error::mismatch("a table without entries"));
        }
        let len = entries.saturating_mul(N * size_of::<u64>());
        mapping.check_span(offset, len, "table")?;
        Ok(Self { first: OwnU64::at(mapping, offset)?, entries: as_u64(entries) })
    }

    /// The entry of a request. If the peer writes it, it is to be loaded with [`load_of_peer`].
    #[inline]
    pub(super) fn entry(&self, request: u64) -> &[AtomicU64; N] {
        let index = request_entry(request, self.entries);
        // SAFETY: the index is below `entries`, of which there is one at least, and `at` has
        // checked that so many entries lie inside the region.
        let first = unsafe { self.first.pointer.add(index * N) };
        // SAFETY: `N` live aligned words, as above; the mapping outlives the borrow of `self`, and
        // atomics may be aliased.
        unsafe { first.cast().as_ref() }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &[AtomicU64; N]> {
        (0..self.entries).map(|index| self.entry(index))
    }
}
