//! The requests of a channel and what becomes of each.
//!
//! A request lives in the slot `id % slots`, here and in the shared request table,
//! from [`Table::open`] until *both* its owner has let go of it *and* the worker has
//! sent its last frame. Ids are never used twice, so that a frame can only ever
//! reach the request that it was meant for:
//!
//! ```text
//!              open                 last frame                 let go
//!   free  ------------->  open  ---------------->  finished  ---------->  free
//!                           |                                               ^
//!                           | let go (timeout, drop, cancel)                |
//!                           v                         last frame            |
//!                        retired  ------------------------------------------'
//! ```
//!
//! Frames for a retired request are counted as late, frames for an id that is in no
//! slot as unknown; both are dropped.

use std::collections::VecDeque;
use std::task::Waker;

use crate::error::{Error, ErrorKind, Result};
use crate::shm::layout::{as_u64, as_usize, request_slot};
use crate::sync::Thread;
use crate::sync::mutant::{Mutant, chosen};

/// Who is to be told that something happened.
#[derive(Debug)]
pub(crate) enum Waiter {
    Thread(Thread),
    #[allow(dead_code, reason = "the async view registers these")]
    Task(Waker),
}

impl Waiter {
    pub(crate) fn wake(self) {
        match self {
            Self::Thread(thread) => thread.unpark(),
            Self::Task(waker) => waker.wake(),
        }
    }
}

/// The pending table; `T` is what frames become on their way to the owner.
#[derive(Debug)]
pub(crate) struct Table<T> {
    slots: Vec<Slot<T>>,
    next: u64,
    /// Requests whose owner has not let go.
    in_flight: usize,
    /// Requests that a thread waits for, for handing the reader's role on; may hold stale ids.
    parked: VecDeque<u64>,
    window: u64,
}

#[derive(Debug)]
struct Slot<T> {
    /// Zero when the slot is free.
    request: u64,
    is_stream: bool,
    is_owned: bool,
    is_finished: bool,
    is_parked: bool,
    queue: VecDeque<T>,
    /// The message that frames with the MORE flag are adding up to.
    partial: Vec<u8>,
    waiter: Option<Waiter>,
    /// Bytes of slots of chunks that came, that were consumed, and that the worker was
    /// told of as consumed.
    received: u64,
    consumed: u64,
    credited: u64,
    /// Bytes of slots of pieces that came while something was unread: neither consumed yet
    /// nor part of an item.
    withheld: u64,
}

/// Whose frame it is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A request that somebody waits for; whether it asked for a stream.
    Open { is_stream: bool },
    /// One that nobody waits for any more.
    Retired,
    /// None that is known.
    Unknown,
}

impl<T> Table<T> {
    pub(crate) fn new(slots: usize, window: usize) -> Self {
        let slot = || Slot {
            request: 0,
            is_stream: false,
            is_owned: false,
            is_finished: false,
            is_parked: false,
            queue: VecDeque::new(),
            partial: Vec::new(),
            waiter: None,
            received: 0,
            consumed: 0,
            credited: 0,
            withheld: 0,
        };
        Self {
            slots: (0..slots).map(|_| slot()).collect(),
            next: 1,
            in_flight: 0,
            parked: VecDeque::new(),
            window: as_u64(window),
        }
    }

