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
//! # Reactors
//!
//! A side that is driven by a reactor cannot sleep on a word. It adds [`BY_FD`] to what
//! it announces, and the waker then writes to its descriptor ([`WakeFd`]) instead. For the
//! descriptor to be readable exactly while a frame waits, whoever took the last frame
//! 1. waits until the producer has *checked* past it, so that no write for a frame that
//!    is gone can still come; 2. drains the descriptor; 3. announces; 4. fences and looks
//!    again, and if a frame is there makes the descriptor readable itself.
//!
//! While frames remain it does nothing: the descriptor has not been drained.
//!
//! Each side has one bell for both reasons; it wakes all that sleep on it.
//! Whatever the peer does with its bell costs a look, never a wrong answer: what
//! must get through without the peer (close, cancel, death) raises the [`Alarm`],
//! a word of this process, on which the same system call sleeps.
//!
//! Memory that comes with a doorbell of its own has an [`Event`](crate::shm::event::Event)
//! in the place of the futex: the bell is bumped, then the event is set, and a sleeper
//! compares bell and alarm once it is sure to notice a later set. An alarm sets it too.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::config::WaitStrategy;
use crate::error::{Error, Result};
use crate::ring::position::within;
use crate::shm::event::SharedEvent;
use crate::shm::region::{OwnU32, OwnU64, PeerU32};
use crate::sync::mutant::{self, Mutant};
use crate::sync::{AtomicU32, Counter, Mutex, Ordering, spin_loop, yield_now};
use crate::sys::clock::{Deadline, now_ns};
use crate::sys::wake_fd::WakeFd;
use crate::sys::{cpu, fork, futex};

/// A wait with something in flight looks again at least this often: a peer that publishes
/// and does not ring costs no more than that. Not in a model: it would make good what was lost.
const BACKSTOP: Duration = if cfg!(loom) { Duration::MAX } else { Duration::from_secs(1) };
/// Looks between two readings of the clock while spinning.
const LOOKS: u32 = 64;
/// Nanoseconds of spinning after which the processor is offered to others between looks: what
/// is known of where the peer runs is as old as its last wait.
const YIELD_AFTER: u64 = 1_000_000;

/// Added to an announced position: wake me by my descriptor. Positions are multiples of 64.
pub(crate) const BY_FD: u64 = 1;
const POSITION: u64 = !63;

/// How the peer of this process is woken.
#[derive(Debug)]
pub(crate) struct Bell {
    word: OwnU32,
    wake_fd: Option<Arc<WakeFd>>,
    event: Option<SharedEvent>,
}

impl Bell {
    pub(crate) fn new(word: OwnU32, wake_fd: Option<Arc<WakeFd>>) -> Self {
        Self { word, wake_fd, event: None }
    }

    /// Rings the event, if there is one, in the place of the futex.
    pub(crate) fn with_event(self, event: Option<SharedEvent>) -> Self {
        Self { event, ..self }
    }

