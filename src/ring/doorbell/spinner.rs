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

/// How long a thread sleeps that waits for another one of its process on the peer's processor.
const NAP: Duration = Duration::from_micros(50);
/// How many times as long it sleeps at most.
const MOST_NAPS: u32 = 40;

/// One end's way to spin.
#[derive(Debug)]
pub(super) struct Spinner {
    own_cpu: OwnU32,
    peer_cpu: PeerU32,
    strategy: WaitStrategy,
    /// Nanoseconds that the next wait spins.
    budget: Counter,
    /// Threads that sleep because the peer has their processor.
    napping: Counter,
}

impl Spinner {
    pub(super) fn new(own_cpu: OwnU32, peer_cpu: PeerU32, strategy: WaitStrategy) -> Self {
        let budget = Counter::new(longest(strategy));
        let napping = Counter::new(0);
        let spinner = Self { own_cpu, peer_cpu, strategy, budget, napping };
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

    /// Has this thread wait a moment for another one of its process, which waits for the peer.
    /// Returns false if that has gone on since `begun` for as long as a wait may spin, or until the
    /// deadline.
    pub(super) fn stand_aside(&self, begun: u64, deadline: Deadline) -> bool {
        if !MAY_SPIN || self.strategy == WaitStrategy::Park || cpu::are_scarce() {
            return false;
        }
        let longest = match self.strategy {
            WaitStrategy::Spin => YIELD_AFTER,
            _ => self.budget.load(Ordering::Relaxed),
        };
        if now_ns().wrapping_sub(begun) >= longest || deadline.has_passed() {
            return false;
        }
        match self.may_spin() {
            true => yield_now(),
            // A peer that spins does not give the processor back for milliseconds.
            false => self.nap(deadline),
        }
        true
    }

    /// Sleeps while the peer has this thread's processor, not beyond the deadline. Each thread that
    /// wakes takes that from the peer for some microseconds: the more of them there are, the longer
    /// each one sleeps, up to [`MOST_NAPS`] times as long. Nothing wakes it before.
    fn nap(&self, deadline: Deadline) {
        let napping = self.napping.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let long = NAP.saturating_mul(napping.try_into().unwrap_or(MOST_NAPS).min(MOST_NAPS));
        std::thread::sleep(long.min(deadline.remaining()));
        self.napping.fetch_sub(1, Ordering::Relaxed);
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::ring::testing::region;

    fn spinner(strategy: WaitStrategy) -> Spinner {
        let ((own, _), (_, of_peer)) = (region(64), region(64));
        // The peer has never said where it runs.
        Spinner::new(own.u32_at(0).unwrap(), of_peer.u32_at(0).unwrap(), strategy)
    }

    #[test]
    fn a_thread_stands_aside_for_as_long_as_a_wait_may_spin() {
        let helps = !cpu::are_scarce();
        let long = WaitStrategy::SpinThenPark(Duration::from_secs(3600));
        assert_eq!(spinner(long).stand_aside(now_ns(), Deadline::NEVER), helps);
        let hour_ago = now_ns().wrapping_sub(3_600_000_000_000);
        assert!(!spinner(long).stand_aside(hour_ago, Deadline::NEVER));
        assert!(!spinner(WaitStrategy::Spin).stand_aside(hour_ago, Deadline::NEVER));
        let passed = Deadline::after(Duration::ZERO);
        assert!(!spinner(long).stand_aside(now_ns(), passed));
        assert!(!spinner(WaitStrategy::Park).stand_aside(now_ns(), Deadline::NEVER));
    }

    #[test]
    fn the_more_threads_nap_the_longer_each_of_them_does() {
        let spinner = spinner(WaitStrategy::Spin);
        spinner.napping.store(20, Ordering::Relaxed);
        let start = now_ns();
        spinner.nap(Deadline::NEVER);
        assert!(now_ns() - start >= 21 * 50_000);
        assert_eq!(spinner.napping.load(Ordering::Relaxed), 20);
    }

    #[test]
    fn a_thread_on_the_processor_of_the_peer_naps_and_does_not_yield() {
        if cpu::are_scarce() {
            return;
        }
        let ((own, _), (peer, of_peer)) = (region(64), region(64));
        let own = own.u32_at(0).unwrap();
        let spinner = Spinner::new(own, of_peer.u32_at(0).unwrap(), WaitStrategy::Spin);
        let peer = peer.u32_at(0).unwrap();
        let mut naps = 0;
        while naps < 20 {
            peer.store(spinner.report_cpu(), Ordering::Relaxed);
            let start = now_ns();
            assert!(spinner.stand_aside(now_ns(), Deadline::NEVER));
            // This thread may have been moved before the look.
            if spinner.own_cpu.load(Ordering::Relaxed) == peer.load(Ordering::Relaxed) {
                naps += 1;
                assert!(now_ns() - start >= 50_000);
            }
        }
    }
}
