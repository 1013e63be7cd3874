//! Chunks of a stream that are handed out together.

use std::collections::vec_deque;
use std::iter::Take;

use crate::channel::item::Item;
use crate::channel::reply::Reply;
use crate::channel::stream_buffer::StreamBuffer;
use crate::ring::LeasedRun;
use crate::ring::position::span;
use crate::shm::bytes::PeerBytes;
use crate::shm::layout::as_usize;

/// Chunks of a stream, in order: at least one. [`Stream::next_chunks`](crate::Stream::next_chunks)
/// makes it, and `AsyncStream::next_chunks` for tasks.
///
/// Most batches lie in the ring. While such a batch lives, its slots, and those after it, cannot be
/// filled again, by this stream or for other requests. Dropping it gives them back. All its chunks
/// count as consumed, also those that are not looked at.
///
/// A batch holds at most 256 chunks and 256 KiB, a sixteenth of the reply ring and a quarter of the
/// stream's window, unless one chunk is longer than that.
///
/// In a forked child, bytes that lie in the ring are those of the chunks until the parent drops the
/// batch, and then any bytes.
///
/// ```
#[doc = include_str!("example.md")]
/// let mut stream = channel.stream(COUNT, "", timeout)?;
/// let mut lens = Vec::new();
/// while let Some(chunks) = stream.next_chunks()? {
///     lens.extend(chunks.iter().map(|chunk| chunk.len()));
/// }
/// assert_eq!(lens, [3, 3, 5]);
/// # channel.close(timeout)?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Chunks<'a> {
    buffer: &'a mut StreamBuffer,
    source: Source,
}

/// Where the chunks of a batch are.
#[derive(Debug)]
pub(crate) enum Source {
    /// In the ring, as the run of the stream's buffer.
    Run,
    /// Among the items of the stream's buffer.
    Items,
    /// There is only one.
    One(Reply),
}

impl<'a> Chunks<'a> {
    pub(super) fn new(buffer: &'a mut StreamBuffer, source: Source) -> Self {
        Self { buffer, source }
    }

    /// Returns the number of chunks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().len()
    }

    /// Returns false: there is at least one chunk.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns an iterator over the bytes of each chunk, in memory that the worker may be able to
    /// write.
    #[must_use]
    #[inline]
    pub fn iter(&self) -> ChunksIter<'_> {
        let place = match &self.source {
            Source::One(reply) => Place::One(Some(reply)),
            Source::Items => Place::Items(self.buffer.handed_out()),
            Source::Run => match self.buffer.run() {
                Some((run, lens)) => Place::Run { run, offset: 0, lens: lens.iter() },
                // Cannot happen: only this batch ends its run.
                None => Place::One(None),
            },
        };
        ChunksIter { place }
    }
}

impl Drop for Chunks<'_> {
    fn drop(&mut self) {
        self.buffer.end_batch();
    }
}

impl<'a> IntoIterator for &'a Chunks<'_> {
    type Item = PeerBytes<'a>;
    type IntoIter = ChunksIter<'a>;

    #[inline]
    fn into_iter(self) -> ChunksIter<'a> {
        self.iter()
    }
}

/// The bytes of each chunk of a batch; [`Chunks::iter`] makes it.
#[derive(Debug, Clone)]
pub struct ChunksIter<'a> {
    place: Place<'a>,
}

#[derive(Debug, Clone)]
enum Place<'a> {
    Run { run: &'a LeasedRun, offset: u64, lens: std::slice::Iter<'a, u32> },
    Items(Take<vec_deque::Iter<'a, Item>>),
    One(Option<&'a Reply>),
}

impl<'a> Iterator for ChunksIter<'a> {
    type Item = PeerBytes<'a>;

    #[inline]
    fn next(&mut self) -> Option<PeerBytes<'a>> {
        match &mut self.place {
            Place::Run { run, offset, lens } => {
                let len = *lens.next()?;
                let start = *offset;
                *offset = start.wrapping_add(span(as_usize(u64::from(len))));
                Some(run.payload(start, len))
            }
            Place::Items(items) => match items.next()? {
                Item::Chunk(body, _) => Some(body.bytes()),
                // Cannot happen: only chunks are handed out.
                _ => None,
            },
            Place::One(reply) => reply.take().map(Reply::payload),
        }
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        match &self.place {
            Place::Run { lens, .. } => lens.size_hint(),
            Place::Items(items) => items.size_hint(),
            Place::One(reply) => {
                let left = usize::from(reply.is_some());
                (left, Some(left))
            }
        }
    }
}

impl ExactSizeIterator for ChunksIter<'_> {}

impl std::iter::FusedIterator for ChunksIter<'_> {}
