//! Atomics, locks and threads that switch between std and loom.
//!
//! Everything above uses these names, so that a build with `--cfg loom` model
//! checks the very code that ships. Locks here ignore poisoning: a panic of one
//! thread of the host must not take the channel from the others, and no state
//! behind these locks is left half-changed by the code that holds them.

pub(crate) mod mutant;

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64};
#[cfg(loom)]
pub(crate) use model::fence;
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, fence};

/// Counts things for statistics. No protocol depends on it, so a model need not look at
/// every order in which it can change.
pub(crate) use std::sync::atomic::AtomicU64 as Counter;

pub(crate) use std::sync::atomic::Ordering;

#[cfg(loom)]
pub(crate) use loom::{hint::spin_loop, thread::yield_now};
#[cfg(not(loom))]
pub(crate) use std::{hint::spin_loop, thread::yield_now};

#[cfg(loom)]
use loom::sync as imp;
#[cfg(not(loom))]
use std::sync as imp;

pub(crate) use imp::MutexGuard;

/// A mutex without poisoning.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(imp::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(imp::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }
}

#[cfg(loom)]
mod model {
    use super::{AtomicU32, Ordering};

    loom::lazy_static! {
        static ref FULL_FENCES: AtomicU32 = AtomicU32::new(0);
    }

    /// The checker never switches threads between an access and the fence after it, and
    /// takes runs for equal that differ in the order of their fences only. So every full
    /// fence is an access too, to one word that all of them share.
    pub(crate) fn fence(order: Ordering) {
        if order == Ordering::SeqCst {
            FULL_FENCES.fetch_add(1, Ordering::Relaxed);
        }
        loom::sync::atomic::fence(order);
    }
}
