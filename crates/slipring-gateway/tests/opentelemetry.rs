//! A host, a gateway and a worker whose spans go to OpenTelemetry: one trace, joined as `docs/NETWORK.md`
//! shows.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState, TracerProvider as _,
};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use slipring::backend::{Backend, BackendRequest, TraceContext};
use slipring::pool::{Pool, Role};
use slipring::worker::Worker;
use slipring::{Config, Kind, RoleConfig, StreamTimeouts, testing};
use slipring_gateway::server::Gateway;
use slipring_gateway::{Discovery, RemoteRole};
use tokio::net::TcpListener;
use tracing::Instrument as _;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;

const ECHO: Kind = Kind::named("echo");
/// Passes only if something hangs.
const LONG: Duration = Duration::from_secs(60);

/// Puts the span into the trace of the request, and the next one under the span.
fn join(span: &tracing::Span, told: Option<&TraceContext>) -> Option<TraceContext> {
    if let Some(told) = told {
        let trace = TraceId::from_bytes(told.trace_id());
        let parent = SpanId::from_bytes(told.parent_id());
        let state = told.state().parse().unwrap_or(TraceState::NONE);
        let flags = TraceFlags::new(told.flags());
        let parent = SpanContext::new(trace, parent, flags, true, state);
        let _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(parent));
    }
    let context = span.context();
    let own = context.span().span_context().clone();
    let ids = (own.trace_id().to_bytes(), own.span_id().to_bytes());
    let next = TraceContext::new(ids.0, ids.1, own.trace_flags().to_u8())?;
    Some(next.with_state(&own.trace_state().header()))
}

#[tokio::test]
async fn the_spans_of_host_gateway_and_worker_are_one_trace() {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    // The connections have spans of their own.
    let of_work = filter_fn(|span| !span.target().starts_with("h2"));
    let subscriber = Registry::default().with(layer).with(of_work);
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let make = || {
        Worker::new(|_| Ok(())).join_traces(join).on(ECHO, |(), request, responder| {
            let _span = tracing::info_span!("handler").entered();
            if !request.is_stream() {
                return Ok(responder.send(&request.to_vec())?);
            }
            let mut chunks = responder.stream();
            chunks.send(&request.to_vec())?;
            Ok(chunks.end()?)
        })
    };
    let role = Role::with_channels(move |_| {
        testing::spawn_thread(&Config::small(), RoleConfig::default(), make)
    });
    let pool = Pool::builder().role("echo", role).build().unwrap();
    let gateway = Gateway::builder().join_traces(join);
    let gateway = gateway.role(Arc::new(pool.role("echo").unwrap().to_async())).build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateways = Discovery::list([listener.local_addr().unwrap().to_string()]);
    let served = gateway.clone();
    tokio::spawn(async move { served.serve(listener).await });
    let role = RemoteRole::builder("echo", gateways).join_traces(join).build().unwrap();

    let work = async {
        role.call(BackendRequest::new(ECHO, "1"), LONG).await.unwrap();
        role.submit(BackendRequest::new(ECHO, "2"), LONG).await.unwrap();
        // In pieces, and the answer as a stream.
        let long = BackendRequest::new(ECHO, vec![3; 100_000]);
        let timeouts = StreamTimeouts::new().total(LONG);
        let mut chunks = role.stream(long, timeouts).await.unwrap();
        let mut len = 0;
        while let Some(chunk) = poll_fn(|context| chunks.as_mut().poll_next(context)).await {
            len += chunk.unwrap().len();
        }
        assert_eq!(len, 100_000);
    };
    work.instrument(tracing::info_span!("work")).await;
    // The start of a worker has spans, too, in a trace of its own.
    let names = ["work", "attempt", "request", "serve", "handler"];
    let of_requests = |span: &SpanData| names.contains(&&*span.name);
    let all = || {
        let spans = exporter.get_finished_spans().unwrap().into_iter();
        spans.filter(of_requests).collect::<Vec<_>>()
    };
    let ended = async {
        while all().len() < 1 + 4 * 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, ended).await.unwrap();

    let spans = all();
    let find = |id: SpanId| spans.iter().find(|span| span.span_context.span_id() == id);
    let parent = |span: &SpanData| find(span.parent_span_id).map(|parent| parent.name.to_string());
    for [its_parent, name] in names.windows(2).map(|pair| [pair[0], pair[1]]) {
        let of_name: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
        assert_eq!(of_name.len(), 3, "{spans:#?}");
        for span in of_name {
            assert_eq!(parent(span).as_deref(), Some(its_parent), "{spans:#?}");
        }
    }
    let traces = spans.iter().map(|span| span.span_context.trace_id());
    assert_eq!(traces.collect::<std::collections::HashSet<_>>().len(), 1, "{spans:#?}");
}
