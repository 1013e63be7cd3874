//! The end of a ring that takes frames.
//!
//! A consumer has two cursors: `next`, the slot it looks at, and the head, up to
//! which slots are released. Both are private; shared memory only gets a copy of
//! the head. A frame is released when its [`Frame`] is dropped, or lives on as a
//! [`Lease`] that any thread may drop in any order: slots are then reclaimed in
//! ring order, so that a lease that is kept becomes backpressure.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::ring::doorbell::{Alarm, BY_FD, Bell, Sleeper, Step};
use crate::ring::frame::{Commit, Header};
use crate::ring::position::{NEVER, span, to_end};
use crate::shm::clock::Deadline;
use crate::shm::fork;
use crate::shm::hint::{Drained, Hint};
use crate::shm::layout::{as_u64, as_usize};
use crate::shm::region::{OwnU64, PeerBytes, PeerSlots, PeerU64};
use crate::sync::{AtomicUsize, Mutex, Ordering, fence};

/// How long a settling consumer waits for a producer that has committed but not rung.
const CHECK_PATIENCE: Duration = Duration::from_micros(200);

/// The end of a ring that takes frames out.
#[derive(Debug)]
pub struct Consumer {
    shared: Arc<Shared>,
    sleep_at: OwnU64,
    peer_checked: PeerU64,
    sleeper: Sleeper,
    capacity: u64,
    max_frame: usize,
    /// Private and authoritative: the slot to look at.
    next: u64,
    /// A head that the producer has been told of, maybe not the last: honest frames end
    /// within one capacity of it.
    told: u64,
    /// Valid while no lease is out; otherwise `shared.returns` has them.
    returns: Option<Cursor>,
    /// The descriptor is, or will be, made readable by the next frame.
    is_lit: bool,
    poisoned: Option<Error>,
}

/// What settling found and left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) is_readable: bool,
    /// The descriptor was readable.
    pub(crate) has_drained: bool,
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

/// What leases and the consumer share.
#[derive(Debug)]
struct Shared {
    slots: PeerSlots,
    head: OwnU64,
    peer_space_at: PeerU64,
    bell: Bell,
    /// Leases that are out.
    leased: AtomicUsize,
    returns: Mutex<Returns>,
}

/// How many leases of a ring are out.
#[derive(Debug)]
pub(crate) struct LeaseGauge(Arc<Shared>);

impl LeaseGauge {
    pub(crate) fn held(&self) -> usize {
        self.0.leased.load(Ordering::Relaxed)
    }
}

/// How far slots are released, and how much of that the producer has been told.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    released: u64,
    published: u64,
}

/// Slots that could not be released in ring order yet.
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
    /// Tells the producer how far slots are released, and wakes it if it waits for that.
    fn publish(&self, cursor: &mut Cursor) {
        let Cursor { released, published } = *cursor;
        if released == published {
            return;
        }
        // Pairs with the Acquire load in `Producer::refresh_head`: reads of the released
        // slots happen before they are filled anew.
        self.head.store(released, Ordering::Release);
        fence(Ordering::SeqCst); // B, pairs with A in the producer's wait
        let awaited = self.peer_space_at.load(Ordering::Relaxed);
        self.bell.ring_if_awaited(awaited, published.wrapping_add(1), released.wrapping_add(1));
        cursor.published = released;
    }
}

impl Returns {
    fn settle(&mut self) {
        while let Some(front) = self.held.front()
            && front.is_done
        {
            self.cursor.released = front.end;
            self.held.pop_front();
            self.first += 1;
        }
    }
}

impl Consumer {
    pub(crate) fn new(parts: ConsumerParts) -> Self {
        let ConsumerParts { slots, max_frame, origin, .. } = parts;
        let cursor = Cursor { released: origin, published: origin };
        parts.head.store(origin, Ordering::Relaxed);
        parts.sleep_at.store(NEVER, Ordering::Relaxed);
        Self {
            capacity: as_u64(slots.capacity()),
            shared: Arc::new(Shared {
                slots,
                head: parts.head,
                peer_space_at: parts.peer_space_at,
                bell: parts.bell,
                leased: AtomicUsize::new(0),
                returns: Mutex::new(Returns { cursor, first: 0, held: VecDeque::new() }),
            }),
            sleep_at: parts.sleep_at,
            peer_checked: parts.peer_checked,
            sleeper: parts.sleeper,
            max_frame,
            next: origin,
            told: origin,
            returns: Some(cursor),
            is_lit: false,
            poisoned: None,
        }
    }

