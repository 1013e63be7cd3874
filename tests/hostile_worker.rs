//! A worker that writes anything into every byte that it can write. The parent stays right, in time
//! and bounded, its errors are typed, and its other channels do not notice.
//!
//! These tests have a binary of their own and run one at a time, as they measure the memory of
//! their process.

#[path = "hostile_worker/bytes.rs"]
mod bytes;
mod common;
#[path = "hostile_worker/handshakes.rs"]
mod handshakes;
mod hostile;
#[path = "hostile_worker/messages.rs"]
mod messages;
#[path = "hostile/parent.rs"]
mod parent;
worker_entry!();

use std::time::Duration;

use common::*;
use parent::*;
use slipring::{Error, ErrorKind, Health, StreamTimeouts};

/// Not a test of its own: the hostile worker.
#[test]
fn hostile_entry() {
    if slipring::worker::is_worker() {
        hostile::worker::run();
    }
}

#[test]
fn a_commit_word_that_cannot_be_poisons_the_channel() {
    run_all([
        // The frame looks uncommitted.
        ("commit: last lap", Comes::Ends(ErrorKind::Timeout)),
        ("commit: stale", Comes::Corrupt),
        ("commit: torn", Comes::Corrupt),
        ("commit: both", Comes::Corrupt),
        ("commit: ahead", Comes::Corrupt),
        ("commit: padding", Comes::Corrupt),
        ("commit: high bit", Comes::Corrupt),
        ("commit: one", Comes::Corrupt),
        ("commit: all ones", Comes::Corrupt),
        ("commit again", Comes::Corrupt),
    ]);
}

#[test]
fn a_reply_that_is_not_rung_for_is_found_without_a_timeout() {
    let _alone = one_at_a_time();
    let call = "commit and do not ring";
    within_long(call, || {
        let channel = hostile_spawner().pollable().spawn().unwrap();
        let reply = channel.call(CASE, call, Duration::MAX).unwrap();
        assert_eq!(reply.to_vec(), b"x");
        #[cfg(feature = "async")]
        {
            let channel = slipring::tasks::AsyncChannel::new(channel).unwrap();
            let reply = pollster::block_on(channel.call(CASE, call, Duration::MAX)).unwrap();
            assert_eq!(reply.to_vec(), b"x");
        }
    });
}

#[test]
fn an_impossible_length_poisons_and_one_that_changes_is_read_once() {
    run_all([
        ("length of a slot and one", Comes::Corrupt),
        ("length: 4096", Comes::Corrupt),
        ("length: 8192", Comes::Corrupt),
        ("length: 65536", Comes::Corrupt),
        ("length: 2147483647", Comes::Corrupt),
        ("length: 4294967295", Comes::Corrupt),
        ("length: 1000", Comes::Anything),
        ("length that changes", Comes::Anything),
        ("payload that changes", Comes::Harmless),
        ("every header word changes", Comes::Anything),
    ]);
}

#[test]
fn a_head_that_cannot_be_poisons_the_channel() {
    run_all([
        ("head: back", Comes::Anything),
        ("head: far back", Comes::Corrupt),
        ("head: beyond the ring", Comes::Corrupt),
        ("head: odd", Comes::Corrupt),
        ("head: all ones", Comes::Corrupt),
        ("head: half the circle", Comes::Corrupt),
    ]);
}

#[test]
fn unknown_kinds_and_flags_poison_the_channel() {
    let kinds = [0, 1, 2, 3, 4, 10, 12, 31, 32, 33, 0xff, 0x100, 0x7fff, 0x8000, 0xffff];
    let mut cases: Vec<(String, Comes)> =
        kinds.into_iter().map(|kind| (format!("kind: {kind}"), Comes::Corrupt)).collect();
    for bit in 0..16 {
        let comes = match 1 << bit {
            hostile::MORE => Comes::Fails(ErrorKind::Timeout),
            _ => Comes::Corrupt,
        };
        cases.push((format!("flags: {}", 1 << bit), comes));
        cases.push((format!("flags of an end: {}", 1 << bit), Comes::Corrupt));
        cases.push((format!("flags of an error: {}", 1 << bit), Comes::Corrupt));
        cases.push((format!("flags of a void frame: {}", 1 << bit), Comes::Corrupt));
    }
    run_all(
        cases
            .iter_mut()
            .map(|(name, comes)| (name.as_str(), std::mem::replace(comes, Comes::Anything))),
    );
}

