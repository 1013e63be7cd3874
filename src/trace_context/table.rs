//! The traces that a worker's requests are part of, beside the requests.
//!
//! A request that is part of no trace costs nothing: only a flag of its frame has a look here.

use std::fmt;
#[cfg(feature = "tracing")]
use std::sync::OnceLock;

use super::TraceContext;
use crate::sync::Mutex;

/// One entry for each request that the parent can have in flight, found by the request's id as its mark
/// is. The memory is taken when the first trace comes.
pub(crate) struct TraceTable {
    entries: Mutex<Vec<Option<(u64, TraceContext)>>>,
    count: usize,
    #[cfg(feature = "tracing")]
    join: OnceLock<Box<Join>>,
}

/// Joins spans to the trace of their request.
#[cfg(feature = "tracing")]
pub(crate) type Join =
    dyn Fn(&tracing::Span, Option<&TraceContext>) -> Option<TraceContext> + Send + Sync;

impl TraceTable {
    /// A table for so many requests.
    pub(crate) fn new(count: usize) -> Self {
        Self {
            entries: Mutex::new(Vec::new()),
            count,
            #[cfg(feature = "tracing")]
            join: OnceLock::new(),
        }
    }

    /// Notes the trace of a request, in the place of an earlier request's.
    #[cold]
    pub(crate) fn note(&self, request: u64, context: Option<TraceContext>) {
        let mut entries = self.entries.lock();
        if entries.is_empty() {
            entries.resize(self.count, None);
        }
        let Some(index) = self.index(request) else { return };
        if let Some(entry) = entries.get_mut(index) {
            *entry = context.map(|context| (request, context));
        }
    }

    /// The trace of a request. `None` once a later request has its entry.
    #[cold]
    pub(crate) fn of(&self, request: u64) -> Option<TraceContext> {
        let entries = self.entries.lock();
        let (owner, context) = entries.get(self.index(request)?)?.as_ref()?;
        (*owner == request).then(|| context.clone())
    }

    fn index(&self, request: u64) -> Option<usize> {
        let count = u64::try_from(self.count).ok()?;
        usize::try_from(request.checked_rem(count)?).ok()
    }

    /// Sets what joins the spans. Only the first call counts.
    #[cfg(feature = "tracing")]
    pub(crate) fn join_by(&self, join: Box<Join>) {
        let _ = self.join.set(join);
    }

    /// Makes the span of a request that is part of a trace.
    #[cfg(feature = "tracing")]
    #[cold]
    pub(crate) fn span(&self, kind: &dyn fmt::Display, request: u64) -> tracing::Span {
        let Some(context) = self.of(request) else { return tracing::Span::none() };
        let span = tracing::debug_span!(
            target: "slipring", parent: None, "serve",
            %kind, request,
            trace_id = %context.trace_id_hex(), parent_id = %context.parent_id_hex()
        );
        if let Some(join) = self.join.get().filter(|_| !span.is_disabled()) {
            join(&span, Some(&context));
        }
        span
    }
}

impl fmt::Debug for TraceTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceTable").field("count", &self.count).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_trace_is_that_of_its_request_until_the_entry_is_used_again() {
        let context = |number| TraceContext::new([number; 16], [1; 8], 1);
        let table = TraceTable::new(4);
        assert_eq!(table.of(7), None);
        table.note(7, context(7));
        table.note(u64::MAX, context(9));
        assert_eq!((table.of(7), table.of(3), table.of(11)), (None, None, None), "3 modulo 4");
        table.note(7, context(7));
        assert_eq!((table.of(7), table.of(u64::MAX)), (context(7), None));
        table.note(8, context(8));
        assert_eq!((table.of(7), table.of(8)), (context(7), context(8)));
        table.note(11, None);
        assert_eq!(table.of(7), None, "a request whose context was no context");
        let none = TraceTable::new(0);
        none.note(1, context(1));
        assert_eq!(none.of(1), None);
    }
}
