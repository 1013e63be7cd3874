//! Buffers of one side of a channel that are used again: a long message's, and those of a
//! stream's copied chunks.
//!
//! A buffer of many MiB that comes fresh from the kernel costs a page fault for every
//! 4 KiB, which takes many times as long as to fill it. Nothing here is waited for: a thread
//! that finds a buffer in use allocates another.

use std::sync::Arc;

#[cfg(feature = "async")]
use crate::shm::bytes::PeerBytes;
use crate::shm::layout::as_u64;
use crate::sync::{Counter, Ordering, TryLock};

/// Requests after which a buffer that no message needed is given back to the allocator.
const KEPT_FOR: u64 = 16;

/// The buffers that are kept.
#[derive(Debug)]
pub(crate) struct BufferPool {
    /// Of the last message that came in pieces, while no message is in it.
    kept: TryLock<Vec<u8>>,
    /// How many more requests that buffer is kept for; zero if none is kept.
    left: Counter,
    /// Of the last stream that ended.
    chunks: TryLock<Option<ChunkBuffer>>,
}

impl BufferPool {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            kept: TryLock::new(Vec::new()),
            left: Counter::new(0),
            chunks: TryLock::new(None),
        })
    }

    /// Returns a buffer for the chunks of a stream.
    pub(crate) fn chunk_buffer(&self) -> ChunkBuffer {
        self.chunks.try_lock().and_then(|mut chunks| chunks.take()).unwrap_or_default()
    }

    /// Keeps the buffer of a stream that has ended.
    pub(crate) fn give_chunk_buffer(&self, buffer: ChunkBuffer) {
        if let Some(mut chunks) = self.chunks.try_lock() {
            let replaced = chunks.replace(buffer);
            drop(chunks);
            drop(replaced);
        }
    }

    /// Returns an empty buffer for a message of about `len` bytes: the one that was kept, if
    /// no other message has it.
    pub(crate) fn buffer(&self, len: usize) -> Vec<u8> {
        let mut buffer = self.take();
        // Only a hint. If there is no memory now, it is asked for again when it is needed.
        let _ = buffer.try_reserve_exact(len);
        buffer
    }

    /// Returns an empty buffer for `len` bytes that may be kept for long: the one that was kept, if
    /// it is at most twice as large.
    pub(crate) fn fitting_buffer(&self, len: usize) -> Vec<u8> {
        if let Some(mut kept) = self.kept.try_lock()
            && (len..=len.saturating_mul(2)).contains(&kept.capacity())
        {
            self.left.store(0, Ordering::Relaxed);
            return std::mem::take(&mut *kept);
        }
        Vec::with_capacity(len)
    }

    /// Keeps a buffer for the next message, unless a larger one is kept already.
    pub(crate) fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        if let Some(mut kept) = self.kept.try_lock()
            && kept.capacity() < buffer.capacity()
        {
            std::mem::swap(&mut *kept, &mut buffer);
            self.left.store(KEPT_FOR, Ordering::Relaxed);
        }
    }

    /// Counts a request. A buffer that no message has needed for a while is freed.
    #[inline]
    pub(crate) fn age(&self) {
        let left = self.left.load(Ordering::Relaxed);
        if left != 0 {
            self.grow_older(left);
        }
    }

    #[cold]
    fn grow_older(&self, left: u64) {
        match left {
            1 => drop(self.take()),
            // Two threads can count one request together, which does not matter.
            _ => self.left.store(left - 1, Ordering::Relaxed),
        }
    }

    fn take(&self) -> Vec<u8> {
        let Some(mut kept) = self.kept.try_lock() else { return Vec::new() };
        self.left.store(0, Ordering::Relaxed);
        std::mem::take(&mut *kept)
    }
}

/// Bytes of a message that came in pieces. Dropping it gives its buffer back to the pool.
#[derive(Debug)]
pub(crate) struct PooledBuffer {
    bytes: Vec<u8>,
    pool: Arc<BufferPool>,
}

impl PooledBuffer {
    pub(crate) fn new(bytes: Vec<u8>, pool: &Arc<BufferPool>) -> Self {
        Self { bytes, pool: Arc::clone(pool) }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the bytes for good. The buffer goes with them, unless it is more than twice as
    /// large.
    pub(crate) fn into_vec(mut self) -> Vec<u8> {
        if self.is_oversized() {
            return self.bytes.clone();
        }
        std::mem::take(&mut self.bytes)
    }

    /// Whether its buffer is more than twice as large as its bytes.
    pub(crate) fn is_oversized(&self) -> bool {
        self.bytes.capacity() / 2 > self.bytes.len()
    }
}

#[cfg(feature = "bytes")]
impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        self.pool.give(std::mem::take(&mut self.bytes));
    }
}

/// A part of a buffer. The buffer lives as long as any part of it.
#[derive(Debug)]
pub(crate) struct BufferSlice {
    buffer: Arc<Vec<u8>>,
    start: usize,
    end: usize,
}

impl BufferSlice {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }
}

/// Chunks that were copied one behind the other, and how many of them were handed out.
/// Allocates nothing before the first chunk.
#[derive(Debug, Default)]
pub(crate) struct ChunkBuffer {
    bytes: Option<Arc<Vec<u8>>>,
    /// Where each chunk ends.
    ends: Vec<usize>,
    given: usize,
    /// Where the next chunk starts.
    start: usize,
}

