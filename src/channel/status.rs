//! What the worker says of itself in its status line: read without asking it, and without a
//! lock.

use std::sync::Arc;

use crate::error::StatusLine;
use crate::protocol::health::{Health, WorkerState};
use crate::shm::status::PeerStatus;
use crate::sync::Ordering;
use crate::sys::clock::now_ns;

/// The parent's view of the worker's status line.
#[derive(Debug)]
pub(super) struct WorkerStatus(Arc<PeerStatus>);

impl WorkerStatus {
    pub(super) fn new(words: Arc<PeerStatus>) -> Self {
        Self(words)
    }

    /// The status line as a report.
    pub(super) fn health(&self) -> Health {
        Health::of(self.0.snapshot(), None)
    }

    /// When the worker began the request, in nanoseconds of the monotonic clock; `None` unless
    /// it is serving it.
    #[cold]
    pub(super) fn begun_at(&self, request: u64) -> Option<u64> {
        // Pairs with the Release store in the worker's `StatusWriter::begin`: the time is that of
        // this request, or of a later one, and then this one's last frame is in the ring.
        let is_begun = self.0.current.load(Ordering::Acquire) == request;
        is_begun.then(|| self.0.busy_since.load(Ordering::Relaxed).min(now_ns()))
    }

    /// How many requests the worker has served.
    pub(super) fn served(&self) -> u64 {
        self.0.served.load(Ordering::Relaxed)
    }

    /// Whether the worker waits for a request and no handler runs.
    #[cold]
    pub(super) fn is_idle(&self) -> bool {
        self.0.state.load(Ordering::Relaxed) == WorkerState::Idle.code()
    }

    /// Whether this is the request that the worker began last.
    pub(super) fn has_begun(&self, request: u64) -> bool {
        self.0.last_served().begun == request
    }

    /// What the worker does, for the message of a timeout: that of the request `own`, or of one
    /// that found no room. `is_open_stream` says of a request whether it is a stream whose
    /// owner has not let go of it.
    #[cold]
    pub(super) fn describe(
        &self,
        own: Option<u64>,
        is_open_stream: impl FnOnce(u64) -> bool,
    ) -> String {
        let health = self.health();
        let for_ms = health.busy_for.unwrap_or_default().as_millis();
        let mut text = match (health.state, health.current_request) {
            (WorkerState::Starting, _) => "the worker is still building its session".to_owned(),
            (WorkerState::AwaitingCredit, Some(request)) => {
                format!("the worker waits for the reader of the stream of request {request}")
            }
            (_, Some(request)) if is_open_stream(request.get()) => {
                format!(
                    "the worker has been busy with the stream of request {request} for {for_ms} ms"
                )
            }
            (_, Some(request)) => {
                format!("the worker has been busy with request {request} for {for_ms} ms")
            }
            _ if own.is_some_and(|own| self.has_begun(own)) => {
                "the worker was about to answer it".to_owned()
            }
            _ => "the worker serves no request and does not answer: it may be stopped, or get no \
                  processor"
                .to_owned(),
        };
        if own.is_some_and(|own| !self.has_begun(own)) {
            text.push_str("; it had not begun this one");
        }
        text
    }
}
