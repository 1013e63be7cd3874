//! What becomes of each request of a channel.
//!
//! A request lives in entry `id % entries`, here and in the shared request table, from
//! [`Requests::open`] until its owner has dropped it *and* the worker has sent its last
//! frame. Ids are never used twice, so that a frame can only reach the request that it was
//! sent for:
//!
//! ```text
//!              open                 last frame                dropped
//!   free  ------------->  open  ---------------->  finished  ---------->  free
//!                           |                                               ^
//!                           | dropped (timeout, drop)                       |
//!                           v                         last frame            |
//!                        dropped  ------------------------------------------'
//! ```
//!
//! A frame for a dropped request is late, a frame for an id that is in no entry is unknown. Both
//! are counted and dropped.

mod pieces;

use std::collections::VecDeque;

use crate::channel::counters::Tally;
use crate::channel::stats::Stats;
use crate::channel::stream_credit::StreamCredit;
use crate::channel::waiter::Waiter;
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::assembler::Assembler;
use crate::shm::layout::{as_u64, as_usize, request_entry};

/// The requests; `T` is what frames become on their way to the owner.
#[derive(Debug)]
pub(crate) struct Requests<T> {
    entries: Vec<Entry<T>>,
    /// How many of the entries have a request.
    used: usize,
    next: u64,
    pub(super) tally: Tally,
    /// Requests that threads wait for, in the order in which they can be asked to read; may
    /// hold ids whose thread has left.
    parked: VecDeque<u64>,
    /// Requests that have got an item and no waiter, for a reactor; may hold ids of requests
    /// that are over. `None` while no reactor asks for them.
    ready: Option<Vec<u64>>,
    /// Tasks whose requests were dropped while they were registered. Their wakers are the executor's
    /// code, and must not be dropped under a lock.
    unneeded: Vec<Waiter>,
    /// The longest stretch of slots that a stream may have sent and its reader not consumed.
    window: u64,
}

#[derive(Debug)]
struct Entry<T> {
    /// Zero when the entry is free.
    request: u64,
    is_stream: bool,
    is_owned: bool,
    is_finished: bool,
    /// The last frame was a result or the end of a stream.
    is_answered: bool,
    is_parked: bool,
    /// It is in the list of those that are ready.
    is_ready: bool,
    reading: Reading,
    queue: VecDeque<T>,
    assembler: Assembler,
    waiter: Option<Waiter>,
    credit: StreamCredit,
}

/// How the owner of a request takes messages that are longer than a frame.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Reading {
    /// Of which request this is: an entry is not cleared for the next one.
    request: u64,
    /// It takes them piece by piece.
    pub(super) is_in_pieces: bool,
    /// It does not want the rest of the message that is on its way.
    pub(super) skips_rest: bool,
}

/// A request that the worker is not done with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unfinished {
    pub(crate) request: u64,
    pub(crate) is_stream: bool,
    /// Its owner has not dropped it.
    pub(crate) is_awaited: bool,
}

/// The request that a frame is for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Addressee {
    /// Its owner waits for more; whether it asked for a stream.
    Open { is_stream: bool },
    /// Its owner has dropped it.
    Dropped,
    /// It was never made, or is over.
    Unknown,
}

impl<T> Requests<T> {
    pub(crate) fn new(entries: usize, window: usize) -> Self {
        let entry = || Entry {
            request: 0,
            is_stream: false,
            is_owned: false,
            is_finished: false,
            is_answered: false,
            is_parked: false,
            is_ready: false,
            reading: Reading::default(),
            queue: VecDeque::new(),
            assembler: Assembler::default(),
            waiter: None,
            credit: StreamCredit::default(),
        };
        Self {
            entries: (0..entries).map(|_| entry()).collect(),
            used: 0,
            next: 1,
            tally: Tally::default(),
            parked: VecDeque::new(),
            unneeded: Vec::new(),
            ready: None,
            window: as_u64(window),
        }
    }

