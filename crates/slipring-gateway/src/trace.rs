//! Traces that cross from a host to a gateway: headers, and fields of spans.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use slipring::backend::TraceContext;
use tracing::Span;
use tracing::field::{Empty, display};

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";

/// Joins spans to the trace of their request.
type Join = dyn Fn(&Span, Option<&TraceContext>) -> Option<TraceContext> + Send + Sync;

/// What the host has its spans and its requests' traces joined by, if anything.
#[derive(Clone, Default)]
pub(crate) struct Joined(Option<Arc<Join>>);

impl Joined {
    pub(crate) fn by(
        join: impl Fn(&Span, Option<&TraceContext>) -> Option<TraceContext> + Send + Sync + 'static,
    ) -> Self {
        Self(Some(Arc::new(join)))
    }

    /// Writes the ids of a request's trace into its span. Returns what the next one is to be told.
    pub(crate) fn join(&self, span: &Span, told: Option<&TraceContext>) -> Option<TraceContext> {
        if let Some(trace) = told {
            note(span, trace);
        }
        let Some(join) = &self.0 else { return told.cloned() };
        let next = join(span, told);
        if let (None, Some(trace)) = (told, &next) {
            span.record("trace_id", display(trace.trace_id_hex()));
        }
        next.or_else(|| told.cloned())
    }
}

impl fmt::Debug for Joined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Joined").field(&self.0.is_some()).finish()
    }
}

fn note(span: &Span, trace: &TraceContext) {
    span.record("trace_id", display(trace.trace_id_hex()));
    span.record("parent_id", display(trace.parent_id_hex()));
}

/// One attempt of a request, in its host.
pub(crate) fn span_of_attempt(role: &str, gateway: &str) -> Span {
    tracing::debug_span!(
        target: "slipring", "attempt", role, gateway, trace_id = Empty, parent_id = Empty
    )
}

/// A request, in its gateway. Its parent is not of this program.
pub(crate) fn span_of_request(path: &str) -> Span {
    tracing::debug_span!(
        target: "slipring", parent: None, "request",
        path, role = Empty, trace_id = Empty, parent_id = Empty
    )
}

/// Returns the trace that the headers of a request tell of. Those that are malformed are ignored.
pub(crate) fn trace_in(headers: &HeaderMap) -> Option<TraceContext> {
    let mut parents = headers.get_all(PARENT).iter();
    let trace = TraceContext::parse(parents.next()?.to_str().ok()?)?;
    if parents.next().is_some() {
        return None;
    }
    let states = headers.get_all(STATE).iter().map(HeaderValue::to_str);
    let states: Result<Vec<&str>, _> = states.collect();
    Some(trace.with_state(&states.unwrap_or_default().join(",")))
}

/// Adds the headers that tell of a trace.
pub(crate) fn add_trace(headers: &mut HeaderMap, trace: &TraceContext) {
    let mut add = |name, text: &str| {
        // What was checked can be a header.
        _ = HeaderValue::from_str(text).map(|value| headers.insert(name, value));
    };
    add(PARENT, &trace.to_string());
    if !trace.state().is_empty() {
        add(STATE, trace.state());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(all: &[(&'static str, &'static [u8])]) -> HeaderMap {
        let all = all.iter().map(|(name, value)| {
            (http::HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap())
        });
        all.fold(HeaderMap::new(), |mut headers, (name, value)| {
            headers.append(name, value);
            headers
        })
    }

    #[test]
    fn headers_are_read_as_they_were_written() {
        let trace = TraceContext::parse(TEXT).unwrap();
        for trace in [trace.clone(), trace.with_state("a=1,b=2")] {
            let mut headers = HeaderMap::new();
            add_trace(&mut headers, &trace);
            assert_eq!(trace_in(&headers), Some(trace));
        }
    }

    #[test]
    fn malformed_headers_are_ignored() {
        let parent = TEXT.as_bytes();
        assert_eq!(trace_in(&headers(&[("tracestate", b"a=1")])), None);
        assert_eq!(trace_in(&headers(&[("traceparent", b"\xff")])), None);
        assert_eq!(trace_in(&headers(&[("traceparent", b"00-1-2-3")])), None);
        assert_eq!(trace_in(&headers(&[("traceparent", parent), ("traceparent", parent)])), None);
        let state = |more: &[(&'static str, &'static [u8])]| {
            let all = headers(&[&[("traceparent", parent)], more].concat());
            trace_in(&all).unwrap().state().to_owned()
        };
        assert_eq!(state(&[("tracestate", b"a=1"), ("tracestate", b"b=2")]), "a=1,b=2");
        assert_eq!(state(&[("tracestate", b"a=1"), ("tracestate", b"b=\xff")]), "");
        assert_eq!(state(&[("tracestate", b"not a state")]), "");
    }
}
