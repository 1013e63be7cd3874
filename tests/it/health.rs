//! A worker reports its health whatever its handlers and its data rings do.

use std::time::{Duration, Instant};

use crate::common::*;
use slipring::{Config, ErrorKind, WorkerState};

conformance! {
    everywhere: [
        an_idle_worker_counts_what_it_has_served,
        a_last_error_of_wide_characters_is_cut_and_not_a_wrong_answer,
        a_long_message_is_counted_once_and_whole,
        a_busy_worker_says_with_what_since_when_and_how_far,
        pings_are_answered_while_a_stream_waits_for_its_reader,
        many_threads_can_ping_while_others_call,
        a_ping_that_times_out_does_not_spoil_the_next_ones,
        the_last_status_stays_readable_after_the_end,
    ],
    one_at_a_time: [],
    processes: [
        a_stopped_worker_is_unresponsive_but_not_killed_and_goes_on_rightly,
        a_late_reply_of_a_worker_that_was_stopped_is_not_delivered,
        pings_are_answered_beside_a_stuck_handler_and_full_rings,
    ],
}

const SHORT: Duration = Duration::from_millis(60);

fn an_idle_worker_counts_what_it_has_served(backend: Backend) {
    let channel = backend.ready(Config::small());
    for i in 0..10 {
        channel.call(ECHO, &vec![1; 100 + i], LONG).unwrap();
    }
    channel.call(FAIL, "the last one", LONG).unwrap_err();
    let sent: u64 = (100..110).sum();
    eventually("all is counted", || channel.ping(LONG).unwrap().requests_served == 12);
    let health = channel.ping(LONG).unwrap();
    assert_eq!(health.state, WorkerState::Idle);
    assert_eq!((health.current_request, health.busy_for), (None, None));
    assert_eq!(health.bytes_received, sent + 12);
    assert!(health.bytes_sent >= sent, "{health:?}");
    assert!(health.last_error.unwrap().contains("the last one"));
    let status = channel.health();
    assert_eq!((status.requests_served, status.bytes_received), (12, sent + 12));
}

fn a_last_error_of_wide_characters_is_cut_and_not_a_wrong_answer(backend: Backend) {
    for config in [Config::default(), Config::small()] {
        let channel = backend.ready(config);
        for wide in ["\u{1F980}", "x\u{1F980}", "\u{E9}", "x"] {
            channel.call(FAIL_SHORTLY, &wide.repeat(3000), LONG).unwrap_err();
            let error = channel.ping(LONG).unwrap().last_error.unwrap();
            assert!(error.contains(&wide.repeat(90)), "{error}");
            assert!(error.len() < 1000 && !error.contains('\u{FFFD}'), "{error}");
        }
    }
}

fn a_long_message_is_counted_once_and_whole(backend: Backend) {
    let channel = backend.ready(tiny(4 << 10).build().unwrap());
    channel.call(SUM, &vec![1; 50_000], LONG).unwrap();
    channel.call(BIG, &encode(&[40_000]), LONG).unwrap();
    eventually("all is counted", || channel.ping(LONG).unwrap().requests_served == 3);
    let health = channel.ping(LONG).unwrap();
    assert_eq!(health.bytes_received, 50_008);
    assert_eq!(health.bytes_sent, 40_008);
}

fn a_busy_worker_says_with_what_since_when_and_how_far(backend: Backend) {
    let channel = backend.ready(Config::small());
    let pending = channel.submit(UNTIL_CANCELLED, b"", LONG).unwrap();
    until_served(&channel, &pending);
    let first = channel.ping(LONG).unwrap();
    assert_eq!((first.state, first.current_request), (WorkerState::Busy, Some(pending.id())));
    std::thread::sleep(SHORT);
    let later = channel.ping(LONG).unwrap();
    assert!(later.busy_for.unwrap() >= first.busy_for.unwrap() + SHORT / 2);
    eventually("it goes on", || channel.ping(LONG).unwrap().progress > first.progress);
    pending.cancel();
    pending.wait().unwrap_err();
    eventually("it is idle", || channel.ping(LONG).unwrap().state == WorkerState::Idle);
}

