//! Reading by the descriptor: for tasks, and for a reactor of the host's.
//!
//! # Ordering
//!
//! A descriptor that was found readable is drained *before* `missed` is set (see `receiver`).
//! The frame that made it readable was published before, and is seen by the turn that
//! `missed` asks for. So the descriptor is not readable for long while a thread reads, which
//! would keep a reactor running.

use crate::channel::core::Core;
use crate::channel::item::Item;
use crate::channel::reader::{BURST, Found, RingReader, Want, read};
use crate::channel::waiter::Waiter;
use crate::error::Result;
use crate::link::not_pollable;
use crate::ring::Consumer;
use crate::ring::consumer::shut_down;
use crate::ring::position::span;
use crate::shm::layout::as_usize;
use crate::sync::{Ordering, TryGuard, fence};
use crate::sys::wake_fd::{Drained, WakeFd};
use crate::sys::{activity, fork};

/// Turns in a row for readers that found the turn taken, before the descriptor is made
/// readable instead.
const MOST_TURNS: u32 = 8;

/// What reads by the descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReaderKind {
    /// A task that looks for itself. What is armed already stays as it is.
    Task,
    /// A driver of the library's, whose descriptor was readable.
    Driver,
    /// A reactor of the host's. The descriptor has to be exact, and the reactor looks itself.
    Host,
    /// A thread that has given the turn back, in place of the host's reactor.
    ThreadForHost,
}

impl ReaderKind {
    fn is_exact(self) -> bool {
        matches!(self, Self::Host | Self::ThreadForHost)
    }
}

/// What a task wants that reads for itself, and what it has got.
#[derive(Debug)]
pub(super) struct OwnRead<'a> {
    pub(super) want: Want<'a>,
    pub(super) item: Option<Item>,
    /// The item is there, or chunks are in the buffer.
    pub(super) has_found: bool,
}

impl OwnRead<'_> {
    /// Takes what has come already.
    pub(super) fn take_from_table(&mut self, core: &Core) -> bool {
        // Only a look for room can fail, which a task does elsewhere.
        self.has_found |= matches!(self.want.look(core, &mut self.item), Ok(true));
        self.has_found
    }
}

/// One turn by the descriptor.
#[derive(Debug)]
struct DescriptorReader<'a, 'w> {
    wake_fd: &'a WakeFd,
    kind: ReaderKind,
    /// How often the reader may still be asked whether it must stop, before the reactor's other
    /// descriptors get their turn: for all bursts of a ring that was full.
    bursts_left: usize,
    has_drained: bool,
    /// There was a reason for the descriptor to be readable.
    has_reason: bool,
    /// What the task takes itself.
    own: Option<&'a mut OwnRead<'w>>,
}

impl RingReader for DescriptorReader<'_, '_> {
    fn want(&mut self) -> Want<'_> {
        self.own.as_mut().map_or(Want::Nothing, |own| own.want.reborrow())
    }

    fn keep(&mut self, item: Item) {
        if let Some(own) = &mut self.own {
            own.item = Some(item);
        }
    }

    fn must_stop(&mut self) -> bool {
        self.bursts_left = self.bursts_left.saturating_sub(1);
        self.bursts_left == 0
    }

    fn room_given(&mut self) {
        self.has_reason = true;
    }

    fn announce(&mut self, core: &Core, consumer: &mut Consumer) -> Result<()> {
        self.has_reason |= core.sender.announce_room_by_fd();
        let is_armed = self.kind == ReaderKind::Task && consumer.is_armed();
        if !is_armed {
            let rearmed = consumer.rearm(self.wake_fd, false, self.kind.is_exact())?;
            self.has_drained |= rearmed.has_drained;
        }
        Ok(())
    }
}

/// The descriptor of a reactor of the host's was readable, or the reactor starts. Reads all
/// frames that are there into their requests and leaves the descriptor so that the next frame
/// makes it readable. While a thread reads, that thread does so when it leaves.
///
/// # Errors
///
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) without a descriptor; why the
/// channel is over.
pub(super) fn read_for_host(core: &Core) -> Result<()> {
    fork::check()?;
    let wake_fd = core.reactor_state.wake_fd().ok_or_else(not_pollable)?;
    core.reactor_state.set_host_reactor();
    let ran = run(core, wake_fd, ReaderKind::Host, None);
    core.wake_a_thread(); // as in `read_by`
    match ran {
        Ok(_) if core.state.is_open() => Ok(()),
        Ok(_) => Err(core.state.why_over_now(None)),
        Err(error) => Err(core.fail(error)),
    }
}

/// Takes the next item of a request of a channel that a reactor of the host's reads: what this
/// thread read here, the reactor's descriptor would be readable for.
///
/// # Errors
///
/// Why the channel is over, once nothing more can come.
pub(super) fn take_for_host(core: &Core, request: u64, is_stream: bool) -> Result<Option<Item>> {
    fork::check()?;
    let take = || match is_stream {
        true => core.pending.take(request),
        false => core.pending.take_last(request, &core.buffers),
    };
    let is_over = !core.state.is_open();
    let item = take();
    if item.is_some() || !is_over {
        return Ok(item);
    }
    let over = read_for_host(core);
    match take() {
        Some(item) => Ok(Some(item)),
        None => over.map(|()| None).map_err(|_| core.state.why_over_now(Some(request))),
    }
}

/// Reads for tasks, or for others, and arms the descriptor. Returns whether this thread looked at
/// the ring. If another reader has the turn, that one reads on and arms the descriptor when it
/// leaves.
pub(super) fn read_by(core: &Core, kind: ReaderKind) -> bool {
    read_by_fd(core, kind, None)
}

