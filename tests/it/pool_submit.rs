//! Requests that are submitted to a pool, and messages that are written to it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::*;
use crate::pools::{answered, close, is_begun, is_empty, pids, pool_of, role};
use slipring::pool::{PoolPending, Role, RoleHandle};
use slipring::{Error, ErrorKind, Reply};

const SHORT: Duration = Duration::from_millis(50);

fn wait(pending: PoolPending) -> Result<Reply, Error> {
    within_long("wait", || pending.wait())
}

/// Kills a worker now and then, until it is told to stop. Between two kills some requests are
/// answered, so that all are in the end, however long workers take to start.
pub(crate) fn kill_workers(handle: &RoleHandle, is_over: &AtomicBool) -> usize {
    let mut killed = BTreeSet::new();
    while !is_over.load(Ordering::Relaxed) {
        // No process twice: it may be reaped meanwhile.
        if let Some(pid) = pids(handle).into_iter().find(|pid| !killed.contains(pid)) {
            send_signal(pid, libc::SIGKILL);
            killed.insert(pid);
        }
        std::thread::sleep(Duration::from_millis(60));
        let enough = answered(handle) + 10;
        while answered(handle) < enough && !is_over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    killed.len()
}

/// Submits a thousand requests to three workers, some of which are killed.
fn submit_with_kills(role: Role, check: impl Fn(u64, Result<Reply, Error>)) {
    let role = role.min_idle(3).max_size(3).prefetch(2).max_starts(3).max_waiting(2000);
    // Some are killed as they start.
    let (pool, handle) = pool_of(role.max_failures(1000, LONG));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let killer = scope.spawn(|| kill_workers(&handle, &is_over));
        let over = SetOnDrop(&is_over);
        let request = |number: u64| encode(&[1, number, number * number]);
        let pending: Vec<_> = (0..1000)
            .map(|number| handle.submit(SLOW_ECHO, &request(number), LONG).unwrap())
            .collect();
        let ids: BTreeSet<_> = pending.iter().map(PoolPending::id).collect();
        assert_eq!(ids.len(), 1000);
        for (number, pending) in (0..).zip(pending) {
            let outcome = wait(pending);
            if let Ok(reply) = &outcome {
                assert_eq!(reply.to_vec(), request(number));
            }
            check(number, outcome);
        }
        drop(over);
        assert!(killer.join().unwrap() > 2);
    });
    eventually("all places are free", || is_empty(&handle));
    close(&pool);
}

#[test]
fn a_thousand_idempotent_requests_survive_the_kills_of_their_workers() {
    let role = role().idempotent(SLOW_ECHO).max_attempts(20);
    submit_with_kills(role.retry_budget(100, 1000, LONG), |number, outcome| {
        drop(outcome.unwrap_or_else(|error| panic!("{number}: {error:#}")));
    });
}

#[test]
fn of_a_thousand_others_those_fail_that_were_begun_and_no_more() {
    let failed = std::cell::Cell::new(0);
    submit_with_kills(role(), |number, outcome| {
        if let Err(error) = outcome {
            assert_eq!(error.kind(), ErrorKind::PeerDied, "{number}: {error:#}");
            assert_ne!(error.was_begun(), Some(false), "{number}: {error:#}");
            failed.set(failed.get() + 1);
        }
    });
    assert!(failed.get() < 200, "{} failed", failed.get());
}

