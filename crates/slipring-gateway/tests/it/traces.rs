//! Traces that cross from a caller to a gateway and to what is behind it.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use slipring::backend::{Backend, BackendLoad, BackendRequest, BoxChunks, BoxFuture, TraceContext};
use slipring::pool::{Pool, Role};
use slipring::{Health, Reply, Result, StreamTimeouts};
use slipring_gateway::server::{Gateway, GatewayBuilder};
use slipring_gateway::{Discovery, RemoteRole, RemoteRoleBuilder};
use tokio::net::TcpListener;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::rig::*;

type Fields = BTreeMap<&'static str, String>;

/// The spans of the whole program, and their events' fields as theirs.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<HashMap<u64, (&'static str, Fields)>>>);

struct Into<'a>(&'a mut Fields);

impl Visit for Into<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl Subscriber for Spans {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "slipring"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let (mut spans, mut fields) = (self.0.lock().unwrap(), Fields::new());
        span.record(&mut Into(&mut fields));
        let id = u64::try_from(spans.len()).unwrap() + 1;
        spans.insert(id, (span.metadata().name(), fields));
        Id::from_u64(id)
    }

    fn record(&self, id: &Id, values: &Record<'_>) {
        let mut spans = self.0.lock().unwrap();
        values.record(&mut Into(&mut spans.get_mut(&id.into_u64()).unwrap().1));
    }

    fn event(&self, event: &Event<'_>) {
        let mut spans = self.0.lock().unwrap();
        let parent = event.parent().and_then(|id| spans.get_mut(&id.into_u64()));
        if let Some((_, fields)) = parent {
            event.record(&mut Into(fields));
        }
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

impl Spans {
    /// Those of the program, from now on.
    fn all() -> Self {
        static ALL: OnceLock<Spans> = OnceLock::new();
        let begin = || {
            let spans = Self::default();
            tracing::subscriber::set_global_default(spans.clone()).unwrap();
            spans
        };
        ALL.get_or_init(begin).clone()
    }

    /// Those of a trace, in order of their names.
    fn of(&self, trace: &str) -> Vec<(&'static str, Fields)> {
        let spans = self.0.lock().unwrap();
        let is_in = |fields: &Fields| fields.get("trace_id").is_some_and(|id| id == trace);
        let mut of: Vec<_> = spans.values().filter(|(_, fields)| is_in(fields)).cloned().collect();
        of.sort_unstable();
        of
    }
}

/// A backend that knows what it was asked.
#[derive(Debug)]
struct Witness(Arc<dyn Backend>, Mutex<Vec<Option<TraceContext>>>);

impl Witness {
    fn note(&self, request: &BackendRequest) {
        self.1.lock().unwrap().push(request.trace_context().cloned());
    }

    fn told(&self) -> Vec<Option<TraceContext>> {
        std::mem::take(&mut self.1.lock().unwrap())
    }
}

impl Backend for Witness {
    fn role(&self) -> &str {
        self.0.role()
    }
    fn load(&self) -> BackendLoad {
        self.0.load()
    }
    fn call(&self, asked: BackendRequest, timeout: Duration) -> BoxFuture<'static, Result<Reply>> {
        self.note(&asked);
        self.0.call(asked, timeout)
    }
    fn submit(
        &self,
        asked: BackendRequest,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Reply>> {
        self.0.submit(asked, timeout)
    }
    fn stream(
        &self,
        asked: BackendRequest,
        timeouts: StreamTimeouts,
    ) -> BoxFuture<'static, Result<BoxChunks>> {
        self.note(&asked);
        self.0.stream(asked, timeouts)
    }
    fn ping(&self, timeout: Duration) -> BoxFuture<'static, Vec<Result<Health>>> {
        self.0.ping(timeout)
    }
    fn abort(&self) {}
    fn clear_abort(&self) {}
    fn close(&self, timeout: Duration) -> BoxFuture<'static, Result<()>> {
        self.0.close(timeout)
    }
}

/// A gateway before another one, and a role that reaches it: the trace crosses twice.
struct Twice {
    _rig: Rig,
    witness: Arc<Witness>,
    role: RemoteRole,
    address: String,
}

impl Twice {
    async fn start(
        host: impl FnOnce(RemoteRoleBuilder) -> RemoteRoleBuilder,
        gateway: impl FnOnce(GatewayBuilder) -> GatewayBuilder,
    ) -> Self {
        let rig = Rig::start(|gateway| gateway).await;
        let behind = Discovery::list([rig.address.to_string()]);
        let behind = RemoteRole::builder("echo", behind).build().unwrap();
        let witness = Arc::new(Witness(Arc::new(behind), Mutex::default()));
        let gateway = gateway(Gateway::builder().role(witness.clone())).build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { gateway.serve(listener).await });
        let role = host(RemoteRole::builder("echo", Discovery::list([address.clone()])));
        let role = role.build().unwrap();
        let twice = Self { _rig: rig, witness, role, address };
        until(|| twice.role.load().is_ready).await;
        twice
    }
}

/// Reads a stream to its end.
async fn count(mut chunks: BoxChunks) -> usize {
    let mut count = 0;
    while let Some(chunk) = std::future::poll_fn(|context| chunks.as_mut().poll_next(context)).await
    {
        chunk.unwrap();
        count += 1;
    }
    count
}

fn trace(number: u8) -> TraceContext {
    TraceContext::new([number; 16], [7; 8], 1).unwrap()
}

