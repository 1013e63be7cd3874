//! How the parent's threads share one channel: who sends, who reads, who waits.
//!
//! There is no thread of the library's own on this path. Whoever waits for a reply
//! tries to become the *reader*: it holds the up ring, hands the frames of others to
//! the pending table, wakes their owners, and leaves with its own. The others park.
//! A reader that leaves wakes one of those that wait, which reads on. A lone caller
//! is always its own reader and pays no hop.
//!
//! Locks are taken in this order: `reader`, `producer`, `table`.
//!
//! # Ordering
//!
//! A thread that finds the reader's lock taken announces itself (`followers`, then the
//! table), fences, and tries the lock once more before it parks; a reader unlocks,
//! fences, and looks for followers. One of the two sees the other, so that a thread
//! never parks while nobody reads.

use std::sync::Arc;
use std::time::Duration;

use crate::channel::life::{Life, Phase, check_not_forked};
use crate::channel::timed::{Loan, TimedLock};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::link::{Duplex, ParentWords};
use crate::payload::Payload;
use crate::protocol::Kind;
use crate::protocol::health::WorkerState;
use crate::protocol::kind::flags;
use crate::protocol::table::{Owner, Table, Taken, Waiter};
use crate::protocol::{failure, health};
use crate::ring::consumer::LeaseGauge;
use crate::ring::doorbell::{Sleeper, Step};
use crate::ring::position::span;
use crate::ring::{Consumer, Frame, Header, Lease, Producer};
use crate::shm::clock::Deadline;
use crate::shm::fork;
use crate::shm::layout::as_usize;
use crate::shm::region::PeerBytes;
use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering, fence};

/// A parked thread looks again at least this often.
const BACKSTOP: Duration = Duration::from_secs(1);

/// The payload of a reply or a chunk: in the ring, or copied out of it.
#[derive(Debug)]
pub(crate) enum Body {
    Lease(Lease),
    Owned(Vec<u8>),
}

impl Want {
    /// The request, if one is wanted; ids are never zero.
    fn request(self) -> u64 {
        match self {
            Self::Reply(request) | Self::Chunk(request) => request,
            Self::Room(_) => 0,
        }
    }
}

impl Body {
    pub(crate) fn bytes(&self) -> PeerBytes<'_> {
        match self {
            Self::Lease(lease) => lease.payload(),
            Self::Owned(bytes) => PeerBytes::of(bytes),
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
    Failed(Error),
}

/// What a thread waits for.
#[derive(Debug, Clone, Copy)]
enum Want {
    /// The reply of a request.
    Reply(u64),
    /// The next chunk of a request.
    Chunk(u64),
    /// Room for a payload of so many bytes.
    Room(usize),
}

/// Numbers that only grow; read at any time.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) late_frames: AtomicU64,
    pub(crate) unknown_frames: AtomicU64,
    pub(crate) cancels: AtomicU64,
    pub(crate) copied_frames: AtomicU64,
}

/// The shared part of a channel.
#[derive(Debug)]
pub(crate) struct Engine {
    producer: Mutex<Producer>,
    reader: Mutex<Consumer>,
    leases: LeaseGauge,
    writing: TimedLock<()>,
    sleeper: Sleeper,
    pub(crate) table: Mutex<Table<Item>>,
    /// Threads that wait for room, with what they need.
    room: Mutex<Vec<(usize, Waiter)>>,
    room_wanted: AtomicU32,
    followers: AtomicU32,
    pub(crate) words: ParentWords,
    pub(crate) life: Arc<Life>,
    pub(crate) config: Config,
    counters: Counters,
}

impl Engine {
    pub(crate) fn new(
        data: Duplex,
        words: ParentWords,
        config: &Config,
        life: Arc<Life>,
    ) -> Arc<Self> {
        let engine = Arc::new(Self {
            producer: Mutex::new(data.producer),
            leases: data.consumer.lease_gauge(),
            reader: Mutex::new(data.consumer),
            sleeper: data.sleeper,
            writing: TimedLock::new(()),
            table: Mutex::new(Table::new(config.max_in_flight, config.stream_window)),
            room: Mutex::new(Vec::new()),
            room_wanted: AtomicU32::new(0),
            followers: AtomicU32::new(0),
            words,
            life,
            config: config.clone(),
            counters: Counters::default(),
        });
        let weak = Arc::downgrade(&engine);
        let wake = move || {
            if let Some(engine) = weak.upgrade() {
                engine.wake_everybody();
            }
        };
        // The life has just been made for this engine: nobody else has set it.
        let _ = engine.life.on_over.set(Box::new(wake));
        engine
    }

