//! Several requests in flight, from one thread and from many.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::*;
use slipring::{Channel, Config, ErrorKind, Pending, Reply};

conformance! {
    everywhere: [
        pending_replies_can_be_awaited_in_any_order,
        dropped_pending_replies_are_cancelled_and_the_others_come,
        a_cancel_never_hits_the_next_request_of_the_same_slot,
        more_requests_than_configured_are_refused_until_one_is_done,
        threads_that_call_at_the_same_time_each_get_their_own_replies,
        long_messages_of_several_threads_do_not_get_mixed_up,
        calls_streams_timeouts_and_cancels_of_threads_do_not_mix,
        a_pending_reply_that_is_not_awaited_holds_up_no_other,
        a_reply_that_is_never_given_back_is_named_when_it_holds_up_others,
        replies_can_be_kept_moved_to_other_threads_and_dropped_in_any_order,
        kept_replies_hold_up_no_other_and_stay_where_they_are,
        a_waiter_whose_time_is_up_does_not_take_the_readers_role_with_it,
    ],
    limited: [
        requests_that_do_not_fit_the_ring_wait_for_room_or_time_out,
        long_messages_that_time_out_half_sent_use_up_no_places,
    ],
    one_at_a_time: [
        // Replies come in the order of the requests.
        pending_replies_can_be_polled_for_without_waiting,
        // Requests wait behind one that is served.
        a_cancel_before_during_and_after_is_idempotent_and_has_one_outcome,
    ],
    processes: [],
}

fn submit(channel: &Channel, i: u64) -> Pending {
    channel.submit(ECHO, &encode(&[i, i * i]), LONG).unwrap()
}

fn assert_answer(pending: Pending, i: u64) {
    let request = pending.id();
    let reply = pending.wait().unwrap();
    assert_eq!((reply.request(), numbers(&reply.to_vec())), (request, vec![i, i * i]));
}

