//! Chunks that a stream copies out of the ring together, ahead of its reader.
//!
//! Chunks that lie in the ring one behind the other are copied in one turn, so that not each
//! of them pays for becoming the channel's reader. They are copied because a lease in the
//! hands of a reader that pauses would hold the ring for all requests.

use std::collections::VecDeque;

use crate::channel::item::Item;
use crate::error::Result;
use crate::protocol::Kind;
use crate::protocol::buffer_pool::RunBuffer;
use crate::ring::{Consumer, Frame, Header};
use crate::shm::layout::as_usize;

/// The longest chunk that is copied out of the ring, in bytes: a lease costs as much.
pub(crate) const COPIED: usize = 4 << 10;
/// How much one turn copies at most: chunks, and bytes of them.
pub(crate) const MOST_CHUNKS: usize = 32;
pub(crate) const MOST_BYTES: usize = 16 << 10;

/// What has come for a stream and was not taken by its reader.
#[derive(Debug)]
pub(crate) struct StreamBuffer {
    /// Items that another thread read for this stream. They come before the run.
    pub(super) items: VecDeque<Item>,
    pub(super) run: RunBuffer,
    /// Bytes of slots that the reader has consumed and the pending table does not know of.
    pub(super) unflushed: usize,
}

impl StreamBuffer {
    pub(super) fn new(run: RunBuffer) -> Self {
        Self { items: VecDeque::new(), run, unflushed: 0 }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.run.is_empty() && self.items.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.items.clear();
        self.run.clear();
    }

    /// Takes the buffer back, without chunks.
    pub(super) fn take_buffer(&mut self) -> RunBuffer {
        self.run.clear();
        std::mem::take(&mut self.run)
    }
}

/// Copies the short chunks of a request that come next in the ring. Returns the error that
/// ended the run, or `None` if a frame of another kind or request comes first. Nothing of an
/// earlier run may be left.
#[inline]
pub(super) fn copy_run(
    consumer: &mut Consumer,
    request: u64,
    run: &mut RunBuffer,
) -> Result<Option<Result<()>>> {
    let is_wanted = |header: Header, room: usize| {
        let is_chunk = Kind::from_code(header.kind) == Kind::CHUNK && header.flags == 0;
        is_chunk && header.request == request && as_usize(u64::from(header.len)) <= room
    };
    let Some(first) = consumer.take_if(|header| is_wanted(header, COPIED))? else {
        return Ok(None);
    };
    let (bytes, ends) = run.begin(MOST_CHUNKS, MOST_BYTES);
    let mut copy = |frame: Frame<'_>| {
        frame.payload().append_to(bytes);
        ends.push(bytes.len());
        (MOST_BYTES - bytes.len()).min(if ends.len() < MOST_CHUNKS { COPIED } else { 0 })
    };
    let mut room = copy(first);
    while room > 0 {
        match consumer.take_if(|header| is_wanted(header, room)) {
            Ok(Some(frame)) => room = copy(frame),
            Ok(None) => break,
            Err(error) => return Ok(Some(Err(error))),
        }
    }
    Ok(Some(Ok(())))
}
