//! How a side that sleeps is woken by the other.
//!
//! # No wake-up is lost
//!
//! A consumer sleeps until a frame is published, a producer until room is released. Both work
//! in the same way. The sleeper announces the position that it waits for (in `sleep_at` or
//! `space_at`); the waker, after it has published (a commit word or a head), looks whether that
//! was announced. This is Dekker's problem: each side stores a word, then loads the other's.
//!
//! ```text
//!   sleeper                                     waker
//!   S1  b = load bell          (Acquire)
//!   S2  store announcement     (Relaxed)        W1  publish             (Release)
//!   S3  fence A                (SeqCst)         W2  fence B             (SeqCst)
//!   S4  look; done if there is something        W3  load announcement   (Relaxed)
//!   S5  FUTEX_WAIT(bell, b)                     W4  if W1 passed it:
//!                                                     bell += 1         (Release)
//!                                                     FUTEX_WAKE(bell)
//! ```
//!
//! There are two gaps in which a wake-up could be lost.
//!
//! **Between the announcement and the look.** All SeqCst fences of a program are in one order,
//! so either A comes before B or B before A:
//!
//! | order | then | so |
//! |---|---|---|
//! | A before B | W3 sees S2 | the waker rings |
//! | B before A | S4 sees W1 | the sleeper does not sleep |
//!
//! Without the fences, each side's store may wait in its processor's store buffer while its
//! load runs. Acquire and Release do not forbid that:
//!
//! ```text
//!   1  sleeper   S2: announcement, in its store buffer
//!   2  waker     W1: frame, in its store buffer
//!   3  sleeper   S4: sees no frame
//!   4  waker     W3: sees no announcement, and does not ring
//!   5  sleeper   S5: sleeps for ever
//! ```
//!
//! **Between the look and the sleep.** The bell is loaded before the announcement, and bumped
//! before the wake-up. The kernel compares the bell with `b` under its own lock:
//!
//! ```text
//!   1  sleeper   S1: b = 7
//!   2  sleeper   S2, S3, S4: nothing yet
//!   3  waker     W1 to W4: publishes, bell = 8; there is no sleeper to wake yet
//!   4  sleeper   S5: the kernel finds 8, not 7, and returns at once
//! ```
//!
//! Were S1 later than S4, it could load the 8 of step 3, and the sleeper would sleep for ever.
//!
//! Wake-ups for nothing are normal: every sleeper looks again. What is rung for without a fence
//! (a credit, a cancel) is seen too: S1 pairs with the bump, which comes after it, and the loop
//! goes back to S1 before each sleep.
//!
//! # Bells and alarms
//!
//! Each side has one bell for both of its reasons to ring. A ring wakes all that sleep on it.
//! Whatever the peer does with its bell costs the sleeper a look, and never gives it a wrong
//! answer; a [`BellWatch`] counts rings for nothing. What must get through without the peer
//! raises the [`Alarm`], a word of this process on which the same system call sleeps.
//!
//! Memory that comes with doorbells of its own has an [`Event`](crate::shm::transport::Event)
//! in the place of the futex. The bell is bumped, then the event is set; a sleeper compares bell
//! and alarm once it is sure to notice a later set. An alarm sets the event too.
//!
//! # Reactors
//!
//! A side that is driven by a reactor sleeps on a descriptor ([`WakeFd`]), not on a word. It
//! adds [`BY_FD`] to the position that it announces, and W4 then writes to the descriptor. The
//! descriptor must be readable exactly while a frame waits. So `Consumer::rearm`, which is
//! called when all frames are taken,
//!
//! 1. waits until the producer has stored in `checked` that W3 is done for all frames that were
//!    taken: no write for a frame that is gone can come later;
//! 2. drains the descriptor;
//! 3. announces the next position, plus [`BY_FD`];
//! 4. fences (A) and looks again: if a frame is there, makes the descriptor readable itself.
//!
//! ```text
//!   without step 1:                         without step 4:
//!   1  producer  commits frame F            1  consumer  drains
//!   2  consumer  takes F, drains            2  producer  commits F; nothing is announced
//!   3  producer  W3, W4: writes for F       3  consumer  announces
//!   4  reactor   wakes, finds nothing       4  reactor   sleeps; F waits
//! ```
//!
//! While frames remain, `rearm` does nothing: the descriptor has not been drained since it was
//! written to for the first of them.

