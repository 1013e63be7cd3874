//! Shared memory: what it looks like, how it is mapped, how to sleep on it.
//!
//! Level 1. This folder is where memory is dereferenced and where the kernel is
//! asked for it; it knows nothing of rings, frames or processes.

pub(crate) mod bytes;
pub(crate) mod event;
pub(crate) mod layout;
#[cfg(not(loom))]
mod mapped;
#[cfg(slipring_tsan)]
mod mapped_once;
#[cfg(all(feature = "named", not(loom)))]
pub(crate) mod named;
#[cfg(all(feature = "named", not(loom)))]
pub(crate) mod named_layout;
pub(crate) mod region;
#[cfg(loom)]
pub(crate) mod region_loom;
#[cfg(all(feature = "named", not(loom)))]
pub(crate) mod segment_file;
#[cfg(all(feature = "named", not(loom)))]
mod slices;
pub(crate) mod slots;
