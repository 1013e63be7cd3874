//! The end of a direction that takes messages.

use std::mem::MaybeUninit;
use std::sync::Arc;

use super::bell::Bell;
use super::layout::{CHUNK_HEADER, ChunkHeader, longest_chunk, used};
use super::watch::PipeWatch;
use crate::error::{Error, Result};
use crate::shm::byte_ring::ByteRing;
use crate::shm::layout::{as_u64, as_usize};
use crate::sync::Ordering;

/// Takes messages out of a pipe.
///
/// A message is taken in parts, so that it can be longer than the ring: [`Self::start`] says how long
/// it is, and [`Self::read`] copies what has come. Neither blocks; the [`PipeWatch`] waits.
///
/// Several processes may take messages from the same end, one after the other: whatever a reader did
/// not take, the next one finds. Only one of them may do so at a time.
#[derive(Debug)]
pub struct PipeReader {
    pub(super) ring: ByteRing,
    pub(super) watch: Arc<PipeWatch>,
    pub(super) room: Bell,
    pub(super) message: Option<Taking>,
}

/// A message that is being taken.
#[derive(Debug)]
pub(super) struct Taking {
    message: Message,
    /// Bytes of the message from the chunk at the head on.
    left: u64,
    /// Whether a chunk before that one was taken.
    is_begun: bool,
    /// Bytes that were taken of the chunk at the head.
    of_chunk: usize,
}

/// What is known of a message before its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// The number of its bytes. Another process says so: it can be any number.
    pub len: u64,
    /// The number that its writer gave it.
    pub kind: u16,
}

/// What [`PipeReader::read`] has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// So many bytes were copied. The message has more.
    Part(usize),
    /// So many bytes were copied, and they were the message's last ones.
    Whole(usize),
    /// The message is lost: its writer has given it up, or another process has read from this end. What
    /// was copied of it is of no use. [`PipeReader::start`] returns the next message.
    Abandoned,
}

impl PipeReader {
    /// Returns the watch on this end.
    #[must_use]
    pub fn watch(&self) -> &Arc<PipeWatch> {
        &self.watch
    }

    /// Returns the message that comes next, or that is being taken; `None` if there is none yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PeerCorrupt`](crate::ErrorKind::PeerCorrupt), from then on for ever, if the memory
    /// holds what no writer makes.
    #[inline]
    pub fn start(&mut self) -> Result<Option<Message>> {
        if let Some(taking) = &self.message {
            return Ok(Some(taking.message));
        }
        let mut skipped = 0;
        while let Some((head, chunk)) = self.chunk()? {
            if chunk.is_first {
                let message = Message { len: chunk.left, kind: chunk.kind };
                self.message =
                    Some(Taking { message, left: chunk.left, is_begun: false, of_chunk: 0 });
                return Ok(Some(message));
            }
            if skipped >= self.ring.capacity() {
                // A writer that must not be trusted could go on like this for ever.
                return Ok(None);
            }
            skipped += ChunkHeader::span(as_usize(u64::from(chunk.len)));
            // The rest of a message whose reader is gone.
            self.release(head, chunk);
        }
        Ok(None)
    }

    /// Copies bytes of the message that is being taken to the start of `out`: as many as have come
    /// and fit. A message without bytes must be read as well.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    #[inline]
    pub fn read(&mut self, out: &mut [MaybeUninit<u8>]) -> Result<Progress> {
        let mut count = 0;
        loop {
            let Some(taking) = &self.message else { return Ok(Progress::Abandoned) };
            if taking.left == 0 && taking.is_begun {
                self.message = None;
                return Ok(Progress::Whole(count));
            }
            if count == out.len() && taking.left != 0 {
                return Ok(Progress::Part(count));
            }
            let Some((head, chunk)) = self.chunk()? else { return Ok(Progress::Part(count)) };
            let Some(taking) = &mut self.message else { return Ok(Progress::Abandoned) };
            let (bytes, of_chunk) = (as_usize(u64::from(chunk.len)), taking.of_chunk);
            if chunk.is_first == taking.is_begun || chunk.left != taking.left || of_chunk > bytes {
                // Another message has begun, or another process has read from this end.
                self.message = None;
                return Ok(Progress::Abandoned);
            }
            let wanted = out.get_mut(count..).unwrap_or_default();
            let taken = wanted.len().min(bytes - of_chunk);
            let from = head.wrapping_add(as_u64(CHUNK_HEADER + of_chunk));
            self.ring.read(from, wanted.get_mut(..taken).unwrap_or_default());
            count += taken;
            taking.of_chunk += taken;
            if taking.of_chunk == bytes {
                taking.left -= u64::from(chunk.len);
                (taking.is_begun, taking.of_chunk) = (true, 0);
                self.release(head, chunk);
            }
        }
    }

    /// Returns whether bytes of the message were taken out of the ring: no other process can take the
    /// message any more.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.message.as_ref().is_some_and(|taking| taking.is_begun)
    }

    /// Gives the message up that is being taken: [`Self::start`] returns the next one.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub fn skip(&mut self) -> Result<()> {
        let Some(taking) = self.message.take() else { return Ok(()) };
        let is_own =
            |chunk: &ChunkHeader| chunk.is_first != taking.is_begun && chunk.left == taking.left;
        // `start` skips the chunks behind this one.
        if let Some((head, chunk)) = self.chunk()?.filter(|(_, chunk)| is_own(chunk)) {
            self.release(head, chunk);
        }
        Ok(())
    }

    /// Forgets the message that is being taken. The next call of [`Self::start`] skips the rest of it,
    /// if any part was taken, and otherwise finds it again.
    pub fn forget(&mut self) {
        self.message = None;
    }

    /// The position and the header of the chunk that comes next; `None` if there is none.
    #[inline]
    fn chunk(&self) -> Result<Option<(u64, ChunkHeader)>> {
        let head = self.watch.head.load(Ordering::Relaxed);
        // Pairs with the store in `PipeWriter::publish`.
        let tail = self.watch.tail.load(Ordering::Acquire);
        if head == tail {
            return Ok(None);
        }
        let capacity = self.ring.capacity();
        let used = used(tail, head, capacity)?;
        let chunk = ChunkHeader::parse(self.ring.read_words(head));
        let fits = |chunk: &ChunkHeader| {
            let len = as_usize(u64::from(chunk.len));
            len <= longest_chunk(capacity) && ChunkHeader::span(len) <= used
        };
        match chunk.filter(fits) {
            Some(chunk) => Ok(Some((head, chunk))),
            None => Err(Error::corrupt(format!("a pipe's ring has no chunk at position {head}"))),
        }
    }

    /// Gives the room of a chunk back.
    #[inline]
    fn release(&self, head: u64, chunk: ChunkHeader) {
        let end = head.wrapping_add(ChunkHeader::span(as_usize(u64::from(chunk.len))));
        // What was read was read before the writer fills it again. Pairs with `PipeWriter::room`.
        self.watch.head.store(end, Ordering::Release);
        self.room.ring(end);
    }
}
