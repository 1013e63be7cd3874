//! Slots that are claimed now, and filled and published later, by any thread and in any order.
//!
//! A [`Claim`](super::Claim) borrows the producer, so that there is one at a time. A worker that
//! serves many requests claims slots under a lock and fills them without it:
//!
//! ```text
//!   thread 1                      thread 2                    reader
//!   claim A  (locked)
//!                                 claim B  (locked)
//!                                 fill B
//!                                 publish B  (locked)         waits at A
//!   fill A
//!   publish A  (locked)                                       reads A, then B
//! ```
//!
//! The reader stops at a slot that is not published. So nothing that was claimed later is read
//! before it, and a slot that is claimed must be published soon, in any case.
//!
//! The producer's checks of what the peer says stop at the first open slot, and not at the tail: a
//! peer that claims to have released a slot that is still being filled is corrupt.
#![allow(unsafe_code, reason = "slots are handed out while others are still being filled")]

use std::collections::VecDeque;

use crate::ring::commit::Commit;
use crate::ring::header::Header;
use crate::shm::layout::as_u32;
use crate::shm::slots::{OwnSlot, OwnSlots};
use crate::sync::Ordering;

/// A claimed slot. The producer that it is of must publish it.
#[derive(Debug)]
pub(crate) struct OpenSlot {
    slot: OwnSlot,
    /// Where it begins in the ring: at the padding before it, if there is one.
    first: u64,
    start: u64,
}

impl OpenSlot {
    /// The bytes of the payload, to be filled. At first they hold what is left of earlier
    /// frames.
    pub(crate) fn payload(&mut self) -> &mut [u8] {
        self.slot.payload_mut()
    }

    pub(crate) fn len(&self) -> usize {
        self.slot.len()
    }

    /// Publishes the frame, once it has left the list of open slots.
    fn publish(&self, header: Header) {
        let Self { slot, first, start } = self;
        let header = Header { len: as_u32(slot.len()), ..header };
        let line = slot.line(*start);
        let [first_word, others @ ..] = header.to_words();
        line.store(1, first_word, Ordering::Relaxed);
        crate::failpoint::failpoint!("half the header");
        for (index, word) in others.into_iter().enumerate() {
            line.store(index + 2, word, Ordering::Relaxed);
        }
        crate::failpoint::failpoint!("before commit");
        // Release: pairs with the Acquire load in `SlotReader::commit_word`.
        line.store(0, Commit::frame(*start), Ordering::Release);
        crate::failpoint::failpoint!("after commit");
        if first != start {
            // Release: pairs with the same load.
            slot.line(*first).store(0, Commit::padding(*first), Ordering::Release);
        }
    }
}

/// The open slots of a producer, in ring order, by where they begin.
#[derive(Debug, Default)]
pub(super) struct OpenSlots(VecDeque<u64>);

impl OpenSlots {
    /// Hands out the slot from `first` on, whose header is at `start`.
    pub(super) fn open(
        &mut self,
        slots: &OwnSlots,
        (first, start): (u64, u64),
        len: usize,
    ) -> OpenSlot {
        self.0.push_back(first);
        // SAFETY: the producer has claimed the slot and moves its tail behind it. It hands the
        // bytes out again only once the reader has released them, and it believes no head
        // that is beyond the first slot in this list: see `Producer::look_at_head`. The slot
        // leaves the list when it is published, which consumes its handle.
        let slot = unsafe { slots.detach(start, len) };
        OpenSlot { slot, first, start }
    }

    pub(super) fn publish(&mut self, slot: OpenSlot, header: Header) {
        // From here on the reader may release it.
        self.0.retain(|first| *first != slot.first);
        slot.publish(header);
    }

    /// Where the first open slot begins; the tail, if there is none.
    #[inline]
    pub(super) fn first_or(&self, tail: u64) -> u64 {
        self.0.front().copied().unwrap_or(tail)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
