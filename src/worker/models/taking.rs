//! The thread that takes requests, which also sends what is owed.

use super::*;
use crate::ring::doorbell::Step;
use crate::sys::clock::Deadline;
use crate::worker::shared_sink::looks::{look_after_others, owes};

#[test]
fn an_ending_that_is_owed_as_its_thread_goes_to_sleep_goes_out() {
    model_up_to(PREEMPTIONS, || {
        let Rig { mut parent, worker } = rig(1, 1);
        worker.fill();
        let mut dropped = Some(worker.take(1));
        let sink = worker.sink;
        let waiting = thread::spawn(move || {
            let found = sink.wait_until(Deadline::IDLE, |step| {
                if step == Step::Announce {
                    return Ok(None);
                }
                look_after_others(&sink)?;
                // The first look finds nothing owed; the second is the last before the sleep.
                let is_first = dropped.take().map(drop).is_some();
                Ok((!is_first && !owes(&sink)).then_some(()))
            });
            assert!(found.unwrap().is_some());
        });
        parent.empty();
        assert_eq!(parent.receive(), (Kind::ERROR, 1));
        waiting.join().unwrap();
    });
}

#[test]
fn a_taker_that_sleeps_is_told_of_an_ending_that_is_owed() {
    model_up_to(ONE, || {
        let Rig { mut parent, worker } = rig(2, 2);
        worker.fill();
        let dropped = worker.take(1);
        let dropping = thread::spawn(move || drop(dropped));
        let taking = thread::spawn(move || {
            let Incoming { responder, .. } = worker.inbox.recv().unwrap();
            answer(responder);
        });
        parent.empty();
        assert_eq!(parent.receive(), (Kind::ERROR, 1));
        parent.send(2);
        assert_eq!(parent.receive(), (Kind::RESULT, 2));
        dropping.join().unwrap();
        taking.join().unwrap();
    });
}

#[test]
fn an_answer_wakes_the_taker_that_waits_at_the_limit() {
    model_up_to(FEWER, || {
        let Rig { mut parent, worker } = rig(2, 1);
        let first = worker.take(1);
        parent.send(2);
        let answering = thread::spawn(move || answer(first));
        let taking = thread::spawn(move || {
            let Incoming { responder, .. } = worker.inbox.recv().unwrap();
            answer(responder);
        });
        assert_eq!(parent.receive(), (Kind::RESULT, 1));
        assert_eq!(parent.receive(), (Kind::RESULT, 2));
        answering.join().unwrap();
        taking.join().unwrap();
    });
}

#[test]
fn two_threads_that_take_requests_get_one_each() {
    model_up_to(FEWER, || {
        let Rig { mut parent, worker } = rig(2, 2);
        let inbox = Arc::new(worker.inbox);
        let takers = [(); 2].map(|()| {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || inbox.recv().unwrap().responder)
        });
        parent.send(1);
        parent.send(2);
        let mut responders = takers.map(|taker| taker.join().unwrap());
        responders.sort_by_key(OwnedResponder::request);
        let requests = responders.each_ref().map(|responder| responder.request().get());
        assert_eq!(requests, [1, 2]);
        responders.into_iter().for_each(answer);
    });
}

#[test]
fn a_stop_ends_the_wait_for_a_request() {
    model_up_to(PREEMPTIONS, || {
        let Rig { parent, worker } = rig(1, 1);
        let Worker { inbox, stop, .. } = worker;
        let stopping = thread::spawn(move || stop.set());
        assert_eq!(inbox.recv().map(drop).unwrap_err().kind(), ErrorKind::Closed);
        stopping.join().unwrap();
        drop(parent);
    });
}

#[test]
fn a_stop_ends_the_wait_for_room() {
    model_up_to(PREEMPTIONS, || {
        let Rig { parent, worker } = rig(1, 1);
        worker.fill();
        let responder = worker.take(1);
        let stop = Arc::clone(&worker.stop);
        let stopping = thread::spawn(move || stop.set());
        assert_eq!(responder.send(&byte(1)).unwrap_err().kind(), ErrorKind::Cancelled);
        stopping.join().unwrap();
        drop(parent);
    });
}
