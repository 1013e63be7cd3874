//! Requests to be taken out and answered in any order.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::protocol::Kind;
use crate::protocol::kind::flags;
use crate::ring::doorbell::Step;
use crate::ring::{Consumer, Header};
use crate::sync::{AtomicU32, Mutex, MutexGuard, Ordering};
use crate::sys::clock::{Deadline, now_ns};
use crate::sys::fork;
use crate::sys::futex::{self, Scope};
use crate::trace_context::CONTEXT_LEN;
use crate::worker::handler_error::HandlerError;
use crate::worker::owned::{Incoming, OwnedResponder};
use crate::worker::owned_request::{OwnedPayload, OwnedRequest};
use crate::worker::request_ring::{Body, RequestRing};
use crate::worker::shared_sink::looks::{has_others, look_after_others, wake_all_tasks};
use crate::worker::shared_sink::{Ending, SharedSink};

/// The requests of a worker's parent, to be taken out by any thread, and answered by any thread
/// in any order.
///
/// [`Worker::inbox`](super::Worker::inbox) hands it out. Requests come in the order in which they
/// were sent. Requests that are cancelled, or whose deadline has passed, are answered by the inbox
/// and not handed out.
///
/// A request that was taken and not answered counts against the inbox's limit. Further requests
/// wait in shared memory, in order.
///
/// Methods of one inbox can be called from several threads. One of them at a time waits for
/// requests, the others wait for their turn.
pub struct Inbox {
    turns: Mutex<Turns>,
    /// How often a thread that waits for its turn was called. Such a thread sleeps on this word,
    /// which changes under the lock.
    called: AtomicU32,
    sink: Arc<SharedSink>,
    limit: usize,
    is_leasing: AtomicBool,
    is_closed: AtomicBool,
}

/// Which thread takes requests, and which wait for that.
///
/// A thread gives the turn back before it serves the request that it has taken, and waits for its
/// turn again after that: most often before the next request comes. To wake another thread for each
/// request would cost more than short handlers do. But while no thread has the turn, no thread sees
/// the next request. So one that gives the turn back calls a waiting thread, unless one that was
/// called has not run yet. That one either finds the turn free and takes it, or finds that another
/// thread has it, which will call again.
#[derive(Debug)]
struct Turns {
    /// `None` while a thread has its turn.
    taker: Option<Taker>,
    /// How many threads wait for their turn.
    waiting: usize,
    /// One of these was called, and has not run since.
    is_called: bool,
}

/// What takes requests out of the ring.
#[derive(Debug)]
struct Taker {
    ring: RequestRing,
    is_prefaulted: bool,
}

/// The longest payload that is copied while other threads wait for their turn. A longer one is
/// leased first, and copied when the turn is over.
const SHORT: usize = 4096;

/// How long [`Inbox`] waits for the next request.
#[derive(Debug, Clone, Copy)]
enum Patience {
    None,
    Until(Deadline),
}

impl Inbox {
    pub(super) fn new(ring: RequestRing, sink: Arc<SharedSink>, limit: usize) -> Self {
        let taker = Some(Taker { ring, is_prefaulted: false });
        let turns = Turns { taker, waiting: 0, is_called: false };
        Self {
            turns: Mutex::new(turns),
            called: AtomicU32::new(0),
            sink,
            limit,
            is_leasing: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
        }
    }

    /// Sets whether payloads of one frame are leased, and not copied, when requests are taken from
    /// now on. A lease costs no copy. But the memory of its request, and of all that was sent
    /// after it, is used again only when the lease ends. So leases that are held long keep the
    /// parent from sending. `false` by default. Never blocks.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Forked`] in a forked child of the worker.
    pub fn lease_payloads(&self, is_leasing: bool) -> Result<()> {
        fork::check()?;
        self.is_leasing.store(is_leasing, Ordering::Relaxed);
        Ok(())
    }

