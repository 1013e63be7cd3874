//! Arithmetic on positions.
//!
//! A position counts the bytes of a ring, over all laps, in a u64 that only grows and may wrap.
//! The index in the ring is the position modulo the capacity, which is a power of two. Slots
//! start at multiples of 64.

use crate::config::{FRAME_HEADER, SLOT_ALIGN};
use crate::shm::layout::as_u64;

/// What a sleep word holds before its first use. No slot starts there.
pub(crate) const NEVER: u64 = u64::MAX;

/// Bytes of the slot of a frame with a payload of `len` bytes: header and payload, rounded up
/// to cache lines. The caller has checked `len` against the longest frame.
#[inline]
pub(crate) fn span(len: usize) -> u64 {
    const LAST: usize = SLOT_ALIGN - 1;
    as_u64((FRAME_HEADER + len + LAST) & !LAST)
}

/// Bytes from `position` to the ring's end.
#[inline]
pub(crate) fn to_end(position: u64, capacity: u64) -> u64 {
    capacity - (position & (capacity - 1))
}

/// Bytes of padding before a slot of `span` bytes, as slots are contiguous:
///
/// ```text
///   position v              v end
///   |  used  |    padding   |        if span > end - position; otherwise none
/// ```
#[inline]
pub(crate) fn padding(position: u64, span: u64, capacity: u64) -> u64 {
    let rest = to_end(position, capacity);
    if span > rest { rest } else { 0 }
}

/// Whether `position` lies in `[from, to)`, on the circle of all u64.
#[inline]
pub(crate) fn within(position: u64, from: u64, to: u64) -> bool {
    position.wrapping_sub(from) < to.wrapping_sub(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_the_header_and_the_payload_rounded_up_to_cache_lines() {
        assert_eq!([span(0), span(32), span(33), span(96)], [64, 64, 128, 128]);
    }

    #[test]
    fn a_slot_that_would_cross_the_end_is_padded_to_it() {
        assert_eq!(padding(0, 4096, 8192), 0);
        assert_eq!(padding(4096, 4096, 8192), 0);
        assert_eq!(padding(4160, 4096, 8192), 4032);
        assert_eq!(padding(8192 + 8128, 128, 8192), 64);
    }

    #[test]
    fn intervals_hold_across_the_wrap() {
        let near = u64::MAX - 63;
        assert!(within(near, near, 64));
        assert!(within(0, near, 64));
        assert!(!within(64, near, 64));
        assert!(!within(near - 64, near, 64));
        assert!(!within(5, 5, 5));
    }
}
