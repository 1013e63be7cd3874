//! What AArch64 offers beyond the language: vector copies, also past the caches, and the size of a
//! page.
#![allow(unsafe_code, reason = "instructions of AArch64")]

use std::ptr::NonNull;

pub(super) use super::arch_fallback::Page;
pub(crate) use super::arch_fallback::{prefetch_to_read, prefetch_to_write};

/// Whether [`copy_vectors`] and [`copy_lines_past_caches`] may be called: every AArch64 has the vectors.
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

/// Copies as many lines with stores that ask to go past the caches. They are ordered as all stores
/// are: a Release store that follows does not overtake them.
///
/// # Safety
///
/// [`has_vectors`] must be true.
pub(super) unsafe fn copy_lines_past_caches(target: &mut [[u8; 64]], source: &[[u8; 64]]) {
    for (to, from) in target.iter_mut().zip(source) {
        // SAFETY: 64 bytes that may be read, and as many that may be written.
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
}
