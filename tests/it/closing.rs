//! Closes and drops of a channel in every state that it can have.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::common::*;
use slipring::{Channel, Config, ErrorKind, ExitCause};

const SHORT: Duration = Duration::from_millis(100);

fn assert_closed(channel: &Channel) {
    assert!(!channel.is_alive());
    let kinds = [
        channel.call(ECHO, b"x", LONG).map(drop).unwrap_err().kind(),
        channel.submit(ECHO, &[0; 20_000], LONG).map(drop).unwrap_err().kind(),
        channel.stream(COUNT, b"x", LONG).map(drop).unwrap_err().kind(),
        channel.ping(LONG).map(drop).unwrap_err().kind(),
        channel.wait_ready(LONG).unwrap_err().kind(),
    ];
    assert_eq!(kinds, [ErrorKind::Closed; 5]);
    assert_eq!(channel.in_flight(), 0);
    channel.abort();
    channel.clear_abort();
    let _ = (channel.health(), channel.stats());
}

#[test]
fn closing_an_idle_channel_ends_the_worker_in_order_and_tells_how() {
    let dir = temp_dir("close");
    let channel = spawner().config(Config::small()).log_dir(&dir).spawn().unwrap();
    assert_usable(&channel);
    assert_eq!(close(&channel, LONG), ExitCause::Exited(0));
    assert_eq!(channel.exit_cause(), Some(ExitCause::Exited(0)));
    assert!(!is_in_the_table(channel.pid()), "reaped when close returns");
    assert_closed(&channel);
    assert_eq!(close(&channel, LONG), ExitCause::Exited(0));
    let log = std::fs::read_to_string(channel.log_path().unwrap()).unwrap();
    assert!(log.ends_with("[supervisor] exited with code 0\n"), "{log}");
    drop(channel);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_channel_can_be_closed_before_its_worker_has_a_session() {
    for mode in ["slow", "ok"] {
        let channel = spawner().config(Config::small()).mode(mode).spawn().unwrap();
        assert_eq!(close(&channel, LONG), ExitCause::Exited(0), "{mode}");
        assert_closed(&channel);
    }
}

#[test]
fn a_close_ends_every_operation_in_flight_on_other_threads() {
    let (channel, _) = stuck(&small());
    let barrier = Barrier::new(6);
    let (errors, cause) = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let pending = channel.submit(ECHO, b"x", Duration::MAX).unwrap();
                    barrier.wait();
                    pending.wait().map(drop).unwrap_err()
                })
            })
            .collect();
        let stream = scope.spawn(|| {
            let mut stream = channel.stream(COUNT, b"x", LONG).unwrap();
            barrier.wait();
            stream.next_chunk().map(drop).unwrap_err()
        });
        let sender = scope.spawn(|| {
            barrier.wait();
            let mut kept = Vec::new();
            loop {
                match channel.submit(ECHO, &[0; 10_000], Duration::MAX) {
                    Ok(pending) => kept.push(pending),
                    Err(error) => break error,
                }
            }
        });
        barrier.wait();
        std::thread::sleep(SHORT);
        let closing = Instant::now();
        let closer = scope.spawn(|| channel.close(LONG).unwrap());
        let threads = calls.into_iter().chain([stream, sender]);
        let errors: Vec<_> = threads.map(|thread| thread.join().unwrap()).collect();
        println!("all told {:?} after the close began", closing.elapsed());
        assert!(!closer.is_finished(), "they are told before the worker has ended");
        send_signal(channel.pid(), libc::SIGKILL);
        (errors, closer.join().unwrap())
    });
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    }
    assert_eq!(cause, ExitCause::Signaled(libc::SIGKILL));
    assert_closed(&channel);
}

