//! Slots on their way back to the producer.
//!
//! # How slots are released
//!
//! The head says up to where slots are released. The consumer stores it, the producer loads it:
//!
//! ```text
//!   consumer                                    producer
//!   1  read the payload of slot A
//!   2  head = end of A          (Release) -->   load head           (Acquire)
//!   3  fence B                  (SeqCst)        fill slot A again
//!   4  load the producer's space_at; wake it if it waits for this head
//! ```
//!
//! Slots are released in ring order. A frame that is kept as a lease holds back its own slot and
//! all that follow it, so that leases that are kept become backpressure.
//!
//! # Which thread moves the head
//!
//! While no lease is out, the consumer has the [`Cursor`] to itself and takes no lock. The first
//! lease moves it into the [`Queue`], behind a lock that the consumer shares with the threads
//! that drop leases. It moves back when nothing is held any more:
//!
//! ```text
//!                     first lease
//!   consumer's own  ---------------->  in the queue, which the lock protects
//!                   <----------------
//!                     the consumer releases a frame and finds the queue empty
//! ```
//!
//! The queue has an entry for each lease, and one for all frames between two leases. Entries
//! leave at the front once they are done:
//!
//! ```text
//!   front                                back
//!   | lease 1 | lease 2, done | frames, done |       head = start of lease 1
//!
//!   lease 1 is dropped: all three leave; head = end of the frames
//! ```
//!
//! # Leases that give way
//!
//! A lease can be *pinned*: its payload then stays at one address without its slot
//! ([`second_map`](crate::shm::second_map)). Once the front of the queue is such a lease and holds
//! back more than [`Reclaim::most_held`] bytes, its payload leaves the ring and the lease is done. The
//! longest frame always fits beside `most_held` bytes, wherever it starts. So a pinned lease never stops
//! the producer, whatever the consumer waits for.
//!
//! That costs as much as [`COPIES`] copies of the payload. After it, as many bytes are copied at once in
//! place of being pinned: a program that keeps everything pays for about two copies of each payload.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::error::Result;
use crate::ring::doorbell::Bell;
use crate::ring::ends::Ends;
use crate::ring::position::span;
use crate::shm::bytes::PeerBytes;
use crate::shm::layout::{RingLayout, as_u64, as_usize};
use crate::shm::second_map::PinnedBytes;
use crate::shm::slots::PeerSlots;
use crate::shm::words::{OwnU64, PeerU64};
use crate::sync::{Counter, Mutex, MutexGuard, Ordering, fence};
use crate::sys::fork;

/// How many copies take as long as to have a payload leave the ring.
const COPIES: u64 = 16;

/// Entries that fit into the queue before it allocates: the leases that a reader keeps by
/// itself, and the paddings between them.
const FEW: usize = 64;

/// Releases slots: shared by the consumer and its leases.
#[derive(Debug)]
pub(super) struct Reclaim {
    slots: PeerSlots,
    head: OwnU64,
    peer_space_at: PeerU64,
    bell: Bell,
    /// Leases that are out.
    leased: Counter,
    /// Bytes that a pinned lease may hold back.
    most_held: u64,
    queue: Mutex<Queue>,
}

/// How far slots are released, and how much of that the producer has been told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    pub(super) released: u64,
    pub(super) published: u64,
}

/// Slots that could not be released in ring order yet. The entry at the front, if there is one,
/// is never done.
#[derive(Debug)]
struct Queue {
    cursor: Cursor,
    /// Sequence number of the front of `held`.
    first: u64,
    held: VecDeque<Held>,
    /// Bytes of slots to be copied at once before another is pinned.
    owed: u64,
}

#[derive(Debug)]
struct Held {
    end: u64,
    request: u64,
    is_done: bool,
    /// The payload, if it can leave the ring.
    pinned: Option<Arc<PinnedBytes>>,
}

