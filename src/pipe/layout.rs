//! The memory of a pipe: which byte means what. `docs/MEMORY.md` has the map.

use crate::error::{Error, Result};
use crate::shm::layout::{as_u64, as_usize};

/// First eight bytes of the memory.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"SLIPPIPE");
/// Version of everything that this module describes.
pub(super) const VERSION: u64 = 1;

/// Offsets of the header's words.
pub(super) const MAGIC_AT: usize = 0;
pub(super) const VERSION_AT: usize = 8;
pub(super) const CAPACITY_AT: usize = 16;
pub(super) const RINGS_AT: usize = 24;

/// First lines of the first direction, and bytes of the lines of one direction.
const LINES: usize = 512;
const LINES_LEN: usize = 4 * 128;
/// Where the first ring starts.
pub(super) const PAGE: usize = 4096;

/// Bytes of the header before the bytes of a chunk.
pub(super) const CHUNK_HEADER: usize = 16;
/// Where chunks start is a multiple of this.
pub(super) const ALIGN: u64 = 64;

/// Limits of a ring's capacity: a chunk is a quarter of it, and both rings are mapped.
pub(super) const SMALLEST: usize = 4096;
const LARGEST: usize = 1 << 30;

/// Where the words and the ring of one direction lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Direction {
    pub(super) tail: usize,
    pub(super) writer_cpu: usize,
    pub(super) head: usize,
    pub(super) polled: usize,
    pub(super) reader_cpu: usize,
    pub(super) bytes_bell: usize,
    pub(super) reader_closed: usize,
    pub(super) room_bell: usize,
    pub(super) ring: usize,
    pub(super) capacity: usize,
}

impl Direction {
    /// The direction with this index.
    pub(super) fn new(index: usize, capacity: usize) -> Self {
        let lines = LINES + index * LINES_LEN;
        Self {
            tail: lines,
            writer_cpu: lines + 8,
            head: lines + 128,
            polled: lines + 136,
            reader_cpu: lines + 140,
            bytes_bell: lines + 256,
            reader_closed: lines + 264,
            room_bell: lines + 384,
            ring: PAGE + index * capacity,
            capacity,
        }
    }
}

/// Bytes of the memory of a pipe.
pub(super) fn memory_len(rings: usize, capacity: usize) -> usize {
    PAGE + rings * capacity
}

/// Checks the capacity of a ring.
///
/// # Errors
///
/// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig).
pub(super) fn check_capacity(capacity: usize) -> Result<()> {
    if !capacity.is_power_of_two() || !(SMALLEST..=LARGEST).contains(&capacity) {
        return Err(Error::invalid_config(format!(
            "a pipe's ring of {capacity} bytes: expected a power of two, from {SMALLEST} to {LARGEST}"
        )));
    }
    Ok(())
}

/// The header of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChunkHeader {
    /// Bytes of the message in this chunk.
    pub(super) len: u32,
    pub(super) kind: u16,
    /// Whether a message begins here.
    pub(super) is_first: bool,
    /// Bytes of the message from this chunk on.
    pub(super) left: u64,
}

impl ChunkHeader {
    pub(super) fn to_bytes(self) -> [u8; CHUNK_HEADER] {
        let mut bytes = [0; CHUNK_HEADER];
        let fields =
            u64::from(self.len) | u64::from(self.kind) << 32 | u64::from(self.is_first) << 48;
        let (low, high) = bytes.split_at_mut(8);
        low.copy_from_slice(&fields.to_le_bytes());
        high.copy_from_slice(&self.left.to_le_bytes());
        bytes
    }

    /// The header in these words, or `None` if no writer makes such a one.
    pub(super) fn parse([fields, left]: [u64; 2]) -> Option<Self> {
        let [a, b, c, d, kind_low, kind_high, first, rest] = fields.to_le_bytes();
        let header = Self {
            len: u32::from_le_bytes([a, b, c, d]),
            kind: u16::from_le_bytes([kind_low, kind_high]),
            is_first: first == 1,
            left,
        };
        let is_sane = first <= 1 && rest == 0 && u64::from(header.len) <= left;
        // An empty chunk is an empty message.
        (is_sane && (header.len > 0 || left == 0)).then_some(header)
    }

    /// Bytes of the ring that a chunk of so many bytes takes.
    pub(super) fn span(len: usize) -> u64 {
        (as_u64(CHUNK_HEADER) + as_u64(len)).next_multiple_of(ALIGN)
    }
}

/// The longest chunk of a ring.
pub(super) fn longest_chunk(capacity: u64) -> usize {
    as_usize(capacity / 4) - CHUNK_HEADER
}

/// Returns how many bytes lie between two positions, if no correct program makes more of them than
/// fit the ring.
///
/// # Errors
///
/// [`ErrorKind::PeerCorrupt`](crate::ErrorKind::PeerCorrupt).
pub(super) fn used(tail: u64, head: u64, capacity: u64) -> Result<u64> {
    let used = tail.wrapping_sub(head);
    if used > capacity || !(tail | head).is_multiple_of(ALIGN) {
        return Err(Error::corrupt(format!(
            "a pipe's ring of {capacity} bytes is filled up to {tail} and read up to {head}"
        )));
    }
    Ok(used)
}
