//! How the parent's threads share one channel: who sends, who reads, who waits.
//!
//! There is no thread of the library's own on this path. Whoever waits for a reply
//! tries to become the *reader*: it holds the up ring, hands the frames of others to
//! the pending table, wakes their owners, and leaves with its own. The others park.
//! A reader that leaves wakes one of those that wait, which reads on. A lone caller
//! is always its own reader and pays no hop.
//!
//! Locks are taken in this order: `reader`, `room`, `producer`, `table`. Sending is in
//! `send.rs`, waiting and reading in `receive.rs`, waiting behind a reader in `follow.rs`,
//! what a frame means in `dispatch.rs`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::channel::ahead::{Ahead, Part};
use crate::channel::life::{Life, Phase};
use crate::channel::pump::Pump;
use crate::channel::timed::TimedLock;
use crate::channel::wake_list::WakeList;
use crate::config::Config;
use crate::error::{Error, ErrorKind, StatusLine};
use crate::link::{Duplex, ParentWords};
use crate::protocol::buffer_pool::{BufferPool, PooledBuffer};
use crate::protocol::health::{self, WorkerState};
use crate::protocol::table::{Table, Waiter};
use crate::ring::consumer::LeaseGauge;
use crate::ring::consumer::LeasedSlot;
use crate::ring::doorbell::Sleeper;
use crate::ring::{Consumer, Frame, Producer};
use crate::shm::bytes::PeerBytes;
use crate::sync::mutant::{Mutant, chosen};
use crate::sync::{AtomicU32, AtomicU64, Counter, Mutex, MutexGuard, Ordering, TryLock};
use crate::sys::clock::{Deadline, now_ns};
use crate::sys::fork;
use crate::sys::wake_fd::WakeFd;

/// The payload of a reply or a chunk: in the ring, or copied out of it.
#[derive(Debug)]
pub(crate) enum Body {
    Lease(LeasedSlot),
    Owned(Vec<u8>),
    /// It was copied out into a buffer that is used again.
    Part(Part),
    /// It came in pieces.
    Whole(PooledBuffer),
}

/// The longest reply of a call that is copied out of the ring at once, in bytes: a frame of
/// two cache lines. A copy of it costs less than keeping account of a lease.
const SHORT: usize = 96;

impl Body {
    #[inline]
    pub(crate) fn bytes(&self) -> PeerBytes<'_> {
        match self {
            Self::Lease(lease) => lease.payload(),
            Self::Owned(bytes) => PeerBytes::of(bytes),
            Self::Part(part) => PeerBytes::of(part.bytes()),
            Self::Whole(whole) => PeerBytes::of(whole.bytes()),
        }
    }
}

/// What a frame means for the owner of its request.
#[derive(Debug)]
pub(crate) enum Item {
    Result(Body),
    /// With the bytes of slots that it costs in credit.
    Chunk(Body, usize),
    End,
    Cancelled,
    /// The worker found that its deadline had passed.
    Expired,
    Failed(Error),
}

/// Who waits for room in the request ring, first come first served.
#[derive(Debug, Default)]
pub(super) struct Room {
    next: u64,
    pub(super) waiting: VecDeque<Wanting>,
}

#[derive(Debug)]
pub(super) struct Wanting {
    id: u64,
    pub(super) len: usize,
    pub(super) waiter: Waiter,
}

impl Room {
    pub(super) fn add(&mut self, len: usize, waiter: Waiter) -> u64 {
        self.next += 1;
        self.waiting.push_back(Wanting { id: self.next, len, waiter });
        self.next
    }

    /// Returned, so that a waker is not dropped under the lock.
    pub(super) fn remove(&mut self, id: u64) -> Option<Wanting> {
        let index = self.waiting.iter().position(|wanting| wanting.id == id)?;
        self.waiting.remove(index)
    }

    /// A thread that waits and could read the ring instead.
    pub(super) fn pick_thread(&mut self) -> Option<Waiter> {
        let is_thread = |wanting: &Wanting| matches!(wanting.waiter, Waiter::Thread(_));
        let index = self.waiting.iter().position(is_thread)?;
        self.waiting.remove(index).map(|wanting| wanting.waiter)
    }

