//! The sign that the worker is to end, for everything in it that waits.

use std::sync::{Arc, OnceLock};

use crate::error::{Error, ErrorKind, Result};
use crate::ring::doorbell::Alarm;
use crate::ring::doorbell::alarm::OnInterrupt;
use crate::sync::{AtomicU32, Ordering};
use crate::sys::wake_fd::WakeFd;

/// The program's own code for a wait that a signal has interrupted.
pub(super) type InterruptHook = Box<
    dyn Fn() -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> + Send + Sync,
>;

/// Set once, by a shutdown or by the parent's end.
#[derive(Debug, Default)]
pub(crate) struct StopToken {
    is_set: AtomicU32,
    pub(crate) alarm: Alarm,
    /// For a reactor of the worker's own.
    wake_fd: OnceLock<Arc<WakeFd>>,
}

impl StopToken {
    /// Returns another token for waits on the same events.
    pub(crate) fn beside(other: &Self) -> Self {
        Self { alarm: Alarm::beside(&other.alarm), ..Self::default() }
    }

    /// Sets the token and ends all waits that look at it.
    pub(crate) fn set(&self) {
        // Pairs with the Acquire load in `is_set`.
        self.is_set.store(1, Ordering::Release);
        self.alarm.raise();
        if let Some(wake_fd) = self.wake_fd.get() {
            wake_fd.wake_self();
        }
    }

    /// Makes this descriptor readable when the token is set. The caller must look at the
    /// token once more after this.
    pub(crate) fn wake_self(&self, wake_fd: Arc<WakeFd>) {
        // A worker attaches once, so that there is no other descriptor.
        let _ = self.wake_fd.set(wake_fd);
    }

    /// Has waits that look at the token call `hook` when a signal has interrupted them. What it
    /// fails with ends the wait.
    pub(super) fn on_interrupt(&self, hook: InterruptHook) {
        self.alarm.on_interrupt(OnInterrupt(Box::new(move || {
            hook().map_err(|why| {
                let message = "a signal has interrupted the wait, and the program ended it";
                Error::with_source(ErrorKind::Interrupted, message, why)
            })
        })));
    }

    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        // Pairs with the Release store in `set`.
        self.is_set.load(Ordering::Acquire) != 0
    }

    /// Returns [`ErrorKind::Closed`] if the token is set.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_set() { Err(told_to_end()) } else { Ok(()) }
    }
}

#[cold]
fn told_to_end() -> Error {
    Error::new(ErrorKind::Closed, "the worker was told to end")
}
