//! How the replies of a worker that serves many requests go out: by any thread, in any order.
//!
//! One lock, on the producer of the reply ring and on what waits for room in it. It is held for
//! no code of the program's, no wait, and no long copy: a long payload is copied into its slot
//! between two holds (`ring/open_slot.rs`).
//!
//! # Room
//!
//! Threads that find no room wait in turn, so that a long frame is not overtaken for ever by
//! short ones. The first of them announces what it needs and sleeps on the parent's bell; the
//! others are parked (`room_queue.rs`). As a cancel rings the bell, the first thread wakes those
//! whose requests are cancelled.
//!
//! A last frame whose responder was dropped while there was no room is *owed*: a drop must not
//! wait. It goes out before anything else, by the next thread that looks.
//!
//! # Credit
//!
//! Each stream announces the credit that it needs in the mark of its request, and is woken by the
//! bell. A stream whose reader does not read holds up none but itself.
//!
//! # Tasks
//!
//! A task waits in the same queue, and for the same words, without a thread: `wakers.rs` shows how
//! it is woken. What a thread of the queue announces by itself, the thread in the inbox announces
//! for a task.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::payload::{Encoded, Payload};
use crate::protocol::kind::{Kind, flags};
use crate::protocol::splitter::{Piece, Splitter};
use crate::ring::doorbell::{Sleeper, Step};
use crate::ring::open_slot::OpenSlot;
use crate::ring::position::span;
use crate::ring::{Header, Producer};
use crate::shm::layout::{RegionHeader, as_u64, as_usize};
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering};
use crate::sys::clock::{Deadline, now_ns};
use crate::sys::copy::copy_from_slice;
use crate::sys::fork;
use crate::worker::cancel::Signals;
use crate::worker::handler_error::HandlerError;
use crate::worker::last_error::LastError;
use crate::worker::reply_sink::{ReplyState, Waking, no_space};
use crate::worker::room_queue::{RoomQueue, Ticket, park};
use crate::worker::status::StatusWriter;
use crate::worker::wakers::Wakers;

pub(super) mod chunks;
pub(super) mod ending;
pub(super) mod looks;
pub(super) mod task_waits;

pub(super) use ending::Ending;

/// The longest payload that is copied under the lock: to take the lock twice costs more than
/// the copy.
const SHORT: usize = 4096;

/// The worker's end of the reply ring, shared by all that answer.
#[derive(Debug)]
pub(super) struct SharedSink {
    ring: Mutex<Ring>,
    sleeper: Sleeper,
    pub(super) signals: Signals,
    pub(super) status: StatusWriter,
    /// How many bytes of slots a stream may be ahead of its reader.
    window: u64,
    pub(super) max_message: usize,
    pub(super) max_frame: usize,
    pub(super) last_error: Arc<LastError>,
    /// How many endings are owed, for a look without the lock, under which it changes.
    owed: AtomicU64,
    /// Requests that were taken and have not had their last frame. Grows in the turn to take
    /// requests, and shrinks under the lock.
    outstanding: AtomicU64,
    /// Tasks that wait.
    wakers: Wakers,
}

#[derive(Debug)]
struct Ring {
    producer: Producer,
    waiting: RoomQueue,
    owed: VecDeque<(ReplyState, Ending)>,
    /// The thread that takes requests waits until there are fewer of them.
    is_at_limit: bool,
}

/// Whether a frame was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    Yes,
    /// The ring is full, or others wait for room.
    NoRoom,
    /// The stream is a whole window ahead of its reader.
    NoCredit,
}

impl SharedSink {
    pub(super) fn new(
        (producer, sleeper): (Producer, Sleeper),
        signals: Signals,
        status: StatusWriter,
        last_error: Arc<LastError>,
        header: &RegionHeader,
    ) -> Self {
        let max_frame = producer.max_frame();
        let ring = Ring {
            producer,
            waiting: RoomQueue::default(),
            owed: VecDeque::new(),
            is_at_limit: false,
        };
        Self {
            ring: Mutex::new(ring),
            sleeper,
            signals,
            status,
            window: header.stream_window,
            max_message: as_usize(header.max_message),
            max_frame,
            last_error,
            owed: AtomicU64::new(0),
            outstanding: AtomicU64::new(0),
            wakers: Wakers::new(),
        }
    }

