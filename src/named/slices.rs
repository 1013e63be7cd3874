//! How the threads of one process share an event that wakes a single waiter, and how long each
//! wait on it may be.
//!
//! # Ordering
//!
//! One thread at a time waits on the event; the others wait for that thread. Each asks `is_still`
//! while it holds the lock of the turns. A ring bumps the bell's word before it sets the event. So
//! a thread that still sees the old word does one of two things. It waits on the event itself,
//! which stays set until a wait takes it. Or it waits for the thread that does, and has begun to
//! before that thread can say, under the same lock, that it has returned. That thread wakes all
//! others when it returns, so that no ring is lost to a thread for which it was not meant.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::sys::clock::Deadline;

/// The longest wait of a thread that has a deadline.
const SLICE: Duration = Duration::from_millis(100);
/// The longest wait of a thread that has none. Everything that ends a wait sets the event, so that
/// this matters only after a ring that was abandoned.
const IDLE_SLICE: Duration = Duration::from_millis(500);
/// The time before the wall clock's next second in which no wait ends.
const MARGIN: Duration = Duration::from_millis(1);

/// The turn to wait on the event.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    state: Mutex<TurnState>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct TurnState {
    is_taken: bool,
    /// How often a thread has returned from the event.
    returns: u64,
}

impl Turns {
    /// Sleeps in `sleep`, or until the thread that is in `sleep` has returned. Returns at once if
    /// `is_still` says that there is something to look at.
    pub(crate) fn wait(
        &self,
        is_still: &dyn Fn() -> bool,
        deadline: Deadline,
        sleep: impl FnOnce(Duration),
    ) {
        let slice = if deadline == Deadline::IDLE { IDLE_SLICE } else { SLICE };
        let slice = slice.min(deadline.remaining());
        let mut state = self.lock();
        if !is_still() {
            return;
        }
        if state.is_taken {
            let seen = state.returns;
            let pending = |state: &mut TurnState| state.returns == seen;
            let waited = self.returned.wait_timeout_while(state, slice, pending);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
            return;
        }
        state.is_taken = true;
        drop(state);
        let _turn = Turn(self);
        sleep(slice);
    }

    fn lock(&self) -> MutexGuard<'_, TurnState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives the turn back when it is dropped, in a panic too.
struct Turn<'a>(&'a Turns);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_taken = false;
        state.returns += 1;
        drop(state);
        self.0.returned.notify_all();
    }
}

/// The longest time, up to `longest`, so that a wait that begins now ends within this second of the
/// wall clock.
///
/// # Errors
///
/// The time until the next second begins, if this one is as good as over.
pub(crate) fn within_second(longest: Duration) -> Result<Duration, Duration> {
    // A clock before 1970 is wrong anyway, and a wait that then returns at once is dealt with.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    slice_at(Duration::from_nanos(u64::from(now.subsec_nanos())), longest)
}

fn slice_at(in_second: Duration, longest: Duration) -> Result<Duration, Duration> {
    let left = Duration::from_secs(1).saturating_sub(in_second);
    if left <= 2 * MARGIN { Err(left) } else { Ok(longest.min(left - MARGIN)) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_slice_never_reaches_the_next_second() {
        let long = Duration::from_millis(600);
        for nanos in (0..1_000_000_000).step_by(333_333) {
            let now = Duration::from_nanos(nanos);
            match slice_at(now, long) {
                Ok(slice) => {
                    assert!(slice > Duration::ZERO && slice <= long);
                    assert!(now + slice < Duration::from_secs(1), "{now:?} and {slice:?}");
                }
                Err(left) => assert_eq!(now + left, Duration::from_secs(1)),
            }
        }
        assert_eq!(slice_at(Duration::from_nanos(999_999_999), long), Err(Duration::from_nanos(1)));
    }

    #[test]
    fn one_thread_sleeps_for_all_and_all_come_back_with_it() {
        let turns = Turns::default();
        let (word, sleeping, back) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while word.load(Ordering::Acquire) == 0 {
                        let is_still = || word.load(Ordering::Acquire) == 0;
                        turns.wait(&is_still, Deadline::NEVER, |slice| {
                            assert_eq!(sleeping.fetch_add(1, Ordering::Relaxed), 0);
                            std::thread::sleep(slice.min(Duration::from_millis(20)));
                            sleeping.fetch_sub(1, Ordering::Relaxed);
                        });
                    }
                    back.fetch_add(1, Ordering::Relaxed);
                });
            }
            std::thread::sleep(Duration::from_millis(50));
            word.store(1, Ordering::Release);
        });
        assert_eq!(back.into_inner(), 8);
    }

    #[test]
    fn no_thread_sleeps_when_there_is_news_or_the_deadline_has_passed() {
        let turns = Turns::default();
        turns.wait(&|| false, Deadline::NEVER, |_| panic!("it slept"));
        turns.wait(&|| true, Deadline::after(Duration::ZERO), |slice| {
            assert!(slice.is_zero(), "it slept for {slice:?}");
        });
    }
}
