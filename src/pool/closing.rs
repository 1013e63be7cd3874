//! The wait for the end of all workers of a pool.

use std::time::Duration;

use crate::sync::plain::{Condvar, Mutex};
use crate::sys::clock::Deadline;

/// How long workers may take to end when a close has run out of time.
pub(super) const LAST_WAIT: Duration = Duration::from_secs(15);

/// The longest time between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Tells that a worker has ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    count: Mutex<u64>,
    changed: Condvar,
}

impl Ended {
    pub(super) fn notify(&self) {
        *self.count.lock() += 1;
        self.changed.notify_all();
    }

    /// Blocks until `is_over`, or until the deadline. Returns whether it is. Looks now and then, as
    /// the last thing to end may be a request and no worker.
    pub(super) fn wait(&self, deadline: Deadline, is_over: impl Fn() -> bool) -> bool {
        loop {
            let before = *self.count.lock();
            if is_over() {
                return true;
            }
            let mut count = self.count.lock();
            while *count == before {
                let left = deadline.remaining();
                if left.is_zero() {
                    return false;
                }
                count = self.changed.wait_timeout(count, left.min(LOOK));
                if *count == before && is_over() {
                    return true;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_wait_sees_an_end_that_no_worker_tells() {
        let (ended, looks) = (Ended::default(), Cell::new(0));
        let is_over = || looks.replace(looks.get() + 1) > 0;
        assert!(ended.wait(Deadline::after(Duration::from_secs(2)), is_over));
    }
}
