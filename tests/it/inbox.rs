//! A worker that takes many requests and answers them in any order.

use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use crate::common::*;
use slipring::worker::{HandlerError, Inbox, Incoming, TrySend, Worker};
use slipring::{
    Channel, Config, ErrorKind, Kind, RequestStage, RoleConfig, StreamTimeouts, WorkerState,
    testing,
};

const WORK: Kind = Kind::named("work");

/// A channel to a worker thread whose requests `body` serves.
fn channel(
    config: &Config,
    body: impl FnOnce(&Arc<Inbox>) -> Result<(), HandlerError> + Send + 'static,
) -> Channel {
    let make = move || Worker::new(|_| Ok(())).inbox(move |(), inbox| body(inbox));
    testing::spawn_thread(config, RoleConfig::default(), make).unwrap()
}

/// A channel to a worker thread that hands all requests over to the test.
fn handing_over(config: &Config) -> (Channel, mpsc::Receiver<Incoming>) {
    let (give, given) = mpsc::channel();
    let channel = channel(config, move |inbox| {
        loop {
            give.send(inbox.recv()?)?;
        }
    });
    (channel, given)
}

#[test]
fn answers_come_in_any_order_from_any_thread() {
    let (channel, given) = handing_over(&Config::small());
    let pending: Vec<_> =
        (0..8_u64).map(|n| channel.submit(WORK, &n.to_le_bytes(), LONG).unwrap()).collect();
    let mut taken: Vec<Incoming> = (0..8).map(|_| given.recv().unwrap()).collect();
    taken.reverse();
    let threads = taken.into_iter().map(|Incoming { request, responder }| {
        thread::spawn(move || responder.send(&request.get().to_vec()).unwrap())
    });
    threads.for_each(|thread| thread.join().unwrap());
    for (n, pending) in pending.into_iter().enumerate() {
        assert_eq!(pending.wait().unwrap().to_vec(), (n as u64).to_le_bytes());
    }
    channel.close(LONG).unwrap();
}

#[test]
fn a_responder_knows_how_long_an_answer_can_be() {
    let (channel, given) = handing_over(&Config::small());
    let pending = channel.submit(WORK, "", LONG).unwrap();
    let Incoming { responder, .. } = given.recv().unwrap();
    assert_eq!(responder.max_message(), channel.config().max_message());
    assert!(responder.max_frame() < responder.max_message());
    // From a thread of its own: it waits for room until the reply is read.
    let longest = vec![7; responder.max_message()];
    let sends = thread::spawn(move || responder.send(&longest).unwrap());
    assert_eq!(pending.wait().unwrap().len(), channel.config().max_message());
    sends.join().unwrap();
    channel.close(LONG).unwrap();
}

#[test]
fn a_responder_that_is_dropped_ends_its_request_alone() {
    let (channel, given) = handing_over(&Config::small());
    let lost = channel.submit(WORK, "lost", LONG).unwrap();
    let kept = channel.submit(WORK, "kept", LONG).unwrap();
    let first = given.recv().unwrap();
    thread::spawn(move || drop(first)).join().unwrap();
    let error = lost.wait().unwrap_err();
    assert_eq!(error.handler_failure().unwrap().type_name, "slipring::NoReply");
    given.recv().unwrap().responder.send("here").unwrap();
    assert_eq!(kept.wait().unwrap().to_vec(), b"here");
}

#[test]
fn health_tells_what_is_taken_and_what_is_begun() {
    let (channel, given) = handing_over(&Config::small());
    channel.wait_ready(LONG).unwrap();
    assert_eq!(channel.health().state, WorkerState::Idle);
    let pending: Vec<_> = (0..3).map(|_| channel.submit(WORK, "", LONG).unwrap()).collect();
    let mut taken: Vec<Incoming> = (0..3).map(|_| given.recv().unwrap()).collect();
    taken[1].responder.begin();
    taken[1].responder.set_progress(7);
    for health in [channel.health(), channel.ping(LONG).unwrap()] {
        assert_eq!((health.state, health.taken, health.begun), (WorkerState::Busy, 2, 1));
        assert_eq!((health.current_request, health.progress), (Some(pending[1].id()), 7));
        let stages = health.requests.iter().map(|request| (request.id, request.stage));
        let (queued, begun) = (RequestStage::Taken, RequestStage::Begun);
        let mut stages: Vec<_> = stages.collect();
        stages.sort_by_key(|(id, _)| *id);
        let expected = [(0, queued), (1, begun), (2, queued)];
        assert_eq!(stages, expected.map(|(n, stage)| (pending[n].id(), stage)));
    }
    for Incoming { responder, .. } in taken {
        responder.send("").unwrap();
    }
    for pending in pending {
        pending.wait().unwrap();
    }
    eventually("it is idle", || channel.health().state == WorkerState::Idle);
    // The question whether it is ready was one, too.
    assert_eq!(channel.health().requests_served, 4);
}

