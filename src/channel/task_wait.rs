//! A task's waits: for an item of a request, and for room in the request ring.
//!
//! A task does what a thread does, but it cannot sleep with the turn in its hands: it arms the
//! channel's descriptor and leaves, and whatever finds the descriptor readable reads the ring
//! and wakes it. Timers are the caller's.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use crate::channel::core::Core;
use crate::channel::deliver::Item;
use crate::channel::reactor_turn::{end_spin, read_for_driver, read_for_task, spin_once};
use crate::channel::state::Phase;
use crate::channel::wait_list::Key;
use crate::channel::waiter::Waiter;
use crate::error::Result;
use crate::sys::clock::Deadline;
use crate::sys::fork;

/// What a task has found.
#[derive(Debug)]
pub(crate) enum Looked {
    Item(Item),
    /// Nothing yet; the task is woken when there is something.
    Nothing,
    /// The worker has died and another reader is having the last look at the ring, which takes
    /// a moment.
    LastLook,
    /// The channel cannot be used any more.
    Over,
}

/// A task's wait for the items of one request. Dropping it takes its wakers out of all lists.
#[derive(Debug)]
pub(crate) struct TaskWait {
    core: Arc<Core>,
    request: u64,
    /// Whether the request is a stream, whose consumption is counted before a wait.
    is_stream: bool,
    /// Among the tasks that wait for the worker's exit status.
    exit_key: Key,
    /// Counted among the channel's waiting tasks.
    is_counted: bool,
}

impl TaskWait {
    pub(crate) fn new(core: &Arc<Core>, request: u64, is_stream: bool) -> Self {
        let core = Arc::clone(core);
        Self { core, request, is_stream, exit_key: Key::default(), is_counted: false }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(crate) fn request(&self) -> u64 {
        self.request
    }

    /// Begins to wait, unless that has happened. From here on a thread that stops reading arms
    /// the descriptor. Looks for an item for up to `longest` before, where that can help.
    pub(crate) fn begin(&mut self, longest: Duration, deadline: Deadline) -> Result<()> {
        // A forked child has neither the rings nor the threads.
        fork::check()?;
        if !std::mem::replace(&mut self.is_counted, true) {
            self.core.reactor.add_task();
            if longest != Duration::ZERO {
                self.spin(longest, deadline);
            }
        }
        Ok(())
    }

    /// Looks for the next item. If there is none, `waker` is woken when there is.
    pub(crate) fn look(&self, waker: &Waker) -> Looked {
        let core = &self.core;
        let waiter = Waiter::Task(waker.clone());
        if let Some(item) = core.pending.take_or_register(self.request, waiter) {
            return Looked::Item(item);
        }
        self.count_consumed();
        core.reactor.attend();
        // Loaded before the last look at the ring, as for threads.
        let phase = core.state.phase();
        let has_looked = read_for_task(core);
        if let Some(item) = core.pending.take(self.request) {
            return Looked::Item(item);
        }
        match phase {
            Phase::Open => Looked::Nothing,
            Phase::Dead if !has_looked => Looked::LastLook,
            _ => Looked::Over,
        }
    }

    /// Has the task woken when the worker's exit status is known.
    pub(crate) fn wait_for_exit(&mut self, waker: &Waker) {
        self.core.state.exited.wait(&mut self.exit_key, waker);
    }

    /// Ends the wait. The next [`TaskWait::begin`] begins another.
    pub(crate) fn end(&mut self) {
        if std::mem::take(&mut self.is_counted) {
            self.core.reactor.remove_task();
            self.core.pending.stop_waiting(self.request);
        }
        self.core.state.exited.leave(&mut self.exit_key);
    }

    /// Polls for an item before the task gives its thread back. Does nothing if other tasks
    /// wait on this channel, or if the worker may need this processor.
    fn spin(&self, longest: Duration, deadline: Deadline) {
        let core = &self.core;
        if !core.reactor.has_one_task() || !core.sleeper.runs_elsewhere() {
            return;
        }
        self.count_consumed();
        let until = deadline.at_most(longest);
        while !core.pending.has_item(self.request) && core.state.is_open() && !until.has_passed() {
            spin_once(core);
            std::hint::spin_loop();
        }
        end_spin(core);
    }

    fn count_consumed(&self) {
        if self.is_stream {
            self.core.pending.consumed(self.request, 0, true);
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
        core.reactor.add_task();
        Self { core, key: None }
    }

    /// Has the task woken when there may be room for a payload of `len` bytes. Look for room
    /// after this. Reads the ring, too: a worker whose replies are not read never makes room.
    pub(crate) fn register(&mut self, len: usize, waker: &Waker) {
        self.leave();
        self.core.reactor.attend();
        self.key = Some(self.core.sender.register_for_room(len, Waiter::Task(waker.clone())));
        if !read_for_task(self.core) {
            // The thread that reads announces the room that is wanted.
            self.core.state.alarm.raise();
        }
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
        self.core.reactor.remove_task();
    }
}

/// Reads for a driver of the library's that found the channel's descriptor readable. Returns
/// whether the channel is still open: if not, the driver lets go of it, for its descriptor stays
/// readable.
pub(crate) fn read_readable(core: &Core) -> bool {
    read_for_driver(core);
    core.state.is_open()
}

/// Reads what came while no driver looked at the descriptor.
pub(crate) fn read_once(core: &Core) {
    read_for_task(core);
}
