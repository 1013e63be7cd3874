//! What x86-64 offers beyond the language: vector copies, prefetches, the size of a page.
#![allow(unsafe_code, reason = "instructions of x86-64")]

use std::ptr::NonNull;

/// A page of its own: as much as one page of memory can be.
#[repr(C, align(4096))]
pub(super) struct Page<T>(pub(super) T);

/// From here on [`copy_vectors`] is used: the C library copies with `rep movsb` on processors
/// that call it fast. On some of them it is slower by a factor of up to 30 when the two addresses
/// differ by little in their lowest twelve bits; see "The copy" in `docs/DECISIONS.md`.
const VECTOR_FROM: usize = 2 << 10;

/// Whether [`copy_vectors`] and [`copy_lines_past_caches`] may be called.
#[inline]
pub(super) fn has_vectors() -> bool {
    std::arch::is_x86_feature_detected!("avx")
}

/// Whether [`copy_vectors`] may be called for so many bytes, and is the better copy for them.
#[inline]
pub(super) fn has_vectors_for(len: usize) -> bool {
    len >= VECTOR_FROM && has_vectors()
}

/// Asks for the line at `address`, to write to it soon.
#[inline]
pub(crate) fn prefetch_to_write<T>(address: NonNull<T>) {
    // SAFETY: a hint that changes no memory and cannot fault; processors without it do nothing.
    unsafe {
        std::arch::asm!(
            "prefetchw [{}]",
            in(reg) address.as_ptr(),
            options(nostack, preserves_flags)
        );
    }
}

/// Asks for the line at `address`, to read it soon.
#[inline]
pub(crate) fn prefetch_to_read<T>(address: NonNull<T>) {
    // SAFETY: a hint that changes no memory and cannot fault.
    unsafe {
        std::arch::asm!(
            "prefetcht0 [{}]",
            in(reg) address.as_ptr(),
            options(nostack, preserves_flags, readonly)
        );
    }
}

/// Copies `len` bytes with vector instructions.
///
/// # Safety
///
/// As for [`copy`](super::copy::copy); [`has_vectors`] must be true, and `len` at least that of a
/// step, 128 bytes.
#[target_feature(enable = "avx")]
pub(super) unsafe fn copy_vectors(from: NonNull<u8>, to: NonNull<u8>, len: usize) {
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

/// Copies as many lines with stores past the caches. What is stored after this is visible after it.
///
/// # Safety
///
/// [`has_vectors`] must be true, and the target must start at a multiple of 64.
#[target_feature(enable = "avx")]
pub(super) unsafe fn copy_lines_past_caches(target: &mut [[u8; 64]], source: &[[u8; 64]]) {
    use std::arch::x86_64::{_mm_sfence, _mm256_loadu_si256, _mm256_stream_si256};
    for (to, from) in target.iter_mut().zip(source) {
        for (to, from) in to.as_chunks_mut::<32>().0.iter_mut().zip(from.as_chunks::<32>().0) {
            // SAFETY: 32 bytes that may be read.
            let vector = unsafe { _mm256_loadu_si256(from.as_ptr().cast()) };
            // SAFETY: 32 bytes that may be written, half of a line: the caller has aligned it.
            unsafe { _mm256_stream_si256(to.as_mut_ptr().cast(), vector) };
        }
    }
    // Those stores are not ordered among others: the Release store of the commit word that
    // follows must not overtake them.
    _mm_sfence();
}
