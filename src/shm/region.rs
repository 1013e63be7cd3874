//! One mapped region and typed access to what lies in it.
//!
//! A region has one writing process. Its owner sees it through [`OwnRegion`] and
//! gets words that can be stored to and slots that can be filled; the peer sees
//! it through [`PeerRegion`] and gets words that can only be loaded and slots
//! that can only be copied from. Offsets are checked when a handle is made, or
//! masked into the ring at each use, so that no handle can reach outside.
//!
//! Memory that the peer writes is never borrowed as a slice by safe code: words
//! are atomics behind raw pointers, payloads are copied out through [`PeerBytes`].
#![allow(unsafe_code, reason = "the only place that dereferences shared memory")]

use std::fs::File;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use super::event::SharedEvent;
#[cfg(not(loom))]
use super::layout::RegionHeader;
use super::layout::{RingLayout, as_usize};
use crate::config::{FRAME_HEADER, SLOT_ALIGN};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{AtomicU32, AtomicU64, Ordering, fence};

#[cfg(loom)]
use super::region_loom::Backing;
#[cfg(not(loom))]
use mapped::Backing;

#[cfg(not(loom))]
mod mapped {
    use std::fs::File;
    use std::ptr::NonNull;

    use memmap2::{Advice, MmapOptions, MmapRaw};

    use super::super::event::SharedEvent;
    #[cfg(feature = "named")]
    use super::super::named::Segment;
    use crate::error::{Error, Result};
    use crate::sync::{AtomicU32, AtomicU64};

    /// The pages of a region in this process.
    #[derive(Debug)]
    pub(super) enum Backing {
        File(MmapRaw),
        /// Writable on both sides: who writes to what is a convention there.
        #[cfg(feature = "named")]
        Named(std::sync::Arc<Segment>),
    }

    impl Backing {
        pub(super) fn map(file: &File, len: usize, writable: bool) -> Result<Self> {
            let mut options = MmapOptions::new();
            options.len(len);
            let map =
                if writable { options.map_raw(file) } else { options.map_raw_read_only(file) };
            let map = map.map_err(|e| Error::os(format!("cannot map {len} bytes"), e))?;
            if writable {
                // A host that forks without exec would otherwise share the map with its
                // child, in spite of the seal. What can only be read stays readable there:
                // replies that the child inherited lie in it.
                map.advise(Advice::DontFork).map_err(|e| Error::os("cannot advise a map", e))?;
            }
            Ok(Self::File(map))
        }

        pub(super) fn len(&self) -> usize {
            match self {
                Self::File(map) => map.len(),
                #[cfg(feature = "named")]
                Self::Named(segment) => segment.len(),
            }
        }

        pub(super) fn base(&self) -> NonNull<u8> {
            match self {
                // Never null: memmap2 returns an error instead.
                Self::File(map) => NonNull::new(map.as_mut_ptr()).unwrap_or(NonNull::dangling()),
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

        #[expect(clippy::unused_self, reason = "the model checker's backing tracks accesses")]
        pub(super) fn track_write(&self, _offset: usize, _len: usize) {}

        #[expect(clippy::unused_self, reason = "the model checker's backing tracks accesses")]
        pub(super) fn track_read(&self, _offset: usize, _len: usize) {}
    }
}

#[derive(Debug, Clone)]
struct Mapping(Arc<Backing>);

// SAFETY: a mapping is plain memory that may be reached from any thread; all shared
// access to it goes through atomics or raw copies.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
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

    fn slots(&self, ring: &RingLayout) -> Result<Slots> {
        let (offset, capacity) = (as_usize(ring.offset), as_usize(ring.capacity));
        let end = offset.checked_add(capacity);
        let sane = capacity.is_power_of_two() && capacity >= 2 * SLOT_ALIGN;
        if !sane || offset % SLOT_ALIGN != 0 || end.is_none_or(|end| end > self.0.len()) {
            let len = self.0.len();
            let message = format!("ring of {capacity} bytes at {offset} in a region of {len}");
            return Err(Error::new(ErrorKind::Mismatch, message));
        }
        Ok(Slots {
            words: self.0.u64_at(offset),
            bytes: self.0.byte_at(offset),
            mapping: self.clone(),
            offset,
            mask: capacity - 1,
        })
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
fn after_load(order: Ordering) {
    if order != Ordering::Relaxed {
        fence(Ordering::Acquire);
    }
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
                let value = self.0.get().load(Ordering::Relaxed);
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
        Ok(Self(Mapping(Arc::new(Backing::map(file, as_usize(len), true)?))))
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

    #[cfg(not(loom))]
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
        Ok(Self(Mapping(Arc::new(Backing::map(file, as_usize(len), false)?))))
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
    #[cfg(not(loom))]
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
        let value = self.0.word(index).load(Ordering::Relaxed);
        after_load(order);
        value
    }
}

/// The bytes of one ring, and the same bytes as words.
#[derive(Debug)]
struct Slots {
    words: NonNull<AtomicU64>,
    bytes: NonNull<u8>,
    mapping: Mapping,
    offset: usize,
    mask: usize,
}

// SAFETY: both pointers lead into `mapping`, which is Send and Sync, and all access
// through them is atomic or goes through the methods of the two types below.
unsafe impl Send for Slots {}
// SAFETY: as above.
unsafe impl Sync for Slots {}

impl Slots {
    /// Offset of the slot at `position` from the start of the ring.
    #[inline]
    fn slot(&self, position: u64) -> usize {
        as_usize(position) & self.mask & !(SLOT_ALIGN - 1)
    }