    /// Returns the most requests that may be taken and not answered at a time.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Takes the next request. Blocks until there is one, and as long as the limit is reached.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Closed`] if the worker is told to end;
    /// [`ErrorKind::PeerCorrupt`] if the parent writes what cannot be;
    /// [`ErrorKind::Interrupted`] if a hook ends the wait: see
    /// [`Worker::on_interrupt`](super::Worker::on_interrupt);
    /// [`ErrorKind::Forked`] in a forked child of the worker.
    pub fn recv(&self) -> Result<Incoming> {
        loop {
            if let Some(taken) = self.take(Patience::Until(Deadline::IDLE))? {
                return Ok(taken);
            }
        }
    }

    /// Takes the next request. Blocks until there is one, and as long as the limit is reached, but
    /// for at most `timeout`. Returns `None` if nothing was taken.
    ///
    /// # Errors
    ///
    /// As [`Inbox::recv`].
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Option<Incoming>> {
        self.take(Patience::Until(Deadline::after(timeout)))
    }

    /// Takes the next request if there is one, the limit is not reached, and no other thread
    /// waits for a request. Never blocks.
    ///
    /// # Errors
    ///
    /// As [`Inbox::recv`].
    pub fn try_recv(&self) -> Result<Option<Incoming>> {
        self.take(Patience::None)
    }

    /// Adds all requests that are there to `taken`, up to `max_requests`, and returns how
    /// many these are. Never blocks.
    ///
    /// # Errors
    ///
    /// As [`Inbox::recv`]; what was taken before is in `taken`.
    pub fn try_recv_many(&self, taken: &mut Vec<Incoming>, max_requests: usize) -> Result<usize> {
        let mut count = 0;
        while count < max_requests
            && let Some(next) = self.try_recv()?
        {
            taken.push(next);
            count += 1;
        }
        Ok(count)
    }

    /// Returns what the next request is, without taking it; `None` if none is there, or another
    /// thread waits for a request. Never blocks. A request that is cancelled or has expired may
    /// be shown, and not be handed out then.
    ///
    /// # Errors
    ///
    /// As [`Inbox::recv`].
    pub fn peek(&self) -> Result<Option<Peeked>> {
        let Some(mut turn) = self.turn(Patience::None)? else { return Ok(None) };
        let Some((header, len)) = turn.taker()?.ring.peek()? else { return Ok(None) };
        let deadline = Deadline::from_word(header.aux);
        let (kind, flags) = (Kind::from_code(header.kind), header.flags);
        Ok(Some(Peeked { kind, len, flags, deadline }))
    }