    /// A new request, and what an earlier request of its entry was credited.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TooManyInFlight`] if no entry is free.
    #[inline]
    pub(crate) fn open(&mut self, is_stream: bool) -> Result<(u64, u64)> {
        // A host that is refused asks again: that must not take a look at every entry.
        while self.used < self.entries.len() {
            let request = self.next;
            self.next = self.next.wrapping_add(1).max(1);
            let index = self.entry_of(request);
            if let Some(entry) = self.entries.get_mut(index).filter(|entry| entry.request == 0) {
                entry.request = request;
                entry.is_stream = is_stream;
                entry.is_owned = true;
                entry.is_finished = false;
                entry.is_parked = false;
                entry.is_ready = false;
                self.used += 1;
                self.tally.streams += u64::from(is_stream);
                return Ok((request, entry.credit.begin()));
            }
            self.tally.skip();
        }
        Err(self.full())
    }

    #[cold]
    fn full(&self) -> Error {
        let (entries, mine) = (self.entries.len(), self.in_flight());
        let message = format!(
            "{entries} requests in flight, {mine} of them awaited and the others not yet finished \
             by the worker; raise max_in_flight"
        );
        Error::new(ErrorKind::TooManyInFlight, message).with_begun(false)
    }

    fn entry_of(&self, request: u64) -> usize {
        request_entry(request, as_u64(self.entries.len()))
    }

    #[inline]
    fn entry(&mut self, request: u64) -> Option<&mut Entry<T>> {
        let index = self.entry_of(request);
        self.entries.get_mut(index).filter(|entry| request != 0 && entry.request == request)
    }

    /// Whether a frame for this request has an owner that waits for it.
    pub(crate) fn addressee(&mut self, request: u64) -> Addressee {
        match self.entry(request) {
            Some(entry) if entry.is_open() => Addressee::Open { is_stream: entry.is_stream },
            Some(entry) if !entry.is_finished => Addressee::Dropped,
            _ => Addressee::Unknown,
        }
    }

    /// The request's last frame has come, which answers it or says that it failed.
    pub(crate) fn finish(&mut self, request: u64, is_answer: bool) {
        let Some(entry) = self.entry(request) else { return };
        entry.is_finished = true;
        entry.is_answered = is_answer;
        if !entry.is_owned {
            entry.free();
            self.used -= 1;
        }
    }

    /// Ends a call, in one look, whose owner has got the whole result of `len` bytes: the common
    /// end of a call. Does nothing and returns false for a stream, or if an item, a part of a
    /// message or a waiter is there.
    #[inline]
    pub(crate) fn complete(&mut self, request: u64, len: u32) -> bool {
        let Some(entry) = self.entry(request).filter(|entry| entry.is_open() && !entry.is_stream)
        else {
            return false;
        };
        let is_bare =
            entry.queue.is_empty() && entry.assembler.is_empty() && entry.waiter.is_none();
        if is_bare {
            entry.request = 0;
            self.used -= 1;
            self.tally.ended += 1;
            self.tally.bytes += u64::from(len);
        }
        is_bare
    }

    /// Puts an item where its owner finds it, and returns the waiter. Gives the item back if the
    /// owner has dropped the request.
    pub(crate) fn push(&mut self, request: u64, item: T) -> std::result::Result<Option<Waiter>, T> {
        let Some(entry) = self.entry(request).filter(|entry| entry.is_owned) else {
            return Err(item);
        };
        entry.queue.push_back(item);
        let waiter = entry.waiter.take();
        if waiter.is_none() {
            self.note_ready(request);
        }
        Ok(waiter)
    }

    fn note_ready(&mut self, request: u64) {
        let most = 2 * self.entries.len();
        let Some(mut ready) = self.ready.take() else { return };
        if let Some(entry) = self.entry(request).filter(|entry| !entry.is_ready) {
            entry.is_ready = true;
            if ready.len() >= most {
                ready.retain(|request| self.is_ready(*request));
            }
            ready.push(request);
        }
        self.ready = Some(ready);
    }

    fn is_ready(&self, request: u64) -> bool {
        let entry = self.entries.get(self.entry_of(request));
        entry.is_some_and(|entry| entry.request == request && entry.is_ready && entry.is_owned)
    }

