//! The end of a ring that publishes frames.
//!
//! Publishing is in band, as in Aeron's one-to-one ring buffer: the consumer polls
//! the commit word of the slot it waits for, so one cache line moves for a small
//! frame and no shared tail exists. Before a slot is published the *next* slot's
//! commit word must say that nothing is there, which is why one header more than the
//! frame must be free. It is cleared unless it does so already: frames of one length leave
//! commit words where the next lap's will be, and those of the last lap count as nothing.

use crate::config::{FRAME_HEADER, RingConfig};
use crate::error::{Error, Result};
use crate::ring::doorbell::{Alarm, BY_FD, Bell, Sleeper, Step, look_before_end};
use crate::ring::frame::{Commit, Header};
use crate::ring::position::{NEVER, padding, span};
use crate::shm::layout::{as_u32, as_u64};
use crate::shm::region::{OwnU64, PeerU64};
use crate::shm::slots::OwnSlots;
use crate::sync::Ordering;
use crate::sync::mutant::{self, Mutant};
use crate::sys::clock::Deadline;
use crate::sys::fork;
use crate::sys::placement;

mod batch;
mod claim;

pub use batch::Batch;
pub use claim::Claim;

/// Small frames whose bell may be put off, in bytes of slots.
const LAZY: u64 = 2 << 10;

/// The end of a ring that claims slots, fills them and publishes them.
#[derive(Debug)]
pub(crate) struct Producer {
    slots: OwnSlots,
    peer_head: PeerU64,
    peer_sleep_at: PeerU64,
    space_at: OwnU64,
    checked: OwnU64,
    bell: Bell,
    sleeper: Sleeper,
    capacity: u64,
    max_frame: usize,
    /// Private and authoritative: where the next slot starts.
    tail: u64,
    /// The slot that was claimed last: where it starts, the padding before it and the length of
    /// its payload. Here and not in [`Claim`], which fits a register so.
    start: u64,
    padding: u64,
    len: usize,
    /// Where the tail stood when the consumer's head was last looked at with a watch in hand.
    observed: u64,
    /// The consumer's head as last seen; it can only have grown since. Once the peer is
    /// known to be corrupt it stands where nothing fits, so that every claim looks again.
    head: u64,
    poisoned: Option<Error>,
    /// Up to where the consumer's sleep word has been checked.
    announced: u64,
    /// The most bytes that were ever in flight.
    high_water: u64,
    wakes: u64,
    wakes_seen: u64,
}

/// What a producer is made of.
#[derive(Debug)]
pub(crate) struct ProducerParts {
    pub(crate) slots: OwnSlots,
    pub(crate) peer_head: PeerU64,
    pub(crate) peer_sleep_at: PeerU64,
    pub(crate) space_at: OwnU64,
    pub(crate) checked: OwnU64,
    pub(crate) bell: Bell,
    pub(crate) sleeper: Sleeper,
    pub(crate) max_frame: usize,
    pub(crate) origin: u64,
}

impl Producer {
    pub(crate) fn new(parts: ProducerParts) -> Self {
        let ProducerParts { slots, max_frame, origin, .. } = parts;
        parts.space_at.store(NEVER, Ordering::Relaxed);
        parts.checked.store(origin, Ordering::Relaxed);
        Self {
            capacity: as_u64(slots.capacity()),
            slots,
            peer_head: parts.peer_head,
            peer_sleep_at: parts.peer_sleep_at,
            space_at: parts.space_at,
            checked: parts.checked,
            bell: parts.bell,
            sleeper: parts.sleeper,
            max_frame,
            tail: origin,
            start: origin,
            padding: 0,
            len: 0,
            observed: origin,
            head: origin,
            poisoned: None,
            announced: origin,
            high_water: 0,
            wakes: 0,
            wakes_seen: 0,
        }
    }

    /// The longest payload of one frame, in bytes.
    #[must_use]
    pub(crate) fn max_frame(&self) -> usize {
        self.max_frame
    }

    /// See [`RingConfig::piece_len`].
    pub(crate) fn piece_len(&self) -> usize {
        RingConfig { capacity: self.slots.capacity(), max_frame: self.max_frame }.piece_len()
    }

    /// The most bytes of slots that were found published and not yet released, by looks
    /// at the consumer's head when the ring seemed full.
    #[must_use]
    pub(crate) fn high_water(&self) -> u64 {
        self.high_water
    }

    /// See [`OwnSlots::prefault`].
    pub(crate) fn prefault(&self) {
        self.slots.prefault();
    }

    /// How often a sleeping consumer had to be woken.
    #[must_use]
    pub(crate) fn wakes(&self) -> u64 {
        self.wakes
    }

