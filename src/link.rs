//! Both ends of a channel's shared memory: four rings, their doorbells, and the words that stand
//! beside them.
//!
//! A link is made of two regions, `down` that the parent writes and `up` that the worker writes,
//! each with a data ring and a health ring. It knows nothing of requests, and not which transport
//! the regions come from.

use std::sync::Arc;

use crate::config::{Tuning, WaitStrategy};
use crate::error::{Error, ErrorKind, Mark, Marks, Result};
use crate::ring::doorbell::{Bell, BellWatch, Sleeper};
use crate::ring::ends::{ControlWords, Ends};
use crate::ring::{Consumer, Producer};
use crate::shm::layout::{
    Geometry, RegionHeader, RingLayout, Side, UNDERSTANDS_TRACES, as_usize, control, short_id,
};
use crate::shm::marks::{OwnMarks, PeerMarks};
use crate::shm::region::{PeerRegion, Regions};
use crate::shm::requests::{OwnRequests, PeerRequests};
use crate::shm::status::{OwnStatus, PeerStatus};
use crate::shm::words::{OwnU32, OwnU64, PeerU32};
use crate::sync::Ordering;
use crate::sys::wake_fd::WakeFd;
use crate::trace_context::TraceTable;

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

impl Duplex {
    /// Makes this side's ends of the rings with these layouts: the one that it fills first.
    pub(crate) fn over(ends: &Ends<'_>, out: &RingLayout, into: &RingLayout) -> Result<Self> {
        Ok(Self {
            producer: Producer::new(ends, out)?,
            consumer: Consumer::new(ends, into)?,
            sleeper: ends.sleeper()?,
            sent: ends.own.u64_at(ends.words.checked)?,
        })
    }
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
    pub(crate) report: Arc<PeerReport>,
    /// Wakes a handler that waits for a credit or a cancel.
    pub(crate) data_bell: Bell,
    /// What the worker understands.
    pub(crate) understood: PeerU32,
    /// The channel's short id, which stands in the headers of its regions.
    pub(crate) channel: u64,
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
    pub(crate) report: OwnReport,
    /// What this worker understands.
    pub(crate) understood: OwnU32,
    /// Not shared: the traces that its requests are part of.
    pub(crate) traces: TraceTable,
}

/// What a worker says of itself without being asked.
#[derive(Debug)]
pub(crate) struct Report<S, M> {
    pub(crate) status: S,
    pub(crate) marks: M,
}

/// The report in the hands of the worker.
pub(crate) type OwnReport = Report<OwnStatus, OwnMarks>;
/// The report as the parent sees it.
pub(crate) type PeerReport = Report<PeerStatus, PeerMarks>;

impl Marks for PeerReport {
    fn all(&self) -> Vec<Mark> {
        self.marks.all()
    }

    fn of(&self, request: u64) -> Option<Mark> {
        self.marks.of(request)
    }
}

impl ParentLink {
    /// The link over these regions.
    pub(crate) fn over(
        Regions { own, peer, header }: Regions,
        tuning: Tuning,
        wake_fd: Option<&Arc<WakeFd>>,
    ) -> Result<Self> {
        let (ours, theirs) = (&header.own, &header.peer);
        let ends = |words: ControlWords, tuning| -> Result<Ends<'_>> {
            let watch = Some(Arc::new(BellWatch::new(&peer.u32_at(words.bell)?)));
            Ok(Ends { own: &own, peer: &peer, words, tuning, watch, wake_fd })
        };
        let data = Duplex::over(&ends(DATA, tuning)?, &ours.data, &theirs.data)?;
        let health = Duplex::over(&ends(HEALTH, HEALTH_TUNING)?, &ours.health, &theirs.health)?;
        let ((offset, entries), (marks, _)) = (table(ours), table(theirs));
        let words = ParentWords {
            abort: own.u32_at(control::ABORT)?,
            requests: OwnRequests::at(&own, offset, entries)?,
            report: Arc::new(Report {
                status: PeerStatus::at(&peer, control::STATUS)?,
                marks: PeerMarks::at(&peer, marks, entries)?,
            }),
            data_bell: Bell::new(own.u32_at(DATA.bell)?, None).with_event(own.event(DATA.bell)),
            understood: peer.u32_at(control::UNDERSTOOD)?,
            channel: short_id(header.channel),
        };
        let owner = peer.u32_at(control::OWNER)?;
        let answer = ExpectedAnswer { peer, header };
        Ok(Self { data, health, words, answer, owner })
    }
}