    /// What the first one needs.
    pub(super) fn first_len(&self) -> Option<usize> {
        self.waiting.front().map(|wanting| wanting.len)
    }
}

/// Numbers that only grow; read at any time.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) late_frames: Counter,
    pub(crate) unknown_frames: Counter,
    pub(crate) cancels: Counter,
    pub(crate) copied_frames: Counter,
}

/// The shared part of a channel.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(super) producer: Mutex<Producer>,
    pub(super) reader: TryLock<Consumer>,
    /// Tasks that the reader wakes when it gives its lock back.
    pub(super) wake_list: WakeList,
    leases: LeaseGauge,
    pub(super) writing: TimedLock<()>,
    pub(super) sleeper: Sleeper,
    pub(crate) table: Mutex<Table<Item>>,
    /// Who waits for room, and for how much.
    pub(super) room: Mutex<Room>,
    pub(super) room_wanted: AtomicU32,
    pub(super) followers: AtomicU32,
    pub(crate) words: ParentWords,
    pub(crate) life: Arc<Life>,
    /// For reactors, if the channel was made for them.
    pub(crate) wake_fd: Option<Arc<WakeFd>>,
    pub(super) pump: Pump,
    pub(crate) config: Config,
    pub(super) counters: Counters,
    /// Items that were ever put into the table; changes under the reader's lock.
    pub(super) pushes: AtomicU64,
    /// The rings' pages are in the page table.
    is_warm: AtomicU32,
    /// What a stream that is over leaves to the next one, so that it need not allocate.
    pub(super) spare_ahead: Mutex<Option<Ahead>>,
    /// What holds the short reply of a call, for the next one if its owner has let go of it.
    short: TryLock<Arc<Vec<u8>>>,
    /// The same for messages that come in pieces.
    pub(super) spare_buffer: Arc<BufferPool>,
}

impl Engine {
    pub(crate) fn new(
        data: Duplex,
        words: ParentWords,
        config: &Config,
        life: Arc<Life>,
        wake_fd: Option<Arc<WakeFd>>,
    ) -> Arc<Self> {
        let engine = Arc::new(Self {
            producer: Mutex::new(data.producer),
            leases: data.consumer.lease_gauge(),
            reader: TryLock::new(data.consumer),
            wake_list: WakeList::default(),
            sleeper: data.sleeper,
            writing: TimedLock::new(()),
            table: Mutex::new(Table::new(config.max_in_flight, config.stream_window)),
            room: Mutex::new(Room::default()),
            room_wanted: AtomicU32::new(0),
            followers: AtomicU32::new(0),
            words,
            life,
            wake_fd,
            pump: Pump::default(),
            config: config.clone(),
            counters: Counters::default(),
            pushes: AtomicU64::new(0),
            is_warm: AtomicU32::new(0),
            spare_ahead: Mutex::new(None),
            short: TryLock::new(Arc::new(Vec::with_capacity(SHORT))),
            spare_buffer: BufferPool::new(),
        });
        let weak = Arc::downgrade(&engine);
        let wake = move || {
            if let Some(engine) = weak.upgrade() {
                engine.wake_everybody();
                engine.writing.look_again();
                engine.wake_reactor();
            }
        };
        // The life has just been made for this engine: nobody else has set it.
        let _ = engine.life.on_over.set(Box::new(wake));
        let status = Arc::downgrade(&engine.words.status);
        engine.life.end_of_service.set_line(status);
        engine
    }

    /// Keeps a frame's payload, in the ring if it is worth it.
    #[inline]
    pub(super) fn keep(&self, frame: Frame<'_>) -> Body {
        let payload = frame.payload();
        if payload.len() > SHORT {
            return Body::Lease(frame.into_slot());
        }
        match self.short.try_lock() {
            Some(mut short) => Body::Part(Part::copied(&mut short, payload)),
            None => Body::Owned(payload.to_vec()),
        }
    }

    /// Enters the rings' pages in the page table, once, while there is nothing better to do.
    pub(crate) fn prefault(&self) {
        if self.is_warm.swap(1, Ordering::Relaxed) != 0 {
            return;
        }
        self.producer.lock().prefault();
        if let Some(reader) = self.reader.try_lock() {
            reader.prefault();
            drop(reader);
            self.hand_over();
        }
    }

