//! The pending table: the requests of a channel, their waiters, and the words by which the
//! worker is told of cancels and credit.
//!
//! One lock, owned here: the last of a channel's locks. Words of the shared request table are
//! stored under it, so that a store for one request never replaces that for the next request
//! of the same entry.

mod pieces;

use crate::channel::counters::Counters;
use crate::channel::item::{Body, Item, ReplyHeader, exceeded_credit};
use crate::channel::requests::{Addressee, Requests};
use crate::channel::stats::Stats;
use crate::channel::stream_buffer::{StreamBuffer, Taken};
use crate::channel::tap::FrameTap;
use crate::channel::waiter::Waiter;
use crate::config::Config;
use crate::error::Result;
use crate::link::PeerReport;
use crate::protocol::Kind;
use crate::protocol::buffer_pool::BufferPool;
use crate::ring::doorbell::Bell;
use crate::ring::{Consumer, Frame};
use crate::shm::requests::OwnRequests;
use crate::shm::words::OwnU32;
use crate::sync::{AtomicU32, Mutex, MutexGuard, Ordering, fence};
use crate::sys::fork;
use std::sync::Arc;
use std::task::Waker;

/// Owner of the channel's requests.
#[derive(Debug)]
pub(crate) struct PendingTable {
    requests: Mutex<Requests<Item>>,
    words: RequestWords,
    /// Set for good once an item was put into the table: from then on each wait looks here before it
    /// reads the ring. Changes under the receiver's turn.
    has_ever_pushed: AtomicU32,
    max_message: usize,
    pub(super) counters: Counters,
    tap: Option<Arc<dyn FrameTap>>,
}

/// The words by which the worker is told what became of its requests, and what it waits for.
#[derive(Debug)]
pub(crate) struct RequestWords {
    pub(crate) abort: OwnU32,
    /// One cancel and one credit for each request.
    pub(crate) cells: OwnRequests,
    /// The credit that each stream of the worker's waits for.
    pub(crate) report: Arc<PeerReport>,
    /// Wakes a handler that waits for credit or a cancel.
    pub(crate) bell: Bell,
}

impl PendingTable {
    pub(super) fn new(
        words: RequestWords,
        config: &Config,
        tap: Option<Arc<dyn FrameTap>>,
    ) -> Self {
        Self {
            requests: Mutex::new(Requests::new(config.max_in_flight, config.stream_window)),
            words,
            has_ever_pushed: AtomicU32::new(0),
            max_message: config.max_message,
            counters: Counters::default(),
            tap,
        }
    }

    /// Opens a request. Returns its number.
    #[inline(always)]
    pub(super) fn open(&self, is_stream: bool) -> Result<u64> {
        let mut requests = self.requests.lock();
        let (request, old_credit) = requests.open(is_stream)?;
        if old_credit != 0 {
            self.words.cells.set_credit(request, 0);
        }
        Ok(request)
    }

    /// Drops a request for its owner. A worker that is not done with it is told.
    pub(super) fn drop_request(&self, request: u64) {
        if fork::is_forked_child() {
            // The request is the parent's, and the child may wait for the lock for ever.
            return;
        }
        let mut requests = self.requests.lock();
        let is_running = requests.drop_request(request);
        if is_running {
            self.tell_cancelled(requests, request);
        }
    }

    /// Asks the worker to cancel a request. What still comes of it is delivered.
    pub(super) fn cancel(&self, request: u64) {
        if fork::is_forked_child() {
            return;
        }
        let mut requests = self.requests.lock();
        if requests.is_running(request) {
            self.tell_cancelled(requests, request);
        }
    }

    fn tell_cancelled(&self, requests: MutexGuard<'_, Requests<Item>>, request: u64) {
        if self.words.cells.cancel(request) {
            self.counters.cancels.fetch_add(1, Ordering::Relaxed);
            if let Some(tap) = &self.tap {
                tap.cancelled(request);
            }
        }
        drop(requests);
        self.words.bell.ring();
    }

