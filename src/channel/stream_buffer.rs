//! Chunks that a stream takes out of the ring together, ahead of its reader.
//!
//! Chunks that lie in the ring one behind the other are taken in one turn, so that not each of them
//! pays for becoming the channel's reader. For a reader that takes them one by one they are copied,
//! because a lease in the hands of a reader that pauses would hold the ring for all requests. A
//! reader that takes them as a batch gets a *run*: they stay where they are, under one lease.

use std::collections::{VecDeque, vec_deque};

use crate::channel::item::Item;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::protocol::Kind;
use crate::protocol::buffer_pool::ChunkBuffer;
use crate::ring::position::span;
use crate::ring::{Consumer, Frame, Header, LeasedRun};
use crate::shm::bytes::PeerBytes;
use crate::shm::layout::{as_u64, as_usize};

/// The longest chunk that is copied out of the ring, in bytes: a lease costs as much.
pub(crate) const COPIED_CHUNK: usize = 4 << 10;
/// How much one turn copies at most: chunks, and bytes of them.
pub(crate) const MOST_CHUNKS: usize = 128;
pub(crate) const MOST_BYTES: usize = 32 << 10;
/// How much one run holds at most: chunks, and bytes of slots. Less if the ring or the window is
/// small. One chunk that is longer is a run of its own.
const MOST_IN_RUN: usize = 256;
const MOST_RUN_BYTES: usize = 256 << 10;

/// What has come for a stream and was not taken by its reader.
#[derive(Debug)]
pub(crate) struct StreamBuffer {
    /// Items that another thread read for this stream. They come before the chunks that this one
    /// has taken.
    pub(super) items: VecDeque<Item>,
    pub(super) copied: ChunkBuffer,
    /// `None` until the reader asks for a batch.
    runs: Option<Box<Runs>>,
    /// Chunks are taken as a run, and not copied.
    takes_runs: bool,
    /// Bytes of slots that the reader has consumed and the pending table does not know of.
    pub(super) unflushed: usize,
}

/// The chunks that the reader gets as a batch.
#[derive(Debug)]
struct Runs {
    run: Option<LeasedRun>,
    /// How many of the buffer's items are the batch, if there is no run.
    handed_out: usize,
    /// The lengths of its chunks.
    lens: Vec<u32>,
    most_bytes: u64,
}

/// What was taken out of the ring.
#[derive(Debug)]
pub(super) enum Taken {
    /// Nothing: a frame of another kind or request comes first.
    NoChunk,
    Chunks,
    /// Chunks, and what comes after them cannot be.
    ChunksThen(Error),
}

impl StreamBuffer {
    pub(super) fn new(copied: ChunkBuffer) -> Self {
        let items = VecDeque::new();
        Self { items, copied, runs: None, takes_runs: false, unflushed: 0 }
    }

    /// Says whether chunks are taken as runs from now on.
    pub(super) fn take_runs(&mut self, takes_runs: bool, config: &Config) {
        self.takes_runs = takes_runs;
        if !takes_runs {
            return;
        }
        // A reader that pauses holds no more than a part of the ring, and the worker goes on while
        // a run is read.
        let share = (config.up.capacity / 16).min(config.stream_window / 4);
        let most_bytes = as_u64(MOST_RUN_BYTES.min(share));
        self.runs.get_or_insert_with(|| {
            let lens = Vec::with_capacity(MOST_IN_RUN);
            Box::new(Runs { run: None, handed_out: 0, lens, most_bytes })
        });
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty() && self.copied.is_empty() && self.run().is_none()
    }

    /// Forgets what was taken. The batch must have ended.
    pub(super) fn clear(&mut self) {
        self.items.clear();
        self.copied.clear();
    }

    /// Ends the batch that the reader has got, if there is one. A run goes back to the ring.
    pub(super) fn end_batch(&mut self) {
        if let Some(runs) = self.runs.as_deref_mut() {
            runs.run = None;
            let count = std::mem::take(&mut runs.handed_out);
            self.items.drain(..count.min(self.items.len()));
        }
    }

    /// Hands out the chunks that other readers have copied, up to what a run may hold, as a batch.
    /// Returns what they cost in credit; zero if something else comes first.
    pub(super) fn hand_out_items(&mut self) -> usize {
        let Some(runs) = self.runs.as_deref_mut() else { return 0 };
        let mut cost = 0;
        for item in self.items.iter().take(MOST_IN_RUN) {
            let Item::Chunk(_, each) = item else { break };
            if cost > 0 && cost + each > as_usize(runs.most_bytes) {
                break;
            }
            cost += each;
            runs.handed_out += 1;
        }
        cost
    }

