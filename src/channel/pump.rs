//! Reading the ring for requests that no thread waits for: those of tasks and reactors.

#[cfg(feature = "async")]
use std::task::Waker;

use crate::channel::engine::Engine;
#[cfg(feature = "async")]
use crate::channel::engine::Item;
#[cfg(feature = "async")]
use crate::channel::timed::Loan;
use crate::error::{Error, Result};
#[cfg(feature = "async")]
use crate::protocol::table::Waiter;
use crate::raw::not_pollable;
use crate::shm::hint::Hint;
use crate::sync::{AtomicU32, AtomicUsize, Mutex, Ordering, fence};

/// Runs for nothing in a row after which the peer counts as corrupt.
const MOST_IDLE_RUNS: u32 = 10_000;

/// What the pump keeps between its runs.
#[derive(Debug, Default)]
pub(crate) struct Pump {
    /// Tasks that wait for something of this channel's.
    tasks: AtomicUsize,
    /// Tasks that wait for something else than an item: a pong.
    others: Mutex<Vec<std::task::Waker>>,
    /// How often in a row the descriptor was readable for nothing.
    idle_runs: AtomicU32,
}

impl Engine {
    /// Reads all frames that are there into their requests, and leaves the descriptor so
    /// that the next one makes it readable. Does nothing while another thread reads: that
    /// one looks for tasks when it leaves.
    pub(crate) fn drive_reactor(&self) -> Result<()> {
        let hint = self.hint.as_ref().ok_or_else(not_pollable)?;
        match self.drive_with(hint) {
            Ok(()) if self.life.is_open() => Ok(()),
            Ok(()) => Err(self.life.why_over(None)),
            Err(error) => Err(self.fail(error)),
        }
    }

    fn drive_with(&self, hint: &Hint) -> Result<()> {
        let Some(mut reader) = self.reader.try_lock() else { return Ok(()) };
        let mut has_found = false;
        loop {
            has_found |= self.read_all(&mut reader)?;
            self.announce_room_by_fd();
            // The fence in `settle` stands between both announcements and these looks.
            reader.settle(hint, !self.life.is_open())?;
            let has_room = self.wake_who_has_room()?;
            has_found |= has_room;
            if !has_room && !reader.has_next() {
                break;
            }
        }
        drop(reader);
        let others = std::mem::take(&mut *self.pump.others.lock());
        has_found |= !others.is_empty();
        others.into_iter().for_each(std::task::Waker::wake);
        self.count_run(has_found)
    }

    /// A peer that makes the descriptor readable without end is told from one that is busy.
    fn count_run(&self, has_found: bool) -> Result<()> {
        let idle_runs = &self.pump.idle_runs;
        if has_found || self.has_tasks() {
            idle_runs.store(0, Ordering::Relaxed);
        } else if idle_runs.fetch_add(1, Ordering::Relaxed) >= MOST_IDLE_RUNS {
            let message = "the peer made the descriptor for reactors readable without end";
            return Err(Error::corrupt(message));
        }
        Ok(())
    }

    fn has_tasks(&self) -> bool {
        self.pump.tasks.load(Ordering::Relaxed) != 0
    }

    /// Reads what is there, and arms the descriptor.
    pub(crate) fn pump(&self) {
        fence(Ordering::SeqCst); // pairs with the fence in `hand_over`
        if let Some(hint) = &self.hint
            && let Err(error) = self.drive_with(hint)
        {
            self.fail(error);
        }
    }

    /// A thread stops reading: if tasks wait, their descriptor must be armed again.
    pub(super) fn pump_for_tasks(&self) {
        if self.has_tasks() {
            self.pump();
        }
    }

    /// The channel is over: whoever polls the descriptor must look.
    pub(crate) fn wake_reactor(&self) {
        if let Some(hint) = &self.hint {
            hint.light();
        }
    }
}

/// For the async view.
#[cfg(feature = "async")]
impl Engine {
    /// One more task waits: who stops reading must arm the descriptor.
    pub(crate) fn add_task(&self) {
        self.pump.tasks.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove_task(&self) {
        self.pump.tasks.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn take(&self, request: u64) -> Option<Item> {
        self.table.lock().take(request)
    }

    /// What has come for the request, or a wake-up when something does.
    pub(crate) fn take_or_wake(&self, request: u64, waker: &Waker) -> Option<Item> {
        let mut table = self.table.lock();
        let item = table.take(request);
        if item.is_none() {
            table.wait(request, Waiter::Task(waker.clone()));
        }
        item
    }

    pub(crate) fn has_item(&self, request: u64) -> bool {
        self.table.lock().has_item(request)
    }

    pub(crate) fn stop_waiting(&self, request: u64) {
        self.table.lock().stop_waiting(request);
    }

    /// Reads what is there, without arming anything.
    pub(crate) fn read_for_tasks(&self) {
        let Some(mut reader) = self.reader.try_lock() else { return };
        if let Err(error) = self.read_all(&mut reader) {
            drop(reader);
            self.fail(error);
        }
    }

    pub(crate) fn want_room_for_task(&self, len: usize, waker: &Waker) -> u64 {
        self.want_room(len, Waiter::Task(waker.clone()))
    }

    /// The turn to send a message in pieces, or a wake-up when it may have come.
    pub(crate) fn poll_turn(&self, waker: &Waker) -> Option<Loan<'_, ()>> {
        self.writing.poll_lock(waker)
    }

    /// Wakes the task at the next run of the pump, whatever that finds.
    pub(crate) fn wake_at_next_run(&self, waker: &Waker) {
        self.pump.others.lock().push(waker.clone());
    }
}
