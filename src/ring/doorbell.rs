//! How an end that waits is woken by the other, and how it waits.
//!
//! # Ordering
//!
//! Sleep and wake is Dekker's problem, once for frames and once for space. Each
//! side stores its own word and then loads the other's:
//!
//! ```text
//!   sleeper                                    waker
//!   b = bell.load(Acquire)                     publish (commit word or head, Release)
//!   announce (sleep_at or space_at)            fence(SeqCst)          [B]
//!   fence(SeqCst)               [A]            announced? then bell += 1 (Release),
//!   look again                                              FUTEX_WAKE(bell)
//!   FUTEX_WAIT(bell, b)
//! ```
//!
//! One of the two fences comes first in their single total order. If A does, the
//! waker's load after B sees the announcement, and it rings. If B does, the look
//! after A sees what was published, and nobody sleeps. Acquire and Release alone
//! allow both loads to miss.
//!
//! The bell is read *before* the announcement and the second look, and bumped
//! *before* the wake: a ring between the look and the wait changes the word, and
//! the kernel, which compares it under its own lock, does not put the sleeper to
//! sleep. Spurious wakes are normal: every sleeper looks again.
//!
//! Each side has one bell for both reasons; it wakes all that sleep on it.
//! Whatever the peer does with its bell costs a look, never a wrong answer: what
//! must get through without the peer (close, cancel, death) raises the [`Alarm`],
//! a word of this process, on which the same system call sleeps.

use std::time::Duration;

use crate::config::WaitStrategy;
use crate::error::Result;
use crate::shm::clock::{Deadline, now_ns};
use crate::shm::region::{OwnU32, PeerU32};
use crate::shm::{cpu, futex};
use crate::sync::{AtomicU32, AtomicU64, Ordering, fence, spin_loop};

/// A wait with a deadline looks again at least this often.
const BACKSTOP: Duration = Duration::from_secs(1);
/// Looks between two readings of the clock while spinning.
const LOOKS: u32 = 64;

/// The word on which the peer of this process sleeps.
#[derive(Debug)]
pub(crate) struct Bell {
    word: OwnU32,
}

impl Bell {
    pub(crate) fn new(word: OwnU32) -> Self {
        Self { word }
    }

    /// Wakes the peer. The bump pairs with the load of the bell in [`Sleeper::wait_until`].
    #[cold]
    pub(crate) fn ring(&self) {
        self.word.fetch_add(1, Ordering::Release);
        futex::wake(&self.word, false);
    }
}

/// A word of this process that ends waits for reasons that are not the peer's.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    word: AtomicU32,
}

impl Alarm {
    /// Ends every wait that began before; change the state that it is about first.
    pub(crate) fn raise(&self) {
        self.word.fetch_add(1, Ordering::Release);
        futex::wake(&self.word, true);
    }
}

/// What a wait asks of its caller's closure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Is it there?
    Look,
    /// Announce what is waited for; a fence and a look follow.
    Announce,
}

/// How often waits spun, slept and were woken.
#[derive(Debug, Default)]
pub(crate) struct WaitCounters {
    pub(crate) spins: AtomicU64,
    pub(crate) parks: AtomicU64,
}

/// One end's way to wait for the other.
#[derive(Debug)]
pub(crate) struct Sleeper {
    peer_bell: PeerU32,
    own_cpu: OwnU32,
    peer_cpu: PeerU32,
    strategy: WaitStrategy,
    /// Nanoseconds to spin before the next sleep: see `learn`.
    budget: AtomicU64,
    pub(crate) counters: WaitCounters,
}

impl Sleeper {
    pub(crate) fn new(
        peer_bell: PeerU32,
        own_cpu: OwnU32,
        peer_cpu: PeerU32,
        strategy: WaitStrategy,
    ) -> Self {
        let budget = AtomicU64::new(nanos(longest_spin(strategy)));
        Self { peer_bell, own_cpu, peer_cpu, strategy, budget, counters: WaitCounters::default() }
    }

