//! What the worker says of itself in its status line: read without asking it, and without a
//! lock.

use std::sync::Arc;

use crate::error::{Mark, RequestStage, Stage};
use crate::link::PeerReport;
use crate::protocol::health::{Health, Phase, Snapshot, WorkerState};
use crate::sync::Ordering;
use crate::sys::clock::now_ns;

/// The parent's view of the worker's status line and marks.
#[derive(Debug)]
pub(super) struct WorkerStatus(Arc<PeerReport>);

impl WorkerStatus {
    pub(super) fn new(report: Arc<PeerReport>) -> Self {
        Self(report)
    }

    /// What the worker says of itself.
    pub(super) fn health(&self) -> Health {
        Health::of(Snapshot::new(self.0.status.snapshot(), self.0.marks.all()), None)
    }

    /// When the worker began the request, in nanoseconds of the monotonic clock; `None` if it
    /// has not begun it.
    #[cold]
    pub(super) fn begun_at(&self, request: u64) -> Option<u64> {
        let mark = self.0.marks.of(request).filter(Mark::was_begun);
        mark.map(|mark| mark.since.min(now_ns()))
    }

    /// How many requests the worker has served.
    pub(super) fn served(&self) -> u64 {
        self.0.status.served.load(Ordering::Relaxed)
    }

    /// Whether the worker waits for a request, and has none in its hands.
    #[cold]
    pub(super) fn is_idle(&self) -> bool {
        let is_serving = self.0.status.state.load(Ordering::Relaxed) == Phase::Serving.code();
        is_serving && self.0.marks.all().iter().all(|mark| mark.stage == Stage::Done)
    }

    /// How far the worker is with this request.
    #[cold]
    pub(super) fn stage(&self, request: u64) -> RequestStage {
        match self.0.marks.of(request) {
            None => RequestStage::Queued,
            Some(mark) if mark.was_begun() => RequestStage::Begun,
            Some(_) => RequestStage::Taken,
        }
    }

    /// What the worker does, for the message of a timeout: that of the request `own`, or of one
    /// that found no room. `is_open_stream` says of a request whether it is a stream whose
    /// owner has not let go of it.
    #[cold]
    pub(super) fn describe(
        &self,
        own: Option<u64>,
        is_open_stream: impl Fn(u64) -> bool,
    ) -> String {
        let health = self.health();
        let stage = own.map(|own| self.stage(own));
        let for_ms = health.busy_for.unwrap_or_default().as_millis();
        let oldest = health.current_request.map(|request| request.get());
        let mut text = match (health.state, oldest) {
            (WorkerState::Starting, _) => "the worker is still building its session".to_owned(),
            (WorkerState::AwaitingCredit, Some(request)) => {
                format!("the worker waits for the reader of the stream of request {request}")
            }
            (_, Some(request)) => {
                let of = if is_open_stream(request) { "the stream of " } else { "" };
                format!("the worker has been busy with {of}request {request} for {for_ms} ms")
            }
            _ if stage == Some(RequestStage::Begun) => {
                "the worker was about to answer it".to_owned()
            }
            _ if health.taken > 0 => "the worker has taken requests and begun none".to_owned(),
            _ => "the worker serves no request and does not answer: it may be stopped, or get no \
                  processor"
                .to_owned(),
        };
        match health.begun {
            0 | 1 => {}
            2 => text.push_str(", and with another one"),
            count => text.push_str(&format!(", and with {} others", count - 1)),
        }
        match stage {
            Some(RequestStage::Queued) => text.push_str("; it had not begun this one"),
            Some(RequestStage::Taken) => {
                text.push_str("; it had taken this one and not begun it");
            }
            Some(RequestStage::Begun) | None => {}
        }
        text
    }
}
