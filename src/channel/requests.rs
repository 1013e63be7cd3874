//! What becomes of each request of a channel.
//!
//! A request lives in slot `id % slots`, here and in the shared request table, from
//! [`Requests::open`] until its owner has let go of it *and* the worker has sent its last
//! frame. Ids are never used twice, so that a frame can only reach the request that it was
//! sent for:
//!
//! ```text
//!              open                 last frame                release
//!   free  ------------->  open  ---------------->  finished  ---------->  free
//!                           |                                               ^
//!                           | release (timeout, drop, cancel)               |
//!                           v                         last frame            |
//!                        retired  ------------------------------------------'
//! ```
//!
//! A frame for a retired request is late, a frame for an id that is in no slot is unknown. Both
//! are counted and dropped.

use std::collections::VecDeque;

use crate::channel::counters::Tally;
use crate::channel::stats::Stats;
use crate::channel::waiter::Waiter;
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::assembler::Assembler;
use crate::shm::layout::{as_u64, as_usize, request_slot};

/// The requests; `T` is what frames become on their way to the owner.
#[derive(Debug)]
pub(crate) struct Requests<T> {
    slots: Vec<Slot<T>>,
    next: u64,
    pub(super) tally: Tally,
    /// Requests that threads wait for, in the order in which they can be asked to read; may
    /// hold ids whose thread has left.
    parked: VecDeque<u64>,
    /// Requests that have got an item and no waiter, for a reactor; may hold ids of requests
    /// that are over. `None` while no reactor asks for them.
    ready: Option<Vec<u64>>,
    /// The longest stretch of slots that a stream may have sent and its reader not consumed.
    window: u64,
}

#[derive(Debug)]
struct Slot<T> {
    /// Zero when the slot is free.
    request: u64,
    is_stream: bool,
    is_owned: bool,
    is_finished: bool,
    /// The last frame was a result or the end of a stream.
    is_answered: bool,
    is_parked: bool,
    /// It is in the list of those that are ready.
    is_ready: bool,
    queue: VecDeque<T>,
    assembler: Assembler,
    waiter: Option<Waiter>,
    /// Bytes of slots of a stream's chunks: that came, that were consumed, and that the worker
    /// was told of as consumed.
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
    /// A request whose owner waits for more; whether it asked for a stream.
    Open { is_stream: bool },
    /// A request whose owner has let go of it.
    Retired,
    /// None that is known.
    Unknown,
}

impl<T> Requests<T> {
    pub(crate) fn new(slots: usize, window: usize) -> Self {
        let slot = || Slot {
            request: 0,
            is_stream: false,
            is_owned: false,
            is_finished: false,
            is_answered: false,
            is_parked: false,
            is_ready: false,
            queue: VecDeque::new(),
            assembler: Assembler::default(),
            waiter: None,
            received: 0,
            consumed: 0,
            credited: 0,
            withheld: 0,
        };
        Self {
            slots: (0..slots).map(|_| slot()).collect(),
            next: 1,
            tally: Tally::default(),
            parked: VecDeque::new(),
            ready: None,
            window: as_u64(window),
        }
    }