    /// The channel is over because of `error`; returns what everybody is told.
    fn fail(&self, error: Error) -> Error {
        self.life.fail(error.clone());
        self.life.failure().unwrap_or(error)
    }

    fn wake_everybody(&self) {
        let waiting = self.table.lock().take_waiters();
        let room: Vec<_> = self.room.lock().drain(..).map(|(_, waiter)| waiter).collect();
        waiting.into_iter().chain(room).for_each(Waiter::wake);
    }

    // ---- sending ----

    /// Sends a request for one result. Blocks while the ring is full, until the deadline,
    /// which travels with it. Returns its id and whether the worker had to be woken.
    pub(crate) fn send_call<P: Payload + ?Sized>(
        &self,
        kind: Kind,
        payload: &P,
        deadline: Deadline,
    ) -> Result<(u64, bool)> {
        self.send(kind, 0, payload, deadline, deadline)
    }

    /// Sends a request for a stream. Blocks while the ring is full, until the deadline;
    /// the stream itself has none.
    pub(crate) fn send_stream<P: Payload + ?Sized>(
        &self,
        kind: Kind,
        payload: &P,
        deadline: Deadline,
    ) -> Result<u64> {
        self.send(kind, flags::STREAM, payload, deadline, Deadline::NEVER).map(|(id, _)| id)
    }

    fn send<P: Payload + ?Sized>(
        &self,
        kind: Kind,
        stream: u16,
        payload: &P,
        deadline: Deadline,
        told_deadline: Deadline,
    ) -> Result<(u64, bool)> {
        let len = payload.encoded_len();
        if len > self.config.max_message.max(self.config.down.max_frame) {
            return Err(Error::too_large(len, self.config.max_message, "raise max_message"));
        }
        if len > self.config.down.max_frame {
            return self.send_long(kind, stream, payload, deadline, told_deadline);
        }
        let header = self.open(kind, stream, told_deadline)?;
        match self.send_frame(header, len, deadline, |slot| payload.encode(slot)) {
            Ok(has_rung) => Ok((header.request, has_rung)),
            Err(error) => {
                self.table.lock().unsent(header.request);
                Err(error)
            }
        }
    }

    /// A request that nothing was sent of yet, and the header of its frames.
    pub(crate) fn open(&self, kind: Kind, flags: u16, deadline: Deadline) -> Result<Header> {
        self.life.check_open()?;
        if !kind.is_request() {
            let message = format!("{kind} is not a kind of request");
            return Err(Error::new(ErrorKind::Protocol, message));
        }
        let mut table = self.table.lock();
        let request = table.open(flags & flags::STREAM != 0)?;
        self.words.requests.set_credit(table.slot_of(request), 0);
        let (kind, aux) = (kind.code(), deadline.to_wire());
        Ok(Header { kind, flags, request, aux, ..Header::default() })
    }

    /// Sends a message that is longer than a frame, in pieces.
    fn send_long<P: Payload + ?Sized>(
        &self,
        kind: Kind,
        stream: u16,
        payload: &P,
        deadline: Deadline,
        told_deadline: Deadline,
    ) -> Result<(u64, bool)> {
        let mut encoded = vec![0; payload.encoded_len()];
        payload.encode(&mut encoded)?;
        let _turn = self.turn_to_write(deadline)?;
        let header = self.open(kind, stream, told_deadline)?;
        let mut pieces = Pieces::new(header);
        let sent = encoded.chunks(self.config.down.max_frame).try_for_each(|piece| {
            let is_last = pieces.sent + piece.len() == encoded.len();
            pieces.send(self, piece, is_last, deadline)
        });
        match sent {
            Ok(()) => Ok((header.request, pieces.has_rung)),
            Err(error) => {
                pieces.abandon(self);
                Err(error)
            }
        }
    }

