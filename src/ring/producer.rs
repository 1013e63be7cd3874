//! The end of a ring that publishes frames.
//!
//! The producer keeps a head of its own: the consumer's head as it was last seen. Slots before
//! that head are free. The real head is loaded only when the ring seems full:
//!
//! ```text
//!   producer                                   consumer (`reclaim.rs`)
//!                                              1  read the payload of slot A
//!   3  load head          (Acquire)       <--  2  head = end of A      (Release)
//!   4  fill slot A again
//! ```
//!
//! If load 3 sees store 2, then read 1 happened before 4: no slot is filled while it is read.
//! What the peer stores as its head is checked: it must be a slot's boundary between the head
//! that was last seen and the tail.
//!
//! # A ring that is empty begins anew
//!
//! A ring is much larger than what is in it most of the time: one call after another goes through all of
//! its memory, and finds none of it in the processor's caches. So each [`STEP`] bytes the producer looks
//! whether all is released and the consumer sleeps for the next frame. If so, padding ends the lap, and
//! the frame is put at the ring's first byte, whose lines were used lately:
//!
//! ```text
//!   0              tail = head = what the consumer sleeps for      end
//!   | lines used lately  | padding ................................ |
//!     ^ the next frame
//! ```
//!
//! Until the consumer has gone past the padding, the ring has no more room than the lines before it. So it
//! must be about to look: one that is busy has not said that it sleeps, and the ring goes on. And no more
//! may have come since it was last woken than there is room for: a stream fills the ring as before.

use crate::config::{CopyChoices, FRAME_HEADER, RingConfig};
use crate::error::{Error, Result};
use crate::ring::batch::Batch;
use crate::ring::claim::Claim;
use crate::ring::doorbell::{Alarm, BY_FD, Sleeper, Step, look_before_end};
use crate::ring::ends::Ends;
use crate::ring::first_lap::FirstLap;
use crate::ring::header::Header;
use crate::ring::history::{History, PublishedFrame};
use crate::ring::open_slot::OpenSlot;
use crate::ring::position::{NEVER, padding, span, to_end};
use crate::ring::slot_writer::SlotWriter;
use crate::shm::layout::{RingLayout, as_u64, as_usize};
use crate::shm::words::{OwnU64, PeerU64};
use crate::sync::Ordering;
use crate::sys::clock::Deadline;
use crate::sys::fork;

/// So far from its first byte a ring can begin anew, and after so many bytes the producer looks whether it
/// can: what both rings of a channel use then fits in the second cache of a processor.
const FAR: u64 = 384 << 10;
const STEP: u64 = 128 << 10;

/// The end of a ring that claims slots, fills them and publishes them.
#[derive(Debug)]
pub(crate) struct Producer {
    writer: SlotWriter,
    peer_head: PeerU64,
    space_at: OwnU64,
    /// Only models use it from elsewhere.
    pub(super) sleeper: Sleeper,
    max_frame: usize,
    /// The consumer's head as last seen; it can only have grown since.
    head: u64,
    /// Up to where slots are free and have pages, as far as is known. Once the peer is known to be
    /// corrupt it stands where nothing fits, so that every claim looks again.
    /// It is no further than where the producer is to look whether the ring can begin anew.
    free_to: u64,
    /// [`FAR`] and [`STEP`]. A small ring never begins anew: all its lines were used lately. Only tests use
    /// it from elsewhere.
    pub(super) anew: Option<[u64; 2]>,
    first_lap: FirstLap,
    poisoned: Option<Error>,
    /// The most bytes that were ever in flight.
    high_water: u64,
    /// Tells the peer of it.
    high_water_word: OwnU64,
}

