//! One mapped region and typed access to what lies in it.
//!
//! A region has one writing process. Its owner sees it through [`OwnRegion`] and
//! gets words that can be stored to and slots that can be filled; the peer sees
//! it through [`PeerRegion`] and gets words that can only be loaded and slots
//! that can only be copied from. Offsets are checked when a handle is made, or
//! masked into the ring at each use ([`slots`](super::slots)), so that no handle can
//! reach outside.
//!
//! Memory that the peer writes is never borrowed as a slice by safe code: words
//! are atomics behind raw pointers, payloads are copied out through [`PeerBytes`](super::bytes::PeerBytes).
#![allow(unsafe_code, reason = "dereferences words in shared memory")]

use std::fs::File;
use std::ptr::NonNull;
use std::sync::Arc;

use super::event::SharedEvent;
use super::layout::{RegionHeader, RingLayout, as_usize};
#[cfg(not(loom))]
use super::mapped::Backing;
#[cfg(loom)]
use super::region_loom::Backing;
use super::slots::{OwnSlots, PeerSlots, Slots};
use crate::config::SLOT_ALIGN;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{AtomicU32, AtomicU64, Ordering, fence};

/// The pages of a region in this process, mapped as long as one of these is there.
#[derive(Debug, Clone)]
pub(super) struct Mapping(Arc<Backing>);

// SAFETY: a mapping is plain memory that may be reached from any thread; all shared
// access to it goes through atomics or raw copies.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    #[cfg(not(slipring_tsan))]
    fn of(file: &File, len: u64, is_writable: bool) -> Result<Self> {
        Ok(Self(Arc::new(Backing::map(file, as_usize(len), is_writable)?)))
    }

    #[cfg(slipring_tsan)]
    fn of(file: &File, len: u64, is_writable: bool) -> Result<Self> {
        super::mapped_once::map(file, as_usize(len), is_writable).map(Self)
    }

    pub(super) fn track_write(&self, offset: usize, len: usize) {
        self.0.track_write(offset, len);
    }

    pub(super) fn track_read(&self, offset: usize, len: usize) {
        self.0.track_read(offset, len);
    }

    /// See [`OwnSlots::prefault`].
    pub(super) fn prefault(&self, offset: usize, len: usize) {
        self.0.prefault(offset, len);
    }

    /// Checks that `size` bytes at `offset` lie inside and are aligned to `size`.
    fn check(&self, offset: usize, size: usize) -> Result<()> {
        let end = offset.checked_add(size);
        if end.is_none_or(|end| end > self.0.len()) || !offset.is_multiple_of(size) {
            let len = self.0.len();
            let message = format!("word of {size} bytes at {offset} in a region of {len} bytes");
            return Err(Error::new(ErrorKind::Mismatch, message));
        }
        Ok(())
    }

    fn u64_at(&self, offset: usize) -> Result<Word<AtomicU64>> {
        self.check(offset, size_of::<u64>())?;
        Ok(Word { pointer: self.0.u64_at(offset), _mapping: self.clone() })
    }

    fn u32_at(&self, offset: usize) -> Result<Word<AtomicU32>> {
        self.check(offset, size_of::<u32>())?;
        Ok(Word { pointer: self.0.u32_at(offset), _mapping: self.clone() })
    }

    fn table(&self, offset: usize, len: usize) -> Result<Table> {
        let last = len.checked_sub(1).and_then(|i| i.checked_mul(8)?.checked_add(offset));
        let Some(last) = last else {
            return Err(Error::new(ErrorKind::Mismatch, "a table without entries"));
        };
        self.check(last, size_of::<u64>())?;
        Ok(Table { words: self.u64_at(offset)?, len })
    }

    /// Checks that a ring lies inside, at a line's start.
    fn slots(&self, ring: &RingLayout) -> Result<Slots> {
        let (offset, capacity) = (as_usize(ring.offset), as_usize(ring.capacity));
        let end = offset.checked_add(capacity);
        let sane = capacity.is_power_of_two() && capacity >= 2 * SLOT_ALIGN;
        if !sane || offset % SLOT_ALIGN != 0 || end.is_none_or(|end| end > self.0.len()) {
            let len = self.0.len();
            let message = format!("ring of {capacity} bytes at {offset} in a region of {len}");
            return Err(Error::new(ErrorKind::Mismatch, message));
        }
        let (words, bytes) = (self.0.u64_at(offset), self.0.byte_at(offset));
        Ok(Slots::new(self.clone(), words, bytes, offset, capacity))
    }
}

/// A checked word that keeps its mapping alive.
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

impl<T> Word<T> {
    fn get(&self) -> &T {
        // SAFETY: `Mapping` checked range and alignment when it made the word, the memory
        // stays mapped while `self` lives, and atomics may be aliased.
        unsafe { self.pointer.as_ref() }
    }
}