/// As [`handing_over`], of a worker that takes no more than `most` at a time.
fn handing_over_at_most(most: usize) -> (Channel, mpsc::Receiver<Incoming>) {
    let (give, given) = mpsc::channel();
    let make = move || {
        Worker::new(|_| Ok(())).max_taken(most).inbox(move |(), inbox| {
            loop {
                give.send(inbox.recv()?)?;
            }
        })
    };
    (testing::spawn_thread(&Config::small(), RoleConfig::default(), make).unwrap(), given)
}

#[test]
fn a_timeout_says_where_its_request_was_and_of_how_many_others() {
    let (channel, given) = handing_over_at_most(4);
    let timeout = Duration::from_secs(1);
    let pending: Vec<_> = (0..6).map(|_| channel.submit(WORK, "", timeout).unwrap()).collect();
    let first = pending[0].id();
    let mut taken: Vec<Incoming> = (0..4).map(|_| given.recv().unwrap()).collect();
    taken[0].responder.begin();
    taken[1].responder.begin();
    let busy = format!("the worker has been busy with request {first} for");
    let served = "the worker has been busy with it for";
    let (one, two) =
        (" ms and with another one, and has taken another one", "and has taken 2 others");
    let told = [
        [served, " ms and with another one", two],
        [served, " ms and with another one", two],
        ["the worker had taken it and not begun it", &busy, one],
        ["the worker had taken it and not begun it", &busy, one],
        ["it had not been taken out of the request ring", &busy, two],
        ["it had not been taken out of the request ring", &busy, two],
    ];
    for (pending, parts) in pending.into_iter().zip(told) {
        let error = pending.wait().unwrap_err();
        let is_begun = parts[0] == served;
        assert_eq!(error.stage(), is_begun.then_some(RequestStage::Begun), "{error}");
        for part in parts {
            assert!(error.to_string().contains(part), "{part} is missing in: {error}");
        }
    }
    let left = taken.split_off(2);
    drop(taken);
    let error = channel.call(WORK, "", Duration::from_millis(40)).unwrap_err();
    assert!(
        error.to_string().contains("the worker has begun no request, and has taken"),
        "{error}"
    );
    drop(left);
}

#[test]
fn what_is_over_the_limit_waits_in_the_ring_in_order() {
    let (channel, given) = handing_over_at_most(2);
    let pending: Vec<_> = (0..6_u8).map(|n| channel.submit(WORK, &[n], LONG).unwrap()).collect();
    let mut held: Vec<Incoming> = (0..2).map(|_| given.recv().unwrap()).collect();
    assert!(given.recv_timeout(Duration::from_millis(50)).is_err(), "two is the limit");
    assert_eq!(channel.health().taken, 2);
    for n in 0..6_u8 {
        let Incoming { request, responder } = held.remove(0);
        assert_eq!(request.get().to_vec(), [n]);
        responder.send(&[n]).unwrap();
        if n < 4 {
            held.push(given.recv().unwrap());
        }
    }
    for (n, pending) in pending.into_iter().enumerate() {
        assert_eq!(pending.wait().unwrap().to_vec(), [n as u8]);
    }
}

