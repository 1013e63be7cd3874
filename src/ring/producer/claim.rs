//! A slot that is claimed, filled and published.

use super::Producer;
use crate::ring::frame::{Commit, Header};
use crate::ring::position::span;
use crate::sync::Ordering;
use crate::sync::mutant::{self, Mutant};

/// A reserved slot. Dropping it gives the slot back unpublished.
#[derive(Debug)]
#[must_use = "a claim that is dropped publishes nothing"]
pub struct Claim<'a> {
    producer: &'a mut Producer,
}

impl<'a> Claim<'a> {
    /// Of what was reserved last.
    #[inline]
    pub(super) fn of(producer: &'a mut Producer) -> Self {
        Self { producer }
    }
}

impl Claim<'_> {
    /// The payload's bytes, to be filled. What they hold before is left over from
    /// earlier frames.
    #[inline]
    pub fn payload(&mut self) -> &mut [u8] {
        // Always there: a span was claimed that is contiguous.
        let Producer { slots, start, len, .. } = &mut *self.producer;
        slots.payload_mut(*start, *len)
    }

    /// Shortens the payload to its first `len` bytes; longer is not possible.
    pub fn truncate(&mut self, len: usize) {
        if len < self.producer.len {
            self.producer.len = len;
            // A shorter frame may fit before the ring's end, but it has been filled where
            // it is: the padding stays.
            self.producer.clear(self.next());
        }
    }

    #[inline]
    fn next(&self) -> u64 {
        self.producer.start.wrapping_add(span(self.producer.len))
    }

    /// Publishes the frame and wakes the consumer if it sleeps for it. The header's
    /// length is set to the payload's. Never blocks. Returns whether it had to wake it.
    #[inline]
    pub fn commit(self, header: Header) -> bool {
        let producer = self.publish(header);
        let wakes = producer.wakes;
        producer.ring_if_awaited();
        producer.wakes != wakes
    }

    /// Publishes the frame, but looks for a sleeping consumer only once in 2 KiB: for
    /// streams of small frames. [`Producer::flush`] must follow before the caller waits
    /// for anything.
    #[inline]
    pub fn commit_lazily(self, header: Header) {
        self.publish(header).ring_now_and_then();
    }

    #[inline]
    fn publish<'p>(self, header: Header) -> &'p mut Producer
    where
        Self: 'p,
    {
        let next = self.next();
        self.publish_up_to(header, next)
    }

    /// Publishes the frame, and those behind it up to `next` with it: they are committed.
    #[inline]
    pub(super) fn publish_up_to<'p>(self, header: Header, next: u64) -> &'p mut Producer
    where
        Self: 'p,
    {
        let producer = self.producer;
        let Producer { start, padding, .. } = *producer;
        producer.write_header(start, header);
        let slots = &producer.slots;
        crate::failpoint::failpoint!("before commit");
        let pad = || {
            let order = mutant::order(Mutant::PaddingRelaxed, Ordering::Release);
            slots.line(producer.tail).store(0, Commit::padding(producer.tail), order);
        };
        if padding != 0 && mutant::chosen(Mutant::PaddingFirst) {
            pad();
        }
        // Pairs with the Acquire load in `Consumer::poll`: header, payload and the next
        // slot's commit word, which says nothing yet, are visible to whoever sees this.
        let order = mutant::order(Mutant::CommitRelaxed, Ordering::Release);
        slots.line(start).store(0, Commit::frame(start), order);
        crate::failpoint::failpoint!("after commit");
        if padding != 0 && !mutant::chosen(Mutant::PaddingFirst) {
            // Only now can the consumer get past the padding, to a slot that is complete:
            // pairs with the Acquire load in `Consumer::poll` too.
            pad();
        }
        if mutant::chosen(Mutant::NextClearedLate) {
            slots.line(next).store(0, 0, Ordering::Relaxed);
        }
        // What the next small frame will write: its second line and the header behind it.
        slots.prefetch(next.wrapping_add(64));
        slots.prefetch(next.wrapping_add(128));
        producer.tail = next;
        producer
    }
}
