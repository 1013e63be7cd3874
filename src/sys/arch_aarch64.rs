//! What AArch64 offers beyond the language: vector copies, also past the caches, and the size of a
//! page.
#![allow(unsafe_code, reason = "instructions of AArch64")]

use std::ptr::NonNull;

/// A page of its own: as much as one page of memory can be.
#[repr(C, align(65536))]
pub(super) struct Page<T>(pub(super) T);

/// Whether [`copy_vectors`] and [`copy_past_caches`] may be called: every AArch64 has the vectors.
#[inline]
pub(super) fn has_vectors() -> bool {
    true
}

/// Whether [`copy_vectors`] is the better copy for so many bytes where none was chosen: the C
/// library's is made of vectors as well, and of what each processor does best.
#[inline]
pub(super) fn has_vectors_for(_: usize) -> bool {
    false
}

#[inline]
pub(crate) fn prefetch_to_write<T>(_: NonNull<T>) {}

/// Asks for nothing, as on [`prefetch_to_write`].
#[inline]
pub(crate) fn prefetch_to_read<T>(_: NonNull<T>) {}

/// Bytes that one step copies: four vectors.
const STEP: usize = 64;

/// Copies `len` bytes with vector instructions.
///
/// # Safety
///
/// As for [`copy`](super::copy::copy), and `len` is at least [`STEP`].
pub(super) unsafe fn copy_vectors(from: NonNull<u8>, to: NonNull<u8>, len: usize) {
    use std::arch::aarch64::{vld1q_u8_x4, vst1q_u8_x4};
    let step = |at: usize| {
        // SAFETY: `at` is at most `len - STEP`, so that a step lies inside both ranges.
        let from = unsafe { from.add(at) };
        // SAFETY: as above.
        let to = unsafe { to.add(at) };
        // SAFETY: `STEP` bytes that may be read, as above.
        let vectors = unsafe { vld1q_u8_x4(from.as_ptr()) };
        // SAFETY: `STEP` bytes that may be written, as above.
        unsafe { vst1q_u8_x4(to.as_ptr(), vectors) };
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

/// Copies to a target of the same length with stores that ask to go past the caches. They are
/// ordered as all stores are: a Release store that follows does not overtake them.
///
/// # Safety
///
/// [`has_vectors`] must be true.
pub(super) unsafe fn copy_past_caches(target: &mut [u8], source: &[u8]) {
    // The first line has the frame's header in it, which is stored through the caches.
    let start = target.as_ptr().align_offset(STEP).min(target.len());
    let ((to_first, to), (from_first, from)) = (target.split_at_mut(start), source.split_at(start));
    let ((to_lines, to_last), (from_lines, from_last)) =
        (to.as_chunks_mut::<STEP>(), from.as_chunks::<STEP>());
    to_first.copy_from_slice(from_first);
    for (to, from) in to_lines.iter_mut().zip(from_lines) {
        // SAFETY: `STEP` bytes that may be read, and as many that may be written.
        unsafe {
            std::arch::asm!(
                "ldp {a:q}, {b:q}, [{from}]",
                "ldp {c:q}, {d:q}, [{from}, #32]",
                "stnp {a:q}, {b:q}, [{to}]",
                "stnp {c:q}, {d:q}, [{to}, #32]",
                from = in(reg) from.as_ptr(),
                to = in(reg) to.as_mut_ptr(),
                a = out(vreg) _,
                b = out(vreg) _,
                c = out(vreg) _,
                d = out(vreg) _,
                options(nostack, preserves_flags)
            );
        }
    }
    to_last.copy_from_slice(from_last);
}
