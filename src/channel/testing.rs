//! A channel without a process, for models: both ends of its rings in one process.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use super::core::Core;
use super::outgoing::{RequestSpec, send};
use super::pending_reply::Pending;
use super::state::ChannelState;
use super::worker_exit::WorkerExit;
use crate::config::{Config, RingConfig, WaitStrategy};
use crate::link::{Duplex, ParentWords, Report, WorkerWords};
use crate::protocol::Kind;
use crate::ring::doorbell::{Alarm, Bell, BellWatch, Sleeper};
use crate::ring::testing::{WORDS, ends, region, watch};
use crate::ring::{Consumer, Header, Producer};
use crate::shm::layout::{RingLayout, as_u64};
use crate::shm::marks::{OwnMarks, PeerMarks};
use crate::shm::region::{OwnRegion, PeerRegion};
use crate::shm::requests::{OwnRequests, PeerRequests};
use crate::shm::status::{OwnStatus, PeerStatus};
use crate::sys::clock::{Deadline, TimeLimit};
use crate::sys::wake_fd::WakeFd;
use crate::trace_context::TraceTable;

// Beside the control words of a ring's model.
/// The parent's abort flag, and the worker's status line.
const FLAG: usize = 64;
const UNDERSTOOD: usize = FLAG + 32;
/// The credit that the worker waits for.
const RING: usize = 128;

/// The smallest ring has four slots, of which three can be filled.
const CAPACITY: usize = 256;
pub(crate) const LONGEST: usize = 96;
const TABLE: usize = RING + CAPACITY;

/// A channel and what stands for its worker.
pub(crate) struct ChannelRig {
    pub(crate) core: Arc<Core>,
    pub(crate) worker: Worker,
}

/// The worker's end of the data rings.
pub(crate) struct Worker {
    up: Producer,
    down: Consumer,
    sleeper: Sleeper,
    requests: PeerRequests,
}

/// A channel with room for so many requests.
pub(crate) fn rig(requests: usize) -> ChannelRig {
    rig_with_wake_fds(requests, [None, None])
}

/// As [`rig`], with the parent's and the worker's hold on a pair of descriptors.
pub(crate) fn rig_with_wake_fds(requests: usize, wake_fds: [Option<Arc<WakeFd>>; 2]) -> ChannelRig {
    let [wake_fd, worker_fd] = wake_fds;
    let config = config(requests);
    let (parent, worker) = sides(&config, [wake_fd.as_ref(), worker_fd.as_ref()]);
    let worker = Worker {
        up: worker.rings.producer,
        down: worker.rings.consumer,
        sleeper: worker.rings.sleeper,
        requests: worker.words.requests,
    };
    ChannelRig { core: core_over(parent, &config, wake_fd), worker }
}

/// One side's rings, and its words beside them.
pub(crate) struct Side<W> {
    pub(crate) rings: Duplex,
    pub(crate) words: W,
}

/// A channel with room for so many requests.
pub(crate) fn config(requests: usize) -> Config {
    let ring = RingConfig { capacity: CAPACITY, max_frame: LONGEST };
    Config {
        down: ring,
        up: ring,
        max_in_flight: requests,
        stream_window: CAPACITY,
        max_message: CAPACITY,
        wait: WaitStrategy::Park,
        ..Config::default()
    }
}

/// Both sides' ends of a channel's memory.
pub(crate) fn sides(
    config: &Config,
    [wake_fd, worker_fd]: [Option<&Arc<WakeFd>>; 2],
) -> (Side<ParentWords>, Side<WorkerWords>) {
    let requests = config.max_in_flight;
    let (down, down_seen) = region((TABLE + 16 * requests).next_multiple_of(64));
    let (up, up_seen) = region((TABLE + 32 * requests).next_multiple_of(64));
    let words = ParentWords {
        abort: down.u32_at(FLAG).unwrap(),
        requests: OwnRequests::at(&down, TABLE, requests).unwrap(),
        report: Arc::new(Report {
            status: PeerStatus::at(&up_seen, FLAG).unwrap(),
            marks: PeerMarks::at(&up_seen, TABLE, requests).unwrap(),
        }),
        data_bell: Bell::new(down.u32_at(WORDS.bell).unwrap(), None),
        understood: up_seen.u32_at(UNDERSTOOD).unwrap(),
        channel: 0,
    };
    let watch = watch(&up_seen);
    let parent = Side { rings: duplex(&down, &up_seen, Some(watch), wake_fd), words };
    let words = WorkerWords {
        abort: down_seen.u32_at(FLAG).unwrap(),
        requests: PeerRequests::at(&down_seen, TABLE, requests).unwrap(),
        report: Report {
            status: OwnStatus::at(&up, FLAG).unwrap(),
            marks: OwnMarks::at(&up, TABLE, requests).unwrap(),
        },
        understood: up.u32_at(UNDERSTOOD).unwrap(),
        traces: TraceTable::new(requests),
    };
    (parent, Side { rings: duplex(&up, &down_seen, None, worker_fd), words })
}

