//! The slots of a ring as the producer writes them.
//!
//! # How a frame is published
//!
//! There is no shared tail. The reader polls the commit word of the slot that it waits for,
//! so that one cache line carries a small frame. For a frame in slot A, with slot B behind it:
//!
//! ```text
//!   writer                                      reader
//!   1  B.commit = nothing        (Relaxed)
//!   2  A.header, A.payload       (Relaxed)
//!   3  A.commit = A | 1          (Release) -->  4  load A.commit         (Acquire)
//!                                               5  load A.header, A.payload
//!                                               6  load B.commit         (Acquire)
//! ```
//!
//! If load 4 sees store 3, then 1 and 2 happened before 5 and 6. So 5 sees all of the frame,
//! and 6 cannot see what an earlier lap left in B. Store 1 is why a frame needs room for one
//! header more than its own slot. It is left out if the word says "nothing" already: a frame of
//! the last lap that began at this position left such a word (`commit.rs`).
//!
//! # Padding
//!
//! Slots are contiguous. If a frame does not fit before the ring's end, or an empty ring begins anew,
//! padding fills the rest and the frame's slot starts at the ring's first byte:
//!
//! ```text
//!                     P                 end
//!   | frame C | B |...| padding ........ |
//!     ^ second                 ^ first in ring order
//!
//!   1  B.commit = nothing        (Relaxed)
//!   2  C.header, C.payload       (Relaxed)
//!   3  C.commit = C | 1          (Release)
//!   4  P.commit = P | 2          (Release)
//! ```
//!
//! The reader waits at P and cannot get to C before store 4, which publishes all of C. So a
//! reader that finds padding with nothing behind it knows that the peer is corrupt.
//!
//! # Batches
//!
//! The reader stops at the first slot of a batch. So the commit words of the others are stored
//! before, Relaxed, and the Release store of the first one publishes them all:
//!
//! ```text
//!   1  commit word behind the last slot = nothing
//!   2  headers and commit words of slots 2 to n     (Relaxed)
//!   3  commit word of slot 1                        (Release)
//! ```
//!
//! A group is published in the same way, and comes one by one. The first word of it that a reader
//! looks at is held back until [`LAZY`] bytes have come or the writer is flushed.

use crate::config::CopyChoices;
use crate::error::Result;
use crate::ring::commit::Commit;
use crate::ring::copy_choice::{CopyChoice, FINDINGS, Look};
use crate::ring::doorbell::{Bell, announced_position};
use crate::ring::ends::Ends;
use crate::ring::header::Header;
use crate::ring::history::{History, PublishedFrame};
use crate::ring::open_slot::{OpenSlot, OpenSlots};
use crate::ring::position::span;
use crate::shm::layout::{RingLayout, as_u32, as_u64};
use crate::shm::slots::OwnSlots;
use crate::shm::words::{OwnU32, OwnU64, PeerU64};
use crate::sync::{Ordering, fence};
use crate::sys::clock::now_ns;
use crate::sys::copy::use_routine;

/// Bytes of slots after which a lazy commit looks for a sleeping consumer, and a group is published.
const LAZY: u64 = 2 << 10;

/// Writes slots, publishes them and wakes the consumer. Knows nothing of the room that there
/// is.
#[derive(Debug)]
pub(super) struct SlotWriter {
    slots: OwnSlots,
    peer_sleep_at: PeerU64,
    checked: OwnU64,
    bell: Bell,
    capacity: u64,
    /// Where the next slot starts. Never read back from shared memory.
    tail: u64,
    /// The claimed slot: where it starts, the padding before it and the length of its payload.
    /// Stored here so that a `Claim` is one pointer wide.
    start: u64,
    padding: u64,
    len: usize,
    /// The sleep word has been checked for all frames before this position.
    notified: u64,
    wakes: u64,
    /// The position for which the consumer had to be woken last.
    woken_at: u64,
    /// Where the group begins that is not published yet, and the word that publishes it.
    held: Option<(u64, u64)>,
    /// Slots that are filled without the writer.
    open: OpenSlots,
    /// How payloads are copied into slots, and the consumer's head for that.
    copies: CopyChoice,
    peer_head: PeerU64,
    /// Tells the peer of the choice.
    copies_word: OwnU32,
}

