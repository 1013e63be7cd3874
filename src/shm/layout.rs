//! The layout of a region: the one place that says which byte means what.
//!
//! ```text
//!  offset  size  what
//!       0   384  header, written once by the region's owner before it is shared
//!     512  4 x 128  control lines of the data side
//!    1024  4 x 128  control lines of the health side
//!    1536   128  abort line          (down only)
//!    1664   128  status line         (up only)
//!    1792   128  owner word          (up only)
//!    4096   E n  request table       (E = 16: down)  or marks  (E = 32: up)
//!       .     .  data ring, page aligned, capacity bytes
//!       .     .  health ring, page aligned, capacity bytes
//!
//!  control lines of a side, each 128 bytes so that no two share a pair of cache lines:
//!     +0   u64 sleep_at   position of the frame that the owner, as consumer, sleeps for;
//!                         plus one: it is to be woken by its descriptor, not by the bell
//!    +12   u32 cpu        processor the owner last slept or woke on, plus one
//!   +128   u64 head       position up to which the owner, as consumer, has released slots
//!   +256   u64 space_at   head that the owner, as producer, sleeps for; plus one as above
//!   +384   u32 bell       futex word that the owner bumps to wake its peer
//!   +392   u64 checked    position up to which the owner, as producer, has rung for frames
//!   +400   u32 copies     how the owner, as producer, copies payloads: four bits for each class
//!                         of lengths, as in the handshake
//!   +408   u64 high_water the most bytes that the owner, as producer, found in its ring when that
//!                         seemed full
//!
//!  abort line:   +0 u32 flag, not zero while the abort flag is set
//!  status line:  +0 u32 state, +8 u64 requests served, +16 u64 payload bytes received,
//!                +24 u64 payload bytes sent, +32 u32 what the worker understands: 1 traces
//!  owner word:   +0 u32 thread id of the health thread | FUTEX_WAITERS; the kernel sets
//!                FUTEX_OWNER_DIED when that thread ends
//!  request table entry i, for the live request whose id = i modulo n:
//!     +0 u64 id of the request that is cancelled, +8 u64 bytes of its stream consumed
//!  mark i, for the same request:
//!     +0 u64 id * 8 + stage: 1 taken, 2 begun, 3 answered, 4 done
//!     +8 u64 since (ns, monotonic), +16 u64 progress, +24 u64 credit that it waits for, or 0
//! ```
//!
//! Integers are little-endian. A region of zeros is invalid.

use std::hash::{BuildHasher, Hasher, RandomState};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::config::{Config, RingConfig, SLOT_ALIGN};
use crate::error::{Error, Result, shown};

/// First eight bytes of every region.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"SLIPRING");
/// Version of everything that this module describes.
pub(crate) const LAYOUT_VERSION: u32 = 2;
/// Features that a peer must know to use the region; none exist yet.
pub(crate) const KNOWN_FEATURES: u64 = 0;

/// In the word of what a worker understands: that a request's frame may have the context of its trace.
/// A worker that does not know the word leaves it zero.
pub(crate) const UNDERSTANDS_TRACES: u32 = 1;

/// Where rings start is a multiple of this.
pub(crate) const PAGE: u64 = 4096;

/// The side that writes the region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The parent: requests, credits, cancels.
    Down,
    /// The worker: replies, status, marks.
    Up,
}

impl Side {
    fn code(self) -> u32 {
        match self {
            Self::Down => 1,
            Self::Up => 2,
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Down => Self::Up,
            Self::Up => Self::Down,
        }
    }

    /// Bytes of a table of so many entries, one for each request.
    fn table_len(self, entries: u64) -> u64 {
        let words = match self {
            Self::Down => REQUEST_WORDS,
            Self::Up => MARK_WORDS,
        };
        entries * as_u64(words * size_of::<u64>())
    }
}

/// Offsets of control words from the start of a region.
pub(crate) mod control {
    /// Bytes of a line: two of the processor's, which fetches them in pairs.
    pub(crate) const LINE: usize = 128;

    /// First control line of the data side.
    pub(crate) const DATA: usize = 512;
    /// First control line of the health side.
    pub(crate) const HEALTH: usize = 1024;

    /// Within a side: see the module's map.
    pub(crate) const SLEEP_AT: usize = 0;
    pub(crate) const CPU: usize = 12;
    pub(crate) const HEAD: usize = 128;
    pub(crate) const SPACE_AT: usize = 256;
    pub(crate) const BELL: usize = 384;
    pub(crate) const CHECKED: usize = 392;
    pub(crate) const COPIES: usize = 400;
    pub(crate) const HIGH_WATER: usize = 408;

