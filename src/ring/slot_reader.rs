//! The slots of a ring as the consumer reads them.
//!
//! The reader has two cursors: `next`, the slot that it looks at, and the head, up to which
//! slots are released. Both are private: what shared memory says of them is a copy that only
//! the peer reads.
//!
//! # What is believed
//!
//! The peer can write anything, at any time. So each word is loaded once, checked, and only the
//! checked copy is used:
//!
//! | what | must be | otherwise |
//! |---|---|---|
//! | the commit word | one of the four that `commit.rs` lists | corrupt |
//! | padding | where the longest frame might not fit before the ring's end, or all is released, with a frame behind it | corrupt |
//! | the length | at most `max_frame`, and within the ring's end | corrupt |
//! | the frame's end | within one capacity of what was released, less one header | corrupt |
//! | kind, flags, request, aux | anything | |
//! | the payload | anything, and may change while it is read (`PeerBytes`) | |
//!
//! A ring that was found corrupt stays so: every later look has the same error.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::ring::commit::Commit;
use crate::ring::ends::Ends;
use crate::ring::first_lap::FirstLap;
use crate::ring::header::Header;
use crate::ring::lease::{LeasedRun, LeasedSlot, ReaderGauge};
use crate::ring::position::{span, to_end};
use crate::ring::reclaim::{Cursor, Reclaim};
use crate::shm::bytes::PeerBytes;
use crate::shm::layout::{RingLayout, as_u32, as_usize};
use crate::shm::slots::PeerSlots;
use crate::shm::words::PeerU64;
use crate::sync::Ordering;
use crate::sys::fork;

/// The shortest slot, in bytes, whose successors' headers are fetched ahead: the processor does
/// that by itself for headers that lie close together.
const FETCHED_AHEAD: u64 = 512;

/// Bytes of a cache line.
const LINE: u64 = 64;

/// Finds frames, checks them and releases their slots. Never waits.
#[derive(Debug)]
pub(super) struct SlotReader {
    slots: PeerSlots,
    reclaim: Arc<Reclaim>,
    capacity: u64,
    /// An eighth of the capacity: the producer is told of so many bytes at the latest.
    batch: u64,
    max_frame: usize,
    /// The slot to look at.
    next: u64,
    /// The frame that was taken last, up to `next`: where it starts, and the only copy of its
    /// header. Stored here so that a `Frame` is one pointer wide.
    start: u64,
    header: [u64; 3],
    /// A head that the producer has been told of, maybe not the last: honest frames end
    /// within one capacity of it. In the first lap it stands before that, one capacity before where
    /// this end's pages end.
    told: u64,
    first_lap: FirstLap,
    /// How far slots are released, while no lease is out; see `reclaim.rs`.
    cursor: Option<Cursor>,
    poisoned: Option<Error>,
}

impl SlotReader {
    pub(super) fn new(ends: &Ends<'_>, layout: &RingLayout) -> Result<Self> {
        let origin = layout.origin;
        Ok(Self {
            capacity: layout.capacity,
            batch: layout.capacity / 8,
            slots: ends.peer.slots(layout)?,
            reclaim: Arc::new(Reclaim::new(ends, layout)?),
            max_frame: as_usize(u64::from(layout.max_frame)),
            next: origin,
            start: origin,
            header: [0; 3],
            told: origin.wrapping_sub(layout.capacity),
            first_lap: FirstLap::new(layout),
            cursor: Some(Cursor { released: origin, published: origin }),
            poisoned: None,
        })
    }

    pub(super) fn max_frame(&self) -> usize {
        self.max_frame
    }

    /// Where the next frame is looked for.
    #[inline]
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Bytes of the slot of the frame that was taken last.
    #[inline]
    pub(super) fn last_span(&self) -> u64 {
        self.next.wrapping_sub(self.start)
    }

    pub(super) fn prefault(&self) {
        self.slots.prefault();
    }

    pub(super) fn leased(&self) -> usize {
        self.reclaim.leased()
    }

    pub(super) fn gauge(&self, checked: &Arc<PeerU64>, high_water: &Arc<PeerU64>) -> ReaderGauge {
        ReaderGauge::new(&self.reclaim, [checked, high_water], self.capacity)
    }

    /// Whether something lies at the next slot; [`SlotReader::find`] says what.
    #[inline]
    pub(super) fn has_next(&self) -> bool {
        let word = self.slots.line(self.next).load(0, Ordering::Relaxed);
        !Commit::is_nothing(word, self.next, self.capacity) || self.poisoned.is_some()
    }

