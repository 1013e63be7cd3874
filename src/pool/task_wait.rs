//! What a task waits for in a pool: a worker with a place, and what is known of a dead one.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::role::RoleShared;
use super::scheduler::{Ending, Ticket};
use super::seat::{Seat, Told};
use super::worker::Worker;
use crate::error::Result;
use crate::sys::clock::{Deadline, now_ns};
use crate::sys::fork;
use crate::tasks::timer::Timer;

/// Between two looks at what is known of a dead worker: that its threads have stopped wakes no task.
const LOOK: Duration = Duration::from_millis(1);

/// Between two looks of a task that closes the pool.
#[cfg(feature = "async")]
const CLOSE_LOOK: Duration = Duration::from_millis(5);

/// A request's wait for a worker.
#[derive(Debug)]
pub(super) struct Wait {
    pub(super) ticket: Ticket,
    pub(super) seat: Arc<Seat<Worker>>,
    /// When it began.
    pub(super) since: u64,
}

/// Waits until a request is told what becomes of it; `None` if the deadline has passed. Fails in a
/// forked child.
///
/// Dropped while it waits, the request leaves the queue; if it has just got a worker, gives that
/// back.
pub(super) async fn told(
    role: &RoleShared,
    wait: Wait,
    deadline: Deadline,
) -> Result<Option<Told<Worker>>> {
    let mut wait = SeatWait { role, wait, has_heard: false };
    let mut timer = Timer::default();
    poll_fn(|context| wait.poll(&mut timer, deadline, context)).await
}

/// A task's wait for a worker.
struct SeatWait<'a> {
    role: &'a RoleShared,
    wait: Wait,
    has_heard: bool,
}

impl SeatWait<'_> {
    /// What the request is told; `Ready(None)` when the deadline has passed.
    fn poll(
        &mut self,
        timer: &mut Timer,
        deadline: Deadline,
        context: &Context<'_>,
    ) -> Poll<Result<Option<Told<Worker>>>> {
        fork::check()?;
        let told = self.wait.seat.poll(context.waker());
        if told.is_none() && !timer.poll(deadline, context) {
            return Poll::Pending;
        }
        self.has_heard = true;
        Poll::Ready(Ok(told.or_else(|| self.role.leave(self.wait.ticket, &self.wait.seat))))
    }
}

impl Drop for SeatWait<'_> {
    fn drop(&mut self) {
        // In a forked child the queue is the parent's.
        if self.has_heard || fork::is_forked_child() {
            return;
        }
        let now = now_ns();
        self.role.metrics.note_wait(now.saturating_sub(self.wait.since));
        match self.role.leave(self.wait.ticket, &self.wait.seat) {
            Some(Told::Granted(grant, _)) => self.role.finish(now, grant, Ending::Over),
            Some(Told::Leave) => self.role.change(|scheduler| scheduler.forget_leaver(now)),
            Some(Told::Refused(_) | Told::Cancelled) | None => {}
        }
    }
}

/// Waits until all that an error says of the worker's end is known, or until the deadline: as
/// [`Worker::wait_until_known`].
pub(super) async fn until_known(worker: &Worker, deadline: Deadline) {
    let Some(state) = worker.channel().map(|channel| &channel.core().state) else { return };
    let Some(exit) = state.exit() else { return };
    let (mut end, mut timer) = (state.exit_waiters.register(), Timer::default());
    poll_fn(|context| {
        // Before the look, so that what comes after it wakes the task.
        end.wait(context.waker());
        if exit.is_known() || deadline.has_passed() {
            return Poll::Ready(());
        }
        if timer.poll(deadline.at_most(LOOK), context) {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await;
}

/// Waits until `is_over`, or until the deadline. Returns whether it is. Looks now and then: the end
/// of a worker or of a request wakes no task of a close.
#[cfg(feature = "async")]
pub(super) async fn until(deadline: Deadline, is_over: impl Fn() -> bool) -> bool {
    let mut timer = Timer::default();
    poll_fn(|context| {
        let is_it = is_over();
        if is_it || deadline.has_passed() {
            return Poll::Ready(is_it);
        }
        if timer.poll(deadline.at_most(CLOSE_LOOK), context) {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await
}
