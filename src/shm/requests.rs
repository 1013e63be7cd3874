//! The request table: for each request in flight whether it is cancelled, and how many bytes of
//! its stream the parent's reader has consumed. The parent stores, the worker only reads.

use super::layout::REQUEST_WORDS;
use super::region::{OwnRegion, PeerRegion};
use super::words::{Table, load_of_peer};
use crate::error::Result;
use crate::sync::Ordering;

/// The table in the hands of the parent. An entry is the request that is cancelled, and the
/// bytes that were consumed.
#[derive(Debug)]
pub(crate) struct OwnRequests(Table<REQUEST_WORDS>);

impl OwnRequests {
    /// A table of so many entries at `offset`.
    pub(crate) fn at(region: &OwnRegion, offset: usize, entries: usize) -> Result<Self> {
        region.table(offset, entries).map(Self)
    }

    /// Tells the worker that a request is cancelled. Returns whether it was not told before.
    pub(crate) fn cancel(&self, request: u64) -> bool {
        let [cancelled, _] = self.0.entry(request);
        let before = cancelled.load(Ordering::Relaxed);
        // Pairs with the Acquire load in `PeerRequests::is_cancelled`.
        cancelled.store(request, Ordering::Release);
        before != request
    }

    /// How many bytes of its stream the reader has consumed, as the worker was told.
    pub(crate) fn consumed(&self, request: u64) -> u64 {
        let [_, consumed] = self.0.entry(request);
        consumed.load(Ordering::Relaxed)
    }

    pub(crate) fn set_credit(&self, request: u64, bytes: u64) {
        let [_, consumed] = self.0.entry(request);
        // Pairs with the Acquire load in `PeerRequests::credit`.
        consumed.store(bytes, Ordering::Release);
    }
}

/// The table as the worker sees it.
#[derive(Debug)]
pub(crate) struct PeerRequests(Table<REQUEST_WORDS>);

impl PeerRequests {
    /// A table of so many entries at `offset`.
    pub(crate) fn at(region: &PeerRegion, offset: usize, entries: usize) -> Result<Self> {
        region.table(offset, entries).map(Self)
    }

    #[inline]
    pub(crate) fn is_cancelled(&self, request: u64) -> bool {
        let [cancelled, _] = self.0.entry(request);
        // Pairs with the Release store in `OwnRequests::cancel`.
        load_of_peer(Ordering::Acquire, |order| cancelled.load(order)) == request
    }

    pub(crate) fn credit(&self, request: u64) -> u64 {
        let [_, consumed] = self.0.entry(request);
        // Pairs with the Release store in `OwnRequests::set_credit`.
        load_of_peer(Ordering::Acquire, |order| consumed.load(order))
    }
}