#[test]
fn a_stream_whose_reader_does_not_read_holds_up_no_other() {
    let (channel, given) = handing_over(&Config::small());
    let stuck = channel.stream(WORK, "", StreamTimeouts::default()).unwrap();
    let mut read = channel.stream(WORK, "", StreamTimeouts::default()).unwrap();
    let mut first = given.recv().unwrap().responder;
    let mut second = given.recv().unwrap().responder;
    let chunk = [1; 100];
    let mut sent = 0_u64;
    while first.try_send_chunk(&chunk).unwrap() {
        sent += 1;
    }
    assert!(sent * 192 <= channel.config().stream_window() as u64, "{sent} chunks");
    for n in 0..1000_u64 {
        second.send_chunk(&n.to_le_bytes()).unwrap();
        assert_eq!(read.next_chunk().unwrap().unwrap().to_vec(), n.to_le_bytes());
    }
    second.end().unwrap();
    assert!(read.next_chunk().unwrap().is_none());
    drop(stuck);
    eventually("it is cancelled", || first.is_cancelled());
    let error = first.try_send_chunk(&chunk).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    first.fail(error);
    eventually("both are over", || channel.health().requests_served == 2);
}

#[test]
fn a_slot_is_filled_by_another_thread_and_one_that_is_dropped_is_skipped() {
    let (channel, given) = handing_over(&Config::small());
    let pending: Vec<_> = (0..3_u8).map(|n| channel.submit(WORK, &[n], LONG).unwrap()).collect();
    let mut slots: Vec<_> =
        (0..3).map(|_| given.recv().unwrap().responder.claim(100).unwrap()).collect();
    // The last one first.
    for n in [2_u8, 0] {
        let mut slot = slots.remove(usize::from(n));
        thread::spawn(move || {
            slot.payload().fill(n);
            slot.send().unwrap();
        })
        .join()
        .unwrap();
    }
    drop(slots);
    let answers: Vec<_> = pending.into_iter().map(|pending| pending.wait()).collect();
    for n in [0_u8, 2] {
        assert_eq!(answers[usize::from(n)].as_ref().unwrap().to_vec(), [n; 100]);
    }
    let error = answers[1].as_ref().unwrap_err();
    assert_eq!(error.handler_failure().unwrap().type_name, "slipring::NoReply");
    assert_eq!(channel.stats().unknown_frames, 0);
}

#[test]
fn a_parent_that_waits_for_a_slot_bears_any_number_of_frames_behind_it() {
    let (channel, given) = handing_over(&Config::default());
    let stream = channel.stream(WORK, "", StreamTimeouts::default()).unwrap();
    let mut chunks = given.recv().unwrap().responder;
    let pending = channel.submit(WORK, "", LONG).unwrap();
    let slot = given.recv().unwrap().responder.claim(0).unwrap();
    let waiting = thread::spawn(move || pending.wait().map(drop));
    eventually("the parent sleeps", || channel.stats().parks > 0);
    // More than the parent would take for rings without a reason.
    for _ in 0..5000 {
        assert!(chunks.try_send_chunk("").unwrap());
    }
    slot.send().unwrap();
    waiting.join().unwrap().unwrap();
    drop((stream, chunks));
}

#[test]
fn progress_of_a_request_that_has_ended_is_not_that_of_a_later_one() {
    let config = Config::small().to_builder().max_in_flight(1).build().unwrap();
    let (channel, given) = handing_over(&config);
    let first = channel.submit(WORK, "", LONG).unwrap();
    let Incoming { request, responder } = given.recv().unwrap();
    responder.send("").unwrap();
    first.wait().unwrap();
    let second = channel.submit(WORK, "", LONG).unwrap();
    let mut responder = given.recv().unwrap().responder;
    responder.begin();
    responder.set_progress(7);
    request.get().set_progress(1);
    assert_eq!(channel.health().progress, 7);
    responder.send("").unwrap();
    second.wait().unwrap();
}

#[test]
fn progress_that_is_set_before_a_request_begins_stays() {
    let (channel, given) = handing_over(&Config::small());
    let pending = channel.submit(WORK, "", LONG).unwrap();
    let mut responder = given.recv().unwrap().responder;
    let shown = || {
        let shown = channel.health().requests.remove(0);
        (shown.stage, shown.progress)
    };
    assert_eq!(shown(), (RequestStage::Taken, 0));
    responder.set_progress(26);
    assert_eq!(shown(), (RequestStage::Taken, 26));
    responder.begin();
    assert_eq!(shown(), (RequestStage::Begun, 26));
    responder.send("").unwrap();
    pending.wait().unwrap();
}

