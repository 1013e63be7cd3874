//! How the reply ring is read, by whatever has the turn.
//!
//! A thread that waits, a task that waits and a reactor of the host's all do the same: read
//! the frames that are there, announce what they wait for, look again, and rest. What they do
//! differently is the trait [`RingReader`].
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
use crate::channel::item::Item;
use crate::channel::state::Phase;
use crate::channel::stream_buffer::{StreamBuffer, Taken};
use crate::error::Result;
use crate::protocol::Kind;
use crate::ring::doorbell::Step;
use crate::ring::position::span;
use crate::ring::{Consumer, Frame, Header};
use crate::shm::layout::as_usize;
use crate::sync::{Ordering, fence};
use crate::sys::clock::Deadline;

/// Frames between two looks at the clock and at the channel's state: a worker may send without
/// end frames that no reader waits for.
pub(super) const BURST: usize = 1024;

/// Looks in a row that found something, after which a reader is asked whether it must stop.
const MOST_LOOKS: u32 = 8;

/// What a reader waits for itself.
#[derive(Debug)]
pub(super) enum Want<'a> {
    /// The reply of a request.
    Reply(u64),
    /// The next chunks of a request, and where they are put.
    Chunk(u64, &'a mut StreamBuffer),
    /// Room for a payload of so many bytes.
    Room(usize),
    /// Nothing: it reads for others.
    Nothing,
}

impl Want<'_> {
    /// The request whose items the reader takes itself; zero if there is none.
    #[inline]
    pub(super) fn request(&self) -> u64 {
        match *self {
            Self::Reply(request) | Self::Chunk(request, _) => request,
            Self::Room(_) | Self::Nothing => 0,
        }
    }

    #[inline(always)]
    pub(super) fn reborrow(&mut self) -> Want<'_> {
        match self {
            Self::Reply(request) => Want::Reply(*request),
            Self::Chunk(request, buffer) => Want::Chunk(*request, buffer),
            Self::Room(len) => Want::Room(*len),
            Self::Nothing => Want::Nothing,
        }
    }

    /// Takes what is wanted if it is there already: what other readers have put into the pending
    /// table, an item, or chunks into the buffer; or room. Returns whether there was anything.
    #[inline(always)]
    pub(super) fn look(&mut self, core: &Core, item: &mut Option<Item>) -> Result<bool> {
        Ok(match self {
            Self::Reply(request) => {
                *item = core.pending.take_last(*request, &core.buffers);
                item.is_some()
            }
            Self::Chunk(request, buffer) => core.pending.take_all(*request, buffer, &core.buffers),
            Self::Room(len) => core.sender.has_room_for(*len)?,
            Self::Nothing => false,
        })
    }

    pub(super) fn room(&self) -> Option<usize> {
        if let Self::Room(len) = *self { Some(len) } else { None }
    }
}

/// What ends a reader's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// What the reader wants: an item of its request, or room, or chunks that were buffered.
    Wanted,
    /// Tasks must be woken, for which the turn has to be given back.
    TasksToWake,
    /// The reader was asked to stop.
    Stopped,
    /// The channel cannot be used any more.
    Over,
}

/// What different readers do differently.
pub(super) trait RingReader {
    fn want(&mut self) -> Want<'_> {
        Want::Nothing
    }

    /// Keeps an item of the reader's own request.
    fn keep(&mut self, _: Item) {}

    /// Whether the reader must stop, although there may be more frames. Asked after each burst, and
    /// after every few looks that found something.
    fn must_stop(&mut self) -> bool {
        true
    }

    /// Notes that other waiters have got room.
    fn room_given(&mut self) {}

    /// Announces to the worker what the reader waits for.
    fn announce(&mut self, _: &Core, _: &mut Consumer) -> Result<()> {
        Ok(())
    }

    /// Until when the reader may sleep on the bell with the turn in its hands. A reader that leaves
    /// instead returns `None`, and is called again when the descriptor is readable.
    fn sleeps_until(&mut self) -> Option<Deadline> {
        None
    }
}

/// A reader that takes frames for others, one burst at most. It announces nothing and never rests.
#[derive(Debug)]
pub(super) struct ForOthers;

impl RingReader for ForOthers {}

