//! Copies of payloads.
#![allow(unsafe_code, reason = "vector instructions, and memory that is shared")]

use std::ops::RangeInclusive;
use std::ptr::NonNull;

#[cfg(target_arch = "x86_64")]
use super::placement;

/// From here on the C library copies with `rep movsb` on processors that call it fast. On
/// some of them it is not, by a factor of up to 30, when the two addresses differ by little
/// in their lowest twelve bits; see "The copy" in `docs/DECISIONS.md`.
#[cfg(target_arch = "x86_64")]
const VECTOR_FROM: usize = 2 << 10;

/// Copied by a few moves in place: the call of the C library's copy takes longer.
const SHORT: RangeInclusive<usize> = HALF..=2 * HALF;
const HALF: usize = 32;

/// From here on bytes go past the caches to a peer that shares none of them.
#[cfg(target_arch = "x86_64")]
const PAST_FROM: usize = 4 << 10;

/// Copies `len` bytes.
///
/// # Safety
///
/// As for [`std::ptr::copy_nonoverlapping`], but `from` may be written to meanwhile by
/// another process: what is copied then is any mix of old and new bytes.
#[inline]
pub(crate) unsafe fn copy(from: NonNull<u8>, to: NonNull<u8>, len: usize) {
    #[cfg(target_arch = "x86_64")]
    if len >= VECTOR_FROM && std::arch::is_x86_feature_detected!("avx") {
        // SAFETY: the processor has AVX; the rest is the caller's promise.
        return unsafe { copy_vectors(from.as_ptr(), to.as_ptr(), len) };
    }
    // SAFETY: the caller's promise.
    unsafe { from.copy_to_nonoverlapping(to, len) }
}

/// Copies `source` to the equally long `target`, as [`slice::copy_from_slice`] does, but for
/// a target in a slot of a ring: from 2 KiB up with vector instructions, where the C
/// library's copy is many times slower on some processors, for some pairs of addresses; and
/// from 4 KiB up past the caches, if this thread has found that its peer shares none with it.
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
    #[cfg(target_arch = "x86_64")]
    if source.len() >= PAST_FROM
        && placement::is_far()
        && std::arch::is_x86_feature_detected!("avx")
    {
        // SAFETY: the processor has AVX.
        return unsafe { copy_past_caches(target, source) };
    }
    copy_through_caches(target, source);
}

/// Copies the first half and the last, which may overlap.
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

/// # Safety
///
/// As for [`copy`]; the processor must have AVX, and `len` must be at least 128.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
unsafe fn copy_vectors(from: *const u8, to: *mut u8, len: usize) {
    type Step = [std::arch::x86_64::__m256i; 4];
    const STEP: usize = size_of::<Step>();
    let step = |at: usize| {
        // SAFETY: `at` is at most `len - STEP`, so that a step lies inside both ranges.
        let from = unsafe { from.add(at) }.cast::<Step>();
        // SAFETY: as above.
        let to = unsafe { to.add(at) }.cast::<Step>();
        // SAFETY: valid for a read, as above; any bytes are a vector.
        let vectors = unsafe { from.read_unaligned() };
        // SAFETY: valid for a write, as above.
        unsafe { to.write_unaligned(vectors) };
    };
    let mut at = 0;
    while at + STEP <= len {
        step(at);
        at += STEP;
    }
    if at < len {
        // The last step covers what is left, and some of what has been copied.
        step(len - STEP);
    }
}

/// Copies to a target of the same length, of which all whole lines are stored past the
/// caches. What is stored after this is visible after it.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
fn copy_past_caches(target: &mut [u8], source: &[u8]) {
    use std::arch::x86_64::{_mm_sfence, _mm256_loadu_si256, _mm256_stream_si256};
    // The first line has the frame's header in it, which is stored through the caches.
    let start = target.as_ptr().align_offset(64).min(target.len());
    let ((to_first, to), (from_first, from)) = (target.split_at_mut(start), source.split_at(start));
    let ((to_lines, to_last), (from_lines, from_last)) =
        (to.as_chunks_mut::<64>(), from.as_chunks::<64>());
    to_first.copy_from_slice(from_first);
    for (to, from) in to_lines.iter_mut().zip(from_lines) {
        for (to, from) in to.as_chunks_mut::<32>().0.iter_mut().zip(from.as_chunks::<32>().0) {
            // SAFETY: 32 bytes that may be read.
            let vector = unsafe { _mm256_loadu_si256(from.as_ptr().cast()) };
            // SAFETY: 32 bytes that may be written, half of a line that starts at one.
            unsafe { _mm256_stream_si256(to.as_mut_ptr().cast(), vector) };
        }
    }
    to_last.copy_from_slice(from_last);
    // Those stores are not ordered among others: the Release store of the commit word that
    // follows must not overtake them.
    _mm_sfence();
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_copied_past_the_caches_too() {
        let source: Vec<u8> = (0..160).flat_map(|i| (0..=250_u8).map(move |j| j ^ i)).collect();
        placement::pretend(true);
        for len in [PAST_FROM, PAST_FROM + 1, PAST_FROM + 95, 39_900] {
            for (from, to) in [(0, 0), (1, 32), (33, 7), (3, 63)] {
                let mut target = vec![0xee; len + 128];
                copy_from_slice(&mut target[to..to + len], &source[from..from + len]);
                assert!(target[to..to + len] == source[from..from + len], "{len}");
                assert!(target[..to].iter().chain(&target[to + len..]).all(|b| *b == 0xee));
            }
        }
        placement::pretend(false);
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
