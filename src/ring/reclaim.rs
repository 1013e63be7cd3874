//! Slots on their way back to the producer, and frames that are kept meanwhile.
//!
//! As long as no lease is out the consumer has the cursor to itself and takes no lock.
//! The first lease hands it over to [`Returns`], behind a lock that the consumer and
//! whoever drops a lease share; it goes back when nothing is held any more.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::ring::doorbell::Bell;
use crate::ring::frame::Header;
use crate::shm::bytes::PeerBytes;
use crate::shm::layout::{as_u64, as_usize};
use crate::shm::region::{OwnU64, PeerU64};
use crate::shm::slots::PeerSlots;
use crate::sync::mutant::{self, Mutant};
use crate::sync::{Counter, Mutex, MutexGuard, Ordering};
use crate::sys::fork;

/// A frame that outlives the poll that found it. It may be sent to another thread;
/// leases may be dropped in any order. Dropping it releases its slot; until then the
/// slot, and all that follow it, cannot be filled anew.
#[derive(Debug)]
pub struct Lease {
    header: Header,
    slot: LeasedSlot,
}

impl Lease {
    pub(super) fn new(header: Header, slot: LeasedSlot) -> Self {
        Self { header, slot }
    }

    /// The validated private copy of the header.
    #[must_use]
    pub fn header(&self) -> Header {
        self.header
    }

    /// The payload, in memory that the peer can write.
    #[must_use]
    #[inline]
    pub fn payload(&self) -> PeerBytes<'_> {
        self.slot.payload()
    }
}

/// A lease without its frame's header.
#[derive(Debug)]
pub(crate) struct LeasedSlot {
    shared: Arc<Shared>,
    start: u64,
    sequence: u64,
    len: u32,
}

impl LeasedSlot {
    /// Keeps the frame from `start` to `end`. Takes the consumer's cursor, if it has it.
    pub(super) fn new(
        shared: &Arc<Shared>,
        cursor: Option<Cursor>,
        header: Header,
        start: u64,
        end: u64,
    ) -> Self {
        let Some(mut returns) = shared.returns() else {
            // The slot is the parent's to give back, and this its copy of the frame.
            return Self { shared: Arc::clone(shared), start, sequence: 0, len: header.len };
        };
        if let Some(cursor) = cursor
            && !mutant::chosen(Mutant::CursorNotHandedOver)
        {
            returns.cursor = cursor;
        }
        let sequence = returns.first + as_u64(returns.held.len());
        returns.held.push_back(Held { end, request: header.request, is_done: false });
        shared.leased.fetch_add(1, Ordering::Relaxed);
        Self { shared: Arc::clone(shared), start, sequence, len: header.len }
    }

    #[inline]
    pub(crate) fn payload(&self) -> PeerBytes<'_> {
        payload(&self.shared.slots, self.start, self.len)
    }
}

impl Drop for LeasedSlot {
    fn drop(&mut self) {
        // In a forked child the slot is the parent's to give back.
        let Some(mut returns) = self.shared.returns() else { return };
        let index = as_usize(self.sequence.wrapping_sub(returns.first));
        if let Some(held) = returns.held.get_mut(index) {
            held.is_done = true;
        }
        returns.settle();
        // At once: whoever waits for frames may sleep already and not come back to do it.
        if !mutant::chosen(Mutant::LeaseNotPublished) {
            self.shared.publish(&mut returns.cursor);
        }
        self.shared.leased.fetch_sub(1, Ordering::Relaxed);
    }
}

#[inline]
pub(super) fn payload(slots: &PeerSlots, start: u64, len: u32) -> PeerBytes<'_> {
    // Always there: `take` checked that the frame ends before the ring does.
    slots.payload(start, as_usize(u64::from(len)))
}

/// Slots that can wait for an older one before remembering them takes an allocation: the
/// leases that a reader has out by itself, and the paddings between them.
const FEW: usize = 64;

/// How many leases of a ring are out.
#[derive(Debug)]
pub(crate) struct LeaseGauge(Arc<Shared>);

impl LeaseGauge {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self(Arc::clone(shared))
    }

    pub(crate) fn held(&self) -> usize {
        self.0.leased()
    }
}

/// What leases and the consumer share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) slots: PeerSlots,
    pub(super) head: OwnU64,
    peer_space_at: PeerU64,
    bell: Bell,
    /// Leases that are out.
    leased: Counter,
    returns: Mutex<Returns>,
}

