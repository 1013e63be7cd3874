//! The parts of a channel that its handles share.
//!
//! [`Channel`](super::Channel), pending replies, streams and writers hold the core. Each part
//! owns its locks and words; see there. What takes several of them is in the files above: how
//! the ring is read in `reader`, by a descriptor in `reactor_turn`, by a thread in `wait`; how
//! requests go out in `outgoing`.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::channel::counters::Counters;
use crate::channel::item::Item;
use crate::channel::pending::{PendingTable, RequestWords};
use crate::channel::reactor_state::ReactorState;
use crate::channel::receiver::Receiver;
use crate::channel::sender::{Sender, SenderStats};
use crate::channel::state::{ChannelState, Phase};
use crate::channel::stats::Stats;
use crate::channel::status::WorkerStatus;
use crate::channel::tap::FrameTap;
use crate::config::Config;
use crate::error::{Error, Mark, Marks, Result};
use crate::id::RequestId;
use crate::link::{Duplex, ParentWords, PeerReport};
use crate::protocol::buffer_pool::BufferPool;
use crate::ring::Frame;
use crate::ring::doorbell::Sleeper;
use crate::shm::words::PeerU32;
use crate::sync::{AtomicU32, Counter, Ordering};
use crate::sys::clock::Deadline;
use crate::sys::fork;
use crate::sys::wake_fd::WakeFd;
use crate::trace_context::CONTEXT_LEN;

/// The shared parts of a channel.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) sender: Sender,
    pub(super) receiver: Receiver,
    pub(super) pending: PendingTable,
    pub(crate) reactor_state: ReactorState,
    pub(crate) state: Arc<ChannelState>,
    pub(super) status: WorkerStatus,
    pub(super) buffers: Arc<BufferPool>,
    /// How a thread waits for the worker.
    pub(super) sleeper: Sleeper,
    pub(crate) config: Config,
    /// See [`ParentWords`].
    pub(super) id: u64,
    /// What the worker understands.
    understood: PeerU32,
    /// Sees all frames.
    pub(super) tap: Option<Arc<dyn FrameTap>>,
    /// Payloads that are shorter go out in one frame that no tap sees.
    plain_below: usize,
    /// Set once the rings' pages are in the page table.
    pub(super) is_prefaulted: AtomicU32,
}

impl Core {
    pub(crate) fn new(
        data: Duplex,
        words: ParentWords,
        config: &Config,
        state: Arc<ChannelState>,
        wake_fd: Option<Arc<WakeFd>>,
        tap: Option<Arc<dyn FrameTap>>,
    ) -> Arc<Self> {
        let ParentWords { abort, requests, report, data_bell, understood, channel: id } = words;
        let words =
            RequestWords { abort, cells: requests, report: Arc::clone(&report), bell: data_bell };
        let marks: Weak<dyn Marks> = Arc::<PeerReport>::downgrade(&report);
        state.end_of_service.set_source(marks);
        if tap.is_some() {
            state.set_tapped();
        }
        let core = Arc::new(Self {
            sender: Sender::new(data.producer),
            receiver: Receiver::new(data.consumer),
            pending: PendingTable::new(words, config, tap.clone()),
            reactor_state: ReactorState::new(wake_fd),
            state,
            status: WorkerStatus::new(report),
            buffers: BufferPool::new(),
            sleeper: data.sleeper,
            config: config.clone(),
            id,
            understood,
            plain_below: if tap.is_some() { 0 } else { config.down.max_frame + 1 },
            tap,
            is_prefaulted: AtomicU32::new(0),
        });
        let weak = Arc::downgrade(&core);
        core.state.on_end(move || {
            if let Some(core) = weak.upgrade() {
                core.wake_all();
                if let Some(tap) = &core.tap {
                    tap.ended();
                }
            }
        });
        if let Some(tap) = &core.tap
            && !core.state.is_open()
        {
            // The worker died before it could be told.
            tap.ended();
        }
        core
    }

    /// Ends the waits of all threads and tasks. May run on a thread
    /// that serves all workers, or on one of the host's that fails or closes the channel.
    fn wake_all(&self) {
        let waiters = self.pending.take_waiters().into_iter().chain(self.sender.take_waiters());
        waiters.for_each(|waiter| self.receiver.wake_list.add(waiter));
        self.receiver.wake_list.wake_all_elsewhere();
        self.sender.long_messages.look_again();
        self.reactor_state.wake_at_end();
    }

    /// Ends the channel because of `error`. Returns what all others are told, too.
    pub(super) fn fail(&self, error: Error) -> Error {
        self.state.fail(error.clone());
        self.state.failure().unwrap_or(error)
    }

    /// Whether what was read can still be handed out: in this process, and until the channel
    /// is closed.
    #[inline]
    pub(super) fn is_readable(&self) -> bool {
        let is_closed = matches!(self.state.phase(), Phase::Closing | Phase::Closed);
        !is_closed && !fork::is_forked_child()
    }

    /// Refuses a message that is too long, before anything is touched.
    #[inline]
    pub(super) fn check_len(&self, len: usize) -> Result<()> {
        if len > self.config.max_message.max(self.config.down.max_frame) {
            let error = Error::too_large(len, self.config.max_message, "raise max_message");
            return Err(error.with_begun(false));
        }
        Ok(())
    }

    /// Whether a payload of this length does not fit a frame.
    #[inline]
    pub(crate) fn is_long(&self, len: usize) -> bool {
        len > self.config.down.max_frame
    }

