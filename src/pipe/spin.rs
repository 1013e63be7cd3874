//! How long a side looks again and again before it sleeps.

use std::time::Duration;

use crate::shm::words::OwnU32;
use crate::sync::{Counter, MAY_SPIN, Ordering, spin_loop};
use crate::sys::clock::now_ns;
use crate::sys::cpu;

/// A sleep that is shorter than this should have been looked through, in nanoseconds: on virtual machines
/// the wake-up alone takes up to a fourth of it.
const SHORT_SLEEP: u64 = 320_000;
/// The longest time that a wait looks after a sleep that was not short, in nanoseconds.
const AFTER_LONG: u64 = 20_000;
/// The shortest: about the price of a system call.
const SHORTEST: u64 = 1_000;
/// Looks between two readings of the clock.
const LOOKS: u32 = 64;

/// Looks again and again where that can help: the other side must not need this processor.
#[derive(Debug)]
pub(super) struct Spin {
    own_cpu: OwnU32,
    peer_cpu: OwnU32,
    /// Nanoseconds that the next wait looks at most.
    budget: Counter,
}

impl Spin {
    pub(super) fn new(own_cpu: OwnU32, peer_cpu: OwnU32) -> Self {
        Self { own_cpu, peer_cpu, budget: Counter::new(u64::MAX) }
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

    /// Looks until `look` finds something or that has taken as long as it may, `longest` at most.
    /// Returns what the last look has found.
    pub(super) fn until(&self, longest: Duration, look: impl Fn() -> bool) -> bool {
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
        let longest = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        let (start, budget) = (now_ns(), self.budget.load(Ordering::Relaxed).min(longest));
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
        let is_short = now_ns().wrapping_sub(start) < SHORT_SLEEP;
        let budget = self.budget.load(Ordering::Relaxed);
        let next = if is_short { u64::MAX } else { (budget / 2).clamp(SHORTEST, AFTER_LONG) };
        self.budget.store(next, Ordering::Relaxed);
        slept
    }
}