use std::sync::Arc;

use crate::config::WaitStrategy;
use crate::error::Result;
use crate::ring::position::within;
use crate::shm::transport::SharedEvent;
use crate::shm::words::{OwnU32, OwnU64, PeerU32};
use crate::sync::{AtomicU32, BACKSTOP, Counter, Ordering, fence};
use crate::sys::clock::{Deadline, now_ns};
use crate::sys::futex::{Scope, Slept};
use crate::sys::wake_fd::WakeFd;
use crate::sys::{activity, fork, futex};

pub(crate) mod alarm;
mod bell_watch;
mod spinner;

pub(crate) use alarm::Alarm;
pub(crate) use bell_watch::BellWatch;
use spinner::Spinner;

/// Added to an announced position: wake me by my descriptor. Positions are multiples of 64.
pub(crate) const BY_FD: u64 = 1;
const POSITION: u64 = !63;

/// The position that a side has announced.
#[inline]
pub(crate) fn announced_position(announced: u64) -> u64 {
    announced & POSITION
}

/// The waker's side: the way to wake the peer of this process.
#[derive(Debug)]
pub(crate) struct Bell {
    /// Only tests use it from elsewhere.
    pub(super) word: OwnU32,
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

    /// Wakes the peer. The bump pairs with the Acquire load S1 in [`Sleeper::wait_until`].
    #[cold]
    pub(crate) fn ring(&self) {
        if fork::is_forked_child() {
            // The peer does not wait for this process, but for its parent.
            return;
        }
        self.word.fetch_add(1, Ordering::Release);
        crate::failpoint::failpoint!("before wake");
        match &self.event {
            None => futex::wake_all(&self.word, Scope::Shared),
            Some(event) => event.set(),
        }
        activity::note();
    }

    /// Wakes the peer in the way that it announced, if what it announced lies in
    /// `[from, to)`. Returns whether it did. W4 in the diagram above.
    #[inline]
    pub(crate) fn ring_if_awaited(&self, announced: u64, from: u64, to: u64) -> bool {
        let is_awaited =
            within(announced_position(announced), from, to) && !fork::is_forked_child();
        if is_awaited {
            match &self.wake_fd {
                Some(wake_fd) if announced & BY_FD != 0 => wake_fd.wake_peer(),
                _ => self.ring(),
            }
        }
        is_awaited
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
    match look()? {
        None => state.map(|()| None),
        found => Ok(found),
    }
}

/// The sleeper's side: one end's way to wait for the other.
#[derive(Debug)]
pub(crate) struct Sleeper {
    peer_bell: PeerU32,
    spinner: Spinner,
    watch: Option<Arc<BellWatch>>,
    event: Option<SharedEvent>,
    /// How often waits spun.
    pub(crate) spins: Counter,
    /// How often waits slept.
    pub(crate) parks: Counter,
}

impl Sleeper {
    pub(crate) fn new(
        peer_bell: PeerU32,
        own_cpu: OwnU32,
        peer_cpu: PeerU32,
        strategy: WaitStrategy,
        watch: Option<Arc<BellWatch>>,
        event: Option<SharedEvent>,
    ) -> Self {
        let spinner = Spinner::new(own_cpu, peer_cpu, strategy);
        let (spins, parks) = (Counter::new(0), Counter::new(0));
        Self { peer_bell, spinner, watch, event, spins, parks }
    }

