//! Both ends of a ring in one process, for tests and models.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::Arc;

use crate::config::{RingConfig, Tuning, WaitStrategy};
use crate::error::Result;
use crate::ring::doorbell::{Alarm, BellWatch};
use crate::ring::ends::{ControlWords, Ends};
use crate::ring::{Batch, Consumer, Header, Producer};
use crate::shm::layout::{RingLayout, as_u64};
use crate::shm::region::{OwnRegion, PeerRegion};
use crate::shm::slots::OwnSlots;
use crate::shm::words::{OwnU32, OwnU64};
use crate::sys::wake_fd::WakeFd;

/// Offsets of the control words in either region. They are closer together than in a real one,
/// so that a model is small. The models of channels have more words, from 64 on.
pub(crate) const WORDS: ControlWords = ControlWords {
    sleep_at: 0,
    cpu: 12,
    head: 16,
    space_at: 24,
    bell: 32,
    checked: 40,
    copies: 48,
    high_water: 56,
};
const RING: usize = 64;

/// A ring, and everything that either side could write if it were hostile.
#[derive(Debug)]
pub(crate) struct RingRig {
    pub(crate) producer: Producer,
    pub(crate) consumer: Consumer,
    pub(crate) forge: Forge,
}

/// The words of both sides, to be written against all rules.
#[derive(Debug)]
pub(crate) struct Forge {
    pub(crate) slots: OwnSlots,
    pub(crate) space_at: OwnU64,
    pub(crate) producer_bell: OwnU32,
    pub(crate) high_water: OwnU64,
    pub(crate) head: OwnU64,
    pub(crate) sleep_at: OwnU64,
    pub(crate) consumer_bell: OwnU32,
}

/// How a rig is made.
pub(crate) struct RigOptions {
    pub(crate) capacity: usize,
    pub(crate) max_frame: usize,
    /// The position of the first slot.
    pub(crate) origin: u64,
    /// How far from its first byte the ring can begin anew, and the bytes between two looks.
    pub(crate) anew: Option<[u64; 2]>,
    /// How often both bells have rung before.
    pub(crate) rung: u32,
    /// The producer's and the consumer's ends of a pair of descriptors.
    pub(crate) wake_fds: [Option<Arc<WakeFd>>; 2],
}

/// A ring over two regions of their own, each mapped twice.
pub(crate) fn rig(capacity: usize, max_frame: usize, origin: u64) -> RingRig {
    rig_with(RigOptions { origin, ..RigOptions::new(capacity, max_frame) })
}

/// As [`rig`], with these options.
pub(crate) fn rig_with(options: RigOptions) -> RingRig {
    let down = region(RING + options.capacity);
    rig_in(down, options)
}

impl RigOptions {
    pub(crate) fn new(capacity: usize, max_frame: usize) -> Self {
        Self { capacity, max_frame, origin: 0, anew: None, rung: 0, wake_fds: [None, None] }
    }
}

/// As [`rig_with`], with the ring in this region.
fn rig_in((down, down_seen): (OwnRegion, PeerRegion), options: RigOptions) -> RingRig {
    let RigOptions { capacity, max_frame, origin, anew, rung, wake_fds } = options;
    let [producer_fd, consumer_fd] = wake_fds;
    let (up, up_seen) = region(RING);
    let layout = RingLayout::of(RingConfig { capacity, max_frame }, as_u64(RING), origin);
    let bell = |region: &OwnRegion| region.u32_at(WORDS.bell).unwrap();
    bell(&down).store(rung, crate::sync::Ordering::Relaxed);
    bell(&up).store(rung, crate::sync::Ordering::Relaxed);
    let watch = |peer: &PeerRegion| Some(watch(peer));
    let out = ends(&down, &up_seen, watch(&up_seen), producer_fd.as_ref());
    let into = ends(&up, &down_seen, watch(&down_seen), consumer_fd.as_ref());
    let mut producer = Producer::new(&out, &layout).unwrap();
    producer.anew = anew.or(producer.anew);
    let consumer = Consumer::new(&into, &layout).unwrap();
    let forge = Forge {
        slots: down.slots(&layout).unwrap(),
        space_at: down.u64_at(WORDS.space_at).unwrap(),
        producer_bell: bell(&down),
        high_water: down.u64_at(WORDS.high_water).unwrap(),
        head: up.u64_at(WORDS.head).unwrap(),
        sleep_at: up.u64_at(WORDS.sleep_at).unwrap(),
        consumer_bell: bell(&up),
    };
    RingRig { producer, consumer, forge }
}

/// Counts the peer's rings.
pub(crate) fn watch(peer: &PeerRegion) -> Arc<BellWatch> {
    Arc::new(BellWatch::new(&peer.u32_at(WORDS.bell).unwrap()))
}

/// The ends of a side that has these regions.
pub(crate) fn ends<'a>(
    own: &'a OwnRegion,
    peer: &'a PeerRegion,
    watch: Option<Arc<BellWatch>>,
    wake_fd: Option<&'a Arc<WakeFd>>,
) -> Ends<'a> {
    let tuning = Tuning { wait: WaitStrategy::Park, copy: None };
    Ends { own, peer, words: WORDS, tuning, watch, wake_fd }
}

cfg_if! {
    if #[cfg(loom)] {
        pub(crate) use crate::shm::model::region;
    } else {
        pub(crate) fn region(len: usize) -> (OwnRegion, PeerRegion) {
            let file = crate::sys::memfd::create(c"test", as_u64(len)).unwrap();
            region_of(&file, len)
        }

        fn region_of(file: &std::fs::File, len: usize) -> (OwnRegion, PeerRegion) {
            let own = crate::shm::memfd::map_own(file, as_u64(len)).unwrap();
            (own, crate::shm::memfd::map_peer_twice(file, as_u64(len)).unwrap())
        }

        /// As [`rig`], with a file that has no pages, and that file.
        pub(crate) fn rig_without_pages(capacity: usize, max_frame: usize) -> (RingRig, std::fs::File) {
            let len = RING + capacity;
            let file = crate::sys::memfd::create_sparse(c"test", as_u64(len)).unwrap();
            (rig_in(region_of(&file, len), RigOptions::new(capacity, max_frame)), file)
        }
    }
}

/// Publishes one frame, or says that the ring is full.
pub(crate) fn send(producer: &mut Producer, request: u64, payload: &[u8]) -> Result<bool> {
    let Some(mut claim) = producer.try_claim(payload.len())? else { return Ok(false) };
    claim.payload().copy_from_slice(payload);
    claim.commit(Header { request, ..Header::default() });
    Ok(true)
}

/// Claims up to `count` slots, if there is one.
pub(crate) fn claim_batch(
    producer: &mut Producer,
    len: usize,
    count: usize,
) -> Result<Option<Batch<'_>>> {
    let is_free = producer.reserve(len)? || count == 0;
    Ok(is_free.then(|| producer.claim_batch_reserved(count)))
}

/// Takes one frame: its request and a copy of its payload.
pub(crate) fn receive(consumer: &mut Consumer) -> Result<Option<(u64, Vec<u8>)>> {
    Ok(consumer.poll()?.map(|frame| (frame.header().request, frame.payload().to_vec())))
}

pub(crate) fn alarm() -> Arc<Alarm> {
    Arc::default()
}

/// Bytes that differ for each seed and length.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ as_u64(len) | 1;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
        state.to_be_bytes()[0]
    })
    .take(len)
    .collect()
}
