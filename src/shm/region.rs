//! The two regions of a channel, and typed access to what lies in them.
//!
//! A region has one writing process. Its owner sees it through [`OwnRegion`] and gets words
//! that can be stored to and slots that can be filled; the peer sees it through [`PeerRegion`]
//! and gets words that can only be loaded and slots that can only be copied from. Offsets are
//! checked when a handle is made, or masked into the ring at each use
//! ([`slots`](super::slots)), so that no handle can reach outside.
//!
//! Memory that the peer writes is never borrowed as a slice by safe code: words are atomics
//! behind raw pointers, payloads are copied out through [`PeerBytes`](super::bytes::PeerBytes).
#![allow(unsafe_code, reason = "copies headers into and out of shared memory")]

use std::fs::File;
use std::ptr::NonNull;
use std::sync::Arc;

#[cfg(any(loom, feature = "pipe"))]
use super::byte_ring::ByteRing;
use super::layout::{RegionHeader, RingLayout};
use super::mapping::Mapping;
use super::second_map::SecondMap;
use super::slots::{OwnSlots, PeerSlots};
use super::transport::{Backing, SharedEvent};
use super::words::{OwnU32, OwnU64, Peer, PeerU32, PeerU64, Table};
use crate::error::{Error, Result};

/// Both regions of a channel, as one of its sides has them from a transport.
#[derive(Debug)]
pub(crate) struct Regions {
    /// The region that this side writes.
    pub(crate) own: OwnRegion,
    /// The region that the other side writes.
    pub(crate) peer: PeerRegion,
    /// The header of the parent's region, which was checked.
    pub(crate) header: RegionHeader,
}

/// A region that this process writes.
#[derive(Debug, Clone)]
pub(crate) struct OwnRegion(Mapping);

impl OwnRegion {
    /// The region in this memory, which no other process is to write.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) if this process cannot write it either.
    pub(crate) fn over(backing: Arc<dyn Backing>) -> Result<Self> {
        if !backing.is_writable() {
            return Err(Error::mismatch("a region that is mapped read-only"));
        }
        Ok(Self(Mapping(backing)))
    }

    /// The event that takes the place of the futex in the bell at `offset`, if there is one.
    pub(crate) fn event(&self, offset: usize) -> Option<SharedEvent> {
        self.0.event(offset)
    }

    pub(crate) fn write_header(&self, header: &RegionHeader) {
        use zerocopy::IntoBytes;
        let bytes = header.as_bytes();
        assert!(bytes.len() <= self.0.len(), "regions are at least a page long");
        // SAFETY: the header fits, as just checked; the mapping is writable, as `over` has
        // checked, and no reference leads into these bytes.
        unsafe { self.0.start().copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) }
    }

    pub(crate) fn u64_at(&self, offset: usize) -> Result<OwnU64> {
        OwnU64::at(&self.0, offset)
    }

    pub(crate) fn u32_at(&self, offset: usize) -> Result<OwnU32> {
        OwnU32::at(&self.0, offset)
    }

    /// The bytes of a pipe's ring, which is an error unless it lies inside.
    #[cfg(any(loom, feature = "pipe"))]
    pub(crate) fn byte_ring(&self, offset: usize, capacity: usize) -> Result<ByteRing> {
        ByteRing::at(&self.0, offset, capacity)
    }

    pub(crate) fn slots(&self, ring: &RingLayout) -> Result<OwnSlots> {
        OwnSlots::at(&self.0, ring)
    }

    pub(super) fn table<const N: usize>(&self, offset: usize, entries: usize) -> Result<Table<N>> {
        Table::at(&self.0, offset, entries)
    }
}

/// A region that the peer writes.
#[derive(Debug, Clone)]
pub(crate) struct PeerRegion {
    mapping: Mapping,
    /// Where what was received can stay for longer than its slot is held.
    second: Option<Arc<SecondMap>>,
}

impl PeerRegion {
    /// The region in this memory, which this process does not write.
    pub(crate) fn over(backing: Arc<dyn Backing>) -> Self {
        Self { mapping: Mapping(backing), second: None }
    }

    /// The same region, with another map of it. Without one, what is kept is copied at once.
    pub(crate) fn with_second(self, second: Option<Arc<SecondMap>>) -> Self {
        Self { second, ..self }
    }