fn pings_are_answered_beside_a_stuck_handler_and_full_rings(backend: Backend) {
    let channel = backend.ready(tiny(4 << 10).build().unwrap());
    let stuck = channel.submit(FOR_EVER, b"", LONG).unwrap();
    until_served(&channel, &stuck);
    let mut queued = Vec::new();
    while let Ok(pending) = channel.submit(ECHO, &[0; 900], Duration::ZERO) {
        queued.push(pending);
    }
    let mut times: Vec<Duration> = (0..200)
        .map(|_| {
            let start = Instant::now();
            let health = channel.ping(LONG).unwrap();
            assert_eq!(health.current_request, Some(stuck.id()));
            start.elapsed()
        })
        .collect();
    times.sort();
    println!("ping p50 {:?} p99 {:?}", percentile(&times, 50), percentile(&times, 99));
    assert!(queued.len() >= 2, "the ring was full");
}

fn pings_are_answered_while_a_stream_waits_for_its_reader(backend: Backend) {
    let channel = backend.ready(Config::small());
    let stream = channel.stream(COUNT, &encode(&[1 << 40, 1000]), LONG).unwrap();
    eventually("it waits", || channel.ping(LONG).unwrap().state == WorkerState::AwaitingCredit);
    let health = channel.ping(LONG).unwrap();
    assert_eq!(health.current_request, Some(stream.id()));
    drop(stream);
    eventually("it is idle", || channel.ping(LONG).unwrap().state == WorkerState::Idle);
}

fn many_threads_can_ping_while_others_call(backend: Backend) {
    let channel = backend.ready(Config::small());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    channel.ping(LONG).unwrap();
                    assert_usable(&channel);
                }
            });
        }
    });
    channel.ping(LONG).unwrap();
    assert_usable(&channel);
}

fn a_stopped_worker_is_unresponsive_but_not_killed_and_goes_on_rightly(backend: Backend) {
    let channel = backend.ready(Config::small());
    stop(channel.pid());
    for _ in 0..3 {
        let error = channel.ping(SHORT).unwrap_err();
        assert!(error.is_timeout() && error.to_string().contains("unresponsive"), "{error}");
        let error = channel.call(ECHO, b"late", SHORT).unwrap_err();
        assert!(error.is_timeout() && !error.is_fatal(), "{error}");
    }
    // This wait lasts until the worker goes on.
    let waiting = channel.submit(ECHO, b"patient", LONG).unwrap();
    assert!(channel.is_alive() && channel.exit_cause().is_none());
    send_signal(channel.pid(), libc::SIGCONT);
    assert_eq!(waiting.wait().unwrap().to_vec(), b"patient");
    for i in 0..20_u64 {
        assert_eq!(numbers(&channel.call(ECHO, &encode(&[i]), LONG).unwrap().to_vec()), [i]);
        channel.ping(LONG).unwrap();
    }
    let stats = channel.stats();
    assert_eq!((stats.unknown_frames, stats.cancels), (0, 3));
}

fn a_late_reply_of_a_worker_that_was_stopped_is_not_delivered(backend: Backend) {
    let channel = backend.ready(Config::small());
    let mut pending = channel.submit(UNTIL_ABORTED, b"", LONG).unwrap();
    until_served(&channel, &pending);
    stop(channel.pid());
    assert!(pending.wait_timeout(SHORT).unwrap().is_none());
    drop(pending);
    send_signal(channel.pid(), libc::SIGCONT);
    eventually("the late reply was dropped", || {
        assert_eq!(channel.call(ECHO, b"next", LONG).unwrap().to_vec(), b"next");
        channel.stats().late_frames == 1
    });
}

fn a_ping_that_times_out_does_not_spoil_the_next_ones(backend: Backend) {
    let channel = backend.ready(Config::small());
    for _ in 0..200 {
        match channel.ping(Duration::from_micros(20)) {
            Ok(_) => {}
            Err(error) => assert!(error.is_timeout(), "{error}"),
        }
    }
    channel.call(ECHO, b"x", LONG).unwrap();
    eventually("it is counted", || channel.ping(LONG).unwrap().requests_served == 2);
}

fn the_last_status_stays_readable_after_the_end(backend: Backend) {
    let channel = backend.ready(Config::small());
    channel.call(ECHO, b"x", LONG).unwrap();
    within_long("close", || channel.close(LONG)).unwrap();
    assert_eq!(channel.ping(LONG).unwrap_err().kind(), ErrorKind::Closed);
    let health = channel.health();
    assert_eq!((health.state, health.requests_served), (WorkerState::Stopping, 2));
}
