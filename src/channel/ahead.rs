//! What a stream takes ahead of its reader: chunks that lie in the ring one behind the
//! other, copied out together, so that not each pays what it costs to become the channel's
//! reader. They are copied because a lease in the hands of a reader that pauses would hold
//! the ring for everybody.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::channel::dispatch::ran_ahead;
use crate::channel::engine::{Engine, Item};
use crate::error::Result;
use crate::protocol::Kind;
use crate::ring::position::span;
use crate::ring::{Consumer, Frame, Header};
use crate::shm::bytes::PeerBytes;
use crate::shm::layout::as_usize;

/// The longest chunk that is copied out of the ring, in bytes: a lease costs as much.
pub(crate) const COPIED: usize = 4 << 10;
/// How much is taken at a time: chunks, and bytes of them.
pub(crate) const MOST_CHUNKS: usize = 32;
pub(crate) const MOST_BYTES: usize = 16 << 10;

/// What a stream has taken ahead. Empty it has not allocated anything.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    /// What others have read for it, which comes before the run.
    pub(super) items: VecDeque<Item>,
    /// The chunks of the run, and where each ends.
    run: Option<Arc<Vec<u8>>>,
    ends: Vec<usize>,
    /// Chunks of the run that were handed out, and where the next one starts.
    given: usize,
    start: usize,
    /// Bytes of slots that the reader has consumed and that were not counted.
    pub(super) consumed: usize,
}

/// A chunk of a run, which lives as long as any chunk of it.
#[derive(Debug)]
pub(crate) struct Part {
    run: Arc<Vec<u8>>,
    start: usize,
    end: usize,
}

impl Part {
    /// A copy of a payload, alone in its buffer.
    #[inline]
    pub(super) fn copied(buffer: &mut Arc<Vec<u8>>, payload: PeerBytes<'_>) -> Self {
        payload.append_to(reused(buffer));
        Self { run: Arc::clone(buffer), start: 0, end: payload.len() }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        self.run.get(self.start..self.end).unwrap_or_default()
    }
}

impl Ahead {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.given == self.ends.len() && self.items.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.items.clear();
        self.ends.clear();
        self.given = 0;
        self.start = 0;
    }

    /// Leaves nothing but room to the next stream.
    pub(super) fn forget(&mut self) {
        self.clear();
        self.consumed = 0;
    }

    /// The next chunk of the run.
    #[inline]
    pub(super) fn next_part(&mut self) -> Option<Part> {
        let end = *self.ends.get(self.given)?;
        let part = Part { run: Arc::clone(self.run.as_ref()?), start: self.start, end };
        self.given += 1;
        self.start = end;
        Some(part)
    }

    /// Begins a new run, in the buffer of the last one unless chunks of that are still out.
    fn begin(&mut self) -> (&mut Vec<u8>, &mut Vec<usize>) {
        self.clear();
        // Large enough from the start: how far a stream gets ahead is a matter of timing.
        self.ends.reserve(MOST_CHUNKS);
        let run = self.run.get_or_insert_with(|| Arc::new(Vec::with_capacity(MOST_BYTES)));
        (reused(run), &mut self.ends)
    }
}

/// The buffer, emptied, or a new one if chunks of what was in it are still out.
#[inline]
fn reused(buffer: &mut Arc<Vec<u8>>) -> &mut Vec<u8> {
    if Arc::get_mut(buffer).is_none() {
        // No larger than that needed to be: if chunks are kept, this one may be as well.
        *buffer = Arc::new(Vec::with_capacity(buffer.len()));
    }
    let bytes = Arc::make_mut(buffer);
    bytes.clear();
    bytes
}

impl Engine {
    /// Takes the stream's short chunks that come next in the ring. Returns whether there
    /// were any. Nothing is ahead, and nothing that others have read for it is left.
    #[inline]
    pub(super) fn take_run(
        &self,
        reader: &mut Consumer,
        own: u64,
        ahead: &mut Ahead,
    ) -> Result<bool> {
        let is_wanted = |header: Header, room: usize| {
            let is_chunk = Kind::from_code(header.kind) == Kind::CHUNK && header.flags == 0;
            is_chunk && header.request == own && as_usize(u64::from(header.len)) <= room
        };
        let Some(first) = reader.take_if(|header| is_wanted(header, COPIED))? else {
            return Ok(false);
        };
        let (bytes, ends) = ahead.begin();
        let mut copy = |frame: Frame<'_>| {
            frame.payload().append_to(bytes);
            ends.push(bytes.len());
            (MOST_BYTES - bytes.len()).min(if ends.len() < MOST_CHUNKS { COPIED } else { 0 })
        };
        let mut room = copy(first);
        let mut rest = Ok(());
        while room > 0 {
            match reader.take_if(|header| is_wanted(header, room)) {
                Ok(Some(frame)) => room = copy(frame),
                Ok(None) => break,
                Err(error) => {
                    rest = Err(error);
                    break;
                }
            }
        }
        let mut table = self.table.lock();
        // An error can cut a message off: what came of it is of no use.
        let pieces = table.take_pieces(own);
        let mut start = 0;
        let is_covered = |end: &&usize| {
            let cost = as_usize(span(**end - start));
            start = **end;
            table.spend_credit(own, cost)
        };
        let covered = ends.iter().take_while(is_covered).count();
        drop((table, pieces));
        if covered < ends.len() {
            ends.truncate(covered);
            rest = Err(ran_ahead(own));
        }
        match rest {
            Err(error) if ends.is_empty() => return Err(error),
            // The next wait says so, after the chunks that came before.
            Err(error) => drop(self.fail(error)),
            Ok(()) => {}
        }
        Ok(true)
    }
}