    /// Stores what is waited for, which gives the peer one reason to ring. S2 in the
    /// diagram above.
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
    pub(crate) fn wait_until<T>(
        &self,
        alarm: &Alarm,
        deadline: Deadline,
        mut step: impl FnMut(Step) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        // What would wake a forked child wakes its parent.
        fork::check()?;
        if let Some(found) = step(Step::Look)? {
            return Ok(Some(found));
        }
        if deadline.has_passed() {
            return Ok(None);
        }
        if self.spinner.may_spin() {
            self.spins.fetch_add(1, Ordering::Relaxed);
            let found = self.spinner.spin(deadline, || step(Step::Look))?;
            if found.is_some() {
                return Ok(found);
            }
        }
        loop {
            let alarm_value = alarm.value();
            let bell = self.peer_bell.load(Ordering::Acquire); // S1
            if let Some(watch) = &self.watch {
                watch.spend(bell, &self.peer_bell)?;
            }
            step(Step::Announce)?; // S2
            fence(Ordering::SeqCst); // S3: A, pairs with B in the peer's wakers
            if let Some(found) = step(Step::Look)? {
                return Ok(Some(found)); // S4
            }
            if deadline.has_passed() {
                return Ok(None);
            }
            crate::failpoint::failpoint!("before wait");
            let slept = self.sleep(bell, alarm.word(), alarm_value, deadline); // S5
            crate::failpoint::failpoint!("after wait");
            if slept == Slept::Interrupted {
                alarm.interrupted()?;
            }
            if let Some(found) = step(Step::Look)? {
                activity::note();
                return Ok(Some(found));
            }
        }
    }

    /// Returns a number that changes when the peer rings its bell, and when the alarm is raised.
    /// What the peer did before it rang is seen after this.
    pub(crate) fn rings(&self, alarm: &Alarm) -> u64 {
        // Pairs with the bump in `Bell::ring`.
        u64::from(self.peer_bell.load(Ordering::Acquire)) << 32 | u64::from(alarm.value())
    }

    /// Looks a few times without a reading of the clock, where spinning can help.
    #[inline]
    pub(crate) fn spin_briefly(&self, look: impl FnMut() -> bool) -> bool {
        self.spinner.spin_briefly(look)
    }

    /// Passes so many nanoseconds without a look, where spinning can help.
    pub(crate) fn look_away(&self, nanos: u64) {
        self.spinner.look_away(nanos);
    }

    /// Has this thread wait a moment for another one of its process, which waits for the peer.
    /// Returns false if that has gone on since `begun` for as long as a wait may spin, or until the
    /// deadline.
    pub(crate) fn stand_aside(&self, begun: u64, deadline: Deadline) -> bool {
        self.spinner.stand_aside(begun, deadline)
    }

    /// Whether the peer was last seen on another processor than this thread's: only then
    /// does looking for it not take from it what it needs.
    pub(crate) fn runs_elsewhere(&self) -> bool {
        self.spinner.runs_elsewhere()
    }

    #[cold]
    fn sleep(&self, bell: u32, alarm: &AtomicU32, alarm_value: u32, deadline: Deadline) -> Slept {
        self.spinner.report_cpu();
        self.parks.fetch_add(1, Ordering::Relaxed);
        let slept_at = now_ns();
        // An idle wait has no backstop and costs nothing.
        let until = if deadline == Deadline::IDLE { deadline } else { deadline.at_most(BACKSTOP) };
        let slept = match &self.event {
            None => futex::wait_either(&self.peer_bell, bell, alarm, alarm_value, until),
            Some(event) => {
                let is_still = || {
                    self.peer_bell.load(Ordering::Acquire) == bell
                        && alarm.load(Ordering::Acquire) == alarm_value
                };
                event.wait(&is_still, until);
                Slept::Ended
            }
        };
        self.spinner.report_cpu();
        self.spinner.learn(now_ns().wrapping_sub(slept_at));
        slept
    }
}