#[test]
fn a_ping_in_flight_is_ended_by_a_close() {
    let channel = ready(&small());
    stop(channel.pid());
    std::thread::scope(|scope| {
        let ping = scope.spawn(|| channel.ping(Duration::MAX).map(drop).unwrap_err());
        std::thread::sleep(SHORT);
        let cause = close(&channel, SHORT);
        assert_eq!(cause, ExitCause::Signaled(libc::SIGKILL), "a stopped process ignores SIGTERM");
        assert_eq!(ping.join().unwrap().kind(), ErrorKind::Closed);
    });
    assert_closed(&channel);
}

#[test]
fn a_stuck_worker_is_terminated_after_the_grace_and_a_stopped_one_killed() {
    let (channel, _) = stuck(&small());
    assert_eq!(close(&channel, SHORT), ExitCause::Signaled(libc::SIGTERM));
    assert!(!is_in_the_table(channel.pid()));

    let (channel, _) = stuck(&small());
    assert_eq!(close(&channel, Duration::ZERO), ExitCause::Signaled(libc::SIGTERM));

    let channel = ready(&small());
    stop(channel.pid());
    assert_eq!(close(&channel, SHORT), ExitCause::Signaled(libc::SIGKILL));
    assert!(!is_in_the_table(channel.pid()));
}

#[test]
fn many_threads_that_close_at_the_same_time_learn_the_same() {
    let channel = ready(&small());
    let pending = channel.submit(UNTIL_CANCELLED, b"", LONG).unwrap();
    let causes: Vec<ExitCause> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| close(&channel, LONG))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(causes, [ExitCause::Exited(0); 8]);
    assert_eq!(pending.wait().unwrap_err().kind(), ErrorKind::Closed);
    assert_closed(&channel);
}

#[test]
fn a_handler_that_looks_ends_a_close_at_once() {
    for kind in [UNTIL_CANCELLED, UNTIL_ABORTED] {
        let channel = ready(&small());
        let pending = channel.submit(kind, b"", LONG).unwrap();
        until_served(&channel, &pending);
        assert_eq!(close(&channel, LONG), ExitCause::Exited(0));
        assert_eq!(pending.wait().unwrap_err().kind(), ErrorKind::Closed);
    }
}

#[test]
fn a_close_while_a_stream_waits_for_credit_or_the_ring_is_full_is_orderly() {
    let channel = ready(&small());
    let stream = channel.stream(COUNT, &encode(&[1 << 40, 1000]), LONG).unwrap();
    std::thread::sleep(SHORT);
    assert_eq!(close(&channel, LONG), ExitCause::Exited(0));
    let outcomes: Vec<_> = stream.map(|chunk| chunk.map(drop)).collect();
    assert_eq!(outcomes.len(), 1);
    assert_eq!(outcomes[0].as_ref().unwrap_err().kind(), ErrorKind::Closed);

    // As a lease is never given back, the worker cannot even send its error.
    let channel = ready(&small());
    std::mem::forget(channel.call(ECHO, &[1; 900], LONG).unwrap());
    let error = channel.call(BIG, &encode(&[500_000]), SHORT).unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert_eq!(close(&channel, LONG), ExitCause::Exited(0));
}