    #[inline]
    fn word(&self, position: u64, index: usize) -> &AtomicU64 {
        let index = self.slot(position) / 8 + index % (SLOT_ALIGN / 8);
        // SAFETY: `slot` is the start of a line inside the ring, which `Mapping::slots`
        // checked to lie inside the region, and the index stays in that line.
        let pointer = unsafe { self.words.add(index) };
        // SAFETY: a live word, as above; the mapping outlives the borrow of `self`;
        // atomics may be aliased.
        unsafe { pointer.as_ref() }
    }

    /// A payload of `len` bytes in the slot at `position`, if it fits before the ring's
    /// end: where it starts, as an offset from the ring's start and as a pointer.
    #[inline]
    fn payload(&self, position: u64, len: usize) -> Option<(usize, NonNull<u8>)> {
        let start = self.slot(position) + FRAME_HEADER;
        if start.checked_add(len)? > self.mask + 1 {
            return None;
        }
        // SAFETY: start + len is inside the ring, as just checked.
        Some((self.offset + start, unsafe { self.bytes.byte_add(start) }))
    }
}

/// The slots of a ring that this process produces into.
#[derive(Debug)]
pub(crate) struct OwnSlots(Slots);

impl OwnSlots {
    pub(crate) fn capacity(&self) -> usize {
        self.0.mask + 1
    }

    /// The word with this index in the line at `position`.
    #[inline]
    pub(crate) fn word(&self, position: u64, index: usize) -> &AtomicU64 {
        self.0.word(position, index)
    }

    /// Asks for the line at `position`, to write to it soon: stores become visible in order,
    /// so that one to a line that has to be fetched holds up all that follow.
    #[inline]
    pub(crate) fn prefetch(&self, position: u64) {
        #[cfg(all(target_arch = "x86_64", not(loom)))]
        {
            let line: *const AtomicU64 = self.word(position, 0);
            // SAFETY: a hint that changes no memory and cannot fault; processors without it
            // do nothing.
            unsafe {
                std::arch::asm!("prefetchw [{}]", in(reg) line, options(nostack, preserves_flags));
            }
        }
        #[cfg(not(all(target_arch = "x86_64", not(loom))))]
        let _ = position;
    }

    /// The payload bytes of the slot at `position`.
    #[inline]
    pub(crate) fn payload_mut(&mut self, position: u64, len: usize) -> Option<&mut [u8]> {
        let (start, pointer) = self.0.payload(position, len)?;
        self.0.mapping.0.track_write(start, len);
        // SAFETY: the bytes are inside the mapping, which is writable in this process
        // alone: the peer maps it read-only, or, a named segment, keeps to the convention
        // that it does not write there. `&mut self` is the only handle on the ring's
        // slots, and the atomics in the header lines do not overlap payload bytes of the
        // slot being filled: its header is the 32 bytes before.
        Some(unsafe { std::slice::from_raw_parts_mut(pointer.as_ptr(), len) })
    }
}

/// The slots of a ring that this process consumes from.
#[derive(Debug)]
pub(crate) struct PeerSlots(Slots);

impl PeerSlots {
    pub(crate) fn capacity(&self) -> usize {
        self.0.mask + 1
    }

    /// Loads the word with this index in the line at `position`.
    #[inline]
    pub(crate) fn load(&self, position: u64, index: usize, order: Ordering) -> u64 {
        let value = self.0.word(position, index).load(Ordering::Relaxed);
        after_load(order);
        value
    }

    /// A view of a payload, if it fits before the ring's end.
    #[inline]
    pub(crate) fn payload(&self, position: u64, len: usize) -> Option<PeerBytes<'_>> {
        let (start, pointer) = self.0.payload(position, len)?;
        self.0.mapping.0.track_read(start, len);
        Some(PeerBytes { pointer, len, _slots: PhantomData })
    }
}

/// Bytes in memory that the peer can write: they may change while they are read.
///
/// Reading copies them out. Whatever is decided about them must be decided about
/// a copy, once.
#[derive(Clone, Copy)]
pub struct PeerBytes<'a> {
    pointer: NonNull<u8>,
    len: usize,
    _slots: PhantomData<&'a [u8]>,
}