impl ChunkBuffer {
    /// Whether all chunks were handed out.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.given == self.ends.len()
    }

    /// Returns how many chunks there are, those that were handed out included.
    pub(crate) fn len(&self) -> u64 {
        as_u64(self.ends.len())
    }

    /// Returns how many bytes these have.
    pub(crate) fn bytes(&self) -> u64 {
        as_u64(self.ends.last().copied().unwrap_or(0))
    }

    pub(crate) fn clear(&mut self) {
        self.ends.clear();
        self.given = 0;
        self.start = 0;
    }

    /// Returns the next chunk.
    #[inline]
    pub(crate) fn next_chunk(&mut self) -> Option<BufferSlice> {
        let end = *self.ends.get(self.given)?;
        let buffer = Arc::clone(self.bytes.as_ref()?);
        let chunk = BufferSlice { buffer, start: self.start, end };
        self.given += 1;
        self.start = end;
        Some(chunk)
    }

    /// Gives out chunks, in order, as long as `take` takes them. One that it does not take is the next.
    /// `note` is told the length of each that was taken.
    #[cfg(feature = "async")]
    pub(crate) fn take_while(
        &mut self,
        take: &mut dyn FnMut(PeerBytes<'_>) -> bool,
        mut note: impl FnMut(usize),
    ) {
        let bytes = self.bytes.as_ref().map_or(&[][..], |bytes| bytes.as_slice());
        while let Some(end) = self.ends.get(self.given)
            && take(PeerBytes::of(bytes.get(self.start..*end).unwrap_or_default()))
        {
            note(end - self.start);
            self.given += 1;
            self.start = *end;
        }
    }

    /// Prepares for at most so many chunks and bytes, in the buffer of the last ones unless parts of
    /// that are still in use. Returns the bytes and the ends of the chunks.
    pub(crate) fn begin(&mut self, chunks: usize, bytes: usize) -> (&mut Vec<u8>, &mut Vec<usize>) {
        self.clear();
        // Large enough from the start: how many come together is a matter of timing.
        self.ends.reserve(chunks);
        let buffer = self.bytes.get_or_insert_with(|| Arc::new(Vec::with_capacity(bytes)));
        (reused(buffer), &mut self.ends)
    }

    /// Returns all chunks, those that were handed out included.
    pub(crate) fn all(&self) -> impl Iterator<Item = &[u8]> {
        let bytes = self.bytes.as_ref().map_or(&[][..], |bytes| bytes.as_slice());
        let starts = std::iter::once(&0).chain(&self.ends);
        self.ends.iter().zip(starts).map(|(end, start)| bytes.get(*start..*end).unwrap_or_default())
    }

    /// Returns the lengths of all chunks.
    pub(crate) fn lens(&self) -> impl Iterator<Item = usize> {
        let starts = std::iter::once(&0).chain(&self.ends);
        self.ends.iter().zip(starts).map(|(end, start)| end - start)
    }

    /// Keeps only so many chunks. None may have been handed out.
    pub(crate) fn truncate(&mut self, chunks: usize) {
        self.ends.truncate(chunks);
    }
}

/// Returns the buffer, emptied; a new one if parts of the old one are still in use.
#[inline]
fn reused(buffer: &mut Arc<Vec<u8>>) -> &mut Vec<u8> {
    if Arc::strong_count(buffer) != 1 {
        // No larger than that needed to be: if its parts are kept, this one's may be as well.
        *buffer = Arc::new(Vec::with_capacity(buffer.len()));
    }
    // Looks once more, with the ordering that the count has not got. It copies nothing: no other
    // owner can come while there is one.
    let bytes = Arc::make_mut(buffer);
    bytes.clear();
    bytes
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn whole(pool: &Arc<BufferPool>, len: usize) -> (PooledBuffer, *const u8) {
        let mut bytes = pool.buffer(len);
        bytes.resize(len, 7);
        let place = bytes.as_ptr();
        (PooledBuffer::new(bytes, pool), place)
    }

    #[test]
    fn the_next_message_is_put_where_the_last_one_was() {
        let pool = BufferPool::new();
        let (first, place) = whole(&pool, 5000);
        assert_eq!(first.bytes(), [7; 5000]);
        drop(first);
        let (second, again) = whole(&pool, 4000);
        assert_eq!((second.bytes().len(), again), (4000, place));
        let (other, elsewhere) = whole(&pool, 9000);
        assert_ne!(elsewhere, place);
        drop(second);
        drop(other);
        assert!(pool.buffer(0).capacity() >= 9000, "the larger one is kept");
        assert_eq!(pool.buffer(0).capacity(), 0, "once");
    }

    #[test]
    fn a_much_larger_buffer_is_left_where_it_is() {
        let pool = BufferPool::new();
        let (message, place) = whole(&pool, 5000);
        drop(message);
        let others = [pool.fitting_buffer(6000), pool.fitting_buffer(1000)];
        assert!(others.iter().all(|other| other.as_ptr() != place));
        let (first, second) = (pool.fitting_buffer(4000), pool.fitting_buffer(4000));
        assert!(first.as_ptr() == place && second.as_ptr() != place);
    }

    #[test]
    fn what_no_message_needs_is_given_back() {
        let pool = BufferPool::new();
        drop(whole(&pool, 5000));
        (1..KEPT_FOR).for_each(|_| pool.age());
        let buffer = pool.buffer(0);
        assert!(buffer.capacity() >= 5000);
        pool.give(buffer);
        (0..KEPT_FOR).for_each(|_| pool.age());
        assert_eq!(pool.buffer(0).capacity(), 0);
        pool.age();
    }

    #[test]
    fn a_buffer_that_its_owner_keeps_is_not_kept_here() {
        let pool = BufferPool::new();
        assert_eq!(whole(&pool, 5000).0.into_vec(), [7; 5000]);
        assert_eq!(pool.buffer(0).capacity(), 0);
        drop(whole(&pool, 5000));
        let short = whole(&pool, 100).0.into_vec();
        assert!(short == [7; 100] && short.capacity() < 5000);
        assert!(pool.buffer(0).capacity() >= 5000, "it is still here");
    }
}