    /// Sets or clears the flag that every handler of the worker sees.
    pub(super) fn set_abort(&self, is_set: bool) {
        if fork::is_forked_child() {
            return;
        }
        // Pairs with the Acquire load in the worker's `is_cancelled`.
        self.words.abort.store(u32::from(is_set), Ordering::Release);
        if is_set {
            self.words.bell.ring();
        }
    }

    /// Delivers a frame to its request. `keep` gets an item for `own`, the reader's request.
    /// Returns whether there was one. An item for another request is put into the table: `tell`
    /// gets the waiter of the request, or `None` if it has none. `tell` is not called if the
    /// request was dropped.
    ///
    /// # Errors
    ///
    /// What the worker wrote that cannot be, after which the channel is over.
    #[inline]
    pub(super) fn deliver(
        &self,
        frame: Frame<'_>,
        own: u64,
        buffers: &Arc<BufferPool>,
        keep: impl FnOnce(Item),
        tell: impl FnOnce(Option<Waiter>),
    ) -> Result<bool> {
        // What happens to most frames, in one look at the table: the whole result of the reader's
        // own call. No request has the number zero, so that a frame of request 0 never is `own`.
        let header = frame.header();
        let is_whole = header.kind == Kind::RESULT.code() && header.flags == 0;
        if is_whole && header.request == own && self.requests.lock().complete(own, header.len) {
            keep(Item::Result(Body::keep(frame)));
            return Ok(true);
        }
        Ok(self.deliver_any(frame, own, buffers, tell)?.map(keep).is_some())
    }

    #[inline(never)]
    fn deliver_any(
        &self,
        frame: Frame<'_>,
        own: u64,
        buffers: &Arc<BufferPool>,
        tell: impl FnOnce(Option<Waiter>),
    ) -> Result<Option<Item>> {
        let reply = ReplyHeader::of(&frame)?;
        if reply.kind == Kind::VOID {
            return Ok(None);
        }
        let request = reply.header.request;
        let mut requests = self.requests.lock();
        let Some(is_stream) = self.admit(&mut requests, reply)? else { return Ok(None) };
        if reply.is_piece() {
            let item = self.add_piece(requests, frame, (reply, is_stream), own, buffers)?;
            if request == own {
                return Ok(item);
            }
            if let Some(item) = item {
                self.give(reply, item, tell);
            } else if let Some(waiter) = self.take_waiter_for_part(request) {
                tell(Some(waiter));
            }
            return Ok(None);
        }
        // An error can cut a message off. What came of that message is of no use.
        let cut_off = requests.take_cut_off(request);
        if request != own {
            drop(requests);
            drop(cut_off);
            // Copied, so that a request whose owner reads late holds up no other.
            self.counters.copied_frames.fetch_add(1, Ordering::Relaxed);
            let body = match is_stream {
                true => Body::Owned(frame.payload().to_vec()),
                false => Body::copy(frame.payload(), buffers),
            };
            self.give(reply, reply.item(body, reply.cost(), is_stream), tell);
            return Ok(None);
        }
        if ends_call(reply, is_stream) {
            requests.drop_request(request);
        }
        drop(requests);
        drop(cut_off);
        Ok(Some(reply.own_item(frame, is_stream)))
    }

    /// Returns whether the request of a frame is a stream, or `None` if no owner waits for the frame.
    /// Counts the credit that a chunk costs, and that nothing comes after a last frame.
    fn admit(&self, requests: &mut Requests<Item>, reply: ReplyHeader) -> Result<Option<bool>> {
        let request = reply.header.request;
        let addressee = requests.addressee(request);
        if reply.is_last() {
            let is_stream = matches!(addressee, Addressee::Open { is_stream: true });
            requests.finish(request, reply.is_answer(is_stream));
        }
        let dropped = match addressee {
            Addressee::Open { is_stream } => {
                if reply.is_chunk() && !requests.spend_credit(request, reply.cost()) {
                    return Err(exceeded_credit(request));
                }
                requests.tally.received(reply.header.len, reply.ends_chunk());
                return Ok(Some(is_stream));
            }
            Addressee::Dropped => &self.counters.late_frames,
            Addressee::Unknown => &self.counters.unknown_frames,
        };
        dropped.fetch_add(1, Ordering::Relaxed);
        Ok(None)
    }

