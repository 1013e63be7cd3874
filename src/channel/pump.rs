//! Reading the ring for requests that no thread waits for: those of tasks and reactors.
//!
//! # Ordering
//!
//! Nobody waits for the reader's lock. Who finds it taken says so in `missed`, fences, and
//! tries once more; who gives it back fences and looks at `missed`, and reads on if it is
//! set. One of the two sees the other, so that no run of the pump is ever lost: neither to
//! a thread that reads and leaves, nor to another run that was about to end.
//!
//! A descriptor that was found readable is drained *before* `missed` is set. What made it
//! readable was published before, and is seen by the run that `missed` asks for; so it is
//! never readable for long while a thread reads, which would keep a reactor running.

#[cfg(feature = "async")]
use std::sync::OnceLock;
#[cfg(feature = "async")]
use std::task::Waker;
use std::time::Duration;

use crate::channel::engine::{Engine, Item};
use crate::channel::life::{Phase, check_not_forked};
#[cfg(feature = "async")]
use crate::channel::timed::Loan;
use crate::channel::wake_list::Reading;
use crate::channel::wakers::Wakers;
#[cfg(feature = "async")]
use crate::channel::wakers::{Place, Seat};
use crate::error::{Error, Result};
use crate::link::not_pollable;
#[cfg(feature = "async")]
use crate::protocol::table::Waiter;
use crate::ring::Consumer;
use crate::ring::consumer::shut_down;
use crate::sync::mutant::{Mutant, chosen};
use crate::sync::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use crate::sys::clock::Deadline;
use crate::sys::fork;
use crate::sys::wake_fd::{Drained, WakeFd};

/// Runs in a row that the descriptor asked for, and that found nothing, after which the
/// peer counts as corrupt.
const MOST_IDLE_RUNS: u32 = 10_000;
/// Runs in a row for those who found the lock taken, and looks in one run, before a reactor
/// is asked to go on.
const MOST_TURNS: u32 = 8;

/// What the pump keeps between its runs.
#[derive(Debug, Default)]
pub(crate) struct Pump {
    /// Tasks that wait for something of this channel's.
    tasks: AtomicUsize,
    /// Somebody found the reader's lock taken and left.
    missed: AtomicU32,
    /// Tasks to be woken whenever the descriptor was readable: it may have been for them.
    others: Wakers,
    /// Tasks that look at whether the channel is over, and wait for something else.
    at_over: Wakers,
    /// A reactor of the host's reads: see [`Engine::drive_reactor`].
    is_driven: AtomicU32,
    /// Something lies in the table that this reactor has not been told of.
    is_untold: AtomicU32,
    /// How often in a row the descriptor was readable for nothing.
    idle_runs: AtomicU32,
    /// Where the reader stood at the last run.
    position: AtomicU64,
    /// Makes sure that the descriptor is polled for the tasks of this thread.
    #[cfg(feature = "async")]
    attend: OnceLock<Attend>,
}

/// See [`Engine::attend_with`].
#[cfg(feature = "async")]
struct Attend(Box<dyn Fn() + Send + Sync>);

#[cfg(feature = "async")]
impl std::fmt::Debug for Attend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Attend")
    }
}

/// On whose behalf the pump runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    /// A task that looks for itself: what is armed already stays as it is.
    Task,
    /// A reactor of this library's, whose descriptor was readable.
    #[cfg_attr(not(feature = "async"), allow(dead_code, reason = "there is none"))]
    Driver,
    /// A reactor of the host's, which wants the descriptor to be exact, and looks itself.
    Host,
    /// The same, by a thread that stops reading.
    HostLater,
}

impl For {
    fn is_exact(self) -> bool {
        matches!(self, Self::Host | Self::HostLater)
    }
}

#[cfg(all(test, feature = "tokio", not(loom)))]
impl Pump {
    /// Takes all locks, for a test of what must not wait for them.
    pub(super) fn hold(&self) -> impl Sized {
        (self.others.hold(), self.at_over.hold())
    }
}

