//! Chunks that a stream copies out of the ring together, ahead of its reader.
//!
//! Chunks that lie in the ring one behind the other are copied in one turn, so that not each
//! of them pays for becoming the channel's reader. They are copied because a lease in the
//! hands of a reader that pauses would hold the ring for all requests.

use std::collections::VecDeque;

use crate::channel::item::Item;
use crate::error::{Error, Result};
use crate::protocol::Kind;
use crate::protocol::buffer_pool::ChunkBuffer;
use crate::ring::{Consumer, Frame, Header};
use crate::shm::layout::as_usize;

/// The longest chunk that is copied out of the ring, in bytes: a lease costs as much.
pub(crate) const COPIED_CHUNK: usize = 4 << 10;
/// How much one turn copies at most: chunks, and bytes of them.
pub(crate) const MOST_CHUNKS: usize = 32;
pub(crate) const MOST_BYTES: usize = 16 << 10;

/// What has come for a stream and was not taken by its reader.
#[derive(Debug)]
pub(crate) struct StreamBuffer {
    /// Items that another thread read for this stream. They come before the chunks that this one
    /// has copied.
    pub(super) items: VecDeque<Item>,
    pub(super) copied: ChunkBuffer,
    /// Bytes of slots that the reader has consumed and the pending table does not know of.
    pub(super) unflushed: usize,
}

impl StreamBuffer {
    pub(super) fn new(copied: ChunkBuffer) -> Self {
        Self { items: VecDeque::new(), copied, unflushed: 0 }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.copied.is_empty() && self.items.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.items.clear();
        self.copied.clear();
    }

    /// Takes the buffer back, without chunks.
    pub(super) fn take_buffer(&mut self) -> ChunkBuffer {
        self.copied.clear();
        std::mem::take(&mut self.copied)
    }
}

/// What was copied out of the ring.
#[derive(Debug)]
pub(super) enum Copied {
    /// Nothing: a frame of another kind or request comes first.
    NoChunk,
    Chunks,
    /// Chunks, and what comes after them cannot be.
    ChunksThen(Error),
}

/// Copies the short chunks of a request that come next in the ring. None of those that were
/// copied before may be left.
///
/// # Errors
///
/// What the worker wrote that cannot be, if it comes before any chunk.
#[inline]
pub(super) fn copy_chunks(
    consumer: &mut Consumer,
    request: u64,
    copied: &mut ChunkBuffer,
) -> Result<Copied> {
    let is_wanted = |header: Header, room: usize| {
        let is_chunk = Kind::from_code(header.kind) == Kind::CHUNK && header.flags == 0;
        is_chunk && header.request == request && as_usize(u64::from(header.len)) <= room
    };
    let Some(first) = consumer.take_if(|header| is_wanted(header, COPIED_CHUNK))? else {
        return Ok(Copied::NoChunk);
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
            Err(error) => return Ok(Copied::ChunksThen(error)),
        }
    }
    Ok(Copied::Chunks)
}