    /// Whether a frame lies at the next slot, and nothing has to be done before it is taken.
    #[inline]
    pub(super) fn has_frame(&self) -> bool {
        let next = self.next;
        self.is_frame(self.commit_word(next), next)
    }

    /// Whether a frame lies at the next slot, which is behind the padding if there is some. If
    /// nothing is there, tells the producer of all slots that are free.
    #[inline]
    pub(super) fn find(&mut self) -> Result<bool> {
        let next = self.next;
        let word = self.commit_word(next);
        Ok(self.is_frame(word, next) || self.look_closer(word)?)
    }

    #[inline]
    fn commit_word(&self, next: u64) -> u64 {
        // Acquire: pairs with the Release stores in `SlotWriter::publish_up_to` and
        // `OpenSlot::publish`.
        self.slots.line(next).load(0, Ordering::Acquire)
    }

    #[inline]
    fn is_frame(&self, word: u64, next: u64) -> bool {
        word == Commit::frame(next) && self.poisoned.is_none() && !fork::is_forked_child()
    }

    /// What [`SlotReader::find`] does for a commit word that is not simply that of a frame.
    #[cold]
    fn look_closer(&mut self, mut word: u64) -> Result<bool> {
        // In a forked child, the frames that are there are the parent's.
        fork::check()?;
        if let Some(poison) = &self.poisoned {
            return Err(poison.clone());
        }
        let mut is_padded = false;
        loop {
            match Commit::read(word, self.next, self.capacity) {
                Commit::Frame => return Ok(true),
                // An honest writer publishes the frame behind a padding before the padding.
                Commit::Nothing if !is_padded => {
                    self.publish_released();
                    return Ok(false);
                }
                Commit::Padding if self.can_be_padding() => {
                    is_padded = true;
                    self.next = self.next.wrapping_add(to_end(self.next, self.capacity));
                    self.release(self.next, 0);
                }
                _ => {
                    let message = format!("commit word {word:#x} at position {}", self.next);
                    return Err(self.poison(Error::corrupt(message)));
                }
            }
            word = self.commit_word(self.next);
        }
    }

    /// Whether an honest writer may find that its frame does not fit before the ring's end, or that the
    /// ring is empty.
    fn can_be_padding(&mut self) -> bool {
        let rest = to_end(self.next, self.capacity);
        (rest < span(self.max_frame) || self.published() == self.next)
            && self.is_within_capacity(self.next.wrapping_add(rest))
    }

    /// Up to where the producer was told that slots are released.
    fn published(&self) -> u64 {
        self.cursor.as_ref().map_or_else(|| self.reclaim.published(), |cursor| cursor.published)
    }

    /// Copies the header of the frame that was found.
    #[inline]
    pub(super) fn read_header(&self) -> [u64; 3] {
        let line = self.slots.line(self.next);
        let load = |index| line.load(index, Ordering::Relaxed);
        [load(1), load(2), load(3)]
    }

    /// Takes the frame that was found, of which `header` is the copy of the header.
    #[inline]
    pub(super) fn take(&mut self, header: [u64; 3]) -> Result<()> {
        let len = as_usize(u64::from(Header::from_words(header).len));
        if len > self.max_frame || span(len) > to_end(self.next, self.capacity) {
            return Err(self.poison_len(len));
        }
        let end = self.next.wrapping_add(span(len));
        if !self.is_within_capacity(end) {
            return Err(self.poison_overrun(end));
        }
        self.start = self.next;
        self.next = end;
        self.header = header;
        crate::failpoint::failpoint!("after poll");
        Ok(())
    }

    /// Asks for the second cache line of the frame that was taken last, if it has one. Like the first
    /// it comes from the producer's processor.
    #[inline]
    pub(super) fn fetch_second_line(&self) {
        if self.last_span() > LINE {
            self.slots.prefetch(self.start.wrapping_add(LINE));
        }
    }

    /// Whether an honest writer can have published up to `end`: it keeps clear of slots that
    /// are not released, and of the commit word behind its own.
    #[inline]
    fn is_within_capacity(&mut self, end: u64) -> bool {
        end.wrapping_sub(self.told) <= self.capacity - span(0) || self.is_within_capacity_now(end)
    }

    #[cold]
    fn is_within_capacity_now(&mut self, end: u64) -> bool {
        let Self { slots, first_lap, .. } = self;
        if let Err(no_memory) = first_lap.make(end, |from, to| slots.make_pages(from, to)) {
            self.poison(no_memory);
            return false;
        }
        self.told = match first_lap.made() {
            Some(made) => made.wrapping_sub(self.capacity),
            None => self.published(),
        };
        end.wrapping_sub(self.told) <= self.capacity - span(0)
    }

