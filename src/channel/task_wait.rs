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
use crate::channel::reactor_turn::{OwnRead, read_for_task, read_own};
use crate::channel::reader::{ForOthers, Want, take_frames};
use crate::channel::state::Phase;
use crate::channel::stream_buffer::StreamBuffer;
use crate::channel::turn::check_open;
use crate::channel::wait_list::Key;
use crate::channel::waiter::Waiter;
use crate::error::Result;
use crate::sync::{Ordering, fence};
use crate::sys::clock::Deadline;
use crate::sys::fork;

/// What a task waits for.
#[derive(Debug)]
pub(crate) enum TaskWant<'a> {
    /// The whole reply of a call. It is copied, so that the task may keep it.
    Reply,
    /// The next part of the reply of a call, where it lies.
    Part,
    /// What comes next of a stream, and where chunks are put that are taken together.
    Chunks(&'a mut StreamBuffer),
}

/// What a task's wait has ended with.
#[derive(Debug)]
pub(crate) enum TaskFound {
    Item(Item),
    /// Chunks are in the stream's buffer.
    Buffered,
    /// The channel is over.
    Over,
}

/// A task's wait for the items of one request. Dropping it takes its wakers out of all lists.
#[derive(Debug)]
pub(crate) struct TaskWait {
    pub(crate) core: Arc<Core>,
    pub(crate) request: u64,
    /// Among the tasks that wait for the worker's exit status.
    pub(crate) exit_key: Key,
    /// Counted among the channel's waiting tasks.
    is_counted: bool,
}

impl TaskWait {
    pub(crate) fn new(core: &Arc<Core>, request: u64) -> Self {
        let core = Arc::clone(core);
        Self { core, request, exit_key: Key::default(), is_counted: false }
    }

    /// Looks for what is wanted next. If there is nothing, `waker` is woken when there is. Before a
    /// task begins to wait it looks for up to `spin`, where that can help.
    pub(crate) fn poll(
        &mut self,
        waker: &Waker,
        spin: Duration,
        deadline: Deadline,
        want: TaskWant<'_>,
    ) -> Result<Poll<TaskFound>> {
        // A forked child has neither the rings nor the threads.
        fork::check()?;
        let request = self.request;
        let want = match want {
            TaskWant::Reply => Want::Nothing,
            TaskWant::Part => Want::Reply(request),
            TaskWant::Chunks(buffer) => Want::Chunk(request, buffer),
        };
        let mut own = OwnRead { want, item: None, has_found: false };
        let reads_itself = !matches!(own.want, Want::Nothing);
        let is_new = self.count(reads_itself);
        let core = &*self.core;
        if is_new && spin != Duration::ZERO {
            credit_all_before_wait(core, &mut own);
            self.spin(spin, deadline, reads_itself);
        }
        if reads_itself {
            if !own.take_from_table(core) {
                core.pending.register_task(request, waker.clone());
            }
        } else {
            let waiter = Waiter::Task(waker.clone());
            own.item = core.pending.take_or_register(request, waiter);
        }
        if let Some(found) = TaskFound::of(&mut own) {
            return Ok(Poll::Ready(found));
        }
        credit_all_before_wait(core, &mut own);
        core.reactor_state.before_wait();
        // Loaded before the last look at the ring, as for threads.
        let phase = core.state.phase();
        let has_looked = if reads_itself { read_own(core, &mut own) } else { read_for_task(core) };
        if reads_itself && !own.has_found {
            own.take_from_table(core);
        } else if !reads_itself {
            own.item = core.pending.take(request);
        }
        if let Some(found) = TaskFound::of(&mut own) {
            return Ok(Poll::Ready(found));
        }
        match phase {
            Phase::Open => Ok(Poll::Pending),
            Phase::Dead if !has_looked => {
                // Another reader is having the last look at the ring, which takes a moment.
                waker.wake_by_ref();
                Ok(Poll::Pending)
            }
            _ => Ok(Poll::Ready(TaskFound::Over)),
        }
    }

    /// Counts the task among those that wait. Returns whether it was not.
    fn count(&mut self, reads_itself: bool) -> bool {
        let is_new = !std::mem::replace(&mut self.is_counted, true);
        if is_new {
            // From here on a thread that stops reading arms the descriptor.
            self.core.reactor_state.add_task();
        }
        if reads_itself {
            self.core.reactor_state.set_task_that_reads(self.request);
        }
        is_new
    }

    /// Ends the wait. The next [`TaskWait::poll`] begins another.
    pub(crate) fn end(&mut self) {
        if std::mem::take(&mut self.is_counted) {
            self.core.reactor_state.clear_task_that_reads(self.request);
            self.core.pending.stop_waiting(self.request);
            // Last: a driver that could take the waiter, and so leaves the frames to this task, must
            // have counted it. Otherwise the one task that it counted may be another, which would
            // not be woken for its frame.
            self.core.reactor_state.remove_task();
        }
        self.core.state.exit_waiters.leave(&mut self.exit_key);
    }

    /// Polls for an item before the task gives its thread back. Does nothing if other tasks
    /// wait on this channel, or if the worker may need this processor.
    fn spin(&self, longest: Duration, deadline: Deadline, reads_itself: bool) {
        let core = &self.core;
        if core.reactor_state.tasks() != 1 || !core.sleeper.runs_elsewhere() {
            return;
        }
        let until = deadline.at_most(longest);
        while !core.pending.requests().has_item(self.request)
            && core.state.is_open()
            && !until.has_passed()
        {
            if let Some(mut turn) = core.receiver.try_turn() {
                // A worker that is looked for need not ring.
                turn.disarm();
                if reads_itself {
                    if turn.has_next() {
                        break;
                    }
                } else {
                    let read = take_frames(core, &mut turn, &mut ForOthers);
                    drop(turn);
                    core.receiver.wake_list.wake_all();
                    if let Err(error) = read {
                        core.fail(error);
                    }
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
}

/// Counts all that a stream has consumed: before its reader waits, the worker must know.
fn credit_all_before_wait(core: &Core, own: &mut OwnRead<'_>) {
    if let Want::Chunk(request, buffer) = &mut own.want {
        core.pending.credit_all_before_wait(*request, buffer);
    }
}

impl TaskFound {
    /// What was found, if anything was.
    fn of(own: &mut OwnRead<'_>) -> Option<Self> {
        match own.item.take() {
            Some(item) => Some(Self::Item(item)),
            None => own.has_found.then_some(Self::Buffered),
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