impl Engine {
    /// Reads all frames that are there into their requests, and leaves the descriptor so
    /// that the next one makes it readable. While another thread reads, that one does so
    /// when it leaves.
    pub(crate) fn drive_reactor(&self) -> Result<()> {
        check_not_forked()?;
        let wake_fd = self.wake_fd.as_ref().ok_or_else(not_pollable)?;
        self.pump.is_driven.store(1, Ordering::Relaxed);
        let ran = self.run_pump(wake_fd, For::Host);
        if !chosen(Mutant::DriveWakesNoThread) {
            self.wake_a_thread(); // for the reason that `pump` has
        }
        match ran {
            Ok(_) if self.life.is_open() => Ok(()),
            Ok(_) => Err(self.life.why_over_now(None)),
            Err(error) => Err(self.fail(error)),
        }
    }

    /// What has come for a request, without waiting. A reactor that drives the channel reads
    /// the ring itself, and is not to find its descriptor readable for what this took.
    pub(crate) fn try_reply(&self, request: u64) -> Result<Option<Item>> {
        if !self.is_driven() {
            return self.reply(request, Deadline::after(Duration::ZERO), true);
        }
        check_not_forked()?;
        let is_over = !self.life.is_open();
        let item = self.table.lock().take(request);
        if item.is_some() || !is_over {
            return Ok(item);
        }
        let over = self.drive_reactor();
        match self.table.lock().take(request) {
            Some(item) => Ok(Some(item)),
            None => over.map(|()| None).map_err(|_| self.life.why_over_now(Some(request))),
        }
    }

    fn is_driven(&self) -> bool {
        self.pump.is_driven.load(Ordering::Relaxed) != 0
    }

    /// Something was put into the table, under the reader's lock, that nobody is woken for.
    pub(super) fn note_untold(&self) {
        if self.is_driven()
            && !chosen(Mutant::UntoldNotLit)
            && self.pump.is_untold.swap(1, Ordering::Relaxed) == 0
            && let Some(wake_fd) = &self.wake_fd
        {
            wake_fd.wake_self();
        }
    }

    /// Runs until nobody was turned away. Returns whether this thread looked at the ring.
    fn run_pump(&self, wake_fd: &WakeFd, whom: For) -> Result<bool> {
        for _ in 0..MOST_TURNS {
            let Some(reader) = self.reader_or_missed(wake_fd, whom)? else { return Ok(false) };
            self.run_once(wake_fd, whom, reader)?;
            fence(Ordering::SeqCst); // pairs with the fence in `reader_or_missed`
            if !self.take_missed() {
                return Ok(true);
            }
        }
        wake_fd.wake_self();
        Ok(true)
    }

    fn take_missed(&self) -> bool {
        self.pump.missed.load(Ordering::Relaxed) != 0
            && self.pump.missed.swap(0, Ordering::Relaxed) != 0
    }