    /// A new request.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TooManyInFlight`] if no slot is free.
    pub(crate) fn open(&mut self, is_stream: bool) -> Result<u64> {
        for _ in 0..self.slots.len() {
            let request = self.next;
            self.next = self.next.wrapping_add(1).max(1);
            let index = self.slot_of(request);
            if let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.request == 0) {
                slot.request = request;
                slot.is_stream = is_stream;
                slot.is_owned = true;
                slot.is_finished = false;
                slot.is_parked = false;
                slot.received = 0;
                slot.consumed = 0;
                slot.credited = 0;
                slot.withheld = 0;
                self.in_flight += 1;
                return Ok(request);
            }
        }
        Err(self.full())
    }

    #[cold]
    fn full(&self) -> Error {
        let (slots, mine) = (self.slots.len(), self.in_flight);
        let message = format!(
            "{slots} requests in flight, {mine} of them awaited and the others not yet given up \
             by the worker; raise max_in_flight"
        );
        Error::new(ErrorKind::TooManyInFlight, message).with_begun(false)
    }

    /// Where the request lies, here and in the shared request table.
    pub(crate) fn slot_of(&self, request: u64) -> usize {
        request_slot(request, as_u64(self.slots.len()))
    }

    #[inline]
    fn slot(&mut self, request: u64) -> Option<&mut Slot<T>> {
        let index = self.slot_of(request);
        self.slots.get_mut(index).filter(|slot| request != 0 && slot.request == request)
    }

    /// Whose frame this is.
    pub(crate) fn owner(&mut self, request: u64) -> Owner {
        match self.slot(request) {
            Some(slot) if slot.is_open() => Owner::Open { is_stream: slot.is_stream },
            Some(slot) if !slot.is_finished => Owner::Retired,
            _ => Owner::Unknown,
        }
    }

    /// The request's last frame has come.
    pub(crate) fn finish(&mut self, request: u64) {
        let Some(slot) = self.slot(request) else { return };
        slot.is_finished = true;
        if !slot.is_owned {
            slot.free();
        }
    }

    /// Ends a call whose result its owner has got: all that happens to most requests, in one
    /// look. False, and nothing is done, if anything else is there or was meant to be.
    #[inline]
    pub(crate) fn complete(&mut self, request: u64) -> bool {
        let Some(slot) = self.slot(request).filter(|slot| slot.is_open() && !slot.is_stream) else {
            return false;
        };
        let is_bare = slot.queue.is_empty() && slot.partial.is_empty() && slot.waiter.is_none();
        if is_bare {
            slot.request = 0;
            self.in_flight -= 1;
        }
        is_bare
    }

    /// Puts an item where its owner finds it, and returns who waits for it.
    pub(crate) fn push(&mut self, request: u64, item: T) -> Option<Waiter> {
        let slot = self.slot(request)?;
        slot.queue.push_back(item);
        slot.waiter.take()
    }

    /// What has come for this request.
    pub(crate) fn take(&mut self, request: u64) -> Option<T> {
        self.slot(request)?.queue.pop_front()
    }

    /// Moves all that has come for this request to `items`, which is empty.
    pub(crate) fn take_all(&mut self, request: u64, items: &mut VecDeque<T>) {
        if let Some(slot) = self.slot(request) {
            std::mem::swap(&mut slot.queue, items);
        }
    }

    #[cfg(feature = "async")]
    pub(crate) fn has_item(&mut self, request: u64) -> bool {
        self.slot(request).is_none_or(|slot| !slot.queue.is_empty())
    }

    /// Keeps what has come of a message in pieces until there is more. False if nobody waits
    /// for it any more.
    pub(crate) fn put_pieces(&mut self, request: u64, message: Vec<u8>) -> bool {
        let slot = self.slot(request).filter(|slot| slot.is_owned);
        slot.map(|slot| slot.partial = message).is_some()
    }

    /// Length of the message that is coming in pieces; zero if there is none.
    pub(crate) fn pieces_len(&mut self, request: u64) -> usize {
        self.slot(request).map_or(0, |slot| slot.partial.len())
    }

    /// The message that came in pieces.
    pub(crate) fn take_pieces(&mut self, request: u64) -> Vec<u8> {
        self.slot(request).map(|slot| std::mem::take(&mut slot.partial)).unwrap_or_default()
    }

    /// Registers who waits, unless something is there already.
    pub(crate) fn wait(&mut self, request: u64, waiter: Waiter) -> bool {
        let Some(slot) = self.slot(request) else { return false };
        if !slot.queue.is_empty() && !chosen(Mutant::ParksOverItem) {
            return false;
        }
        let could_read = matches!(waiter, Waiter::Thread(_));
        slot.waiter = Some(waiter);
        if could_read && !slot.is_parked {
            slot.is_parked = true;
            if self.parked.len() >= 2 * self.slots.len() {
                self.forget_stale();
            }
            self.parked.push_back(request);
        }
        true
    }

    /// Whoever left without being picked is still in the list.
    #[cold]
    fn forget_stale(&mut self) {
        let Self { slots, parked, .. } = self;
        let count = as_u64(slots.len());
        parked.retain(|request| {
            let slot = slots.get(request_slot(*request, count));
            slot.is_some_and(|slot| slot.request == *request && slot.is_parked)
        });
    }

    pub(crate) fn stop_waiting(&mut self, request: u64) {
        if let Some(slot) = self.slot(request) {
            slot.waiter = None;
        }
    }

    /// Who was registered, for who drops wakers outside of locks.
    #[cfg(feature = "async")]
    pub(crate) fn take_waiter(&mut self, request: u64) -> Option<Waiter> {
        self.slot(request)?.waiter.take()
    }

    /// A thread that waits and could read the ring instead.
    pub(crate) fn pick_thread(&mut self) -> Option<Waiter> {
        while let Some(request) = self.parked.pop_front() {
            if let Some(slot) = self.slot(request) {
                slot.is_parked = false;
                if let Some(Waiter::Thread(_)) = slot.waiter {
                    return slot.waiter.take();
                }
            }
        }
        None
    }

    /// Everybody who waits.
    pub(crate) fn take_waiters(&mut self) -> Vec<Waiter> {
        self.parked.clear();
        let waiting = self.slots.iter_mut().filter_map(|slot| {
            slot.is_parked = false;
            slot.waiter.take()
        });
        waiting.collect()
    }

    /// The owner is done with the request. Returns whether the worker is not, and
    /// should be told.
    pub(crate) fn let_go(&mut self, request: u64) -> bool {
        let Some(slot) = self.slot(request).filter(|slot| slot.is_owned) else { return false };
        slot.is_owned = false;
        slot.waiter = None;
        if !chosen(Mutant::LeftoversKept) {
            slot.queue.clear();
        }
        slot.partial = Vec::new();
        let is_finished = slot.is_finished;
        if is_finished || chosen(Mutant::SlotFreedEarly) {
            slot.free();
        }
        self.in_flight -= 1;
        !is_finished
    }

    /// The request never reached the ring.
    pub(crate) fn unsent(&mut self, request: u64) {
        self.finish(request);
        self.let_go(request);
    }

    /// Counts bytes of a stream as consumed; returns the sum when the worker should be
    /// told: at every quarter of the window, and before the reader waits for more.
    pub(crate) fn consume(
        &mut self,
        request: u64,
        bytes: usize,
        is_about_to_wait: bool,
    ) -> Option<u64> {
        let quarter = (self.window / 4).max(1);
        let slot = self.slot(request)?;
        if is_about_to_wait {
            // All before it was taken: without its next piece a message never ends.
            slot.consumed = slot.consumed.wrapping_add(std::mem::take(&mut slot.withheld));
        }
        slot.consumed = slot.consumed.wrapping_add(as_u64(bytes));
        let untold = slot.consumed.wrapping_sub(slot.credited);
        if untold < if is_about_to_wait { 1 } else { quarter } {
            return None;
        }
        slot.credited = slot.consumed;
        Some(slot.consumed)
    }

    /// Counts a chunk's slot as received. False if the worker had no credit for it: it
    /// waits until `received + bytes - window` is credited, or for a chunk that is longer
    /// than the window until all before it is.
    pub(crate) fn spend_credit(&mut self, request: u64, bytes: usize) -> bool {
        let window = self.window;
        let Some(slot) = self.slot(request) else { return false };
        let (before, bytes) = (slot.received, as_u64(bytes));
        slot.received = before.wrapping_add(bytes);
        let needed = if bytes > window { before } else { slot.received.saturating_sub(window) };
        slot.credited >= needed
    }

    /// Whether a piece of a chunk must not be credited yet. It has left the ring, but while
    /// its stream has something unread, whole messages would pile up behind that. It is
    /// credited with its message, or when the reader waits for more.
    pub(crate) fn withhold(&mut self, request: u64, bytes: usize) -> bool {
        let Some(slot) = self.slot(request).filter(|slot| !slot.queue.is_empty()) else {
            return false;
        };
        slot.withheld = slot.withheld.wrapping_add(as_u64(bytes));
        true
    }

    /// What the pieces of a message that is whole add to its cost.
    pub(crate) fn take_withheld(&mut self, request: u64) -> usize {
        self.slot(request).map_or(0, |slot| as_usize(std::mem::take(&mut slot.withheld)))
    }

    /// Whether the request's last frame has not come yet.
    pub(crate) fn is_running(&mut self, request: u64) -> bool {
        self.slot(request).is_some_and(|slot| !slot.is_finished)
    }

    /// Requests whose owner has not let go of them.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Streams with unread chunks, for saying what holds others up.
    pub(crate) fn unread_stream(&self, request: u64) -> bool {
        let slot = self.slots.get(self.slot_of(request));
        slot.is_some_and(|slot| slot.request == request && slot.is_stream && slot.is_owned)
    }
}

impl<T> Slot<T> {
    /// Whether its owner waits for more.
    fn is_open(&self) -> bool {
        (self.is_owned || chosen(Mutant::RetiredStillOpen)) && !self.is_finished
    }

    fn free(&mut self) {
        self.request = 0;
        if !chosen(Mutant::LeftoversKept) {
            self.queue.clear();
        }
        self.partial = Vec::new();
        self.waiter = None;
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