impl Producer {
    /// Makes the end that fills the ring with this layout in this side's region.
    pub(crate) fn new(ends: &Ends<'_>, layout: &RingLayout) -> Result<Self> {
        let Ends { own, peer, words, .. } = ends;
        let space_at = own.u64_at(words.space_at)?;
        space_at.store(NEVER, Ordering::Relaxed);
        Ok(Self {
            writer: SlotWriter::new(ends, layout)?,
            peer_head: peer.u64_at(words.head)?,
            space_at,
            sleeper: ends.sleeper()?,
            max_frame: as_usize(u64::from(layout.max_frame)),
            head: layout.origin,
            free_to: layout.origin,
            anew: (layout.capacity >= 4 * FAR).then_some([FAR, STEP]),
            first_lap: FirstLap::new(layout),
            poisoned: None,
            high_water: 0,
            high_water_word: own.u64_at(words.high_water)?,
        })
    }

    /// The longest payload of one frame, in bytes.
    pub(crate) fn max_frame(&self) -> usize {
        self.max_frame
    }

    /// See [`RingConfig::piece_len`].
    pub(crate) fn piece_len(&self) -> usize {
        let capacity = as_usize(self.writer.capacity());
        RingConfig { capacity, max_frame: self.max_frame }.piece_len()
    }

    /// The most bytes of slots that were found published and not yet released, by looks
    /// at the consumer's head when the ring seemed full.
    pub(crate) fn high_water(&self) -> u64 {
        self.high_water
    }

    /// See [`OwnSlots::prefault`](crate::shm::slots::OwnSlots::prefault).
    pub(crate) fn prefault(&self) {
        self.writer.prefault();
    }

    /// How payloads are copied into slots, as far as that is found out.
    pub(crate) fn copies(&self) -> CopyChoices {
        self.writer.copies()
    }

    /// Notes that what comes next had to wait for the consumer although there was room.
    pub(crate) fn note_full(&mut self) {
        self.writer.note_full();
    }

    /// How often a sleeping consumer had to be woken.
    pub(crate) fn wakes(&self) -> u64 {
        self.writer.wakes()
    }

