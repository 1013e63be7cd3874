//! Atomics, locks and threads that switch between std and loom.
//!
//! All code uses these names, so that a build with `--cfg loom` model checks the very code that
//! ships. With `--cfg slipring_tsan`, for `tests/sanitizers.sh`, ThreadSanitizer sees the locks.

pub(crate) mod plain;
#[cfg_attr(loom, path = "sync/model.rs")]
mod primitives;
#[cfg_attr(slipring_tsan, path = "sync/raw_tsan.rs")]
mod raw;

pub(crate) use primitives::*;

/// A counter for statistics. No protocol depends on it, so that a model need not look at every
/// order in which it can change.
pub(crate) use std::sync::atomic::AtomicU64 as Counter;

pub(crate) use std::sync::atomic::Ordering;