    /// The header of the frame that was taken last.
    #[inline]
    pub(super) fn header(&self) -> Header {
        Header::from_words(self.header)
    }

    /// The payload of the frame that was taken last.
    #[inline]
    pub(super) fn payload(&self) -> PeerBytes<'_> {
        self.slots.payload(self.start, as_usize(u64::from(self.header().len)))
    }

    /// Has the payload of the frame that was taken last end sooner. Its slot stays as it is.
    #[cold]
    pub(super) fn shorten_payload(&mut self, len: usize) {
        let header = self.header();
        let len = header.len.min(as_u32(len));
        self.header = Header { len, ..header }.to_words();
    }

    /// Releases the frame that was taken last.
    #[inline]
    pub(super) fn release_taken(&mut self) {
        crate::failpoint::failpoint!("before release");
        let (end, request) = (self.next, self.header().request);
        self.release(end, request);
    }

    #[inline]
    fn release(&mut self, end: u64, request: u64) {
        match &mut self.cursor {
            Some(cursor) => {
                cursor.released = end;
                if end.wrapping_sub(cursor.published) >= self.batch {
                    self.reclaim.publish_released(cursor);
                }
            }
            None => self.release_behind_leases(end, request),
        }
    }

    #[cold]
    fn release_behind_leases(&mut self, end: u64, request: u64) {
        self.cursor = self.reclaim.release_behind_leases(end, request, self.batch);
    }

    /// Keeps the frame that was taken last.
    pub(super) fn lease_taken(&mut self) -> LeasedSlot {
        let (cursor, header) = (self.cursor.take(), self.header());
        LeasedSlot::new(&self.reclaim, cursor, header, self.start, self.next)
    }

    /// Takes the frames that come next and keeps them together: those that `is_wanted` says so of,
    /// one after another, with the number of bytes taken so far. `lens` gets the lengths of their
    /// payloads. A frame must have been found. A run ends before padding: what is behind that is
    /// not reached by adding up slots.
    #[inline]
    pub(super) fn take_run(
        &mut self,
        lens: &mut Vec<u32>,
        mut is_wanted: impl FnMut(Header, u64) -> bool,
    ) -> Result<Option<LeasedRun>> {
        let first = self.next;
        loop {
            let words = self.read_header();
            let header = Header::from_words(words);
            if !is_wanted(header, self.next.wrapping_sub(first)) {
                break;
            }
            match self.take(words) {
                Ok(()) => lens.push(header.len),
                Err(corrupt) if self.next == first => return Err(corrupt),
                // The ring stays corrupt, and the next look says so.
                Err(_) => break,
            }
            let span = self.last_span();
            if span >= FETCHED_AHEAD {
                // Where the header of the frame after the next one lies, if it is as long: the
                // processor does not see that coming.
                self.slots.prefetch(self.next.wrapping_add(span));
                self.slots.prefetch(self.next.wrapping_add(2 * span));
            }
            // A frame was found before in this process, in a ring that is not corrupt.
            if self.commit_word(self.next) != Commit::frame(self.next) {
                break;
            }
        }
        if self.next == first {
            return Ok(None);
        }
        let cursor = self.cursor.take();
        Ok(Some(LeasedRun::new(&self.reclaim, cursor, self.header(), first, self.next)))
    }

    /// Tells the producer of every slot that is free.
    pub(super) fn publish_released(&mut self) {
        match &mut self.cursor {
            Some(cursor) => self.reclaim.publish_released(cursor),
            None => self.reclaim.publish_from_queue(),
        }
    }

    /// The requests whose leases hold the ring, oldest first, and the bytes they hold back.
    pub(super) fn holders(&self) -> (Vec<u64>, u64) {
        if self.cursor.is_some() {
            return (Vec::new(), 0);
        }
        let (held, released) = self.reclaim.holders();
        (held, self.next.wrapping_sub(released))
    }

    /// Makes the ring corrupt for good. Returns what was found first.
    #[cold]
    pub(super) fn poison(&mut self, corrupt: Error) -> Error {
        self.poisoned.get_or_insert(corrupt).clone()
    }

    #[cold]
    fn poison_overrun(&mut self, end: u64) -> Error {
        let Self { next, told, capacity, .. } = self;
        let message = format!(
            "frame at position {next} up to {end}, but slots are released up to {told} only and \
             the ring has {capacity} bytes",
        );
        self.poison(Error::corrupt(message))
    }

    #[cold]
    fn poison_len(&mut self, len: usize) -> Error {
        let message = format!(
            "frame of {len} bytes at position {}, the cap is {} and it must fit before the \
             ring's end",
            self.next, self.max_frame
        );
        self.poison(Error::corrupt(message))
    }
}
