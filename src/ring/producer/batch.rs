//! Slots that are claimed, filled and published together.
//!
//! The consumer stops at the first slot until that is committed. So the others are
//! committed before it, and one Release store publishes all of them; one commit word is
//! cleared, and one look at the sleeping consumer taken, for the whole batch.

use super::{Claim, Producer};
use crate::ring::frame::{Commit, Header};
use crate::ring::position::{span, to_end};
use crate::shm::layout::{as_u64, as_usize};
use crate::sync::Ordering;
use crate::sync::mutant::{self, Mutant};

/// Reserved slots of one length, one behind the other. Dropping it gives all of them back
/// unpublished.
#[derive(Debug)]
#[must_use = "a batch that is dropped publishes nothing"]
pub struct Batch<'a> {
    producer: &'a mut Producer,
    count: usize,
}

impl Producer {
    /// Claims the slot that was reserved, and up to `count` with it.
    #[inline]
    pub(crate) fn claim_batch_reserved(&mut self, count: usize) -> Batch<'_> {
        if count == 0 {
            return Batch { producer: self, count };
        }
        let (one, span) = (span(0), span(self.len));
        // The slot behind the last one must be free too, for its commit word.
        let taken = self.start.wrapping_sub(self.head) + one;
        let free = self.capacity.saturating_sub(taken) / span;
        let in_a_row = to_end(self.start, self.capacity) / span;
        // At least one: that much room was found.
        let count = count.min(as_usize(free.min(in_a_row))).max(1);
        crate::failpoint::failpoint!("claim");
        let end = self.start.wrapping_add(as_u64(count).wrapping_mul(span));
        self.clear(end);
        Batch { producer: self, count }
    }
}

impl Batch<'_> {
    /// How many slots there are: at least one, unless none was asked for.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no slot.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The payload's bytes of the slot with this index, to be filled; none if there is no such
    /// slot. What they hold before is left over from earlier frames.
    #[inline]
    pub fn payload(&mut self, index: usize) -> &mut [u8] {
        if index >= self.count {
            return &mut [];
        }
        let start = self.start_of(index);
        let Producer { slots, len, .. } = &mut *self.producer;
        // Always there: the slots lie in a row before the ring's end.
        slots.payload_mut(start, *len)
    }

    #[inline]
    fn start_of(&self, index: usize) -> u64 {
        let span = span(self.producer.len);
        self.producer.start.wrapping_add(as_u64(index).wrapping_mul(span))
    }

    /// Publishes all frames, each with the header that `header` makes for its index and the
    /// length of the payload, and wakes the consumer if it sleeps for the first. Never blocks.
    /// Returns whether it had to wake it.
    #[inline]
    pub fn commit(self, header: impl FnMut(usize) -> Header) -> bool {
        let producer = self.publish(header);
        let wakes = producer.wakes;
        producer.ring_if_awaited();
        producer.wakes != wakes
    }

    /// Publishes all frames, but looks for a sleeping consumer only once in 2 KiB, as
    /// [`Claim::commit_lazily`] does.
    #[inline]
    pub fn commit_lazily(self, header: impl FnMut(usize) -> Header) {
        self.publish(header).ring_now_and_then();
    }

    #[inline]
    fn publish<'p>(self, mut header: impl FnMut(usize) -> Header) -> &'p mut Producer
    where
        Self: 'p,
    {
        if self.count == 0 {
            return self.producer;
        }
        let end = self.start_of(self.count);
        let is_first_early = mutant::chosen(Mutant::BatchFirstEarly);
        for index in 1..self.count {
            if is_first_early && index == 1 {
                self.commit_one(0, header(0), Ordering::Release);
            }
            // Relaxed: the first frame's commit word, which the consumer sees before it can
            // look at this one, is stored with Release behind it.
            self.commit_one(index, header(index), Ordering::Relaxed);
        }
        Claim::of(self.producer).publish_up_to(header(0), end)
    }

    #[inline]
    fn commit_one(&self, index: usize, header: Header, order: Ordering) {
        let start = self.start_of(index);
        self.producer.write_header(start, header);
        self.producer.slots.line(start).store(0, Commit::frame(start), order);
    }
}
