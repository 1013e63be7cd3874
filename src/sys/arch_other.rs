//! Stands in for `arch.rs` on processors other than x86-64 and AArch64: nothing beyond the
//! language.
#![allow(unsafe_code, reason = "stands in for unsafe functions")]

use std::ptr::NonNull;

pub(super) use super::arch_fallback::Page;
pub(crate) use super::arch_fallback::{prefetch_to_read, prefetch_to_write};

#[inline]
pub(super) fn has_vectors() -> bool {
    false
}

#[inline]
pub(super) fn has_vectors_for(_: usize) -> bool {
    false
}

/// # Safety
///
/// As for [`copy`](super::copy::copy).
pub(super) unsafe fn copy_vectors(from: NonNull<u8>, to: NonNull<u8>, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { from.copy_to_nonoverlapping(to, len) }
}

/// # Safety
///
/// Always met.
pub(super) unsafe fn copy_lines_past_caches(target: &mut [[u8; 64]], source: &[[u8; 64]]) {
    target.copy_from_slice(source);
}