#[test]
fn a_request_goes_on_although_no_caller_waits_and_frees_its_place() {
    let (pool, handle) = pool_of(role().prefetch(0));
    // More bytes of replies than the ring has.
    let bytes = pattern(1, 3000);
    let mut pending: Vec<_> =
        (0..100).map(|_| handle.submit(ECHO, &bytes, LONG).unwrap()).collect();
    eventually("all are served", || is_empty(&handle));
    for pending in &mut pending {
        assert_eq!(pending.try_wait().unwrap().unwrap().to_vec(), bytes);
        assert_eq!(pending.try_wait().unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    assert_eq!(handle.call(ECHO, "x", LONG).unwrap().to_vec(), b"x");
    close(&pool);
}

#[test]
fn a_wait_with_a_timeout_leaves_the_request_and_another_gets_the_reply() {
    let (pool, handle) = pool_of(role());
    let stay = Stay::new();
    let path = stay.path();
    let mut pending = handle.submit(STAY, &path, LONG).unwrap();
    assert!(pending.try_wait().unwrap().is_none());
    assert!(pending.wait_timeout(Duration::from_millis(10)).unwrap().is_none());
    drop(stay);
    assert_eq!(pending.wait_timeout(LONG).unwrap().unwrap().to_vec(), path);
    close(&pool);
}

#[test]
fn pending_replies_that_are_dropped_in_any_state_leave_no_place_taken() {
    let (pool, handle) = pool_of(role().prefetch(1));
    for pause in [0, 1, 5, 20] {
        // Begun, sent, and waiting.
        let requests = [encode(&[10]), encode(&[0]), encode(&[0]), encode(&[5])];
        let pending: Vec<_> =
            requests.iter().map(|bytes| handle.submit(SLOW_ECHO, bytes, LONG).unwrap()).collect();
        std::thread::sleep(Duration::from_millis(pause));
        drop(pending);
        eventually("all places are free", || is_empty(&handle));
        assert_eq!(handle.call(ECHO, "x", LONG).unwrap().to_vec(), b"x");
    }
    close(&pool);
}

#[test]
fn a_request_is_cancelled_by_itself_or_by_its_number() {
    let (pool, handle) = pool_of(role().prefetch(0));
    let begun = handle.submit(UNTIL_CANCELLED, "", LONG).unwrap();
    eventually("it is begun", || is_begun(&handle));
    let waits = handle.submit(ECHO, "a", LONG).unwrap();
    let others = handle.submit(ECHO, "b", LONG).unwrap();
    waits.cancel();
    assert!(wait(waits).unwrap_err().is_cancelled());
    handle.cancel(begun.id()).unwrap();
    assert!(wait(begun).unwrap_err().is_cancelled());
    let id = others.id();
    assert_eq!(wait(others).unwrap().to_vec(), b"b");
    // There is no such request any more.
    handle.cancel(id).unwrap();
    eventually("all places are free", || is_empty(&handle));
    close(&pool);
}

#[test]
fn deadlines_count_from_the_submit_whether_it_waits_or_is_served() {
    let (pool, handle) = pool_of(role().prefetch(0));
    let stay = Stay::new();
    // A worker of a busy machine may find the first ones too late to begin.
    let submit = || handle.submit(STAY, &stay.path(), SHORT).unwrap();
    let mut running = submit();
    eventually("it is begun", || {
        let is_late = !is_begun(&handle) && running.try_wait().is_err() && !is_begun(&handle);
        if is_late {
            running = submit();
        }
        is_begun(&handle)
    });
    let waits = handle.submit(ECHO, "", SHORT).unwrap();
    // Nobody waits: the timeouts pass all the same.
    std::thread::sleep(2 * SHORT);
    let error = wait(waits).unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::QueueTimeout, Some(false)));
    let error = wait(running).unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Timeout, Some(true)));
    let mut held = handle.submit(ECHO, "x", LONG).unwrap();
    assert!(held.wait_timeout(SHORT).unwrap().is_none(), "the place is held");
    drop(stay);
    assert_eq!(wait(held).unwrap().to_vec(), b"x");
    eventually("all places are free", || is_empty(&handle));
    close(&pool);
}

#[test]
fn over_the_bound_a_submit_is_refused_at_once() {
    let (pool, handle) = pool_of(role().prefetch(0).max_waiting(1));
    let stay = Stay::new();
    let path = stay.path();
    let first = handle.submit(STAY, &path, LONG).unwrap();
    let second = handle.submit(ECHO, "second", LONG).unwrap();
    let error = handle.submit(ECHO, "third", LONG).unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Overloaded, Some(false)));
    assert_eq!(error.overload().unwrap().in_flight, 1);
    drop(stay);
    assert_eq!(wait(first).unwrap().to_vec(), path);
    assert_eq!(wait(second).unwrap().to_vec(), b"second");
    close(&pool);
}

