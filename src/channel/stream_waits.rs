//! How long the reader of a stream waits for what comes next, by how far the stream is.

use std::time::Duration;

use crate::channel::core::Core;
use crate::channel::explain::{not_begun, not_over, stalled};
use crate::channel::stream_timeouts::StreamDeadlines;
use crate::error::{Result, StreamTimeout};
use crate::sys::clock::Deadline;
use crate::sys::fork;

/// The deadlines of a stream, and how far it is.
#[derive(Debug)]
pub(super) struct StreamWaits {
    deadlines: StreamDeadlines,
    progress: Progress,
    /// The reader has got a chunk.
    has_chunk: bool,
    /// Requests that the worker had served at the last look at what it does.
    served: u64,
}

/// How far a stream is, as its reader knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Not known to be begun.
    Waiting,
    /// The worker has begun the request, and no chunk has come.
    Begun,
    /// A chunk or the end has come.
    Reading,
}

/// The shortest time after which a reader looks whether its request has been begun.
const SHORTEST_LOOK: Duration = Duration::from_millis(1);

impl StreamWaits {
    pub(super) fn new(deadlines: StreamDeadlines, core: &Core) -> Self {
        let served = core.status.served();
        Self { deadlines, progress: Progress::Waiting, has_chunk: false, served }
    }

    /// Something has come: a chunk, a part of one, the end or an error.
    #[inline]
    pub(super) fn note_item(&mut self) {
        self.progress = Progress::Reading;
    }

    /// Counts how long after the call, at which the queue timeout began, the reader got its first
    /// chunk.
    #[inline]
    pub(super) fn note_chunk(&mut self, core: &Core) {
        if !self.has_chunk {
            self.has_chunk = true;
            core.counters().stream_answered(self.deadlines.queue);
        }
    }

    /// The longest time that the stream may take.
    pub(super) fn total(&self) -> Duration {
        self.deadlines.timeouts.total
    }

    /// When the stream must be over.
    pub(super) fn end_by(&self) -> Deadline {
        self.deadlines.end_by
    }

    /// Returns an error if the stream should be over.
    #[inline]
    pub(super) fn check_total(&self, core: &Core, request: u64) -> Result<()> {
        if self.deadlines.end_by.is_endless() { Ok(()) } else { self.check_end(core, request) }
    }

    #[cold]
    fn check_end(&self, core: &Core, request: u64) -> Result<()> {
        fork::check()?;
        if !self.deadlines.end_by.has_passed() {
            return Ok(());
        }
        Err(not_over(core, request, self.deadlines.timeouts.total))
    }

    /// How long to wait before a look at what the worker does.
    #[inline]
    pub(super) fn first_wait(&self) -> Duration {
        let StreamDeadlines { timeouts, queue, end_by } = &self.deadlines;
        let longest = match self.progress {
            Progress::Reading => timeouts.chunk,
            Progress::Begun => timeouts.first(),
            Progress::Waiting => timeouts.shortest_gap().min(queue.deadline().remaining()),
        };
        if end_by.is_endless() { longest } else { longest.min(end_by.remaining()) }
    }

    /// Returns until when a reader goes on waiting to which nothing has come so far, or the
    /// error that ends its wait. `since` is when it began to wait, in nanoseconds of the
    /// monotonic clock.
    #[cold]
    pub(super) fn next_wait(&mut self, core: &Core, request: u64, since: u64) -> Result<Deadline> {
        self.check_total(core, request)?;
        let StreamDeadlines { timeouts, queue, end_by } = self.deadlines;
        let queue_ends = queue.deadline();
        let (gap, which) = match self.progress {
            Progress::Reading => (timeouts.chunk, StreamTimeout::Chunk),
            Progress::Waiting | Progress::Begun => (timeouts.first(), StreamTimeout::FirstChunk),
        };
        let begun_at = match self.progress {
            Progress::Reading | Progress::Begun => Some(0),
            Progress::Waiting => core.status.begun_at(request),
        };
        let Some(begun_at) = begun_at else {
            let served = std::mem::replace(&mut self.served, core.status.served());
            let is_idle = served == self.served && core.status.is_idle();
            if is_idle && Deadline::from(since, timeouts.chunk).has_passed() {
                // It has nothing else to do, and does not take the request: it is stopped.
                let (gap, which) = (timeouts.chunk, StreamTimeout::Chunk);
                return Err(stalled(core, request, gap, which));
            }
            if queue_ends.has_passed() {
                return Err(not_begun(core, request, timeouts.queue));
            }
            // If the worker begins the request right now, the stream stalls no sooner than this.
            let longest = timeouts.shortest_gap().max(SHORTEST_LOOK);
            return Ok(queue_ends.min(end_by).at_most(longest));
        };
        if self.progress == Progress::Waiting {
            self.progress = Progress::Begun;
        }
        let stalls_at = Deadline::from(since.max(begun_at), gap);
        if stalls_at.has_passed() {
            return Err(stalled(core, request, gap, which));
        }
        Ok(stalls_at.min(end_by))
    }
}
