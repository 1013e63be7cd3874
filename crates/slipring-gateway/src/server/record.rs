//! What is noted of a request to a worker, from its headers to its end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use http::Request;
use slipring::backend::{BackendRequest, TraceContext};
use slipring::pool::Outcome;
use slipring::{Error, ErrorKind};
use tokio::time::Instant;
use tracing::Span;

use super::Shared;
use super::counters::RoleCounters;
use crate::trace::{span_of_request, trace_in};

/// A request to a worker. Dropped before its end, it was cancelled.
pub(super) struct Record {
    shared: Arc<Shared>,
    pub(super) span: Span,
    trace: Option<TraceContext>,
    began: Instant,
    role: OnceLock<Arc<RoleCounters>>,
    is_over: AtomicBool,
}

impl Record {
    pub(super) fn begin<B>(shared: &Arc<Shared>, request: &Request<B>) -> Arc<Self> {
        let span = span_of_request(request.uri().path());
        let trace = shared.joined.join(&span, trace_in(request.headers()).as_ref());
        let (role, is_over) = (OnceLock::new(), AtomicBool::new(false));
        let shared = Arc::clone(shared);
        Arc::new(Self { shared, span, trace, began: Instant::now(), role, is_over })
    }

    /// The request is for this role, and has so many bytes. Returns it with its trace.
    pub(super) fn asked(&self, role: &str, request: BackendRequest, len: usize) -> BackendRequest {
        self.span.record("role", role);
        if let Some(counters) = self.shared.counters.role(role) {
            counters.note_received(len);
            _ = self.role.set(Arc::clone(counters));
        }
        self.trace.iter().cloned().fold(request, BackendRequest::trace)
    }

    /// A part of the answer is there.
    pub(super) fn note_sent(&self, len: usize) {
        if let Some(role) = self.role.get() {
            role.note_sent(len);
        }
    }

    /// The request has ended so. Only the first time counts.
    pub(super) fn end(&self, outcome: Outcome) {
        if self.is_over.swap(true, Ordering::Relaxed) {
            return;
        }
        let took = self.began.elapsed();
        let role = self.role.get().unwrap_or(&self.shared.counters.no_role);
        role.note_end(outcome, took);
        tracing::debug!(
            target: "slipring", parent: &self.span, outcome = outcome.name(), ?took, "answered"
        );
    }
}

impl Record {
    /// The request is refused, or has failed before an answer began.
    #[cold]
    pub(super) fn end_with(&self, error: &Error) {
        self.end(Outcome::Failed(error.kind()));
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.end(Outcome::Failed(ErrorKind::Cancelled));
    }
}