#[test]
fn replies_to_no_request_are_dropped_and_those_that_do_not_fit_are_typed() {
    let over = &mut Overtime::default();
    run_all([
        ("request: 1000000", Comes::Fails(ErrorKind::Timeout)),
        ("request: 9223372036854775808", Comes::Fails(ErrorKind::Timeout)),
        ("request: 18446744073709551615", Comes::Fails(ErrorKind::Timeout)),
        ("request that is finished", Comes::Harmless),
        ("reply twice", Comes::Harmless),
        ("aux: 18446744073709551615", Comes::Harmless),
        ("request 0: result", Comes::Corrupt),
        ("request 0: cancel", Comes::Corrupt),
        ("request 0: garbage", Comes::Corrupt),
        ("request 0: error", Comes::Anything),
        ("another kind of answer: 7", Comes::Fails(ErrorKind::Protocol)),
        ("another kind of answer: 8", Comes::Fails(ErrorKind::Protocol)),
        ("another kind of answer: 9", Comes::Fails(ErrorKind::Cancelled)),
        // A void frame is no answer.
        ("another kind of answer: 11", Comes::Fails(ErrorKind::Timeout)),
        ("void frames around an answer", Comes::Harmless),
        ("expired", Comes::Fails(ErrorKind::Timeout)),
        ("silence", Comes::Anything),
        ("silence of everything", Comes::Anything),
        ("exit: 0", Comes::Anything),
        ("owner died", Comes::Ends(ErrorKind::PeerDied)),
        ("owner flaps", Comes::Harmless),
    ]);
    let _alone = one_at_a_time();
    let channel = hostile();
    channel.call(HOSTILE_ECHO, b"first", SHORT).unwrap();
    over.in_time("strangers", || channel.call(CASE, "request that is finished", SHORT)).unwrap();
    channel.call(CASE, "reply twice", SHORT).unwrap();
    channel.call(HOSTILE_ECHO, b"last", SHORT).unwrap();
    assert_eq!(channel.stats().unknown_frames, 6, "all are counted");
}

#[test]
fn an_error_with_lengths_that_cannot_be_is_an_error_of_its_own_call() {
    run_all([
        ("error: empty", Comes::Fails(ErrorKind::Protocol)),
        ("error: long type", Comes::Fails(ErrorKind::Protocol)),
        ("error: long message", Comes::Fails(ErrorKind::Protocol)),
        ("error: many sources", Comes::Fails(ErrorKind::Protocol)),
        ("error: endless sources", Comes::Fails(ErrorKind::HandlerFailed)),
        ("error: no text", Comes::Fails(ErrorKind::HandlerFailed)),
        ("error: longest", Comes::Fails(ErrorKind::Protocol)),
        ("a piece and an error", Comes::Fails(ErrorKind::HandlerFailed)),
    ]);
}

#[test]
fn what_has_no_end_ends_at_the_deadline_in_bounded_memory() {
    run_all([
        ("pieces without end", Comes::Corrupt),
        ("first pieces without end", Comes::Ends(ErrorKind::Timeout)),
        ("empty pieces without end", Comes::Ends(ErrorKind::Timeout)),
        ("chunks without end", Comes::Anything),
        ("strangers without end", Comes::Ends(ErrorKind::Timeout)),
        ("void frames without end", Comes::Ends(ErrorKind::Timeout)),
        ("strangers without end and without room", Comes::Anything),
        ("frames without end while the head stands still", Comes::Anything),
    ]);
}

#[test]
fn the_health_rings_are_as_safe() {
    run_all(
        [
            "pong: short",
            "pong: long text",
            "pong: garbage",
            "pong: many requests",
            "pong: fewer than announced",
            "pong: stages that are none",
            "pong: other kind",
            "pong: unknown kind",
            "pong: acknowledgement",
            "pong: silence",
            "pong: strangers without end",
            "pong: without room",
            "pong: commit",
        ]
        .map(|case| (case, Comes::Anything)),
    );
}

