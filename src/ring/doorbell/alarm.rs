//! The way to have waits of this process look again for reasons that are not the peer's.

use std::fmt;
use std::sync::OnceLock;

use crate::error::Result;
use crate::shm::transport::SharedEvent;
use crate::sync::{AtomicU32, Ordering};
use crate::sys::clock::Deadline;
use crate::sys::fork;
use crate::sys::futex::{self, Scope, Slept};

/// A word of this process on which every wait sleeps beside the peer's bell. Raised for reasons
/// that are not the peer's: a close, a death, a stop, or a waiter for room that the reader must
/// announce.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    word: AtomicU32,
    /// Called when a signal has interrupted a wait.
    on_interrupt: OnceLock<OnInterrupt>,
    /// What sleepers of this process sleep on where they do not use the futex.
    events: OnceLock<Vec<SharedEvent>>,
}

/// Runs on the thread whose wait a signal has interrupted. An error ends the wait.
pub(crate) struct OnInterrupt(pub(crate) Box<dyn Fn() -> Result<()> + Send + Sync>);

impl fmt::Debug for OnInterrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnInterrupt")
    }
}

impl Alarm {
    /// Sets what waits with this alarm call when a signal has interrupted them. Only the first
    /// hook counts.
    pub(crate) fn on_interrupt(&self, hook: OnInterrupt) {
        let _ = self.on_interrupt.set(hook);
    }

    /// Calls the hook for a wait that a signal has interrupted.
    #[cold]
    pub(crate) fn interrupted(&self) -> Result<()> {
        self.on_interrupt.get().map_or(Ok(()), |hook| (hook.0)())
    }

    /// Sleeps on a word of this process in the place of the alarm's, until it is woken or has
    /// another value, until the deadline has passed, or for no reason. Calls the hook if a signal
    /// has interrupted the sleep.
    pub(crate) fn sleep_on(&self, word: &AtomicU32, value: u32, deadline: Deadline) -> Result<()> {
        match futex::wait(word, value, Scope::Private, deadline) {
            Slept::Interrupted => self.interrupted(),
            Slept::Ended => Ok(()),
        }
    }

    /// Another alarm, for waits on the same events.
    pub(crate) fn beside(other: &Self) -> Self {
        Self { events: other.events.clone(), ..Self::default() }
    }

    /// Sets these events too when it is raised: a wait for an event cannot wait for the word as
    /// well.
    #[allow(dead_code, reason = "for named channels")]
    pub(crate) fn also_set(&self, events: Vec<SharedEvent>) {
        // Cannot be set already: the alarm was made for the one channel whose events these are.
        let _ = self.events.set(events);
    }

    /// Has every wait that began before look and announce again. The state that the waits check
    /// must be changed first: the Release store pairs with the Acquire load in `Sleeper::wait_until`.
    pub(crate) fn raise(&self) {
        self.word.fetch_add(1, Ordering::Release);
        futex::wake_all(&self.word, Scope::Private);
        if !fork::is_forked_child() {
            self.events.get().into_iter().flatten().for_each(|event| event.set());
        }
    }

    /// The value that [`Alarm::raise`] changes.
    #[inline]
    pub(super) fn value(&self) -> u32 {
        self.word.load(Ordering::Acquire)
    }

    #[inline]
    pub(super) fn word(&self) -> &AtomicU32 {
        &self.word
    }
}
