//! Requests that wait for their batch, and which of them make the next one. Knows no clock and
//! no inbox.

use std::collections::VecDeque;

/// What a batch may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) max_size: usize,
    /// The most of the longest length times the number of requests.
    pub(super) max_cost: usize,
}

/// The queues, one for each kind.
#[derive(Debug)]
pub(super) struct BatchQueues<T> {
    limits: Limits,
    by_kind: Vec<VecDeque<Waiting<T>>>,
    /// How many requests have come so far.
    arrivals: u64,
}

#[derive(Debug)]
struct Waiting<T> {
    request: T,
    length: usize,
    /// The place of the request in the order of arrival.
    arrival: u64,
    /// When its batch is to run at the latest, in nanoseconds of the monotonic clock.
    due: u64,
}

impl<T> BatchQueues<T> {
    pub(super) fn new(kinds: usize, limits: Limits) -> Self {
        Self { limits, by_kind: (0..kinds).map(|_| VecDeque::new()).collect(), arrivals: 0 }
    }

    /// Adds the request that came last. Those of one kind come in the order of their `due`.
    pub(super) fn push(&mut self, kind: usize, request: T, length: usize, due: u64) {
        let arrival = self.arrivals;
        self.arrivals += 1;
        if let Some(queue) = self.by_kind.get_mut(kind) {
            queue.push_back(Waiting { request, length, arrival, due });
        }
    }

    /// How many requests wait.
    pub(super) fn len(&self) -> usize {
        self.by_kind.iter().map(VecDeque::len).sum()
    }

    /// Drops the requests that are not wanted any more.
    pub(super) fn retain(&mut self, mut is_wanted: impl FnMut(&mut T) -> bool) {
        for queue in &mut self.by_kind {
            queue.retain_mut(|waiting| is_wanted(&mut waiting.request));
        }
    }

    /// When the next batch is due.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.by_kind.iter().filter_map(VecDeque::front).map(|oldest| oldest.due).min()
    }

    /// Takes the next batch, with its kind: the one whose oldest request came first, of those that
    /// are due at `now` or to which nothing can be added.
    pub(super) fn next_batch(&mut self, now: u64) -> Option<(usize, Vec<T>)> {
        let limits = self.limits;
        let ready = self.by_kind.iter().enumerate().filter_map(|(kind, queue)| {
            let oldest = queue.front()?;
            let (rows, is_full) = limits.rows(queue);
            (is_full || oldest.due <= now).then_some((oldest.arrival, kind, rows))
        });
        let (_, kind, rows) = ready.min()?;
        let queue = self.by_kind.get_mut(kind)?;
        let batch = queue.drain(..rows).map(|waiting| waiting.request);
        Some((kind, batch.collect()))
    }
}

impl Limits {
    /// How many requests at the front of a queue make a batch, and whether nothing can be added to
    /// it. A request that is over the budget by itself is a batch.
    fn rows<T>(self, queue: &VecDeque<Waiting<T>>) -> (usize, bool) {
        let mut longest = 0;
        for (rows, next) in queue.iter().enumerate() {
            let padded = longest.max(next.length);
            if rows > 0 && self.is_over(padded, rows + 1) {
                return (rows, true);
            }
            longest = padded;
        }
        // Whatever is added makes the batch no cheaper.
        (queue.len(), self.is_over(longest, queue.len() + 1))
    }

    fn is_over(self, longest: usize, rows: usize) -> bool {
        rows > self.max_size || longest.saturating_mul(rows) > self.max_cost
    }
}

#[cfg(test)]
#[path = "batch_queues_tests.rs"]
mod tests;
