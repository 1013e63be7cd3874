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

use std::collections::VecDeque;

use crate::error::Result;
use crate::ring::doorbell::Bell;
use crate::ring::ends::Ends;
use crate::shm::bytes::PeerBytes;
use crate::shm::layout::{RingLayout, as_u64, as_usize};
use crate::shm::slots::PeerSlots;
use crate::shm::words::{OwnU64, PeerU64};
use crate::sync::{Counter, Mutex, MutexGuard, Ordering, fence};
use crate::sys::fork;

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
}

#[derive(Debug)]
struct Held {
    end: u64,
    request: u64,
    is_done: bool,
}

impl Reclaim {
    /// All slots before `origin` are released.
    pub(super) fn new(ends: &Ends<'_>, layout: &RingLayout) -> Result<Self> {
        let Ends { own, peer, words, .. } = ends;
        let head = own.u64_at(words.head)?;
        head.store(layout.origin, Ordering::Relaxed);
        let cursor = Cursor { released: layout.origin, published: layout.origin };
        let queue = Queue { cursor, first: 0, held: VecDeque::with_capacity(FEW) };
        Ok(Self {
            slots: peer.slots(layout)?,
            head,
            peer_space_at: peer.u64_at(words.space_at)?,
            bell: ends.bell()?,
            leased: Counter::new(0),
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
        queue.held.push_back(Held { end, request, is_done: false });
        self.leased.fetch_add(1, Ordering::Relaxed);
        sequence
    }

    /// Gives a frame back that was kept.
    pub(super) fn give_back(&self, sequence: u64) {
        let Some(mut queue) = self.queue() else { return };
        let index = as_usize(sequence.wrapping_sub(queue.first));
        if let Some(held) = queue.held.get_mut(index) {
            held.is_done = true;
        }
        queue.advance();
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
            _ => queue.held.push_back(Held { end, request, is_done: true }),
        }
        // The leases before it may all be gone by now.
        queue.advance();
        let Cursor { released, published } = queue.cursor;
        if released.wrapping_sub(published) >= batch {
            self.publish_released(&mut queue.cursor);
        }
        queue.held.is_empty().then_some(queue.cursor)
    }
}

impl Queue {
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