    /// The channel is over because of `error`; returns what everybody is told.
    pub(super) fn fail(&self, error: Error) -> Error {
        self.life.fail(error.clone());
        self.life.failure().unwrap_or(error)
    }

    /// Whether what has been read can still be handed out: in this process, and until the
    /// channel is closed.
    #[inline]
    pub(crate) fn is_readable(&self) -> bool {
        let is_closed = matches!(self.life.phase(), Phase::Closing | Phase::Closed);
        !is_closed && !fork::is_forked_child()
    }

    fn wake_everybody(&self) {
        let waiting = self.table.lock().take_waiters();
        let room = std::mem::take(&mut self.room.lock().waiting);
        let room = room.into_iter().map(|wanting| wanting.waiter);
        waiting.into_iter().chain(room).for_each(|waiter| self.wake_list.add(waiter));
        self.wake_list.wake_all_elsewhere();
    }

    /// The owner is done with the request; if the worker is not, it is told.
    pub(crate) fn let_go(&self, request: u64) {
        if fork::is_forked_child() {
            // The request is the parent's, and a thread that is not here may hold the lock.
            return;
        }
        let mut table = self.table.lock();
        let slot = table.slot_of(request);
        // What the owner left unread is dropped after the lock.
        let is_running = table.let_go(request);
        if is_running && !chosen(Mutant::LetGoUntold) {
            self.tell_cancelled(table, slot, request, Mutant::LetGoLate);
        }
    }

    /// Asks the worker to give the request up; what comes of it is still delivered.
    pub(crate) fn cancel(&self, request: u64) {
        if fork::is_forked_child() {
            return;
        }
        let mut table = self.table.lock();
        let slot = table.slot_of(request);
        if !table.is_running(request) {
            return;
        }
        self.tell_cancelled(table, slot, request, Mutant::CancelLate);
    }

    fn tell_cancelled(
        &self,
        table: MutexGuard<'_, Table<Item>>,
        slot: usize,
        request: u64,
        late: Mutant,
    ) {
        self.counters.cancels.fetch_add(1, Ordering::Relaxed);
        // Under the lock: another thread may read the last frame and give the slot to another
        // request, whose cancel this one would replace.
        let table = Some(table).filter(|_| !chosen(late));
        self.words.requests.cancel(slot, request);
        drop(table);
        if !chosen(Mutant::CancelNotRung) {
            self.words.data_bell.ring();
        }
    }

    /// Sets or clears the channel's abort flag.
    pub(crate) fn set_abort(&self, is_set: bool) {
        if fork::is_forked_child() {
            return;
        }
        // Pairs with the Acquire load in the worker's `is_cancelled`.
        self.words.abort.store(u32::from(is_set), Ordering::Release);
        if is_set {
            self.words.data_bell.ring();
        }
    }

    /// Waits until nothing is in flight, the channel is over or the deadline passes.
    pub(crate) fn drain(&self, deadline: Deadline) {
        if fork::is_forked_child() {
            return;
        }
        while self.table.lock().in_flight() > 0 && self.life.is_open() && !deadline.has_passed() {
            // Their owners read the ring; this thread only has to wait for them.
            std::thread::sleep(Duration::from_millis(1).min(deadline.remaining()));
        }
    }

    /// What the worker says it does, and what holds the ring, for the message of a timeout:
    /// that of the request `own`, or of one that found no room.
    #[cold]
    pub(crate) fn describe_worker(&self, own: Option<u64>) -> String {
        let health = self.status(None);
        let request = health.current_request;
        let for_ms = health.busy_for.unwrap_or_default().as_millis();
        let mut text = match (health.state, request) {
            (WorkerState::Starting, _) => "the worker is still building its session".to_owned(),
            (WorkerState::AwaitingCredit, Some(request)) => {
                format!("the worker waits until somebody reads the stream of request {request}")
            }
            (_, Some(request)) if self.table.lock().unread_stream(request) => {
                format!(
                    "the worker has been busy with the stream of request {request} for {for_ms} ms"
                )
            }
            (_, Some(request)) => {
                format!("the worker has been busy with request {request} for {for_ms} ms")
            }
            _ if own.is_some_and(|own| self.has_begun(own)) => {
                "the worker was about to answer it".to_owned()
            }
            _ => "the worker serves no request and does not answer: it may be stopped, or get no \
                  processor"
                .to_owned(),
        };
        if own.is_some_and(|own| !self.has_begun(own)) {
            text.push_str("; it had not begun this one");
        }
        let holders = self.reader.try_lock().map(|reader| reader.holders());
        if holders.is_some() {
            // Whoever found the lock taken meanwhile waits for this.
            self.hand_over();
        }
        let (holders, bytes) = holders.unwrap_or_default();
        if !holders.is_empty() {
            let shown: Vec<String> = holders.iter().take(4).map(u64::to_string).collect();
            let count = holders.len();
            text.push_str(&format!(
                "; {count} leases that are still held, of requests {}, hold {bytes} bytes of the \
                 reply ring",
                shown.join(", ")
            ));
        }
        text
    }