    /// Locks the ring; an error in a forked child, where a thread that does not exist may hold
    /// the lock.
    fn lock(&self) -> Result<MutexGuard<'_, Ring>> {
        fork::check()?;
        Ok(self.ring.lock())
    }

    /// Whether fewer than `limit` requests are taken and not answered. If not, the alarm is
    /// raised as soon as that changes.
    pub(super) fn is_below(&self, limit: usize) -> Result<bool> {
        let is_below = || self.outstanding.load(Ordering::Relaxed) < as_u64(limit);
        if is_below() {
            return Ok(true);
        }
        let mut ring = self.lock()?;
        ring.is_at_limit = !is_below();
        Ok(!ring.is_at_limit)
    }

    /// Takes a request on, of which nothing is begun.
    pub(super) fn take(&self, request: u64, now: u64) -> ReplyState {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
        self.status.taken(request, now);
        crate::failpoint::failpoint!("after take");
        ReplyState::new(request)
    }

    /// Notes that a request is about to be served, unless it was noted before.
    pub(super) fn begin(&self, state: &mut ReplyState) {
        if !state.is_begun() {
            self.status.begin_taken(state.request(), now_ns());
            crate::failpoint::failpoint!("after begin");
            state.begin();
        }
    }

    /// Sends a result or a chunk in one frame, or in as many as it needs.
    pub(super) fn send_message<P: Payload + ?Sized>(
        &self,
        state: &mut ReplyState,
        kind: Kind,
        payload: &P,
    ) -> Result<()> {
        let len = payload.encoded_len();
        self.check_len(len)?;
        // An encoder of the program's runs before anything is claimed.
        let encoded = Encoded::of(payload, len)?;
        if len <= self.max_frame {
            return self.send_frame(state, state.header(kind), len, |slot| encoded.write_to(slot));
        }
        // The reader gets memory for the whole message at its first piece.
        let header = Header { aux: as_u64(len), ..state.header(kind) };
        let (mut splitter, longest) = (Splitter::new(header), self.lock()?.producer.piece_len());
        while let Some(piece) = splitter.next_piece(encoded.parts(), longest) {
            self.send_piece(state, piece)?;
            splitter.piece_sent(piece.bytes.len());
        }
        Ok(())
    }

    /// Sends a result or a chunk if that needs no wait. A payload of more than a frame is
    /// refused.
    pub(super) fn try_message<P: Payload + ?Sized>(
        &self,
        state: &mut ReplyState,
        kind: Kind,
        payload: &P,
    ) -> Result<Sent> {
        let len = payload.encoded_len();
        self.check_frame_len(len)?;
        if kind == Kind::CHUNK && !self.has_credit(state, span(len)) {
            return Ok(Sent::NoCredit);
        }
        let encoded = Encoded::of(payload, len)?;
        let fill = |slot: &mut [u8]| encoded.write_to(slot);
        let sent = self.try_send_frame(state, (state.header(kind), Waking::Now), len, fill)?;
        Ok(if sent { Sent::Yes } else { Sent::NoRoom })
    }

    fn check_len(&self, len: usize) -> Result<()> {
        if len > self.max_message {
            return Err(Error::too_large(len, self.max_message, "raise max_message"));
        }
        Ok(())
    }

    /// Refuses what is longer than a frame, for which there is never credit.
    pub(super) fn check_frame_len(&self, len: usize) -> Result<()> {
        let (longest, hint) = (self.max_frame, "raise max_reply_frame, or use `send`");
        if len > longest { Err(Error::too_large(len, longest, hint)) } else { Ok(()) }
    }

    /// Sends one frame of a message.
    pub(super) fn send_piece(&self, state: &mut ReplyState, piece: Piece<'_>) -> Result<()> {
        self.send_frame(state, piece.header, piece.bytes.len(), |slot| {
            copy_from_slice(slot, piece.bytes);
        })
    }

    /// Sends a frame. Waits for room, and with a chunk for credit, until the request is
    /// cancelled.
    fn send_frame(
        &self,
        state: &mut ReplyState,
        header: Header,
        len: usize,
        fill: impl Fn(&mut [u8]),
    ) -> Result<()> {
        if header.kind == Kind::CHUNK.code() {
            self.await_credit(state, span(len))?;
        }
        if !self.try_send_frame(state, (header, Waking::Now), len, &fill)? {
            let mut slot = self.open(state, len)?;
            fill(slot.payload());
            self.publish(state, slot, header)?;
        }
        Ok(())
    }

    /// Sends a frame if there is room.
    fn try_send_frame(
        &self,
        state: &mut ReplyState,
        (header, waking): (Header, Waking),
        len: usize,
        fill: impl Fn(&mut [u8]),
    ) -> Result<bool> {
        let mut ring = self.lock()?;
        if !self.is_first(&mut ring)? {
            return Ok(false);
        }
        let Some(mut slot) = ring.producer.try_open(len)? else { return Ok(false) };
        if len > SHORT {
            drop(ring);
            fill(slot.payload());
            ring = self.lock()?;
        } else {
            fill(slot.payload());
        }
        self.publish_locked(&mut ring, state, slot, (header, waking));
        Ok(true)
    }

    /// Claims a slot if there is room.
    pub(super) fn try_open(&self, len: usize) -> Result<Option<OpenSlot>> {
        let mut ring = self.lock()?;
        if self.is_first(&mut ring)? { ring.producer.try_open(len) } else { Ok(None) }
    }

    /// Claims a slot. Waits for room until the request is cancelled.
    pub(super) fn open(&self, state: &ReplyState, len: usize) -> Result<OpenSlot> {
        let request = state.request();
        let mut ring = self.lock()?;
        if self.is_first(&mut ring)?
            && let Some(slot) = ring.producer.try_open(len)?
        {
            return Ok(slot);
        }
        let ticket = ring.waiting.join(request);
        drop(ring);
        let opened = self.wait_for_room(ticket, len, || self.signals.check(request));
        self.leave(ticket)?;
        opened
    }

    /// Ends a wait for room, and tells the next of those that wait: it is the first now, and has to
    /// announce what it needs.
    fn leave(&self, ticket: Ticket) -> Result<()> {
        let mut ring = self.lock()?;
        ring.waiting.leave(ticket);
        let next = ring.waiting.first_task();
        let is_owed = ring.waiting.is_empty() && !ring.owed.is_empty();
        drop(ring);
        if let Some(next) = next {
            self.wakers.wake(next);
        }
        if is_owed {
            // The thread that takes requests looks after it.
            self.signals.alarm().raise();
        }
        Ok(())
    }

    #[cold]
    fn wait_for_room(
        &self,
        ticket: Ticket,
        len: usize,
        stop: impl Fn() -> Result<()>,
    ) -> Result<OpenSlot> {
        while !self.lock()?.waiting.is_first(ticket) {
            stop()?;
            if park() {
                self.signals.alarm().interrupted()?;
            }
        }
        let look = |step| {
            if step == Step::Look {
                stop()?;
            }
            let mut ring = self.lock()?;
            if step == Step::Announce {
                let len = self.owed_len(&ring).unwrap_or(len);
                ring.producer.announce_space(len);
                return Ok(None);
            }
            ring.waiting.wake(|request| self.signals.is_cancelled(request));
            if self.send_owed(&mut ring)? { ring.producer.try_open(len) } else { Ok(None) }
        };
        let alarm = self.signals.alarm();
        self.sleeper.wait_until(alarm, Deadline::NEVER, look)?.ok_or_else(no_space)
    }

    /// Whether nothing else waits for room.
    fn is_first(&self, ring: &mut Ring) -> Result<bool> {
        Ok(ring.waiting.is_empty() && self.send_owed(ring)?)
    }

    /// Publishes a frame of the request.
    pub(super) fn publish(
        &self,
        state: &mut ReplyState,
        slot: OpenSlot,
        header: Header,
    ) -> Result<()> {
        let mut ring = self.lock()?;
        self.publish_locked(&mut ring, state, slot, (header, Waking::Now));
        Ok(())
    }

    fn publish_locked(
        &self,
        ring: &mut Ring,
        state: &mut ReplyState,
        slot: OpenSlot,
        (header, waking): (Header, Waking),
    ) {
        let len = slot.len();
        let is_chunk = header.kind == Kind::CHUNK.code();
        let is_void = header.kind == Kind::VOID.code();
        let is_last = !is_chunk && !is_void && header.flags & flags::MORE == 0;
        self.status.sent(if is_void { 0 } else { len });
        if is_last {
            state.finish();
            self.status.done(state.request(), state.is_begun());
        }
        if is_chunk {
            state.add_streamed(span(len));
        }
        match waking {
            Waking::Now => drop(ring.producer.publish(slot, header)),
            Waking::NowAndThen => ring.producer.publish_lazily(slot, header),
        }
        if !is_last {
            return;
        }
        self.outstanding.fetch_sub(1, Ordering::Relaxed);
        if std::mem::take(&mut ring.is_at_limit) {
            self.signals.alarm().raise();
        }
    }

    /// Gives a slot back that was opened: a frame that says nothing takes its place.
    pub(super) fn give_back(&self, state: &mut ReplyState, slot: OpenSlot) {
        let header = state.header(Kind::VOID);
        // Fails in a forked child only, whose slot it is not.
        let _ = self.publish(state, slot, header);
    }

    /// Whether the reader's credit allows a chunk of so many bytes of slots.
    pub(super) fn has_credit(&self, state: &ReplyState, bytes: u64) -> bool {
        self.signals.credit(state.request()) >= state.credit_for(bytes, self.window)
    }

    /// Waits until the reader's credit allows `bytes` more of slots.
    pub(super) fn await_credit(&self, state: &ReplyState, bytes: u64) -> Result<()> {
        if self.has_credit(state, bytes) {
            return Ok(());
        }
        let (request, signals) = (state.request(), &self.signals);
        let needed = state.credit_for(bytes, self.window);
        let look = |step| match step {
            Step::Announce => {
                signals.announce_credit(request, needed);
                Ok(None)
            }
            Step::Look => {
                signals.check(request)?;
                Ok((signals.credit(request) >= needed).then_some(()))
            }
        };
        let waited = self.sleeper.wait_until(signals.alarm(), Deadline::NEVER, look);
        signals.announce_credit(request, 0);
        waited.map(drop)
    }

    /// Ends the request now or, if there is no room, later, also if it is cancelled: the parent
    /// waits for that before it uses the request's entry again. Never waits.
    pub(super) fn end_later(&self, state: ReplyState, ending: Ending) {
        let Ok(mut ring) = self.lock() else { return };
        ring.owed.push_back((state, ending));
        self.owed.store(as_u64(ring.owed.len()), Ordering::Relaxed);
        // What the parent writes that cannot be is found again by the next thread that looks.
        let is_done = ring.waiting.is_empty() && self.send_owed(&mut ring).unwrap_or(true);
        drop(ring);
        if !is_done {
            // The thread that takes requests waits for room for it.
            self.signals.alarm().raise();
        }
    }

    /// Has the health report show an error of a request's, unless it says that the request is
    /// cancelled. Returns whether it does not.
    pub(super) fn note(&self, request: u64, error: &HandlerError) -> bool {
        let is_cancel = error.is_cancel_of(request, || self.signals.is_cancelled(request));
        if !is_cancel && !fork::is_forked_child() {
            self.last_error.set(error.summary());
        }
        !is_cancel
    }

    /// Makes of an error the ending of a request, and notes it.
    pub(super) fn ending_of(&self, request: u64, error: HandlerError) -> Ending {
        match self.note(request, &error) {
            true => Ending::Failed(error.into_failure()),
            false => Ending::Cancelled,
        }
    }

    fn owed_len(&self, ring: &Ring) -> Option<usize> {
        let (state, ending) = ring.owed.front()?;
        Some(ending.frame(state, self.max_frame).1.len())
    }

    /// Sends what is owed as far as there is room. Returns whether nothing is left.
    fn send_owed(&self, ring: &mut Ring) -> Result<bool> {
        while let Some((state, ending)) = ring.owed.front() {
            let (header, bytes) = ending.frame(state, self.max_frame);
            let Some(mut slot) = ring.producer.try_open(bytes.len())? else { return Ok(false) };
            copy_from_slice(slot.payload(), &bytes);
            if let Some((mut state, _)) = ring.owed.pop_front() {
                self.publish_locked(ring, &mut state, slot, (header, Waking::Now));
            }
            self.owed.store(as_u64(ring.owed.len()), Ordering::Relaxed);
        }
        Ok(true)
    }

    /// Waits on the parent's bell and the alarm until `step` has an answer; `None` if the deadline
    /// has passed.
    pub(super) fn wait_until<T>(
        &self,
        deadline: Deadline,
        step: impl FnMut(Step) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        self.sleeper.wait_until(self.signals.alarm(), deadline, step)
    }

    /// Has the pages of the reply ring put into the page table.
    pub(super) fn prefault(&self) -> Result<()> {
        self.lock()?.producer.prefault();
        Ok(())
    }
}