    /// Claims a slot for a payload of `len` bytes, without waiting; `None` while the
    /// ring is full. Only the consumer can change that.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge) if `len` is over
    /// [`Producer::max_frame`], before anything is touched;
    /// [`ErrorKind::PeerCorrupt`](crate::ErrorKind::PeerCorrupt), from then on for ever,
    /// if the consumer's head is impossible;
    /// [`ErrorKind::Os`](crate::ErrorKind::Os) if there is no memory for the ring's first lap.
    #[inline]
    pub(crate) fn try_claim(&mut self, len: usize) -> Result<Option<Claim<'_>>> {
        if self.reserve(len)? { Ok(Some(self.claim_reserved())) } else { Ok(None) }
    }

    /// Reserves a slot for a payload of `len` bytes, if there is room for one. The next claim
    /// takes it.
    #[inline]
    pub(crate) fn reserve(&mut self, len: usize) -> Result<bool> {
        if len > self.max_frame {
            return Err(too_large(len, self.max_frame));
        }
        fork::check()?;
        let (padding, needed) = self.needed(len);
        let found = if self.fits(needed) { Some(padding) } else { self.find_room(len)? };
        if let Some(padding) = found {
            self.writer.reserve(padding, len);
        }
        Ok(found.is_some())
    }

    /// Claims the slot that was reserved.
    #[inline]
    pub(crate) fn claim_reserved(&mut self) -> Claim<'_> {
        Claim::of(&mut self.writer)
    }

    /// Claims a slot for a payload of `len` bytes that is filled without the producer; `None` while
    /// the ring is full.
    ///
    /// # Errors
    ///
    /// As [`Producer::try_claim`].
    pub(crate) fn try_open(&mut self, len: usize) -> Result<Option<OpenSlot>> {
        Ok(self.reserve(len)?.then(|| self.writer.open()))
    }

    /// Publishes a slot that this producer has opened, and wakes the consumer if it sleeps for
    /// it. Returns whether it did.
    pub(crate) fn publish(&mut self, slot: OpenSlot, header: Header) -> bool {
        self.writer.publish_open(slot, header)
    }

    /// Does the same, but a consumer that sleeps is woken only when some KiB were published since
    /// the last time. [`Producer::notify_published`] must follow before a wait.
    pub(crate) fn publish_lazily(&mut self, slot: OpenSlot, header: Header) {
        self.writer.publish_open_lazily(slot, header);
    }

    /// Wakes the consumer if it sleeps for a slot that was published lazily.
    pub(crate) fn notify_published(&mut self) {
        self.writer.notify_published();
    }

    /// Claims the slot that was reserved and up to `count` in all: as many as lie in a row
    /// before the ring's end and are free. None if `count` is zero.
    #[inline]
    pub(crate) fn claim_batch_reserved(&mut self, count: usize) -> Batch<'_> {
        let mut most = self.free_in_a_row();
        if count > most && self.free_to != self.head.wrapping_add(self.writer.capacity()) {
            most = self.free_more_in_a_row(count);
        }
        Batch::of(&mut self.writer, count.min(most))
    }

    /// How many slots of the reserved length are free and lie in a row, with the reserved one.
    #[inline]
    fn free_in_a_row(&self) -> usize {
        let (start, capacity) = (self.writer.start(), self.writer.capacity());
        let (one, span) = (span(0), span(self.writer.len()));
        // The slot behind the last one must be free too, for its commit word.
        let free = self.free_to.wrapping_sub(start).saturating_sub(one) / span;
        let in_a_row = to_end(start, capacity) / span;
        // Room for one was found when it was reserved.
        as_usize(free.min(in_a_row)).max(1)
    }

    /// Puts off the next look for `count` slots or for all that lie in a row, and makes pages for them, so
    /// that batches are as long there as elsewhere. Returns how many slots are free.
    #[cold]
    fn free_more_in_a_row(&mut self, count: usize) -> usize {
        let Self { writer, first_lap, .. } = self;
        let wanted = as_u64(count).saturating_mul(span(writer.len()));
        let end =
            writer.start().wrapping_add(wanted.min(to_end(writer.start(), writer.capacity())));
        // Without memory the batch has the slots that have pages. The next claim returns the error.
        let _ = first_lap.make(end, |from, to| writer.make_pages(from, to));
        self.update_free(end);
        self.free_in_a_row()
    }

    /// Whether a payload of `len` bytes can be claimed now.
    ///
    /// # Errors
    ///
    /// As [`Producer::try_claim`].
    #[inline]
    pub(crate) fn has_room_for(&mut self, len: usize) -> Result<bool> {
        if len > self.max_frame {
            return Err(too_large(len, self.max_frame));
        }
        fork::check()?;
        let (_, needed) = self.needed(len);
        Ok(self.fits(needed) || self.has_room_now(needed)?)
    }

    /// As [`Producer::try_claim`], but waits for room until the deadline; `None` if it
    /// passed. The alarm ends the wait early if `stop` then has an error.
    #[inline]
    pub(crate) fn claim_until(
        &mut self,
        len: usize,
        alarm: &Alarm,
        deadline: Deadline,
        stop: impl FnMut() -> Result<()>,
    ) -> Result<Option<Claim<'_>>> {
        let is_free = self.reserve(len)? || self.reserve_until(len, alarm, deadline, stop)?;
        Ok(is_free.then(|| self.claim_reserved()))
    }

    /// As [`Producer::reserve`], but waits for room; false if the deadline passed.
    #[cold]
    pub(crate) fn reserve_until(
        &mut self,
        len: usize,
        alarm: &Alarm,
        deadline: Deadline,
        mut stop: impl FnMut() -> Result<()>,
    ) -> Result<bool> {
        self.flush();
        let (_, needed) = self.needed(len);
        let looked = self.sleeper.wait_until(alarm, deadline, |step| match step {
            Step::Announce => {
                self.announce_space(len);
                Ok(None)
            }
            Step::Look => look_before_end(&mut stop, || match self.look_at_head() {
                Ok(head) => Ok(self.fits_behind(needed, head).then_some(Ok(head))),
                Err(corrupt) => Ok(Some(Err(corrupt))),
            }),
        })?;
        match looked {
            // The closure found that it fits.
            Some(looked) => self.take_head(looked).and_then(|()| self.reserve(len)),
            None => Ok(false),
        }
    }

    /// The padding before a slot for `len` bytes, and the bytes that are needed with it. At most
    /// the capacity, wherever the tail stands: `max_frame` is capped for that.
    #[inline]
    fn needed(&self, len: usize) -> (u64, u64) {
        let span = span(len);
        let padding = padding(self.writer.tail(), span, self.writer.capacity());
        (padding, padding + span)
    }

    /// Whether `needed` bytes, and one header after them, fit as far as is known.
    #[inline]
    fn fits(&self, needed: u64) -> bool {
        let end = self.writer.tail().wrapping_add(needed + span(0));
        self.free_to.wrapping_sub(end).cast_signed() >= 0
    }

    /// Whether they fit behind this head.
    fn fits_behind(&self, needed: u64, head: u64) -> bool {
        let end = self.writer.tail().wrapping_add(needed + span(0));
        end.wrapping_sub(head) <= self.writer.capacity()
    }

    /// Announces the head at which a payload of `len` bytes will fit, for a wait that its
    /// claim was refused; a SeqCst fence and another look must follow.
    pub(crate) fn announce_space(&self, len: usize) {
        self.sleeper.announce(&self.space_at, self.head_for(len));
    }

    /// As [`Producer::announce_space`], to be woken by the descriptor.
    pub(crate) fn announce_space_by_fd(&self, len: usize) {
        self.sleeper.announce(&self.space_at, self.head_for(len) | BY_FD);
    }

    /// The head at which a payload of `len` bytes will fit. It moves with each claim.
    pub(crate) fn head_for(&self, len: usize) -> u64 {
        let end = self.writer.tail().wrapping_add(self.needed(len).1 + span(0));
        end.wrapping_sub(self.writer.capacity())
    }

    /// Returns the padding before a slot for which there is no room as far as is known; `None` if there is
    /// none. If there is, it has pages then.
    #[cold]
    fn find_room(&mut self, len: usize) -> Result<Option<u64>> {
        let (padding, needed) = self.needed(len);
        if !self.has_room_now(needed)? {
            return Ok(None);
        }
        let padding = self.padding_to_begin_anew(len)?.unwrap_or(padding);
        let Self { writer, first_lap, .. } = self;
        let end = writer.tail().wrapping_add(padding + span(len));
        first_lap.make(end, |from, to| writer.make_pages(from, to))?;
        self.update_free(end);
        Ok(Some(padding))
    }

    /// The padding with which a slot for `len` bytes is the first of the ring, if it is to be: see
    /// "A ring that is empty begins anew".
    fn padding_to_begin_anew(&mut self, len: usize) -> Result<Option<u64>> {
        let (tail, capacity) = (self.writer.tail(), self.writer.capacity());
        let rest = to_end(tail, capacity);
        let far = self.anew.map(|[far, _]| far).filter(|far| capacity - rest >= *far);
        let is_awaited = far.is_some_and(|far| self.writer.is_awaited_after(far));
        // In the first lap, pages would be made of all that is left out.
        if !is_awaited || self.first_lap.made().is_some() {
            return Ok(None);
        }
        self.take_head(self.look_at_head())?;
        let is_empty = self.head == tail;
        Ok((is_empty && self.fits_behind(rest + span(len), tail)).then_some(rest))
    }

    /// Whether `needed` bytes fit behind the consumer's head as it is now. Whether they have pages
    /// does not count.
    #[cold]
    fn has_room_now(&mut self, needed: u64) -> Result<bool> {
        // In the first lap the pages may be all that is missing.
        if self.poisoned.is_some() || !self.fits_behind(needed, self.head) {
            self.take_head(self.look_at_head())?;
        }
        let is_free = self.fits_behind(needed, self.head);
        if !is_free {
            self.writer.note_full();
        }
        Ok(is_free)
    }

    /// Finds out up to where slots are free, at most to where the producer is to look after a slot that
    /// ends at `end`.
    fn update_free(&mut self, end: u64) {
        let tail = self.writer.tail();
        let free_to = || {
            let room = self.head.wrapping_add(self.writer.capacity());
            let Some([_, step]) = self.anew else { return room };
            // A claim needs room for one header more than its slot.
            let look_at = end.wrapping_add(to_end(end, step)).wrapping_add(span(0));
            if look_at.wrapping_sub(tail) < room.wrapping_sub(tail) { look_at } else { room }
        };
        self.free_to = self.first_lap.made().unwrap_or_else(free_to);
    }

    /// The consumer's head, if it is one that can be.
    fn look_at_head(&self) -> Result<u64> {
        if let Some(poison) = &self.poisoned {
            return Err(poison.clone());
        }
        // Acquire: pairs with the Release store in `Reclaim::publish_released`.
        let head = self.peer_head.load(Ordering::Acquire);
        let published = self.writer.published();
        let released = head.wrapping_sub(self.head);
        let is_ahead = released > published.wrapping_sub(self.head);
        let is_inside = !head.is_multiple_of(span(0));
        if is_ahead || is_inside {
            return Err(Error::corrupt(format!(
                "the peer released up to position {head}, but only {} to {published} can be in flight",
                self.head
            )));
        }
        Ok(head)
    }

    fn take_head(&mut self, looked: Result<u64>) -> Result<()> {
        match looked {
            Ok(head) => {
                self.head = head;
                self.update_free(self.writer.tail());
                self.note_high_water();
                Ok(())
            }
            Err(corrupt) => {
                self.free_to = self.writer.tail();
                Err(self.poisoned.insert(corrupt).clone())
            }
        }
    }

    #[cold]
    fn note_high_water(&mut self) {
        let in_flight = self.in_flight();
        if in_flight > self.high_water {
            self.high_water = in_flight;
            // Relaxed: for statistics of the peer's.
            self.high_water_word.store(in_flight, Ordering::Relaxed);
        }
    }

    /// Where the next slot starts.
    #[allow(dead_code, reason = "for the fuzzing of a worker thread only")]
    pub(crate) fn tail(&self) -> u64 {
        self.writer.tail()
    }

    /// Wakes the consumer if it sleeps for something that was committed since the last
    /// check. Frames committed with [`Claim::commit_lazily`] need it before a wait.
    #[inline]
    pub(crate) fn flush(&mut self) {
        self.writer.flush();
    }

    /// Bytes that are published, or are about to be, and not released as far as is known.
    pub(crate) fn in_flight(&self) -> u64 {
        self.writer.tail().wrapping_sub(self.head)
    }

    /// Shows `see` frames that were published and still lie in the ring, also those that the consumer has
    /// released, oldest first. Looks at `most` slots or so, from where the last step has ended. Returns
    /// false when there are no more of those that were there at the first step.
    pub(crate) fn look_back(
        &self,
        history: &mut History,
        most: usize,
        see: impl FnMut(&PublishedFrame<'_>),
    ) -> bool {
        self.writer.look_back(history, self.first_lap.origin(), most, see)
    }

    /// Returns the tail, and the consumer's head as it is now; `None` if that cannot be.
    pub(crate) fn positions(&self) -> (u64, Option<u64>) {
        (self.writer.tail(), self.look_at_head().ok())
    }

    /// As [`Producer::in_flight`], by the consumer's head as it is now. Zero if that cannot be.
    pub(crate) fn used(&self) -> u64 {
        self.look_at_head().map_or(0, |head| self.writer.tail().wrapping_sub(head))
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        if !fork::is_forked_child() {
            self.flush();
        }
    }
}

#[cold]
fn too_large(len: usize, cap: usize) -> Error {
    Error::too_large(len, cap, "raise the ring's max_frame (max_request_frame, max_reply_frame)")
}

const _: () = assert!(FRAME_HEADER <= 64);
