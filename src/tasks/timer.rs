//! Waking a task when a deadline passes, without the runtime's help.

use std::task::{Context, Waker};

use crate::sync::BACKSTOP;
use crate::sys::clock::Deadline;
use crate::tasks::driver;

/// One task's alarm clock; dropping it stops it.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    set: Option<(driver::TimerKey, Waker)>,
    /// When the task is woken to look again.
    look_at: Option<Deadline>,
    /// The task was told to wait at least once, so that its runtime is to wake it in time.
    has_waited: bool,
    /// The end of the extra time that a wait gets if the task itself was held up.
    late: Option<Deadline>,
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
        if !is_set && !deadline.is_endless() {
            self.stop();
            let waker = context.waker().clone();
            self.set = Some((driver::set_timer(deadline, waker.clone()), waker));
        }
        false
    }

    /// As [`Timer::poll`], for a task that has just looked at the ring: also wakes it after
    /// [`BACKSTOP`], again and again, as a thread's wait looks again.
    pub(crate) fn poll_and_look_again(
        &mut self,
        deadline: Deadline,
        context: &Context<'_>,
    ) -> bool {
        let look_at = self.look_at.filter(|at| !at.has_passed());
        let look_at = *self.look_at.insert(look_at.unwrap_or_else(|| Deadline::after(BACKSTOP)));
        if self.poll(deadline.min(look_at), context) {
            if deadline.has_passed() {
                return true;
            }
            context.waker().wake_by_ref();
        }
        false
    }

    /// As [`Timer::poll_and_look_again`]; if the task is woken long after the deadline the worker
    /// was most likely held up with it, and has a little more time.
    pub(crate) fn poll_for_peer(&mut self, deadline: Deadline, context: &Context<'_>) -> bool {
        if !self.poll_and_look_again(self.late.unwrap_or(deadline), context) {
            self.has_waited = true;
            return false;
        }
        if !self.has_waited || self.late.is_some() {
            return true;
        }
        self.late = deadline.grace();
        self.late.is_none_or(|late| self.poll_and_look_again(late, context))
    }

    /// Prepares for the next wait of the same task.
    pub(crate) fn begin_anew(&mut self) {
        (self.has_waited, self.late) = (false, None);
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