/// A permutation of `0..count` that is neither ascending nor descending.
fn shuffled(count: u64) -> Vec<u64> {
    let mut all: Vec<u64> = (0..count).collect();
    all.sort_by_key(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    all
}

fn pending_replies_can_be_awaited_in_any_order(backend: Backend) {
    let channel = backend.ready(Config::default());
    let orders = [(0..300).collect(), (0..300).rev().collect(), shuffled(300)];
    for order in orders {
        let order: Vec<u64> = order;
        let mut pending: Vec<Option<Pending>> =
            (0..300).map(|i| Some(submit(&channel, i))).collect();
        assert_eq!(channel.in_flight(), 300);
        for i in order {
            assert_answer(pending[i as usize].take().unwrap(), i);
        }
        assert_eq!(channel.in_flight(), 0);
    }
}

fn pending_replies_can_be_polled_for_without_waiting(backend: Backend) {
    let channel = backend.ready(Config::small());
    let stay = Stay::new();
    let path = stay.path();
    let mut slow = channel.submit(STAY, &path, LONG).unwrap();
    assert!(slow.try_wait().unwrap().is_none(), "it is not served");
    assert!(slow.wait_timeout(Duration::from_millis(1)).unwrap().is_none(), "nor after a while");
    let mut pending: Vec<(u64, Pending)> = (0..20).map(|i| (i, submit(&channel, i))).collect();
    drop(stay);
    let start = Instant::now();
    while !pending.is_empty() {
        assert!(start.elapsed() < LONG);
        pending.retain_mut(|(i, one)| match one.try_wait().unwrap() {
            Some(reply) => {
                assert_eq!(numbers(&reply.to_vec()), [*i, *i * *i]);
                for again in [one.try_wait(), one.wait_timeout(LONG)] {
                    let again = again.unwrap_err();
                    assert_eq!(again.kind(), ErrorKind::InvalidInput, "{again}");
                }
                false
            }
            None => true,
        });
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(channel.stats().errors.get(ErrorKind::InvalidInput), 40, "each is counted");
    let reply = slow.try_wait().unwrap().expect("it came before the others");
    assert_eq!(reply.to_vec(), path);
    drop(reply);
    let mut slow = channel.submit(UNTIL_CANCELLED, b"", Duration::from_millis(5)).unwrap();
    std::thread::sleep(Duration::from_millis(10));
    assert!(slow.try_wait().unwrap_err().is_timeout());
    assert_eq!(channel.in_flight(), 0, "it is cancelled, whether it is dropped or not");
    assert_eq!(channel.in_flight(), 0);
    assert_usable(&channel);
}

fn dropped_pending_replies_are_cancelled_and_the_others_come(backend: Backend) {
    let channel = backend.ready(Config::default());
    let busy = channel.submit(SLOW_ECHO, &encode(&[50]), LONG).unwrap();
    let pending: Vec<Pending> = (0..100).map(|i| submit(&channel, i)).collect();
    for (i, pending) in pending.into_iter().enumerate() {
        if i % 3 == 0 {
            assert_answer(pending, i as u64);
        }
    }
    drop(busy);
    assert_eq!(channel.in_flight(), 0);
    assert_usable(&channel);
    let stats = channel.stats();
    assert_eq!(stats.unknown_frames, 0);
    assert!(stats.late_frames <= stats.cancels, "{stats:?}");
}

fn a_cancel_before_during_and_after_is_idempotent_and_has_one_outcome(backend: Backend) {
    let channel = backend.ready(Config::small());
    // During.
    let pending = channel.submit(UNTIL_CANCELLED, b"", LONG).unwrap();
    until_served(&channel, &pending);
    // Before.
    let queued = submit(&channel, 1);
    queued.cancel();
    queued.cancel();
    pending.cancel();
    pending.cancel();
    let error = pending.wait().unwrap_err();
    assert!(error.is_cancelled() && !error.is_fatal(), "{error}");
    assert!(queued.wait().unwrap_err().is_cancelled());
    // A handler may finish in spite of it.
    let pending = channel.submit(UNTIL_ABORTED, b"", LONG).unwrap();
    until_served(&channel, &pending);
    pending.cancel();
    pending.wait().unwrap();
    // After.
    let pending = submit(&channel, 2);
    eventually("it is served", || channel.health().current_request.is_none());
    assert_usable(&channel);
    pending.cancel();
    pending.cancel();
    assert_answer(pending, 2);
    // A drop is a cancel.
    let pending = channel.submit(UNTIL_CANCELLED, b"", LONG).unwrap();
    until_served(&channel, &pending);
    drop(pending);
    assert_usable(&channel);
    assert_eq!(channel.in_flight(), 0);
}

fn a_cancel_never_hits_the_next_request_of_the_same_slot(backend: Backend) {
    let config = Config::builder().max_in_flight(2).build().unwrap();
    let channel = backend.ready(config);
    for i in 0..2000 {
        let pending = submit(&channel, i);
        if i % 2 == 0 {
            pending.cancel();
            match pending.wait() {
                Ok(reply) => assert_eq!(numbers(&reply.to_vec()), [i, i * i]),
                Err(error) => assert!(error.is_cancelled(), "{error}"),
            }
        } else {
            assert_answer(pending, i);
        }
    }
}

fn more_requests_than_configured_are_refused_until_one_is_done(backend: Backend) {
    let channel = backend.ready(Config::builder().max_in_flight(3).build().unwrap());
    let mut pending: Vec<Pending> =
        (0..3).map(|i| channel.submit(SLOW_ECHO, &encode(&[30 + i]), LONG).unwrap()).collect();
    for _ in 0..2 {
        let error = channel.call(ECHO, b"x", LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooManyInFlight);
        assert!(error.to_string().contains("max_in_flight"), "{error}");
        assert_eq!(channel.stream(COUNT, b"", LONG).unwrap_err().kind(), error.kind());
    }
    assert_eq!(channel.in_flight(), 3);
    assert_eq!(numbers(&pending.remove(0).wait().unwrap().to_vec()), [30]);
    let again = submit(&channel, 7);
    for (i, pending) in pending.into_iter().enumerate() {
        assert_eq!(numbers(&pending.wait().unwrap().to_vec()), [31 + i as u64]);
    }
    assert_answer(again, 7);
    assert_eq!(channel.in_flight(), 0);
}

fn threads_that_call_at_the_same_time_each_get_their_own_replies(backend: Backend) {
    for config in [Config::default(), tiny(8 << 10).build().unwrap()] {
        let channel = backend.ready(config);
        let max = channel.config().max_request_frame() as u64;
        std::thread::scope(|scope| {
            for thread in 0..8_u64 {
                let channel = &channel;
                scope.spawn(move || {
                    for i in 0..300 {
                        let len = (i * 37 + thread * 11) % max.min(5000);
                        let bytes = pattern(thread << 32 | i, len as usize);
                        let reply = channel.call(ECHO, &bytes, LONG).unwrap();
                        assert!(reply.to_vec() == bytes, "thread {thread} call {i}");
                    }
                });
            }
        });
        assert_eq!((channel.in_flight(), channel.stats().leases_held), (0, 0));
        assert_eq!(channel.stats().late_frames + channel.stats().unknown_frames, 0);
    }
}

fn long_messages_of_several_threads_do_not_get_mixed_up(backend: Backend) {
    let channel = backend.ready(tiny(4 << 10).build().unwrap());
    std::thread::scope(|scope| {
        for thread in 0..6_u64 {
            let channel = &channel;
            scope.spawn(move || {
                for i in 0..30 {
                    let len = if thread == 0 { 20 } else { 3000 + thread as usize * 4000 };
                    let bytes = pattern(thread << 32 | i, len);
                    let reply = channel.call(ECHO, &bytes, LONG).unwrap();
                    assert!(reply.into_vec() == bytes, "thread {thread} call {i}");
                }
            });
        }
    });
    assert_usable(&channel);
}

fn calls_streams_timeouts_and_cancels_of_threads_do_not_mix(backend: Backend) {
    let channel = backend.ready(Config::default());
    std::thread::scope(|scope| {
        for thread in 0..2_u64 {
            let channel = &channel;
            scope.spawn(move || {
                for i in 0..500 {
                    let bytes = encode(&[thread, i]);
                    assert_eq!(channel.call(ECHO, &bytes, LONG).unwrap().to_vec(), bytes);
                }
            });
            scope.spawn(move || {
                for round in 0..20 {
                    let len = 10 + thread * 700;
                    let mut stream = channel.stream(COUNT, &encode(&[200, len]), LONG).unwrap();
                    for i in 0..if round % 2 == 0 { 200 } else { 50 } {
                        let chunk = stream.next_chunk().unwrap().unwrap();
                        assert!(chunk.to_vec() == pattern(i, len as usize));
                    }
                }
            });
            scope.spawn(move || {
                for i in 0..300 {
                    let nap = encode(&[200, i]);
                    match channel.call(NAP, &nap, Duration::from_micros(150)) {
                        Ok(reply) => assert_eq!(reply.to_vec(), nap),
                        Err(error) => assert!(error.is_timeout(), "{error}"),
                    }
                }
            });
            scope.spawn(move || {
                for i in 0..300 {
                    let pending = submit(channel, i);
                    pending.cancel();
                    match pending.wait() {
                        Ok(reply) => assert_eq!(numbers(&reply.to_vec()), [i, i * i]),
                        Err(error) => assert!(error.is_cancelled(), "{error}"),
                    }
                }
            });
        }
    });
    assert_usable(&channel);
    assert_eq!((channel.in_flight(), channel.stats().unknown_frames), (0, 0));
}

fn a_pending_reply_that_is_not_awaited_holds_up_no_other(backend: Backend) {
    let channel = backend.ready(tiny(8 << 10).build().unwrap());
    let unread: Vec<Pending> =
        (0..10).map(|_| channel.submit(BIG, &encode(&[2000]), LONG).unwrap()).collect();
    for _ in 0..50 {
        assert_usable(&channel);
    }
    for pending in unread {
        assert!(pending.wait().unwrap().into_vec() == pattern(7, 2000));
    }
}

fn a_reply_that_is_never_given_back_is_named_when_it_holds_up_others(backend: Backend) {
    let channel = backend.ready(tiny(4 << 10).build().unwrap());
    let held = channel.call(BIG, &encode(&[1500]), LONG).unwrap();
    let request = held.request();
    std::mem::forget(held);
    assert_eq!(channel.stats().leases_held, 1);
    let timeout = Duration::from_millis(100);
    let error = (0..10)
        .find_map(|_| channel.call(BIG, &encode(&[1500]), timeout).map(Reply::into_vec).err())
        .expect("the ring is full at some time");
    assert!(error.is_timeout(), "{error}");
    let text = error.to_string();
    assert!(text.contains("lease") && text.contains(&request.to_string()), "{text}");
    assert!(channel.ping(LONG).is_ok());
    within_long("close", || channel.close(LONG)).unwrap();
}

fn replies_can_be_kept_moved_to_other_threads_and_dropped_in_any_order(backend: Backend) {
    let channel = backend.ready(Config::small());
    for order in [shuffled(40), (0..40).collect(), (0..40).rev().collect()] {
        // Long enough to stay in the ring.
        let long = |i: u64| encode(&[&[i, i * i][..], &[0; 20]].concat());
        let call = |i| channel.call(ECHO, &long(i), LONG).unwrap();
        let replies: Vec<Reply> = (0..40).map(call).collect();
        assert_eq!(channel.stats().leases_held, 40);
        let mut replies: Vec<Option<Reply>> = replies.into_iter().map(Some).collect();
        let dropper = std::thread::spawn(move || {
            for i in order {
                let reply = replies[i as usize].take().unwrap();
                assert_eq!(numbers(&reply.to_vec())[..2], [i, i * i]);
            }
        });
        dropper.join().unwrap();
        assert_eq!(channel.stats().leases_held, 0);
    }
    let detached = submit(&channel, 3).wait().unwrap().detach();
    assert_eq!(channel.stats().leases_held, 0);
    assert_eq!(numbers(&detached.to_vec()), [3, 9]);
    for _ in 0..200 {
        assert_usable(&channel);
    }
}

fn kept_replies_hold_up_no_other_and_stay_where_they_are(backend: Backend) {
    let channel = backend.ready(Config::small());
    let long = |i: u64| encode(&[i; 300]);
    let mut kept = Vec::new();
    for i in 0..1500 {
        let reply = channel.call(ECHO, &long(i), LONG).unwrap();
        if i % 20 == 0 {
            let reply = reply.keep();
            kept.push((i, reply.payload().as_ptr(), reply));
        }
    }
    for (i, address, reply) in &kept {
        assert_eq!(reply.payload().as_ptr(), *address);
        assert!(reply.to_vec() == long(*i), "reply {i}");
    }
    within_long("close", || channel.close(LONG)).unwrap();
    assert!(kept.into_iter().all(|(i, _, reply)| reply.into_vec() == long(i)));
    assert_eq!(channel.stats().leases_held, 0);
}

fn requests_that_do_not_fit_the_ring_wait_for_room_or_time_out(backend: Backend) {
    let channel = backend.ready(tiny(4 << 10).build().unwrap());
    let busy = backend.occupy(&channel);
    let timeout = Duration::from_millis(50);
    let mut queued = Vec::new();
    let error = loop {
        match channel.submit(ECHO, &[7; 1500], timeout) {
            Ok(pending) => queued.push(pending),
            Err(error) => break error,
        }
        assert!(queued.len() < 4, "more than the ring holds");
    };
    assert!(error.is_timeout(), "{error}");
    assert!(error.to_string().contains("request ring"), "{error}");
    // Messages that get stuck half-sent are abandoned.
    for _ in 0..3 {
        let error = channel.call(ECHO, &[8; 50_000], timeout).unwrap_err();
        assert!(error.is_timeout(), "{error}");
    }
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| channel.call(ECHO, &[9; 1500], LONG).unwrap().into_vec());
        std::thread::sleep(timeout);
        assert!(!waiting.is_finished(), "there is no room");
        busy.release();
        assert_eq!(waiting.join().unwrap(), [9; 1500]);
    });
    drop(queued);
    assert_eq!(channel.in_flight(), 0);
    assert_usable(&channel);
}

