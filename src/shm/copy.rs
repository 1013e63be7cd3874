//! Copies of payloads.
#![allow(unsafe_code, reason = "vector instructions, and memory that is shared")]

use std::ptr::NonNull;

/// From here on the C library copies with `rep movsb` on processors that call it fast. On
/// some of them it is not, by a factor of up to 30, when the two addresses differ by little
/// in their lowest twelve bits; see "The copy" in `docs/BENCHMARKS.md`.
#[cfg(target_arch = "x86_64")]
const VECTOR_FROM: usize = 2 << 10;

/// Copies `len` bytes.
///
/// # Safety
///
/// As for [`std::ptr::copy_nonoverlapping`], but `from` may be written to meanwhile by
/// another process: what is copied then is any mix of old and new bytes.
#[inline]
pub(super) unsafe fn copy(from: NonNull<u8>, to: NonNull<u8>, len: usize) {
    #[cfg(target_arch = "x86_64")]
    if len >= VECTOR_FROM && std::arch::is_x86_feature_detected!("avx") {
        // SAFETY: the processor has AVX; the rest is the caller's promise.
        return unsafe { copy_vectors(from.as_ptr(), to.as_ptr(), len) };
    }
    // SAFETY: the caller's promise.
    unsafe { from.copy_to_nonoverlapping(to, len) }
}

/// Copies `source` to the equally long `target`, as [`slice::copy_from_slice`] does. From
/// 2 KiB up it does so with vector instructions: the C library's copy is many times slower
/// on some processors, for some pairs of addresses.
///
/// # Panics
///
/// If the lengths differ.
#[inline]
pub fn copy_from_slice(target: &mut [u8], source: &[u8]) {
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

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