    fn reader_or_missed(&self, wake_fd: &WakeFd, whom: For) -> Result<Option<Reading<'_>>> {
        if let Some(reading) = self.try_read() {
            return Ok(Some(reading));
        }
        if whom != For::Task {
            let drained = wake_fd.drain();
            if drained == Drained::Broken {
                return Err(shut_down());
            }
            let has_drained = drained == Drained::Something;
            self.count_run(has_drained, false)?;
        }
        self.pump.missed.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst); // pairs with the fences after the lock is given back
        Ok(self.try_read())
    }

    fn run_once(&self, wake_fd: &WakeFd, whom: For, mut reading: Reading<'_>) -> Result<()> {
        let reader = &mut *reading.consumer;
        // Read before the last look at the ring, as for threads.
        let phase = self.life.phase();
        if matches!(phase, Phase::Closing | Phase::Closed | Phase::Failed) {
            if whom.is_exact() {
                wake_fd.wake_self();
            }
            return Ok(());
        }
        let mut has_drained = false;
        let mut has_reason = false;
        for turn in 0.. {
            let (_, may_have_more) = self.read_all(reader)?;
            if may_have_more || turn == MOST_TURNS {
                // Others get their turn, whatever the worker does between two looks.
                wake_fd.wake_self();
                break;
            }
            has_reason |= self.announce_room_by_fd();
            if whom == For::Task && is_armed(reader) {
                fence(Ordering::SeqCst); // A, for the announcement of room
            } else {
                // The fence in there stands between both announcements and these looks.
                let is_over = phase != Phase::Open;
                has_drained |= reader.settle(wake_fd, is_over, whom.is_exact())?.has_drained;
            }
            let has_room = self.wake_who_has_room()?;
            has_reason |= has_room;
            if !has_room && !reader.has_next() {
                break;
            }
        }
        if whom == For::Host {
            self.pump.is_untold.store(0, Ordering::Relaxed);
        } else if self.pump.is_untold.load(Ordering::Relaxed) != 0 {
            wake_fd.wake_self();
        }
        let position = reader.position();
        // Whoever read the frames: they were a reason.
        has_reason |= self.pump.position.swap(position, Ordering::Relaxed) != position;
        drop(reading);
        self.count_run(has_drained, has_reason)
    }

    /// Tells a peer that makes the descriptor readable without end from one that is busy,
    /// and wakes those who may have been meant.
    fn count_run(&self, has_drained: bool, has_reason: bool) -> Result<()> {
        if has_drained {
            self.pump.others.wake_all();
        }
        let idle_runs = &self.pump.idle_runs;
        if has_reason {
            idle_runs.store(0, Ordering::Relaxed);
        } else if has_drained && idle_runs.fetch_add(1, Ordering::Relaxed) >= MOST_IDLE_RUNS {
            let message = "the peer made the descriptor for reactors readable without end";
            return Err(Error::corrupt(message));
        }
        Ok(())
    }

    /// A thread stops reading: if tasks wait, their descriptor must be armed again.
    pub(super) fn pump_for_tasks(&self) {
        let has_tasks = self.pump.tasks.load(Ordering::Relaxed) != 0;
        let has_missed = self.take_missed();
        if self.is_driven() {
            self.pump_once(For::HostLater);
        } else if has_missed || has_tasks {
            self.pump_once(For::Task);
        }
    }

    /// Returns whether this thread looked at the ring.
    fn pump_once(&self, whom: For) -> bool {
        let is_left_out = whom == For::HostLater && chosen(Mutant::NoPumpAtHandOver);
        if is_left_out || fork::is_forked_child() {
            return false;
        }
        let Some(wake_fd) = &self.wake_fd else { return false };
        match self.run_pump(wake_fd, whom) {
            Ok(has_looked) => has_looked,
            Err(error) => {
                self.fail(error);
                true
            }
        }
    }

    /// The channel is over: whoever polls the descriptor, and whoever waits for something
    /// that is not in the table, must look.
    pub(crate) fn wake_reactor(&self) {
        if let Some(wake_fd) = &self.wake_fd {
            wake_fd.wake_self();
        }
        self.pump.others.wake_all_elsewhere();
        self.pump.at_over.wake_all_elsewhere();
    }
}

#[cfg(feature = "async")]
fn is_armed(reader: &Consumer) -> bool {
    reader.is_armed()
}

#[cfg(not(feature = "async"))]
fn is_armed(_: &Consumer) -> bool {
    false
}

/// For the async view.
#[cfg(feature = "async")]
impl Engine {
    /// Reads what is there for a task, and arms the descriptor. False if another thread
    /// reads, which then does so when it leaves.
    pub(crate) fn pump(&self) -> bool {
        let has_looked = self.pump_once(For::Task);
        // One that parked while this thread read would not be woken by anybody else.
        self.wake_a_thread();
        has_looked
    }

    /// The descriptor was found readable.
    pub(crate) fn pump_readable(&self) {
        self.pump_once(For::Driver);
        self.wake_a_thread();
    }

    /// Sets what is called before each look of a task that may then wait: a reactor that polls
    /// the descriptor for its own tasks need not run while another executor's wait.
    #[cfg(feature = "tokio")]
    pub(crate) fn attend_with(&self, attend: impl Fn() + Send + Sync + 'static) {
        // Once: a channel gets one async view.
        let _ = self.pump.attend.set(Attend(Box::new(attend)));
    }

