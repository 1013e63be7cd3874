//! A thread's wait for a reply, for a chunk, or for room in the request ring.
//!
//! The thread takes the turn and reads for all; if another reader has the turn it parks, and
//! is woken when its item was read or the turn is free.

use std::time::Duration;

use crate::channel::core::Core;
use crate::channel::explain::ring_full;
use crate::channel::item::Item;
use crate::channel::reader::{Found, RingReader, Want, read, take_frames};
use crate::channel::turn::{end_turn, hand_over};
use crate::channel::waiter::Waiter;
use crate::error::{ErrorKind, Result};
use crate::ring::Consumer;
use crate::sync::{self, BACKSTOP, Ordering, fence};
use crate::sys::clock::{Deadline, now_ns};
use crate::sys::fork;

/// How long a thread waits. An item that is there already takes no look at the clock.
#[derive(Debug, Clone, Copy)]
pub(super) enum WaitLimit {
    For(Duration),
    Until(Deadline),
}

impl WaitLimit {
    /// The end of the wait. The time begins to run when this is called for the first time.
    fn deadline(&mut self) -> Deadline {
        let deadline = match *self {
            Self::For(timeout) => Deadline::after(timeout),
            Self::Until(deadline) => deadline,
        };
        *self = Self::Until(deadline);
        deadline
    }
}

/// Waits for an item. Returns `None` if the deadline passed first, or if chunks were buffered. A
/// last frame of a call that is returned ends its request: there is nothing left to drop.
/// What a stream has consumed is counted before the wait. `has_slept` is set if the thread was
/// about to sleep.
#[inline]
pub(super) fn wait_for_item(
    core: &Core,
    want: Want<'_>,
    limit: WaitLimit,
    has_slept: &mut bool,
) -> Result<Option<Item>> {
    fork::check()?;
    let mut wait = Wait::new(core, want, limit);
    wait.run()?;
    *has_slept |= wait.has_slept;
    Ok(wait.item)
}

/// Blocks until there is room for a payload of `len` bytes, or until the deadline. Reads meanwhile:
/// a worker whose replies are not read never makes room.
#[cold]
pub(super) fn wait_for_room(core: &Core, len: usize, deadline: Deadline) -> Result<()> {
    match Wait::new(core, Want::Room(len), WaitLimit::Until(deadline)).run()? {
        true => Ok(()),
        false => Err(ring_full(core, len)),
    }
}

/// A thread's wait.
#[derive(Debug)]
struct Wait<'a> {
    core: &'a Core,
    want: Want<'a>,
    limit: WaitLimit,
    /// The item that was found.
    item: Option<Item>,
    /// The thread was about to sleep before its deadline.
    has_slept: bool,
    /// The thread has had the time that a wait gets which was held up itself.
    has_had_grace: bool,
    /// When the thread first found the turn taken; zero before that.
    stood_aside_at: u64,
}

/// Where a thread that parks is registered.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// With its request.
    ForItem,
    /// Among the waiters for room, under this key.
    ForRoom(u64),
}

impl RingReader for Wait<'_> {
    #[inline]
    fn want(&mut self) -> Want<'_> {
        self.want.reborrow()
    }

    #[inline]
    fn keep(&mut self, item: Item) {
        self.item = Some(item);
    }

    fn must_stop(&mut self) -> bool {
        self.limit.deadline().has_passed()
    }

    fn announce(&mut self, core: &Core, consumer: &mut Consumer) -> Result<()> {
        self.has_slept = true;
        consumer.publish_released();
        consumer.announce();
        core.sender.announce_room(self.want.room());
        Ok(())
    }

    fn sleeps_until(&mut self) -> Option<Deadline> {
        Some(self.limit.deadline())
    }
}

impl<'a> Wait<'a> {
    #[inline]
    fn new(core: &'a Core, want: Want<'a>, limit: WaitLimit) -> Self {
        let (has_slept, has_had_grace, stood_aside_at) = (false, false, 0);
        Self { core, want, limit, item: None, has_slept, has_had_grace, stood_aside_at }
    }