    /// The chunks that were handed out of those that other readers have copied.
    pub(super) fn handed_out(&self) -> std::iter::Take<vec_deque::Iter<'_, Item>> {
        self.items.iter().take(self.runs.as_ref().map_or(0, |runs| runs.handed_out))
    }

    /// Takes the buffer back, without chunks.
    pub(super) fn take_buffer(&mut self) -> ChunkBuffer {
        self.copied.clear();
        std::mem::take(&mut self.copied)
    }

    /// Returns the run that was taken, and the lengths of its chunks.
    #[inline]
    pub(super) fn run(&self) -> Option<(&LeasedRun, &[u32])> {
        let Runs { run, lens, .. } = self.runs.as_deref()?;
        run.as_ref().map(|run| (run, lens.as_slice()))
    }

    /// The lengths of the run's chunks; none if there is no run.
    fn lens(&self) -> &[u32] {
        self.run().map_or(&[], |(_, lens)| lens)
    }

    /// How many chunks were taken together, those that were handed out included. They are all in a
    /// run, or all copied.
    pub(super) fn chunks(&self) -> u64 {
        as_u64(self.lens().len()) + self.copied.len()
    }

    /// Shows the chunks that were taken together, in order.
    pub(super) fn for_each_chunk(&self, mut show: impl FnMut(PeerBytes<'_>)) {
        let mut offset = 0_u64;
        if let Some((run, lens)) = self.run() {
            for len in lens {
                show(run.payload(offset, *len));
                offset = offset.wrapping_add(span(as_usize(u64::from(*len))));
            }
        }
        self.copied.all().for_each(|chunk| show(PeerBytes::of(chunk)));
    }

    /// How many bytes these have.
    pub(super) fn bytes(&self) -> u64 {
        self.copied.bytes() + self.lens().iter().map(|len| u64::from(*len)).sum::<u64>()
    }

    /// How many bytes of slots they take: the sum of [`StreamBuffer::costs`], in two plain loops.
    #[inline]
    pub(super) fn cost(&self) -> u64 {
        let in_run = self.lens().iter().map(|len| span(as_usize(u64::from(*len))));
        in_run.sum::<u64>() + self.copied.lens().map(span).sum::<u64>()
    }

    /// How many bytes of slots each of them takes.
    pub(super) fn costs(&self) -> impl Iterator<Item = u64> {
        let in_run = self.lens().iter().map(|len| as_usize(u64::from(*len)));
        in_run.chain(self.copied.lens()).map(span)
    }

    /// Keeps only the first chunks. Returns whether there are no others.
    #[inline]
    pub(super) fn keep(&mut self, chunks: usize) -> bool {
        let are_all = as_u64(chunks) >= self.chunks();
        if !are_all {
            self.copied.truncate(chunks);
            if let Some(Runs { run, lens, .. }) = self.runs.as_deref_mut() {
                lens.truncate(chunks);
                run.take_if(|_| chunks == 0);
            }
        }
        are_all
    }

    /// Takes the chunks of a request that come next in the ring: as a run, or a copy of those that
    /// are short. None of those that were taken before may be left.
    ///
    /// # Errors
    ///
    /// What the worker wrote that cannot be, if it comes before any chunk.
    #[inline]
    pub(super) fn take_chunks(&mut self, consumer: &mut Consumer, request: u64) -> Result<Taken> {
        match self.runs.as_deref_mut().filter(|_| self.takes_runs) {
            Some(runs) => {
                self.copied.clear();
                runs.take(consumer, request)
            }
            None => copy_chunks(consumer, request, &mut self.copied),
        }
    }
}

impl Runs {
    fn take(&mut self, consumer: &mut Consumer, request: u64) -> Result<Taken> {
        let Self { lens, most_bytes: most, .. } = self;
        lens.clear();
        let mut count = 0;
        self.run = consumer.take_run(lens, |header, taken| {
            let end = taken.wrapping_add(span(as_usize(u64::from(header.len))));
            count += 1;
            let has_room = count == 1 || (count <= MOST_IN_RUN && end <= *most);
            has_room && is_chunk_of(request, header)
        })?;
        Ok(if self.run.is_some() { Taken::Chunks } else { Taken::NoChunk })
    }
}

/// Whether a frame is a whole chunk of this request.
#[inline]
fn is_chunk_of(request: u64, header: Header) -> bool {
    Kind::from_code(header.kind) == Kind::CHUNK && header.flags == 0 && header.request == request
}

/// Copies the short chunks of a request that come next in the ring. None of those that were
/// copied before may be left.
///
/// # Errors
///
/// What the worker wrote that cannot be, if it comes before any chunk.
#[inline]
fn copy_chunks(consumer: &mut Consumer, request: u64, copied: &mut ChunkBuffer) -> Result<Taken> {
    let is_wanted = |header: Header, room: usize| {
        is_chunk_of(request, header) && as_usize(u64::from(header.len)) <= room
    };
    let Some(first) = consumer.take_if(|header| is_wanted(header, COPIED_CHUNK))? else {
        return Ok(Taken::NoChunk);
    };
    let (bytes, ends) = copied.begin(MOST_CHUNKS, MOST_BYTES);
    let mut copy = |frame: Frame<'_>| {
        frame.payload().append_to(bytes);
        ends.push(bytes.len());
        (MOST_BYTES - bytes.len()).min(if ends.len() < MOST_CHUNKS { COPIED_CHUNK } else { 0 })
    };
    let mut room = copy(first);
    while room > 0 {
        match consumer.take_if(|header| is_wanted(header, room)) {
            Ok(Some(frame)) => room = copy(frame),
            Ok(None) => break,
            Err(error) => return Ok(Taken::ChunksThen(error)),
        }
    }
    Ok(Taken::Chunks)
}
