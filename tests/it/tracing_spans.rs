//! The spans that a subscriber sees of a call.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use slipring::worker::Worker;
use slipring::{Config, Kind, RoleConfig};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::common::{in_a_process_of_its_own, name_of};

#[derive(Clone, Default)]
struct Names(Arc<Mutex<Vec<&'static str>>>);

impl Subscriber for Names {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "slipring"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.0.lock().unwrap().push(span.metadata().name());
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn a_call_and_a_close_are_spans() {
    // `tracing` decides for the whole process which callsites are of interest.
    if !in_a_process_of_its_own(name_of(a_call_and_a_close_are_spans)) {
        return;
    }
    let names = Names::default();
    tracing::subscriber::with_default(names.clone(), || {
        let worker = || {
            Worker::new(|_| Ok(())).on(Kind::app(1), |(), _, responder| Ok(responder.send(b"")?))
        };
        let role = RoleConfig::default();
        let channel = slipring::testing::spawn_thread(&Config::small(), role, worker).unwrap();
        channel.call(Kind::app(1), b"x", Duration::from_secs(60)).unwrap();
        channel.close(Duration::from_secs(60)).unwrap();
    });
    assert_eq!(*names.0.lock().unwrap(), ["call", "close"]);
}

/// The fields of spans `serve`, and in which of them each thread is.
#[derive(Clone, Default)]
struct Serving(Arc<Mutex<Vec<(&'static str, Fields)>>>);

type Fields = std::collections::BTreeMap<&'static str, String>;

thread_local! {
    static ENTERED: std::cell::RefCell<Vec<u64>> = const { std::cell::RefCell::new(Vec::new()) };
}

struct Into<'a>(&'a mut Fields);

impl tracing::field::Visit for Into<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl Subscriber for Serving {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "slipring"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let (mut spans, mut fields) = (self.0.lock().unwrap(), Fields::new());
        span.record(&mut Into(&mut fields));
        spans.push((span.metadata().name(), fields));
        Id::from_u64(u64::try_from(spans.len()).unwrap())
    }

    fn enter(&self, id: &Id) {
        ENTERED.with_borrow_mut(|entered| entered.push(id.into_u64()));
    }

    fn exit(&self, _: &Id) {
        ENTERED.with_borrow_mut(|entered| entered.pop());
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
}

impl Serving {
    /// The trace of the span that this thread is in; of a handler.
    fn current(&self) -> String {
        let Some(id) = ENTERED.with_borrow(|entered| entered.last().copied()) else {
            return "none".to_owned();
        };
        let (name, fields) = self.0.lock().unwrap()[usize::try_from(id).unwrap() - 1].clone();
        assert_eq!((name, &*fields["parent_id"]), ("serve", "0909090909090909"));
        fields["trace_id"].clone()
    }
}

#[test]
fn handlers_of_requests_of_a_trace_run_in_its_span() {
    use slipring::worker::{BoxTask, OwnedRequest, OwnedResponder, Tasks, Threads};
    use slipring::{Channel, TraceContext};

    const WHERE: Kind = Kind::named("where");
    const LONG: Duration = Duration::from_secs(60);
    if !in_a_process_of_its_own(name_of(handlers_of_requests_of_a_trace_run_in_its_span)) {
        return;
    }
    let spans = Serving::default();
    tracing::subscriber::set_global_default(spans.clone()).unwrap();
    let joined = Arc::new(Mutex::new(Vec::new()));
    let join = {
        let joined = Arc::clone(&joined);
        move |span: &tracing::Span, told: Option<&TraceContext>| {
            assert!(!span.is_disabled());
            joined.lock().unwrap().push(told.unwrap().trace_id());
            None
        }
    };
    let check = |channel: Channel| {
        for len in [10, 100_000] {
            let number = u8::try_from(1 + joined.lock().unwrap().len()).unwrap();
            let trace = TraceContext::new([number; 16], [9; 8], 0).unwrap();
            let reply = channel.traced(&trace).call(WHERE, &vec![7; len], LONG).unwrap();
            assert_eq!(reply.text().unwrap(), trace.trace_id_hex().to_string());
            assert_eq!(joined.lock().unwrap().last(), Some(&[number; 16]));
            let reply = channel.call(WHERE, &vec![7; len], LONG).unwrap();
            assert_eq!(reply.text().unwrap(), "none");
        }
        channel.close(LONG).unwrap();
    };
    let config = Config::small();
    macro_rules! check {
        ($worker:expr) => {{
            let (join, spans) = (join.clone(), spans.clone());
            let make = move || {
                let (join, spans) = (join.clone(), spans.clone());
                let worker = Worker::new(|_| Ok(())).join_traces(join);
                $worker(worker, spans)
            };
            check(slipring::testing::spawn_thread(&config, RoleConfig::default(), make).unwrap());
        }};
    }
    check!(|worker: Worker<()>, spans: Serving| {
        worker.on(WHERE, move |(), _, responder| Ok(responder.send(&spans.current())?))
    });
    check!(|worker: Worker<()>, spans: Serving| {
        worker.on_reader(WHERE, move |(), _, responder| Ok(responder.send(&spans.current())?))
    });
    check!(|worker: Worker<()>, spans: Serving| {
        let handler = move |(): &(), _: &slipring::worker::Request<'_>, responder| {
            let responder: OwnedResponder = responder;
            Ok(responder.send(&spans.current())?)
        };
        worker.threads(Threads::new(2).on(WHERE, handler))
    });
    check!(|worker: Worker<()>, spans: Serving| {
        let poll = |mut task: BoxTask| {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            while task.as_mut().poll(&mut context).is_pending() {}
        };
        let handler = move |_: Arc<()>, _: OwnedRequest, responder: OwnedResponder| {
            let spans = spans.clone();
            async move { Ok(responder.send(&spans.current())?) }
        };
        worker.tasks(Tasks::new(poll).on(WHERE, handler))
    });
    check!(|worker: Worker<()>, spans: Serving| {
        worker.inbox(move |(), inbox| {
            loop {
                let taken = inbox.recv()?;
                let _span = taken.request.get().span().entered();
                taken.responder.send(&spans.current())?;
            }
        })
    });
}
