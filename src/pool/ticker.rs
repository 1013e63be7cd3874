//! The thread that looks at a pool's roles when time has changed something.

use std::time::Duration;

use crate::sync::{AtomicU64, Condvar, Mutex, Ordering};
use crate::sys::clock::Deadline;

/// What the thread sleeps on.
#[derive(Debug)]
pub(super) struct Ticker {
    state: Mutex<State>,
    /// Until when the thread sleeps; the end of time while it looks.
    until: AtomicU64,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_to_look: bool,
    is_over: bool,
}

impl Ticker {
    pub(super) fn new() -> Self {
        let (state, changed) = (Mutex::default(), Condvar::default());
        Self { state, changed, until: AtomicU64::new(u64::MAX) }
    }

    /// Has the thread look at the roles again by `when`, in nanoseconds of the monotonic clock.
    /// Never blocks.
    pub(super) fn look_before(&self, when: u64) {
        // Pairs with the Release stores in `run`: a thread that changed a role after the thread had
        // looked at it sees, through the role's lock, that the thread looks or until when it sleeps.
        if when < self.until.load(Ordering::Acquire) {
            self.look();
        }
    }

    /// Has the thread look at the roles again. Never blocks.
    pub(super) fn look(&self) {
        self.state.lock().is_to_look = true;
        self.changed.notify_one();
    }

    /// Ends the thread.
    pub(super) fn end(&self) {
        self.state.lock().is_over = true;
        self.changed.notify_one();
    }

    /// Looks, sleeps until `look` says that there is something to do, and looks again, until the
    /// ticker ends.
    pub(super) fn run(&self, look: impl Fn() -> Option<u64>) {
        loop {
            // Before the look, so that what changes after it is not missed.
            self.state.lock().is_to_look = false;
            self.until.store(u64::MAX, Ordering::Release);
            let next = look();
            self.until.store(next.unwrap_or(u64::MAX), Ordering::Release);
            let until = next.map_or(Deadline::IDLE, |next| Deadline::from(next, Duration::ZERO));
            let mut state = self.state.lock();
            while !state.is_to_look && !state.is_over {
                let left = until.remaining();
                if left.is_zero() {
                    break;
                }
                state = self.changed.wait_timeout(state, left);
            }
            if state.is_over {
                return;
            }
        }
    }
}
