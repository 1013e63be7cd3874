//! Frames that outlive the poll that found them.

use std::sync::Arc;

use crate::ring::header::Header;
use crate::ring::reclaim::{Cursor, Reclaim};
use crate::shm::bytes::PeerBytes;
use crate::shm::second_map::PinnedBytes;
use crate::shm::words::PeerU64;
use crate::sync::Ordering;

/// A frame that is kept while other frames are received: see
/// [`Frame::into_lease`](crate::ring::Frame::into_lease). Leases can be sent to other threads
/// and dropped in any order.
///
/// Dropping a lease releases its slot. Until then the peer can use neither that slot nor any
/// behind it, so that leases that are kept for long hold it up.
///
/// ```
/// # fn main() -> slipring::Result<()> {
/// # use std::time::Duration;
/// # use slipring::ring::Header;
/// # use slipring::{Config, RoleConfig};
/// # let numbers = |mut link: slipring::RawLink, _| {
/// #     for number in 0_u64..10 {
/// #         let mut claim = link.claim(8, Duration::MAX)?;
/// #         claim.payload().copy_from_slice(&number.to_le_bytes());
/// #         claim.commit(Header { aux: number, ..Header::default() });
/// #     }
/// #     while link.recv(Duration::MAX).is_ok() {}
/// #     Ok(())
/// # };
/// # let mut link =
/// #     slipring::testing::spawn_raw_thread(&Config::small(), RoleConfig::default(), numbers)?;
/// let mut leases = Vec::new();
/// for _ in 0..10 {
///     leases.push(link.recv(Duration::from_secs(1))?.into_lease());
/// }
/// assert_eq!(link.receiver().leased(), 10);
/// let workers = leases.into_iter().map(|lease| {
///     std::thread::spawn(move || {
///         assert_eq!(lease.payload().to_vec(), lease.header().aux.to_le_bytes());
///     })
/// });
/// for worker in workers.collect::<Vec<_>>() {
///     worker.join().unwrap();
/// }
/// assert_eq!(link.receiver().leased(), 0);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Lease {
    header: Header,
    slot: LeasedSlot,
}

impl Lease {
    pub(super) fn new(header: Header, slot: LeasedSlot) -> Self {
        Self { header, slot }
    }

    /// Returns the frame's header: a copy that was checked and that the peer cannot change.
    #[must_use]
    pub fn header(&self) -> Header {
        self.header
    }

    /// Returns the frame's payload, in memory that the peer can still write to.
    #[must_use]
    #[inline]
    pub fn payload(&self) -> PeerBytes<'_> {
        self.slot.payload()
    }
}

/// A lease without its frame's header.
#[derive(Debug)]
pub(crate) struct LeasedSlot {
    reclaim: Arc<Reclaim>,
    start: u64,
    sequence: u64,
    len: u32,
    /// Where the payload stays, if it is kept.
    pinned: Option<Arc<PinnedBytes>>,
}

impl LeasedSlot {
    /// Keeps the frame from `start` to `end`. Takes the consumer's cursor, if it has it.
    pub(super) fn new(
        reclaim: &Arc<Reclaim>,
        cursor: Option<Cursor>,
        header: Header,
        start: u64,
        end: u64,
    ) -> Self {
        let sequence = reclaim.keep(cursor, end, header.request);
        Self { reclaim: Arc::clone(reclaim), start, sequence, len: header.len, pinned: None }
    }

    #[inline]
    pub(crate) fn payload(&self) -> PeerBytes<'_> {
        match &self.pinned {
            Some(pinned) => pinned.bytes(),
            None => self.reclaim.payload(self.start, self.len),
        }
    }

    /// Has the payload stay at one address from now on, and leave the ring before it holds too much
    /// of it. Returns false if that cannot be, or costs more than a copy.
    pub(crate) fn pin(&mut self) -> bool {
        if self.pinned.is_none() {
            self.pinned = self.reclaim.pin(self.sequence, self.start, self.len);
        }
        self.pinned.is_some()
    }
}

impl Drop for LeasedSlot {
    fn drop(&mut self) {
        self.reclaim.give_back(self.sequence);
    }
}

/// Frames that lie one behind the other, without padding between them, and are kept together. It
/// counts as one lease.
#[derive(Debug)]
pub(crate) struct LeasedRun(LeasedSlot);

impl LeasedRun {
    /// Keeps the frames from `start` to `end`, the last of which has this header.
    pub(super) fn new(
        reclaim: &Arc<Reclaim>,
        cursor: Option<Cursor>,
        last: Header,
        start: u64,
        end: u64,
    ) -> Self {
        Self(LeasedSlot::new(reclaim, cursor, last, start, end))
    }

    /// Returns the payload of the frame that starts `offset` bytes into the run, and is `len` bytes
    /// long as its checked header said.
    #[inline]
    pub(crate) fn payload(&self, offset: u64, len: u32) -> PeerBytes<'_> {
        let LeasedSlot { reclaim, start, .. } = &self.0;
        reclaim.payload(start.wrapping_add(offset), len)
    }
}

/// Tells how full a ring is without a borrow of its consumer.
#[derive(Debug)]
pub(crate) struct ReaderGauge {
    reclaim: Arc<Reclaim>,
    peer_checked: Arc<PeerU64>,
    peer_high_water: Arc<PeerU64>,
    capacity: u64,
}

impl ReaderGauge {
    /// `peer` are the producer's words: up to where it has notified, and its high-water mark.
    pub(super) fn new(reclaim: &Arc<Reclaim>, peer: [&Arc<PeerU64>; 2], capacity: u64) -> Self {
        let [peer_checked, peer_high_water] = peer.map(Arc::clone);
        Self { reclaim: Arc::clone(reclaim), peer_checked, peer_high_water, capacity }
    }

    /// Leases that are out.
    pub(crate) fn held(&self) -> usize {
        self.reclaim.leased()
    }

    /// Bytes that the producer has published and cannot fill again yet, as far as it says so.
    pub(crate) fn used(&self) -> u64 {
        // The head first: it only grows. A frame can be taken before the producer has stored the
        // position.
        let head = self.reclaim.published_head();
        let used = self.peer_checked.load(Ordering::Relaxed).wrapping_sub(head);
        self.if_possible(used)
    }

    /// The most bytes that the producer has found in the ring when that seemed full, as far as it says
    /// so.
    pub(crate) fn high_water(&self) -> u64 {
        self.if_possible(self.peer_high_water.load(Ordering::Relaxed))
    }

    /// So many bytes, or none if the ring cannot have as many: the peer can store anything.
    fn if_possible(&self, bytes: u64) -> u64 {
        if bytes <= self.capacity { bytes } else { 0 }
    }
}