// SAFETY: it only allows copying out of memory that stays mapped for 'a, from any thread.
unsafe impl Send for PeerBytes<'_> {}
// SAFETY: as above.
unsafe impl Sync for PeerBytes<'_> {}

impl<'a> PeerBytes<'a> {
    /// No bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self { pointer: NonNull::dangling(), len: 0, _slots: PhantomData }
    }

    /// Bytes of this process's own.
    #[must_use]
    pub fn of(bytes: &'a [u8]) -> Self {
        Self { pointer: NonNull::from(bytes).cast(), len: bytes.len(), _slots: PhantomData }
    }

    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies `out.len()` bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`] if there are not so many.
    #[inline]
    pub fn read_at(&self, offset: usize, out: &mut [u8]) -> Result<()> {
        if offset.checked_add(out.len()).is_none_or(|end| end > self.len) {
            return Err(past_the_end(offset, out.len(), self.len));
        }
        // SAFETY: offset <= len, as just checked.
        let from = unsafe { self.pointer.byte_add(offset) };
        // SAFETY: offset + out.len() <= len, and the bytes stay mapped for 'a. They cannot
        // overlap `out`, which is memory that safe code borrowed mutably, and safe code
        // gets no such borrow into a region that is mapped read-only. The peer may write
        // meanwhile; bytes have no invalid values.
        unsafe { from.copy_to_nonoverlapping(NonNull::from(&mut *out).cast(), out.len()) }
        Ok(())
    }

    /// Copies all bytes to the front of `out`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`] if `out` has another length.
    pub fn copy_to(&self, out: &mut [u8]) -> Result<()> {
        if out.len() != self.len {
            return Err(past_the_end(0, out.len(), self.len));
        }
        self.read_at(0, out)
    }

    /// Appends all bytes to `out`.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        out.reserve(self.len);
        let spare = NonNull::from(out.spare_capacity_mut()).cast();
        // SAFETY: `reserve` made room for `len` bytes after the vector's length; see
        // `read_at` for the source.
        unsafe { self.pointer.copy_to_nonoverlapping(spare, self.len) };
        // SAFETY: capacity suffices, and the bytes up to there have just been written.
        unsafe { out.set_len(out.len() + self.len) };
    }

    /// A copy of all bytes.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut copy = Vec::new();
        self.append_to(&mut copy);
        copy
    }

    /// The bytes where they lie, without a copy.
    ///
    /// # Safety
    ///
    /// The peer must not write to them while the slice lives. An honest peer does not:
    /// they lie in a slot that it has published and that is not yet released. Call this
    /// only if the peer's program is your own and trusted as much as this process.
    #[must_use]
    pub unsafe fn as_slice(&self) -> &'a [u8] {
        // SAFETY: pointer and length are a valid range that stays mapped for 'a, and the
        // caller vouches that nobody writes to it.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.len) }
    }
}

impl std::fmt::Debug for PeerBytes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PeerBytes({} bytes)", self.len)
    }
}

#[cold]
fn past_the_end(offset: usize, wanted: usize, len: usize) -> Error {
    let message = format!("{wanted} bytes at {offset} of a payload of {len} bytes");
    Error::new(ErrorKind::InvalidPayload, message)
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::config::Config;
    use crate::shm::memfd;

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
        slots.payload_mut(64, 3).unwrap().copy_from_slice(b"abc");
        slots.word(64, 0).store(65, Ordering::Release);
        let seen = peer.slots(&header.own.data).unwrap();
        assert_eq!(seen.load(64, 0, Ordering::Acquire), 65);
        assert_eq!(seen.payload(64, 3).unwrap().to_vec(), b"abc");
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
        assert!(slots.payload(0, capacity - FRAME_HEADER).is_some());
        assert!(slots.payload(0, capacity - FRAME_HEADER + 1).is_none());
        assert!(slots.payload(64, usize::MAX).is_none());
    }

    #[test]
    fn reads_past_the_end_of_a_payload_are_errors() {
        let bytes = PeerBytes::of(b"hello");
        let mut out = [0; 3];
        bytes.read_at(2, &mut out).unwrap();
        assert_eq!(&out, b"llo");
        assert_eq!(bytes.read_at(3, &mut out).unwrap_err().kind(), ErrorKind::InvalidPayload);
        assert!(bytes.read_at(usize::MAX, &mut out).is_err());
        assert!(bytes.copy_to(&mut out).is_err());
    }
}
