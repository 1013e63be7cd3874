//! The slots of a ring inside a region: words to publish with, payloads to fill and to read.
#![allow(unsafe_code, reason = "positions are masked into the ring at each use")]

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use super::bytes::PeerBytes;
use super::layout::{RingLayout, as_usize};
use super::mapping::Mapping;
use super::second_map::{PinnedBytes, SecondMap};
use super::words::load_of_peer;
use crate::config::{FRAME_HEADER, SLOT_ALIGN};
use crate::error::{Error, Result};
use crate::sync::{AtomicU64, Ordering};
use crate::sys::arch::{prefetch_to_read, prefetch_to_write};

/// The bytes of one ring, which are words as well.
#[derive(Debug, Clone)]
struct Slots {
    words: NonNull<AtomicU64>,
    bytes: NonNull<u8>,
    mapping: Mapping,
    offset: usize,
    /// Turns a position into the offset of its line.
    mask: usize,
}

// SAFETY: both pointers lead into `mapping`, which is Send and Sync, and all access
// through them is atomic or goes through the methods of the two types below.
unsafe impl Send for Slots {}
// SAFETY: as above.
unsafe impl Sync for Slots {}

impl Slots {
    /// The slots of a ring, which is an error unless it lies inside, at a line's start.
    fn at(mapping: &Mapping, ring: &RingLayout) -> Result<Self> {
        let (offset, capacity) = (as_usize(ring.offset), as_usize(ring.capacity));
        mapping.check_span(offset, capacity, "ring")?;
        let is_sane = capacity.is_power_of_two() && capacity >= 2 * SLOT_ALIGN;
        if !is_sane || !offset.is_multiple_of(SLOT_ALIGN) {
            return Err(Error::mismatch(format!(
                "ring of {capacity} bytes at {offset}, expected whole slots"
            )));
        }
        Ok(Self {
            words: mapping.u64_at(offset),
            bytes: mapping.byte_at(offset),
            mapping: mapping.clone(),
            offset,
            mask: (capacity - 1) & !(SLOT_ALIGN - 1),
        })
    }

    fn prefault(&self) {
        self.mapping.prefault(self.offset, self.capacity());
    }

    /// Makes the pages between two positions, which are at most one capacity apart.
    fn make_pages(&self, from: u64, to: u64) -> Result<()> {
        let (start, len) = (self.slot(from), as_usize(to.wrapping_sub(from)));
        let first = len.min(self.capacity() - start);
        self.mapping.make_pages(self.offset + start, first)?;
        if first < len { self.mapping.make_pages(self.offset, len - first) } else { Ok(()) }
    }

    #[inline]
    fn capacity(&self) -> usize {
        self.mask + SLOT_ALIGN
    }

    /// Offset of the slot at `position` from the start of the ring.
    #[inline]
    fn slot(&self, position: u64) -> usize {
        as_usize(position) & self.mask
    }

    #[inline]
    fn line(&self, position: u64) -> Line<'_> {
        // SAFETY: `slot` is the start of a line inside the ring, which `at` has
        // checked to lie inside the region.
        let first = unsafe { self.words.byte_add(self.slot(position)) };
        Line { first, _slots: PhantomData }
    }

    /// Where a payload of `len` bytes in the slot at `position` starts, as an offset in the region
    /// and as a pointer; `None` if it does not fit before the ring's end.
    #[inline]
    fn payload(&self, position: u64, len: usize) -> Option<(usize, NonNull<u8>)> {
        let start = self.slot(position) + FRAME_HEADER;
        // A slot starts a line before the ring's end at the latest, and the header is shorter.
        if len > self.capacity() - start {
            return None;
        }
        // SAFETY: start + len is inside the ring, as just checked.
        Some((self.offset + start, unsafe { self.bytes.byte_add(start) }))
    }
}

/// The eight words of one cache line of a ring.
#[derive(Clone, Copy)]
struct Line<'a> {
    first: NonNull<AtomicU64>,
    _slots: PhantomData<&'a Slots>,
}

impl<'a> Line<'a> {
    #[inline]
    fn word(self, index: usize) -> &'a AtomicU64 {
        // SAFETY: the index stays in the line, all of which lies inside the ring.
        let pointer = unsafe { self.first.add(index % (SLOT_ALIGN / 8)) };
        // SAFETY: a live word, as above; the mapping outlives the borrow of the slots;
        // atomics may be aliased.
        unsafe { pointer.as_ref() }
    }
}

/// A line that this process writes.
pub(crate) struct OwnLine<'a>(Line<'a>);

impl OwnLine<'_> {
    /// Loads the word with this index, which this process wrote last.
    #[inline]
    pub(crate) fn load(&self, index: usize) -> u64 {
        self.0.word(index).load(Ordering::Relaxed)
    }

    /// Stores to the word with this index.
    #[inline]
    pub(crate) fn store(&self, index: usize, value: u64, order: Ordering) {
        self.0.word(index).store(value, order);
    }
}

/// A line that the peer writes.
pub(crate) struct PeerLine<'a>(Line<'a>);

impl PeerLine<'_> {
    /// Loads the word with this index.
    #[inline]
    pub(crate) fn load(&self, index: usize, order: Ordering) -> u64 {
        load_of_peer(order, |order| self.0.word(index).load(order))
    }
}

/// The slots of a ring that this process produces into.
#[derive(Debug)]
pub(crate) struct OwnSlots(Slots);

