//! The request table: for each request in flight whether it is cancelled, and how many bytes of
//! its stream the parent's reader has consumed. The parent stores, the worker only reads.

use super::layout::{REQUEST_ENTRY, as_u64, request_slot};
use super::region::{OwnRegion, PeerRegion};
use super::words::{Table, load_of_peer};
use crate::error::Result;
use crate::sync::Ordering;

const WORDS: usize = REQUEST_ENTRY / 8;
/// Words of an entry.
const CANCELLED: usize = 0;
const CONSUMED: usize = 1;

/// The table in the hands of the parent, which knows the entry of each of its requests.
#[derive(Debug)]
pub(crate) struct OwnRequests(Table);

impl OwnRequests {
    /// A table of so many entries at `offset`.
    pub(crate) fn at(region: &OwnRegion, offset: usize, entries: usize) -> Result<Self> {
        region.table(offset, entries.saturating_mul(WORDS)).map(Self)
    }

    /// Tells the worker that a request is cancelled. Returns whether it was not told before.
    pub(crate) fn cancel(&self, entry: usize, request: u64) -> bool {
        let before = self.0.word(WORDS * entry + CANCELLED).load(Ordering::Relaxed);
        // Pairs with the Acquire load in `PeerRequests::is_cancelled`.
        self.0.word(WORDS * entry + CANCELLED).store(request, Ordering::Release);
        before != request
    }

    /// Takes back what an earlier request of the same entry was credited. The worker polls the
    /// line of the entry, so that it is written only if it has to be.
    pub(crate) fn reset_credit(&self, entry: usize) {
        if self.0.word(WORDS * entry + CONSUMED).load(Ordering::Relaxed) != 0 {
            self.set_credit(entry, 0);
        }
    }

    pub(crate) fn set_credit(&self, entry: usize, consumed: u64) {
        // Pairs with the Acquire load in `PeerRequests::credit`.
        self.0.word(WORDS * entry + CONSUMED).store(consumed, Ordering::Release);
    }
}

/// The table as the worker sees it.
#[derive(Debug)]
pub(crate) struct PeerRequests {
    table: Table,
    entries: u64,
}

impl PeerRequests {
    /// A table of so many entries at `offset`.
    pub(crate) fn at(region: &PeerRegion, offset: usize, entries: usize) -> Result<Self> {
        let table = region.table(offset, entries.saturating_mul(WORDS))?;
        Ok(Self { table, entries: as_u64(entries) })
    }

    #[inline]
    pub(crate) fn is_cancelled(&self, request: u64) -> bool {
        let entry = request_slot(request, self.entries);
        // Pairs with the Release store in `OwnRequests::cancel`.
        self.load(WORDS * entry + CANCELLED) == request
    }

    pub(crate) fn credit(&self, request: u64) -> u64 {
        let entry = request_slot(request, self.entries);
        // Pairs with the Release store in `OwnRequests::set_credit`.
        self.load(WORDS * entry + CONSUMED)
    }

    #[inline]
    fn load(&self, index: usize) -> u64 {
        load_of_peer(Ordering::Acquire, |order| self.table.word(index).load(order))
    }
}
