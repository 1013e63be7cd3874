//! How many bytes of requests and of answers the gateway has in memory.
//!
//! Bytes beyond the limit are refused and never waited for: two requests that are half there would wait
//! for each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use slipring::Error;

use super::BufferLimits;
use crate::wire::error::out_of_memory;

/// Longer requests leave a quarter of the memory to those of at most this length.
const SHORT: usize = 64 << 10;

/// What is in memory, of all connections or of one.
#[derive(Debug)]
pub(super) struct Budget {
    used: AtomicUsize,
    limit: usize,
    /// The limit for long requests.
    for_long: usize,
}

impl Budget {
    /// Makes the budget of so many bytes, or of more, so that one request of the longest has room.
    pub(super) fn new(bytes: usize, longest: usize) -> Self {
        let for_long = (bytes - bytes / 4).max(longest);
        let limit = bytes.max(for_long.saturating_add(for_long / 3));
        Self { used: AtomicUsize::new(0), limit, for_long }
    }

    fn take(&self, count: usize, limit: usize) -> Result<(), usize> {
        let add = |used: usize| used.checked_add(count).filter(|sum| *sum <= limit);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        taken.map(drop).map_err(|_| limit)
    }

    fn give_back(&self, count: usize) {
        self.used.fetch_sub(count, Ordering::Relaxed);
    }
}

/// What one connection has in memory, which is a part of what all have.
#[derive(Debug)]
pub(super) struct Memory {
    all: Arc<Budget>,
    own: Budget,
}

impl Memory {
    pub(super) fn new(all: &Arc<Budget>, limits: BufferLimits, longest: usize) -> Arc<Self> {
        let own = Budget::new(limits.of_connection, longest);
        Arc::new(Self { all: Arc::clone(all), own })
    }
}

/// Bytes in memory, which are counted until this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    memory: Arc<Memory>,
    count: usize,
}

impl Held {
    pub(super) fn nothing(memory: &Arc<Memory>) -> Self {
        Self { memory: Arc::clone(memory), count: 0 }
    }

    /// Counts more bytes of a request.
    ///
    /// # Errors
    ///
    /// If there is no room for them. Nothing of the request was begun.
    pub(super) fn add_to_request(&mut self, host: &str, count: usize) -> Result<(), Error> {
        let is_short = self.count.saturating_add(count) <= SHORT;
        let limit = |of: &Budget| if is_short { of.limit } else { of.for_long };
        self.add(count, limit).map_err(|limit| out_of_memory(host, limit, false))
    }

    /// Counts the bytes of a reply or of a chunk.
    ///
    /// # Errors
    ///
    /// If there is no room for them. The request was begun.
    pub(super) fn add_answer(&mut self, host: &str, count: usize) -> Result<(), Error> {
        self.add(count, |of| of.limit).map_err(|limit| out_of_memory(host, limit, true))
    }

    fn add(&mut self, count: usize, limit: impl Fn(&Budget) -> usize) -> Result<(), usize> {
        let Memory { all, own } = &*self.memory;
        own.take(count, limit(own))?;
        if let Err(limit) = all.take(count, limit(all)) {
            own.give_back(count);
            return Err(limit);
        }
        self.count += count;
        Ok(())
    }

    /// Has the bytes be counted for as long as they are in memory.
    pub(super) fn keep(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Kept { bytes, _held: self })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.own.give_back(self.count);
        self.memory.all.give_back(self.count);
    }
}

struct Kept {
    bytes: Bytes,
    _held: Held,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn memory(all: &Arc<Budget>, of_connection: usize) -> Held {
        let limits = BufferLimits { of_all: 0, of_connection };
        Held::nothing(&Memory::new(all, limits, 0))
    }

    #[test]
    fn long_requests_leave_room_to_short_ones() {
        let all = Arc::new(Budget::new(8 * MIB, 0));
        let mut long = memory(&all, 4 * MIB);
        long.add_to_request("here", 3 * MIB).unwrap();
        let refused = long.add_to_request("here", 1).unwrap_err();
        assert_eq!(refused.was_begun(), Some(false));
        let mut short = Held::nothing(&long.memory);
        short.add_to_request("here", SHORT).unwrap();
        short.add_to_request("here", 1).unwrap_err();
        Held::nothing(&long.memory).add_answer("here", MIB - SHORT).unwrap();
    }

    #[test]
    fn one_connection_does_not_use_up_the_memory_of_all() {
        let all = Arc::new(Budget::new(8 * MIB, 0));
        let [mut one, mut other, mut third] = [(); 3].map(|()| memory(&all, 4 * MIB));
        one.add_answer("here", 4 * MIB).unwrap();
        one.add_answer("here", 1).unwrap_err();
        other.add_to_request("here", 2 * MIB).unwrap();
        third.add_to_request("here", MIB).unwrap_err();
        assert_eq!(third.memory.own.used.load(Ordering::Relaxed), 0);
        let kept = one.keep(Bytes::from_static(b"kept"));
        third.add_to_request("here", MIB).unwrap_err();
        drop(kept);
        third.add_to_request("here", MIB).unwrap();
    }

    #[test]
    fn one_request_of_the_longest_has_room() {
        let budget = Arc::new(Budget::new(MIB, 4 * MIB));
        let limits = BufferLimits { of_all: 0, of_connection: MIB };
        let memory = Memory::new(&budget, limits, 4 * MIB);
        let mut long = Held::nothing(&memory);
        long.add_to_request("here", 4 * MIB).unwrap();
        Held::nothing(&memory).add_to_request("here", SHORT).unwrap();
    }
}
