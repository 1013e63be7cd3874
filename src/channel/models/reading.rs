//! A thread that waits reads for all, and no thread sleeps while none reads.

use super::*;

#[test]
fn a_caller_is_woken_for_its_reply() {
    model_up_to(PREEMPTIONS, || {
        let ChannelRig { core, mut worker } = rig(1);
        let pending = submit(&core, Duration::MAX);
        let serving = thread::spawn(move || {
            let request = worker.take();
            worker.reply(request);
            worker
        });
        wait(pending);
        drop(serving.join().unwrap());
        check_over(&core, 1, 0);
    });
}

#[test]
fn a_thread_that_finds_the_turn_taken_is_woken_when_it_is_free() {
    model_up_to(PREEMPTIONS, || {
        let mut rig = rig(1);
        let pending = rig.submit();
        let ChannelRig { core, mut worker } = rig;
        worker.reply(pending.request());
        // Stands for a thread that reads for others and stops.
        let reader = core.receiver.try_turn();
        let waiting = thread::spawn(move || wait(pending));
        drop(reader);
        hand_over(&core);
        waiting.join().unwrap();
        check_over(&core, 1, 0);
    });
}

#[test]
fn a_thread_that_reads_on_gives_others_what_is_theirs() {
    model_up_to(PREEMPTIONS, || {
        let mut rig = rig(2);
        let (first, second) = (rig.submit(), rig.submit());
        let ChannelRig { core, mut worker } = rig;
        worker.reply(second.request());
        let waiting = thread::spawn(move || {
            wait(second);
            // The other thread waits until then, whichever of them reads.
            worker.reply(1);
            worker
        });
        wait(first);
        drop(waiting.join().unwrap());
        check_over(&core, 2, 0);
    });
}

#[test]
fn two_callers_get_their_replies_whichever_reads() {
    model_up_to(FEWER, || {
        let mut rig = rig(2);
        let (first, second) = (rig.submit(), rig.submit());
        let ChannelRig { core, mut worker } = rig;
        let serving = thread::spawn(move || {
            worker.reply(1);
            worker.reply(2);
            worker
        });
        let waiting = thread::spawn(move || wait(second));
        wait(first);
        waiting.join().unwrap();
        drop(serving.join().unwrap());
        check_over(&core, 2, 0);
    });
}

#[test]
fn a_reply_that_is_read_for_a_caller_whose_time_is_up_ends_it_once() {
    model_up_to(PREEMPTIONS, || {
        let ChannelRig { core, mut worker } = rig(2);
        let (first, second) = (submit(&core, Duration::MAX), submit(&core, SOON));
        let requests = [worker.take(), worker.take()];
        worker.reply(requests[1]);
        let waiting = thread::spawn(move || {
            let found = second.wait().map_err(|error| error.kind());
            worker.reply(requests[0]);
            (found.map(|reply| reply.to_vec()), worker)
        });
        wait(first);
        let (found, worker) = waiting.join().unwrap();
        match found {
            Ok(reply) => assert_eq!(reply, [2]),
            Err(kind) => assert_eq!(kind, ErrorKind::Timeout),
        }
        let late = core.pending.counters.cancels.load(Ordering::Relaxed);
        check_over(&core, 2, late);
        drop(worker);
    });
}

#[test]
fn a_thread_that_was_woken_to_read_but_leaves_wakes_another() {
    model_up_to(FEWER, || {
        let mut rig = rig(2);
        let (first, second) = (rig.submit(), rig.submit());
        let ChannelRig { core, mut worker } = rig;
        worker.reply(second.request());
        let reader = core.receiver.try_turn();
        let leaving = thread::spawn({
            let (core, request) = (Arc::clone(&core), first.request());
            move || {
                let soon = WaitLimit::Until(Deadline::after(SOON));
                let want = Want::Reply(request);
                let found = wait_for_item(&core, want, soon, &mut false).unwrap();
                assert!(found.is_none(), "a reply that was not sent");
            }
        });
        let waiting = thread::spawn(move || wait(second));
        drop(reader);
        hand_over(&core);
        leaving.join().unwrap();
        waiting.join().unwrap();
        drop((first, worker));
    });
}

#[test]
fn a_thread_that_waits_for_room_is_woken_by_the_reader() {
    model_up_to(FEWER, || {
        let ChannelRig { core, mut worker } = rig(2);
        let first = submit_longest(&core);
        let serving = thread::spawn(move || {
            let first = worker.take();
            // The reader waits until the other thread's frame has found room.
            worker.take();
            worker.reply(first);
            worker
        });
        let sending = thread::spawn({
            let core = Arc::clone(&core);
            move || drop(submit_longest(&core))
        });
        wait(first);
        sending.join().unwrap();
        drop(serving.join().unwrap());
    });
}
