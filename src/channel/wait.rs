//! A thread's wait for a reply, for a chunk, or for room in the request ring.
//!
//! The thread takes the turn and reads for all; if another reader has the turn it parks, and
//! is woken when its item was read or the turn is free.

use std::time::Duration;

use crate::channel::core::Core;
use crate::channel::deliver::Item;
use crate::channel::read_ahead::ReadAhead;
use crate::channel::reader::{Announced, Found, Reader, Rest, read, take_frames};
use crate::channel::turn::{end_turn, hand_over};
use crate::channel::waiter::Waiter;
use crate::error::{Error, ErrorKind, Result};
use crate::ring::Consumer;
use crate::sync::{self, BACKSTOP, Ordering, fence};
use crate::sys::clock::Deadline;
use crate::sys::fork;

/// What a thread waits for.
#[derive(Debug, Clone, Copy)]
enum Want {
    /// The reply of a request.
    Reply(u64),
    /// The next chunk of a request.
    Chunk(u64),
    /// Room for a payload of so many bytes.
    Room(usize),
}

/// How long a thread waits. An item that is there already takes no look at the clock.
#[derive(Debug, Clone, Copy)]
enum Patience {
    For(Duration),
    Until(Deadline),
}

impl Patience {
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

/// Waits for the reply of a call. Returns `None` if the deadline passed first. A last frame
/// that is returned ends the request: there is nothing left to let go of. `has_slept` is set if the
/// thread went to sleep.
#[inline]
pub(super) fn await_reply(
    core: &Core,
    request: u64,
    deadline: Deadline,
    has_rung: bool,
    has_slept: &mut bool,
) -> Result<Option<Item>> {
    fork::check()?;
    let mut wait = Wait::new(core, Want::Reply(request), Patience::Until(deadline), has_rung);
    let found = wait.run().map(item);
    *has_slept = wait.has_slept;
    found
}

/// Waits for the next item of a stream that has nothing read ahead. Returns `None` if the
/// timeout passed first, or if chunks were read ahead. Before it waits it counts what was
/// consumed.
pub(super) fn await_chunk(
    core: &Core,
    request: u64,
    timeout: Duration,
    ahead: &mut ReadAhead,
) -> Result<Option<Item>> {
    fork::check()?;
    let mut wait = Wait::new(core, Want::Chunk(request), Patience::For(timeout), false);
    wait.ahead = Some(ahead);
    wait.run().map(item)
}

/// Waits until there is room for a payload of `len` bytes, and reads meanwhile: a worker whose
/// replies are not read never makes room. Returns false if the deadline passed.
pub(super) fn await_room(core: &Core, len: usize, deadline: Deadline) -> Result<bool> {
    let mut wait = Wait::new(core, Want::Room(len), Patience::Until(deadline), true);
    Ok(wait.run()?.is_some())
}

fn item(found: Option<Found>) -> Option<Item> {
    match found {
        Some(Found::Item(item)) => Some(item),
        _ => None,
    }
}

/// A thread's wait.
#[derive(Debug)]
struct Wait<'a> {
    core: &'a Core,
    want: Want,
    patience: Patience,
    /// The worker was asleep and has just been woken.
    has_rung: bool,
    /// Of the stream whose chunk is wanted.
    ahead: Option<&'a mut ReadAhead>,
    /// The thread was about to sleep before its deadline.
    has_slept: bool,
    /// The thread has had the time that a wait gets which was held up itself.
    has_had_grace: bool,
}

impl Reader for Wait<'_> {
    fn own_request(&self) -> u64 {
        match self.want {
            Want::Reply(request) | Want::Chunk(request) => request,
            Want::Room(_) => 0,
        }
    }

    fn read_ahead(&mut self) -> Option<&mut ReadAhead> {
        self.ahead.as_deref_mut()
    }

    fn wanted_room(&self) -> Option<usize> {
        match self.want {
            Want::Room(len) => Some(len),
            Want::Reply(_) | Want::Chunk(_) => None,
        }
    }

    fn must_stop(&mut self) -> bool {
        self.patience.deadline().has_passed()
    }

    fn announce(&mut self, core: &Core, consumer: &mut Consumer) -> Result<Announced> {
        self.has_slept = true;
        consumer.publish();
        let position = consumer.announce();
        Ok((position, core.sender.announce_room(self.wanted_room())))
    }

    fn rest(&mut self) -> Rest {
        Rest::OnBell { deadline: self.patience.deadline(), has_rung: self.has_rung }
    }
}

impl<'a> Wait<'a> {
    fn new(core: &'a Core, want: Want, patience: Patience, has_rung: bool) -> Self {
        let (has_slept, has_had_grace) = (false, false);
        Self { core, want, patience, has_rung, ahead: None, has_slept, has_had_grace }
    }