    /// Waits. Returns false if the deadline passed first.
    fn run(&mut self) -> Result<bool> {
        let core = self.core;
        let mut has_followed = false;
        loop {
            let found = if let Some(mut turn) = core.receiver.try_turn() {
                let found = self.read(&mut turn);
                end_turn(core, turn);
                found
            } else {
                let mut found = self.look();
                if matches!(found, Ok(None)) && self.stand_aside() {
                    continue;
                }
                if matches!(found, Ok(None)) {
                    has_followed = true;
                    self.credit_all_before_wait();
                    let deadline = self.limit.deadline();
                    self.has_slept |= !deadline.has_passed();
                    self.follow(deadline);
                    if !deadline.has_passed() {
                        continue;
                    }
                    found = self.look();
                }
                if has_followed && core.receiver.try_turn().is_some() {
                    // This thread may be the one that was woken to read, and does not: another
                    // must.
                    hand_over(core);
                }
                found
            };
            match found {
                Ok(Some(Found::Wanted)) => return Ok(true),
                // Read on, even if another thread has woken those tasks meanwhile.
                Ok(Some(Found::TasksToWake)) => {}
                Ok(Some(Found::Over)) => {
                    let request = Some(self.want.request()).filter(|request| *request != 0);
                    return Err(core.state.why_over(request, self.limit.deadline()));
                }
                // The deadline has passed. If it did so long ago then this process was stopped,
                // or the whole machine was, and the worker with it: an answer that was as good
                // as there would come just too late. Such a wait gets a moment more, once.
                Ok(Some(Found::Stopped) | None) => match self.limit.deadline().grace() {
                    Some(grace) if self.has_slept && !self.has_had_grace => {
                        self.has_had_grace = true;
                        self.limit = WaitLimit::Until(grace);
                    }
                    _ => return Ok(false),
                },
                // The host's own hook ended the wait. The channel is not hurt by that.
                Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
                // The worker wrote what cannot be, or says that it has no session.
                Err(error) => return Err(core.fail(error)),
            }
        }
    }

    /// Reads the ring until the item is there, the deadline passes or the channel is over.
    fn read(&mut self, consumer: &mut Consumer) -> Result<Option<Found>> {
        let core = self.core;
        // An item may have come between the last look and the turn. A thread that has the
        // channel to itself finds all its items in the ring.
        if core.pending.has_ever_pushed()
            && let found @ Some(_) = self.look()?
        {
            return Ok(found);
        }
        if matches!(self.want, Want::Chunk(..)) {
            consumer.pace(false);
        }
        consumer.spin_briefly();
        // A first look, before anything asks for the time.
        if let found @ Some(_) = take_frames(core, consumer, self)? {
            return Ok(found);
        }
        consumer.restart_run();
        self.credit_all_before_wait();
        consumer.forget_descriptor();
        read(core, consumer, self)
    }

    /// Takes what is wanted if it is there already.
    fn look(&mut self) -> Result<Option<Found>> {
        Ok(self.want.look(self.core, &mut self.item)?.then_some(Found::Wanted))
    }

    /// Lets the reader, and others that are to send, have the processor for a moment: that takes
    /// less than a sleep and a wake-up. Returns false if this thread should rather sleep.
    #[cold]
    fn stand_aside(&mut self) -> bool {
        let deadline = self.limit.deadline();
        if self.stood_aside_at == 0 && !deadline.has_passed() {
            self.stood_aside_at = now_ns();
            self.credit_all_before_wait();
        }
        self.core.sleeper.stand_aside(self.stood_aside_at, deadline)
    }

    /// Parks behind the reader that has the turn, until woken, the deadline or the backstop.
    fn follow(&self, deadline: Deadline) {
        let (core, me) = (self.core, Waiter::Thread(sync::current()));
        core.receiver.add_follower();
        // `None` if the item is there.
        let place = match self.want.room() {
            None => {
                core.pending.requests().register(self.want.request(), me).then_some(Place::ForItem)
            }
            Some(len) => {
                let key = core.sender.register_for_room(len, me);
                // The reader announces the room that is wanted when it sleeps the next time.
                core.state.alarm.raise();
                Some(Place::ForRoom(key))
            }
        };
        if let Some(place) = place {
            fence(Ordering::SeqCst); // pairs with the fence in `hand_over`
            let is_read = core.receiver.try_turn().is_none();
            if is_read && core.state.is_open() {
                sync::park_timeout(deadline.remaining().min(BACKSTOP));
            } else if is_read {
                // The reader knows that the channel is over, and may need this processor to
                // leave.
                sync::yield_now();
            } else {
                // The turn was free and is free again: another reader may have missed it.
                hand_over(core);
            }
            match place {
                Place::ForItem => core.pending.stop_waiting(self.want.request()),
                Place::ForRoom(key) => core.sender.stop_waiting(key),
            }
        }
        core.receiver.remove_follower();
    }

    fn credit_all_before_wait(&mut self) {
        if let Want::Chunk(request, buffer) = &mut self.want {
            self.core.pending.credit_all_before_wait(*request, buffer);
        }
    }
}
