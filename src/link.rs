//! Both ends of a channel's shared memory: four rings, their doorbells, and the words that stand
//! beside them.
//!
//! A link is made of two regions, `down` that the parent writes and `up` that the worker writes,
//! each with a data ring and a health ring. It knows nothing of requests, and not which transport
//! the regions come from.

use std::sync::Arc;

use crate::config::WaitStrategy;
use crate::error::{Error, ErrorKind, Result};
use crate::ring::consumer::ConsumerParts;
use crate::ring::doorbell::{Bell, BellWatch, Sleeper};
use crate::ring::producer::ProducerParts;
use crate::ring::{Consumer, Producer};
use crate::shm::layout::{Geometry, RegionHeader, RingLayout, Side, as_usize, control};
use crate::shm::region::{OwnRegion, PeerRegion, Regions};
use crate::shm::requests::{OwnRequests, PeerRequests};
use crate::shm::status::{OwnStatus, PeerStatus};
use crate::shm::words::{OwnU32, OwnU64, PeerU32, PeerU64};
use crate::sys::wake_fd::WakeFd;

/// One side of a link: a ring out and a ring in.
#[derive(Debug)]
pub(crate) struct Duplex {
    pub(crate) producer: Producer,
    pub(crate) consumer: Consumer,
    /// Waits for either ring.
    pub(crate) sleeper: Sleeper,
    /// The producer's own count of what it has published, as of its last look at the peer's
    /// sleep word: for another thread to see whether anything was sent.
    pub(crate) sent: OwnU64,
}

/// The parent's end.
#[derive(Debug)]
pub(crate) struct ParentLink {
    pub(crate) data: Duplex,
    pub(crate) health: Duplex,
    pub(crate) words: ParentWords,
    /// What the worker must be found to have written when it has attached.
    pub(crate) answer: ExpectedAnswer,
    /// Marked by the kernel when the worker's health thread ends.
    pub(crate) owner: PeerU32,
}

/// The parent's words beside the rings.
#[derive(Debug)]
pub(crate) struct ParentWords {
    pub(crate) abort: OwnU32,
    pub(crate) requests: OwnRequests,
    pub(crate) status: Arc<PeerStatus>,
    pub(crate) credit_need: PeerU64,
    pub(crate) credit_request: PeerU64,
    /// Wakes a handler that waits for a credit or a cancel.
    pub(crate) data_bell: Bell,
}

/// The worker's region and what its header must say.
#[derive(Debug)]
pub(crate) struct ExpectedAnswer {
    peer: PeerRegion,
    header: RegionHeader,
}

/// The worker's end.
#[derive(Debug)]
pub(crate) struct WorkerLink {
    pub(crate) data: Duplex,
    pub(crate) health: Duplex,
    pub(crate) words: WorkerWords,
    /// For the health thread to own, so that the kernel marks it when the process ends. `None`
    /// if the parent does not watch it.
    pub(crate) owner: Option<OwnU32>,
    pub(crate) header: RegionHeader,
}

/// The worker's words beside the rings.
#[derive(Debug)]
pub(crate) struct WorkerWords {
    pub(crate) abort: PeerU32,
    pub(crate) requests: PeerRequests,
    pub(crate) status: OwnStatus,
    pub(crate) credit_need: OwnU64,
    pub(crate) credit_request: OwnU64,
}

