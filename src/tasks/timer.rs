//! Waking a task when a deadline passes, without the runtime's help.

use std::task::{Context, Waker};

use crate::shm::clock::Deadline;
use crate::tasks::driver;

/// One task's alarm clock; dropping it stops it.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    set: Option<(driver::TimerKey, Waker)>,
}

impl Timer {
    /// Wakes the task when the deadline has passed. Returns whether it has already.
    pub(crate) fn poll(&mut self, deadline: Deadline, context: &Context<'_>) -> bool {
        if deadline.has_passed() {
            self.stop();
            return true;
        }
        let is_set = self.set.as_ref().is_some_and(|(key, waker)| {
            key.deadline == deadline && waker.will_wake(context.waker())
        });
        if !is_set && deadline != Deadline::NEVER {
            self.stop();
            let waker = context.waker().clone();
            self.set = Some((driver::set_timer(deadline, waker.clone()), waker));
        }
        false
    }

    fn stop(&mut self) {
        if let Some((key, _)) = self.set.take() {
            driver::stop_timer(key);
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.stop();
    }
}
