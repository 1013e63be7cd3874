//! Whether a channel can still be used, and if not, why.
//!
//! ```text
//!   open ---> closing ---> closed      close() or drop
//!     |
//!     +-----> dead                     the worker ended by itself
//!     +-----> failed                   it wrote garbage, or has no session
//! ```
//!
//! The first cause wins and never changes.

use std::sync::OnceLock;

use crate::error::{Error, ErrorKind, Result};
use crate::ring::doorbell::Alarm;
use crate::sync::{AtomicU32, Ordering};

const OPEN: u32 = 0;
const CLOSING: u32 = 1;
const CLOSED: u32 = 2;
const DEAD: u32 = 3;
const FAILED: u32 = 4;

/// How a channel stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    Closing,
    Closed,
    Dead,
    Failed,
}

/// The state that every operation looks at before and while it waits.
#[derive(Debug, Default)]
pub(crate) struct Life {
    phase: AtomicU32,
    failure: OnceLock<Error>,
    pub(crate) alarm: Alarm,
}

impl Life {
    #[inline]
    pub(crate) fn phase(&self) -> Phase {
        // Pairs with the Release in `leave`: the failure is there for who sees the phase.
        match self.phase.load(Ordering::Acquire) {
            OPEN => Phase::Open,
            CLOSING => Phase::Closing,
            CLOSED => Phase::Closed,
            DEAD => Phase::Dead,
            _ => Phase::Failed,
        }
    }

    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.phase() == Phase::Open
    }

    /// Leaves the open phase; false if that has happened before. Wakes all waits.
    fn leave(&self, to: u32) -> bool {
        let left =
            self.phase.compare_exchange(OPEN, to, Ordering::AcqRel, Ordering::Acquire).is_ok();
        self.alarm.raise();
        left
    }

    pub(crate) fn close(&self) -> bool {
        self.leave(CLOSING)
    }

    pub(crate) fn closed(&self) {
        let _ = self.phase.compare_exchange(CLOSING, CLOSED, Ordering::AcqRel, Ordering::Acquire);
        self.alarm.raise();
    }

    pub(crate) fn die(&self) -> bool {
        self.leave(DEAD)
    }

    /// The channel cannot be used any more because of `error`.
    pub(crate) fn fail(&self, error: Error) -> bool {
        // Whoever sets it first; a later cause must not replace what others were told.
        let _ = self.failure.set(error);
        self.leave(FAILED)
    }

    pub(crate) fn failure(&self) -> Option<Error> {
        self.failure.get().cloned()
    }

    /// An error unless the channel is open or died; the caller knows more of a death.
    pub(crate) fn check_not_closed(&self) -> Result<()> {
        match self.phase() {
            Phase::Open | Phase::Dead => Ok(()),
            Phase::Closing | Phase::Closed => Err(closed()),
            Phase::Failed => Err(self.failure().unwrap_or_else(closed)),
        }
    }
}

#[cold]
fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the channel is closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cause_wins() {
        let life = Life::default();
        assert!(life.is_open() && life.check_not_closed().is_ok());
        assert!(life.fail(Error::corrupt("garbage")));
        assert!(!life.die() && !life.close());
        assert_eq!(life.phase(), Phase::Failed);
        assert_eq!(life.check_not_closed().unwrap_err().kind(), ErrorKind::PeerCorrupt);

        let life = Life::default();
        assert!(life.close());
        assert!(!life.die() && !life.close());
        life.closed();
        assert_eq!(life.phase(), Phase::Closed);
        assert!(life.check_not_closed().unwrap_err().is_closed());
    }
}