    pub(crate) const ABORT: usize = 1536;

    /// Its words are those of [`StatusWords`](super::super::status::StatusWords).
    pub(crate) const STATUS: usize = 1664;

    /// What the worker understands, in the status line.
    pub(crate) const UNDERSTOOD: usize = STATUS + 32;

    pub(crate) const OWNER: usize = 1792;

    /// First byte after the control lines.
    pub(crate) const END: usize = 4096;

    const _: () = assert!(HEALTH - DATA == 4 * LINE && ABORT - HEALTH == 4 * LINE);
    const _: () = assert!(STATUS == ABORT + LINE && OWNER == STATUS + LINE);
    const _: () = assert!(OWNER + LINE <= END);
}

/// Where one ring lies, and at which position it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct RingLayout {
    pub(crate) offset: u64,
    pub(crate) capacity: u64,
    pub(crate) origin: u64,
    pub(crate) max_frame: u32,
    reserved: u32,
}

/// Everything about the inside of a region that differs between regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Geometry {
    pub(crate) region_len: u64,
    pub(crate) data: RingLayout,
    pub(crate) health: RingLayout,
    pub(crate) requests_offset: u64,
    pub(crate) request_count: u32,
    reserved: u32,
}

/// The first 384 bytes of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct RegionHeader {
    pub(crate) magic: u64,
    pub(crate) layout_version: u32,
    pub(crate) side: u32,
    /// Random; the same in both regions of a channel.
    pub(crate) channel: [u8; 16],
    pub(crate) required_features: u64,
    /// Of this region.
    pub(crate) own: Geometry,
    /// Of the other region of the channel.
    pub(crate) peer: Geometry,
    pub(crate) stream_window: u64,
    pub(crate) max_message: u64,
    pub(crate) pid: u32,
    reserved_0: u32,
    /// Name and version of the program library that wrote the header; shown, never compared.
    pub(crate) build: [u8; 64],
    reserved_1: [u8; 80],
}

const _: () = assert!(size_of::<RingLayout>() == 32 && size_of::<Geometry>() == 88);
const _: () = assert!(size_of::<RegionHeader>() == 384 && align_of::<RegionHeader>() == 8);
const _: () = assert!(std::mem::offset_of!(RegionHeader, channel) == 16);
const _: () = assert!(std::mem::offset_of!(RegionHeader, own) == 40);
const _: () = assert!(std::mem::offset_of!(RegionHeader, peer) == 128);
const _: () = assert!(std::mem::offset_of!(RegionHeader, pid) == 232);
const _: () = assert!(std::mem::offset_of!(RegionHeader, build) == 240);
const _: () = assert!(size_of::<RegionHeader>() <= control::DATA);

/// The entry of a request in a table of so many entries; the first one if there are none.
#[inline]
pub(crate) fn request_entry(request: u64, entries: u64) -> usize {
    // A division takes longer than everything else that is done to find a request.
    as_usize(match entries.is_power_of_two() {
        true => request & (entries - 1),
        false => request.checked_rem(entries).unwrap_or(0),
    })
}

/// Words of an entry of the request table.
pub(crate) const REQUEST_WORDS: usize = 2;
/// Words of a mark.
pub(crate) const MARK_WORDS: usize = 4;

impl Geometry {
    fn of(side: Side, data: RingConfig, config: &Config) -> Self {
        let requests = u32::try_from(config.max_in_flight).unwrap_or(u32::MAX);
        let ring = |ring| RingLayout::of(ring, 0, config.origin);
        Self::placed(side, ring(data), ring(config.health), requests)
    }

    /// A table of so many requests and these rings, one behind the other.
    fn placed(side: Side, data: RingLayout, health: RingLayout, request_count: u32) -> Self {
        let requests_offset = as_u64(control::END);
        let table_len = side.table_len(u64::from(request_count));
        let data = RingLayout { offset: page_up(requests_offset + table_len), ..data };
        let health = RingLayout { offset: page_up(data.offset + data.capacity), ..health };
        let region_len = page_up(health.offset + health.capacity);
        Self { region_len, data, health, requests_offset, request_count, reserved: 0 }
    }

