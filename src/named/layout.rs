//! The lines that a named segment has beside those of every region: which process made it, which
//! one is attached, and its events. They lie in the part of the first page that other regions
//! leave empty.
//!
//! ```text
//!  offset  size  what
//!    2048   128  maker line, written by the parent in both segments
//!    2176   128  claim line, written by the worker (up only)
//!    2304   128  event of the data side's bell, written by both sides
//!    2432   128  event of the health side's bell, written by both sides
//!
//!  maker line:   +0 u64 magic "SLIPNAME", stored after all else but the state
//!                +8 u32 version of this text, +12 u32 process id, +16 u64 start time of that
//!                process in ticks since boot, +24 u64 its pid namespace
//!               +32 u8[16] the channel's id, +48 u8[16] C library, NUL-padded
//!               +64 u32 wait strategy (0 spin, 1 spin then park, 2 park), +68 u32 copy
//!                   routine (0 found out, 1 library, 2 vectors, 3 past caches),
//!               +72 u64 spin in ns, +80 u64[5] zero
//!              +120 u32 state: 0 in the making, 1 open, 2 closed
//!  claim line:   +0 u32 process id of the one worker, +4 u32 state: 0 none, 1 attached,
//!                2 detached, +8 u64 its start time
//! ```

use std::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::{Error, Result};
use crate::shm::region::{OwnRegion, PeerRegion};
use crate::shm::words::{OwnU32, PeerU32};
use crate::sync::Ordering;

pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"SLIPNAME");
pub(crate) const VERSION: u32 = 1;

pub(crate) const MAKER: usize = 2048;
pub(super) const CLAIM: usize = 2176;
pub(super) const CLAIM_STATE: usize = CLAIM + 4;
pub(crate) const DATA_EVENT: usize = 2304;
pub(crate) const HEALTH_EVENT: usize = 2432;
pub(crate) const EVENT_LEN: usize = 128;

pub(crate) const MAKER_STATE: usize = MAKER + 120;

/// States in the maker line.
pub(crate) const OPEN: u32 = 1;
pub(crate) const CLOSED: u32 = 2;
/// States in the claim line.
pub(crate) const ATTACHED: u32 = 1;
pub(crate) const DETACHED: u32 = 2;

/// The maker line without its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct MakerLine {
    pub(crate) magic: u64,
    pub(crate) version: u32,
    pub(crate) pid: u32,
    pub(crate) start_time: u64,
    pub(crate) namespace: u64,
    pub(crate) channel: [u8; 16],
    pub(crate) c_library: [u8; 16],
    pub(crate) wait: u32,
    pub(crate) copy: u32,
    pub(crate) spin: u64,
    pub(crate) reserved: [u64; 5],
}

const WORDS: usize = size_of::<MakerLine>() / 8;
const _: () = assert!(size_of::<MakerLine>() == 120 && MAKER + 120 == MAKER_STATE);
const _: () = assert!(std::mem::offset_of!(MakerLine, c_library) == 48);
const _: () = assert!(std::mem::offset_of!(MakerLine, spin) == 72);
const _: () =
    assert!(MAKER >= crate::shm::layout::control::OWNER + crate::shm::layout::control::LINE);
const _: () = assert!(HEALTH_EVENT + EVENT_LEN <= crate::shm::layout::control::END);

impl MakerLine {
    /// Writes the line, its magic last.
    pub(crate) fn write(&self, region: &OwnRegion) -> Result<()> {
        let words: [u64; WORDS] = zerocopy::transmute!(*self);
        for (i, word) in words.into_iter().enumerate().rev() {
            // Pairs with the Acquire load of the magic in `read`.
            region.u64_at(MAKER + 8 * i)?.store(word, Ordering::Release);
        }
        Ok(())
    }

    /// Returns a private copy of the line; `None` while it has no magic.
    pub(crate) fn read(region: &PeerRegion) -> Result<Option<Self>> {
        // Pairs with the Release store in `write`.
        if region.u64_at(MAKER)?.load(Ordering::Acquire) == 0 {
            return Ok(None);
        }
        let mut words = [0; WORDS];
        for (i, word) in words.iter_mut().enumerate() {
            *word = region.u64_at(MAKER + 8 * i)?.load(Ordering::Relaxed);
        }
        let line: Self = zerocopy::transmute!(words);
        line.check().map(Some)
    }

    /// Checks the fields without which the others mean nothing.
    fn check(self) -> Result<Self> {
        if self.magic != MAGIC {
            let found = self.magic;
            return Err(Error::mismatch(format!(
                "magic {found:#018x} of a maker, expected {MAGIC:#018x}"
            )));
        }
        if self.version != VERSION {
            let found = self.version;
            return Err(Error::mismatch(format!(
                "named version {found}, this side speaks {VERSION}"
            )));
        }
        // Above the routine stands what the maker's rings have found, which is a hint.
        if self.copy & 0xff > 3 || self.reserved != [0; 5] {
            return Err(Error::mismatch("reserved bytes of the maker line, expected zero"));
        }
        Ok(self)
    }
}

/// Claims the segment for this process. Returns the word for the state of the claim.
///
/// # Errors
///
/// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) if another process has claimed it, whether
/// that still lives or not.
pub(crate) fn claim(region: &OwnRegion, pid: u32, start_time: u64) -> Result<OwnU32> {
    let word = region.u32_at(CLAIM)?;
    let taken = word.compare_exchange(0, pid, Ordering::AcqRel, Ordering::Acquire);
    if let Err(other) = taken {
        return Err(Error::mismatch(format!(
            "process {other} is attached to this channel already, expected none"
        )));
    }
    region.u64_at(CLAIM + 8)?.store(start_time, Ordering::Relaxed);
    region.u32_at(CLAIM_STATE)
}

/// The claim line as the parent sees it.
#[derive(Debug, Clone)]
pub(crate) struct PeerClaim {
    region: PeerRegion,
    state: Arc<PeerU32>,
}

impl PeerClaim {
    pub(crate) fn of(region: &PeerRegion) -> Result<Self> {
        Ok(Self { region: region.clone(), state: Arc::new(region.u32_at(CLAIM_STATE)?) })
    }

    pub(crate) fn state(&self) -> u32 {
        // Pairs with the Release store in `Claim::tell`.
        self.state.load(Ordering::Acquire)
    }

    /// Process id and start time of the process that has claimed the segment, or zeros. The start
    /// time is stored after the id.
    pub(crate) fn claimant(&self) -> Result<(u32, u64)> {
        let pid = self.region.u32_at(CLAIM)?.load(Ordering::Acquire);
        Ok((pid, self.region.u64_at(CLAIM + 8)?.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::config::CopyRoutine;
    use crate::protocol::handshake::copy_to_number;

    #[test]
    fn what_the_makers_rings_have_found_is_no_reserved_byte() {
        let line = |copy| MakerLine {
            magic: MAGIC,
            version: VERSION,
            copy,
            ..zerocopy::FromZeros::new_zeroed()
        };
        for copy in [None, Some(CopyRoutine::Vectors)] {
            line(copy_to_number(copy, 0x312)).check().unwrap();
        }
        assert!(line(4).check().is_err());
    }
}
