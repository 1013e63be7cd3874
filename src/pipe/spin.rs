//! How long a side looks again and again before it sleeps.

use crate::shm::words::OwnU32;
use crate::sync::{Counter, MAY_SPIN, Ordering, spin_loop};
use crate::sys::clock::now_ns;
use crate::sys::cpu;

/// The longest time that a wait looks, in nanoseconds.
const LONGEST: u64 = 20_000;
/// The shortest: about the price of a system call.
const SHORTEST: u64 = 1_000;
/// Looks between two readings of the clock.
const LOOKS: u32 = 64;

/// Looks again and again where that can help: the other side must not need this processor.
#[derive(Debug)]
pub(super) struct Spin {
    own_cpu: OwnU32,
    peer_cpu: OwnU32,
    /// Nanoseconds that the next wait looks.
    budget: Counter,
}

impl Spin {
    pub(super) fn new(own_cpu: OwnU32, peer_cpu: OwnU32) -> Self {
        Self { own_cpu, peer_cpu, budget: Counter::new(LONGEST) }
    }

    /// Tells the other side on which processor this one runs.
    #[inline]
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

    /// Looks until `look` finds something or that has taken as long as it may. Returns what the last
    /// look has found.
    pub(super) fn until(&self, look: impl Fn() -> bool) -> bool {
        if look() {
            return true;
        }
        if !MAY_SPIN {
            return false;
        }
        let own = self.report_cpu();
        let shares = own != 0 && self.peer_cpu.load(Ordering::Relaxed) == own;
        if shares || cpu::are_scarce() {
            return false;
        }
        let (start, budget) = (now_ns(), self.budget.load(Ordering::Relaxed));
        loop {
            for _ in 0..LOOKS {
                spin_loop();
                if look() {
                    return true;
                }
            }
            if now_ns().wrapping_sub(start) >= budget {
                return false;
            }
        }
    }

    /// Runs what sleeps, and learns from how long that took: a side that takes long each time soon
    /// costs [`SHORTEST`] for each wait.
    pub(super) fn around_sleep<T>(&self, sleep: impl FnOnce() -> T) -> T {
        self.report_cpu();
        let start = now_ns();
        let slept = sleep();
        self.report_cpu();
        let is_short = now_ns().wrapping_sub(start) < 4 * LONGEST;
        let budget = self.budget.load(Ordering::Relaxed);
        let next = if is_short { LONGEST } else { (budget / 2).max(SHORTEST) };
        self.budget.store(next, Ordering::Relaxed);
        slept
    }
}