fn long_messages_that_time_out_half_sent_use_up_no_places(backend: Backend) {
    let config = tiny(4 << 10).max_in_flight(16).build().unwrap();
    let channel = backend.ready(config);
    for round in 0..30 {
        let busy = backend.occupy(&channel);
        let error = channel.call(ECHO, &[8; 50_000], Duration::from_millis(5)).unwrap_err();
        assert!(error.is_timeout(), "round {round}: {error}");
        busy.release();
        assert_usable(&channel);
    }
    assert_eq!(channel.in_flight(), 0);
}

fn a_waiter_whose_time_is_up_does_not_take_the_readers_role_with_it(backend: Backend) {
    // Two threads wait at the same time, one of them only briefly, so that the reader of the ring
    // changes all the time. The other thread must not be left waiting for long.
    let channel = backend.ready(Config::default());
    let stop = AtomicBool::new(false);
    let mut times: Vec<Duration> = std::thread::scope(|scope| {
        let (stop, channel) = (&stop, &channel);
        for _ in 0..2 {
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let _ = channel.call(NAP, &encode(&[300, 0]), Duration::from_micros(200));
                }
            });
        }
        let times = (0..5000_u64).map(|i| {
            let start = Instant::now();
            let reply = channel.call(ECHO, &encode(&[i]), LONG).unwrap();
            assert_eq!(numbers(&reply.to_vec()), [i]);
            start.elapsed()
        });
        let times = times.collect();
        stop.store(true, Ordering::Relaxed);
        times
    });
    times.sort();
    let slow = times.iter().filter(|time| **time > Duration::from_millis(900)).count();
    println!("p50 {:?} p99 {:?} max {:?}", times[2500], times[4950], times[4999]);
    assert_eq!(slow, 0, "calls that only the backstop of one second has ended");
}
