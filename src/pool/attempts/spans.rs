//! The span of each attempt at one of the role's own workers, of a request that is part of a trace. A
//! backend that the role overflows to has spans of its own.

use super::Attempts;
use crate::channel::Channel;
use crate::pool::metrics::Outcome;
use crate::pool::role::{Permit, RoleRef};

impl<R: RoleRef> Attempts<R> {
    /// One of the role's own workers is to have it.
    #[inline]
    pub(super) fn note_attempt(&mut self, permit: &Permit<R>) {
        if self.trace.is_some() {
            self.begin_span(permit);
        }
    }

    /// The attempt at that worker, if there is one, has ended so.
    #[inline]
    pub(super) fn note_attempt_over(&mut self, ending: Outcome) {
        if self.trace.is_some() {
            self.end_span(ending);
        }
    }

    /// The subscriber is the host's code, and may panic: the permit then gives the worker's place back.
    #[cold]
    fn begin_span(&mut self, permit: &Permit<R>) {
        let Some(trace) = &self.trace else { return };
        let span = tracing::debug_span!(
            target: "slipring", "attempt",
            role = self.role.name.as_str(),
            pid = permit.worker.channel().map(Channel::pid),
            trace_id = %trace.trace_id_hex(), parent_id = %trace.parent_id_hex()
        );
        if !span.is_disabled() {
            self.past.get_or_insert_default().span = Some(span);
        }
    }

    #[cold]
    fn end_span(&mut self, ending: Outcome) {
        let span = self.past.as_mut().and_then(|past| past.span.take());
        if let Some(span) = span {
            tracing::debug!(target: "slipring", parent: &span, ?ending, "ended");
        }
    }
}