    /// As if it had been rung so often; before the peer has seen it.
    #[cfg(test)]
    pub(crate) fn start_at(&self, count: u32) {
        self.word.store(count, Ordering::Release);
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> u32 {
        self.word.load(Ordering::Relaxed)
    }

    /// Wakes the peer. The bump pairs with the load of the bell in [`Sleeper::wait_until`].
    #[cold]
    pub(crate) fn ring(&self) {
        if fork::is_forked_child() {
            // It is not this process that the peer waits for.
            return;
        }
        let is_late = mutant::chosen(Mutant::BumpLate);
        if !is_late && !mutant::chosen(Mutant::NoBump) {
            self.word.fetch_add(1, mutant::order(Mutant::BellRelaxed, Ordering::Release));
        }
        crate::failpoint::failpoint!("before wake");
        if !mutant::chosen(Mutant::NoWake) {
            match &self.event {
                None => futex::wake(&self.word, mutant::chosen(Mutant::WakePrivate)),
                Some(event) => event.set(),
            }
        }
        if is_late {
            self.word.fetch_add(1, Ordering::Release);
        }
    }

    /// Wakes the peer in the way that it announced, if what it announced lies in
    /// `[from, to)`. Returns whether it did.
    #[inline]
    pub(crate) fn ring_if_awaited(&self, announced: u64, from: u64, to: u64) -> bool {
        let is_awaited = within(announced & POSITION, from, to) && !fork::is_forked_child();
        if is_awaited {
            match &self.wake_fd {
                Some(wake_fd) if announced & BY_FD != 0 => wake_fd.wake_peer(),
                _ => self.ring(),
            }
        }
        is_awaited
    }
}

/// Tells a bell that the peer rings without end from one that it rings for a reason.
///
/// An honest peer rings at most once for each position that is announced to it. So
/// announcements earn rings and rings spend them; a peer that is far in debt is
/// corrupt. All that sleep on one bell share its watch.
#[derive(Debug)]
pub(crate) struct BellWatch(Mutex<Account>);

#[derive(Debug)]
struct Account {
    /// The bell's value up to which rings are spent.
    seen: u32,
    credit: i64,
    poisoned: Option<Error>,
}

impl BellWatch {
    /// Rings that are never missed: more reasons than can be open at once, and less work
    /// than a reply.
    const MOST_CREDIT: i64 = 1024;
    /// Rings without a reason that are let pass.
    const MOST_DEBT: i64 = 1024;

    pub(crate) fn new(peer_bell: &PeerU32) -> Self {
        let seen = peer_bell.load(Ordering::Relaxed);
        Self(Mutex::new(Account { seen, credit: 0, poisoned: None }))
    }

    /// Notes that the peer has one more reason to ring.
    pub(crate) fn earn(&self) {
        let mut account = self.0.lock();
        account.credit = (account.credit + 1).min(Self::MOST_CREDIT);
    }

    fn spend(&self, bell: u32, peer_bell: &PeerU32) -> Result<()> {
        let mut account = self.0.lock();
        if let Some(poison) = &account.poisoned {
            return Err(poison.clone());
        }
        // Another thread may have seen a later value meanwhile; behind its lock this one sees
        // no older. The bell itself never goes back: a peer that turned it to and fro would
        // ring without end and for nothing.
        let is_stale = bell.wrapping_sub(account.seen).cast_signed().is_negative();
        let bell = if is_stale { peer_bell.load(Ordering::Acquire) } else { bell };
        let rung = bell.wrapping_sub(account.seen);
        account.seen = bell;
        account.credit -= i64::from(rung);
        if account.credit < -Self::MOST_DEBT && !mutant::chosen(Mutant::RingsUncounted) {
            let count = -account.credit;
            let poison =
                Error::corrupt(format!("the peer rang its bell {count} times for nothing"));
            return Err(account.poisoned.insert(poison).clone());
        }
        Ok(())
    }
}

/// A word of this process that ends waits for reasons that are not the peer's.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    word: AtomicU32,
    /// What sleepers of this process may sleep on in the futex's place.
    events: OnceLock<Vec<SharedEvent>>,
}

impl Alarm {
    /// An alarm for other reasons, for waits on the same events.
    pub(crate) fn beside(other: &Self) -> Self {
        Self { events: other.events.clone(), ..Self::default() }
    }

    /// For waits on these events: the alarm cannot be waited on together with them.
    #[cfg(all(feature = "named", not(loom)))]
    pub(crate) fn also_set(&self, events: Vec<SharedEvent>) {
        // Once: the alarm was made for the one channel whose events these are.
        let _ = self.events.set(events);
    }

