//! Both ends of a channel's shared memory: four rings, their doorbells, and the
//! words that stand beside them.
//!
//! Level 3. A link is made of two regions, `down` that the parent writes and `up`
//! that the worker writes, each with a data ring and a health ring. It knows nothing
//! of requests, and nothing of how the descriptors travel.

use std::sync::Arc;

use crate::config::WaitStrategy;
use crate::error::{Error, ErrorKind, Result};
use crate::ring::consumer::ConsumerParts;
use crate::ring::doorbell::{Bell, BellWatch, Sleeper};
use crate::ring::producer::ProducerParts;
use crate::ring::{Consumer, Producer};
use crate::shm::layout::{
    Geometry, REQUEST_ENTRY, RegionHeader, RingLayout, Side, as_usize, control, request_slot,
};
use crate::shm::region::{OwnRegion, PeerRegion, Regions};
use crate::shm::status::{OwnStatus, PeerStatus};
use crate::shm::words::{OwnTable, OwnU32, OwnU64, PeerTable, PeerU32, PeerU64};
use crate::sys::wake_fd::WakeFd;

/// One side of a link: a ring out and a ring in.
#[derive(Debug)]
pub(crate) struct Duplex {
    pub(crate) producer: Producer,
    pub(crate) consumer: Consumer,
    /// A way to wait for either ring, for who drives both.
    pub(crate) sleeper: Sleeper,
    /// The producer's own count of what it has published, as of its last look at the peer's
    /// sleep word: for another thread to see whether anything was sent.
    pub(crate) sent: OwnU64,
}

/// What the parent holds.
#[derive(Debug)]
pub(crate) struct ParentLink {
    pub(crate) data: Duplex,
    pub(crate) health: Duplex,
    pub(crate) words: ParentWords,
    /// What the worker must be found to have written when it has attached.
    pub(crate) answer: ExpectedAnswer,
    /// Marked by the kernel when the worker's health thread ends; for who watches it.
    pub(crate) owner: PeerU32,
}

/// The worker's region and what its header must say.
#[derive(Debug)]
pub(crate) struct ExpectedAnswer {
    peer: PeerRegion,
    header: RegionHeader,
}

/// The parent's words beside the rings.
#[derive(Debug)]
pub(crate) struct ParentWords {
    pub(crate) abort: OwnU32,
    pub(crate) requests: RequestCells,
    pub(crate) status: Arc<PeerStatus>,
    pub(crate) credit_need: PeerU64,
    pub(crate) credit_request: PeerU64,
    /// Wakes a handler that waits for a credit or a cancel.
    pub(crate) data_bell: Bell,
}

/// The parent's end of the request table: one cancel and one credit a request.
#[derive(Debug)]
pub(crate) struct RequestCells(pub(crate) OwnTable);

impl RequestCells {
    pub(crate) fn cancel(&self, slot: usize, request: u64) {
        // Pairs with the Acquire load in `PeerCells::is_cancelled`.
        self.0.store(2 * slot, request, std::sync::atomic::Ordering::Release);
    }

    /// Takes back what an earlier request of the same slot was credited. The worker polls
    /// the line that it lies in, so that it is written only if it has to be.
    pub(crate) fn reset_credit(&self, slot: usize) {
        if self.0.load(2 * slot + 1, std::sync::atomic::Ordering::Relaxed) != 0 {
            self.set_credit(slot, 0);
        }
    }

    pub(crate) fn set_credit(&self, slot: usize, consumed: u64) {
        // Pairs with the Acquire load in `PeerCells::credit`.
        self.0.store(2 * slot + 1, consumed, std::sync::atomic::Ordering::Release);
    }
}

/// What the worker holds.
#[derive(Debug)]
pub(crate) struct WorkerLink {
    pub(crate) data: Duplex,
    pub(crate) health: Duplex,
    pub(crate) words: WorkerWords,
    /// For the health thread to own, so that the kernel marks it when the process ends.
    pub(crate) owner: Option<OwnU32>,
    pub(crate) header: RegionHeader,
}