/// How far slots are released, and how much of that the producer has been told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    pub(super) released: u64,
    pub(super) published: u64,
}

/// Slots that could not be released in ring order yet. The front, if there is one, is
/// never done.
#[derive(Debug)]
struct Returns {
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

impl Shared {
    pub(super) fn new(
        slots: PeerSlots,
        head: OwnU64,
        peer_space_at: PeerU64,
        bell: Bell,
        cursor: Cursor,
    ) -> Self {
        let returns = Mutex::new(Returns { cursor, first: 0, held: VecDeque::with_capacity(FEW) });
        Self { slots, head, peer_space_at, bell, leased: Counter::new(0), returns }
    }

    #[cfg(all(test, feature = "tokio", not(loom)))]
    pub(super) fn hold(&self) -> impl Sized {
        self.returns.lock()
    }

    pub(super) fn leased(&self) -> usize {
        as_usize(self.leased.load(Ordering::Relaxed))
    }

    /// What leases and the consumer share; `None` in a forked child, where the lock may be
    /// held by a thread that is not there.
    fn returns(&self) -> Option<MutexGuard<'_, Returns>> {
        if fork::is_forked_child() { None } else { Some(self.returns.lock()) }
    }

    /// Tells the producer how far slots are released, and wakes it if it waits for that.
    pub(super) fn publish(&self, cursor: &mut Cursor) {
        let Cursor { released, published } = *cursor;
        if released == published {
            return;
        }
        // Pairs with the Acquire load in `Producer::look_at_head`: reads of the released
        // slots happen before they are filled anew.
        crate::failpoint::failpoint!("before head");
        self.head.store(released, mutant::order(Mutant::HeadRelaxed, Ordering::Release));
        crate::failpoint::failpoint!("after head");
        mutant::full_fence(Mutant::NoFenceAfterHead); // B, pairs with A in the producer's wait
        let awaited = self.peer_space_at.load(Ordering::Relaxed);
        let past = if mutant::chosen(Mutant::HeadNotRungFor) { 0 } else { 1 };
        self.bell.ring_if_awaited(awaited, published.wrapping_add(1), released.wrapping_add(past));
        cursor.published = released;
    }

    /// As [`Shared::publish`], while leases are out.
    pub(super) fn publish_all(&self) {
        if let Some(mut returns) = self.returns() {
            self.publish(&mut returns.cursor);
        }
    }

    /// What the producer has been told, while leases are out.
    pub(super) fn published(&self) -> u64 {
        self.returns().map_or(0, |returns| returns.cursor.published)
    }

    /// Requests whose leases are out, oldest first, and how far slots are released.
    pub(super) fn holders(&self) -> (Vec<u64>, u64) {
        let Some(returns) = self.returns() else { return (Vec::new(), 0) };
        let held = returns.held.iter().filter(|held| !held.is_done);
        (held.map(|held| held.request).collect(), returns.cursor.released)
    }

    /// Releases a frame that ends at `end`, behind leases that may be out; publishes what
    /// that frees if it is at least `batch` bytes. Returns the cursor once nothing is held.
    pub(super) fn release_behind_leases(
        &self,
        end: u64,
        request: u64,
        batch: u64,
    ) -> Option<Cursor> {
        let mut returns = self.returns()?;
        match returns.held.back_mut() {
            _ if mutant::chosen(Mutant::FrameReleasesLease) => returns.cursor.released = end,
            Some(last) if last.is_done => last.end = end,
            _ => returns.held.push_back(Held { end, request, is_done: true }),
        }
        // The leases before it may all be gone by now.
        returns.settle();
        let Cursor { released, published } = returns.cursor;
        if released.wrapping_sub(published) >= batch {
            self.publish(&mut returns.cursor);
        }
        let is_free = returns.held.is_empty() || mutant::chosen(Mutant::CursorTakenEarly);
        is_free.then_some(returns.cursor)
    }
}

impl Returns {
    fn settle(&mut self) {
        while let Some(front) = self.held.front()
            && (front.is_done || mutant::chosen(Mutant::LeaseOutOfOrder))
        {
            self.cursor.released = front.end;
            self.held.pop_front();
            self.first += 1;
        }
    }
}