#[test]
fn a_drop_without_room_does_not_wait_and_its_error_comes_later() {
    let (channel, given) = handing_over(&Config::small());
    // Nothing is read, so that the reply ring fills up.
    let mut pending = Vec::new();
    let full = loop {
        pending.push(channel.submit(WORK, "", LONG).unwrap());
        let responder = given.recv().unwrap().responder;
        if let TrySend::Full(responder) = responder.try_send(&[7; 1000]).unwrap() {
            break responder;
        }
    };
    let also = channel.submit(WORK, "", LONG).unwrap();
    let other = given.recv().unwrap().responder;
    drop(full);
    other.fail("no room for this one either");
    let last = pending.pop().unwrap();
    for pending in pending {
        assert_eq!(pending.wait().unwrap().to_vec(), [7; 1000]);
    }
    assert_eq!(last.wait().unwrap_err().handler_failure().unwrap().type_name, "slipring::NoReply");
    let error = also.wait().unwrap_err();
    assert_eq!(error.handler_failure().unwrap().message, "no room for this one either");
}

#[test]
fn the_end_of_a_stream_does_not_wait_for_room() {
    let (channel, given) = handing_over(&Config::small());
    let stream = channel.stream(WORK, "", StreamTimeouts::default()).unwrap();
    let mut responder = given.recv().unwrap().responder;
    responder.send_chunk("a chunk").unwrap();
    // Nothing is read, so that the reply ring fills up.
    let mut pending = Vec::new();
    let full = loop {
        pending.push(channel.submit(WORK, "", LONG).unwrap());
        if let TrySend::Full(responder) =
            given.recv().unwrap().responder.try_send(&[7; 4000]).unwrap()
        {
            break responder;
        }
    };
    // Nor is there room for a frame without a payload.
    let mut others = Vec::new();
    let still_full = loop {
        others.push(channel.submit(WORK, "", LONG).unwrap());
        if let TrySend::Full(responder) = given.recv().unwrap().responder.try_send("").unwrap() {
            break responder;
        }
    };
    within_long("an end without room", || responder.end().unwrap());
    let chunks: Vec<_> = stream.map(|chunk| chunk.unwrap().to_vec()).collect();
    assert_eq!(chunks, [b"a chunk"]);
    full.send("").unwrap();
    still_full.send("").unwrap();
    for pending in pending.into_iter().chain(others) {
        pending.wait().unwrap();
    }
}

#[test]
fn requests_that_the_session_holds_end_with_the_error_of_the_body() {
    let make = || {
        Worker::new(|_| Ok(Vec::new())).inbox(|held, inbox| {
            held.push(inbox.recv()?);
            Err("the model is gone".into())
        })
    };
    let channel = testing::spawn_thread(&Config::small(), RoleConfig::default(), make).unwrap();
    let error = channel.call(WORK, "", LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HandlerFailed, "{error}");
    assert_eq!(error.handler_failure().unwrap().message, "the model is gone");
    let error = channel.call(WORK, "", LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Session, "{error}");
}

