//! A consumer whose thread sleeps in a reactor, on a descriptor in the bell's place; see the
//! protocol in [`doorbell`](crate::ring::doorbell).

use std::time::Duration;

use super::Consumer;
use crate::error::{Error, Result};
use crate::ring::doorbell::BY_FD;
use crate::ring::position::NEVER;
use crate::sync::Ordering;
use crate::sync::mutant::{self, Mutant};
use crate::sys::clock::Deadline;
use crate::sys::fork;
use crate::sys::wake_fd::{Drained, WakeFd};

/// How long a settling consumer waits for a producer that has committed but not rung.
const CHECK_PATIENCE: Duration = Duration::from_micros(200);

/// The peer has ended what it and this process wake each other's reactors by.
pub(crate) fn shut_down() -> Error {
    Error::corrupt("the peer shut the descriptor for reactors down")
}

/// What settling found and left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rearmed {
    pub(crate) is_readable: bool,
    /// The descriptor was readable.
    pub(crate) has_drained: bool,
}

impl Consumer {
    /// This end will be woken by its bell: the descriptor may miss what comes.
    pub(crate) fn forget_descriptor(&mut self) {
        self.is_lit = false;
    }

    /// Whether the next frame will make the descriptor readable, and has not come yet.
    pub(crate) fn is_armed(&self) -> bool {
        let announced = self.sleep_at.load(Ordering::Relaxed);
        self.is_lit && announced == self.next | BY_FD && !self.has_next()
    }

    /// Takes back that the next frame is to make the descriptor readable.
    pub(crate) fn disarm(&mut self) {
        if std::mem::take(&mut self.is_lit) {
            self.sleep_at.store(NEVER, Ordering::Relaxed);
        }
    }

    /// As [`Consumer::announce`], to be woken by the descriptor.
    pub(crate) fn announce_by_fd(&self) {
        self.sleeper.announce(&self.sleep_at, self.next | BY_FD);
    }

    /// Whether the producer has rung, if it had to, for all frames that were taken: then
    /// no more writes to the descriptor come for them.
    pub(crate) fn is_rung_for(&self) -> bool {
        // Pairs with the Release store in the producer's `ring_if_awaited`.
        let checked = self.peer_checked.load(Ordering::Acquire);
        checked.wrapping_sub(self.next).cast_signed() >= 0
    }

    /// Whether it has checked behind this position.
    fn is_rung_behind(&self, position: u64) -> bool {
        // Pairs with the Release store in the producer's `ring_if_awaited`.
        let checked = self.peer_checked.load(Ordering::Acquire);
        checked.wrapping_sub(position).cast_signed() > 0
    }

    /// Makes the descriptor readable exactly if a frame is there, or `is_over` says that
    /// there is other news. With `is_exact` it waits, briefly, so that it is not readable for a
    /// frame that is gone.
    pub(crate) fn rearm(
        &mut self,
        wake_fd: &WakeFd,
        is_over: bool,
        is_exact: bool,
    ) -> Result<Rearmed> {
        // The descriptor is shared with the parent.
        fork::check()?;
        if self.is_lit && self.has_next() {
            // The producer may have committed it and not rung yet, maybe for a while.
            if !self.is_rung_behind(self.next) && !mutant::chosen(Mutant::UnrungNotLit) {
                wake_fd.wake_self();
            }
            return Ok(Rearmed { is_readable: true, has_drained: false });
        }
        self.publish();
        if is_exact && !mutant::chosen(Mutant::DrainUnchecked) {
            self.await_check();
        }
        let is_late = mutant::chosen(Mutant::DrainLate);
        let drained = if is_late { Drained::Nothing } else { wake_fd.drain() };
        if drained == Drained::Broken {
            return Err(self.poisoned.insert(shut_down()).clone());
        }
        self.announce_by_fd();
        mutant::full_fence(Mutant::NoFenceAfterDrain); // A, pairs with B in `ring_if_awaited`
        // From here on the producer makes it readable, or this end does so now.
        self.is_lit = true;
        let has_next = !mutant::chosen(Mutant::NoLookAfterDrain) && self.has_next();
        let is_readable = has_next || is_over;
        if is_late {
            wake_fd.drain();
        }
        if is_readable {
            wake_fd.wake_self();
        }
        Ok(Rearmed { is_readable, has_drained: drained == Drained::Something })
    }

    /// Honest producers are past the check in nanoseconds, unless the kernel has taken
    /// the processor from them: they may need this one. After that, one wake-up may turn
    /// out to be for nothing.
    fn await_check(&self) {
        let patience = Deadline::after(CHECK_PATIENCE);
        let mut looks = 0_u32;
        while !self.is_rung_for() && !patience.has_passed() {
            looks += 1;
            match looks.is_multiple_of(64) {
                true => crate::sync::yield_now(),
                false => crate::sync::spin_loop(),
            }
        }
    }
}
