//! What ships.

use std::time::Duration;

pub(crate) use std::hint::spin_loop;
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, fence};
pub(crate) use std::thread::{Thread, current, park_timeout, yield_now};

pub(crate) use super::plain::{Condvar, Mutex, MutexGuard};

/// A lock that is taken if it is free, and never waited for.
pub(crate) use super::plain::{Mutex as TryLock, MutexGuard as TryGuard};

/// A wait with something in flight looks again at least this often, so that a peer that
/// publishes and does not ring costs no more than that.
pub(crate) const BACKSTOP: Duration = Duration::from_secs(1);

/// Whether a thread that waits may look again and again before it sleeps.
pub(crate) const MAY_SPIN: bool = true;

/// The time on the clock of the model that runs.
#[inline]
pub(crate) fn model_now_ns() -> Option<u64> {
    None
}

/// Runs `step` in a model only.
#[inline]
pub(crate) fn in_model(_step: impl FnOnce()) {}
