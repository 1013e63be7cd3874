//! A subscriber of `tracing` that panics ends no thread of a pool.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::*;
use crate::pools::{close, pids, pool_of, role};
use slipring::pool::EventKind;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Panics at each event of a pool, and at the end of each close of a worker.
struct Panics;

impl Subscriber for Panics {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let file = metadata.file().unwrap_or_default();
        file.ends_with("pool/events.rs") || file.ends_with("channel/worker_handle.rs")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn event(&self, event: &Event<'_>) {
        PANICS.fetch_add(1, Ordering::Relaxed);
        panic!("a subscriber of the host's at {:?}", event.metadata().line());
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn a_subscriber_that_panics_ends_no_thread_of_a_pool() {
    if !in_a_process_of_its_own(name_of(a_subscriber_that_panics_ends_no_thread_of_a_pool)) {
        return;
    }
    tracing::subscriber::set_global_default(Panics).unwrap();
    // Workers are told to end by the pool's own thread, as they are old, and on each other's.
    let role = role().max_lifetime(Duration::from_millis(200));
    let (pool, handle) = pool_of(role.idempotent(ECHO));
    let events = pool.events();
    let mut seen = std::collections::BTreeSet::new();
    eventually("workers are replaced", || {
        handle.call(ECHO, "x", LONG).unwrap();
        seen.extend(pids(&handle));
        seen.len() > 4
    });
    for _ in 0..2 {
        eventually("a worker is there", || !pids(&handle).is_empty());
        // It may have been told to end meanwhile.
        if let Some(pid) = pids(&handle).first() {
            let _ = std::panic::catch_unwind(|| send_signal(*pid, libc::SIGKILL));
        }
        handle.call(ECHO, "x", LONG).unwrap();
    }
    let begin = Instant::now();
    close(&pool);
    assert!(begin.elapsed() < LONG / 2 && handle.health().workers.is_empty());
    let mut told = 0;
    let mut recycled = 0;
    for event in events {
        told += usize::from(matches!(event.kind, EventKind::HostPanicked));
        recycled += usize::from(matches!(event.kind, EventKind::Recycled(_)));
    }
    assert!(PANICS.load(Ordering::Relaxed) > 10 && recycled > 2);
    // The first one came before the reader of the events.
    assert!(told <= 1, "{told}");
}

#[test]
fn that_a_subscriber_panics_is_told_once() {
    if !in_a_process_of_its_own(name_of(that_a_subscriber_panics_is_told_once)) {
        return;
    }
    let (pool, handle) = pool_of(role().idempotent(ECHO));
    let events = pool.events();
    tracing::subscriber::set_global_default(Panics).unwrap();
    for _ in 0..3 {
        let victim = pids(&handle)[0];
        send_signal(victim, libc::SIGKILL);
        eventually("it is replaced", || !pids(&handle).contains(&victim));
        handle.call(ECHO, "x", LONG).unwrap();
    }
    close(&pool);
    let told = events.filter(|event| matches!(event.kind, EventKind::HostPanicked)).count();
    assert!(told == 1 && PANICS.load(Ordering::Relaxed) > 5, "{told}");
}
