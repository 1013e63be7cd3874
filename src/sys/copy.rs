//! Copies of payloads.
#![allow(unsafe_code, reason = "copies between raw pointers")]

use std::ops::RangeInclusive;
use std::ptr::NonNull;

use super::{arch, placement};

/// Lengths that are copied by a few moves: a call of the C library's copy takes longer.
const SHORT: RangeInclusive<usize> = HALF..=2 * HALF;
const HALF: usize = 32;

/// From here on bytes are stored past the caches, for a peer that shares none of them.
const PAST_FROM: usize = 4 << 10;

/// Copies `len` bytes.
///
/// # Safety
///
/// As for [`std::ptr::copy_nonoverlapping`], except that another process may write to `from`
/// meanwhile: then the copy is any mix of old and new bytes.
#[inline]
pub(crate) unsafe fn copy(from: NonNull<u8>, to: NonNull<u8>, len: usize) {
    if arch::has_vectors_for(len) {
        // SAFETY: it may be called, as just asked; the rest is the caller's promise.
        return unsafe { arch::copy_vectors(from, to, len) };
    }
    // SAFETY: the caller's promise.
    unsafe { from.copy_to_nonoverlapping(to, len) }
}

/// Copies `source` to `target`, which has the same length, as [`slice::copy_from_slice`] does.
/// It is made for a target in a slot of a ring.
///
/// From 2 KiB on it copies with vector instructions, as the C library's copy is many times slower
/// on some processors for some pairs of addresses. From 4 KiB on it stores past the caches, if the
/// calling thread has found that it shares no cache with its peer.
///
/// # Panics
///
/// If the lengths differ.
#[inline]
pub fn copy_from_slice(target: &mut [u8], source: &[u8]) {
    assert_eq!(target.len(), source.len(), "source and target have the same length");
    if SHORT.contains(&source.len()) {
        return copy_short(target, source);
    }
    if source.len() >= PAST_FROM && placement::is_far() && arch::has_vectors() {
        // SAFETY: it may be called, as just asked.
        return unsafe { arch::copy_past_caches(target, source) };
    }
    copy_through_caches(target, source);
}

/// Copies the first [`HALF`] bytes and the last, which may overlap.
#[inline]
fn copy_short(target: &mut [u8], source: &[u8]) {
    if let (Some(from), Some(to)) = (source.first_chunk::<HALF>(), target.first_chunk_mut()) {
        *to = *from;
    }
    if let (Some(from), Some(to)) = (source.last_chunk::<HALF>(), target.last_chunk_mut()) {
        *to = *from;
    }
}

/// As [`copy_from_slice`], for any target.
#[inline]
pub(crate) fn copy_through_caches(target: &mut [u8], source: &[u8]) {
    assert_eq!(target.len(), source.len(), "source and target have the same length");
    let (from, to) = (NonNull::from(source).cast(), NonNull::from(target).cast());
    // SAFETY: both are valid for `source.len()` bytes, as just checked, and a mutable borrow
    // overlaps no other.
    unsafe { copy(from, to, source.len()) };
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_copied_past_the_caches_too() {
        let source: Vec<u8> = (0..160).flat_map(|i| (0..=250_u8).map(move |j| j ^ i)).collect();
        placement::tests::pretend(true);
        for len in [PAST_FROM, PAST_FROM + 1, PAST_FROM + 95, 39_900] {
            for (from, to) in [(0, 0), (1, 32), (33, 7), (3, 63)] {
                let mut target = vec![0xee; len + 128];
                copy_from_slice(&mut target[to..to + len], &source[from..from + len]);
                assert!(target[to..to + len] == source[from..from + len], "{len}");
                assert!(target[..to].iter().chain(&target[to + len..]).all(|b| *b == 0xee));
            }
        }
        placement::tests::pretend(false);
    }

    #[test]
    fn every_byte_is_copied_at_every_length_and_alignment() {
        let source: Vec<u8> = (0..36).flat_map(|i| (0..=250_u8).map(move |j| j ^ i)).collect();
        for len in (0..300).chain(2040..2320).chain([4096, 8191]) {
            for (from, to) in [(0, 0), (1, 32), (33, 7)] {
                let mut target = vec![0xee; len + 64];
                copy_from_slice(&mut target[to..to + len], &source[from..from + len]);
                assert_eq!(&target[to..to + len], &source[from..from + len], "{len}");
                assert!(target[..to].iter().chain(&target[to + len..]).all(|b| *b == 0xee));
            }
        }
    }

    #[test]
    #[should_panic(expected = "same length")]
    fn lengths_that_differ_are_the_callers_mistake() {
        copy_from_slice(&mut [0; 3], b"four");
    }
}
