//! The exit of a process that has reports to write.
//!
//! What ends a program is often the error of a worker that has died: `main` returns it at once, and a thread
//! that writes would end with the process. So the exit waits for it, but not for a disk that does not answer.

use std::sync::{Condvar, Mutex, Once};
use std::time::Duration;

use crate::process::service::lock;
use crate::sys::clock::Deadline;
use crate::sys::exit::at_exit;
use crate::sys::fork;

/// How long an exit waits.
const LONGEST: Duration = Duration::from_secs(5);

/// Reports of all directories that are to be written, or about to be added.
static OPEN: Mutex<usize> = Mutex::new(0);
static CHANGED: Condvar = Condvar::new();

/// Notes that there is one more.
pub(super) fn note_open() {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| at_exit(wait));
    *lock(&OPEN) += 1;
}

/// Notes that one is written, or will not be.
pub(super) fn note_end() {
    *lock(&OPEN) -= 1;
    CHANGED.notify_all();
}

extern "C" fn wait() {
    wait_for(LONGEST);
}

fn wait_for(longest: Duration) {
    // A child has the count of its parent, and nothing to write.
    if fork::is_forked_child() {
        return;
    }
    let deadline = Deadline::after(longest);
    let mut open = lock(&OPEN);
    while *open > 0 && !deadline.has_passed() {
        let woken = CHANGED.wait_timeout(open, deadline.remaining());
        open = woken.unwrap_or_else(std::sync::PoisonError::into_inner).0;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::process::testing::{alone, fork as in_fork};

    #[test]
    fn an_exit_waits_for_what_is_open_unless_it_is_that_of_a_forked_child() {
        alone(|| {
            let long = Duration::from_secs(10_000);
            fork::watch().unwrap();
            wait_for(long);
            note_open();
            let child = || {
                wait_for(long);
                7
            };
            assert_eq!(in_fork(child), 7);
            wait_for(Duration::from_millis(1));
            let waiter = std::thread::spawn(move || wait_for(long));
            assert!(!waiter.is_finished());
            note_end();
            waiter.join().unwrap();
        });
    }
}