/// The worker's words beside the rings.
#[derive(Debug)]
pub(crate) struct WorkerWords {
    pub(crate) abort: PeerU32,
    pub(crate) requests: PeerCells,
    pub(crate) status: OwnStatus,
    pub(crate) credit_need: OwnU64,
    pub(crate) credit_request: OwnU64,
}

/// The worker's end of the request table.
#[derive(Debug)]
pub(crate) struct PeerCells {
    pub(crate) table: PeerTable,
    pub(crate) count: u64,
}

impl PeerCells {
    fn slot(&self, request: u64) -> usize {
        request_slot(request, self.count)
    }

    #[inline]
    pub(crate) fn is_cancelled(&self, request: u64) -> bool {
        self.table.load(2 * self.slot(request), std::sync::atomic::Ordering::Acquire) == request
    }

    pub(crate) fn credit(&self, request: u64) -> u64 {
        self.table.load(2 * self.slot(request) + 1, std::sync::atomic::Ordering::Acquire)
    }
}

impl ParentLink {
    /// The link over these regions.
    pub(crate) fn over(
        Regions { own, peer, header }: Regions,
        wait: WaitStrategy,
        wake_fd: Option<&Arc<WakeFd>>,
    ) -> Result<Self> {
        let (ours, theirs) = (&header.own, &header.peer);
        let words = ParentWords {
            abort: own.u32_at(control::ABORT)?,
            requests: RequestCells(
                own.table(as_usize(ours.requests_offset), words_of(ours.request_count))?,
            ),
            status: Arc::new(PeerStatus::at(&peer, control::STATUS)?),
            credit_need: peer.u64_at(control::CREDIT_NEED)?,
            credit_request: peer.u64_at(control::CREDIT_REQUEST)?,
            data_bell: bell(&own, control::DATA, None)?,
        };
        let watches = (Some(watch(&peer, control::DATA)?), Some(watch(&peer, control::HEALTH)?));
        let (data, health) = duplexes(&own, &peer, ours, theirs, wait, watches, wake_fd)?;
        let owner = peer.u32_at(control::OWNER)?;
        let answer = ExpectedAnswer { peer, header };
        Ok(Self { data, health, words, answer, owner })
    }
}

impl ExpectedAnswer {
    /// Checks what the worker wrote into its header when it attached.
    pub(crate) fn check_attached(&self) -> Result<RegionHeader> {
        let bytes = self.peer.header_bytes();
        let answer = RegionHeader::parse(&bytes, Side::Up, self.header.peer.region_len)?;
        answer.check_answers(&self.header)?;
        Ok(answer)
    }
}

impl WorkerLink {
    /// The link over these regions; writes the header of the worker's.
    pub(crate) fn over(
        Regions { own, peer, header }: Regions,
        wait: WaitStrategy,
        wake_fd: Option<&Arc<WakeFd>>,
    ) -> Result<Self> {
        let (ours, theirs) = (&header.peer, &header.own);
        let words = WorkerWords {
            abort: peer.u32_at(control::ABORT)?,
            requests: PeerCells {
                table: peer
                    .table(as_usize(theirs.requests_offset), words_of(theirs.request_count))?,
                count: u64::from(theirs.request_count),
            },
            status: OwnStatus::at(&own, control::STATUS)?,
            credit_need: own.u64_at(control::CREDIT_NEED)?,
            credit_request: own.u64_at(control::CREDIT_REQUEST)?,
        };
        // The parent's bell also rings for credits and cancels: it is not counted.
        let (data, health) = duplexes(&own, &peer, ours, theirs, wait, (None, None), wake_fd)?;
        let owner = Some(own.u32_at(control::OWNER)?);
        let link = Self { data, health, words, owner, header };
        own.write_header(&header.for_peer(std::process::id()));
        Ok(link)
    }
}