/// Whatever the marks say, nothing but reports, messages and errors of timeouts depends on them.
#[test]
fn marks_of_every_kind_are_only_what_the_worker_says_of_itself() {
    let _alone = one_at_a_time();
    let mut over = Overtime::default();
    for case in [
        "marks: zeros",
        "marks: all ones",
        "marks: taken",
        "marks: begun",
        "marks: begun at the end of time",
        "marks: begun at the start of time",
        "marks: answered",
        "marks: done",
        "marks: unknown stages",
        "marks: no stage",
        "marks: no request",
        "marks: one request in all",
        "marks: another lap",
        "marks: credit that cannot be",
        "marks: credit that is there",
        "marks: half a frame of credit",
        "marks that change",
    ] {
        let channel = hostile();
        let most = channel.config().max_in_flight();
        channel.call(CASE, case, LONG).unwrap();
        for health in [channel.health(), channel.ping(LONG).unwrap()] {
            assert!(health.taken + health.begun <= most, "{case}: {health:?}");
            assert!(health.requests.len() <= Health::MOST_REQUESTS, "{case}: {health:?}");
        }
        // Each kind of wait ends in time, with an error that says what the worker says.
        let timeouts = StreamTimeouts::from(SHORT).queue(SHORT).total(SHORT * 2);
        let waits: [&(dyn Fn() -> Result<(), Error> + Sync); 2] =
            [&|| channel.call(HOLD, b"", SHORT).map(drop), &|| {
                channel.stream(HOLD, b"", timeouts)?.next_chunk().map(drop)
            }];
        for wait in waits {
            let error = over.in_time(case, wait).unwrap_err();
            assert!(
                is_one_of(&error, &[ErrorKind::Timeout, ErrorKind::Stalled]),
                "{case}: {error}"
            );
            assert!(error.to_string().len() < 400, "{case}: {error}");
            assert_ne!(error.was_begun(), Some(false), "{case}: {error}");
        }
        let errors = exercise(&channel, case, &mut over);
        assert!(errors.is_empty(), "{case}: {errors:?}");
        let error = channel.call(CASE, "exit: 0", LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PeerDied, "{case}: {error}");
        eventually("it is known what it says", || error.stage().is_some());
        assert!(error.death().unwrap().begun_requests().len() <= most, "{case}: {error}");
        assert!(error.to_string().len() < 400, "{case}: {error}");
        end(&channel, case);
    }
    assert_others_are_untouched();
}

#[test]
fn a_bell_that_is_rung_without_end_costs_a_bounded_time() {
    run_all([("bell: data", Comes::Corrupt), ("bell: health", Comes::Corrupt)]);
}

#[test]
fn the_worker_can_neither_resize_memory_nor_make_it_writable() {
    let _alone = one_at_a_time();
    let channel = hostile();
    let worked = channel.call(CASE, "memory", LONG).unwrap().to_vec();
    // The worker may write its own region.
    assert_eq!(
        String::from_utf8(worked).unwrap(),
        "up writable map, up write, up reopened writable map, up reopened write, up mprotect"
    );
    assert_eq!(channel.call(HOSTILE_ECHO, b"unharmed", LONG).unwrap().to_vec(), b"unharmed");
    assert_others_are_untouched();
}

#[test]
fn holes_in_the_workers_region_are_never_a_fault_in_the_parent() {
    let _alone = one_at_a_time();
    let mut over = Overtime::default();
    for _ in 0..10 {
        let channel = hostile();
        let kept = channel.call(HOSTILE_ECHO, &[7; 900], LONG).unwrap();
        channel.call(CASE, "holes", LONG).unwrap();
        exercise(&channel, "holes", &mut over);
        assert_eq!(kept.to_vec().len(), 900);
        end(&channel, "holes");
    }
    assert_others_are_untouched();
}

#[test]
fn a_wake_descriptor_that_the_worker_misuses_harms_only_its_channel() {
    let _alone = one_at_a_time();
    let mut over = Overtime::default();
    for case in [
        "hint: shut down",
        "hint: blocking and full",
        "hint: lit without end",
        "hint: drained without end",
    ] {
        let channel = hostile_spawner().pollable().spawn().unwrap();
        channel.read_ready().unwrap();
        channel.call(CASE, case, LONG).unwrap();
        for _ in 0..200 {
            if let Err(error) = over.in_time(case, || channel.read_ready()) {
                assert!(is_one_of(&error, &ANY), "{case}: {error}");
            }
        }
        exercise(&channel, case, &mut over);
        end(&channel, case);
    }
    let channel = hostile_spawner().pollable().spawn().unwrap();
    channel.read_ready().unwrap();
    let _pending = channel.submit(CASE, "strangers without end", LONG).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    for _ in 0..50 {
        over.in_time("read_ready", || channel.read_ready()).unwrap();
    }
    end(&channel, "flood");
    assert_others_are_untouched();
}