/// Reads until the reader has found something, or has left after an announcement with nothing
/// more to read.
pub(super) fn read(
    core: &Core,
    consumer: &mut Consumer,
    reader: &mut impl RingReader,
) -> Result<Option<Found>> {
    let sleeps_until = reader.sleeps_until();
    let (mut announced, mut looks) = (None, 0_u32);
    let mut step = |asked: Step| {
        if asked == Step::Announce {
            announced = Some(awaited(core, consumer, reader));
            reader.announce(core, consumer)?;
            return Ok(None);
        }
        loop {
            match take_frames(core, consumer, reader)? {
                // A reader that leaves wakes them then.
                Some(Found::TasksToWake) if sleeps_until.is_none() => {}
                Some(found) => return Ok(Some(found)),
                None => {}
            }
            let Some(before) = announced else { return Ok(None) };
            let now = awaited(core, consumer, reader);
            if now == before {
                return Ok(None);
            }
            // Only then: an announcement clears the descriptor, so that a look must follow.
            announced = Some(now);
            reader.announce(core, consumer)?;
            looks += 1;
            if looks.is_multiple_of(MOST_LOOKS) && reader.must_stop() {
                return Ok(Some(Found::Stopped));
            }
            fence(Ordering::SeqCst); // A, as between the two steps of a wait
        }
    };
    if let Some(deadline) = sleeps_until {
        return core.sleeper.wait_until(&core.state.alarm, deadline, step);
    }
    for each in [Step::Look, Step::Announce] {
        if let Some(found) = step(each)? {
            return Ok(Some(found));
        }
    }
    fence(Ordering::SeqCst); // A, pairs with B in the worker's commit and release
    step(Step::Look)
}

/// What an announcement would be for: the position in the reply ring, and the head of the request
/// ring at which there is the room that is waited for.
fn awaited(core: &Core, consumer: &Consumer, reader: &mut impl RingReader) -> (u64, Option<u64>) {
    (consumer.position(), core.sender.awaited_head(reader.want().room()))
}

/// Takes all frames that are there, until one is what the reader waits for.
pub(super) fn take_frames(
    core: &Core,
    consumer: &mut Consumer,
    reader: &mut impl RingReader,
) -> Result<Option<Found>> {
    take::<false>(core, consumer, reader)
}

/// As [`take_frames`], for a channel that is over, or whose frames a tap sees.
#[cold]
fn take_specially(
    core: &Core,
    consumer: &mut Consumer,
    reader: &mut impl RingReader,
) -> Result<Option<Found>> {
    match core.state.phase_if_tapped() {
        Some(_) => take::<true>(core, consumer, reader),
        None => Ok(Some(Found::Over)),
    }
}

#[inline(always)]
fn take<const IS_TAPPED: bool>(
    core: &Core,
    consumer: &mut Consumer,
    reader: &mut impl RingReader,
) -> Result<Option<Found>> {
    let own = reader.want().request();
    let mut after_death = 0;
    let phase = loop {
        let phase = match IS_TAPPED {
            true => Some(core.state.phase()).filter(|p| matches!(p, Phase::Open | Phase::Dead)),
            false => core.state.phase_of_reader(),
        };
        let Some(phase) = phase else {
            let is_over = IS_TAPPED;
            return if is_over {
                Ok(Some(Found::Over))
            } else {
                take_specially(core, consumer, reader)
            };
        };
        let mut left = BURST;
        while left > 0 && consumer.find()? {
            if let Want::Chunk(_, buffer) = reader.want() {
                let taken = core.pending.take_chunks(consumer, own, buffer)?;
                if IS_TAPPED && !matches!(taken, Taken::NoChunk) {
                    show_chunks(core, own, buffer);
                }
                match taken {
                    Taken::NoChunk => {}
                    Taken::Chunks => return Ok(Some(Found::Wanted)),
                    // None of them had credit.
                    Taken::ChunksThen(error) if buffer.chunks() == 0 => return Err(error),
                    Taken::ChunksThen(error) => {
                        // The next wait says so, after the chunks that came before.
                        core.fail(error);
                        return Ok(Some(Found::Wanted));
                    }
                }
            }
            let frame = consumer.take()?;
            if IS_TAPPED {
                show(core, &frame);
            }
            if core.deliver(frame, own, |item| reader.keep(item))? {
                return Ok(Some(Found::Wanted));
            }
            left -= 1;
        }
        if left > 0 {
            break phase;
        }
        if phase == Phase::Dead {
            after_death += BURST;
            // More frames than a ring can hold come only from a living worker.
            if after_death > core.config.up.capacity / as_usize(span(0)) {
                return Ok(Some(Found::Over));
            }
        }
        if reader.must_stop() {
            return Ok(Some(Found::Stopped));
        }
    };
    if let Want::Room(len) = reader.want()
        && core.sender.has_room_for(len)?
    {
        return Ok(Some(Found::Wanted));
    }
    if core.sender.is_awaited() && core.wake_waiters_with_room()? {
        reader.room_given();
    }
    if phase == Phase::Dead {
        return Ok(Some(Found::Over));
    }
    Ok(core.receiver.wake_list.has_tasks().then_some(Found::TasksToWake))
}

/// Shows a frame to the tap.
fn show(core: &Core, frame: &Frame<'_>) {
    if let Some(tap) = &core.tap {
        tap.received(frame.header(), frame.payload());
    }
}

/// Shows the chunks to the tap that a stream has taken together.
fn show_chunks(core: &Core, request: u64, buffer: &StreamBuffer) {
    let Some(tap) = &core.tap else { return };
    buffer.for_each_chunk(|payload| {
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let kind = Kind::CHUNK.code();
        tap.received(Header { kind, request, len, ..Header::default() }, payload);
    });
}