    #[cfg(all(test, loom))]
    pub(crate) fn sleeper(&self) -> &Sleeper {
        &self.sleeper
    }

    /// Reserves a slot for a payload of `len` bytes, without waiting; `None` while the
    /// ring is full. Only the consumer can change that.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge) if `len` is over
    /// [`Producer::max_frame`], before anything is touched;
    /// [`ErrorKind::PeerCorrupt`](crate::ErrorKind::PeerCorrupt), from then on for ever,
    /// if the consumer's head is impossible.
    #[inline]
    pub(crate) fn try_claim(&mut self, len: usize) -> Result<Option<Claim<'_>>> {
        if self.reserve(len)? { Ok(Some(self.claim_reserved())) } else { Ok(None) }
    }

    /// Reserves room for a payload of `len` bytes, if there is some now: where its slot starts is
    /// known then.
    #[inline]
    pub(crate) fn reserve(&mut self, len: usize) -> Result<bool> {
        if len > self.max_frame {
            return Err(too_large(len, self.max_frame));
        }
        fork::check()?;
        let (padding, needed) = self.needed(len);
        let is_free = self.fits(needed, self.head) || self.has_room_now(needed)?;
        if is_free {
            self.padding = padding;
            self.start = self.tail.wrapping_add(padding);
            self.len = len;
        }
        Ok(is_free)
    }

    /// Claims the slot that was reserved.
    #[inline]
    pub(crate) fn claim_reserved(&mut self) -> Claim<'_> {
        crate::failpoint::failpoint!("claim");
        self.clear(self.start.wrapping_add(span(self.len)));
        Claim::of(self)
    }

    /// Clears the commit word of the slot behind what is claimed, if it has to be, and before
    /// the payload is filled: stores become visible in order, and its line may have to be
    /// fetched.
    #[inline]
    fn clear(&self, next: u64) {
        let line = self.slots.line(next);
        let is_left =
            mutant::chosen(Mutant::NextNotCleared) || mutant::chosen(Mutant::NextClearedLate);
        if !Commit::is_nothing(line.load(0), next, self.capacity) && !is_left {
            line.store(0, 0, Ordering::Relaxed);
        }
    }

    /// Everything of a frame's header but its commit word; the length is the payload's.
    #[inline]
    fn write_header(&self, start: u64, header: Header) {
        // Always fits: `reserve` checked it against the cap, which came from a u32.
        let header = Header { len: as_u32(self.len), ..header };
        let line = self.slots.line(start);
        let [first, second, third] = header.to_words();
        line.store(1, first, Ordering::Relaxed);
        crate::failpoint::failpoint!("half the header");
        line.store(2, second, Ordering::Relaxed);
        line.store(3, third, Ordering::Relaxed);
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
        Ok(self.fits(needed, self.head) || self.has_room_now(needed)?)
    }

    /// As [`Producer::try_claim`], but waits for room until the deadline; `None` if it
    /// passed. The alarm ends the wait early, whenever `stop` then has an error.
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
        if !mutant::chosen(Mutant::NoFlushBeforeWait) {
            self.flush();
        }
        let (_, needed) = self.needed(len);
        let looked = self.sleeper.wait_until(alarm, deadline, true, |step| match step {
            Step::Announce => {
                self.announce_space(len);
                Ok(None)
            }
            Step::Look => look_before_end(&mut stop, || match self.look_at_head() {
                Ok(head) => Ok(self.fits(needed, head).then_some(Ok(head))),
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
        let padding = padding(self.tail, span, self.capacity);
        let room = if mutant::chosen(Mutant::NoRoomForPadding) { 0 } else { padding };
        (padding, room + span)
    }

    /// Whether `needed` bytes, and one header after them, fit behind this head.
    #[inline]
    fn fits(&self, needed: u64, head: u64) -> bool {
        let next = if mutant::chosen(Mutant::NoRoomForNext) { 0 } else { span(0) };
        self.tail.wrapping_add(needed + next).wrapping_sub(head) <= self.capacity
    }

    /// Announces the head at which a payload of `len` bytes will fit, for a wait that its
    /// claim was refused; a SeqCst fence and another look must follow. Returns it: a claim
    /// of somebody else's makes the announcement void.
    pub(crate) fn announce_space(&self, len: usize) -> u64 {
        let head = self.space_for(len);
        self.sleeper.announce(&self.space_at, head);
        head
    }

    /// As [`Producer::announce_space`], to be woken by the descriptor.
    pub(crate) fn announce_space_by_fd(&self, len: usize) {
        self.sleeper.announce(&self.space_at, self.space_for(len) | BY_FD);
    }

    /// The head at which a payload of `len` bytes will fit.
    fn space_for(&self, len: usize) -> u64 {
        self.tail.wrapping_add(self.needed(len).1 + span(0)).wrapping_sub(self.capacity)
    }

    /// Whether `needed` bytes fit behind the consumer's head as it is now.
    #[cold]
    fn has_room_now(&mut self, needed: u64) -> Result<bool> {
        // Now and then: whoever asks without end for room must not read the clock each time.
        let looked = if self.tail.wrapping_sub(self.observed) >= self.capacity / 8 {
            self.observed = self.tail;
            let is_news = |looked: &Result<u64>| looked.as_ref().is_ok_and(|h| *h != self.head);
            placement::observe(|| self.look_at_head(), is_news)
        } else {
            self.look_at_head()
        };
        self.take_head(looked)?;
        Ok(self.fits(needed, self.head))
    }

    /// The consumer's head, if it is one that can be.
    fn look_at_head(&self) -> Result<u64> {
        if let Some(poison) = &self.poisoned
            && !mutant::chosen(Mutant::ProducerForgives)
        {
            return Err(poison.clone());
        }
        // Pairs with the Release store in the consumer's `publish`: slots before this
        // head are not read any more.
        let head = self.peer_head.load(mutant::order(Mutant::HeadSeenRelaxed, Ordering::Acquire));
        let released = head.wrapping_sub(self.head);
        let is_ahead = released > self.tail.wrapping_sub(self.head);
        let is_inside = !head.is_multiple_of(span(0));
        if is_ahead && !mutant::chosen(Mutant::AnyHead)
            || is_inside && !mutant::chosen(Mutant::HeadInsideSlot)
        {
            return Err(Error::corrupt(format!(
                "the peer released up to position {head}, but only {} to {} can be in flight",
                self.head, self.tail
            )));
        }
        Ok(head)
    }

    fn take_head(&mut self, looked: Result<u64>) -> Result<()> {
        match looked {
            Ok(head) => {
                self.head = head;
                self.high_water = self.high_water.max(self.in_flight());
                Ok(())
            }
            Err(corrupt) => {
                self.head = self.tail.wrapping_sub(self.capacity);
                Err(self.poisoned.insert(corrupt).clone())
            }
        }
    }

    /// Where the next slot starts.
    #[allow(dead_code, reason = "some features use it")]
    pub(crate) fn tail(&self) -> u64 {
        self.tail
    }

    /// Wakes the consumer if it sleeps for something that was committed since the last
    /// check. Frames committed with [`Claim::commit_lazily`] need it before a wait.
    #[inline]
    pub(crate) fn flush(&mut self) {
        if self.announced != self.tail {
            self.ring_if_awaited();
        }
    }

    /// Looks for a sleeping consumer once in 2 KiB.
    #[inline]
    fn ring_now_and_then(&mut self) {
        if self.tail.wrapping_sub(self.announced) >= LAZY {
            self.ring_late();
        }
    }

    /// Not a part of its caller, which is to become one of a loop.
    #[inline(never)]
    fn ring_late(&mut self) {
        self.ring_if_awaited();
    }

    #[inline]
    fn ring_if_awaited(&mut self) {
        if mutant::chosen(Mutant::CheckedBeforeRing) {
            self.checked.store(self.tail, Ordering::Release);
        }
        mutant::full_fence(Mutant::NoFenceAfterCommit); // B, pairs with A in the consumer's wait
        let awaited = self.peer_sleep_at.load(Ordering::Relaxed);
        let last = if mutant::chosen(Mutant::TailNotRungFor) { span(0) } else { 0 };
        if self.bell.ring_if_awaited(awaited, self.announced, self.tail.wrapping_sub(last)) {
            self.wakes += 1;
        }
        self.announced = self.tail;
        if mutant::chosen(Mutant::CheckedTooFar) {
            self.announced = self.tail.wrapping_add(span(0));
        }
        // Pairs with the Acquire load in `Consumer::is_rung_for`.
        self.checked.store(self.tail, Ordering::Release);
    }

    /// Whether the consumer was woken since the last time this was asked.
    pub(crate) fn take_has_rung(&mut self) -> bool {
        std::mem::replace(&mut self.wakes_seen, self.wakes) != self.wakes
    }

    /// Bytes that are published and, as far as is known, not released.
    pub(crate) fn in_flight(&self) -> u64 {
        self.tail.wrapping_sub(self.head)
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        if !mutant::chosen(Mutant::NoFlushOnDrop) && !fork::is_forked_child() {
            self.flush();
        }
    }
}

#[cold]
fn too_large(len: usize, cap: usize) -> Error {
    Error::too_large(len, cap, "raise the ring's max_frame (max_request, max_reply)")
}

const _: () = assert!(FRAME_HEADER <= 64);