    /// Waits. Returns `None` if the deadline passed first.
    fn run(&mut self) -> Result<Option<Found>> {
        loop {
            let found = self.read_or_follow();
            match &found {
                Ok(Some(Found::Over)) => return Err(self.why_over()),
                Ok(Some(Found::Stopped) | None) => match self.grace() {
                    Some(grace) => self.patience = Patience::Until(grace),
                    None => return Ok(None),
                },
                Ok(_) => return found,
                // The host's own hook ended the wait. The channel is not hurt by that.
                Err(error) if error.kind() == ErrorKind::Interrupted => return found,
                // The worker wrote what cannot be, or says that it has no session.
                Err(error) => return Err(self.core.fail(error.clone())),
            }
        }
    }

    #[inline]
    fn read_or_follow(&mut self) -> Result<Option<Found>> {
        let core = self.core;
        let mut has_followed = false;
        let found = loop {
            if let Some(mut turn) = core.receiver.try_turn() {
                let found = self.read(&mut turn);
                end_turn(core, turn);
                // Read on, even if another thread has woken those tasks meanwhile.
                if let Ok(Some(Found::TasksToWake)) = found {
                    continue;
                }
                break found;
            }
            match self.look() {
                Ok(None) => {}
                found => break found,
            }
            has_followed = true;
            self.count_consumed();
            let deadline = self.patience.deadline();
            self.has_slept |= !deadline.has_passed();
            self.follow(deadline);
            if deadline.has_passed() {
                break self.look();
            }
        };
        if has_followed && core.receiver.try_turn().is_some() {
            // This thread may be the one that was woken to read, and does not: another must.
            hand_over(core);
        }
        found
    }

    /// Reads the ring until the item is there, the deadline passes or the channel is over.
    fn read(&mut self, consumer: &mut Consumer) -> Result<Option<Found>> {
        // An item may have come between the last look and the turn. A thread that has the
        // channel to itself finds all its items in the ring.
        if self.core.pending.has_pushed()
            && let Some(found) = self.look()?
        {
            return Ok(Some(found));
        }
        if matches!(self.want, Want::Chunk(_)) {
            consumer.fall_behind(false, self.has_rung);
        }
        consumer.glance(self.has_rung);
        let core = self.core;
        // A first look, before anything asks for the time.
        match take_frames(core, consumer, self) {
            Ok(None) => {}
            found => return found,
        }
        consumer.end_run();
        self.count_consumed();
        consumer.forget_descriptor();
        read(core, consumer, self)
    }

    /// Takes the item if it is there already.
    fn look(&mut self) -> Result<Option<Found>> {
        let pending = &self.core.pending;
        match self.want {
            Want::Reply(request) => Ok(pending.take_last(request).map(Found::Item)),
            Want::Chunk(request) => {
                let Some(ahead) = self.ahead.as_deref_mut() else { return Ok(None) };
                Ok(pending.take_all(request, ahead).then_some(Found::ReadAhead))
            }
            Want::Room(len) => Ok(self.core.sender.has_room_for(len)?.then_some(Found::Room)),
        }
    }

    /// Parks behind the reader that has the turn, until woken, the deadline or the backstop.
    fn follow(&self, deadline: Deadline) {
        let core = self.core;
        core.receiver.add_follower();
        if let Some(key) = self.register() {
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
            self.unregister(key);
        }
        core.receiver.remove_follower();
    }

    /// Registers the thread as a waiter, unless its item is there. Returns its key among the
    /// waiters for room.
    fn register(&self) -> Option<u64> {
        let me = Waiter::Thread(sync::current());
        match self.want {
            Want::Reply(request) | Want::Chunk(request) => {
                self.core.pending.register(request, me).then_some(0)
            }
            Want::Room(len) => {
                let key = self.core.sender.register_for_room(len, me);
                // The reader announces the room that is wanted when it sleeps the next time.
                self.core.state.alarm.raise();
                Some(key)
            }
        }
    }

    fn unregister(&self, key: u64) {
        match self.want {
            Want::Reply(request) | Want::Chunk(request) => self.core.pending.stop_waiting(request),
            Want::Room(_) => self.core.sender.stop_waiting(key),
        }
    }

    /// Before a stream waits for more, the worker must know all that was consumed.
    fn count_consumed(&mut self) {
        let request = self.own_request();
        if let Some(ahead) = &mut self.ahead {
            self.core.pending.consumed(request, std::mem::take(&mut ahead.uncounted), true);
        }
    }

    /// The deadline has passed. If it did so long ago then this process was stopped, or the
    /// whole machine was, and the worker with it: an answer that was as good as there would
    /// come just too late. Such a wait gets a moment more, once.
    #[cold]
    fn grace(&mut self) -> Option<Deadline> {
        let had = std::mem::replace(&mut self.has_had_grace, true);
        let grace = self.patience.deadline().grace();
        grace.filter(|_| self.has_slept && !had)
    }

    #[cold]
    fn why_over(&mut self) -> Error {
        let request = Some(self.own_request()).filter(|request| *request != 0);
        self.core.state.why_over(request, self.patience.deadline())
    }
}