#[test]
fn what_outlives_its_channel_is_closed_and_replies_stay_readable() {
    let channel = ready(&small());
    let reply = channel.call(ECHO, b"kept", LONG).unwrap();
    let pending = channel.submit(UNTIL_CANCELLED, b"", LONG).unwrap();
    let mut stream = channel.stream(COUNT, &encode(&[10, 10]), LONG).unwrap();
    let pid = channel.pid();
    drop(channel);
    assert_eq!(pending.wait().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(stream.next_chunk().unwrap_err().kind(), ErrorKind::Closed);
    assert!(stream.next_chunk().unwrap().is_none());
    drop(stream);
    assert_eq!(reply.to_vec(), b"kept");
    eventually("the worker is reaped", || !is_in_the_table(pid));
    assert_eq!(reply.to_vec(), b"kept");
}

#[test]
fn a_drop_does_not_wait_and_the_worker_is_gone_soon_whatever_it_does() {
    for channel in [ready(&small()), stuck(&small()).0] {
        let pid = channel.pid();
        drop(channel);
        eventually("the worker is reaped", || !is_in_the_table(pid));
    }
    let channel = ready(&small());
    let pid = channel.pid();
    stop(pid);
    drop(channel);
    eventually("the stopped worker is reaped", || !is_in_the_table(pid));
}

#[test]
fn a_drop_after_a_close_and_a_drop_in_a_panic_do_no_harm() {
    let channel = ready(&small());
    close(&channel, LONG);
    drop(channel);
    let (channel, _) = stuck(&small());
    let pid = channel.pid();
    let panicked = std::thread::spawn(move || {
        let _channel = channel;
        panic!("with a channel in hand");
    });
    assert!(panicked.join().is_err());
    eventually("the worker is reaped", || !is_in_the_table(pid));
}

#[test]
fn a_thread_that_panics_while_it_calls_leaves_the_channel_to_the_others() {
    let channel = ready(&small());
    std::thread::scope(|scope| {
        let panicked = scope.spawn(|| {
            let _pending = channel.submit(SLOW_ECHO, &encode(&[50]), LONG).unwrap();
            let _reply = channel.call(ECHO, b"x", LONG).unwrap();
            panic!("in the middle");
        });
        assert!(panicked.join().is_err());
    });
    assert_eq!((channel.in_flight(), channel.stats().leases_held), (0, 0));
    assert_usable(&channel);
}

#[test]
fn a_draining_close_finishes_what_is_in_flight() {
    let channel = ready(&small());
    let cause = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..4_u64)
            .map(|i| {
                let pending = channel.submit(SLOW_ECHO, &encode(&[40 + i]), LONG).unwrap();
                scope.spawn(move || (i, pending.wait()))
            })
            .collect();
        let closer = scope.spawn(|| channel.close_draining(LONG).unwrap());
        for call in calls {
            let (i, reply) = call.join().unwrap();
            assert_eq!(numbers(&reply.unwrap().to_vec()), [40 + i]);
        }
        closer.join().unwrap()
    });
    assert_eq!(cause, ExitCause::Exited(0));
    assert_closed(&channel);
}

#[test]
fn a_draining_close_waits_for_chunks_that_a_stream_has_read_ahead() {
    let channel = ready(&small());
    let mut stream = channel.stream(COUNT, &encode(&[20, 8]), LONG).unwrap();
    // The whole stream lies in the ring, and is taken with the first chunk. The worker counts one
    // more request, the one that tells that it is ready.
    eventually("it is sent", || channel.health().requests_served == 2);
    stream.next_chunk().unwrap().unwrap();
    std::thread::scope(|scope| {
        let closer = scope.spawn(|| channel.close_draining(LONG).unwrap());
        std::thread::sleep(SHORT);
        assert_eq!(stream.by_ref().map(Result::unwrap).count(), 19);
        assert_eq!(closer.join().unwrap(), ExitCause::Exited(0));
    });
    assert_closed(&channel);
}

#[test]
fn a_draining_close_gives_up_at_its_timeout() {
    let (channel, _) = stuck(&small());
    let pending = channel.submit(ECHO, b"", LONG).unwrap();
    let cause = within_long("close", || channel.close_draining(SHORT)).unwrap();
    assert_eq!(cause, ExitCause::Signaled(libc::SIGTERM));
    assert_eq!(pending.wait().unwrap_err().kind(), ErrorKind::Closed);
    assert_closed(&channel);
}

#[test]
fn a_close_after_a_death_tells_how_the_worker_died() {
    let channel = ready(&small());
    channel.call(EXIT, &[7], LONG).unwrap_err();
    assert_eq!(close(&channel, LONG), ExitCause::Exited(7));
    assert_eq!(close(&channel, LONG), ExitCause::Exited(7));
}
