//! The worker's status line: words of its region by which the parent sees what it does.

use std::sync::Arc;

use crate::link::WorkerWords;
use crate::protocol::health::{ANSWERED, WorkerState};
use crate::shm::layout::as_u64;
use crate::shm::status::Status;
use crate::sync::{Ordering, fence};
use crate::worker::health::Report;

/// Writes the status line. Only the serving thread writes it; the health thread reads it.
#[derive(Debug, Clone)]
pub(super) struct StatusWriter(Arc<WorkerWords>);

impl StatusWriter {
    pub(super) fn new(words: Arc<WorkerWords>) -> Self {
        Self(words)
    }

    #[inline]
    pub(super) fn set_state(&self, state: WorkerState) {
        self.0.status.state.store(state.code(), Ordering::Relaxed);
    }

    /// Sets the state for as long as `wait` takes.
    pub(super) fn during<T>(&self, state: WorkerState, wait: impl FnOnce() -> T) -> T {
        let before = self.0.status.state.load(Ordering::Relaxed);
        self.set_state(state);
        let waited = wait();
        self.0.status.state.store(before, Ordering::Relaxed);
        waited
    }

    /// Notes that a handler is about to be called. The number of the request stays until the
    /// next request begins.
    #[inline]
    pub(super) fn begin(&self, request: u64, now: u64) {
        let words = &self.0.status;
        words.busy_since.store(now, Ordering::Relaxed);
        // Pairs with the Acquire load in `WorkerStatus::begun_at`, for `busy_since`.
        words.current.store(request, Ordering::Release);
        words.state.store(WorkerState::Busy.code(), Ordering::Relaxed);
        // Before anything that the handler does: if this process ends, the parent must find
        // that the request was begun. Otherwise it would send it to another worker.
        fence(Ordering::Release);
    }

    #[inline]
    pub(super) fn received(&self, bytes: usize) {
        let sum = self.0.status.bytes_in.load(Ordering::Relaxed).wrapping_add(as_u64(bytes));
        self.0.status.bytes_in.store(sum, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn sent(&self, bytes: usize) {
        let sum = self.0.status.bytes_out.load(Ordering::Relaxed).wrapping_add(as_u64(bytes));
        self.0.status.bytes_out.store(sum, Ordering::Relaxed);
    }

    /// Notes that a request is done, just before its last frame is published: a parent that has
    /// seen that frame sees a status in which the request is done. If the worker ends before
    /// the frame is published, the number of the request still tells that it was begun.
    #[inline]
    pub(super) fn answered(&self) {
        let words = &self.0.status;
        words.served.store(words.served.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        words.state.store(ANSWERED, Ordering::Relaxed);
    }

    pub(super) fn set_progress(&self, progress: u64) {
        self.0.status.progress.store(progress, Ordering::Relaxed);
    }
}

impl Report for StatusWriter {
    fn status(&self) -> Status {
        self.0.status.snapshot()
    }
}
