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
//! When a slot is shortened, later slots may be claimed already. So its end does not move: a second
//! frame, the *filler*, takes the lines that are left.
//!
//! The producer's checks of what the peer says stop at the first open slot, and not at the tail: a
//! peer that claims to have released a slot that is still being filled is corrupt.
#![allow(unsafe_code, reason = "slots are handed out while others are still being filled")]

use std::collections::VecDeque;

use crate::config::FRAME_HEADER;
use crate::ring::commit::Commit;
use crate::ring::header::Header;
use crate::ring::position::span;
use crate::shm::layout::{as_u32, as_usize};
use crate::shm::slots::{OwnSlot, OwnSlots};
use crate::sync::Ordering;

/// A claimed slot. The producer that it is of must publish it.
#[derive(Debug)]
pub(crate) struct OpenSlot {
    slot: OwnSlot,
    /// The bytes of the payload that are sent.
    len: usize,
    /// Of the frame that fills what a shorter payload leaves.
    filler: Header,
    /// Where it begins in the ring: at the padding before it, if there is one.
    first: u64,
    start: u64,
}

impl OpenSlot {
    /// The bytes of the payload, to be filled. At first they hold what is left of earlier
    /// frames.
    pub(crate) fn payload(&mut self) -> &mut [u8] {
        self.slot.payload_mut().get_mut(..self.len).unwrap_or_default()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Shortens the payload to its first `len` bytes. Does nothing if it is not longer than that.
    /// A frame with the header `filler` takes the lines of the slot that are left, if there are any.
    pub(crate) fn truncate(&mut self, len: usize, filler: Header) {
        if len < self.len {
            self.len = len;
            self.filler = filler;
        }
    }

    /// Publishes the frame, once it has left the list of open slots.
    fn publish(&self, header: Header) {
        let Self { slot, len, first, start, .. } = self;
        self.write_filler();
        self.write_header(*start, Header { len: as_u32(*len), ..header });
        crate::failpoint::failpoint!("before commit");
        // Release: pairs with the Acquire load in `SlotReader::commit_word`.
        slot.line(*start).store(0, Commit::frame(*start), Ordering::Release);
        crate::failpoint::failpoint!("after commit");
        if first != start {
            // Release: pairs with the same load.
            slot.line(*first).store(0, Commit::padding(*first), Ordering::Release);
        }
    }

    /// Everything of a header but its commit word.
    fn write_header(&self, start: u64, header: Header) {
        let line = self.slot.line(start);
        let [first_word, others @ ..] = header.to_words();
        line.store(1, first_word, Ordering::Relaxed);
        crate::failpoint::failpoint!("half the header");
        for (index, word) in others.into_iter().enumerate() {
            line.store(index + 2, word, Ordering::Relaxed);
        }
    }

    /// Commits the frame behind a payload that was shortened by a line or more.
    fn write_filler(&self) {
        let used = span(self.len);
        let left = as_usize(span(self.slot.len()).saturating_sub(used));
        let Some(len) = left.checked_sub(FRAME_HEADER) else { return };
        let start = self.start.wrapping_add(used);
        self.write_header(start, Header { len: as_u32(len), ..self.filler });
        // Relaxed: the reader looks at this word only after the slot's own, which is stored later
        // with Release.
        self.slot.line(start).store(0, Commit::frame(start), Ordering::Relaxed);
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
        OpenSlot { slot, len, filler: Header::default(), first, start }
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