    /// The longest payload of one frame, in bytes.
    #[must_use]
    pub fn max_frame(&self) -> usize {
        self.max_frame
    }

    /// How many leases are out.
    #[must_use]
    pub fn leased(&self) -> usize {
        self.shared.leased.load(Ordering::Relaxed)
    }

    /// Counts leases without a borrow of the consumer.
    pub(crate) fn lease_gauge(&self) -> LeaseGauge {
        LeaseGauge(Arc::clone(&self.shared))
    }

    pub(crate) fn sleeper(&self) -> &Sleeper {
        &self.sleeper
    }

    /// The next frame, without waiting; `None` if there is none. The first time that
    /// there is none, the producer is told of all slots that are free.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PeerCorrupt`](crate::ErrorKind::PeerCorrupt), from then on for ever,
    /// if what lies in the ring cannot be a frame.
    #[inline]
    pub fn poll(&mut self) -> Result<Option<Frame<'_>>> {
        if let Some(poison) = &self.poisoned {
            return Err(poison.clone());
        }
        let mut is_padded = false;
        loop {
            // Pairs with the Release store in the producer's `publish`.
            let word = self.shared.slots.load(self.next, 0, Ordering::Acquire);
            match Commit::read(word, self.next) {
                Commit::Frame => break,
                // The frame behind a padding is published before it.
                Commit::Nothing if !is_padded => {
                    self.publish();
                    return Ok(None);
                }
                Commit::Padding if self.can_be_padding() => {
                    is_padded = true;
                    self.next = self.next.wrapping_add(to_end(self.next, self.capacity));
                    self.release(self.next, 0);
                }
                _ => return Err(self.poison(word)),
            }
        }
        let load = |index| self.shared.slots.load(self.next, index, Ordering::Relaxed);
        let header = Header::from_words([load(1), load(2), load(3)]);
        let len = as_usize(u64::from(header.len));
        if len > self.max_frame || span(len) > to_end(self.next, self.capacity) {
            return Err(self.poison_len(len));
        }
        let start = self.next;
        let end = start.wrapping_add(span(len));
        if !self.is_within_capacity(end) {
            return Err(self.poison_overrun(end));
        }
        self.next = end;
        Ok(Some(Frame { consumer: self, header, start, end }))
    }

    /// Whether a producer that has room there for no slot would pad up to the ring's end.
    fn can_be_padding(&mut self) -> bool {
        let rest = to_end(self.next, self.capacity);
        rest < span(self.max_frame) && self.is_within_capacity(self.next.wrapping_add(rest))
    }

    /// Whether an honest producer, which keeps clear of slots that are not released and
    /// clears the commit word after its own, can have published up to `end`.
    #[inline]
    fn is_within_capacity(&mut self, end: u64) -> bool {
        let after = end.wrapping_add(span(0));
        if after.wrapping_sub(self.told) <= self.capacity {
            return true;
        }
        self.told = match &self.returns {
            Some(cursor) => cursor.published,
            None => self.shared.returns.lock().cursor.published,
        };
        after.wrapping_sub(self.told) <= self.capacity
    }

    /// As [`Consumer::poll`], but waits until the deadline; `None` if it passed.
    /// Blocks the thread, spinning first as the wait strategy says.
    pub(crate) fn poll_until(
        &mut self,
        alarm: &Alarm,
        deadline: Deadline,
        has_rung: bool,
        mut stop: impl FnMut() -> Result<()>,
    ) -> Result<Option<Frame<'_>>> {
        if !self.has_next() {
            self.forget_descriptor();
            // Whoever fills this ring must not wait for slots that are free.
            self.publish();
            let found = self.sleeper.wait_until(alarm, deadline, has_rung, |step| {
                stop()?;
                match step {
                    Step::Announce => {
                        self.announce();
                        Ok(None)
                    }
                    Step::Look => Ok(self.has_next().then_some(())),
                }
            })?;
            if found.is_none() {
                return Ok(None);
            }
        }
        self.poll()
    }

    /// Whether something lies at the next slot; [`Consumer::poll`] says what.
    #[inline]
    pub(crate) fn has_next(&self) -> bool {
        self.shared.slots.load(self.next, 0, Ordering::Relaxed) != 0 || self.poisoned.is_some()
    }

    /// Publishes any head, as a hostile peer could: for fuzzing.
    pub(crate) fn forge_head(&self, head: u64) {
        self.shared.head.store(head, Ordering::Release);
    }

    /// Says that this end is about to sleep for the next frame; a SeqCst fence and
    /// another look must follow. Returns the position: a look that goes past it makes the
    /// announcement void.
    pub(crate) fn announce(&self) -> u64 {
        self.sleeper.announce(&self.sleep_at, self.next);
        self.next
    }

    /// This end will be woken by its bell: the descriptor may miss what comes.
    pub(crate) fn forget_descriptor(&mut self) {
        self.is_lit = false;
    }

    /// Where the next frame is looked for.
    pub(crate) fn position(&self) -> u64 {
        self.next
    }

    /// Whether the next frame will make the descriptor readable, and has not come yet.
    #[cfg(feature = "async")]
    pub(crate) fn is_armed(&self) -> bool {
        let announced = self.sleep_at.load(Ordering::Relaxed);
        self.is_lit && announced == self.next | BY_FD && !self.has_next()
    }

    /// Takes back that the next frame is to make the descriptor readable.
    #[cfg(feature = "async")]
    pub(crate) fn disarm(&mut self) {
        if std::mem::take(&mut self.is_lit) {
            self.sleep_at.store(NEVER, Ordering::Relaxed);
        }
    }

    /// As [`Consumer::announce`], to be woken by the descriptor.
    pub(crate) fn announce_by_fd(&self) {
        self.sleeper.announce(&self.sleep_at, self.next | BY_FD);
    }

    /// Whether the producer has rung, if it had to, for all frames that were taken: then
    /// no more writes to the descriptor come for them.
    pub(crate) fn is_rung_for(&self) -> bool {
        // Pairs with the Release store in the producer's `ring_if_awaited`.
        let checked = self.peer_checked.load(Ordering::Acquire);
        checked.wrapping_sub(self.next).cast_signed() >= 0
    }

    /// Whether it has checked behind this position.
    fn is_rung_behind(&self, position: u64) -> bool {
        // Pairs with the Release store in the producer's `ring_if_awaited`.
        let checked = self.peer_checked.load(Ordering::Acquire);
        checked.wrapping_sub(position).cast_signed() > 0
    }

    /// Makes the descriptor readable exactly if a frame is there, or `is_over` says that
    /// there is other news; see the protocol in [`doorbell`](super::doorbell). With
    /// `is_exact` it waits, briefly, so that it is not readable for a frame that is gone.
    pub(crate) fn settle(&mut self, hint: &Hint, is_over: bool, is_exact: bool) -> Result<Settled> {
        if self.is_lit && self.has_next() {
            // The producer may have committed it and not rung yet, maybe for a while.
            if !self.is_rung_behind(self.next) {
                hint.light();
            }
            return Ok(Settled { is_readable: true, has_drained: false });
        }
        self.publish();
        if is_exact {
            self.await_check();
        }
        let drained = hint.drain();
        if drained == Drained::Broken {
            let broken = Error::corrupt("the peer shut the descriptor for reactors down");
            return Err(self.poisoned.insert(broken).clone());
        }
        self.announce_by_fd();
        fence(Ordering::SeqCst); // A, pairs with B in the producer's `ring_if_awaited`
        // From here on the producer makes it readable, or this end does so now.
        self.is_lit = true;
        let is_readable = self.has_next() || is_over;
        if is_readable {
            hint.light();
        }
        Ok(Settled { is_readable, has_drained: drained == Drained::Something })
    }

    /// Honest producers are past the check in nanoseconds, unless the kernel has taken
    /// the processor from them: they may need this one. After that, one wake-up may turn
    /// out to be for nothing.
    fn await_check(&self) {
        let patience = Deadline::after(CHECK_PATIENCE);
        let mut looks = 0_u32;
        while !self.is_rung_for() && !patience.has_passed() {
            looks += 1;
            match looks.is_multiple_of(64) {
                true => std::thread::yield_now(),
                false => crate::sync::spin_loop(),
            }
        }
    }

    /// Tells the producer of every slot that is free. Done at every eighth of the
    /// ring, when the ring is found empty and before this end sleeps; needed by hand
    /// only before the caller turns to something long.
    pub fn publish(&mut self) {
        match &mut self.returns {
            Some(cursor) => self.shared.publish(cursor),
            None => self.shared.publish(&mut self.shared.returns.lock().cursor),
        }
    }

    /// Requests whose leases hold the ring, oldest first, and the bytes they hold back.
    pub(crate) fn holders(&self) -> (Vec<u64>, u64) {
        if self.returns.is_some() {
            return (Vec::new(), 0);
        }
        let returns = self.shared.returns.lock();
        let held = returns.held.iter().filter(|h| !h.is_done).map(|h| h.request).collect();
        (held, self.next.wrapping_sub(returns.cursor.released))
    }

    fn release(&mut self, end: u64, request: u64) {
        if let Some(cursor) = &mut self.returns {
            cursor.released = end;
            if end.wrapping_sub(cursor.published) >= self.capacity / 8 {
                self.shared.publish(cursor);
            }
            return;
        }
        self.release_behind_leases(end, request);
    }

    #[cold]
    fn release_behind_leases(&mut self, end: u64, request: u64) {
        let mut returns = self.shared.returns.lock();
        match returns.held.back_mut() {
            Some(last) if last.is_done => last.end = end,
            _ => returns.held.push_back(Held { end, request, is_done: true }),
        }
        // The leases before it may all be gone by now.
        returns.settle();
        let Cursor { released, published } = returns.cursor;
        if released.wrapping_sub(published) >= self.capacity / 8 {
            self.shared.publish(&mut returns.cursor);
        }
        if returns.held.is_empty() {
            self.returns = Some(returns.cursor);
        }
    }

    fn lease(&mut self, header: Header, start: u64, end: u64) -> Lease {
        let mut returns = self.shared.returns.lock();
        if let Some(cursor) = self.returns.take() {
            returns.cursor = cursor;
        }
        let sequence = returns.first + as_u64(returns.held.len());
        returns.held.push_back(Held { end, request: header.request, is_done: false });
        self.shared.leased.fetch_add(1, Ordering::Relaxed);
        Lease { shared: Arc::clone(&self.shared), header, start, sequence }
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

/// A frame that was taken. Dropping it releases its slot.
#[derive(Debug)]
pub struct Frame<'a> {
    consumer: &'a mut Consumer,
    header: Header,
    start: u64,
    end: u64,
}