    /// The event that takes the place of the futex in the bell at `offset`, if there is one.
    pub(crate) fn event(&self, offset: usize) -> Option<SharedEvent> {
        self.mapping.event(offset)
    }

    /// Keeps these descriptors open for as long as the region is mapped.
    pub(crate) fn keep_open(&self, files: [File; 2]) {
        self.mapping.keep_open(files);
    }

    /// A private copy of the header's bytes.
    pub(crate) fn header_bytes(&self) -> [u8; size_of::<RegionHeader>()] {
        let mut copy = [0; size_of::<RegionHeader>()];
        if self.mapping.len() >= copy.len() {
            // SAFETY: the source is at least as long as `copy`, as just checked; the peer may
            // write while this copies, and a mix of old and new bytes is then refused or
            // harmless, as every copied header is checked.
            unsafe {
                self.mapping
                    .start()
                    .copy_to_nonoverlapping(NonNull::from(&mut copy).cast(), copy.len())
            }
        }
        copy
    }

    pub(crate) fn u64_at(&self, offset: usize) -> Result<PeerU64> {
        OwnU64::at(&self.mapping, offset).map(Peer)
    }

    pub(crate) fn u32_at(&self, offset: usize) -> Result<PeerU32> {
        OwnU32::at(&self.mapping, offset).map(Peer)
    }

    pub(crate) fn slots(&self, ring: &RingLayout) -> Result<PeerSlots> {
        PeerSlots::at(&self.mapping, ring, self.second.clone())
    }

    pub(super) fn table<const N: usize>(&self, offset: usize, entries: usize) -> Result<Table<N>> {
        Table::at(&self.mapping, offset, entries)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::config::{Config, FRAME_HEADER};
    use crate::error::ErrorKind;
    use crate::shm::layout::{Side, as_usize};
    use crate::shm::memfd::{map_own, map_peer};
    use crate::sync::Ordering;
    use crate::sys::memfd;

    fn regions() -> (OwnRegion, PeerRegion, RegionHeader) {
        let header = RegionHeader::down(&Config::small(), [1; 16], 2);
        let len = header.own.region_len;
        let file = memfd::create(c"test", len).unwrap();
        let own = map_own(&file, len).unwrap();
        memfd::seal(&file, memfd::SEALS_DOWN).unwrap();
        assert!(map_own(&file, len).is_err(), "no second writable map");
        let peer = map_peer(&file, len).unwrap();
        (own, peer, header)
    }

    #[test]
    fn what_the_owner_writes_the_peer_reads() {
        let (own, peer, header) = regions();
        own.write_header(&header);
        let len = header.own.region_len;
        assert_eq!(RegionHeader::parse(&peer.header_bytes(), Side::Down, len).unwrap(), header);
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
        for (offset, words) in [(len - 8, 2), (len - 4, 1), (0, 0), (8, usize::MAX / 8)] {
            assert!(peer.table::<1>(offset, words).is_err(), "{words} words at {offset}");
        }
        assert!(peer.table::<1>(len - 16, 2).is_ok() && peer.table::<2>(len - 16, 1).is_ok());
        assert!(peer.table::<2>(len - 16, 2).is_err());
        let mut outside = header.own.data;
        outside.offset = header.own.region_len;
        assert!(own.slots(&outside).is_err());
        let slots = peer.slots(&header.own.data).unwrap();
        let capacity = as_usize(header.own.data.capacity);
        let longest = capacity - FRAME_HEADER;
        assert_eq!(slots.payload(0, longest).len(), longest);
        for (position, len) in [(0, longest + 1), (64, longest - 63), (64, usize::MAX)] {
            assert!(slots.payload(position, len).is_empty());
        }
    }

    #[test]
    fn a_map_that_cannot_be_written_is_no_region_of_ones_own() {
        let file = memfd::create(c"test", 4096).unwrap();
        let map = |is_writable| crate::shm::file_map::map(&file, 4096, is_writable).unwrap();
        assert_eq!(OwnRegion::over(map(false)).unwrap_err().kind(), ErrorKind::Mismatch);
        OwnRegion::over(map(true)).unwrap();
    }
}