impl SlotWriter {
    pub(super) fn new(ends: &Ends<'_>, layout: &RingLayout) -> Result<Self> {
        let Ends { own, peer, words, .. } = ends;
        let checked = own.u64_at(words.checked)?;
        checked.store(layout.origin, Ordering::Relaxed);
        Ok(Self {
            slots: own.slots(layout)?,
            peer_sleep_at: peer.u64_at(words.sleep_at)?,
            checked,
            bell: ends.bell()?,
            capacity: layout.capacity,
            tail: layout.origin,
            start: layout.origin,
            padding: 0,
            len: 0,
            notified: layout.origin,
            wakes: 0,
            woken_at: layout.origin,
            held: None,
            open: OpenSlots::default(),
            copies: CopyChoice::new(layout.capacity, ends.tuning.copy, &FINDINGS),
            peer_head: peer.u64_at(words.head)?,
            copies_word: own.u32_at(words.copies)?,
        })
    }

    /// See [`History::step`]. The ring's first frame is at `origin`.
    pub(super) fn look_back(
        &self,
        history: &mut History,
        origin: u64,
        most: usize,
        see: impl FnMut(&PublishedFrame<'_>),
    ) -> bool {
        history.step(&self.slots, (origin, self.tail, self.capacity), most, see)
    }

    #[inline]
    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    #[inline]
    pub(super) fn tail(&self) -> u64 {
        self.tail
    }

    /// Where the reserved slot starts.
    #[inline]
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// The length of the reserved slot's payload.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn copies(&self) -> CopyChoices {
        self.copies.found()
    }

    /// See [`CopyChoice::note_full`].
    pub(super) fn note_full(&mut self) {
        self.copies.note_full();
    }

    pub(super) fn wakes(&self) -> u64 {
        self.wakes
    }

    pub(super) fn prefault(&self) {
        self.slots.prefault();
    }

    /// See [`OwnSlots::make_pages`].
    pub(super) fn make_pages(&self, from: u64, to: u64) -> Result<()> {
        self.slots.make_pages(from, to)
    }

    /// Reserves the slot behind the tail, after that much padding.
    #[inline]
    pub(super) fn reserve(&mut self, padding: u64, len: usize) {
        self.padding = padding;
        self.start = self.tail.wrapping_add(padding);
        self.len = len;
    }

    /// Prepares `count` slots of the reserved length for being filled.
    #[inline]
    pub(super) fn claim(&mut self, count: usize) {
        crate::failpoint::failpoint!("claim");
        self.clear(self.start_of(count));
        if CopyChoice::is_for(self.len) {
            self.choose_copy(count);
        }
    }

    /// Chooses how this thread copies into the claimed slots. Not inlined, so that claims of short
    /// payloads stay small.
    #[inline(never)]
    fn choose_copy(&mut self, count: usize) {
        let bytes = as_u64(count).wrapping_mul(span(self.len));
        let Self { copies, peer_head, tail, .. } = self;
        // Relaxed: nothing is filled or freed by this. A head that cannot be misleads the choice.
        let in_flight = || tail.wrapping_sub(peer_head.load(Ordering::Relaxed));
        let look = || Look { now: now_ns(), in_flight: in_flight() };
        use_routine(copies.choose(self.len, bytes, look));
        if let Some(news) = copies.take_news() {
            // Relaxed: for statistics of the peer's.
            self.copies_word.store(news, Ordering::Relaxed);
        }
    }

    /// Clears a commit word, if it does not say "nothing" already. Done before the payload is
    /// filled: stores become visible in order, and this line may have to be fetched.
    #[inline]
    fn clear(&self, next: u64) {
        let line = self.slots.line(next);
        if !Commit::is_nothing(line.load(0), next, self.capacity) {
            line.store(0, 0, Ordering::Relaxed);
        }
    }