#[tokio::test]
async fn a_trace_crosses_to_gateways_and_their_spans() {
    let spans = Spans::all();
    let twice = Twice::start(|role| role, |gateway| gateway).await;
    let trace = trace(1).with_state("vendor=1,other=2");
    let request = BackendRequest::new(ECHO, "hello").trace(trace.clone());
    twice.role.call(request.clone(), LONG).await.unwrap();
    twice.role.submit(request.clone(), LONG).await.unwrap();
    let request = BackendRequest::new(CHUNKS, "hello").trace(trace.clone());
    let chunks = twice.role.stream(request, StreamTimeouts::new().total(LONG)).await.unwrap();
    assert_eq!(count(chunks).await, 1);
    let told = |count| vec![Some(trace.clone()); count];
    assert_eq!(twice.witness.told(), told(3));

    let of_trace = || spans.of(&"01".repeat(16));
    until(|| of_trace().iter().filter(|(_, of)| of.contains_key("outcome")).count() == 6).await;
    // The worker is in this process, and has spans of its own.
    let [hosts, gateways] = ["attempt", "request"].map(|wanted| {
        of_trace().into_iter().filter(|(name, _)| *name == wanted).collect::<Vec<_>>()
    });
    assert_eq!((hosts.len(), gateways.len()), (6, 6));
    for (_, fields) in hosts.iter().chain(&gateways) {
        assert_eq!((&*fields["role"], &*fields["parent_id"]), ("echo", "0707070707070707"));
    }
    assert!(hosts.iter().any(|(_, fields)| fields["gateway"] == twice.address));
    assert!(gateways.iter().any(|(_, fields)| fields["outcome"] == "ok"), "{gateways:?}");
    assert!(gateways.iter().any(|(_, fields)| fields["path"].ends_with("CallParts")));
}

#[tokio::test]
async fn a_trace_goes_along_with_a_request_that_overflows() {
    let twice = Twice::start(|role| role, |gateway| gateway).await;
    let role = Role::elsewhere(Arc::new(twice.role.clone()));
    let pool = Pool::builder().role("echo", role).build().unwrap();
    let (echo, trace) = (pool.role("echo").unwrap(), trace(2));
    let tasks = echo.to_async();
    tasks.request(ECHO).trace(&trace).call("1", LONG).await.unwrap();
    tasks.request(ECHO).trace(&trace).submit("2", LONG).unwrap().await.unwrap();
    let chunks = tasks.request(CHUNKS).trace(&trace).stream("3", LONG).await.unwrap();
    assert_eq!(count(Box::pin(chunks)).await, 1);
    let request = BackendRequest::new(ECHO, "4").trace(trace.clone());
    Backend::call(&tasks, request, LONG).await.unwrap();
    let of_thread = trace.clone();
    let called = tokio::task::spawn_blocking(move || {
        let reply = echo.request(ECHO).trace(&of_thread).call("5", LONG);
        reply.map(|reply| reply.to_vec())
    });
    assert_eq!(called.await.unwrap().unwrap(), b"5");
    assert_eq!(twice.witness.told(), vec![Some(trace); 5]);
}

#[tokio::test]
async fn hosts_and_gateways_can_put_their_own_spans_into_a_trace() {
    Spans::all();
    let (of_host, of_gateway) = (trace(3), TraceContext::new([3; 16], [8; 8], 1).unwrap());
    let (by_host, by_gateway) = (of_host.clone(), of_gateway.clone());
    let twice = Twice::start(
        |role| {
            role.join_traces(move |span, told| {
                assert!(told.is_none() && !span.is_disabled());
                Some(by_host.clone())
            })
        },
        |gateway| {
            gateway.join_traces(move |_, told| {
                assert_eq!(told, Some(&of_host));
                Some(by_gateway.clone())
            })
        },
    );
    let twice = twice.await;
    twice.role.call(BackendRequest::new(ECHO, "hello"), LONG).await.unwrap();
    assert_eq!(twice.witness.told(), [Some(of_gateway)]);
}

#[tokio::test]
async fn a_malformed_trace_is_ignored() {
    use slipring_gateway::proto::{self, request};
    use tonic::codegen::http::uri::PathAndQuery;

    let twice = Twice::start(|role| role, |gateway| gateway).await;
    let channel = tonic::transport::Channel::from_shared(format!("http://{}", twice.address));
    let mut client = tonic::client::Grpc::new(channel.unwrap().connect().await.unwrap());
    let valid = trace(4).to_string();
    for (parent, state, told) in [
        (valid.as_str(), "", Some(trace(4))),
        (&valid, "a=1", Some(trace(4).with_state("a=1"))),
        (&valid, "no state", Some(trace(4))),
        ("nonsense", "a=1", None),
        (&valid[..54], "", None),
    ] {
        client.ready().await.unwrap();
        let mut asked = tonic::Request::new(proto::Request {
            role: "echo".into(),
            kind: Some(request::Kind::Name("echo".into())),
            ..proto::Request::default()
        });
        asked.metadata_mut().insert("traceparent", parent.parse().unwrap());
        asked.metadata_mut().insert("tracestate", state.parse().unwrap());
        let path = PathAndQuery::from_static("/slipring.v1.Workers/Call");
        let codec = tonic_prost::ProstCodec::<_, proto::Reply>::default();
        client.unary(asked, path, codec).await.unwrap();
        assert_eq!(twice.witness.told(), [told], "{parent} {state}");
    }
}
