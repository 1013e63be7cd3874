//! The end of a ring that takes frames.
//!
//! A consumer has two cursors: `next`, the slot it looks at, and the head, up to
//! which slots are released. Both are private; shared memory only gets a copy of
//! the head. A frame is released when its [`Frame`] is dropped, or lives on as a
//! [`Lease`] that any thread may drop in any order: slots are then reclaimed in
//! ring order, so that a lease that is kept becomes backpressure.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::ring::doorbell::{Alarm, Bell, Sleeper, Step, look_before_end};
use crate::ring::frame::{Commit, Header};
use crate::ring::position::{NEVER, span, to_end};
use crate::ring::reclaim::{Cursor, Lease, Shared, payload};
pub(crate) use crate::ring::reclaim::{LeaseGauge, LeasedSlot};
use crate::shm::bytes::PeerBytes;
use crate::shm::layout::{as_u64, as_usize};
use crate::shm::region::{OwnU64, PeerU64};
use crate::shm::slots::PeerSlots;
use crate::sync::Ordering;
use crate::sync::mutant::{self, Mutant};
use crate::sys::clock::Deadline;
use crate::sys::fork;

mod drain;
mod pacing;
mod rearm;

use pacing::Pacing;
pub(crate) use rearm::shut_down;

/// The end of a ring that takes frames out.
#[derive(Debug)]
pub(crate) struct Consumer {
    slots: PeerSlots,
    shared: Arc<Shared>,
    sleep_at: OwnU64,
    peer_checked: PeerU64,
    sleeper: Sleeper,
    capacity: u64,
    /// An eighth of the capacity: the producer is told of so many bytes at the latest.
    batch: u64,
    max_frame: usize,
    /// Private and authoritative: the slot to look at.
    next: u64,
    /// The frame that was taken last, up to `next`: where it starts, and the one copy of its
    /// header. Here and not in [`Frame`], which fits a register so.
    start: u64,
    header: [u64; 3],
    /// A head that the producer has been told of, maybe not the last: honest frames end
    /// within one capacity of it.
    told: u64,
    /// The distance that is kept from a producer that is fast.
    pacing: Pacing,
    /// Valid while no lease is out; otherwise `shared.returns` has them.
    returns: Option<Cursor>,
    /// The descriptor is, or will be, made readable by the next frame.
    is_lit: bool,
    poisoned: Option<Error>,
}

/// What a consumer is made of.
#[derive(Debug)]
pub(crate) struct ConsumerParts {
    pub(crate) slots: PeerSlots,
    pub(crate) head: OwnU64,
    pub(crate) peer_space_at: PeerU64,
    pub(crate) sleep_at: OwnU64,
    pub(crate) peer_checked: PeerU64,
    pub(crate) bell: Bell,
    pub(crate) sleeper: Sleeper,
    pub(crate) max_frame: usize,
    pub(crate) origin: u64,
}

impl Consumer {
    pub(crate) fn new(parts: ConsumerParts) -> Self {
        let ConsumerParts { slots, max_frame, origin, .. } = parts;
        let cursor = Cursor { released: origin, published: origin };
        parts.head.store(origin, Ordering::Relaxed);
        parts.sleep_at.store(NEVER, Ordering::Relaxed);
        Self {
            capacity: as_u64(slots.capacity()),
            batch: as_u64(slots.capacity()) / 8,
            pacing: Pacing::new(origin, as_u64(slots.capacity())),
            slots: slots.clone(),
            shared: Arc::new(Shared::new(
                slots,
                parts.head,
                parts.peer_space_at,
                parts.bell,
                cursor,
            )),
            sleep_at: parts.sleep_at,
            peer_checked: parts.peer_checked,
            sleeper: parts.sleeper,
            max_frame,
            next: origin,
            start: origin,
            header: [0; 3],
            told: origin,
            returns: Some(cursor),
            is_lit: false,
            poisoned: None,
        }
    }

    /// The longest payload of one frame, in bytes.
    #[must_use]
    pub(crate) fn max_frame(&self) -> usize {
        self.max_frame
    }