    /// Whether a payload of this length and the context of a trace do not fit a frame.
    #[cold]
    pub(crate) fn is_long_traced(&self, len: usize) -> bool {
        self.is_long(len.saturating_add(CONTEXT_LEN))
    }

    /// Whether the worker takes the contexts of traces: one of an earlier version does not. Nor do
    /// frames that are shorter than a context.
    #[cold]
    pub(crate) fn takes_traces(&self) -> bool {
        let has_room = self.config.down.max_frame >= CONTEXT_LEN;
        has_room && ParentWords::understands_traces(&self.understood)
    }

    /// Whether a payload of this length goes out in one frame that no tap sees.
    #[inline]
    pub(super) fn is_plain(&self, len: usize) -> bool {
        len < self.plain_below
    }

    /// Delivers a frame, and tells the waiter of its request. Returns whether it was an item of the
    /// request `own`, which `keep` gets.
    #[inline]
    pub(super) fn deliver(
        &self,
        frame: Frame<'_>,
        own: u64,
        keep: impl FnOnce(Item),
    ) -> Result<bool> {
        frame.fetch_second_line();
        self.pending.deliver(frame, own, &self.buffers, keep, |waiter| match waiter {
            Some(waiter) => self.receiver.wake_list.add(waiter),
            None => self.reactor_state.note_unreported(),
        })
    }

    /// Wakes a thread that waits, to read the ring in this one's place.
    #[inline]
    pub(super) fn wake_a_thread(&self) {
        if self.receiver.has_followers() {
            self.wake_follower();
        }
    }

    #[cold]
    fn wake_follower(&self) {
        if let Some(waiter) = self.pending.take_thread().or_else(|| self.sender.take_thread()) {
            waiter.wake();
        }
    }

    /// Wakes the waiters for which the request ring has room. Returns whether there were any.
    #[cold]
    pub(super) fn wake_waiters_with_room(&self) -> Result<bool> {
        let mut woken = Vec::new();
        let looked = self.sender.take_waiters_with_room(&mut woken);
        let has_woken = !woken.is_empty();
        woken.into_iter().for_each(|waiter| self.receiver.wake_list.add(waiter));
        looked.map(|()| has_woken)
    }

    /// Asks the worker to end a request, without waiting. Does nothing if it has ended.
    pub(crate) fn cancel(&self, request: RequestId) {
        self.pending.cancel(request.get());
    }

    /// Waits until no request is in flight, the channel is over or the deadline passes.
    pub(super) fn drain(&self, deadline: Deadline) {
        while self.in_flight() > 0 && self.state.is_open() && !deadline.has_passed() {
            // The owners of the requests read the ring. This thread only waits for them.
            std::thread::sleep(Duration::from_millis(1).min(deadline.remaining()));
        }
    }

    /// Whether requests can be sent, as far as it is known.
    pub(super) fn is_open(&self) -> bool {
        !fork::is_forked_child() && self.state.is_open()
    }

    /// Requests whose owner has not dropped them; none in a forked child, which may wait for
    /// the lock for ever.
    pub(super) fn in_flight(&self) -> usize {
        if fork::is_forked_child() { 0 } else { self.pending.requests().in_flight() }
    }

    /// The counters of requests.
    pub(super) fn counters(&self) -> &Counters {
        &self.pending.counters
    }

    /// Counts an error that an operation of the host's returns.
    #[cold]
    pub(crate) fn counted(&self, error: Error) -> Error {
        self.pending.counters.count_error(error.kind());
        error
    }

    /// All requests that the worker has taken, with its marks. Takes no lock.
    pub(crate) fn marks(&self) -> Vec<Mark> {
        self.status.marks()
    }

    /// The same for one that does not keep the channel's memory.
    pub(crate) fn weak_marks(&self) -> Weak<dyn Marks> {
        self.status.weak_marks()
    }

    /// How many bytes of a request's stream its reader has consumed, roughly. Takes no lock.
    pub(crate) fn consumed(&self, request: u64) -> u64 {
        self.pending.consumed(request)
    }

    /// How many frames were recorded, and how many were left out.
    pub(super) fn recorded(&self) -> [u64; 2] {
        self.tap.as_ref().map_or([0; 2], |tap| tap.counts())
    }

    /// The counters of all parts; all zero in a forked child.
    pub(super) fn stats(&self) -> Stats {
        if fork::is_forked_child() {
            return Stats::default();
        }
        self.stats_of(self.sender.stats(), self.pending.stats())
    }

    /// The same for the status page; `None` if a lock is held.
    #[cfg(not(loom))]
    pub(crate) fn stats_soon(&self) -> Option<Stats> {
        Some(self.stats_of(self.sender.stats_soon()?, self.pending.stats_soon()?))
    }

    fn stats_of(&self, sender: SenderStats, of_requests: Stats) -> Stats {
        let relaxed = |counter: &Counter| counter.load(Ordering::Relaxed);
        let [recorded_frames, unrecorded_frames] = self.recorded();
        Stats {
            bytes_sent: sender.bytes,
            recorded_frames,
            unrecorded_frames,
            spins: relaxed(&self.sleeper.spins),
            parks: relaxed(&self.sleeper.parks),
            wakes: sender.wakes,
            request_ring_high_water: sender.high_water,
            request_ring_used: sender.used,
            request_copies: sender.copies,
            reply_copies: self.receiver.peer_copies(),
            reply_ring_high_water: self.receiver.high_water(),
            reply_ring_used: self.receiver.used(),
            leases_held: self.receiver.leases_held(),
            ..of_requests
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        #[cfg(not(loom))]
        crate::status_page::remove(self);
    }
}