    /// Ends every wait that began before; change the state that it is about first.
    pub(crate) fn raise(&self) {
        if !mutant::chosen(Mutant::NoAlarmBump) {
            self.word.fetch_add(1, mutant::order(Mutant::AlarmRelaxed, Ordering::Release));
        }
        if !mutant::chosen(Mutant::NoAlarmWake) {
            futex::wake(&self.word, true);
        }
        if !fork::is_forked_child() {
            self.events.get().into_iter().flatten().for_each(|event| event.set());
        }
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

/// One look of a wait that `state` can end, as by the news that the peer is gone. The state is
/// read before the look and counts after it: what was there before the end is found before it.
pub(crate) fn look_before_end<T>(
    state: impl FnOnce() -> Result<()>,
    look: impl FnOnce() -> Result<Option<T>>,
) -> Result<Option<T>> {
    let state = state();
    if mutant::chosen(Mutant::EndBeforeLook) {
        state.clone()?;
    }
    match look()? {
        None => state.map(|()| None),
        found => Ok(found),
    }
}

/// How often waits spun, slept and were woken.
#[derive(Debug, Default)]
pub(crate) struct WaitCounters {
    pub(crate) spins: Counter,
    pub(crate) parks: Counter,
}

/// One end's way to wait for the other.
#[derive(Debug)]
pub(crate) struct Sleeper {
    peer_bell: PeerU32,
    own_cpu: OwnU32,
    peer_cpu: PeerU32,
    strategy: WaitStrategy,
    /// Asked when this is made: asking reads files, which no wait should have to.
    are_cpus_scarce: bool,
    watch: Option<Arc<BellWatch>>,
    event: Option<SharedEvent>,
    /// Nanoseconds to spin before the next sleep: see `learn`.
    budget: Counter,
    pub(crate) counters: WaitCounters,
}

impl Sleeper {
    pub(crate) fn new(
        peer_bell: PeerU32,
        own_cpu: OwnU32,
        peer_cpu: PeerU32,
        strategy: WaitStrategy,
        watch: Option<Arc<BellWatch>>,
    ) -> Self {
        let budget = Counter::new(nanos(longest_spin(strategy)));
        let counters = WaitCounters::default();
        let sleeper = Self {
            peer_bell,
            own_cpu,
            peer_cpu,
            strategy,
            are_cpus_scarce: cpu::are_scarce(),
            watch,
            event: None,
            budget,
            counters,
        };
        sleeper.say_cpu();
        sleeper
    }

    /// Sleeps on the event, if there is one, in the place of the futex.
    pub(crate) fn with_event(self, event: Option<SharedEvent>) -> Self {
        Self { event, ..self }
    }

    /// Takes the lock of the watch, for a test of what must not wait for it.
    #[cfg(all(test, feature = "tokio", not(loom)))]
    pub(crate) fn hold(&self) -> impl Sized {
        self.watch.as_ref().map(|watch| watch.0.lock())
    }

    /// Stores what is waited for, which gives the peer one reason to ring.
    pub(crate) fn announce(&self, word: &OwnU64, position: u64) {
        if let Some(watch) = &self.watch
            && word.load(Ordering::Relaxed) != position
        {
            watch.earn();
        }
        word.store(position, Ordering::Relaxed);
    }

    /// Waits until `step` has an answer; `None` when the deadline passed first.
    ///
    /// # Errors
    ///
    /// What `step` fails with; [`ErrorKind::PeerCorrupt`](crate::ErrorKind::PeerCorrupt),
    /// from then on for ever, if the peer rings its bell without end.
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
        // Whoever would wake this thread wakes its parent's.
        fork::check()?;
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
            if let Some(watch) = &self.watch {
                watch.spend(bell, &self.peer_bell)?;
            }
            let is_late = mutant::chosen(Mutant::AnnounceLate);
            if !is_late {
                step(Step::Announce)?;
            }
            mutant::full_fence(Mutant::NoFenceBeforeLook); // A, pairs with B in the peer's wakers
            if !mutant::chosen(Mutant::NoSecondLook)
                && let Some(found) = step(Step::Look)?
            {
                return Ok(Some(found));
            }
            if is_late {
                step(Step::Announce)?;
            }
            if deadline.has_passed() {
                return Ok(None);
            }
            let (bell, alarm_value) = self.mutated(bell, alarm, alarm_value);
            crate::failpoint::failpoint!("before wait");
            self.sleep(bell, &alarm.word, alarm_value, deadline);
            crate::failpoint::failpoint!("after wait");
            if let Some(found) = step(Step::Look)? {
                return Ok(Some(found));
            }
        }
    }

