//! The worker's status line and marks: words of its region by which the parent sees what it
//! does.

use std::sync::Arc;

use crate::link::WorkerWords;
use crate::protocol::health::{Phase, Snapshot};
use crate::shm::layout::as_u64;
use crate::shm::words::OwnU64;
use crate::sync::Ordering;
use crate::worker::health::Report;

/// Writes the status line and the marks. The health thread reads them.
#[derive(Debug, Clone)]
pub(super) struct StatusWriter(Arc<WorkerWords>);

impl StatusWriter {
    pub(super) fn new(words: Arc<WorkerWords>) -> Self {
        Self(words)
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        self.0.report.status.state.store(phase.code(), Ordering::Relaxed);
    }

    /// Notes that a request was taken out of the ring.
    pub(super) fn taken(&self, request: u64, now: u64) {
        self.0.report.marks.take(request, now);
    }

    /// Notes that a handler is about to be called for the request.
    #[inline]
    pub(super) fn begin(&self, request: u64, now: u64) {
        self.0.report.marks.begin(request, now);
    }

    /// Notes the same for a request that was taken.
    pub(super) fn begin_taken(&self, request: u64, now: u64) {
        self.0.report.marks.begin_taken(request, now);
    }

    #[inline]
    pub(super) fn received(&self, bytes: usize) {
        add(&self.0.report.status.bytes_in, as_u64(bytes));
    }

    #[inline]
    pub(super) fn sent(&self, bytes: usize) {
        add(&self.0.report.status.bytes_out, as_u64(bytes));
    }

    /// Notes that a request is answered, just before its last frame is published: a parent that has
    /// seen that frame sees a report in which the request is answered. Its handler may go on.
    #[inline]
    pub(super) fn answered(&self, request: u64, was_begun: bool) {
        add(&self.0.report.status.served, 1);
        if was_begun {
            self.0.report.marks.answer(request);
        }
    }

    /// Notes that the handler of a request has returned, after its last frame.
    #[inline]
    pub(super) fn handler_returned(&self, request: u64) {
        self.0.report.marks.set_done(request);
    }

    /// Notes that nothing is done for a request any more, just before its last frame is published:
    /// afterwards, the next request may have its mark.
    pub(super) fn done(&self, request: u64, was_begun: bool) {
        add(&self.0.report.status.served, 1);
        match was_begun {
            true => self.0.report.marks.set_done(request),
            false => self.0.report.marks.clear(request),
        }
    }

    pub(super) fn set_progress(&self, request: u64, progress: u64) {
        self.0.report.marks.set_progress(request, progress);
    }
}

/// Adds to a number that one thread at a time writes.
#[inline]
fn add(word: &OwnU64, more: u64) {
    word.store(word.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

impl Report for StatusWriter {
    fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.0.report.status.snapshot(), self.0.report.marks.all())
    }
}