    /// Checks that every part lies inside and that none overlaps another.
    fn check(&self, side: Side, what: &str) -> Result<()> {
        let rings = [("data", &self.data), ("health", &self.health)];
        for (name, ring) in rings {
            let sane = ring.capacity.is_power_of_two()
                && (PAGE..=1 << 30).contains(&ring.capacity)
                && ring.max_frame > 0
                && u64::from(ring.max_frame) + 32 <= ring.capacity / 2
                && ring.origin % as_u64(SLOT_ALIGN) == 0
                && ring.reserved == 0;
            if !sane {
                return Err(Error::mismatch(format!(
                    "{what}: {name} ring of {} bytes with frames of {} bytes at position {} \
                     cannot be",
                    ring.capacity, ring.max_frame, ring.origin
                )));
            }
        }
        let expected = Self::placed(side, self.data, self.health, self.request_count);
        if *self != expected || self.request_count > 1 << 16 {
            let parts = |all: &Self| {
                (all.requests_offset, all.data.offset, all.health.offset, all.region_len)
            };
            return Err(Error::mismatch(format!(
                "{what}: requests, data ring, health ring and end at {:?}, expected at {:?}",
                parts(self),
                parts(&expected)
            )));
        }
        Ok(())
    }
}

impl RingLayout {
    pub(crate) fn of(config: RingConfig, offset: u64, origin: u64) -> Self {
        Self {
            offset,
            capacity: as_u64(config.capacity),
            origin,
            max_frame: u32::try_from(config.max_frame).unwrap_or(u32::MAX),
            reserved: 0,
        }
    }
}

impl RegionHeader {
    /// The header of the parent's region, for a channel of this configuration.
    pub(crate) fn down(config: &Config, channel: [u8; 16], pid: u32) -> Self {
        Self {
            magic: MAGIC,
            layout_version: LAYOUT_VERSION,
            side: Side::Down.code(),
            channel,
            required_features: 0,
            own: Geometry::of(Side::Down, config.down, config),
            peer: Geometry::of(Side::Up, config.up, config),
            stream_window: as_u64(config.stream_window),
            max_message: as_u64(config.max_message),
            pid,
            reserved_0: 0,
            build: build_identity(),
            reserved_1: [0; 80],
        }
    }

    /// The header of the other region of the same channel.
    pub(crate) fn for_peer(&self, pid: u32) -> Self {
        Self {
            side: Side::Up.code(),
            own: self.peer,
            peer: self.own,
            pid,
            build: build_identity(),
            ..*self
        }
    }

    /// Reads and checks the header of a region that is `len` bytes long.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) for the first thing that differs, with
    /// both values.
    pub(crate) fn parse(bytes: &[u8], side: Side, len: u64) -> Result<Self> {
        let Ok((header, _)) = Self::read_from_prefix(bytes) else {
            return Err(Error::mismatch(format!(
                "region header of {} bytes, expected 384",
                bytes.len()
            )));
        };
        if header.magic != MAGIC {
            return Err(Error::mismatch(format!(
                "magic {:#018x}, expected {MAGIC:#018x}",
                header.magic
            )));
        }
        if header.layout_version != LAYOUT_VERSION {
            return Err(Error::mismatch(format!(
                "layout version {} written by {}, this side speaks {LAYOUT_VERSION}",
                header.layout_version,
                header.build_name()
            )));
        }
        if header.side != side.code() {
            let (found, wanted) = (header.side, side.code());
            return Err(Error::mismatch(format!(
                "side {found} of a channel, expected side {wanted}"
            )));
        }
        let unknown = header.required_features & !KNOWN_FEATURES;
        if unknown != 0 {
            return Err(Error::mismatch(format!(
                "features {unknown:#x} are required by {}, this side knows {KNOWN_FEATURES:#x}",
                header.build_name()
            )));
        }
        if header.own.region_len != len {
            let said = header.own.region_len;
            return Err(Error::mismatch(format!("region of {len} bytes, its header says {said}")));
        }
        header.own.check(side, "this region")?;
        header.peer.check(side.other(), "the other region")?;
        let (ours, theirs) = (header.own.request_count, header.peer.request_count);
        if ours != theirs {
            return Err(Error::mismatch(format!("tables for {ours} requests and for {theirs}")));
        }
        let window = header.stream_window;
        if window == 0 || header.reserved_0 != 0 || header.reserved_1 != [0; 80] {
            return Err(Error::mismatch(format!(
                "stream window {window} or reserved bytes not zero"
            )));
        }
        Ok(header)
    }

    /// Checks that the worker's header has the channel and the geometry that it was given.
    pub(crate) fn check_answers(&self, down: &Self) -> Result<()> {
        let expected = down.for_peer(self.pid);
        if self.channel != expected.channel {
            return Err(Error::mismatch("the worker's region belongs to another channel"));
        }
        if (self.own, self.peer) != (expected.own, expected.peer) {
            return Err(Error::mismatch(format!(
                "the worker's region has geometry {:?}, expected {:?}",
                self.own, expected.own
            )));
        }
        Ok(())
    }

