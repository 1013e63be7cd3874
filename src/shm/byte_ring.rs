//! The bytes of a pipe's ring: positions are masked into the ring at each use, and what crosses the
//! ring's end is copied in two parts.
#![allow(unsafe_code, reason = "copies into and out of memory that other processes can write")]

use std::mem::MaybeUninit;
use std::ptr::NonNull;

use super::bytes::PeerBytes;
use super::layout::{as_u64, as_usize};
use super::mapping::Mapping;
use crate::error::{Error, Result};
use crate::sys::copy::copy;

/// The bytes of one ring. Several processes can write them at the same time, if their programs do
/// what they must not: bytes have no invalid values, and no reference leads into them.
#[derive(Debug, Clone)]
pub(crate) struct ByteRing {
    bytes: NonNull<u8>,
    mapping: Mapping,
    offset: usize,
    capacity: usize,
}

// SAFETY: the pointer leads into `mapping`, which is Send and Sync, and all access through it copies
// bytes, of which each value is valid.
unsafe impl Send for ByteRing {}
// SAFETY: as above.
unsafe impl Sync for ByteRing {}

impl ByteRing {
    /// The ring of `capacity` bytes, a power of two, at `offset`; an error unless it lies inside.
    pub(super) fn at(mapping: &Mapping, offset: usize, capacity: usize) -> Result<Self> {
        mapping.check_span(offset, capacity, "ring")?;
        if !capacity.is_power_of_two() {
            return Err(Error::mismatch(format!("ring of {capacity} bytes, no power of two")));
        }
        let bytes = mapping.byte_at(offset);
        Ok(Self { bytes, mapping: mapping.clone(), offset, capacity })
    }

    pub(crate) fn capacity(&self) -> u64 {
        as_u64(self.capacity)
    }

    /// Copies `from` to `position`. Bytes beyond one capacity are left out.
    #[inline]
    pub(crate) fn write(&self, position: u64, from: PeerBytes<'_>) {
        let (start, first, second) = self.parts(position, from.len());
        self.mapping.track_write(self.offset + start, first);
        let source = from.start();
        // SAFETY: `start` is below the capacity, which lies inside the mapping.
        let target = unsafe { self.bytes.byte_add(start) };
        // SAFETY: `first` bytes lie at the source, and between `start` and the ring's end, as `parts`
        // says. The source is no memory of this ring: its callers have it from elsewhere, and safe
        // code has no borrow that leads here.
        unsafe { copy(source, target, first) };
        if second > 0 {
            self.mapping.track_write(self.offset, second);
            // SAFETY: `first` is at most the number of bytes at the source.
            let source = unsafe { source.byte_add(first) };
            // SAFETY: as above: `second` bytes are left, and at most `start` of them.
            unsafe { copy(source, self.bytes, second) };
        }
    }

    /// Fills `out` with the bytes from `position` on. What of it is beyond one capacity is not filled.
    #[inline]
    pub(crate) fn read(&self, position: u64, out: &mut [MaybeUninit<u8>]) {
        let (start, first, second) = self.parts(position, out.len());
        self.mapping.track_read(self.offset + start, first);
        let target: NonNull<u8> = NonNull::from(out).cast();
        // SAFETY: `start` is below the capacity, which lies inside the mapping.
        let source = unsafe { self.bytes.byte_add(start) };
        // SAFETY: `first` bytes lie between `start` and the ring's end, and fit `out`, as `parts` says.
        // `out` is borrowed mutably and safe code has no borrow that leads into the ring, so that
        // the two do not overlap. Another process may write meanwhile; bytes have no invalid values.
        unsafe { copy(source, target, first) };
        if second > 0 {
            self.mapping.track_read(self.offset, second);
            // SAFETY: `first` is at most the length of `out`.
            let target = unsafe { target.byte_add(first) };
            // SAFETY: as above: `second` bytes are left in `out`, and at most `start` of them.
            unsafe { copy(self.bytes, target, second) };
        }
    }

    /// Copies the two words at `position`.
    #[inline]
    pub(crate) fn read_words(&self, position: u64) -> [u64; 2] {
        let mut words = [MaybeUninit::new(0); 16];
        self.read(position, &mut words);
        // SAFETY: each byte was initialized above, and `read` leaves it or writes to it.
        let bytes = words.map(|byte| unsafe { byte.assume_init() });
        let word = |half: &[u8]| half.try_into().map_or(0, u64::from_le_bytes);
        let (low, high) = bytes.split_at(8);
        [word(low), word(high)]
    }

    /// Where `len` bytes from `position` on lie: the offset in the ring, how many of them lie before
    /// the ring's end, and how many at its start. Together they are at most one capacity.
    #[inline]
    fn parts(&self, position: u64, len: usize) -> (usize, usize, usize) {
        let start = as_usize(position) & (self.capacity - 1);
        let first = len.min(self.capacity - start);
        (start, first, (len - first).min(start))
    }
}

/// The bytes of a buffer that was made of zeros and was filled then.
#[cfg(test)]
pub(crate) fn initialized(bytes: &[MaybeUninit<u8>]) -> Vec<u8> {
    // SAFETY: its callers, which are tests, have initialized all of them.
    bytes.iter().map(|byte| unsafe { byte.assume_init() }).collect()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::shm::region::OwnRegion;
    use crate::shm::shared_map;
    use crate::sys::memfd;

    fn region(len: usize) -> OwnRegion {
        shared_map::map(&memfd::create(c"test", as_u64(len)).unwrap(), len).unwrap()
    }

    fn filled(ring: &ByteRing, position: u64, len: usize) -> Vec<u8> {
        let mut out = vec![MaybeUninit::new(0); len];
        ring.read(position, &mut out);
        initialized(&out)
    }

    #[test]
    fn bytes_go_around_the_rings_end() {
        let own = region(4096);
        let ring = own.byte_ring(1024, 256).unwrap();
        ring.write(u64::MAX - 2, PeerBytes::of(b"around"));
        assert_eq!(filled(&ring, u64::MAX - 2, 6), b"around");
        assert_eq!(filled(&ring, 0, 3), b"und");
    }

    #[test]
    fn no_byte_outside_the_ring_is_touched() {
        let own = region(4096);
        let all = own.byte_ring(0, 4096).unwrap();
        let ring = own.byte_ring(1024, 256).unwrap();
        ring.write(100, PeerBytes::of(&[1; 1000]));
        let found = filled(&all, 0, 4096);
        assert!(found[1024..1280].iter().all(|byte| *byte == 1));
        assert_eq!(found.iter().map(|byte| usize::from(*byte)).sum::<usize>(), 256);
        assert_eq!(filled(&ring, 7, 1000)[..256], [1; 256]);
    }

    #[test]
    fn a_ring_must_lie_inside() {
        let own = region(4096);
        assert!(own.byte_ring(4096, 256).is_err());
        assert!(own.byte_ring(0, 100).is_err());
        assert!(own.byte_ring(usize::MAX, 4096).is_err());
    }
}