#[test]
fn threads_that_wait_for_room_get_it_in_turn_and_all_arrive() {
    let (channel, given) = handing_over(&Config::small());
    let pending: Vec<_> = (0..64_u8).map(|n| channel.submit(WORK, &[n], LONG).unwrap()).collect();
    let threads: Vec<_> = (0..64)
        .map(|_| {
            let Incoming { request, responder } = given.recv().unwrap();
            let n = request.get().to_vec()[0];
            // From a few bytes to several pieces.
            let len = usize::from(n) * 500;
            thread::spawn(move || responder.send(&vec![n; len]).unwrap())
        })
        .collect();
    for (n, pending) in pending.into_iter().enumerate() {
        assert_eq!(pending.wait().unwrap().to_vec(), vec![n as u8; n * 500]);
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_lease_is_backpressure_until_it_is_copied() {
    let held = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&held);
    let channel = channel(&Config::small(), move |inbox| {
        inbox.lease_payloads(true)?;
        loop {
            let Incoming { request, responder } = inbox.recv()?;
            assert!(request.is_leased());
            responder.send("")?;
            keep.lock().unwrap().push(request);
        }
    });
    let mut sent = 0_u8;
    let error = loop {
        match channel.call(WORK, &[sent; 900], Duration::from_millis(200)) {
            Ok(_) => sent += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    for (n, request) in held.lock().unwrap().iter_mut().enumerate() {
        assert_eq!(request.get().to_vec(), [n as u8; 900]);
        request.copy_payload();
        assert!(!request.is_leased());
        assert_eq!(request.get().to_vec(), [n as u8; 900]);
    }
    channel.call(WORK, &[0; 900], LONG).unwrap();
}

#[test]
fn the_inbox_can_be_looked_at_without_taking_anything() {
    let (tell, told) = mpsc::channel();
    let (start, started) = mpsc::channel();
    let channel = channel(&Config::small(), move |inbox| {
        assert!(inbox.recv_timeout(Duration::from_millis(1))?.is_none());
        start.send(())?;
        let peeked = loop {
            if let Some(peeked) = inbox.peek()? {
                break peeked;
            }
        };
        tell.send((peeked.kind(), peeked.len(), peeked.is_stream(), peeked.time_left()))?;
        let mut taken = Vec::new();
        while taken.len() < 3 {
            let missing = 3 - taken.len();
            inbox.try_recv_many(&mut taken, missing)?;
        }
        for Incoming { responder, .. } in taken {
            responder.send("")?;
        }
        Ok(())
    });
    started.recv().unwrap();
    let pending: Vec<_> = (0..3).map(|_| channel.submit(WORK, "four", LONG).unwrap()).collect();
    let (kind, len, is_stream, time_left) = told.recv().unwrap();
    assert_eq!((kind, len, is_stream), (WORK, 4, false));
    assert!(time_left <= LONG && time_left > LONG / 2);
    for pending in pending {
        pending.wait().unwrap();
    }
}

#[test]
fn expired_and_cancelled_requests_are_not_handed_out() {
    let (start, started) = mpsc::channel::<()>();
    let (give, given) = mpsc::channel();
    let channel = channel(&Config::small(), move |inbox| {
        started.recv()?;
        loop {
            give.send(inbox.recv()?)?;
        }
    });
    let cancelled = channel.submit(WORK, "cancelled", LONG).unwrap();
    cancelled.cancel();
    let expired = channel.call(WORK, "expired", Duration::from_millis(20)).unwrap_err();
    assert_eq!(expired.kind(), ErrorKind::Timeout);
    let wanted = channel.submit(WORK, "wanted", LONG).unwrap();
    start.send(()).unwrap();
    let Incoming { request, responder } = given.recv().unwrap();
    assert_eq!(request.get().text().unwrap(), "wanted");
    responder.send("").unwrap();
    wanted.wait().unwrap();
    assert_eq!(cancelled.wait().unwrap_err().kind(), ErrorKind::Cancelled);
}

#[test]
fn an_error_of_the_body_is_told_and_ends_the_channel() {
    let channel = channel(&Config::small(), |inbox| {
        let _taken = inbox.recv()?;
        Err("the model is gone".into())
    });
    let error = channel.call(WORK, "", LONG).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Session | ErrorKind::HandlerFailed), "{error}");
    let error = channel.call(WORK, "", LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Session, "{error}");
    assert!(error.to_string().contains("the model is gone"), "{error}");
}

#[test]
fn what_is_published_behind_a_slot_that_is_not_rings_no_bell() {
    let (channel, given) = handing_over(&Config::default());
    let first = channel.submit(WORK, "", LONG).unwrap();
    let mut stream = channel.stream(WORK, "", StreamTimeouts::default()).unwrap();
    let mut slot = given.recv().unwrap().responder.claim(4).unwrap();
    let mut other = given.recv().unwrap().responder;
    let waits = thread::spawn(move || first.wait());
    // The reader announces that it waits for the slot.
    thread::sleep(Duration::from_millis(50));
    // A peer that rings its bell more than a thousand times for nothing is corrupt.
    for _ in 0..1500 {
        assert!(other.try_send_chunk("").unwrap());
    }
    // It counts when it looks at the bell again.
    thread::sleep(Duration::from_millis(50));
    slot.payload().fill(7);
    slot.send().unwrap();
    assert_eq!(waits.join().unwrap().unwrap().to_vec(), [7; 4]);
    other.end().unwrap();
    for _ in 0..1500 {
        assert!(stream.next_chunk().unwrap().is_some());
    }
    assert!(stream.next_chunk().unwrap().is_none());
}