    pub(crate) fn status(&self, last_error: Option<String>) -> health::Health {
        let words = &self.words.status;
        let status = health::Status {
            state: words.state.load(Ordering::Relaxed),
            current: words.current.load(Ordering::Relaxed),
            busy_since: words.busy_since.load(Ordering::Relaxed),
            progress: words.progress.load(Ordering::Relaxed),
            served: words.served.load(Ordering::Relaxed),
            bytes_in: words.bytes_in.load(Ordering::Relaxed),
            bytes_out: words.bytes_out.load(Ordering::Relaxed),
        };
        status.report(last_error)
    }

    /// When the worker began the request, on the monotonic clock in nanoseconds; `None`
    /// unless it is serving it.
    #[cold]
    pub(crate) fn begun_at(&self, request: u64) -> Option<u64> {
        let words = &self.words.status;
        // Pairs with the Release store in the worker's `Serving::handle`: the time is that of
        // this request, or of a later one, and then this one's last frame is in the ring.
        let is_begun = words.current.load(Ordering::Acquire) == request;
        is_begun.then(|| words.busy_since.load(Ordering::Relaxed).min(now_ns()))
    }

    /// How many requests the worker has served, as it says.
    pub(crate) fn served(&self) -> u64 {
        self.words.status.served.load(Ordering::Relaxed)
    }

    /// Whether the worker says that it waits for a request, and that no handler runs.
    #[cold]
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.words.status.state.load(Ordering::Relaxed);
        state == WorkerState::Idle.code()
    }

    pub(crate) fn timed_out(&self, request: u64, after: Duration) -> Error {
        let busy = self.describe_worker(Some(request));
        let message = format!("request {request} timed out after {after:?}; {busy}");
        let error = Error::new(ErrorKind::Timeout, message);
        // If it is not begun it can still be, until the worker finds it cancelled.
        if self.has_begun(request) { error.with_begun(true) } else { error }
    }

    /// Whether the worker says that this is the request that it began last.
    fn has_begun(&self, request: u64) -> bool {
        self.words.status.last_served().begun == request
    }

    /// Whether requests can be sent, as far as it is known.
    #[cfg(not(loom))]
    pub(crate) fn is_open(&self) -> bool {
        !fork::is_forked_child() && self.life.is_open()
    }

    /// In a forked child a thread that is not there may hold the lock, for ever.
    #[cfg(not(loom))]
    pub(crate) fn in_flight(&self) -> usize {
        if fork::is_forked_child() { 0 } else { self.table.lock().in_flight() }
    }

    #[cfg(not(loom))]
    pub(crate) fn stats(&self) -> crate::channel::Stats {
        if fork::is_forked_child() {
            return crate::channel::Stats::default();
        }
        let producer = self.producer.lock();
        let relaxed = |counter: &Counter| counter.load(Ordering::Relaxed);
        crate::channel::Stats {
            late_frames: relaxed(&self.counters.late_frames),
            unknown_frames: relaxed(&self.counters.unknown_frames),
            cancels: relaxed(&self.counters.cancels),
            copied_frames: relaxed(&self.counters.copied_frames),
            spins: relaxed(&self.sleeper.counters.spins),
            parks: relaxed(&self.sleeper.counters.parks),
            wakes: producer.wakes(),
            request_ring_high_water: producer.high_water(),
            leases_held: self.leases.held(),
        }
    }
}
