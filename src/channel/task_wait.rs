//! A task's waits: for an item of a request, and for room in the request ring.
//!
//! A task does what a thread does, but it cannot sleep with the turn in its hands: it arms the
//! channel's descriptor and leaves, and whatever finds the descriptor readable reads the ring
//! and wakes it. Timers are the caller's.

use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::channel::core::Core;
use crate::channel::item::Item;
use crate::channel::reactor_turn::read_for_task;
use crate::channel::reader::{ForOthers, take_frames};
use crate::channel::state::Phase;
use crate::channel::turn::check_open;
use crate::channel::wait_list::Key;
use crate::channel::waiter::Waiter;
use crate::error::Result;
use crate::sync::{Ordering, fence};
use crate::sys::clock::Deadline;
use crate::sys::fork;

/// A task's wait for the items of one request. Dropping it takes its wakers out of all lists.
#[derive(Debug)]
pub(crate) struct TaskWait {
    pub(crate) core: Arc<Core>,
    pub(crate) request: u64,
    /// Whether the request is a stream, whose consumption is counted before a wait.
    is_stream: bool,
    /// Among the tasks that wait for the worker's exit status.
    pub(crate) exit_key: Key,
    /// Counted among the channel's waiting tasks.
    is_counted: bool,
}

impl TaskWait {
    pub(crate) fn new(core: &Arc<Core>, request: u64, is_stream: bool) -> Self {
        let core = Arc::clone(core);
        Self { core, request, is_stream, exit_key: Key::default(), is_counted: false }
    }

    /// Looks for the next item. If there is none, `waker` is woken when there is: `Ready(None)`
    /// says that the channel is over. Before a task begins to wait it looks for up to `spin`,
    /// where that can help.
    pub(crate) fn poll(
        &mut self,
        waker: &Waker,
        spin: Duration,
        deadline: Deadline,
    ) -> Result<Poll<Option<Item>>> {
        // A forked child has neither the rings nor the threads.
        fork::check()?;
        let core = &*self.core;
        if !std::mem::replace(&mut self.is_counted, true) {
            // From here on a thread that stops reading arms the descriptor.
            core.reactor_state.add_task();
            if spin != Duration::ZERO {
                self.spin(spin, deadline);
            }
        }
        let waiter = Waiter::Task(waker.clone());
        if let Some(item) = core.pending.take_or_register(self.request, waiter) {
            return Ok(Poll::Ready(Some(item)));
        }
        self.credit_all_before_wait();
        core.reactor_state.before_wait();
        // Loaded before the last look at the ring, as for threads.
        let phase = core.state.phase();
        let has_looked = read_for_task(core);
        if let Some(item) = core.pending.take(self.request) {
            return Ok(Poll::Ready(Some(item)));
        }
        match phase {
            Phase::Open => Ok(Poll::Pending),
            Phase::Dead if !has_looked => {
                // Another reader is having the last look at the ring, which takes a moment.
                waker.wake_by_ref();
                Ok(Poll::Pending)
            }
            _ => Ok(Poll::Ready(None)),
        }
    }

    /// Ends the wait. The next [`TaskWait::poll`] begins another.
    pub(crate) fn end(&mut self) {
        if std::mem::take(&mut self.is_counted) {
            self.core.reactor_state.remove_task();
            self.core.pending.stop_waiting(self.request);
        }
        self.core.state.exit_waiters.leave(&mut self.exit_key);
    }

    /// Polls for an item before the task gives its thread back. Does nothing if other tasks
    /// wait on this channel, or if the worker may need this processor.
    fn spin(&self, longest: Duration, deadline: Deadline) {
        let core = &self.core;
        if core.reactor_state.tasks() != 1 || !core.sleeper.runs_elsewhere() {
            return;
        }
        self.credit_all_before_wait();
        let until = deadline.at_most(longest);
        while !core.pending.requests().has_item(self.request)
            && core.state.is_open()
            && !until.has_passed()
        {
            if let Some(mut turn) = core.receiver.try_turn() {
                // A worker that is looked for need not ring.
                turn.disarm();
                let read = take_frames(core, &mut turn, &mut ForOthers);
                drop(turn);
                core.receiver.wake_list.wake_all();
                if let Err(error) = read {
                    core.fail(error);
                }
            }
            std::hint::spin_loop();
        }
        // For readers that found the turn taken meanwhile.
        fence(Ordering::SeqCst); // pairs with the fences in `Wait::follow` and `turn_or_missed`
        if core.receiver.take_missed() || core.reactor_state.tasks() != 1 {
            read_for_task(core);
        } else {
            core.wake_a_thread();
        }
    }

    fn credit_all_before_wait(&self) {
        if self.is_stream {
            self.core.pending.update_credit(self.request, 0, true);
        }
    }
}

impl Drop for TaskWait {
    fn drop(&mut self) {
        self.end();
    }
}

/// A task's wait for room in the request ring.
#[derive(Debug)]
pub(crate) struct RoomWait<'a> {
    core: &'a Core,
    key: Option<u64>,
}

impl<'a> RoomWait<'a> {
    pub(crate) fn new(core: &'a Core) -> Self {
        core.reactor_state.add_task();
        Self { core, key: None }
    }

    /// Returns whether there is room for a payload of `len` bytes. If not, the task is woken when
    /// there may be. Reads the ring, too: a worker whose replies are not read never makes room.
    pub(crate) fn poll(&mut self, len: usize, waker: &Waker) -> Result<bool> {
        fork::check()?;
        self.leave();
        self.core.reactor_state.before_wait();
        self.key = Some(self.core.sender.register_for_room(len, Waiter::Task(waker.clone())));
        if !read_for_task(self.core) {
            // The thread that reads announces the room that is wanted.
            self.core.state.alarm.raise();
        }
        // After the registration, so that an end that comes later wakes the task.
        check_open(self.core)?;
        self.core.sender.has_room_for(len).map_err(|error| self.core.fail(error))
    }

    fn leave(&mut self) {
        if let Some(key) = self.key.take()
            && !fork::is_forked_child()
        {
            self.core.sender.stop_waiting(key);
        }
    }
}

impl Drop for RoomWait<'_> {
    fn drop(&mut self) {
        self.leave();
        self.core.reactor_state.remove_task();
    }
}