    /// Where the slot with this index starts, of slots of the reserved length in a row.
    #[inline]
    fn start_of(&self, index: usize) -> u64 {
        self.start.wrapping_add(as_u64(index).wrapping_mul(span(self.len)))
    }

    /// The payload of the slot with this index. Empty if it does not fit before the ring's end,
    /// which a claimed slot does.
    #[inline]
    pub(super) fn payload_mut(&mut self, index: usize) -> &mut [u8] {
        let start = self.start_of(index);
        self.slots.payload_mut(start, self.len)
    }

    /// Shortens the payload of the one claimed slot.
    pub(super) fn truncate(&mut self, len: usize) {
        self.len = len;
        // The padding stays, even if the shorter frame would fit before the ring's end: the
        // payload has been filled where it is.
        self.clear(self.start_of(1));
    }

    /// Everything of a frame's header but its commit word.
    #[inline]
    fn write_header(&self, start: u64, header: Header) {
        // Always fits: `len` was checked against the cap, which came from a u32.
        let header = Header { len: as_u32(self.len), ..header };
        let line = self.slots.line(start);
        let [first, second, third] = header.to_words();
        line.store(1, first, Ordering::Relaxed);
        crate::failpoint::failpoint!("half the header");
        line.store(2, second, Ordering::Relaxed);
        line.store(3, third, Ordering::Relaxed);
    }

    /// Publishes the claimed slot.
    #[inline]
    pub(super) fn publish(&mut self, header: Header) {
        self.publish_up_to(header, self.start_of(1));
    }

    /// Publishes the claimed slots, with the header that `header` makes for each index.
    #[inline]
    pub(super) fn publish_batch(&mut self, count: usize, mut header: impl FnMut(usize) -> Header) {
        let end = self.start_of(count);
        for index in 1..count {
            // Relaxed: the reader looks at this word only after the first slot's, which is
            // stored later with Release.
            self.commit_one(index, header(index), Ordering::Relaxed);
        }
        self.publish_up_to(header(0), end);
    }

    #[inline]
    fn commit_one(&self, index: usize, header: Header, order: Ordering) {
        let start = self.start_of(index);
        self.write_header(start, header);
        self.slots.line(start).store(0, Commit::frame(start), order);
    }

    /// Publishes the reserved slot, and those up to `next` that are committed already.
    #[inline]
    fn publish_up_to(&mut self, header: Header, next: u64) {
        let Self { start, padding, .. } = *self;
        self.write_header(start, header);
        let slots = &self.slots;
        crate::failpoint::failpoint!("before commit");
        // Release: pairs with the Acquire load in `SlotReader::commit_word`.
        slots.line(start).store(0, Commit::frame(start), Ordering::Release);
        crate::failpoint::failpoint!("after commit");
        if padding != 0 {
            // Release: pairs with the same load.
            slots.line(self.tail).store(0, Commit::padding(self.tail), Ordering::Release);
        }
        self.advance(next);
    }

    /// Moves the tail behind a frame.
    #[inline]
    fn advance(&mut self, next: u64) {
        // What the next small frame will write: its second line and the header behind it.
        self.slots.prefetch(next.wrapping_add(64));
        self.slots.prefetch(next.wrapping_add(128));
        self.tail = next;
    }

    /// Adds the claimed slot to the group that is published together, and notifies then. Between
    /// the slots of a group no other slot is published.
    #[inline]
    pub(super) fn publish_in_group(&mut self, header: Header) {
        let Self { start, tail, .. } = *self;
        self.write_header(start, header);
        let mut first = Commit::frame(start);
        // Relaxed, here and below: as in `publish_batch`.
        if self.padding != 0 {
            self.slots.line(start).store(0, first, Ordering::Relaxed);
            first = Commit::padding(tail);
        }
        match self.held {
            Some(_) => self.slots.line(tail).store(0, first, Ordering::Relaxed),
            None => self.held = Some((tail, first)),
        }
        self.advance(self.start_of(1));
        self.notify_now_and_then();
    }

