//! Buffers in which long payloads are put together, and which are used again.
//!
//! A long buffer that comes fresh from the kernel costs a page fault for every 4 KiB, which takes longer
//! than to fill it, and an allocator gives it back to the kernel as soon as it is freed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Longer buffers are not kept.
const LONGEST: usize = 4 << 20;

/// The buffers that are kept.
#[derive(Debug)]
pub(crate) struct Spare {
    kept: Mutex<Vec<Vec<u8>>>,
    most: usize,
}

impl Spare {
    /// Keeps at most so many buffers, of 4 MiB at most.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { kept: Mutex::default(), most })
    }

    /// Returns a buffer with nothing in it.
    pub(crate) fn buffer(self: &Arc<Self>) -> Buffer {
        Buffer { bytes: self.lock().pop().unwrap_or_default(), spare: Arc::clone(self) }
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut kept = self.lock();
        if (1..=LONGEST).contains(&buffer.capacity()) && kept.len() < self.most {
            kept.push(buffer);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that are put together. Dropped, their buffer is used for the next ones.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    spare: Arc<Spare>,
}

impl Buffer {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the bytes. They may be kept for long: not in a buffer that is more than twice as large.
    pub(crate) fn freeze(self) -> Bytes {
        match self.bytes.capacity() / 2 > self.bytes.len() {
            true => Bytes::copy_from_slice(&self.bytes),
            false => Bytes::from_owner(self),
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.spare.give_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(spare: &Arc<Spare>, len: usize) -> Bytes {
        let mut buffer = spare.buffer();
        buffer.push(&vec![7; len]);
        assert_eq!(buffer.len(), len);
        buffer.freeze()
    }

    #[test]
    fn the_next_payload_is_put_where_the_last_one_was() {
        let spare = Spare::new(1);
        let first = payload(&spare, 5000);
        let place = first.as_ptr();
        let other = payload(&spare, 5000);
        assert_ne!(other.as_ptr(), place);
        drop(first);
        // There is one already.
        drop(other);
        let again = payload(&spare, 4000);
        assert_eq!((again.as_ptr(), &again[..]), (place, &[7; 4000][..]));
    }

    #[test]
    fn a_short_payload_does_not_keep_a_long_buffer() {
        let spare = Spare::new(1);
        let long = payload(&spare, 5000);
        let place = long.as_ptr();
        drop(long);
        let short = payload(&spare, 100);
        assert_ne!(short.as_ptr(), place);
        assert_eq!(payload(&spare, 5000).as_ptr(), place);
    }

    #[test]
    fn very_long_buffers_are_freed() {
        let spare = Spare::new(1);
        drop(payload(&spare, LONGEST + 1));
        assert!(spare.lock().is_empty());
    }
}