/// Makes the Relaxed load before it one with this order. Only Relaxed loads are promised
/// to work on memory that is mapped read-only, as the peer's is; on x86-64 this is no
/// instruction at all.
#[inline]
pub(super) fn after_load(order: Ordering) {
    if order != Ordering::Relaxed {
        fence(Ordering::Acquire);
    }
}

/// The order of that load. ThreadSanitizer knows no fences, and gets maps that can be
/// written to: see [`mapped_once`](super::mapped_once).
#[inline]
pub(super) fn of_load(order: Ordering) -> Ordering {
    if cfg!(slipring_tsan) { order } else { Ordering::Relaxed }
}

macro_rules! words {
    ($own:ident, $peer:ident, $atomic:ident, $int:ident) => {
        /// A word of the region that this process writes.
        #[derive(Debug)]
        pub(crate) struct $own(Word<$atomic>);

        impl $own {
            #[inline]
            pub(crate) fn load(&self, order: Ordering) -> $int {
                self.0.get().load(order)
            }

            #[inline]
            pub(crate) fn store(&self, value: $int, order: Ordering) {
                self.0.get().store(value, order);
            }
        }

        impl std::ops::Deref for $own {
            type Target = $atomic;

            fn deref(&self) -> &$atomic {
                self.0.get()
            }
        }

        /// A word that the peer writes and this process can only load.
        #[derive(Debug)]
        pub(crate) struct $peer(Word<$atomic>);

        impl $peer {
            #[inline]
            pub(crate) fn load(&self, order: Ordering) -> $int {
                let value = self.0.get().load(of_load(order));
                after_load(order);
                value
            }
        }
    };
}

words!(OwnU64, PeerU64, AtomicU64, u64);
words!(OwnU32, PeerU32, AtomicU32, u32);

impl PeerU32 {
    /// For sleeping on it; a store through this would fault.
    pub(crate) fn as_futex(&self) -> &AtomicU32 {
        self.0.get()
    }
}

/// A peer's word as something that can be handed to whoever sleeps on it.
impl std::ops::Deref for PeerU32 {
    type Target = AtomicU32;

    fn deref(&self) -> &AtomicU32 {
        self.as_futex()
    }
}

/// A region that this process writes.
#[derive(Debug, Clone)]
pub(crate) struct OwnRegion(Mapping);

impl OwnRegion {
    /// Maps `file` for reading and writing. Seal it afterwards.
    pub(crate) fn map(file: &File, len: u64) -> Result<Self> {
        Mapping::of(file, len, true).map(Self)
    }

    #[cfg(loom)]
    pub(crate) fn for_model(backing: Arc<Backing>) -> Self {
        Self(Mapping(backing))
    }

    /// A segment that this process writes, by convention.
    #[cfg(all(feature = "named", not(loom)))]
    pub(crate) fn of_segment(segment: &Arc<super::named::Segment>) -> Self {
        Self(Mapping(Arc::new(Backing::Named(Arc::clone(segment)))))
    }

    pub(crate) fn event(&self, offset: usize) -> Option<SharedEvent> {
        self.0.0.event(offset)
    }

    pub(crate) fn write_header(&self, header: &RegionHeader) {
        use zerocopy::IntoBytes;
        let bytes = header.as_bytes();
        assert!(bytes.len() <= self.0.0.len(), "regions are at least a page long");
        // SAFETY: the header fits, as just checked; the mapping is writable and nobody
        // holds a reference into these bytes.
        unsafe {
            self.0.0.base().copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len())
        }
    }

    pub(crate) fn u64_at(&self, offset: usize) -> Result<OwnU64> {
        self.0.u64_at(offset).map(OwnU64)
    }

    pub(crate) fn u32_at(&self, offset: usize) -> Result<OwnU32> {
        self.0.u32_at(offset).map(OwnU32)
    }

    pub(crate) fn slots(&self, ring: &RingLayout) -> Result<OwnSlots> {
        self.0.slots(ring).map(OwnSlots)
    }

    pub(crate) fn table(&self, offset: usize, words: usize) -> Result<OwnTable> {
        self.0.table(offset, words).map(OwnTable)
    }
}

/// A region that the peer writes.
#[derive(Debug, Clone)]
pub(crate) struct PeerRegion(Mapping);

impl PeerRegion {
    /// Maps `file` read-only.
    pub(crate) fn map(file: &File, len: u64) -> Result<Self> {
        Mapping::of(file, len, false).map(Self)
    }

    #[cfg(loom)]
    pub(crate) fn for_model(backing: Arc<Backing>) -> Self {
        Self(Mapping(backing))
    }

    /// A segment that the peer writes, by convention.
    #[cfg(all(feature = "named", not(loom)))]
    pub(crate) fn of_segment(segment: &Arc<super::named::Segment>) -> Self {
        Self(Mapping(Arc::new(Backing::Named(Arc::clone(segment)))))
    }

    pub(crate) fn event(&self, offset: usize) -> Option<SharedEvent> {
        self.0.0.event(offset)
    }