    /// The values to sleep on: those that were read before the look.
    fn mutated(&self, bell: u32, alarm: &Alarm, alarm_value: u32) -> (u32, u32) {
        let is_late = mutant::chosen(Mutant::BellReadLate);
        let bell = if is_late { self.peer_bell.load(Ordering::Acquire) } else { bell };
        let is_late = mutant::chosen(Mutant::AlarmReadLate);
        let alarm_value = if is_late { alarm.word.load(Ordering::Acquire) } else { alarm_value };
        (bell, alarm_value)
    }

    /// Looks a few times without asking for the time, where spinning can help at all.
    #[inline]
    pub(crate) fn glance(&self, has_rung: bool, mut look: impl FnMut() -> bool) -> bool {
        self.may_spin(has_rung)
            && (0..LOOKS).any(|_| {
                spin_loop();
                look()
            })
    }

    /// Looks at nothing for so many nanoseconds, where spinning can help at all.
    #[cold]
    pub(crate) fn lag(&self, nanos: u64, has_rung: bool) {
        if self.may_spin(has_rung) {
            let start = now_ns();
            while now_ns().wrapping_sub(start) < nanos {
                spin_loop();
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
            let spun = now_ns().wrapping_sub(start);
            let is_endless = self.strategy == WaitStrategy::Spin;
            // Either side may have been moved meanwhile.
            let is_over = (!is_endless && spun >= budget) || !self.may_spin(has_rung);
            if is_over || deadline.has_passed() {
                return Ok(None);
            }
            if spun >= YIELD_AFTER {
                yield_now();
            }
        }
    }

    /// Whether spinning can help: the peer is not known to need the processor that this thread
    /// runs on. Tells the peer which one that is.
    fn may_spin(&self, has_rung: bool) -> bool {
        if cfg!(loom) || self.strategy == WaitStrategy::Park {
            return false;
        }
        let own = self.say_cpu();
        let peer = self.peer_cpu.load(Ordering::Relaxed);
        match self.strategy {
            WaitStrategy::Park => false,
            WaitStrategy::Spin => peer == 0 || peer != own,
            WaitStrategy::SpinThenPark(_) if self.are_cpus_scarce => false,
            WaitStrategy::SpinThenPark(_) if peer == 0 => !has_rung,
            WaitStrategy::SpinThenPark(_) => peer != own,
        }
    }

    /// Whether the peer was last seen on another processor than this thread's: only then
    /// does looking for it not take from it what it needs.
    pub(crate) fn runs_elsewhere(&self) -> bool {
        let peer = self.peer_cpu.load(Ordering::Relaxed);
        !self.are_cpus_scarce && peer != 0 && peer != self.say_cpu()
    }

    #[cold]
    fn sleep(&self, bell: u32, alarm: &AtomicU32, alarm_value: u32, deadline: Deadline) {
        self.say_cpu();
        self.counters.parks.fetch_add(1, Ordering::Relaxed);
        let slept_at = now_ns();
        // An idle wait has no backstop and costs nothing.
        let until = if deadline == Deadline::IDLE { deadline } else { deadline.at_most(BACKSTOP) };
        match &self.event {
            None => futex::wait_either(self.peer_bell.as_futex(), bell, alarm, alarm_value, until),
            Some(event) => {
                let is_still = || {
                    self.peer_bell.load(Ordering::Acquire) == bell
                        && alarm.load(Ordering::Acquire) == alarm_value
                };
                event.wait(&is_still, until);
            }
        }
        self.say_cpu();
        self.learn(now_ns().wrapping_sub(slept_at));
    }

    /// Tells the peer where this thread runs, a hint for its `may_spin`: when this side is made,
    /// before and while it spins, and around sleeps. Written only when it has changed, for the
    /// peer looks at the line whenever it waits. Returns it.
    fn say_cpu(&self) -> u32 {
        if cfg!(loom) {
            return 0;
        }
        let own = cpu::current();
        if self.own_cpu.load(Ordering::Relaxed) != own {
            self.own_cpu.store(own, Ordering::Relaxed);
        }
        own
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