    /// The library that wrote the header, for messages.
    pub(crate) fn build_name(&self) -> String {
        let end = self.build.iter().position(|b| *b == 0).unwrap_or(self.build.len());
        let name = self.build.get(..end).unwrap_or_default();
        shown(&String::from_utf8_lossy(name))
    }
}

/// The first half of a channel's id, by which people and status pages tell channels apart.
pub(crate) fn short_id(channel: [u8; 16]) -> u64 {
    let [id, _]: [[u8; 8]; 2] = zerocopy::transmute!(channel);
    u64::from_le_bytes(id)
}

/// An id for a channel, random enough that no two channels of a machine share it.
pub(crate) fn channel_id() -> [u8; 16] {
    let state = RandomState::new();
    let half = |salt: u8| {
        let mut hasher = state.build_hasher();
        hasher.write_u8(salt);
        hasher.finish().to_le_bytes()
    };
    zerocopy::transmute!([half(0), half(1)])
}

fn build_identity() -> [u8; 64] {
    let name = concat!("slipring ", env!("CARGO_PKG_VERSION"), " (Rust)").as_bytes();
    let mut build = [0; 64];
    for (to, from) in build.iter_mut().zip(name) {
        *to = *from;
    }
    build
}

fn page_up(bytes: u64) -> u64 {
    bytes.next_multiple_of(PAGE)
}

/// The same number; only 64-bit targets are supported.
pub(crate) const fn as_u64(value: usize) -> u64 {
    #![expect(clippy::as_conversions, reason = "usize is 64 bits wide; not const otherwise")]
    value as u64
}

/// The lower 32 bits, for a length that was checked to have no others.
pub(crate) const fn as_u32(value: usize) -> u32 {
    #![expect(clippy::as_conversions, reason = "a conversion that is checked costs every frame")]
    value as u32
}

/// The same number; only 64-bit targets are supported.
pub(crate) const fn as_usize(value: u64) -> usize {
    #![expect(clippy::as_conversions, reason = "usize is 64 bits wide; not const otherwise")]
    value as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn header() -> RegionHeader {
        RegionHeader::down(&Config::default(), [7; 16], 42)
    }

    fn refusal(header: &RegionHeader, len: u64) -> String {
        let error = RegionHeader::parse(header.as_bytes(), Side::Down, len).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        error.to_string()
    }

    #[test]
    fn a_header_reads_back_and_the_workers_answer_matches_it() {
        let down = header();
        let len = down.own.region_len;
        assert_eq!(RegionHeader::parse(down.as_bytes(), Side::Down, len).unwrap(), down);
        let up = down.for_peer(43);
        let up = RegionHeader::parse(up.as_bytes(), Side::Up, up.own.region_len).unwrap();
        up.check_answers(&down).unwrap();
        assert!(up.build_name().starts_with("slipring "));
    }

    #[test]
    fn the_presets_map_what_their_docs_say() {
        let total = |config: &Config| {
            let header = RegionHeader::down(config, [0; 16], 0);
            header.own.region_len + header.peer.region_len
        };
        assert!(total(&Config::default()) < 10 << 20);
        assert!(total(&Config::small()) < 256 << 10);
    }

    #[test]
    fn every_mismatch_names_both_values() {
        let ok = header();
        let len = ok.own.region_len;
        assert!(
            refusal(&RegionHeader { magic: 0, ..ok }, len).contains("expected 0x474e495250494c53")
        );
        let old = refusal(&RegionHeader { layout_version: 9, ..ok }, len);
        assert!(old.contains("version 9") && old.contains("speaks 2"), "{old}");
        assert!(refusal(&RegionHeader { side: 2, ..ok }, len).contains("side 2"));
        let features = refusal(&RegionHeader { required_features: 8, ..ok }, len);
        assert!(features.contains("0x8") && features.contains("knows 0x0"), "{features}");
        assert!(refusal(&ok, len + 1).contains(&format!("region of {} bytes", len + 1)));
        let mut bad = ok;
        bad.own.data.max_frame = 4 << 20;
        assert!(refusal(&bad, len).contains("frames of 4194304 bytes"));
        let mut bad = ok;
        bad.own.health.reserved = 1;
        assert!(refusal(&bad, len).contains("this region: health ring"));
        let mut bad = ok;
        bad.peer.health.offset += 64;
        assert!(refusal(&bad, len).contains("the other region"));
    }

    #[test]
    fn zeros_and_short_headers_are_refused() {
        assert!(RegionHeader::parse(&[0; 384], Side::Down, 4096).is_err());
        assert!(RegionHeader::parse(&[1; 100], Side::Down, 4096).is_err());
    }
}