    /// A private copy of the header's bytes.
    pub(crate) fn header_bytes(&self) -> [u8; size_of::<RegionHeader>()] {
        let mut copy = [0; size_of::<RegionHeader>()];
        if self.0.0.len() >= copy.len() {
            // SAFETY: the source is at least as long as `copy`, as just checked; the peer
            // may write while this copies, and a mix of old and new bytes is then refused
            // or harmless, as every copied header is checked.
            unsafe {
                self.0.0.base().copy_to_nonoverlapping(NonNull::from(&mut copy).cast(), copy.len())
            }
        }
        copy
    }

    pub(crate) fn u64_at(&self, offset: usize) -> Result<PeerU64> {
        self.0.u64_at(offset).map(PeerU64)
    }

    pub(crate) fn u32_at(&self, offset: usize) -> Result<PeerU32> {
        self.0.u32_at(offset).map(PeerU32)
    }

    pub(crate) fn slots(&self, ring: &RingLayout) -> Result<PeerSlots> {
        self.0.slots(ring).map(PeerSlots)
    }

    pub(crate) fn table(&self, offset: usize, words: usize) -> Result<PeerTable> {
        self.0.table(offset, words).map(PeerTable)
    }
}

/// An array of words; indices are taken modulo its length.
#[derive(Debug)]
struct Table {
    words: Word<AtomicU64>,
    len: usize,
}

impl Table {
    fn word(&self, index: usize) -> &AtomicU64 {
        // SAFETY: the index is below `len`, and `Mapping::table` checked that so many words
        // lie inside the region.
        let pointer = unsafe { self.words.pointer.add(index % self.len) };
        // SAFETY: a live aligned word, as above; the mapping outlives the borrow of `self`.
        unsafe { pointer.as_ref() }
    }
}

/// An array of words that this process writes.
#[derive(Debug)]
pub(crate) struct OwnTable(Table);

impl OwnTable {
    pub(crate) fn load(&self, index: usize, order: Ordering) -> u64 {
        self.0.word(index).load(order)
    }

    pub(crate) fn store(&self, index: usize, value: u64, order: Ordering) {
        self.0.word(index).store(value, order);
    }
}

/// An array of words that the peer writes.
#[derive(Debug)]
pub(crate) struct PeerTable(Table);

impl PeerTable {
    #[inline]
    pub(crate) fn load(&self, index: usize, order: Ordering) -> u64 {
        let value = self.0.word(index).load(of_load(order));
        after_load(order);
        value
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::config::{Config, FRAME_HEADER};
    use crate::sys::memfd;

    fn regions() -> (OwnRegion, PeerRegion, RegionHeader) {
        let header = RegionHeader::down(&Config::small(), [1; 16], 2);
        let len = header.own.region_len;
        let file = memfd::create(c"test", len).unwrap();
        let own = OwnRegion::map(&file, len).unwrap();
        memfd::seal(&file, memfd::SEALS_DOWN).unwrap();
        assert!(OwnRegion::map(&file, len).is_err(), "no second writable map");
        let peer = PeerRegion::map(&file, len).unwrap();
        (own, peer, header)
    }

    #[test]
    fn what_the_owner_writes_the_peer_reads() {
        let (own, peer, header) = regions();
        own.write_header(&header);
        let len = header.own.region_len;
        let side = super::super::layout::Side::Down;
        assert_eq!(RegionHeader::parse(&peer.header_bytes(), side, len).unwrap(), header);
        own.u64_at(512).unwrap().store(9, Ordering::Release);
        assert_eq!(peer.u64_at(512).unwrap().load(Ordering::Acquire), 9);

        let mut slots = own.slots(&header.own.data).unwrap();
        slots.payload_mut(64, 3).copy_from_slice(b"abc");
        slots.line(64).store(0, 65, Ordering::Release);
        let seen = peer.slots(&header.own.data).unwrap();
        assert_eq!(seen.line(64).load(0, Ordering::Acquire), 65);
        assert_eq!(seen.payload(64, 3).to_vec(), b"abc");
    }

    #[test]
    fn nothing_outside_the_region_or_the_ring_can_be_named() {
        let (own, peer, header) = regions();
        let len = as_usize(header.own.region_len);
        assert!(own.u64_at(len).is_err());
        assert!(own.u64_at(len - 4).is_err());
        assert!(own.u64_at(usize::MAX - 3).is_err());
        assert!(peer.u32_at(len - 4).is_ok());
        let mut outside = header.own.data;
        outside.offset = header.own.region_len;
        assert!(own.slots(&outside).is_err());
        let slots = peer.slots(&header.own.data).unwrap();
        let capacity = slots.capacity();
        let longest = capacity - FRAME_HEADER;
        assert_eq!(slots.payload(0, longest).len(), longest);
        for (position, len) in [(0, longest + 1), (64, longest - 63), (64, usize::MAX)] {
            assert!(slots.payload(position, len).is_empty());
        }
    }
}
