//! Writes records into the two segments of a file, one after the other and then over the older one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::format::{Head, RECORD_HEAD, SEGMENT_HEAD, TERMINATOR, form, segment_head, what};
use super::info::Layout;
use super::siphash::siphash128;
use crate::shm::layout::{as_u64, as_usize};

/// What bytes are written to.
pub(super) trait Store: Send {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;
}

impl Store for File {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }
}

/// Frames that are not in the file, and the bytes of their payloads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) frames: u64,
    pub(super) bytes: u64,
}

impl Lost {
    pub(super) fn add(&mut self, more: Self) {
        self.frames += more.frames;
        self.bytes += more.bytes;
    }
}

/// What is written together.
#[derive(Debug, Default)]
struct Batch {
    records: u64,
    /// The frames among these.
    frames: Lost,
    /// The frames that gaps among these tell of.
    told: Lost,
}

/// Writes the records of one file.
#[derive(Debug)]
pub(super) struct Writer<S> {
    store: S,
    layout: Layout,
    /// The number of the segment that is written.
    segment: u64,
    /// Where in that segment the next record comes.
    offset: u64,
    /// Records that were written.
    index: u64,
    /// What is about to be written there.
    out: Vec<u8>,
    /// What that is.
    batch: Batch,
    /// Frames that could not be written, and that the file does not say of yet.
    untold: Lost,
    /// Frames that could not be written.
    pub(super) lost: Lost,
    pub(super) written_bytes: u64,
}

impl<S: Store> Writer<S> {
    /// A writer into a file that has its header.
    pub(super) fn new(store: S, layout: Layout) -> Self {
        Self {
            store,
            layout,
            segment: 1,
            offset: 0,
            index: 0,
            out: Vec::new(),
            batch: Batch::default(),
            untold: Lost::default(),
            lost: Lost::default(),
            written_bytes: 0,
        }
    }

    /// Writes records that a queue has collected: headers whose payloads follow them.
    pub(super) fn write(&mut self, mut queued: &[u8]) {
        while let Some((head, rest)) = queued.split_first_chunk::<RECORD_HEAD>() {
            let (record_len, _, _, head) = Head::read(head);
            let padded = as_usize(u64::from(record_len)).saturating_sub(RECORD_HEAD);
            let Some((payload, rest)) = rest.split_at_checked(padded) else { break };
            queued = rest;
            self.add(head, payload);
        }
        self.flush();
    }

    /// How many records were written.
    pub(super) fn records(&self) -> u64 {
        self.index
    }

    fn add(&mut self, head: Head, payload: &[u8]) {
        if head.form == form::HASHED {
            let whole = payload.get(..as_usize(u64::from(head.len))).unwrap_or_default();
            let hash = siphash128(self.layout.key, whole);
            return self.append(head, &hash);
        }
        let kept = payload.get(..as_usize(head.kept())).unwrap_or_default();
        self.append(head, kept);
    }

    fn append(&mut self, mut head: Head, kept: &[u8]) {
        self.begin_batch(head.at);
        let end = self.offset + as_u64(self.out.len()) + head.record_len() + as_u64(TERMINATOR);
        if end > self.layout.segment_len {
            self.flush();
            // Also if that failed: what is in the way of this segment may not be in that of the other.
            self.segment += 1;
            self.offset = 0;
            self.begin_batch(head.at);
        }
        head.index = self.index + self.batch.records;
        head.write(self.segment, kept, &mut self.out);
        self.batch.records += 1;
        match head.what {
            what::REQUEST | what::REPLY => {
                self.batch.frames.add(Lost { frames: 1, bytes: u64::from(head.len) });
            }
            what::GAP => self.batch.told.add(Lost { frames: head.aux, bytes: head.request }),
            _ => {}
        }
    }

    /// Begins what is written together, from this time on: with the segment's header, and with what was
    /// lost before.
    fn begin_batch(&mut self, at: u64) {
        if !self.out.is_empty() {
            return;
        }
        if self.offset == 0 {
            self.out.extend(segment_head(self.segment, self.index));
        }
        let lost = std::mem::take(&mut self.untold);
        if lost != Lost::default() {
            let (request, aux) = (lost.bytes, lost.frames);
            let index = self.index;
            let form = form::LEFT_OUT;
            let gap = Head { what: what::GAP, form, request, aux, at, index, ..Head::default() };
            gap.write(self.segment, &[], &mut self.out);
            self.batch = Batch { records: 1, told: lost, ..Batch::default() };
        }
    }

    fn flush(&mut self) {
        let Batch { records, frames, told } = std::mem::take(&mut self.batch);
        if records == 0 {
            // A segment's header alone waits for its first record.
            return self.out.clear();
        }
        let len = as_u64(self.out.len());
        self.out.resize(self.out.len() + TERMINATOR, 0);
        let place = self.layout.start_of(self.segment) + self.offset;
        match self.store.write_at(&self.out, place) {
            Ok(()) => {
                self.offset += len;
                self.index += records;
                self.written_bytes += len;
            }
            Err(_) => {
                self.untold.add(told);
                self.untold.add(frames);
                self.lost.add(frames);
            }
        }
        self.out.clear();
        // A burst must not hold memory for good.
        self.out.shrink_to(1 << 20);
    }
}

/// The shortest segment has room for its header, a record without a payload, and the end.
const _: () = assert!(SEGMENT_HEAD + 2 * RECORD_HEAD + TERMINATOR < 4096);