impl ParentLink {
    /// The link over these regions.
    pub(crate) fn over(
        Regions { own, peer, header }: Regions,
        wait: WaitStrategy,
        wake_fd: Option<&Arc<WakeFd>>,
    ) -> Result<Self> {
        let (ours, theirs) = (&header.own, &header.peer);
        let half = |lines, wait| -> Result<Half<'_>> {
            let peer_bell = peer.u32_at(lines + control::BELL)?;
            let watch = Some(Arc::new(BellWatch::new(&peer_bell)));
            Ok(Half { own: &own, peer: &peer, lines, wait, watch, wake_fd })
        };
        let data = half(control::DATA, wait)?.duplex(&ours.data, &theirs.data)?;
        let health = half(control::HEALTH, HEALTH_WAIT)?.duplex(&ours.health, &theirs.health)?;
        let (offset, entries) = request_table(ours);
        let words = ParentWords {
            abort: own.u32_at(control::ABORT)?,
            requests: OwnRequests::at(&own, offset, entries)?,
            status: Arc::new(PeerStatus::at(&peer, control::STATUS)?),
            credit_need: peer.u64_at(control::CREDIT_NEED)?,
            credit_request: peer.u64_at(control::CREDIT_REQUEST)?,
            data_bell: bell(&own, control::DATA, None)?,
        };
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
    /// The link over these regions. Writes the header of the worker's, by which the parent sees
    /// that it is attached.
    pub(crate) fn over(
        Regions { own, peer, header }: Regions,
        wait: WaitStrategy,
        wake_fd: Option<&Arc<WakeFd>>,
    ) -> Result<Self> {
        let (ours, theirs) = (&header.peer, &header.own);
        // The parent's bell also rings for credits and cancels: it is not counted.
        let half = |lines, wait| Half { own: &own, peer: &peer, lines, wait, watch: None, wake_fd };
        let data = half(control::DATA, wait).duplex(&ours.data, &theirs.data)?;
        let health = half(control::HEALTH, HEALTH_WAIT).duplex(&ours.health, &theirs.health)?;
        let (offset, entries) = request_table(theirs);
        let words = WorkerWords {
            abort: peer.u32_at(control::ABORT)?,
            requests: PeerRequests::at(&peer, offset, entries)?,
            status: OwnStatus::at(&own, control::STATUS)?,
            credit_need: own.u64_at(control::CREDIT_NEED)?,
            credit_request: own.u64_at(control::CREDIT_REQUEST)?,
        };
        let owner = Some(own.u32_at(control::OWNER)?);
        own.write_header(&header.for_peer(std::process::id()));
        Ok(Self { data, health, words, owner, header })
    }
}

/// The health rings carry little: a thread that spins there helps no operation.
const HEALTH_WAIT: WaitStrategy = WaitStrategy::Park;

/// The offset of the request table, and its entries.
fn request_table(geometry: &Geometry) -> (usize, usize) {
    (as_usize(geometry.requests_offset), as_usize(u64::from(geometry.request_count)))
}

/// The data or the health rings of both regions, to be made into one side's ends.
struct Half<'a> {
    own: &'a OwnRegion,
    peer: &'a PeerRegion,
    /// Where the control lines start, in both regions.
    lines: usize,
    wait: WaitStrategy,
    watch: Option<Arc<BellWatch>>,
    wake_fd: Option<&'a Arc<WakeFd>>,
}

impl Half<'_> {
    fn duplex(&self, ours: &RingLayout, theirs: &RingLayout) -> Result<Duplex> {
        let Self { own, peer, lines, .. } = *self;
        let producer = Producer::new(ProducerParts {
            slots: own.slots(ours)?,
            peer_head: peer.u64_at(lines + control::HEAD)?,
            peer_sleep_at: peer.u64_at(lines + control::SLEEP_AT)?,
            space_at: own.u64_at(lines + control::SPACE_AT)?,
            checked: own.u64_at(lines + control::CHECKED)?,
            bell: bell(own, lines, self.wake_fd)?,
            sleeper: self.sleeper()?,
            max_frame: as_usize(u64::from(ours.max_frame)),
            origin: ours.origin,
        });
        let consumer = Consumer::new(ConsumerParts {
            slots: peer.slots(theirs)?,
            head: own.u64_at(lines + control::HEAD)?,
            peer_space_at: peer.u64_at(lines + control::SPACE_AT)?,
            sleep_at: own.u64_at(lines + control::SLEEP_AT)?,
            peer_checked: peer.u64_at(lines + control::CHECKED)?,
            bell: bell(own, lines, self.wake_fd)?,
            sleeper: self.sleeper()?,
            max_frame: as_usize(u64::from(theirs.max_frame)),
            origin: theirs.origin,
        });
        let sent = own.u64_at(lines + control::CHECKED)?;
        Ok(Duplex { producer, consumer, sleeper: self.sleeper()?, sent })
    }

    fn sleeper(&self) -> Result<Sleeper> {
        let Self { own, peer, lines, wait, .. } = *self;
        let at = lines + control::BELL;
        let (own_cpu, peer_cpu) =
            (own.u32_at(lines + control::CPU)?, peer.u32_at(lines + control::CPU)?);
        let sleeper = Sleeper::new(peer.u32_at(at)?, own_cpu, peer_cpu, wait, self.watch.clone());
        Ok(sleeper.with_event(peer.event(at)))
    }
}

/// The bell that this side rings, in the control lines that start at `lines`.
fn bell(own: &OwnRegion, lines: usize, wake_fd: Option<&Arc<WakeFd>>) -> Result<Bell> {
    let at = lines + control::BELL;
    Ok(Bell::new(own.u32_at(at)?, wake_fd.cloned()).with_event(own.event(at)))
}

#[cold]
pub(crate) fn not_pollable() -> Error {
    let message = "the channel has no descriptor to poll; spawn it with `Spawner::pollable`";
    Error::new(ErrorKind::Unsupported, message)
}
