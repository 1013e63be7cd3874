//! How a thread that waits spins before it sleeps.
//!
//! A sleep and a wake-up cost some microseconds; a busy peer answers sooner. So a thread that
//! waits looks again and again for a while, unless that takes the processor from the very peer
//! that it waits for. Each side stores in shared memory which processor it runs on, as a hint
//! for the other:
//!
//! | the peer | spinning |
//! |---|---|
//! | was last seen on another processor | helps |
//! | was last seen on this one | does not |
//! | has never said where it runs | helps |
//!
//! How long it spins is learnt from the sleeps: one that was short should have been spun
//! through, and a long one halves the time for the next wait.

use std::time::Duration;

use crate::config::WaitStrategy;
use crate::error::Result;
use crate::shm::words::{OwnU32, PeerU32};
use crate::sync::{Counter, MAY_SPIN, Ordering, spin_loop, yield_now};
use crate::sys::clock::{Deadline, now_ns};
use crate::sys::cpu;

/// Looks between two readings of the clock.
const LOOKS: u32 = 64;
/// Nanoseconds of spinning after which the processor is offered to others between looks: what
/// is known of where the peer runs is as old as its last wait.
const YIELD_AFTER: u64 = 1_000_000;
/// The shortest time that a wait spins, in nanoseconds: about the price of a system call.
const SHORTEST: u64 = 1_000;

/// One end's way to spin.
#[derive(Debug)]
pub(super) struct Spinner {
    own_cpu: OwnU32,
    peer_cpu: PeerU32,
    strategy: WaitStrategy,
    /// Nanoseconds that the next wait spins.
    budget: Counter,
}

impl Spinner {
    pub(super) fn new(own_cpu: OwnU32, peer_cpu: PeerU32, strategy: WaitStrategy) -> Self {
        let budget = Counter::new(longest(strategy));
        let spinner = Self { own_cpu, peer_cpu, strategy, budget };
        spinner.report_cpu();
        spinner
    }

    /// Looks a few times without a reading of the clock, where spinning can help.
    #[inline]
    pub(super) fn spin_briefly(&self, mut look: impl FnMut() -> bool) -> bool {
        self.may_spin()
            && (0..LOOKS).any(|_| {
                spin_loop();
                look()
            })
    }

    /// Passes so many nanoseconds without a look, where spinning can help.
    #[cold]
    pub(super) fn look_away(&self, nanos: u64) {
        if self.may_spin() {
            let start = now_ns();
            while now_ns().wrapping_sub(start) < nanos {
                spin_loop();
            }
        }
    }

    /// Looks until `look` finds something, the budget is spent, the deadline has passed, or
    /// spinning does not help any more.
    pub(super) fn spin<T>(
        &self,
        deadline: Deadline,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let budget = self.budget.load(Ordering::Relaxed);
        let start = now_ns();
        loop {
            for _ in 0..LOOKS {
                spin_loop();
                if let Some(found) = look()? {
                    return Ok(Some(found));
                }
            }
            let spun = now_ns().wrapping_sub(start);
            let is_endless = self.strategy == WaitStrategy::Spin;
            // Either side may have been moved meanwhile.
            let is_over = (!is_endless && spun >= budget) || !self.may_spin();
            if is_over || deadline.has_passed() {
                return Ok(None);
            }
            if spun >= YIELD_AFTER {
                yield_now();
            }
        }
    }

    /// Whether spinning can help: the peer is not known to need the processor that this thread
    /// runs on. Tells the peer which processor this is.
    pub(super) fn may_spin(&self) -> bool {
        if !MAY_SPIN || self.strategy == WaitStrategy::Park {
            return false;
        }
        let own = self.report_cpu();
        let peer = self.peer_cpu.load(Ordering::Relaxed);
        match self.strategy {
            WaitStrategy::Park => false,
            WaitStrategy::SpinThenPark(_) if cpu::are_scarce() => false,
            WaitStrategy::Spin | WaitStrategy::SpinThenPark(_) => peer != own || own == 0,
        }
    }

    /// Whether the peer was last seen on another processor than this thread's.
    pub(super) fn runs_elsewhere(&self) -> bool {
        let peer = self.peer_cpu.load(Ordering::Relaxed);
        !cpu::are_scarce() && peer != 0 && peer != self.report_cpu()
    }

    /// Tells the peer where this thread runs, and returns that: when this is made, before and
    /// while it spins, and around sleeps. Stores it only when it has changed, as the peer loads
    /// the line whenever it waits.
    pub(super) fn report_cpu(&self) -> u32 {
        if !MAY_SPIN {
            return 0;
        }
        let own = cpu::current();
        if self.own_cpu.load(Ordering::Relaxed) != own {
            self.own_cpu.store(own, Ordering::Relaxed);
        }
        own
    }

    /// Sets the budget after a sleep of so many nanoseconds. A peer that takes long each time
    /// soon costs [`SHORTEST`] for each wait.
    pub(super) fn learn(&self, slept: u64) {
        let longest = longest(self.strategy);
        let budget = self.budget.load(Ordering::Relaxed);
        let is_short = slept < 4 * longest;
        let next = if is_short { longest } else { (budget / 2).max(SHORTEST).min(longest) };
        self.budget.store(next, Ordering::Relaxed);
    }
}

/// The longest time that a wait spins, in nanoseconds.
fn longest(strategy: WaitStrategy) -> u64 {
    let longest = match strategy {
        WaitStrategy::SpinThenPark(longest) => longest,
        WaitStrategy::Spin | WaitStrategy::Park => Duration::ZERO,
    };
    u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX)
}