impl Reclaim {
    /// All slots before `origin` are released.
    pub(super) fn new(ends: &Ends<'_>, layout: &RingLayout) -> Result<Self> {
        let Ends { own, peer, words, .. } = ends;
        let head = own.u64_at(words.head)?;
        head.store(layout.origin, Ordering::Relaxed);
        let cursor = Cursor { released: layout.origin, published: layout.origin };
        let queue = Queue { cursor, first: 0, held: VecDeque::with_capacity(FEW), owed: 0 };
        // The longest frame, with padding that it does not fit into and the commit word behind it.
        let longest = 2 * span(as_usize(u64::from(layout.max_frame)));
        let most_held = layout.capacity.saturating_sub(longest).min(layout.capacity / 2);
        Ok(Self {
            slots: peer.slots(layout)?,
            head,
            peer_space_at: peer.u64_at(words.space_at)?,
            bell: ends.bell()?,
            leased: Counter::new(0),
            most_held,
            queue: Mutex::new(queue),
        })
    }

    /// The payload of a frame that was checked to end before the ring does.
    #[inline]
    pub(super) fn payload(&self, start: u64, len: u32) -> PeerBytes<'_> {
        self.slots.payload(start, as_usize(u64::from(len)))
    }

    /// Up to where the producer was told that slots are free.
    pub(super) fn published_head(&self) -> u64 {
        self.head.load(Ordering::Relaxed)
    }

    pub(super) fn leased(&self) -> usize {
        as_usize(self.leased.load(Ordering::Relaxed))
    }

    /// Locks the queue; `None` in a forked child, where a thread that does not exist may hold
    /// the lock.
    fn queue(&self) -> Option<MutexGuard<'_, Queue>> {
        if fork::is_forked_child() { None } else { Some(self.queue.lock()) }
    }

    /// Tells the producer how far slots are released, and wakes it if it waits for that.
    pub(super) fn publish_released(&self, cursor: &mut Cursor) {
        let Cursor { released, published } = *cursor;
        if released == published {
            return;
        }
        crate::failpoint::failpoint!("before head");
        // Release: pairs with the Acquire load in `Producer::look_at_head`.
        self.head.store(released, Ordering::Release);
        crate::failpoint::failpoint!("after head");
        fence(Ordering::SeqCst); // B, pairs with A in the producer's wait
        let awaited = self.peer_space_at.load(Ordering::Relaxed);
        self.bell.ring_if_awaited(awaited, published.wrapping_add(1), released.wrapping_add(1));
        cursor.published = released;
    }

    /// Does what [`Reclaim::publish_released`] does, while leases are out.
    pub(super) fn publish_from_queue(&self) {
        if let Some(mut queue) = self.queue() {
            self.publish_released(&mut queue.cursor);
        }
    }

    /// What the producer has been told, while leases are out.
    pub(super) fn published(&self) -> u64 {
        self.queue().map_or(0, |queue| queue.cursor.published)
    }

    /// The requests whose leases are out, oldest first, and how far slots are released.
    pub(super) fn holders(&self) -> (Vec<u64>, u64) {
        let Some(queue) = self.queue() else { return (Vec::new(), 0) };
        let held = queue.held.iter().filter(|held| !held.is_done);
        (held.map(|held| held.request).collect(), queue.cursor.released)
    }

    /// Keeps a frame that ends at `end`, with the consumer's cursor if the consumer has it.
    /// Returns the number by which the frame is given back.
    pub(super) fn keep(&self, cursor: Option<Cursor>, end: u64, request: u64) -> u64 {
        // In a forked child the slot is the parent's to give back.
        let Some(mut queue) = self.queue() else { return 0 };
        if let Some(cursor) = cursor {
            queue.cursor = cursor;
        }
        let sequence = queue.first + as_u64(queue.held.len());
        queue.held.push_back(Held { end, request, is_done: false, pinned: None });
        self.leased.fetch_add(1, Ordering::Relaxed);
        self.relieve(&mut queue);
        sequence
    }

    /// Pins a frame that was kept. `None` if it must be copied.
    pub(super) fn pin(&self, sequence: u64, start: u64, len: u32) -> Option<Arc<PinnedBytes>> {
        let mut queue = self.queue()?;
        let len = as_usize(u64::from(len));
        if let Some(owed) = queue.owed.checked_sub(span(len)) {
            queue.owed = owed;
            return None;
        }
        let held = queue.get_mut(sequence).filter(|_| span(len) <= self.most_held)?;
        let pinned = Arc::new(self.slots.pin(start, len)?);
        held.pinned = Some(Arc::clone(&pinned));
        self.relieve(&mut queue);
        Some(pinned)
    }

    /// Has pinned leases at the front leave the ring if they hold back too much of it.
    #[inline]
    fn relieve(&self, queue: &mut Queue) {
        if queue.held_back() > self.most_held {
            self.relieve_now(queue);
        }
    }

    #[cold]
    fn relieve_now(&self, queue: &mut Queue) {
        let released = queue.cursor.released;
        while queue.held_back() > self.most_held
            && let Some(front) = queue.held.front_mut()
            && let Some(pinned) = &front.pinned
        {
            // If there is no memory now, the next frame has it tried again.
            if pinned.leave_ring().is_err() {
                break;
            }
            let cost = span(pinned.bytes().len()).saturating_mul(COPIES);
            front.is_done = true;
            self.leased.fetch_sub(1, Ordering::Relaxed);
            queue.owed = queue.owed.saturating_add(cost);
            queue.advance();
        }
        if queue.cursor.released != released {
            // At once: see `give_back`.
            self.publish_released(&mut queue.cursor);
        }
    }

    /// Gives a frame back that was kept.
    pub(super) fn give_back(&self, sequence: u64) {
        let Some(mut queue) = self.queue() else { return };
        // One that has left the ring is done already, and the consumer may have the cursor back.
        let Some(held) = queue.get_mut(sequence) else { return };
        held.is_done = true;
        held.pinned = None;
        queue.advance();
        self.relieve(&mut queue);
        // At once, and not at the next eighth of the ring: the consumer may sleep for frames
        // that the producer has no room for.
        self.publish_released(&mut queue.cursor);
        self.leased.fetch_sub(1, Ordering::Relaxed);
    }

    /// Releases a frame that ends at `end`, behind leases that may be out; publishes what
    /// that frees if it is at least `batch` bytes. Returns the cursor once nothing is held.
    pub(super) fn release_behind_leases(
        &self,
        end: u64,
        request: u64,
        batch: u64,
    ) -> Option<Cursor> {
        let mut queue = self.queue()?;
        match queue.held.back_mut() {
            Some(last) if last.is_done => last.end = end,
            _ => queue.held.push_back(Held { end, request, is_done: true, pinned: None }),
        }
        // The leases before it may all be gone by now.
        queue.advance();
        self.relieve(&mut queue);
        let Cursor { released, published } = queue.cursor;
        if released.wrapping_sub(published) >= batch {
            self.publish_released(&mut queue.cursor);
        }
        queue.held.is_empty().then_some(queue.cursor)
    }
}

impl Queue {
    /// The entry of a lease, unless it has left at the front.
    fn get_mut(&mut self, sequence: u64) -> Option<&mut Held> {
        self.held.get_mut(as_usize(sequence.wrapping_sub(self.first)))
    }

    /// Bytes between what is released and where the consumer is.
    fn held_back(&self) -> u64 {
        self.held.back().map_or(0, |last| last.end.wrapping_sub(self.cursor.released))
    }

    /// Releases the entries at the front that are done.
    fn advance(&mut self) {
        while let Some(front) = self.held.front()
            && front.is_done
        {
            self.cursor.released = front.end;
            self.held.pop_front();
            self.first += 1;
        }
    }
}