    /// Keeps all threads from taking requests until what this returns is dropped.
    pub(super) fn hold(&self) -> Result<impl Sized + '_> {
        self.turn(Patience::Until(Deadline::NEVER))
    }

    /// Ends all waits for requests, as a stop of the worker does.
    pub(super) fn close(&self) {
        // Pairs with the Acquire load in `check_open`.
        self.is_closed.store(true, Ordering::Release);
        self.sink.signals.alarm().raise();
    }

    /// Returns [`ErrorKind::Closed`] if no more requests are to be taken.
    fn check_open(&self) -> Result<()> {
        self.sink.signals.check_stop()?;
        if self.is_closed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Closed, "another thread of the worker failed"));
        }
        Ok(())
    }

    /// Fails if the worker is to end, and sends endings that are owed: for a thread that takes no
    /// requests for long.
    pub(super) fn keep_up(&self) -> Result<()> {
        self.sink.signals.check_stop()?;
        self.look_after_others()
    }

    /// Has the health report tell of an error of the worker's own code.
    pub(super) fn note(&self, error: &HandlerError) {
        // One that says that a request is cancelled is none.
        if !error.is_cancel_of(0, || true) && !fork::is_forked_child() {
            self.sink.last_error.set(error.summary());
        }
    }

    /// Waits for this thread's turn to take requests; `None` if it did not come in time.
    fn turn(&self, patience: Patience) -> Result<Option<Turn<'_>>> {
        // In a forked child, a thread that does not exist may have the turn.
        fork::check()?;
        let mut turns = self.turns.lock();
        loop {
            if let Some(taker) = turns.taker.take() {
                return Ok(Some(Turn { inbox: self, taker: Some(taker) }));
            }
            if patience.is_over() {
                return Ok(None);
            }
            let Patience::Until(deadline) = patience else { return Ok(None) };
            turns.waiting += 1;
            let called = self.called.load(Ordering::Relaxed);
            drop(turns);
            // A condition variable of std would keep a signal to itself.
            let slept = self.sink.signals.alarm().sleep_on(&self.called, called, deadline);
            turns = self.turns.lock();
            turns.waiting -= 1;
            turns.is_called = false;
            if let Err(error) = slept {
                // The call may have been for this thread.
                if turns.taker.is_some() {
                    self.call_one(turns);
                }
                return Err(error);
            }
        }
    }

    /// Calls a thread that waits for its turn, unless one that was called has not run yet.
    fn call_one(&self, mut turns: MutexGuard<'_, Turns>) {
        let calls = turns.waiting > 0 && !std::mem::replace(&mut turns.is_called, true);
        if calls {
            self.called.fetch_add(1, Ordering::Relaxed);
        }
        drop(turns);
        if calls {
            futex::wake_one(&self.called, Scope::Private);
        }
    }

    /// Takes the next request. `None` if the deadline has passed.
    fn take(&self, patience: Patience) -> Result<Option<Incoming>> {
        // Most often an error is the end of the worker, of which no bell tells the tasks.
        self.take_next(patience).inspect_err(|_| wake_all_tasks(&self.sink))
    }

    fn take_next(&self, patience: Patience) -> Result<Option<Incoming>> {
        let Some(mut turn) = self.turn(patience)? else { return Ok(None) };
        let taken = self.take_in_turn(turn.taker()?, patience);
        drop(turn);
        let mut taken = taken?;
        if let Some(Incoming { request, .. }) = &mut taken
            && !self.is_leasing.load(Ordering::Relaxed)
        {
            request.copy_payload();
        }
        Ok(taken)
    }

    fn take_in_turn(&self, taker: &mut Taker, patience: Patience) -> Result<Option<Incoming>> {
        let Taker { ring, is_prefaulted } = taker;
        loop {
            self.check_open()?;
            if !self.sink.is_below(self.limit)? && !self.await_capacity(patience)? {
                return Ok(None);
            }
            let (mut taken, mut is_over) = (None, true);
            let wait = |consumer: &mut Consumer, check: &dyn Fn() -> Result<()>| {
                let is_there = self.wait(consumer, patience, check);
                is_over = !matches!(is_there, Ok(true)) && patience.is_over();
                is_there
            };
            ring.receive(&self.sink.signals, wait, &mut |header: Header, body: Body<'_>| {
                taken = self.accept(header, body, is_prefaulted)?;
                Ok(())
            })?;
            if taken.is_some() || is_over {
                return Ok(taken);
            }
        }
    }

    /// Waits until fewer requests are outstanding; false if the deadline has passed.
    #[cold]
    fn await_capacity(&self, patience: Patience) -> Result<bool> {
        let Patience::Until(deadline) = patience else { return Ok(false) };
        let look = |step| {
            if step == Step::Announce {
                return Ok(None);
            }
            self.check_open()?;
            self.look_after_others()?;
            Ok(self.sink.is_below(self.limit)?.then_some(()))
        };
        Ok(self.sink.wait_until(deadline, look)?.is_some())
    }

    /// Waits for a frame.
    fn wait(
        &self,
        consumer: &mut Consumer,
        patience: Patience,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<bool> {
        self.look_after_others()?;
        if consumer.spin_briefly() {
            return Ok(true);
        }
        let Patience::Until(deadline) = patience else { return Ok(false) };
        consumer.wait_until(self.sink.signals.alarm(), deadline, || {
            check()?;
            self.check_open()?;
            self.look_after_others()
        })
    }

    #[inline]
    fn look_after_others(&self) -> Result<()> {
        if has_others(&self.sink) { look_after_others(&self.sink) } else { Ok(()) }
    }

    /// Makes of a frame or a message the request that is handed out, or answers it.
    fn accept(
        &self,
        header: Header,
        body: Body<'_>,
        is_prefaulted: &mut bool,
    ) -> Result<Option<Incoming>> {
        let sink = &self.sink;
        let (kind, id) = (Kind::from_code(header.kind), header.request);
        let deadline = Deadline::from_word(header.aux);
        sink.status.received(body.payload().len());
        let now = now_ns();
        let state = sink.take(id, now);
        let is_abandoned = header.flags & flags::ABANDONED != 0;
        let ending = if is_abandoned || sink.signals.is_request_cancelled(id) {
            Some(Ending::Cancelled)
        } else if deadline.is_before(now) {
            Some(Ending::Expired)
        } else {
            (kind == Kind::READY).then_some(Ending::Ready)
        };
        if let Some(ending) = ending {
            if kind == Kind::READY && !std::mem::replace(is_prefaulted, true) {
                sink.prefault()?;
            }
            sink.end_later(state, ending);
            return Ok(None);
        }
        let is_leased = |len| len > SHORT || self.is_leasing.load(Ordering::Relaxed);
        let payload = match body {
            Body::Frame(frame) if is_leased(frame.payload().len()) => {
                OwnedPayload::Lease(frame.into_slot())
            }
            Body::Frame(frame) => OwnedPayload::Copy(frame.payload().to_vec()),
            Body::Message(bytes) => OwnedPayload::Copy(std::mem::take(bytes)),
            Body::None => OwnedPayload::Copy(Vec::new()),
        };
        let is_stream = header.flags & flags::STREAM != 0;
        let request = OwnedRequest::new(sink, (kind, id), header.flags, deadline, payload);
        let responder = OwnedResponder::new(sink, state, is_stream);
        Ok(Some(Incoming { request, responder }))
    }
}