    /// A new request, and what an earlier request of its slot was credited.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TooManyInFlight`] if no slot is free.
    #[inline]
    pub(crate) fn open(&mut self, is_stream: bool) -> Result<(u64, u64)> {
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
                slot.is_ready = false;
                slot.received = 0;
                slot.consumed = 0;
                slot.withheld = 0;
                self.tally.streams += u64::from(is_stream);
                return Ok((request, std::mem::take(&mut slot.credited)));
            }
            self.tally.skip();
        }
        Err(self.full())
    }

    #[cold]
    fn full(&self) -> Error {
        let (slots, mine) = (self.slots.len(), self.in_flight());
        let message = format!(
            "{slots} requests in flight, {mine} of them awaited and the others not yet given up \
             by the worker; raise max_in_flight"
        );
        Error::new(ErrorKind::TooManyInFlight, message).with_begun(false)
    }

    fn slot_of(&self, request: u64) -> usize {
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

    /// The request's last frame has come, which answers it or says that it failed.
    pub(crate) fn finish(&mut self, request: u64, is_answer: bool) {
        let Some(slot) = self.slot(request) else { return };
        slot.is_finished = true;
        slot.is_answered = is_answer;
        if !slot.is_owned {
            slot.free();
        }
    }

    /// Ends a call whose result, of `len` bytes, its owner has got: all that happens to most requests, in one
    /// look. Returns false, and does
    /// nothing, for a stream, and if an item, a part of a message or a waiter is there.
    #[inline]
    pub(crate) fn complete(&mut self, request: u64, len: u32) -> bool {
        let Some(slot) = self.slot(request).filter(|slot| slot.is_open() && !slot.is_stream) else {
            return false;
        };
        let is_bare = slot.queue.is_empty() && slot.assembler.is_empty() && slot.waiter.is_none();
        if is_bare {
            slot.request = 0;
            self.tally.ended += 1;
            self.tally.bytes += u64::from(len);
        }
        is_bare
    }

    /// Puts an item where its owner finds it, and returns the waiter. Gives the item back if the
    /// owner has let go of the request.
    pub(crate) fn push(&mut self, request: u64, item: T) -> std::result::Result<Option<Waiter>, T> {
        let Some(slot) = self.slot(request).filter(|slot| slot.is_owned) else { return Err(item) };
        slot.queue.push_back(item);
        let waiter = slot.waiter.take();
        if waiter.is_none() {
            self.note_ready(request);
        }
        Ok(waiter)
    }

    fn note_ready(&mut self, request: u64) {
        let most = 2 * self.slots.len();
        let Some(mut ready) = self.ready.take() else { return };
        if let Some(slot) = self.slot(request).filter(|slot| !slot.is_ready) {
            slot.is_ready = true;
            if ready.len() >= most {
                ready.retain(|request| self.is_ready(*request));
            }
            ready.push(request);
        }
        self.ready = Some(ready);
    }

    fn is_ready(&self, request: u64) -> bool {
        let slot = self.slots.get(self.slot_of(request));
        slot.is_some_and(|slot| slot.request == request && slot.is_ready && slot.is_owned)
    }

    /// Returns the requests that have got an item without a waiter since the last call, each
    /// once, in the order of their first items. The first call returns all that have one.
    pub(crate) fn take_ready(&mut self) -> Vec<u64> {
        let Some(ready) = self.ready.replace(Vec::new()) else {
            let has_item = |slot: &&Slot<T>| slot.is_owned && !slot.queue.is_empty();
            return self.slots.iter().filter(has_item).map(|slot| slot.request).collect();
        };
        let ready: Vec<u64> = ready.into_iter().filter(|each| self.is_ready(*each)).collect();
        for request in &ready {
            if let Some(slot) = self.slot(*request) {
                slot.is_ready = false;
            }
        }
        ready
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

    pub(crate) fn has_item(&mut self, request: u64) -> bool {
        self.slot(request).is_none_or(|slot| !slot.queue.is_empty())
    }

    /// Takes what has come of a message in pieces.
    pub(crate) fn take_assembler(&mut self, request: u64) -> Assembler {
        self.slot(request).map(|slot| std::mem::take(&mut slot.assembler)).unwrap_or_default()
    }

    /// Keeps what has come of a message until there is more. Returns false if its owner has
    /// let go of the request.
    pub(crate) fn put_assembler(&mut self, request: u64, assembler: Assembler) -> bool {
        let slot = self.slot(request).filter(|slot| slot.is_owned);
        slot.map(|slot| slot.assembler = assembler).is_some()
    }

    /// Registers a waiter, unless an item is there already. Returns whether it was registered.
    pub(crate) fn register(&mut self, request: u64, waiter: Waiter) -> bool {
        let Some(slot) = self.slot(request) else { return false };
        if !slot.queue.is_empty() {
            return false;
        }
        let could_read = waiter.is_thread();
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

    /// Removes threads from the list that left without being asked to read.
    #[cold]
    fn forget_stale(&mut self) {
        let Self { slots, parked, .. } = self;
        let count = as_u64(slots.len());
        parked.retain(|request| {
            let slot = slots.get(request_slot(*request, count));
            slot.is_some_and(|slot| slot.request == *request && slot.is_parked)
        });
    }

    /// Removes the waiter of a request.
    pub(crate) fn take_waiter(&mut self, request: u64) -> Option<Waiter> {
        self.slot(request)?.waiter.take()
    }

    /// Removes a thread that waits, to read the ring instead.
    pub(crate) fn take_thread(&mut self) -> Option<Waiter> {
        while let Some(request) = self.parked.pop_front() {
            if let Some(slot) = self.slot(request) {
                slot.is_parked = false;
                if slot.waiter.as_ref().is_some_and(Waiter::is_thread) {
                    return slot.waiter.take();
                }
            }
        }
        None
    }

    /// Removes all waiters.
    pub(crate) fn take_waiters(&mut self) -> Vec<Waiter> {
        self.parked.clear();
        let waiting = self.slots.iter_mut().filter_map(|slot| {
            slot.is_parked = false;
            slot.waiter.take()
        });
        waiting.collect()
    }

    /// Lets go of a request for its owner. Returns whether the worker is not done with it, and
    /// must be told.
    pub(crate) fn release(&mut self, request: u64) -> bool {
        let Some(slot) = self.slot(request).filter(|slot| slot.is_owned) else { return false };
        slot.is_owned = false;
        slot.waiter = None;
        slot.queue.clear();
        slot.assembler = Assembler::default();
        let is_finished = slot.is_finished;
        let is_answered = is_finished && slot.is_answered;
        if is_finished {
            slot.free();
        }
        self.tally.ended += 1;
        self.tally.unanswered += u64::from(!is_answered);
        !is_finished
    }

    /// The request never reached the ring.
    pub(crate) fn discard(&mut self, request: u64) {
        self.finish(request, false);
        self.release(request);
    }

    /// Counts bytes of a stream as consumed. Returns the sum if the worker should be told: see
    /// "Credit" in `docs/ARCHITECTURE.md`.
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
        as_usize(self.tally.in_flight(self.next))
    }

    /// Enters what became of all requests so far.
    pub(super) fn enter(&self, stats: &mut Stats) {
        self.tally.enter(self.next, stats);
    }

    /// Whether a request is a stream whose owner has not let go of it.
    pub(crate) fn is_open_stream(&self, request: u64) -> bool {
        let slot = self.slots.get(self.slot_of(request));
        slot.is_some_and(|slot| slot.request == request && slot.is_stream && slot.is_owned)
    }
}

impl<T> Slot<T> {
    /// Whether its owner waits for more.
    fn is_open(&self) -> bool {
        self.is_owned && !self.is_finished
    }

    fn free(&mut self) {
        self.request = 0;
        self.queue.clear();
        self.assembler = Assembler::default();
        self.waiter = None;
    }
}

#[cfg(test)]
#[path = "requests_tests.rs"]
mod tests;
