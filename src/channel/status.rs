//! What the worker says of itself in its status line: read without asking it, and without a
//! lock.

use std::sync::{Arc, Weak};

use crate::error::{Mark, Marks, RequestStage, Stage};
use crate::link::PeerReport;
use crate::protocol::health::{Health, Phase, Snapshot, Summary};
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
        Health::of(self.report(), None)
    }

    fn report(&self) -> Snapshot {
        Snapshot::new(self.0.status.snapshot(), self.0.marks.all())
    }

    /// The same in few words, without an allocation.
    #[cfg_attr(loom, allow(dead_code, reason = "for the status page"))]
    pub(super) fn summary(&self) -> Summary {
        Summary::new(self.0.status.snapshot(), self.0.marks.each())
    }

    /// What the marks say that so many requests can have had.
    #[cfg_attr(loom, allow(dead_code, reason = "for the status page"))]
    pub(super) fn used_marks(&self, requests: u64) -> impl Iterator<Item = u64> {
        self.0.marks.used(requests).flatten()
    }

    /// The words of the status line, which change with each request that the worker finishes.
    #[cfg_attr(loom, allow(dead_code, reason = "for the status page"))]
    pub(super) fn words(&self) -> [u64; 4] {
        let status = self.0.status.snapshot();
        [status.state.into(), status.served, status.bytes_in, status.bytes_out]
    }

    /// All requests that the worker has taken, with its marks.
    pub(super) fn marks(&self) -> Vec<Mark> {
        self.0.marks.all()
    }

    /// The marks, without a hold on the channel's memory.
    pub(super) fn weak_marks(&self) -> Weak<dyn Marks> {
        let weak: Weak<dyn Marks> = Arc::<PeerReport>::downgrade(&self.0);
        weak
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

    /// How far the worker is with the request `own`, what else it does, and with how many others:
    /// for the message of a timeout of that request, or of one that found no room.
    /// `is_open_stream` says of a request whether it is a stream whose owner has not dropped it.
    #[cold]
    pub(super) fn describe(
        &self,
        own: Option<u64>,
        is_open_stream: impl Fn(u64) -> bool,
    ) -> String {
        let now = now_ns();
        let marks = self.0.marks.all();
        let others = marks.iter().filter(|mark| Some(mark.request) != own);
        let taken = others.clone().filter(|mark| mark.is_taken()).count();
        let mut begun: Vec<&Mark> = others.filter(|mark| mark.is_begun()).collect();
        begun.sort_by_key(|mark| (mark.since, mark.request));
        let doing = |mark: &Mark, it: String| match mark.awaits_credit {
            true => format!("waits for the reader of {it}"),
            false => {
                let for_ms = now.saturating_sub(mark.since) / 1_000_000;
                format!("has been busy with {it} for {for_ms} ms")
            }
        };
        let of_request = |request| {
            let of = if is_open_stream(request) { "the stream of " } else { "" };
            format!("{of}request {request}")
        };
        let mut text = match own.map(|own| self.0.marks.of(own)) {
            None => String::new(),
            Some(None) => "it had not been taken out of the request ring; ".to_owned(),
            Some(Some(mark)) if mark.is_taken() => {
                "the worker had taken it and not begun it; ".to_owned()
            }
            Some(Some(mark)) if mark.is_begun() => {
                let with_others = count(begun.len(), " and with no other", " and with ");
                let more = count(taken, "", ", and has taken ");
                return format!("the worker {}{with_others}{more}", doing(&mark, "it".to_owned()));
            }
            Some(Some(_)) => return "the worker was about to answer it".to_owned(),
        };
        // One that works comes before one that waits for its reader.
        let first = begun.iter().find(|mark| !mark.awaits_credit).or(begun.first());
        let phase = Phase::from_code(self.0.status.state.load(Ordering::Relaxed));
        text.push_str(&match (phase, first) {
            (Some(Phase::Starting), _) => "the worker is still building its session".to_owned(),
            (_, Some(first)) => {
                let with_others = count(begun.len() - 1, "", " and with ");
                format!("the worker {}{with_others}", doing(first, of_request(first.request)))
            }
            (_, None) if taken > 0 => "the worker has begun no request".to_owned(),
            (_, None) => "the worker serves no request and does not answer: it may be stopped, or \
                          get no processor"
                .to_owned(),
        });
        text.push_str(&count(taken, "", ", and has taken "));
        text
    }
}

/// How many others there are, or what is said if there are none.
fn count(others: usize, none: &str, before: &str) -> String {
    match others {
        0 => none.to_owned(),
        1 => format!("{before}another one"),
        _ => format!("{before}{others} others"),
    }
}