    /// A task is about to wait for the descriptor to be polled.
    pub(crate) fn attend(&self) {
        if let Some(Attend(attend)) = self.pump.attend.get() {
            attend();
        }
    }

    /// One more task waits: who stops reading must arm the descriptor.
    pub(crate) fn add_task(&self) {
        self.pump.tasks.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove_task(&self) {
        self.pump.tasks.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether it helps a task to look for a while: no other one waits for this one, and
    /// the worker does not need this processor.
    pub(crate) fn may_spin(&self) -> bool {
        self.has_one_task() && self.sleeper.runs_elsewhere()
    }

    fn has_one_task(&self) -> bool {
        self.pump.tasks.load(Ordering::Relaxed) == 1
    }

    pub(crate) fn take(&self, request: u64) -> Option<Item> {
        self.table.lock().take(request)
    }

    /// What has come for the request, or a wake-up when something does.
    pub(crate) fn take_or_wake(&self, request: u64, waker: &Waker) -> Option<Item> {
        let waiter = Waiter::Task(waker.clone());
        let mut table = self.table.lock();
        let before = table.take_waiter(request);
        let item = table.take(request);
        if item.is_none() {
            table.wait(request, waiter);
        }
        drop(table);
        drop(before);
        item
    }

    pub(crate) fn has_item(&self, request: u64) -> bool {
        self.table.lock().has_item(request)
    }

    pub(crate) fn stop_waiting(&self, request: u64) {
        if fork::is_forked_child() {
            return;
        }
        let before = self.table.lock().take_waiter(request);
        drop(before);
    }

    /// Reads what is there, without arming anything: [`Engine::pump`] must follow.
    pub(crate) fn read_for_tasks(&self) {
        let Some(mut reading) = self.try_read() else { return };
        // A worker that is looked for need not ring.
        reading.consumer.disarm();
        if let Err(error) = self.read_all(&mut reading.consumer) {
            drop(reading);
            self.fail(error);
        }
    }

    /// A task has looked without arming anything; others may have been turned away.
    pub(crate) fn end_spin(&self) {
        fence(Ordering::SeqCst); // pairs with the fences in `follow` and `reader_or_missed`
        if self.take_missed() || !self.has_one_task() {
            self.pump_once(For::Task);
        }
        self.wake_a_thread();
    }

    /// Asks for room; a thread that reads is told to ask the worker for it.
    pub(crate) fn want_room_for_task(&self, len: usize, waker: &Waker) -> u64 {
        let place = self.want_room(len, Waiter::Task(waker.clone()));
        if !self.pump() {
            self.life.alarm.raise();
        }
        place
    }

    /// The turn to send a message in pieces, or a wake-up when it may have come.
    pub(crate) fn poll_turn(&self, seat: &mut Seat<'_>, waker: &Waker) -> Option<Loan<'_, ()>> {
        self.writing.poll_lock(seat, waker)
    }

    /// A seat for [`Engine::poll_turn`].
    pub(crate) fn turn_seat(&self) -> Seat<'_> {
        self.writing.seat()
    }

    /// A seat from which a task is woken when the channel is over.
    pub(crate) fn seat_at_over(&self) -> Seat<'_> {
        self.pump.at_over.seat()
    }

    /// A seat from which a task is woken whenever the descriptor was readable, and when
    /// the channel is over.
    pub(crate) fn seat_at_runs(&self) -> Seat<'_> {
        self.pump.others.seat()
    }

    /// The peer has been given a reason to make the descriptor readable.
    pub(crate) fn expect_a_run(&self) {
        self.pump.idle_runs.store(0, Ordering::Relaxed);
    }

    /// Wakes the task when the worker's exit status is known.
    pub(crate) fn wake_at_end(&self, place: &mut Place, waker: &Waker) {
        self.life.ended.wait(place, waker);
    }

    pub(crate) fn leave_end(&self, place: &mut Place) {
        self.life.ended.leave(place);
    }
}
