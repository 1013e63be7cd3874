//! Buffers that are used again: today one, for messages that come in pieces.
//!
//! A buffer of many MiB that comes fresh from the kernel costs a page fault for every
//! 4 KiB, which takes many times as long as to fill it.

use std::sync::Arc;

use crate::sync::{Counter, Ordering, TryLock};

/// Requests after which a buffer that no message needed is given back to the allocator.
const PATIENCE: u64 = 16;

/// Keeps the buffer while no message is in it. Never waited for: a thread that finds it in use
/// goes on without it.
#[derive(Debug)]
pub(crate) struct BufferPool {
    kept: TryLock<Vec<u8>>,
    /// How many more requests the buffer is kept for; zero if none is kept.
    left: Counter,
}

impl BufferPool {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { kept: TryLock::new(Vec::new()), left: Counter::new(0) })
    }

    /// Returns an empty buffer for a message of about `len` bytes: the one that was kept, if
    /// no other message has it.
    pub(crate) fn buffer(&self, len: usize) -> Vec<u8> {
        let mut buffer = self.take();
        // Only a hint. If there is no memory now, it is asked for again when it is needed.
        let _ = buffer.try_reserve_exact(len);
        buffer
    }

    /// Keeps a buffer for the next message, unless a larger one is kept already.
    pub(crate) fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        if let Some(mut kept) = self.kept.try_lock()
            && kept.capacity() < buffer.capacity()
        {
            std::mem::swap(&mut *kept, &mut buffer);
            self.left.store(PATIENCE, Ordering::Relaxed);
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
        if self.bytes.capacity() / 2 > self.bytes.len() {
            return self.bytes.clone();
        }
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        self.pool.give(std::mem::take(&mut self.bytes));
    }
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
    fn what_no_message_needs_is_given_back() {
        let pool = BufferPool::new();
        drop(whole(&pool, 5000));
        (1..PATIENCE).for_each(|_| pool.age());
        let buffer = pool.buffer(0);
        assert!(buffer.capacity() >= 5000);
        pool.give(buffer);
        (0..PATIENCE).for_each(|_| pool.age());
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
