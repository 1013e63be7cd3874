//! The layout of a status page, version 1. `docs/STATUS_PAGE.md` describes it for other readers.
//!
//! The page is a header and so many blocks. All of it are words of eight bytes, little-endian, which
//! one thread writes. Each block, and the header, begins with a sequence number, which is odd while the
//! block is written, and a checksum of the words that follow, so that a reader that copies a block
//! while it changes finds out.

/// The name of the memfd, as `/proc/PID/fd` shows it.
pub(super) const NAME: &std::ffi::CStr = c"slipring-status";
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"SLIPSTAT");
pub(super) const VERSION: u64 = 1;

/// Words of a block, and of the header.
pub(crate) const WORDS: usize = 256;
pub(crate) const BLOCK_BYTES: usize = WORDS * 8;
/// The most channels and roles of a page.
pub(super) const BLOCKS: usize = 2048;

/// Words of the header and of a block before what the checksum covers.
pub(super) const SEQUENCE: usize = 0;
pub(crate) const CHECKSUM: usize = 1;
pub(crate) const CHECKED: usize = 2;

/// Words of the header.
pub(super) mod header {
    pub(crate) const MAGIC: usize = 2;
    pub(crate) const VERSION: usize = 3;
    pub(crate) const PID: usize = 4;
    /// In clock ticks since the machine's start, as in `/proc/PID/stat`.
    pub(crate) const START_TIME: usize = 5;
    /// How many blocks there are from the start on: those behind were never written.
    pub(crate) const BLOCKS: usize = 6;
    /// In nanoseconds of `CLOCK_MONOTONIC`.
    pub(crate) const HEARTBEAT: usize = 7;
    /// How long until the next heartbeat, in nanoseconds.
    pub(crate) const PERIOD: usize = 8;
    /// Channels and roles for which there was no block.
    pub(crate) const OMITTED: usize = 9;
    /// Of the library, padded with zeros.
    pub(crate) const LIBRARY: std::ops::Range<usize> = 16..24;
}

/// Words of a block.
pub(super) mod block {
    /// 0 for a block that is free, or a kind.
    pub(crate) const KIND: usize = 2;
    /// Never used for another channel or role of the process.
    pub(crate) const ID: usize = 3;
    /// How many numbers there are.
    pub(crate) const COUNT: usize = 4;
    /// The name of the role, padded with zeros.
    pub(crate) const ROLE: std::ops::Range<usize> = 8..16;
    /// Words about the last error, padded with zeros, cut to fit.
    pub(crate) const NOTE: std::ops::Range<usize> = 16..64;
    /// What the numbers are: [`ChannelNumbers`](super::super::ChannelNumbers) or
    /// [`RoleNumbers`](super::super::RoleNumbers).
    pub(crate) const NUMBERS: std::ops::Range<usize> = 64..128;
    /// Errors by the codes of their kinds.
    pub(crate) const ERRORS: std::ops::Range<usize> = 128..160;
    /// Two histograms of times: the sum in nanoseconds, then the buckets.
    pub(crate) const TIMES: [std::ops::Range<usize>; 2] = [160..189, 189..218];
}

/// Bounds of a histogram's buckets are powers of two of a microsecond; the last has none.
pub(super) const BUCKETS: usize = 28;

/// FNV-1a over words (Fowler, Noll, Vo): a check against mixed copies, not against forgery.
pub(crate) fn checksum(words: impl IntoIterator<Item = u64>) -> u64 {
    words
        .into_iter()
        .fold(0xCBF2_9CE4_8422_2325, |sum, word| (sum ^ word).wrapping_mul(0x100_0000_01B3))
}