/// The parent's side over its end of the memory.
pub(crate) fn core_over(
    parent: Side<ParentWords>,
    config: &Config,
    wake_fd: Option<Arc<WakeFd>>,
) -> Arc<Core> {
    let state = Arc::new(ChannelState::default());
    state.set_exit(WorkerExit);
    Core::new(parent.rings, parent.words, config, state, wake_fd, None)
}

fn duplex(
    own: &OwnRegion,
    peer: &PeerRegion,
    watch: Option<Arc<BellWatch>>,
    wake_fd: Option<&Arc<WakeFd>>,
) -> Duplex {
    let ring = RingConfig { capacity: CAPACITY, max_frame: LONGEST };
    let layout = RingLayout::of(ring, as_u64(RING), 0);
    Duplex::over(&ends(own, peer, watch, wake_fd), &layout, &layout).unwrap()
}

impl ChannelRig {
    /// Sends a request, which the worker has taken.
    pub(crate) fn submit(&mut self) -> Pending {
        let pending = submit(&self.core, Duration::MAX);
        assert_eq!(self.worker.take(), pending.request());
        pending
    }
}

/// Sends a request.
pub(crate) fn submit(core: &Arc<Core>, timeout: Duration) -> Pending {
    let limit = TimeLimit::begin(timeout);
    let deadline = limit.deadline();
    let sent = send(core, RequestSpec::call(Kind::EMBED, deadline), &(), deadline).unwrap();
    Pending::new(Arc::clone(core), sent, limit)
}

impl Worker {
    /// Waits for a request.
    pub(crate) fn take(&mut self) -> u64 {
        let never = || Ok(());
        let frame = self.down.poll_until(&Alarm::default(), Deadline::NEVER, never);
        let request = frame.unwrap().unwrap().header().request;
        self.down.publish_released();
        request
    }

    /// The last frame of a request.
    pub(crate) fn reply(&mut self, request: u64) {
        self.send(Kind::RESULT, 0, request);
    }

    pub(crate) fn send(&mut self, kind: Kind, flags: u16, request: u64) {
        self.send_byte(kind, flags, request, request.to_le_bytes()[0]);
    }

    /// A frame with this byte.
    pub(crate) fn send_byte(&mut self, kind: Kind, flags: u16, request: u64, byte: u8) {
        let mut claim = self.up.try_claim(1).unwrap().unwrap();
        claim.payload().fill(byte);
        claim.commit(Header { kind: kind.code(), flags, request, ..Header::default() });
    }

    pub(crate) fn is_cancelled(&self, request: u64) -> bool {
        self.requests.is_cancelled(request)
    }

    pub(crate) fn credit(&self, request: u64) -> u64 {
        self.requests.credit(request)
    }

    /// What a handler does that waits for nothing else.
    pub(crate) fn await_cancel(&self, request: u64) {
        let found = self.sleeper.wait_until(&Alarm::default(), Deadline::NEVER, |_| {
            Ok(self.is_cancelled(request).then_some(()))
        });
        assert!(found.unwrap().is_some());
    }
}

/// Opens a request for a stream, of which nothing is sent.
pub(crate) fn open_stream(core: &Core) -> u64 {
    core.pending.open(true).unwrap()
}

/// The reader of a stream has consumed so many bytes of slots.
pub(crate) fn consume(core: &Core, request: u64, bytes: usize) {
    core.pending.update_credit(request, bytes, true);
}