    /// One message in pieces is on its way at a time, so that the worker never collects
    /// more than one.
    pub(crate) fn turn_to_write(&self, deadline: Deadline) -> Result<Loan<'_, ()>> {
        self.life.check_open()?;
        self.writing.lock_until(deadline).ok_or_else(|| {
            let message = "another long message was on its way during the whole timeout";
            Error::new(ErrorKind::Timeout, message)
        })
    }

    fn send_frame(
        &self,
        header: Header,
        len: usize,
        deadline: Deadline,
        mut fill: impl FnMut(&mut [u8]) -> Result<()>,
    ) -> Result<bool> {
        loop {
            {
                let mut producer = self.producer.lock();
                self.life.check_open()?;
                match producer.try_claim(len) {
                    Ok(Some(mut claim)) => {
                        fill(claim.payload())?;
                        return Ok(claim.commit(header));
                    }
                    Ok(None) => {}
                    Err(error) if error.kind() == ErrorKind::PeerCorrupt => {
                        drop(producer);
                        return Err(self.fail(error));
                    }
                    Err(error) => return Err(error),
                }
            }
            if self.drive(Want::Room(len), deadline, true)?.is_none() && deadline.has_passed() {
                return Err(self.ring_full(len));
            }
        }
    }

    #[cold]
    fn ring_full(&self, len: usize) -> Error {
        let in_flight = self.producer.lock().in_flight();
        let busy = self.describe_worker();
        let message = format!(
            "no room for {len} bytes in the request ring within the timeout, {in_flight} bytes \
             are in flight; {busy}"
        );
        Error::new(ErrorKind::Timeout, message)
    }

    // ---- waiting ----

    /// What a call waits for; `None` when the deadline passed first. Blocks.
    pub(crate) fn reply(
        &self,
        request: u64,
        deadline: Deadline,
        has_rung: bool,
    ) -> Result<Option<Item>> {
        check_not_forked()?;
        self.drive(Want::Reply(request), deadline, has_rung)
    }

    /// The next item of a stream; `None` when the deadline passed first. Blocks.
    pub(crate) fn next_chunk(&self, request: u64, deadline: Deadline) -> Result<Option<Item>> {
        check_not_forked()?;
        self.drive(Want::Chunk(request), deadline, false)
    }

    fn drive(&self, want: Want, deadline: Deadline, has_rung: bool) -> Result<Option<Item>> {
        loop {
            if let Some(found) = self.look(want)? {
                return Ok(found);
            }
            if let Some(mut reader) = self.reader.try_lock() {
                let found = self.read(&mut reader, want, deadline, has_rung);
                drop(reader);
                self.hand_over();
                return match found {
                    Err(error) if error.kind() == ErrorKind::PeerCorrupt => Err(self.fail(error)),
                    other => other.map(Option::flatten),
                };
            }
            if !self.follow(want, deadline) {
                return Ok(self.look(want)?.flatten());
            }
        }
    }

    /// Whether what is wanted is there already; for room, `Some(None)`.
    #[expect(clippy::option_option, reason = "whether it is there, and what it is")]
    fn look(&self, want: Want) -> Result<Option<Option<Item>>> {
        match want {
            Want::Reply(request) | Want::Chunk(request) => {
                Ok(match self.table.lock().take(request) {
                    Taken::Item(item) => Some(Some(item)),
                    Taken::Nothing => None,
                })
            }
            Want::Room(len) => Ok(self.producer.lock().try_claim(len)?.is_some().then_some(None)),
        }
    }

    /// Reads the ring until what is wanted is there, the deadline passes or the channel
    /// is over.
    #[expect(clippy::option_option, reason = "as `look`, or neither")]
    fn read(
        &self,
        reader: &mut Consumer,
        want: Want,
        deadline: Deadline,
        has_rung: bool,
    ) -> Result<Option<Option<Item>>> {
        // What came between the caller's look and its lock.
        if let Some(found) = self.look(want)? {
            return Ok(Some(found));
        }
        if let Some(found) = self.poll(reader, want)? {
            return Ok(Some(found));
        }
        self.settle_credit(want);
        self.sleeper.wait_until(&self.life.alarm, deadline, has_rung, |step| {
            if step == Step::Announce {
                reader.publish();
                reader.announce();
                self.announce_room(want);
                return Ok(None);
            }
            self.poll(reader, want)
        })
    }

    /// Takes all frames that are there, until one is what is wanted.
    #[expect(clippy::option_option, reason = "as `look`")]
    fn poll(&self, reader: &mut Consumer, want: Want) -> Result<Option<Option<Item>>> {
        let own = want.request();
        // Read before the last look at the ring: frames that were committed before the
        // end are delivered.
        let phase = self.life.phase();
        if matches!(phase, Phase::Closing | Phase::Closed | Phase::Failed) {
            return Err(self.life.why_over(Some(own)));
        }
        while let Some(frame) = reader.poll()? {
            if let Some(item) = self.dispatch(frame, own)? {
                return Ok(Some(Some(item)));
            }
        }
        if let Want::Room(len) = want
            && self.producer.lock().try_claim(len)?.is_some()
        {
            return Ok(Some(None));
        }
        if self.room_wanted.load(Ordering::Relaxed) != 0 {
            self.wake_who_has_room()?;
        }
        if phase == Phase::Dead {
            return Err(self.life.why_over((own != 0).then_some(own)));
        }
        Ok(None)
    }

    /// Before a stream waits for more, the worker must know all that was consumed.
    fn settle_credit(&self, want: Want) {
        if let Want::Chunk(request) = want {
            self.consumed(request, 0, true);
        }
    }

    fn announce_room(&self, want: Want) {
        let wanted = match want {
            Want::Room(len) => Some(len),
            Want::Reply(_) | Want::Chunk(_) => self.room.lock().first().map(|(len, _)| *len),
        };
        if let Some(len) = wanted {
            self.producer.lock().announce_space(len);
        }
    }

    #[cold]
    fn wake_who_has_room(&self) -> Result<()> {
        let mut room = self.room.lock();
        while let Some((len, _)) = room.first() {
            if self.producer.lock().try_claim(*len)?.is_none() {
                break;
            }
            room.remove(0).1.wake();
        }
        Ok(())
    }

    /// Parks until woken, the deadline or the backstop. False if the deadline passed.
    fn follow(&self, want: Want, deadline: Deadline) -> bool {
        self.followers.fetch_add(1, Ordering::Relaxed);
        if self.register(want) {
            self.settle_credit(want);
            fence(Ordering::SeqCst); // pairs with the fence in `hand_over`
            if self.reader.try_lock().is_none() && self.life.is_open() {
                std::thread::park_timeout(deadline.remaining().min(BACKSTOP));
            } else {
                // The lock was free and is free again: somebody may have missed it.
                self.hand_over();
            }
            self.unregister(want);
        }
        self.followers.fetch_sub(1, Ordering::Relaxed);
        !deadline.has_passed()
    }

    fn register(&self, want: Want) -> bool {
        let me = Waiter::Thread(std::thread::current());
        match want {
            Want::Reply(request) | Want::Chunk(request) => self.table.lock().wait(request, me),
            Want::Room(len) => {
                self.room.lock().push((len, me));
                self.room_wanted.fetch_add(1, Ordering::Relaxed);
                // The reader announces what is wanted when it sleeps the next time.
                self.life.alarm.raise();
                true
            }
        }
    }

    fn unregister(&self, want: Want) {
        match want {
            Want::Reply(request) | Want::Chunk(request) => {
                self.table.lock().stop_waiting(request);
            }
            Want::Room(_) => {
                let me = std::thread::current().id();
                self.room.lock().retain(|(_, waiter)| match waiter {
                    Waiter::Thread(thread) => thread.id() != me,
                    Waiter::Task(_) => true,
                });
                self.room_wanted.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Wakes somebody who waits, to read the ring in this thread's place.
    fn hand_over(&self) {
        fence(Ordering::SeqCst); // pairs with the fence in `follow`
        if self.followers.load(Ordering::Relaxed) == 0 {
            return;
        }
        let next = self.table.lock().pick_waiter();
        let next = next.or_else(|| {
            let mut room = self.room.lock();
            (!room.is_empty()).then(|| room.remove(0).1)
        });
        if let Some(waiter) = next {
            waiter.wake();
        }
    }

    // ---- receiving ----

    /// Hands a frame to the owner of its request; returns it if that is `own`.
    fn dispatch(&self, frame: Frame<'_>, own: u64) -> Result<Option<Item>> {
        let header = frame.header();
        let (request, kind) = (header.request, Kind::from_code(header.kind));
        check_reply(header, kind)?;
        if request == 0 {
            return Err(channel_failure(&frame, kind));
        }
        let has_more = header.flags & flags::MORE != 0;
        let is_last = !has_more && kind != Kind::CHUNK;
        let mut table = self.table.lock();
        let is_stream = match table.owner(request) {
            Owner::Open { is_stream } => is_stream,
            owner => {
                let counters = &self.counters;
                let dropped = match owner {
                    Owner::Retired => &counters.late_frames,
                    _ => &counters.unknown_frames,
                };
                dropped.fetch_add(1, Ordering::Relaxed);
                if is_last {
                    table.finish(request);
                }
                return Ok(None);
            }
        };
        if is_last {
            table.finish(request);
        }
        if has_more || table.pieces_len(request) != 0 {
            let max_message = self.config.max_message;
            let payload = frame.payload();
            let coming = table.pieces_len(request).saturating_add(payload.len());
            if coming > max_message {
                return Err(Error::corrupt(format!(
                    "a message of over {max_message} bytes for request {request}"
                )));
            }
            table.add_piece(request, |bytes| payload.append_to(bytes));
            if has_more {
                return Ok(None);
            }
            let body = Body::Owned(table.take_pieces(request));
            let cost = body.bytes().len();
            let item = item_of(kind, body, cost, is_stream, request);
            return Ok(self.give(&mut table, request, item, own));
        }
        if request == own {
            drop(table);
            return Ok(Some(own_item(frame, kind, is_stream, request)));
        }
        // It stays in memory of this process, so that who reads late holds up nobody.
        self.counters.copied_frames.fetch_add(1, Ordering::Relaxed);
        let cost = as_usize(span(frame.payload().len()));
        let body = Body::Owned(frame.payload().to_vec());
        let item = item_of(kind, body, cost, is_stream, request);
        Ok(self.give(&mut table, request, item, own))
    }

    fn give(&self, table: &mut Table<Item>, request: u64, item: Item, own: u64) -> Option<Item> {
        if request == own {
            return Some(item);
        }
        if let Some(waiter) = table.push(request, item) {
            waiter.wake();
        }
        None
    }

    /// Tells the worker how much of a stream was consumed.
    pub(crate) fn consumed(&self, request: u64, bytes: usize, is_about_to_wait: bool) {
        let mut table = self.table.lock();
        let Some(credit) = table.consume(request, bytes, is_about_to_wait) else { return };
        let slot = table.slot_of(request);
        drop(table);
        self.words.requests.set_credit(slot, credit);
        fence(Ordering::SeqCst); // B, pairs with A in the worker's wait for credit
        let waits = self.words.credit_request.load(Ordering::Relaxed) == request;
        if waits && self.words.credit_need.load(Ordering::Relaxed) <= credit {
            self.words.data_bell.ring();
        }
    }

    // ---- letting go ----

    /// The owner is done with the request; if the worker is not, it is told.
    pub(crate) fn let_go(&self, request: u64) {
        let mut table = self.table.lock();
        let slot = table.slot_of(request);
        // What the owner left unread is dropped after the lock.
        let is_running = table.let_go(request);
        drop(table);
        if is_running && !fork::is_forked_child() {
            self.counters.cancels.fetch_add(1, Ordering::Relaxed);
            self.words.requests.cancel(slot, request);
            self.words.data_bell.ring();
        }
    }

    /// Asks the worker to give the request up; what comes of it is still delivered.
    pub(crate) fn cancel(&self, request: u64) {
        let mut table = self.table.lock();
        let slot = table.slot_of(request);
        if !table.is_running(request) {
            return;
        }
        // Under the lock: the slot must not go to another request meanwhile.
        self.counters.cancels.fetch_add(1, Ordering::Relaxed);
        self.words.requests.cancel(slot, request);
        drop(table);
        self.words.data_bell.ring();
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
        while self.table.lock().in_flight() > 0 && self.life.is_open() && !deadline.has_passed() {
            // Their owners read the ring; this thread only has to wait for them.
            std::thread::sleep(Duration::from_millis(1).min(deadline.remaining()));
        }
    }

    // ---- reporting ----

    /// What the worker says it does, and what holds the ring, for a timeout's message.
    #[cold]
    pub(crate) fn describe_worker(&self) -> String {
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
            _ => "the worker is idle".to_owned(),
        };
        let (holders, bytes) = match self.reader.try_lock() {
            Some(reader) => reader.holders(),
            None => (Vec::new(), 0),
        };
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

    pub(crate) fn timed_out(&self, request: u64, after: Duration) -> Error {
        let busy = self.describe_worker();
        let message = format!("request {request} timed out after {after:?}; {busy}");
        Error::new(ErrorKind::Timeout, message)
    }

    pub(crate) fn stats(&self) -> crate::channel::Stats {
        let producer = self.producer.lock();
        let relaxed = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
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

/// A message on its way in pieces.
#[derive(Debug)]
pub(crate) struct Pieces {
    header: Header,
    pub(crate) sent: usize,
    pub(crate) has_rung: bool,
    has_begun: bool,
}

impl Pieces {
    pub(crate) fn new(header: Header) -> Self {
        Self { header, sent: 0, has_rung: false, has_begun: false }
    }

    pub(crate) fn request(&self) -> u64 {
        self.header.request
    }

    pub(crate) fn send(
        &mut self,
        engine: &Engine,
        piece: &[u8],
        is_last: bool,
        deadline: Deadline,
    ) -> Result<()> {
        let mut header = self.header;
        header.flags |= if is_last { 0 } else { flags::MORE };
        header.flags |= if self.has_begun { flags::CONTINUED } else { 0 };
        self.has_rung = engine.send_frame(header, piece.len(), deadline, |slot| {
            slot.copy_from_slice(piece);
            Ok(())
        })?;
        self.has_begun = true;
        self.sent += piece.len();
        Ok(())
    }

    /// Takes the message back, so that the worker forgets its pieces.
    pub(crate) fn abandon(&self, engine: &Engine) {
        let request = self.header.request;
        if !self.has_begun {
            engine.table.lock().unsent(request);
            return;
        }
        let mut header = self.header;
        header.flags |= flags::CONTINUED | flags::ABANDONED;
        // If there is no room for this either, the next message in pieces makes the worker
        // forget this one; its slot in the table stays taken.
        if let Ok(Some(claim)) = engine.producer.lock().try_claim(0) {
            claim.commit(header);
        }
        engine.let_go(request);
    }
}

fn check_reply(header: Header, kind: Kind) -> Result<()> {
    let allowed = match kind {
        Kind::RESULT | Kind::CHUNK => flags::REPLY,
        Kind::ERROR | Kind::END | Kind::CANCEL => 0,
        _ => return Err(Error::corrupt(format!("a reply that is a {kind} frame"))),
    };
    if header.flags & !allowed != 0 {
        let flags = header.flags;
        return Err(Error::corrupt(format!("a {kind} frame with flags {flags:#x}")));
    }
    Ok(())
}

/// An error frame for request 0 speaks of the whole channel.
#[cold]
fn channel_failure(frame: &Frame<'_>, kind: Kind) -> Error {
    if kind != Kind::ERROR {
        return Error::corrupt(format!("a {kind} frame for request 0"));
    }
    match failure::decode(&frame.payload().to_vec()) {
        Ok(failure) => Error::worker_failure(failure),
        Err(error) => Error::corrupt(error.to_string()),
    }
}

fn own_item(frame: Frame<'_>, kind: Kind, is_stream: bool, request: u64) -> Item {
    let cost = as_usize(span(frame.payload().len()));
    if kind == Kind::RESULT || kind == Kind::CHUNK {
        let body = Body::Lease(frame.into_lease());
        return item_of(kind, body, cost, is_stream, request);
    }
    let body = Body::Owned(frame.payload().to_vec());
    item_of(kind, body, cost, is_stream, request)
}

fn item_of(kind: Kind, body: Body, cost: usize, is_stream: bool, request: u64) -> Item {
    match kind {
        Kind::RESULT if !is_stream => Item::Result(body),
        Kind::CHUNK if is_stream => Item::Chunk(body, cost),
        Kind::END if is_stream => Item::End,
        Kind::CANCEL => Item::Cancelled,
        Kind::ERROR => match failure::decode(&body.bytes().to_vec()) {
            Ok(failure) => Item::Failed(Error::worker_failure(failure)),
            Err(error) => Item::Failed(error),
        },
        other => {
            let wanted = if is_stream { "a stream" } else { "one result" };
            let message = format!("request {request} wants {wanted}, the worker sent a {other}");
            Item::Failed(Error::new(ErrorKind::Protocol, message))
        }
    }
}