fn words_of(requests: u32) -> usize {
    as_usize(u64::from(requests)) * (REQUEST_ENTRY / 8)
}

fn duplexes(
    own: &OwnRegion,
    peer: &PeerRegion,
    ours: &Geometry,
    theirs: &Geometry,
    wait: WaitStrategy,
    watches: (Option<Arc<BellWatch>>, Option<Arc<BellWatch>>),
    wake_fd: Option<&Arc<WakeFd>>,
) -> Result<(Duplex, Duplex)> {
    let waits = (control::DATA, wait, watches.0);
    let data = duplex(own, peer, &ours.data, &theirs.data, waits, wake_fd.cloned())?;
    // Low traffic; a spinning health thread helps nobody.
    let waits = (control::HEALTH, WaitStrategy::Park, watches.1);
    let health = duplex(own, peer, &ours.health, &theirs.health, waits, wake_fd.cloned())?;
    Ok((data, health))
}

fn watch(peer: &PeerRegion, side: usize) -> Result<Arc<BellWatch>> {
    Ok(Arc::new(BellWatch::new(&peer.u32_at(side + control::BELL)?)))
}

fn duplex(
    own: &OwnRegion,
    peer: &PeerRegion,
    ours: &RingLayout,
    theirs: &RingLayout,
    (side, wait, watch): (usize, WaitStrategy, Option<Arc<BellWatch>>),
    wake_fd: Option<Arc<WakeFd>>,
) -> Result<Duplex> {
    let producer = Producer::new(ProducerParts {
        slots: own.slots(ours)?,
        peer_head: peer.u64_at(side + control::HEAD)?,
        peer_sleep_at: peer.u64_at(side + control::SLEEP_AT)?,
        space_at: own.u64_at(side + control::SPACE_AT)?,
        checked: own.u64_at(side + control::CHECKED)?,
        bell: bell(own, side, wake_fd.clone())?,
        sleeper: sleeper(own, peer, side, wait, watch.clone())?,
        max_frame: as_usize(u64::from(ours.max_frame)),
        origin: ours.origin,
    });
    let consumer = Consumer::new(ConsumerParts {
        slots: peer.slots(theirs)?,
        head: own.u64_at(side + control::HEAD)?,
        peer_space_at: peer.u64_at(side + control::SPACE_AT)?,
        sleep_at: own.u64_at(side + control::SLEEP_AT)?,
        peer_checked: peer.u64_at(side + control::CHECKED)?,
        bell: bell(own, side, wake_fd)?,
        sleeper: sleeper(own, peer, side, wait, watch.clone())?,
        max_frame: as_usize(u64::from(theirs.max_frame)),
        origin: theirs.origin,
    });
    let sleeper = sleeper(own, peer, side, wait, watch)?;
    Ok(Duplex { producer, consumer, sleeper, sent: own.u64_at(side + control::CHECKED)? })
}

fn bell(own: &OwnRegion, side: usize, wake_fd: Option<Arc<WakeFd>>) -> Result<Bell> {
    let at = side + control::BELL;
    Ok(Bell::new(own.u32_at(at)?, wake_fd).with_event(own.event(at)))
}

fn sleeper(
    own: &OwnRegion,
    peer: &PeerRegion,
    side: usize,
    wait: WaitStrategy,
    watch: Option<Arc<BellWatch>>,
) -> Result<Sleeper> {
    let at = side + control::BELL;
    let cpus = (own.u32_at(side + control::CPU)?, peer.u32_at(side + control::CPU)?);
    let sleeper = Sleeper::new(peer.u32_at(at)?, cpus.0, cpus.1, wait, watch);
    Ok(sleeper.with_event(peer.event(at)))
}

#[cold]
pub(crate) fn not_pollable() -> Error {
    let message = "the channel has no descriptor to poll; spawn it with `Spawner::pollable`";
    Error::new(ErrorKind::Unsupported, message)
}
