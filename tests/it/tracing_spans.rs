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