impl ExpectedAnswer {
    /// The worker's region.
    pub(crate) fn peer(&self) -> &PeerRegion {
        &self.peer
    }

    /// Checks what the worker wrote into its header when it attached.
    pub(crate) fn check_attached(&self) -> Result<RegionHeader> {
        let bytes = self.peer.header_bytes();
        let answer = RegionHeader::parse(&bytes, Side::Up, self.header.peer.region_len)?;
        answer.check_answers(&self.header)?;
        Ok(answer)
    }
}

impl WorkerWords {
    /// Tells the parent what this worker understands, before it is told that the worker is attached.
    pub(crate) fn tell_what_is_understood(&self) {
        // The handshake orders it.
        self.understood.store(UNDERSTANDS_TRACES, Ordering::Relaxed);
    }
}

impl ParentWords {
    /// Whether the worker takes the contexts of traces.
    #[cold]
    pub(crate) fn understands_traces(understood: &PeerU32) -> bool {
        understood.load(Ordering::Relaxed) & UNDERSTANDS_TRACES != 0
    }
}

impl WorkerLink {
    /// The link over these regions. Writes the header of the worker's, by which the parent sees
    /// that it is attached.
    pub(crate) fn over(
        Regions { own, peer, header }: Regions,
        tuning: Tuning,
        wake_fd: Option<&Arc<WakeFd>>,
    ) -> Result<Self> {
        let (ours, theirs) = (&header.peer, &header.own);
        // The parent's bell also rings for credits and cancels: it is not counted.
        let ends =
            |words, tuning| Ends { own: &own, peer: &peer, words, tuning, watch: None, wake_fd };
        let data = Duplex::over(&ends(DATA, tuning), &ours.data, &theirs.data)?;
        let health = Duplex::over(&ends(HEALTH, HEALTH_TUNING), &ours.health, &theirs.health)?;
        let ((marks, _), (offset, entries)) = (table(ours), table(theirs));
        let words = WorkerWords {
            abort: peer.u32_at(control::ABORT)?,
            requests: PeerRequests::at(&peer, offset, entries)?,
            report: Report {
                status: OwnStatus::at(&own, control::STATUS)?,
                marks: OwnMarks::at(&own, marks, entries)?,
            },
            understood: own.u32_at(control::UNDERSTOOD)?,
            traces: TraceTable::new(entries),
        };
        let owner = Some(own.u32_at(control::OWNER)?);
        own.write_header(&header.for_peer(std::process::id()));
        Ok(Self { data, health, words, owner, header })
    }
}

const DATA: ControlWords = ControlWords::at(control::DATA);
const HEALTH: ControlWords = ControlWords::at(control::HEALTH);

/// The health rings carry little: a thread that spins there helps no operation.
const HEALTH_TUNING: Tuning = Tuning { wait: WaitStrategy::Park, copy: None };

/// The offset of a region's table, and its entries.
fn table(geometry: &Geometry) -> (usize, usize) {
    (as_usize(geometry.requests_offset), as_usize(u64::from(geometry.request_count)))
}

#[cold]
pub(crate) fn not_pollable() -> Error {
    let message = "the channel has no descriptor to poll; spawn it with `Spawner::pollable`";
    Error::new(ErrorKind::Unsupported, message)
}