    /// Returns the requests that have got an item without a waiter since the last call, each
    /// once, in the order of their first items. The first call returns all that have one.
    pub(crate) fn take_ready(&mut self) -> Vec<u64> {
        let Some(ready) = self.ready.replace(Vec::new()) else {
            let has_item = |entry: &&Entry<T>| entry.is_owned && !entry.queue.is_empty();
            return self.entries.iter().filter(has_item).map(|entry| entry.request).collect();
        };
        let ready: Vec<u64> = ready.into_iter().filter(|each| self.is_ready(*each)).collect();
        for request in &ready {
            if let Some(entry) = self.entry(*request) {
                entry.is_ready = false;
            }
        }
        ready
    }

    /// What has come for this request.
    pub(crate) fn take(&mut self, request: u64) -> Option<T> {
        self.entry(request)?.queue.pop_front()
    }

    /// Moves all that has come for this request to `items`, which is empty.
    pub(crate) fn take_all(&mut self, request: u64, items: &mut VecDeque<T>) {
        if let Some(entry) = self.entry(request) {
            std::mem::swap(&mut entry.queue, items);
        }
    }

    pub(crate) fn has_item(&mut self, request: u64) -> bool {
        self.entry(request).is_none_or(|entry| !entry.queue.is_empty())
    }

    /// Takes what comes next for this request if `is_wanted` says so.
    pub(crate) fn take_if(&mut self, request: u64, is_wanted: impl Fn(&T) -> bool) -> Option<T> {
        let entry = self.entry(request)?;
        if entry.queue.front().is_some_and(is_wanted) { entry.queue.pop_front() } else { None }
    }

    /// Registers a waiter, unless an item is there already. Returns whether it was registered.
    pub(crate) fn register(&mut self, request: u64, waiter: Waiter) -> bool {
        let Some(entry) = self.entry(request) else { return false };
        if !entry.queue.is_empty() {
            return false;
        }
        let could_read = waiter.is_thread();
        entry.waiter = Some(waiter);
        if could_read && !entry.is_parked {
            entry.is_parked = true;
            if self.parked.len() >= 2 * self.entries.len() {
                self.forget_stale();
            }
            self.parked.push_back(request);
        }
        true
    }

    /// Removes threads from the list that left without being asked to read.
    #[cold]
    fn forget_stale(&mut self) {
        let Self { entries, parked, .. } = self;
        let count = as_u64(entries.len());
        parked.retain(|request| {
            let entry = entries.get(request_entry(*request, count));
            entry.is_some_and(|entry| entry.request == *request && entry.is_parked)
        });
    }

    /// Removes the waiter of a request.
    pub(crate) fn take_waiter(&mut self, request: u64) -> Option<Waiter> {
        self.entry(request)?.waiter.take()
    }

    /// Removes a thread that waits, to read the ring instead.
    pub(crate) fn take_thread(&mut self) -> Option<Waiter> {
        while let Some(request) = self.parked.pop_front() {
            if let Some(entry) = self.entry(request) {
                entry.is_parked = false;
                if entry.waiter.as_ref().is_some_and(Waiter::is_thread) {
                    return entry.waiter.take();
                }
            }
        }
        None
    }

    /// Removes all waiters.
    pub(crate) fn take_waiters(&mut self) -> Vec<Waiter> {
        self.parked.clear();
        let waiting = self.entries.iter_mut().filter_map(|entry| {
            entry.is_parked = false;
            entry.waiter.take()
        });
        waiting.collect()
    }

    /// Drops a request for its owner. Returns whether the worker is not done with it, and
    /// must be told.
    pub(crate) fn drop_request(&mut self, request: u64) -> bool {
        let Some(entry) = self.entry(request).filter(|entry| entry.is_owned) else { return false };
        let waiter = entry.waiter.take();
        entry.is_owned = false;
        entry.queue.clear();
        entry.assembler = Assembler::default();
        let is_finished = entry.is_finished;
        let is_answered = is_finished && entry.is_answered;
        if is_finished {
            entry.free();
            self.used -= 1;
        }
        self.tally.ended += 1;
        self.tally.unanswered += u64::from(!is_answered);
        if let Some(waiter) = waiter {
            self.set_aside(waiter);
        }
        !is_finished
    }

