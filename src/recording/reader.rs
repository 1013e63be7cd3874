//! Reads a recording. Nothing that stands in one is trusted.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use super::format::{
    HEAD, Head, LONGEST_RECORD, RECORD_HEAD, SEGMENT_HEAD, form, is_sum, read_segment_head, what,
};
use super::info::RecordingInfo;
use super::record::{ChannelEnd, Event, Frame, FramePayload, Record};
use super::siphash::siphash128;
use crate::error::{Error, ErrorKind, Result};
use crate::id::RequestId;
use crate::protocol::Kind;
use crate::protocol::kind::flags;
use crate::shm::layout::{as_u64, as_usize};

/// Where a reader has come to the end of a recording, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadEnd {
    /// Behind the last record, as its writer has left it.
    Whole,
    /// The file ends in the middle of a record, at this place: it was cut, or its writer was killed.
    Cut(u64),
    /// What stands at this place is no record.
    Damaged(u64),
}

/// Reads the records of a recording, in order: an iterator that ends where nothing more can be read, and
/// [`end`](Self::end) then says why. A recording that is being written can be read up to what is written.
///
/// ```no_run
/// use slipring::recording::{Event, RecordingReader};
///
/// # fn main() -> slipring::Result<()> {
/// for record in RecordingReader::open("recordings/embed-4711-1.sliprec")? {
///     let record = record?;
///     if let Event::Request(frame) = record.event {
///         println!("{:?} {} {}: {} bytes", record.at, frame.request, frame.kind, frame.len);
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct RecordingReader {
    source: Source,
    info: RecordingInfo,
    /// The segments that were not begun, the older one first: their numbers and how many records come
    /// before them.
    segments: VecDeque<(u64, u64)>,
    /// The segment that is read, and where the next record stands in it.
    current: Option<(u64, u64)>,
    /// How many records come before the next one.
    index: u64,
    overwritten: u64,
    end: ReadEnd,
}

/// Where the bytes come from.
#[derive(Debug)]
enum Source {
    File(File, u64),
    Bytes(Vec<u8>),
}

impl Source {
    fn len(&self) -> u64 {
        match self {
            Self::File(_, len) => *len,
            Self::Bytes(bytes) => as_u64(bytes.len()),
        }
    }

