//! One buffer for messages that come in pieces, kept from each for the next.
//!
//! A buffer of many MiB that comes fresh from the kernel costs a page fault for every
//! 4 KiB, which takes many times as long as to fill it.

use std::sync::Arc;

use crate::sync::{Counter, Ordering, TryLock};

/// Requests after which a buffer that no message needed is given back to the allocator.
const PATIENCE: u64 = 16;

/// Where the buffer is while no message is in it.
#[derive(Debug)]
pub(crate) struct Spare {
    kept: TryLock<Vec<u8>>,
    /// Requests until what is kept is given back; zero if nothing is.
    left: Counter,
}

impl Spare {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { kept: TryLock::new(Vec::new()), left: Counter::new(0) })
    }

    /// An empty buffer for a message of about `len` bytes: the one that was kept, if no other
    /// message has it.
    pub(crate) fn buffer(&self, len: usize) -> Vec<u8> {
        let mut buffer = self.take();
        // A hint: what cannot be had now is asked for when it is needed.
        let _ = buffer.try_reserve_exact(len);
        buffer
    }

    /// Keeps a buffer for the next message, unless there is a larger one.
    pub(crate) fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        if let Some(mut kept) = self.kept.try_lock()
            && kept.capacity() < buffer.capacity()
        {
            std::mem::swap(&mut *kept, &mut buffer);
            self.left.store(PATIENCE, Ordering::Relaxed);
        }
    }

    /// Counts a request.
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
            // Threads that do this at once count for one, which does not matter.
            _ => self.left.store(left - 1, Ordering::Relaxed),
        }
    }

    fn take(&self) -> Vec<u8> {
        let Some(mut kept) = self.kept.try_lock() else { return Vec::new() };
        self.left.store(0, Ordering::Relaxed);
        std::mem::take(&mut *kept)
    }
}

/// A message that came in pieces; its buffer goes back when it is dropped.
#[derive(Debug)]
pub(crate) struct Whole {
    bytes: Vec<u8>,
    home: Arc<Spare>,
}

impl Whole {
    pub(crate) fn new(bytes: Vec<u8>, home: &Arc<Spare>) -> Self {
        Self { bytes, home: Arc::clone(home) }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The message for good, without the room that a much longer one has left behind it.
    pub(crate) fn into_vec(mut self) -> Vec<u8> {
        if self.bytes.capacity() / 2 > self.bytes.len() {
            return self.bytes.clone();
        }
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.home.give(std::mem::take(&mut self.bytes));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn whole(spare: &Arc<Spare>, len: usize) -> (Whole, *const u8) {
        let mut bytes = spare.buffer(len);
        bytes.resize(len, 7);
        let place = bytes.as_ptr();
        (Whole::new(bytes, spare), place)
    }

    #[test]
    fn the_next_message_is_put_where_the_last_one_was() {
        let spare = Spare::new();
        let (first, place) = whole(&spare, 5000);
        assert_eq!(first.bytes(), [7; 5000]);
        drop(first);
        let (second, again) = whole(&spare, 4000);
        assert_eq!((second.bytes().len(), again), (4000, place));
        let (other, elsewhere) = whole(&spare, 9000);
        assert_ne!(elsewhere, place);
        drop(second);
        drop(other);
        assert!(spare.buffer(0).capacity() >= 9000, "the larger one is kept");
        assert_eq!(spare.buffer(0).capacity(), 0, "once");
    }

    #[test]
    fn what_no_message_needs_is_given_back() {
        let spare = Spare::new();
        drop(whole(&spare, 5000));
        (1..PATIENCE).for_each(|_| spare.age());
        let buffer = spare.buffer(0);
        assert!(buffer.capacity() >= 5000);
        spare.give(buffer);
        (0..PATIENCE).for_each(|_| spare.age());
        assert_eq!(spare.buffer(0).capacity(), 0);
        spare.age();
    }

    #[test]
    fn a_buffer_that_its_owner_keeps_is_not_kept_here() {
        let spare = Spare::new();
        assert_eq!(whole(&spare, 5000).0.into_vec(), [7; 5000]);
        assert_eq!(spare.buffer(0).capacity(), 0);
        drop(whole(&spare, 5000));
        let short = whole(&spare, 100).0.into_vec();
        assert!(short == [7; 100] && short.capacity() < 5000);
        assert!(spare.buffer(0).capacity() >= 5000, "it is still here");
    }
}
