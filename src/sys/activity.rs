//! The one thread of the library that sleeps longer while nothing happens, and how it is woken
//! when something does.
//!
//! A look at everything that is counted would cost an idle process a wake a second. So the thread
//! sleeps long once two looks have found the same, and whatever ends an idle time wakes it: a side
//! that had to wake its peer, a thread that was woken, an error, a change of a channel's state.
//! All of these are system calls or rare, so that no hot path pays for it.
//!
//! ```text
//!   the thread                          what ends an idle time
//!   S1  store LONG (Relaxed)            N1  count, publish, …
//!   S2  fence      (SeqCst)             N2  fence     (SeqCst)
//!   S3  look at everything              N3  load the word (Relaxed)
//!   S4  nothing new: FUTEX_WAIT         N4  if it is LONG: store SHORT, FUTEX_WAKE
//! ```
//!
//! All SeqCst fences are in one order: either N3 sees S1, or S3 sees N1.

use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::Duration;

use super::clock::Deadline;
use super::fork;
use super::futex::{self, Scope};

/// What ends an idle time goes on for a moment after it is noted: a reply is handed out, a worker is
/// reaped. A look in between would find the half of it, and be too early for the other half.
const MOMENT: Duration = Duration::from_millis(100);

/// Nothing that happens need wake the thread.
const SHORT: u32 = 0;
/// Whatever happens is to wake the thread.
const LONG: u32 = 1;
/// The thread is to look at once.
const HURRY: u32 = 2;

static WORD: AtomicU32 = AtomicU32::new(SHORT);

/// Notes that an idle time is over. To be called after what has happened can be seen. Costs a fence
/// and a load: for paths that are cold, or make a system call. Not inlined, so that it takes no registers
/// from the hot paths beside these.
#[cold]
#[inline(never)]
pub(crate) fn note() {
    fence(Ordering::SeqCst); // N2, pairs with S2
    if WORD.load(Ordering::Relaxed) == LONG {
        end_long_sleep();
    }
}

#[cold]
fn end_long_sleep() {
    let was_long = WORD.compare_exchange(LONG, SHORT, Ordering::Relaxed, Ordering::Relaxed).is_ok();
    // A forked child does not have the thread.
    if was_long && !fork::is_forked_child() {
        futex::wake_all(&WORD, Scope::Private);
    }
}

/// Ends any sleep of the thread, and its next one if it does not sleep. To be called after what the
/// thread is to find.
pub(crate) fn hurry() {
    WORD.store(HURRY, Ordering::Release);
    futex::wake_all(&WORD, Scope::Private);
}

/// To be called before a look after which the thread may sleep long.
pub(crate) fn before_look() {
    WORD.fetch_max(LONG, Ordering::Relaxed); // S1
    fence(Ordering::SeqCst); // S2, pairs with N2
}

/// Sleeps until a moment after something has been noted, if nothing has been since [`before_look`]; at
/// least until `soonest`, and no longer than `latest`. [`hurry`] ends it at once.
pub(crate) fn sleep(soonest: Deadline, latest: Deadline) {
    let mut until = soonest;
    if soonest < latest {
        wait_while(LONG, latest);
        if !latest.has_passed() {
            until = soonest.max(Deadline::after(MOMENT));
        }
    }
    // From now on nothing need wake the thread: it looks again soon.
    let _ = WORD.compare_exchange(LONG, SHORT, Ordering::Relaxed, Ordering::Relaxed);
    wait_while(SHORT, until);
    // What the hurry is about is seen after this: pairs with the store in `hurry`.
    WORD.swap(SHORT, Ordering::Acquire);
}

fn wait_while(value: u32, until: Deadline) {
    while WORD.load(Ordering::Acquire) == value && !until.has_passed() {
        futex::wait(&WORD, value, Scope::Private, until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::testing::alone;

    const LONG_TIME: Duration = Duration::from_secs(60);

    fn now() -> Deadline {
        Deadline::after(Duration::ZERO)
    }

    #[test]
    fn a_note_ends_a_long_sleep_and_a_hurry_ends_any() {
        alone(|| {
            fork::watch().unwrap();
            let far = Deadline::after(LONG_TIME);
            // Before the sleep, but after the look.
            before_look();
            note();
            sleep(now(), far);
            // While it sleeps.
            before_look();
            let thread = std::thread::spawn(move || sleep(now(), far));
            std::thread::sleep(Duration::from_millis(20));
            note();
            thread.join().unwrap();
            // A hurry before the look counts for the next sleep, also for one that notes do not end.
            hurry();
            before_look();
            note();
            sleep(far, far);
            before_look();
            let thread = std::thread::spawn(move || sleep(far, far));
            std::thread::sleep(Duration::from_millis(20));
            hurry();
            thread.join().unwrap();
            // Once.
            before_look();
            sleep(now(), Deadline::after(Duration::from_millis(10)));
            assert!(!far.has_passed());
        });
    }
}