    /// See [`PeerSlots::prefault`].
    pub(crate) fn prefault(&self) {
        self.slots.prefault();
    }

    /// How many leases are out.
    #[must_use]
    pub(crate) fn leased(&self) -> usize {
        self.shared.leased()
    }

    /// Takes the locks, for a test of what must not wait for them.
    #[cfg(all(test, feature = "tokio", not(loom)))]
    pub(crate) fn hold(&self) -> impl Sized {
        (self.shared.hold(), self.sleeper.hold())
    }

    /// Counts leases without a borrow of the consumer.
    pub(crate) fn lease_gauge(&self) -> LeaseGauge {
        LeaseGauge::new(&self.shared)
    }

    /// The next frame, without waiting; `None` if there is none. The first time that
    /// there is none, the producer is told of all slots that are free.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PeerCorrupt`](crate::ErrorKind::PeerCorrupt), from then on for ever,
    /// if what lies in the ring cannot be a frame.
    #[inline]
    pub(crate) fn poll(&mut self) -> Result<Option<Frame<'_>>> {
        if self.find()? { self.take().map(Some) } else { Ok(None) }
    }

    /// Takes the frame that was found at `next`.
    #[inline]
    pub(crate) fn take(&mut self) -> Result<Frame<'_>> {
        let header = self.header();
        self.take_with(header)
    }

    /// The next frame, if it has a header that is wanted. Does not wait.
    #[inline]
    pub(crate) fn take_if(
        &mut self,
        is_wanted: impl FnOnce(Header) -> bool,
    ) -> Result<Option<Frame<'_>>> {
        if !self.find()? {
            return Ok(None);
        }
        // The one copy, for the decision and for what follows from it.
        let header = self.header();
        if is_wanted(Header::from_words(header)) {
            self.take_with(header).map(Some)
        } else {
            Ok(None)
        }
    }

    #[inline]
    fn take_with(&mut self, header: [u64; 3]) -> Result<Frame<'_>> {
        let len = len_of(header);
        let is_over_cap = len > self.max_frame && !mutant::chosen(Mutant::LenOverCap);
        let is_past_end = span(len) > to_end(self.next, self.capacity);
        if is_over_cap || (is_past_end && !mutant::chosen(Mutant::LenPastEnd)) {
            return Err(self.poison_len(len));
        }
        let end = self.next.wrapping_add(span(len));
        if !self.is_within_capacity(end) && !mutant::chosen(Mutant::Overrun) {
            return Err(self.poison_overrun(end));
        }
        self.start = self.next;
        self.next = end;
        self.header = header;
        crate::failpoint::failpoint!("after poll");
        Ok(Frame { consumer: self })
    }

    /// Whether a frame lies at `next`, which goes past paddings first.
    #[inline]
    pub(crate) fn find(&mut self) -> Result<bool> {
        let next = self.next;
        let word = self.commit_word(next);
        Ok(self.is_frame(word, next) || self.look_closer(word)?)
    }

    /// As [`Consumer::find`], but does nothing more where it is not plain that one does.
    #[inline]
    pub(crate) fn has_frame(&self) -> bool {
        let next = self.next;
        self.is_frame(self.commit_word(next), next)
    }

    #[inline]
    fn commit_word(&self, next: u64) -> u64 {
        let order = mutant::order(Mutant::PollRelaxed, Ordering::Acquire);
        // Pairs with the Release store in the producer's `publish`.
        self.slots.line(next).load(0, order)
    }

    #[inline]
    fn is_frame(&self, word: u64, next: u64) -> bool {
        word == Commit::frame(next) && self.poisoned.is_none() && !fork::is_forked_child()
    }

    /// Of the frame that was found there.
    #[inline]
    fn header(&self) -> [u64; 3] {
        let line = self.slots.line(self.next);
        let load = |index| line.load(index, Ordering::Relaxed);
        [load(1), load(2), load(3)]
    }

    /// What is to be done with a commit word that is not simply that of a frame. Whether
    /// one lies at `next` now.
    #[cold]
    fn look_closer(&mut self, mut word: u64) -> Result<bool> {
        // Frames that are there are the parent's.
        fork::check()?;
        if let Some(poison) = &self.poisoned
            && !mutant::chosen(Mutant::ConsumerForgives)
        {
            return Err(poison.clone());
        }
        let mut is_padded = false;
        loop {
            match Commit::read(word, self.next, self.capacity) {
                Commit::Frame => return Ok(true),
                // The frame behind a padding is published before it.
                Commit::Nothing if !is_padded || mutant::chosen(Mutant::PaddingBeforeNothing) => {
                    self.publish();
                    return Ok(false);
                }
                Commit::Padding if self.can_be_padding() => {
                    is_padded = true;
                    self.next = self.next.wrapping_add(to_end(self.next, self.capacity));
                    self.release(self.next, 0);
                }
                _ => return Err(self.poison(word)),
            }
            word = self.commit_word(self.next);
        }
    }

    /// Whether a producer that has room there for no slot would pad up to the ring's end.
    fn can_be_padding(&mut self) -> bool {
        let rest = to_end(self.next, self.capacity);
        (rest < span(self.max_frame) || mutant::chosen(Mutant::PaddingAnywhere))
            && self.is_within_capacity(self.next.wrapping_add(rest))
    }

    /// Whether an honest producer, which keeps clear of slots that are not released and
    /// clears the commit word after its own, can have published up to `end`.
    #[inline]
    fn is_within_capacity(&mut self, end: u64) -> bool {
        end.wrapping_sub(self.told) <= self.capacity - span(0) || self.is_within_capacity_now(end)
    }

    #[cold]
    fn is_within_capacity_now(&mut self, end: u64) -> bool {
        self.told = match &self.returns {
            Some(cursor) => cursor.published,
            None => self.shared.published(),
        };
        end.wrapping_sub(self.told) <= self.capacity - span(0)
    }

    /// As [`Consumer::poll`], but waits until the deadline; `None` if it passed.
    /// Blocks the thread, spinning first as the wait strategy says.
    pub(crate) fn poll_until(
        &mut self,
        alarm: &Alarm,
        deadline: Deadline,
        has_rung: bool,
        stop: impl FnMut() -> Result<()>,
    ) -> Result<Option<Frame<'_>>> {
        if !self.glance(has_rung) && !self.wait_until(alarm, deadline, has_rung, stop)? {
            return Ok(None);
        }
        self.poll()
    }

    /// Waits until [`Consumer::poll`] has something to say, or the deadline has passed. `stop`
    /// ends the wait, but not before frames that were committed before the end.
    pub(crate) fn wait_until(
        &mut self,
        alarm: &Alarm,
        deadline: Deadline,
        has_rung: bool,
        mut stop: impl FnMut() -> Result<()>,
    ) -> Result<bool> {
        if self.has_next() {
            return Ok(true);
        }
        if !mutant::chosen(Mutant::DescriptorNotForgotten) {
            self.forget_descriptor();
        }
        // Whoever fills this ring must not wait for slots that are free.
        if !mutant::chosen(Mutant::NoHeadBeforeSleep) {
            self.publish();
        }
        let found = self.sleeper.wait_until(alarm, deadline, has_rung, |step| match step {
            Step::Announce => {
                self.announce();
                Ok(None)
            }
            Step::Look => look_before_end(&mut stop, || Ok(self.has_next().then_some(()))),
        })?;
        Ok(found.is_some())
    }

    /// Whether something lies at the next slot; [`Consumer::poll`] says what.
    #[inline]
    pub(crate) fn has_next(&self) -> bool {
        let word = self.slots.line(self.next).load(0, Ordering::Relaxed);
        !Commit::is_nothing(word, self.next, self.capacity) || self.poisoned.is_some()
    }

    /// As [`Consumer::has_next`], but looks for about a microsecond where that can help.
    /// A busy peer answers within that: then no clock is read and no head is published.
    #[inline]
    pub(crate) fn glance(&self, has_rung: bool) -> bool {
        self.has_next() || self.sleeper.glance(has_rung, || self.has_next())
    }

    /// Says that this end is about to sleep for the next frame; a SeqCst fence and
    /// another look must follow. Returns the position: a look that goes past it makes the
    /// announcement void.
    pub(crate) fn announce(&self) -> u64 {
        self.sleeper.announce(&self.sleep_at, self.next);
        self.next
    }

    /// Where the next frame is looked for.
    pub(crate) fn position(&self) -> u64 {
        self.next
    }

    /// Tells the producer of every slot that is free. Done at every eighth of the
    /// ring, when the ring is found empty and before this end sleeps; needed by hand
    /// only before the caller turns to something long.
    pub(crate) fn publish(&mut self) {
        match &mut self.returns {
            Some(cursor) => self.shared.publish(cursor),
            None => self.shared.publish_all(),
        }
    }

    /// Requests whose leases hold the ring, oldest first, and the bytes they hold back.
    pub(crate) fn holders(&self) -> (Vec<u64>, u64) {
        if self.returns.is_some() {
            return (Vec::new(), 0);
        }
        let (held, released) = self.shared.holders();
        (held, self.next.wrapping_sub(released))
    }

    #[inline]
    fn release(&mut self, end: u64, request: u64) {
        match &mut self.returns {
            Some(cursor) => {
                cursor.released = end;
                if end.wrapping_sub(cursor.published) >= self.batch {
                    self.shared.publish(cursor);
                }
            }
            None => self.release_behind_leases(end, request),
        }
    }

    #[cold]
    fn release_behind_leases(&mut self, end: u64, request: u64) {
        self.returns = self.shared.release_behind_leases(end, request, self.batch);
    }

    #[cold]
    fn poison(&mut self, word: u64) -> Error {
        let message = format!("commit word {word:#x} at position {}", self.next);
        self.poisoned.insert(Error::corrupt(message)).clone()
    }

    #[cold]
    fn poison_overrun(&mut self, end: u64) -> Error {
        let message = format!(
            "frame at position {} up to {end}, but slots are released up to {} only and the \
             ring has {} bytes",
            self.next, self.told, self.capacity
        );
        self.poisoned.insert(Error::corrupt(message)).clone()
    }

    #[cold]
    fn poison_len(&mut self, len: usize) -> Error {
        let message = format!(
            "frame of {len} bytes at position {}, the cap is {} and it must fit before the \
             ring's end",
            self.next, self.max_frame
        );
        self.poisoned.insert(Error::corrupt(message)).clone()
    }
}