/// A thread's turn to take requests, which it has until this is dropped.
struct Turn<'a> {
    inbox: &'a Inbox,
    /// `Some` until the drop.
    taker: Option<Taker>,
}

impl Turn<'_> {
    fn taker(&mut self) -> Result<&mut Taker> {
        self.taker.as_mut().ok_or_else(|| Error::new(ErrorKind::Closed, "the turn is over"))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let Some(mut taker) = self.taker.take() else { return };
        let mut turns = self.inbox.turns.lock();
        if turns.waiting == 0 {
            // All threads may be in their handlers for long, while the parent waits for room.
            taker.ring.publish();
        }
        turns.taker = Some(taker);
        self.inbox.call_one(turns);
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl Patience {
    fn is_over(self) -> bool {
        match self {
            Self::None => true,
            Self::Until(deadline) => deadline.has_passed(),
        }
    }
}

/// What the next request of an [`Inbox`] is; [`Inbox::peek`] returns it.
#[derive(Debug, Clone, Copy)]
pub struct Peeked {
    kind: Kind,
    /// With the context of its trace.
    len: usize,
    flags: u16,
    deadline: Deadline,
}

impl Peeked {
    /// Returns what the request asks for.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the length of its payload in bytes. If the payload comes in pieces, it is the
    /// length of the first piece, which is empty if the request is part of a trace.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it is no collection")]
    pub fn len(&self) -> usize {
        match self.flags & flags::TRACED {
            0 => self.len,
            _ => self.len.saturating_sub(CONTEXT_LEN),
        }
    }

    /// Returns whether the parent reads a stream of chunks, and not one reply.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        self.flags & flags::STREAM != 0
    }

    /// Returns how long the caller still waits; [`Duration::MAX`] if it has set no limit. Of a call with
    /// a timeout of a second or more this may be 20 ms too long.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        self.deadline.remaining()
    }
}

/// The error of a limit that lets nothing through.
pub(super) fn check_limit(limit: usize) -> Result<()> {
    if limit == 0 {
        return Err(Error::new(ErrorKind::InvalidConfig, "a worker that may take no request"));
    }
    Ok(())
}