    /// Keeps a task until it can be dropped outside of the lock.
    #[cold]
    fn set_aside(&mut self, waiter: Waiter) {
        if !waiter.is_thread() {
            self.unneeded.push(waiter);
        }
    }

    /// Takes the waiters of requests that were dropped.
    pub(crate) fn take_unneeded(&mut self) -> Vec<Waiter> {
        std::mem::take(&mut self.unneeded)
    }

    /// The request never reached the ring.
    pub(crate) fn discard(&mut self, request: u64) {
        self.finish(request, false);
        self.drop_request(request);
    }

    /// Counts bytes of a stream as consumed. Returns the sum if the worker should be told.
    pub(crate) fn add_consumed(
        &mut self,
        request: u64,
        bytes: usize,
        is_about_to_wait: bool,
    ) -> Option<u64> {
        let window = self.window;
        self.entry(request)?.credit.add_consumed(as_u64(bytes), is_about_to_wait, window)
    }

    /// Counts a chunk's slot as received. False if the worker had no credit for it.
    pub(crate) fn spend_credit(&mut self, request: u64, bytes: usize) -> bool {
        self.spend_all(request, as_u64(bytes))
            || self.spend_credits(request, std::iter::once(as_u64(bytes))) == 1
    }

    /// Counts slots of chunks in a row, `bytes` in all, as received, if the worker had credit for each
    /// of them and none is longer than the window. Returns false otherwise, and counts nothing.
    #[inline]
    pub(crate) fn spend_all(&mut self, request: u64, bytes: u64) -> bool {
        let window = self.window;
        self.entry(request).is_some_and(|entry| entry.credit.spend_all(bytes, window))
    }

    /// Counts chunks in a row as [`Requests::spend_credit`] does, up to the first that the worker had
    /// no credit for. Returns how many come before that one.
    pub(crate) fn spend_credits(
        &mut self,
        request: u64,
        costs: impl Iterator<Item = u64>,
    ) -> usize {
        let window = self.window;
        self.entry(request).map_or(0, |entry| entry.credit.spend_each(costs, window))
    }

    /// Whether the request's last frame has not come yet.
    pub(crate) fn is_running(&mut self, request: u64) -> bool {
        self.entry(request).is_some_and(|entry| !entry.is_finished)
    }

    /// Returns the requests whose last frame has not come, by their numbers.
    pub(crate) fn unfinished(&self) -> Vec<Unfinished> {
        let entries = self.entries.iter().filter(|entry| entry.request != 0 && !entry.is_finished);
        let mut unfinished: Vec<_> = entries
            .map(|entry| Unfinished {
                request: entry.request,
                is_stream: entry.is_stream,
                is_awaited: entry.is_owned,
            })
            .collect();
        unfinished.sort_unstable_by_key(|each| each.request);
        unfinished
    }

    /// Requests whose owner has not dropped them.
    pub(crate) fn in_flight(&self) -> usize {
        as_usize(self.tally.in_flight(self.next))
    }

    /// The number of the next request, how many are in flight, and what became of the others.
    #[cfg_attr(loom, allow(dead_code, reason = "for the status page"))]
    pub(super) fn words(&self) -> (u64, u64, [u64; 6]) {
        (self.next, self.tally.in_flight(self.next), self.tally.words())
    }

    /// Enters what became of all requests so far.
    pub(super) fn enter(&self, stats: &mut Stats) {
        self.tally.enter(self.next, stats);
    }

    /// Whether a request is a stream whose owner has not dropped it.
    pub(crate) fn is_open_stream(&self, request: u64) -> bool {
        let entry = self.entries.get(self.entry_of(request));
        entry.is_some_and(|entry| entry.request == request && entry.is_stream && entry.is_owned)
    }
}

impl<T> Entry<T> {
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
