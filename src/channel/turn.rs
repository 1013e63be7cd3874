//! A thread's turn to read the reply ring: how it ends, and what is read for others in one.

use crate::channel::core::Core;
use crate::channel::reactor_turn::{ReaderKind, read_by};
use crate::channel::reader::{ForOthers, take_frames};
use crate::error::{Error, Result};
use crate::id::RequestId;
use crate::ring::Consumer;
use crate::sync::{Ordering, TryGuard, fence};
use crate::sys::fork;

/// Gives a thread's turn back, and wakes the tasks that there is news for.
#[inline(always)]
pub(super) fn end_turn(core: &Core, turn: TryGuard<'_, Consumer>) {
    drop(turn);
    hand_over(core);
    core.receiver.wake_list.wake_all();
}

/// Must follow when a thread has given the turn back: other readers may have found it taken.
#[inline]
pub(super) fn hand_over(core: &Core) {
    // Pairs with the fences in `Wait::follow` and `reactor_turn::turn_or_missed`.
    fence(Ordering::SeqCst);
    let has_missed = core.receiver.take_missed();
    // Their descriptor must be armed again, and frames that came meanwhile be read.
    if core.reactor_state.has_host_reactor() {
        read_by(core, ReaderKind::ThreadForHost);
    } else if has_missed || core.reactor_state.tasks() != 0 {
        read_by(core, ReaderKind::Task);
    } else {
        core.wake_a_thread();
    }
}

/// Reads what is there into the requests of others, unless another reader has the turn.
#[cold]
pub(super) fn read_for_others(core: &Core) -> Result<()> {
    let Some(mut turn) = core.receiver.try_turn() else { return Ok(()) };
    let read = take_frames(core, &mut turn, &mut ForOthers);
    end_turn(core, turn);
    read.map(drop).map_err(|error| core.fail(error))
}

/// Whether the worker's last frame of a request has come, also if its owner has dropped it. Reads what
/// has come, unless another reader does. Never blocks.
#[cold]
pub(crate) fn has_ended(core: &Core, request: RequestId) -> bool {
    if fork::is_forked_child() {
        return false;
    }
    // An error of it is the channel's end, which is told elsewhere.
    let _ = read_for_others(core);
    !core.pending.requests().is_running(request.get())
}

/// Returns an error unless requests can be sent. A worker that has just died may have left a
/// frame that says why.
#[inline]
pub(crate) fn check_open(core: &Core) -> Result<()> {
    core.state.check_open().map_err(|error| reason_of_death(core, error))
}

#[cold]
fn reason_of_death(core: &Core, error: Error) -> Error {
    if error.is_peer_dead()
        && let Err(reason) = read_for_others(core)
    {
        return reason;
    }
    error
}

/// Enters the rings' pages in the page table, once, while there is nothing better to do.
pub(crate) fn prefault(core: &Core) {
    if core.is_prefaulted.swap(1, Ordering::Relaxed) != 0 {
        return;
    }
    // The worker begins with the request ring: two processes that make the pages of one ring at the
    // same time wait for each other.
    if let Some(turn) = core.receiver.try_turn() {
        turn.prefault();
        end_turn(core, turn);
    }
    core.sender.prefault();
}