impl OwnSlots {
    /// The slots of a ring, which is an error unless it lies inside, at a line's start.
    pub(super) fn at(mapping: &Mapping, ring: &RingLayout) -> Result<Self> {
        Slots::at(mapping, ring).map(Self)
    }

    /// Enters all pages in this process's page table. Otherwise the first use of each page costs a
    /// fault, which takes longer than a small frame does.
    pub(crate) fn prefault(&self) {
        self.0.prefault();
    }

    /// Makes the pages between two positions, which are at most one capacity apart, and enters them
    /// in this process's page table. Blocks for as long as the kernel takes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Os`](crate::ErrorKind::Os) if there is no memory for them.
    pub(crate) fn make_pages(&self, from: u64, to: u64) -> Result<()> {
        self.0.make_pages(from, to)
    }

    /// The line at `position`.
    #[inline]
    pub(crate) fn line(&self, position: u64) -> OwnLine<'_> {
        OwnLine(self.0.line(position))
    }

    /// Asks for the line at `position`, to write to it soon. Stores become visible in order, so
    /// that a store to a line that has to be fetched holds up all stores after it.
    #[inline]
    pub(crate) fn prefetch(&self, position: u64) {
        prefetch_to_write(self.0.line(position).first);
    }

    /// The payload bytes of the slot at `position`; none if they do not fit before the ring's
    /// end.
    #[inline]
    pub(crate) fn payload_mut(&mut self, position: u64, len: usize) -> &mut [u8] {
        let Some((start, pointer)) = self.0.payload(position, len) else { return &mut [] };
        self.0.mapping.track_write(start, len);
        // SAFETY: the bytes are inside the mapping, which is writable in this process
        // alone: the peer maps it read-only, or keeps to the convention that it does not write
        // there, where a transport cannot do better. `&mut self` is the only handle on the ring's
        // slots, and the atomics in the header lines do not overlap payload bytes of the
        // slot being filled: its header is the 32 bytes before.
        unsafe { std::slice::from_raw_parts_mut(pointer.as_ptr(), len) }
    }
}

/// One slot of a ring that this process produces into, to be filled by any thread.
#[derive(Debug)]
pub(crate) struct OwnSlot {
    slots: Slots,
    position: u64,
    len: usize,
}

impl OwnSlots {
    /// A handle of its own on the slot at `position`, with a payload of `len` bytes.
    ///
    /// # Safety
    ///
    /// As long as the handle lives, no other one is made for any of these bytes, and they are not
    /// reached through [`OwnSlots::payload_mut`].
    pub(crate) unsafe fn detach(&self, position: u64, len: usize) -> OwnSlot {
        OwnSlot { slots: self.0.clone(), position, len }
    }
}

impl OwnSlot {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The line at `position`, which may be that of another slot.
    pub(crate) fn line(&self, position: u64) -> OwnLine<'_> {
        OwnLine(self.slots.line(position))
    }

    /// The payload bytes; none if they do not fit before the ring's end.
    pub(crate) fn payload_mut(&mut self) -> &mut [u8] {
        let Some((start, pointer)) = self.slots.payload(self.position, self.len) else {
            return &mut [];
        };
        self.slots.mapping.track_write(start, self.len);
        // SAFETY: as in `OwnSlots::payload_mut`, but for the other handles: the caller of `detach`
        // has promised that none reaches these bytes while this one lives.
        unsafe { std::slice::from_raw_parts_mut(pointer.as_ptr(), self.len) }
    }
}

/// The slots of a ring that this process consumes from.
#[derive(Debug)]
pub(crate) struct PeerSlots {
    slots: Slots,
    second: Option<Arc<SecondMap>>,
}

impl PeerSlots {
    /// The slots of a ring, which is an error unless it lies inside, at a line's start.
    pub(super) fn at(
        mapping: &Mapping,
        ring: &RingLayout,
        second: Option<Arc<SecondMap>>,
    ) -> Result<Self> {
        Ok(Self { slots: Slots::at(mapping, ring)?, second })
    }

    /// As [`OwnSlots::prefault`].
    pub(crate) fn prefault(&self) {
        self.slots.prefault();
    }

    /// As [`OwnSlots::make_pages`].
    pub(crate) fn make_pages(&self, from: u64, to: u64) -> Result<()> {
        self.slots.make_pages(from, to)
    }

    /// The line at `position`.
    #[inline]
    pub(crate) fn line(&self, position: u64) -> PeerLine<'_> {
        PeerLine(self.slots.line(position))
    }

    /// Asks for the line at `position`, to read it soon.
    #[inline]
    pub(crate) fn prefetch(&self, position: u64) {
        prefetch_to_read(self.slots.line(position).first);
    }

    /// A view of a payload; an empty one if it does not fit before the ring's end.
    #[inline]
    pub(crate) fn payload(&self, position: u64, len: usize) -> PeerBytes<'_> {
        let Some((start, pointer)) = self.slots.payload(position, len) else {
            return PeerBytes::empty();
        };
        self.slots.mapping.track_read(start, len);
        // SAFETY: the bytes are inside the mapping, which outlives the borrow of `self`.
        unsafe { PeerBytes::new(pointer, len) }
    }

    /// The payload at an address that stays the same, also after the slot was given back, once the
    /// bytes have left the ring. `None` if that cannot be: then they must be copied.
    pub(crate) fn pin(&self, position: u64, len: usize) -> Option<PinnedBytes> {
        let (start, _) = self.slots.payload(position, len)?;
        self.second.as_ref()?.pin(start, len)
    }
}