    /// Reads as many bytes as there are, up to the length of `out`. Returns how many.
    fn read(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::File(file, _) => {
                let mut done = 0;
                while let Some(rest) = out.get_mut(done..).filter(|rest| !rest.is_empty()) {
                    match file.read_at(rest, offset.saturating_add(as_u64(done))) {
                        Ok(0) => break,
                        Ok(count) => done += count,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(done)
            }
            Self::Bytes(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let rest = bytes.get(start..).unwrap_or_default();
                let count = rest.len().min(out.len());
                out.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
                Ok(count)
            }
        }
    }

    /// Reads exactly so many bytes; `None` if there are fewer.
    fn exact(&self, out: &mut [u8], offset: u64) -> Result<Option<()>> {
        let failed = |e| Error::os("cannot read a recording", e);
        let count = self.read(out, offset).map_err(failed)?;
        Ok((count == out.len()).then_some(()))
    }
}

impl RecordingReader {
    /// Opens a recording.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Os`] if the file cannot be read; [`ErrorKind::Mismatch`] if it is no recording, is one
    /// of another version, or its header is cut or damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let failed = |e| Error::os(format!("cannot read {}", path.display()), e);
        // Non-blocking, as opening a FIFO can block otherwise.
        let mut options = OpenOptions::new();
        let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(Error::mismatch(format!("{} is no plain file", path.display())));
        }
        Self::over(Source::File(file, metadata.len()))
    }

    /// Reads a recording that is in memory.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Mismatch`], as for [`RecordingReader::open`].
    pub fn of_bytes(bytes: impl Into<Vec<u8>>) -> Result<Self> {
        Self::over(Source::Bytes(bytes.into()))
    }

    fn over(source: Source) -> Result<Self> {
        let cut = || Error::mismatch("a recording whose header is cut, or no recording");
        let mut head = [0; HEAD];
        source.exact(&mut head, 0)?.ok_or_else(cut)?;
        let info = RecordingInfo::read(&head, |len| {
            let mut pairs = vec![0; len];
            source.exact(&mut pairs, as_u64(HEAD))?.ok_or_else(cut)?;
            Ok(pairs)
        })?;
        let (mut found, mut end) = (Vec::new(), ReadEnd::Whole);
        for place in [1, 2] {
            let mut head = [0; SEGMENT_HEAD];
            let start = info.layout.start_of(place);
            if source.exact(&mut head, start)?.is_none() {
                continue;
            }
            match read_segment_head(&head) {
                Some((number, before)) if info.layout.start_of(number) == start => {
                    found.push((number, before));
                }
                // One that was never written is a hole.
                None if head == [0; SEGMENT_HEAD] => {}
                _ => end = ReadEnd::Damaged(start),
            }
        }
        found.sort_unstable();
        if let [(first, _), (second, _)] = *found
            && second != first.wrapping_add(1)
        {
            // The older one is no part of it.
            found.remove(0);
        }
        let overwritten = found.first().map_or(0, |(_, before)| *before);
        if found.is_empty() && source.len() > info.layout.first {
            end = ReadEnd::Damaged(info.layout.first);
        }
        let segments = found.into();
        Ok(Self { source, info, segments, current: None, index: overwritten, overwritten, end })
    }

    /// Returns what the recording says of itself.
    #[must_use]
    pub fn info(&self) -> &RecordingInfo {
        &self.info
    }

    /// Returns how many records were overwritten by later ones, so that the file keeps its length.
    #[must_use]
    pub fn overwritten(&self) -> u64 {
        self.overwritten
    }

    /// Returns why there is no further record, once the iterator has ended. Damage in the older one of the
    /// two segments does not keep the other one from being read.
    #[must_use]
    pub fn end(&self) -> ReadEnd {
        self.end
    }

    /// Returns whether a payload is the one of which a hash was kept.
    #[must_use]
    pub fn is_hash_of(&self, hash: [u8; 16], payload: &[u8]) -> bool {
        siphash128(self.info.layout.key, payload) == hash
    }

    fn next_record(&mut self) -> Result<Option<Record>> {
        loop {
            let Some((segment, offset)) = self.current else {
                let Some((number, _)) = self.segments.pop_front() else { return Ok(None) };
                self.current = Some((number, as_u64(SEGMENT_HEAD)));
                continue;
            };
            let place = self.info.layout.start_of(segment).saturating_add(offset);
            match self.record_at(segment, offset, place)? {
                Ok((head, payload, len)) => {
                    self.current = Some((segment, offset.saturating_add(len)));
                    if let Some(record) = self.record(head, payload) {
                        return Ok(Some(record));
                    }
                }
                Err(end) => {
                    self.current = None;
                    if end != ReadEnd::Whole && self.end == ReadEnd::Whole {
                        self.end = end;
                    }
                }
            }
        }
    }

    /// Reads the record at a place, or says why there is none.
    #[expect(clippy::type_complexity, reason = "two kinds of failure")]
    fn record_at(
        &self,
        segment: u64,
        offset: u64,
        place: u64,
    ) -> Result<std::result::Result<(Head, Vec<u8>, u64), ReadEnd>> {
        let mut bytes = [0; RECORD_HEAD];
        let count = self.source.read(&mut bytes, place);
        let count = count.map_err(|e| Error::os("cannot read a recording", e))?;
        // A length of zero ends the segment.
        if count >= 8 && bytes.first_chunk() == Some(&[0_u8; 8]) {
            return Ok(Err(ReadEnd::Whole));
        }
        if count < RECORD_HEAD {
            return Ok(Err(ReadEnd::Cut(place)));
        }
        let damaged = Ok(Err(ReadEnd::Damaged(place)));
        let (len, crc, number, head) = Head::read(&bytes);
        let len = u64::from(len);
        let is_known =
            (what::REQUEST..=what::GAP).contains(&head.what) && head.form <= form::LEFT_OUT;
        if !is_known
            || u64::from(number) != segment & 0xffff_ffff
            || len != head.record_len()
            || len > LONGEST_RECORD
            || offset.saturating_add(len) > self.info.layout.segment_len
        {
            return damaged;
        }
        // Before memory is asked for: no more than the file has.
        if place.saturating_add(len) > self.source.len() {
            return Ok(Err(ReadEnd::Cut(place)));
        }
        let mut payload = vec![0; as_usize(len).saturating_sub(RECORD_HEAD)];
        if self.source.exact(&mut payload, place.saturating_add(as_u64(RECORD_HEAD)))?.is_none() {
            return Ok(Err(ReadEnd::Cut(place)));
        }
        let checked = bytes.get(8..).unwrap_or_default();
        if !is_sum(crc, &[checked, &payload]) {
            return damaged;
        }
        payload.truncate(as_usize(head.kept()));
        Ok(Ok((head, payload, len)))
    }

    fn record(&mut self, head: Head, payload: Vec<u8>) -> Option<Record> {
        let missing = head.index.saturating_sub(self.index);
        self.index = head.index.saturating_add(1);
        let at = Duration::from_nanos(head.at);
        let event = match head.what {
            what::REQUEST => Event::Request(self.frame(&head, payload)),
            what::REPLY => Event::Reply(self.frame(&head, payload)),
            what::CANCEL => Event::Cancel(RequestId::new(head.request)),
            what::END => Event::End(ChannelEnd::read(&head, &payload)),
            what::GAP => Event::Gap { frames: head.aux, bytes: head.request },
            _ => return None,
        };
        Some(Record { index: head.index, missing, at, event })
    }

    fn frame(&self, head: &Head, payload: Vec<u8>) -> Frame {
        let payload = match head.form {
            form::WHOLE => FramePayload::Whole(payload),
            form::HASHED => match payload.first_chunk() {
                Some(hash) => FramePayload::Hash(*hash),
                None => FramePayload::LeftOut,
            },
            _ => FramePayload::LeftOut,
        };
        let now = self.info.layout.began_ns.saturating_add(head.at);
        let has_deadline = head.what == what::REQUEST && head.aux != 0;
        Frame {
            request: RequestId::new(head.request),
            kind: Kind::from_code(head.kind),
            is_stream: head.flags & flags::STREAM != 0,
            has_more: head.flags & flags::MORE != 0,
            is_continued: head.flags & flags::CONTINUED != 0,
            is_abandoned: head.flags & flags::ABANDONED != 0,
            time_left: has_deadline.then(|| Duration::from_nanos(head.aux.saturating_sub(now))),
            aux: head.aux,
            len: head.len,
            payload,
        }
    }
}

impl Iterator for RecordingReader {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        let next = self.next_record();
        if next.as_ref().is_err_and(|error| error.kind() == ErrorKind::Os) {
            // It would come again.
            (self.current, self.segments) = (None, VecDeque::new());
        }
        next.transpose()
    }
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
