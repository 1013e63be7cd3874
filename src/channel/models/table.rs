//! What becomes of requests that are dropped, and of their entries.

use super::*;
use crate::protocol::kind::flags;

#[test]
fn a_reply_and_a_timeout_end_a_request_once() {
    model_up_to(PREEMPTIONS, || {
        let ChannelRig { core, mut worker } = rig(1);
        let pending = submit(&core, SOON);
        let request = worker.take();
        let serving = thread::spawn(move || {
            worker.reply(request);
            worker
        });
        let late = match pending.wait() {
            Ok(reply) => {
                assert_eq!(reply.to_vec(), [1]);
                0
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Timeout);
                1
            }
        };
        let mut worker = serving.join().unwrap();
        if late == 1 {
            assert!(worker.is_cancelled(request), "the worker is told");
            let error = core.pending.open(false).expect_err("the entry is taken");
            assert_eq!(error.kind(), ErrorKind::TooManyInFlight);
            read(&core);
        }
        // The entry's next request.
        let next = submit(&core, Duration::MAX);
        let request = worker.take();
        assert!(!worker.is_cancelled(request), "the cancel was for another");
        worker.reply(request);
        wait(next);
        check_over(&core, 1, late);
    });
}

#[test]
fn a_reply_that_is_read_while_its_request_is_dropped_is_late() {
    model_up_to(PREEMPTIONS, || {
        let mut rig = rig(1);
        let pending = rig.submit();
        let ChannelRig { core, mut worker } = rig;
        worker.reply(pending.request());
        let reading = thread::spawn({
            let core = Arc::clone(&core);
            move || read(&core)
        });
        drop(pending);
        reading.join().unwrap();
        read(&core);
        let next = submit(&core, Duration::MAX);
        let request = worker.take();
        worker.reply(request);
        wait(next);
        let late = core.pending.counters.late_frames.load(Ordering::Relaxed);
        let cancels = core.pending.counters.cancels.load(Ordering::Relaxed);
        assert_eq!(late, cancels, "only frames of dropped requests are late");
        check_over(&core, 1, late);
    });
}

#[test]
fn a_sender_that_finds_the_table_full_reads_that_requests_have_ended() {
    model_up_to(PREEMPTIONS, || {
        let mut rig = rig(1);
        drop(rig.submit());
        let ChannelRig { core, mut worker } = rig;
        worker.reply(1);
        let sent = send_call(&core, &[]);
        let sent = sent.expect("the entry is taken by a request that has ended");
        let next = pending(&core, sent);
        assert_eq!(worker.take(), next.request());
        worker.reply(next.request());
        wait(next);
        check_over(&core, 1, 1);
    });
}

#[test]
fn a_cancel_and_the_end_come_in_either_order() {
    model_up_to(PREEMPTIONS, || {
        let mut rig = rig(1);
        let pending = rig.submit();
        let ChannelRig { core, mut worker } = rig;
        let cancelling = thread::spawn({
            let core = Arc::clone(&core);
            move || core.pending.cancel(1)
        });
        let serving = thread::spawn(move || {
            let kind = if worker.is_cancelled(1) { Kind::CANCEL } else { Kind::RESULT };
            worker.send(kind, 0, 1);
            worker
        });
        match pending.wait() {
            Ok(reply) => assert_eq!(reply.to_vec(), [1]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Cancelled),
        }
        cancelling.join().unwrap();
        drop(serving.join().unwrap());
        check_over(&core, 1, 0);
    });
}

#[test]
fn a_cancel_wakes_a_worker_that_waits() {
    model_up_to(PREEMPTIONS, || {
        let mut rig = rig(1);
        let pending = rig.submit();
        let ChannelRig { core, mut worker } = rig;
        let serving = thread::spawn(move || {
            worker.await_cancel(1);
            worker.send(Kind::CANCEL, 0, 1);
            worker
        });
        pending.cancel();
        assert_eq!(pending.wait().unwrap_err().kind(), ErrorKind::Cancelled);
        drop(serving.join().unwrap());
        check_over(&core, 1, 0);
    });
}

#[test]
fn a_late_cancel_does_not_replace_that_of_the_entrys_next_request() {
    model_up_to(PREEMPTIONS, || {
        let mut rig = rig(1);
        let pending = rig.submit();
        let ChannelRig { core, mut worker } = rig;
        worker.reply(1);
        let cancelling = thread::spawn({
            let core = Arc::clone(&core);
            move || core.pending.cancel(1)
        });
        wait(pending);
        let next = submit(&core, Duration::MAX);
        next.cancel();
        cancelling.join().unwrap();
        assert!(worker.is_cancelled(next.request()), "a cancel that was given");
        drop(next);
    });
}

#[test]
fn a_drop_does_not_replace_the_cancel_of_the_entrys_next_request() {
    model_up_to(PREEMPTIONS, || {
        let mut rig = rig(1);
        let pending = rig.submit();
        let ChannelRig { core, mut worker } = rig;
        worker.reply(1);
        let leaving = thread::spawn(move || drop(pending));
        read(&core);
        // The entry is free only if the owner had dropped the request before.
        if let Ok(next) = send_call(&core, &[]) {
            core.pending.cancel(next);
            leaving.join().unwrap();
            assert!(worker.is_cancelled(next), "a cancel that was given");
        } else {
            leaving.join().unwrap();
        }
    });
}

#[test]
fn a_credit_never_takes_another_back() {
    model_up_to(PREEMPTIONS, || {
        let ChannelRig { core, mut worker } = rig(1);
        let stream = send_stream(&core);
        // A piece counts as consumed when any thread has read it.
        worker.send(Kind::CHUNK, flags::MORE, stream);
        let reading = thread::spawn({
            let core = Arc::clone(&core);
            move || read(&core)
        });
        core.pending.update_credit(stream, 128, true);
        reading.join().unwrap();
        assert_eq!(worker.credit(stream), 128 + 64, "all that was consumed");
    });
}
