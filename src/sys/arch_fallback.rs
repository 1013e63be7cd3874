//! What processors other than x86-64 share.

use std::ptr::NonNull;

/// A page of its own: as much as one page of memory can be.
#[repr(C, align(65536))]
pub(super) struct Page<T>(pub(super) T);

/// Does nothing: no gain was measured.
#[inline]
pub(crate) fn prefetch_to_write<T>(_: NonNull<T>) {}

/// As [`prefetch_to_write`].
#[inline]
pub(crate) fn prefetch_to_read<T>(_: NonNull<T>) {}