    /// Waits until `step` has an answer; `None` when the deadline passed first.
    ///
    /// `has_rung` says that the peer was asleep and has just been woken: then spinning
    /// helps only if it runs on another core.
    pub(crate) fn wait_until<T>(
        &self,
        alarm: &Alarm,
        deadline: Deadline,
        has_rung: bool,
        mut step: impl FnMut(Step) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        if let Some(found) = step(Step::Look)? {
            return Ok(Some(found));
        }
        if deadline.has_passed() {
            return Ok(None);
        }
        if let Some(found) = self.spin(deadline, has_rung, &mut step)? {
            return Ok(Some(found));
        }
        loop {
            let alarm_value = alarm.word.load(Ordering::Acquire);
            let bell = self.peer_bell.load(Ordering::Acquire);
            step(Step::Announce)?;
            fence(Ordering::SeqCst); // A, pairs with B in the peer's wakers
            if let Some(found) = step(Step::Look)? {
                return Ok(Some(found));
            }
            if deadline.has_passed() {
                return Ok(None);
            }
            self.sleep(bell, &alarm.word, alarm_value, deadline);
            if let Some(found) = step(Step::Look)? {
                return Ok(Some(found));
            }
        }
    }

    fn spin<T>(
        &self,
        deadline: Deadline,
        has_rung: bool,
        step: &mut impl FnMut(Step) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        if !self.may_spin(has_rung) {
            return Ok(None);
        }
        let budget = self.budget.load(Ordering::Relaxed);
        let start = now_ns();
        self.counters.spins.fetch_add(1, Ordering::Relaxed);
        loop {
            for _ in 0..LOOKS {
                spin_loop();
                if let Some(found) = step(Step::Look)? {
                    return Ok(Some(found));
                }
            }
            let endless = self.strategy == WaitStrategy::Spin;
            if (!endless && now_ns().wrapping_sub(start) >= budget) || deadline.has_passed() {
                return Ok(None);
            }
        }
    }

    fn may_spin(&self, has_rung: bool) -> bool {
        match self.strategy {
            WaitStrategy::Park => false,
            WaitStrategy::Spin => cfg!(not(loom)),
            WaitStrategy::SpinThenPark(_) => {
                let peer = self.peer_cpu.load(Ordering::Relaxed);
                let apart = peer != 0 && peer != cpu::current();
                cfg!(not(loom)) && !cpu::is_only_one() && (apart || (peer == 0 && !has_rung))
            }
        }
    }

    #[cold]
    fn sleep(&self, bell: u32, alarm: &AtomicU32, alarm_value: u32, deadline: Deadline) {
        self.own_cpu.store(cpu::current(), Ordering::Relaxed);
        self.counters.parks.fetch_add(1, Ordering::Relaxed);
        let slept_at = now_ns();
        // A wait without a deadline is idle: it has no backstop and costs nothing.
        let until = if deadline == Deadline::NEVER { deadline } else { deadline.at_most(BACKSTOP) };
        futex::wait_either(self.peer_bell.as_futex(), bell, alarm, alarm_value, until);
        self.own_cpu.store(cpu::current(), Ordering::Relaxed);
        self.learn(now_ns().wrapping_sub(slept_at));
    }

    /// A short sleep would have been better spun through; long ones halve the budget,
    /// so that a peer that answers rarely costs one microsecond of spinning a wait.
    fn learn(&self, slept: u64) {
        let longest = nanos(longest_spin(self.strategy));
        let budget = self.budget.load(Ordering::Relaxed);
        let next = if slept < 4 * longest { longest } else { (budget / 2).max(1_000).min(longest) };
        self.budget.store(next, Ordering::Relaxed);
    }
}

fn longest_spin(strategy: WaitStrategy) -> Duration {
    match strategy {
        WaitStrategy::SpinThenPark(longest) => longest,
        WaitStrategy::Spin | WaitStrategy::Park => Duration::ZERO,
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