    /// Publishes what is held back.
    fn publish_group(&mut self) {
        if let Some((at, first)) = self.held.take() {
            // Release: pairs with the Acquire load in `SlotReader::commit_word`.
            self.slots.line(at).store(0, first, Ordering::Release);
        }
    }

    /// Claims the reserved slot for being filled without the writer.
    pub(super) fn open(&mut self) -> OpenSlot {
        self.claim(1);
        let at = (self.tail, self.start);
        self.tail = self.start_of(1);
        self.open.open(&self.slots, at, self.len)
    }

    /// Publishes a slot that was opened, and notifies.
    pub(super) fn publish_open(&mut self, slot: OpenSlot, header: Header) -> bool {
        self.open.publish(slot, header);
        crate::failpoint::failpoint!("before notify");
        self.notify_up_to(self.published())
    }

    /// Publishes a slot that was opened, and notifies once in [`LAZY`] bytes.
    pub(super) fn publish_open_lazily(&mut self, slot: OpenSlot, header: Header) {
        self.open.publish(slot, header);
        if self.published().wrapping_sub(self.notified).cast_signed() >= LAZY.cast_signed() {
            self.notify_published();
        }
    }

    /// Notifies if a slot that was opened is published and that has not been done for it.
    pub(super) fn notify_published(&mut self) {
        let end = self.published();
        if self.notified != end {
            self.notify_up_to(end);
        }
    }

    /// Whether the consumer has said that it sleeps for the next frame, and at most `most` bytes came since
    /// it last had to be woken.
    pub(super) fn is_awaited_after(&self, most: u64) -> bool {
        // Relaxed: a hint.
        let awaited = announced_position(self.peer_sleep_at.load(Ordering::Relaxed));
        awaited == self.tail && self.tail.wrapping_sub(self.woken_at) <= most
    }

    /// Up to where all slots are published.
    pub(super) fn published(&self) -> u64 {
        self.open.first_or(self.held.map_or(self.tail, |(at, _)| at))
    }

    /// Wakes the consumer if it sleeps for a frame that was published since the last call.
    /// Returns whether it did.
    #[inline]
    pub(super) fn notify(&mut self) -> bool {
        debug_assert_eq!(self.held, None);
        self.notify_up_to(self.tail)
    }

    /// Wakes the consumer if it sleeps for a frame before `end` for which that has not been checked.
    /// Behind `end`, a slot may be open: a consumer that waits for that one cannot read what was
    /// published behind it.
    #[inline(always)]
    fn notify_up_to(&mut self, end: u64) -> bool {
        fence(Ordering::SeqCst); // B, pairs with A in the consumer's wait
        let awaited = self.peer_sleep_at.load(Ordering::Relaxed);
        let is_awaited = self.bell.ring_if_awaited(awaited, self.notified, end);
        if is_awaited {
            self.wakes += 1;
            self.woken_at = announced_position(awaited);
        }
        self.notified = end;
        // Release: pairs with the Acquire load in `Consumer::has_notified_taken`.
        self.checked.store(end, Ordering::Release);
        is_awaited
    }

    /// Notifies if there is a frame for which that has not been done. For slots that were opened
    /// it is done when they are published.
    #[inline]
    pub(super) fn flush(&mut self) {
        if self.notified != self.tail && self.open.is_empty() {
            self.publish_group();
            self.notify();
        }
    }

    /// Notifies once in [`LAZY`] bytes, of a group as well.
    #[inline]
    pub(super) fn notify_now_and_then(&mut self) {
        if self.tail.wrapping_sub(self.notified) >= LAZY {
            self.notify_late();
        }
    }

    /// Not inlined, so that a caller's loop over lazy commits stays small.
    #[inline(never)]
    fn notify_late(&mut self) {
        self.publish_group();
        self.notify();
    }
}
