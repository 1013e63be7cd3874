//! How much a worker may send of one stream: see "Credit" in `docs/ARCHITECTURE.md`.
//!
//! `window` is the longest stretch of slots that a stream may have sent and its reader not consumed.

/// Bytes of slots of a stream's chunks.
#[derive(Debug, Default)]
pub(super) struct StreamCredit {
    /// Those that have come.
    received: u64,
    /// Those that the reader has taken, and those of pieces that were skipped.
    consumed: u64,
    /// What the worker was told of `consumed` last.
    credited: u64,
    /// Those of pieces that came while something was unread: neither consumed yet nor part of an
    /// item.
    withheld: u64,
}

impl StreamCredit {
    /// Begins a new stream. Returns what the worker was told of the one before.
    #[inline]
    pub(super) fn begin(&mut self) -> u64 {
        std::mem::take(self).credited
    }

    /// Counts bytes as consumed. Returns the sum if the worker should be told.
    pub(super) fn add_consumed(
        &mut self,
        bytes: u64,
        is_about_to_wait: bool,
        window: u64,
    ) -> Option<u64> {
        let quarter = (window / 4).max(1);
        if is_about_to_wait {
            // All before it was taken: without its next piece a message never ends.
            self.consumed = self.consumed.wrapping_add(self.take_withheld());
        }
        self.consumed = self.consumed.wrapping_add(bytes);
        let uncredited = self.consumed.wrapping_sub(self.credited);
        if uncredited < if is_about_to_wait { 1 } else { quarter } {
            return None;
        }
        self.credited = self.consumed;
        Some(self.consumed)
    }

    /// Counts chunks in a row, `bytes` in all, as received, if the worker had credit for each of them
    /// and none is longer than the window. Returns false otherwise, and counts nothing.
    #[inline]
    pub(super) fn spend_all(&mut self, bytes: u64, window: u64) -> bool {
        let received = self.received.wrapping_add(bytes);
        // The last chunk needs the most credit.
        let is_covered = bytes <= window && self.credited >= received.saturating_sub(window);
        if is_covered {
            self.received = received;
        }
        is_covered
    }

    /// Counts chunks in a row as received, up to the first that the worker had no credit for: it waits
    /// until `received + bytes - window` is credited, or for a chunk that is longer than the window
    /// until all before it is. Returns how many come before that one.
    pub(super) fn spend_each(&mut self, costs: impl Iterator<Item = u64>, window: u64) -> usize {
        let (credited, mut received) = (self.credited, self.received);
        let mut is_covered = |bytes: u64| {
            let before = received;
            received = before.wrapping_add(bytes);
            credited >= if bytes > window { before } else { received.saturating_sub(window) }
        };
        let covered = costs.take_while(|bytes| is_covered(*bytes)).count();
        self.received = received;
        covered
    }

    pub(super) fn withhold(&mut self, bytes: u64) {
        self.withheld = self.withheld.wrapping_add(bytes);
    }

    pub(super) fn take_withheld(&mut self) -> u64 {
        std::mem::take(&mut self.withheld)
    }
}