/// Reads for a task that takes what it wants itself, as long as no other task waits; then for all.
pub(super) fn read_own(core: &Core, own: &mut OwnRead<'_>) -> bool {
    read_by_fd(core, ReaderKind::Task, Some(own))
}

fn read_by_fd(core: &Core, kind: ReaderKind, own: Option<&mut OwnRead<'_>>) -> bool {
    let wake_fd = core.reactor_state.wake_fd().filter(|_| !fork::is_forked_child());
    let ran = wake_fd.map_or(Ok(false), |wake_fd| run(core, wake_fd, kind, own));
    // A thread that parked while this one read would be woken by nothing else.
    core.wake_a_thread();
    ran.unwrap_or_else(|error| {
        core.fail(error);
        true
    })
}

/// Reads for a driver of the library's that found the channel's descriptor readable. Returns
/// whether the channel is still open: if not, the driver forgets it, for its descriptor stays
/// readable.
pub(crate) fn read_readable(core: &Core) -> bool {
    read_by(core, ReaderKind::Driver);
    core.state.is_open()
}

/// Reads for a task, as [`read_by`] does.
pub(crate) fn read_for_task(core: &Core) -> bool {
    read_by(core, ReaderKind::Task)
}

/// Takes turns until no reader was turned away. Returns whether this thread looked at the ring.
fn run(
    core: &Core,
    wake_fd: &WakeFd,
    kind: ReaderKind,
    mut own: Option<&mut OwnRead<'_>>,
) -> Result<bool> {
    for _ in 0..MOST_TURNS {
        let Some(turn) = turn_or_missed(core, wake_fd, kind)? else { return Ok(false) };
        let own = own.as_deref_mut().filter(|own| !own.has_found);
        match task_that_reads(core, kind, &turn) {
            Some(task) => leave_to_task(core, wake_fd, turn, task)?,
            None => take_turn(core, wake_fd, kind, turn, own)?,
        }
        fence(Ordering::SeqCst); // pairs with the fence in `turn_or_missed`
        if !core.receiver.take_missed() {
            return Ok(true);
        }
    }
    wake_fd.wake_self();
    Ok(true)
}

/// The turn to read, or a note for the reader that has it.
fn turn_or_missed<'a>(
    core: &'a Core,
    wake_fd: &WakeFd,
    kind: ReaderKind,
) -> Result<Option<TryGuard<'a, Consumer>>> {
    if let Some(turn) = core.receiver.try_turn() {
        return Ok(Some(turn));
    }
    if kind != ReaderKind::Task {
        let drained = wake_fd.drain();
        if drained == Drained::Broken {
            return Err(shut_down());
        }
        let has_drained = drained == Drained::Something;
        if has_drained {
            core.reactor_state.health_waiters.wake_all();
        }
        core.reactor_state.count_turn(has_drained, false)?;
    }
    core.receiver.set_missed();
    fence(Ordering::SeqCst); // pairs with the fences after the turn is given back
    Ok(core.receiver.try_turn())
}

/// Returns the task to which a driver leaves the frames that are there: the only one that waits, if
/// it reads for itself and was not woken since it looked.
fn task_that_reads(core: &Core, kind: ReaderKind, consumer: &Consumer) -> Option<Waiter> {
    if kind != ReaderKind::Driver || !consumer.has_next() || !core.state.is_open() {
        return None;
    }
    core.pending.take_waiter(core.reactor_state.only_task_that_reads()?)
}

/// Wakes the task instead of reading for it. The frames stay in the ring until it reads them, or
/// until another reader comes: a task that begins to wait reads, and so does a thread.
fn leave_to_task(
    core: &Core,
    wake_fd: &WakeFd,
    mut turn: TryGuard<'_, Consumer>,
    task: Waiter,
) -> Result<()> {
    // The descriptor is not readable for these frames any more.
    turn.forget_descriptor();
    let drained = wake_fd.drain();
    drop(turn);
    task.wake();
    if drained == Drained::Broken {
        return Err(shut_down());
    }
    let has_drained = drained == Drained::Something;
    if has_drained {
        core.reactor_state.health_waiters.wake_all();
    }
    core.reactor_state.count_turn(has_drained, true)
}

fn take_turn(
    core: &Core,
    wake_fd: &WakeFd,
    kind: ReaderKind,
    mut turn: TryGuard<'_, Consumer>,
    mut own: Option<&mut OwnRead<'_>>,
) -> Result<()> {
    // Under the turn, so that nothing is overtaken that another reader has put into the table.
    if own.as_mut().is_some_and(|own| own.take_from_table(core)) {
        return Ok(());
    }
    let own = own.filter(|_| core.reactor_state.has_one_task());
    let bursts_left = 1 + core.config.up.capacity / as_usize(span(0)) / BURST;
    let mut reader =
        DescriptorReader { wake_fd, kind, bursts_left, has_drained: false, has_reason: false, own };
    let found = read(core, &mut turn, &mut reader);
    if let (Ok(Some(Found::Wanted)), Some(own)) = (&found, &mut reader.own) {
        own.has_found = true;
    }
    if let Ok(Some(Found::Over | Found::Stopped)) = found {
        // There is more to read, or to be told of.
        wake_fd.wake_self();
    }
    if kind == ReaderKind::Host {
        core.reactor_state.clear_unreported();
    } else if core.reactor_state.has_unreported() {
        wake_fd.wake_self();
    }
    // Frames were a reason, whichever reader read them.
    let has_moved = core.reactor_state.note_position(turn.position());
    drop(turn);
    core.receiver.wake_list.wake_all();
    found?;
    if reader.has_drained {
        core.reactor_state.health_waiters.wake_all();
        activity::note();
    }
    core.reactor_state.count_turn(reader.has_drained, reader.has_reason || has_moved)
}