impl Frame<'_> {
    /// The validated private copy of the header.
    #[must_use]
    pub fn header(&self) -> Header {
        self.header
    }

    /// The payload, in memory that the peer can write.
    #[must_use]
    #[inline]
    pub fn payload(&self) -> PeerBytes<'_> {
        payload(&self.consumer.shared, self.start, self.header)
    }

    /// Tells the producer of every slot before this one that is free: before something
    /// long is done with the frame.
    pub fn publish_earlier(&mut self) {
        self.consumer.publish();
    }

    /// Keeps the frame beyond the next poll.
    #[must_use]
    pub fn into_lease(self) -> Lease {
        let (header, start, end) = (self.header, self.start, self.end);
        let mut this = std::mem::ManuallyDrop::new(self);
        this.consumer.lease(header, start, end)
    }
}

impl Drop for Frame<'_> {
    #[inline]
    fn drop(&mut self) {
        self.consumer.release(self.end, self.header.request);
    }
}

/// A frame that outlives the poll that found it. It may be sent to another thread;
/// leases may be dropped in any order. Dropping it releases its slot; until then the
/// slot, and all that follow it, cannot be filled anew.
#[derive(Debug)]
pub struct Lease {
    shared: Arc<Shared>,
    header: Header,
    start: u64,
    sequence: u64,
}

impl Lease {
    /// The validated private copy of the header.
    #[must_use]
    pub fn header(&self) -> Header {
        self.header
    }

    /// The payload, in memory that the peer can write.
    #[must_use]
    pub fn payload(&self) -> PeerBytes<'_> {
        payload(&self.shared, self.start, self.header)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if fork::is_forked_child() {
            // The region is not mapped here, and the slot is the parent's to give back.
            return;
        }
        let mut returns = self.shared.returns.lock();
        let index = as_usize(self.sequence.wrapping_sub(returns.first));
        if let Some(held) = returns.held.get_mut(index) {
            held.is_done = true;
        }
        returns.settle();
        // At once: whoever waits for frames may sleep already and not come back to do it.
        self.shared.publish(&mut returns.cursor);
        self.shared.leased.fetch_sub(1, Ordering::Relaxed);
    }
}

#[inline]
fn payload(shared: &Shared, start: u64, header: Header) -> PeerBytes<'_> {
    // Always there: `poll` checked that the frame ends before the ring does.
    let len = as_usize(u64::from(header.len));
    shared.slots.payload(start, len).unwrap_or_else(PeerBytes::empty)
}