#[test]
fn a_submitted_request_that_kills_two_workers_is_poison() {
    let (pool, handle) = pool_of(role().min_idle(2).max_size(2).idempotent(RAISE));
    let poison = handle.submit(RAISE, &[libc::SIGSEGV as u8], LONG).unwrap();
    let innocent: Vec<_> = (0..100)
        .map(|number| handle.request(ECHO).idempotent(true).submit(&encode(&[number]), LONG))
        .collect();
    let id = poison.id();
    let error = wait(poison).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Poison);
    assert!(error.to_string().contains(&format!("request {id} ")), "{error}");
    for (number, pending) in (0..).zip(innocent) {
        assert_eq!(wait(pending.unwrap()).unwrap().to_vec(), encode(&[number]));
    }
    close(&pool);
}

#[test]
fn a_close_serves_what_was_submitted_and_then_refuses() {
    let (pool, handle) = pool_of(role());
    let pending: Vec<_> =
        (0..10).map(|_| handle.submit(SLOW_ECHO, &encode(&[5]), LONG).unwrap()).collect();
    close(&pool);
    for pending in pending {
        assert_eq!(wait(pending).unwrap().to_vec(), encode(&[5]));
    }
    let error = handle.submit(ECHO, "", LONG).unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Closed, Some(false)));
}

#[test]
fn requests_that_outlive_their_pool_end_as_closed() {
    for is_dropped in [false, true] {
        let (pool, handle) = pool_of(role());
        let pending: Vec<_> = (0..5).map(|_| handle.submit(FOR_EVER, "", LONG).unwrap()).collect();
        match is_dropped {
            true => drop(pool),
            false => within_long("close", || pool.close(SHORT)).unwrap(),
        }
        for pending in pending {
            assert_eq!(wait(pending).unwrap_err().kind(), ErrorKind::Closed);
        }
        eventually("all places are free", || is_empty(&handle));
    }
}

#[test]
fn a_handled_error_and_a_payload_that_is_too_long_cost_no_worker() {
    let (pool, handle) = pool_of(role());
    let before = pids(&handle);
    assert!(wait(handle.submit(FAIL, "no", LONG).unwrap()).unwrap_err().is_handler_error());
    let long = vec![0; 100 << 20];
    let error = handle.submit(ECHO, &long, LONG).unwrap_err();
    assert!(error.is_too_large());
    assert_eq!(wait(handle.submit(ECHO, "x", LONG).unwrap()).unwrap().to_vec(), b"x");
    assert_eq!(pids(&handle), before);
    eventually("all places are free", || is_empty(&handle));
    close(&pool);
}

#[test]
fn a_message_is_written_in_parts_once() {
    let (pool, handle) = pool_of(role().idempotent(ECHO));
    let reply = handle.write(ECHO, LONG, |message| {
        (0..100).try_for_each(|part| message.push(&pattern(part, 700)))
    });
    let whole: Vec<u8> = (0..100).flat_map(|part| pattern(part, 700)).collect();
    assert_eq!(reply.unwrap().to_vec(), whole);
    // The host's own error, here that of another channel.
    let other = small().spawn().unwrap();
    send_signal(other.pid(), libc::SIGKILL);
    let error = handle
        .write(ECHO, LONG, |message| {
            message.push(b"a part")?;
            other.call(ECHO, "", LONG).map(drop)
        })
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PeerDied);
    assert_eq!(handle.call(ECHO, "x", LONG).unwrap().to_vec(), b"x");
    let victim = pids(&handle)[0];
    let mut calls = 0;
    let error = handle
        .write(ECHO, LONG, |message| {
            calls += 1;
            message.push(&pattern(1, 50_000))?;
            send_signal(victim, libc::SIGKILL);
            (0..1000).try_for_each(|_| message.push(&pattern(1, 50_000)))
        })
        .unwrap_err();
    assert_eq!((error.kind(), calls), (ErrorKind::PeerDied, 1));
    assert_eq!(handle.call(ECHO, "x", LONG).unwrap().to_vec(), b"x");
    eventually("all places are free", || is_empty(&handle));
    close(&pool);
}
