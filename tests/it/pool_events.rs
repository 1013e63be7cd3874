//! The events of a pool: their order, and their end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::*;
use crate::pools::{close, is_begun, is_busy, pool_of, role};
use slipring::pool::EventKind;

#[test]
fn the_start_of_a_worker_is_told_after_the_death_that_it_follows() {
    let role = role().idempotent(SLOW_ECHO).max_attempts(1000).retry_budget(100, 1000, LONG);
    let short = Duration::from_millis(1);
    let role = role.prefetch(2).backoff(short, short, LONG).max_failures(1000, LONG);
    let (pool, handle) = pool_of(role);
    let events = pool.events();
    for _ in 0..30 {
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let over = SetOnDrop(&is_over);
            for _ in 0..3 {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        handle.call(SLOW_ECHO, &encode(&[20]), LONG).unwrap();
                    }
                });
            }
            let mut victim = None;
            eventually("one is begun", || {
                let workers = handle.health().workers;
                victim = workers.iter().find(|worker| is_busy(worker)).and_then(|it| it.pid);
                victim.is_some()
            });
            send_signal(victim.unwrap(), libc::SIGKILL);
            drop(over);
        });
    }
    close(&pool);
    // The one that was there before the first event.
    let (mut running, mut deaths) = (1, 0);
    for event in events {
        match event.kind {
            EventKind::Started => running += 1,
            EventKind::Died(_) => (running, deaths) = (running - 1, deaths + 1),
            EventKind::Stopped | EventKind::StartFailed(_) => running -= 1,
            _ => {}
        }
        assert!(running <= 1, "after {deaths} deaths one was started before the next was told");
    }
    assert!(running == 0 && deaths >= 30, "{running} {deaths}");
}

#[test]
fn events_of_a_dropped_pool_end_with_its_workers() {
    let (pool, handle) = pool_of(role());
    let events = pool.events();
    let call = std::thread::scope(|scope| {
        let call = scope.spawn(|| handle.call(FOR_EVER, "", LONG));
        eventually("it is begun", || is_begun(&handle));
        drop(pool);
        call.join().unwrap()
    });
    assert!(call.is_err());
    let kinds = within_long("the end of the events", || events.map(|event| event.kind).collect());
    let kinds: Vec<EventKind> = kinds;
    assert!(matches!(kinds.last(), Some(EventKind::Stopped)), "{kinds:?}");
    // The handle is there still.
    assert!(handle.health().workers.is_empty());
}