    /// Puts an item into the table for the owner of its request.
    fn give(&self, reply: ReplyHeader, item: Item, tell: impl FnOnce(Option<Waiter>)) {
        let request = reply.header.request;
        let mut requests = self.requests.lock();
        if let Item::Part(part) = &item
            && requests.is_skipped(request, part.place.is_first)
        {
            // Its reader was dropped meanwhile.
            if let Some(reading) = requests.reading(request) {
                reading.skips_rest = false;
            }
            drop(requests);
            return self.update_credit(request, part.cost, true);
        }
        let pushed = requests.push(request, item);
        drop(requests);
        self.has_ever_pushed.store(1, Ordering::Relaxed);
        match pushed {
            Ok(waiter) => tell(waiter),
            // Its owner has dropped the request meanwhile: after the end of the request, or before.
            Err(_) if reply.is_last() => {}
            Err(_) => {
                self.counters.late_frames.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Takes the chunks of a stream that come next in the ring, as [`StreamBuffer::take_chunks`]
    /// does, and checks that the worker had credit for them.
    #[inline]
    pub(super) fn take_chunks(
        &self,
        consumer: &mut Consumer,
        request: u64,
        buffer: &mut StreamBuffer,
    ) -> Result<Taken> {
        let taken = buffer.take_chunks(consumer, request)?;
        if matches!(taken, Taken::NoChunk) {
            return Ok(taken);
        }
        let mut requests = self.requests.lock();
        let cut_off = requests.take_cut_off(request);
        let are_covered = requests.spend_all(request, buffer.cost())
            || buffer.keep(requests.spend_credits(request, buffer.costs()));
        requests.tally.received_chunks(buffer.chunks(), buffer.bytes());
        drop(requests);
        drop(cut_off);
        Ok(if are_covered { taken } else { Taken::ChunksThen(exceeded_credit(request)) })
    }

    /// Whether an item was ever put into the table.
    #[inline]
    pub(super) fn has_ever_pushed(&self) -> bool {
        self.has_ever_pushed.load(Ordering::Relaxed) != 0
    }

    /// Takes the next item of a request.
    pub(super) fn take(&self, request: u64) -> Option<Item> {
        self.requests.lock().take(request)
    }

    /// Takes the next item of a call. If nothing comes after it, drops the request, too.
    pub(super) fn take_last(&self, request: u64, buffers: &Arc<BufferPool>) -> Option<Item> {
        let mut requests = self.requests.lock();
        let item = requests.take(request);
        if item.is_none() {
            return Self::part_in_table(requests, request, false, buffers);
        }
        if !requests.is_running(request) {
            requests.drop_request(request);
        }
        item
    }

    /// Takes all items of a stream. Returns whether there were any.
    pub(super) fn take_all(
        &self,
        request: u64,
        buffer: &mut StreamBuffer,
        buffers: &Arc<BufferPool>,
    ) -> bool {
        let mut requests = self.requests.lock();
        requests.take_all(request, &mut buffer.items);
        if buffer.items.is_empty() {
            buffer.items.extend(Self::part_in_table(requests, request, true, buffers));
        }
        !buffer.items.is_empty()
    }

    /// Takes the next item of a request; if there is none, registers a task for it.
    pub(super) fn take_or_register(&self, request: u64, waiter: Waiter) -> Option<Item> {
        let mut requests = self.requests.lock();
        let replaced = requests.take_waiter(request);
        let item = requests.take(request);
        let unused = match item {
            None => {
                requests.register(request, waiter);
                None
            }
            Some(_) => Some(waiter),
        };
        drop(requests);
        // A waker's drop is the executor's code: not under the lock.
        drop((replaced, unused));
        item
    }

    /// Registers a task for a request, unless an item is there already.
    pub(super) fn register_task(&self, request: u64, waker: Waker) {
        let mut requests = self.requests.lock();
        let replaced = requests.take_waiter(request);
        let mut waiter = Some(Waiter::Task(waker));
        if !requests.has_item(request)
            && let Some(waiter) = waiter.take()
        {
            requests.register(request, waiter);
        }
        drop(requests);
        // As above.
        drop((replaced, waiter));
    }

    /// Takes the waiter of a request, to be woken.
    pub(super) fn take_waiter(&self, request: u64) -> Option<Waiter> {
        self.requests.lock().take_waiter(request)
    }

    /// Forgets the waiter of a request, and those of requests that were dropped meanwhile.
    pub(super) fn stop_waiting(&self, request: u64) {
        if !fork::is_forked_child() {
            let mut requests = self.requests.lock();
            let unneeded = (requests.take_waiter(request), requests.take_unneeded());
            drop(requests);
            // A waker's drop is the executor's code: not under the lock.
            drop(unneeded);
        }
    }

    /// Removes a thread that waits, to read the ring instead.
    pub(super) fn take_thread(&self) -> Option<Waiter> {
        self.requests.lock().take_thread()
    }

    /// Removes all waiters.
    pub(super) fn take_waiters(&self) -> Vec<Waiter> {
        self.requests.lock().take_waiters()
    }

    /// Counts bytes of slots that the reader of a stream has consumed, and tells the worker if
    /// that is due.
    pub(super) fn update_credit(&self, request: u64, bytes: usize, is_about_to_wait: bool) {
        if fork::is_forked_child() {
            return;
        }
        let mut requests = self.requests.lock();
        let Some(credit) = requests.add_consumed(request, bytes, is_about_to_wait) else { return };
        // Under the lock: two threads may count for one stream, its owner and the reader of a
        // message in pieces, and a smaller sum must not replace a larger one.
        self.words.cells.set_credit(request, credit);
        drop(requests);
        fence(Ordering::SeqCst); // B, pairs with A in the worker's wait for credit
        let awaited = self.words.report.marks.awaited_credit(request);
        if awaited != 0 && awaited <= credit {
            self.words.bell.ring();
        }
    }

    /// Counts all that a stream has consumed: before its reader waits for more, the worker must know.
    pub(super) fn credit_all_before_wait(&self, request: u64, buffer: &mut StreamBuffer) {
        self.update_credit(request, std::mem::take(&mut buffer.unflushed), true);
    }

    /// How many bytes of its stream a request's reader has consumed, as the worker was told.
    pub(super) fn consumed(&self, request: u64) -> u64 {
        self.words.cells.consumed(request)
    }

    /// What became of all requests so far, and the counters of this table.
    pub(super) fn stats(&self) -> Stats {
        // The latencies first: each of them is of a request that is completed by then.
        let mut stats = self.counters.stats();
        self.requests.lock().enter(&mut stats);
        stats
    }

    /// As [`PendingTable::stats`]; `None` if the lock is held.
    #[cfg(not(loom))]
    pub(super) fn stats_soon(&self) -> Option<Stats> {
        let mut stats = self.counters.stats();
        self.requests.lock_soon()?.enter(&mut stats);
        Some(stats)
    }

    /// As [`Requests::words`]; `None` if the lock is held.
    #[cfg(not(loom))]
    pub(super) fn words_soon(&self) -> Option<(u64, u64, [u64; 6])> {
        self.requests.lock_soon().map(|requests| requests.words())
    }

    /// The requests. Neither a waker nor an item may be dropped while this is held.
    pub(super) fn requests(&self) -> MutexGuard<'_, Requests<Item>> {
        self.requests.lock()
    }
}

/// Whether a frame that its owner reads ends its request. A stream's owner may have yet to
/// read what was buffered, and a close that drains waits for that.
fn ends_call(reply: ReplyHeader, is_stream: bool) -> bool {
    reply.is_last() && !is_stream
}