#[inline]
fn len_of(header: [u64; 3]) -> usize {
    as_usize(u64::from(Header::from_words(header).len))
}

/// A frame that was taken. Dropping it releases its slot.
#[derive(Debug)]
pub struct Frame<'a> {
    consumer: &'a mut Consumer,
}

impl Frame<'_> {
    /// The validated private copy of the header.
    #[must_use]
    #[inline]
    pub fn header(&self) -> Header {
        Header::from_words(self.consumer.header)
    }

    /// The payload, in memory that the peer can write.
    #[must_use]
    #[inline]
    pub fn payload(&self) -> PeerBytes<'_> {
        payload(&self.consumer.slots, self.consumer.start, self.header().len)
    }

    pub(crate) fn prefault(&self) {
        self.consumer.prefault();
    }

    /// Tells the producer of every slot before this one that is free: before something
    /// long is done with the frame.
    pub fn publish_earlier(&mut self) {
        self.consumer.publish();
    }

    /// Keeps the frame beyond the next poll.
    #[must_use]
    pub fn into_lease(self) -> Lease {
        Lease::new(self.header(), self.into_slot())
    }

    /// As [`Frame::into_lease`], without the header.
    pub(crate) fn into_slot(self) -> LeasedSlot {
        let mut this = std::mem::ManuallyDrop::new(self);
        let Consumer { shared, returns, header, start, next, .. } = &mut *this.consumer;
        LeasedSlot::new(shared, returns.take(), Header::from_words(*header), *start, *next)
    }
}

impl Drop for Frame<'_> {
    #[inline]
    fn drop(&mut self) {
        crate::failpoint::failpoint!("before release");
        let (end, request) = (self.consumer.next, self.header().request);
        self.consumer.release(end, request);
    }
}
