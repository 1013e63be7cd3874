//! How the reply ring is read, by whatever has the turn.
//!
//! A thread that waits, a task that waits and a reactor of the host's all do the same: read
//! the frames that are there, announce what they wait for, look again, and rest. What they do
//! differently is the trait [`Reader`].
//!
//! # Ordering
//!
//! The announcement and the look after it have a full fence between them (A), as have the
//! worker's commit and its look at the announcement (B). So the reader sees the frame or the
//! worker sees the announcement, and rings. Room in the request ring is announced and looked
//! for in the same way. A look can take frames of others, and others can take room: then what
//! was announced has passed already, the worker would not ring for it, and the reader has to
//! announce and look once more.
//!
//! The state of the channel is loaded before the last look at the ring: what was committed
//! before the end is delivered.

use crate::channel::core::Core;
use crate::channel::deliver::Item;
use crate::channel::read_ahead::ReadAhead;
use crate::channel::state::Phase;
use crate::error::Result;
use crate::ring::Consumer;
use crate::ring::doorbell::Step;
use crate::ring::position::span;
use crate::shm::layout::as_usize;
use crate::sync::{Ordering, fence};
use crate::sys::clock::Deadline;

/// Frames between two looks at the clock and at the channel's state: a worker may send without
/// end frames that no reader waits for.
pub(super) const BURST: usize = 1024;

/// Looks in a row that found something, after which a reader is asked whether it must stop.
const MOST_LOOKS: u32 = 8;

/// The position in the reply ring and the room in the request ring that were announced.
pub(super) type Announced = (u64, Option<u64>);

/// How a reader rests once it has announced what it waits for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rest {
    /// It sleeps on the bell with the turn in its hands, until the deadline. `has_rung` says
    /// that the worker slept and has just been woken.
    OnBell { deadline: Deadline, has_rung: bool },
    /// It leaves, and is called again when the descriptor is readable.
    Leave,
}

/// What ends a reader's turn.
#[derive(Debug)]
pub(super) enum Found {
    /// An item of the reader's own request.
    Item(Item),
    /// Chunks of the reader's own request were read ahead.
    ReadAhead,
    /// There is the room that the reader waits for.
    Room,
    /// Tasks must be woken, for which the turn has to be given back.
    TasksToWake,
    /// The reader was asked to stop.
    Stopped,
    /// The channel cannot be used any more.
    Over,
}

/// What different readers do differently.
pub(super) trait Reader {
    /// The request whose items the reader takes itself; zero if there is none.
    fn own_request(&self) -> u64 {
        0
    }

    /// Where chunks of the own request are read ahead to.
    fn read_ahead(&mut self) -> Option<&mut ReadAhead> {
        None
    }

    /// The payload length for which the reader itself waits for room.
    fn wanted_room(&self) -> Option<usize> {
        None
    }

    /// Whether the reader must stop, although there may be more frames. Asked after each burst.
    fn must_stop(&mut self) -> bool;

    /// Notes that other waiters have got room.
    fn room_given(&mut self) {}

    /// Announces to the worker what the reader waits for.
    fn announce(&mut self, core: &Core, consumer: &mut Consumer) -> Result<Announced>;

    /// How the reader rests.
    fn rest(&mut self) -> Rest;
}

/// Reads until the reader has found something, or has left after an announcement with nothing
/// more to read.
pub(super) fn read(
    core: &Core,
    consumer: &mut Consumer,
    reader: &mut impl Reader,
) -> Result<Option<Found>> {
    let rest = reader.rest();
    let is_to_sleep = matches!(rest, Rest::OnBell { .. });
    let (mut announced, mut looks) = (None, 0_u32);
    let mut step = |step| {
        if step == Step::Announce {
            announced = Some(reader.announce(core, consumer)?);
            return Ok(None);
        }
        loop {
            match take_frames(core, consumer, reader)? {
                // A reader that leaves wakes them then.
                Some(Found::TasksToWake) if !is_to_sleep => {}
                Some(found) => return Ok(Some(found)),
                None => {}
            }
            let Some(before) = announced else { return Ok(None) };
            let now = reader.announce(core, consumer)?;
            if now == before {
                return Ok(None);
            }
            announced = Some(now);
            looks += 1;
            if looks.is_multiple_of(MOST_LOOKS) && reader.must_stop() {
                return Ok(Some(Found::Stopped));
            }
            fence(Ordering::SeqCst); // A, as between the two steps of a wait
        }
    };
    match rest {
        Rest::OnBell { deadline, has_rung } => {
            core.sleeper.wait_until(&core.state.alarm, deadline, has_rung, step)
        }
        Rest::Leave => {
            for each in [Step::Look, Step::Announce] {
                if let Some(found) = step(each)? {
                    return Ok(Some(found));
                }
            }
            fence(Ordering::SeqCst); // A, pairs with B in the worker's commit and release
            step(Step::Look)
        }
    }
}

/// Takes all frames that are there, until one is what the reader waits for.
pub(super) fn take_frames(
    core: &Core,
    consumer: &mut Consumer,
    reader: &mut impl Reader,
) -> Result<Option<Found>> {
    let own = reader.own_request();
    // The frames that a ring can hold. More than these come only from a living worker.
    let mut after_death = core.config.up.capacity / as_usize(span(0));
    let phase = loop {
        let phase = core.state.phase();
        if matches!(phase, Phase::Closing | Phase::Closed | Phase::Failed) {
            return Ok(Some(Found::Over));
        }
        let mut left = BURST;
        while left > 0 && consumer.find()? {
            if let Some(ahead) = reader.read_ahead()
                && let Some(end) = core.pending.read_ahead(consumer, own, ahead)?
            {
                match end {
                    Err(error) if ahead.run.is_empty() => return Err(error),
                    // The next wait says so, after the chunks that came before.
                    Err(error) => drop(core.fail(error)),
                    Ok(()) => {}
                }
                return Ok(Some(Found::ReadAhead));
            }
            match core.deliver(consumer.take()?, own) {
                Ok(None) => left -= 1,
                found => return found.map(|item| item.map(Found::Item)),
            }
        }
        if left > 0 {
            break phase;
        }
        if phase == Phase::Dead {
            match after_death.checked_sub(BURST) {
                Some(left) => after_death = left,
                None => return Ok(Some(Found::Over)),
            }
        }
        if reader.must_stop() {
            return Ok(Some(Found::Stopped));
        }
    };
    if let Some(len) = reader.wanted_room()
        && core.sender.has_room_for(len)?
    {
        return Ok(Some(Found::Room));
    }
    if core.sender.is_awaited() && core.wake_those_with_room()? {
        reader.room_given();
    }
    if phase == Phase::Dead {
        return Ok(Some(Found::Over));
    }
    Ok(core.receiver.wake_list.has_tasks().then_some(Found::TasksToWake))
}

/// A reader that takes what is there for others, announces nothing and never rests.
#[derive(Debug)]
pub(super) struct ForOthers;

impl Reader for ForOthers {
    fn must_stop(&mut self) -> bool {
        true
    }

    fn announce(&mut self, _: &Core, consumer: &mut Consumer) -> Result<Announced> {
        Ok((consumer.position(), None))
    }

    fn rest(&mut self) -> Rest {
        Rest::Leave
    }
}
