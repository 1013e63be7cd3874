//! The bytes of a recording: its header, its two segments, its records. `docs/RECORDING.md` draws them.
//!
//! All of it may have been written by another program: a value is checked before it is used.

use super::crc32c::crc32c;

/// The first bytes of a recording.
pub(super) const MAGIC: [u8; 8] = *b"SLIPREC\0";
/// The version of the layout.
pub(super) const VERSION: u32 = 1;

/// The length of the header's fixed part.
pub(super) const HEAD: usize = 80;
/// The longest header, with its names and values.
pub(super) const MAX_HEADER: usize = 256 << 10;
/// The most names and values.
pub(super) const MAX_PAIRS: u32 = 4096;
/// Segments start at multiples of this, and their lengths are such.
pub(super) const ALIGN: u64 = 4096;
/// The shortest and the longest segment.
pub(super) const SEGMENT_LEN: std::ops::RangeInclusive<u64> = ALIGN..=1 << 40;

/// The first bytes of a segment.
pub(super) const SEGMENT_MAGIC: [u8; 4] = *b"SEGM";
/// The length of a segment's header.
pub(super) const SEGMENT_HEAD: usize = 32;
/// The length of a record's header.
pub(super) const RECORD_HEAD: usize = 56;
const RECORD_HEAD_LEN: u64 = 56;
/// The longest record: no frame is longer than half of the largest ring. A file can have holes, so that its
/// length says nothing of the memory that a reader may ask for.
pub(super) const LONGEST_RECORD: u64 = (1 << 29) + 56;
/// What follows the last record: a length of zero.
pub(super) const TERMINATOR: usize = 8;
/// The length of a hash.
const HASHED_LEN: u64 = 16;

/// What a record is about.
pub(super) mod what {
    pub(crate) const REQUEST: u8 = 1;
    pub(crate) const REPLY: u8 = 2;
    pub(crate) const CANCEL: u8 = 3;
    pub(crate) const END: u8 = 4;
    pub(crate) const GAP: u8 = 5;
}

/// What a record has of its payload.
pub(super) mod form {
    pub(crate) const WHOLE: u8 = 0;
    pub(crate) const HASHED: u8 = 1;
    pub(crate) const LEFT_OUT: u8 = 2;
}

/// A record's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Head {
    pub(super) what: u8,
    pub(super) form: u8,
    pub(super) kind: u16,
    pub(super) flags: u16,
    /// The length of the payload, whatever is kept of it.
    pub(super) len: u32,
    pub(super) request: u64,
    pub(super) aux: u64,
    /// Nanoseconds since the recording began.
    pub(super) at: u64,
    /// How many records come before it, those that were overwritten included.
    pub(super) index: u64,
}

impl Head {
    /// How many bytes of the payload a record with this header keeps.
    pub(super) fn kept(&self) -> u64 {
        match self.form {
            form::WHOLE => u64::from(self.len),
            form::HASHED => HASHED_LEN,
            _ => 0,
        }
    }

    /// The length of the record, in bytes.
    pub(super) fn record_len(&self) -> u64 {
        RECORD_HEAD_LEN + self.kept().next_multiple_of(8)
    }

    /// Appends a record of the segment with this number. `kept` is as long as [`Head::kept`] says.
    pub(super) fn write(&self, segment: u64, kept: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        self.write_head(segment, out);
        out.extend(kept);
        out.resize(start + out.len().saturating_sub(start).next_multiple_of(8), 0);
        let (head, rest) = out.split_at_mut(start + 8);
        let crc = crc32c(&[rest]);
        // As long as it was made above.
        if let Some(place) = head.get_mut(start + 4..) {
            place.copy_from_slice(&crc.to_le_bytes());
        }
    }

    /// Appends the header alone, without a checksum.
    pub(super) fn write_head(&self, segment: u64, out: &mut Vec<u8>) {
        out.extend(u32::try_from(self.record_len()).unwrap_or(0).to_le_bytes());
        out.extend([0; 4]);
        let [a, b, c, d, ..] = segment.to_le_bytes();
        out.extend([a, b, c, d, self.what, self.form]);
        out.extend(self.kind.to_le_bytes());
        out.extend(self.flags.to_le_bytes());
        out.extend([0; 2]);
        out.extend(self.len.to_le_bytes());
        for word in [self.request, self.aux, self.at, self.index] {
            out.extend(word.to_le_bytes());
        }
    }

    /// Reads a header: the record's length, its checksum, the low half of its segment's number, and the
    /// rest. Nothing is checked.
    pub(super) fn read(bytes: &[u8; RECORD_HEAD]) -> (u32, u32, u32, Self) {
        let mut fields = Fields(bytes);
        let (len, crc, segment) = (fields.u32(), fields.u32(), fields.u32());
        let [what, form] = fields.take();
        let (kind, flags, _) = (fields.u16(), fields.u16(), fields.u16());
        let head = Self {
            what,
            form,
            kind,
            flags,
            len: fields.u32(),
            request: fields.u64(),
            aux: fields.u64(),
            at: fields.u64(),
            index: fields.u64(),
        };
        (len, crc, segment, head)
    }
}

/// Makes the header of a segment: its number, from 1 on, and how many records come before it.
pub(super) fn segment_head(number: u64, records_before: u64) -> [u8; SEGMENT_HEAD] {
    let rest: Vec<u8> =
        [number, records_before, 0].into_iter().flat_map(u64::to_le_bytes).collect();
    let crc = crc32c(&[&rest]).to_le_bytes();
    let mut head = [0; SEGMENT_HEAD];
    let bytes = SEGMENT_MAGIC.into_iter().chain(crc).chain(rest);
    head.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    head
}

/// Reads the header of a segment; `None` if it is none.
pub(super) fn read_segment_head(bytes: &[u8; SEGMENT_HEAD]) -> Option<(u64, u64)> {
    let mut fields = Fields(bytes);
    let (magic, crc): ([u8; 4], u32) = (fields.take(), fields.u32());
    let is_whole = magic == SEGMENT_MAGIC && is_sum(crc, &[fields.0]);
    let (number, before) = (fields.u64(), fields.u64());
    (is_whole && number != 0).then_some((number, before))
}

/// Whether this is the checksum of these parts. A fuzzer, which cannot make one, gets past it.
pub(super) fn is_sum(crc: u32, parts: &[&[u8]]) -> bool {
    cfg!(slipring_fuzzing) || crc == crc32c(parts)
}

/// Fields that follow each other; zeros behind the last one.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk() {
            Some((field, rest)) => {
                self.0 = rest;
                *field
            }
            None => [0; N],
        }
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}
