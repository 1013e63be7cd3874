//! Stands in for `arch.rs` on processors other than x86-64 and AArch64: nothing beyond the
//! language.
#![allow(unsafe_code, reason = "stands in for unsafe functions")]

use std::ptr::NonNull;

/// A page of its own: as much as one page of memory can be.
#[repr(C, align(65536))]
pub(super) struct Page<T>(pub(super) T);

#[inline]
pub(super) fn has_vectors() -> bool {
    false
}

#[inline]
pub(super) fn has_vectors_for(_: usize) -> bool {
    false
}

#[inline]
pub(crate) fn prefetch_to_write<T>(_: NonNull<T>) {}

#[inline]
pub(crate) fn prefetch_to_read<T>(_: NonNull<T>) {}

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
pub(super) unsafe fn copy_past_caches(target: &mut [u8], source: &[u8]) {
    target.copy_from_slice(source);
}
