//! Close, death and corruption while threads wait.

use super::*;

#[test]
fn close_ends_the_wait_of_a_caller() {
    model_up_to(PREEMPTIONS, || {
        let mut rig = rig(1);
        let pending = rig.submit();
        let state = Arc::clone(&rig.core.state);
        let closing = thread::spawn(move || assert!(state.close()));
        assert_eq!(pending.wait().unwrap_err().kind(), ErrorKind::Closed);
        closing.join().unwrap();
        assert_eq!(rig.core.in_flight(), 0);
    });
}

#[test]
fn close_ends_the_waits_of_a_reader_and_its_follower() {
    model_up_to(FEWER, || {
        let mut rig = rig(2);
        let (first, second) = (rig.submit(), rig.submit());
        let state = Arc::clone(&rig.core.state);
        let closing = thread::spawn(move || assert!(state.close()));
        let waiting = thread::spawn(move || second.wait().unwrap_err().kind());
        assert_eq!(first.wait().unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(waiting.join().unwrap(), ErrorKind::Closed);
        closing.join().unwrap();
        assert_eq!(rig.core.in_flight(), 0);
    });
}

#[test]
fn close_ends_the_wait_for_room() {
    model_up_to(FEWER, || {
        let ChannelRig { core, worker } = rig(2);
        let first = submit_longest(&core);
        let state = Arc::clone(&core.state);
        let closing = thread::spawn(move || assert!(state.close()));
        let sending = thread::spawn({
            let core = Arc::clone(&core);
            move || {
                let payload = [0; LONGEST];
                let sent = send_call(&core, &payload);
                assert_eq!(sent.unwrap_err().kind(), ErrorKind::Closed);
            }
        });
        assert_eq!(first.wait().unwrap_err().kind(), ErrorKind::Closed);
        sending.join().unwrap();
        closing.join().unwrap();
        assert_eq!(core.in_flight(), 0);
        drop(worker);
    });
}

#[test]
fn a_reply_that_was_sent_before_the_end_is_delivered() {
    model_up_to(PREEMPTIONS, || {
        let mut rig = rig(1);
        let pending = rig.submit();
        let ChannelRig { core, mut worker } = rig;
        let state = Arc::clone(&core.state);
        let dying = thread::spawn(move || {
            worker.reply(1);
            assert!(state.note_death());
            worker
        });
        wait(pending);
        drop(dying.join().unwrap());
        check_over(&core, 1, 0);
    });
}

#[test]
fn a_caller_that_was_answered_before_the_end_is_not_told_of_it() {
    model_up_to(FEWER, || {
        let mut rig = rig(2);
        let (first, second) = (rig.submit(), rig.submit());
        let ChannelRig { core, mut worker } = rig;
        worker.reply(2);
        let state = Arc::clone(&core.state);
        let dying = thread::spawn(move || {
            assert!(state.note_death());
            worker
        });
        let waiting = thread::spawn(move || wait(second));
        assert_eq!(first.wait().unwrap_err().kind(), ErrorKind::PeerDied);
        waiting.join().unwrap();
        drop(dying.join().unwrap());
        assert_eq!(core.in_flight(), 0);
    });
}

#[test]
fn the_first_cause_is_what_all_threads_are_told() {
    model_up_to(PREEMPTIONS, || {
        let mut rig = rig(1);
        let pending = rig.submit();
        let state = Arc::clone(&rig.core.state);
        let closing = thread::spawn({
            let state = Arc::clone(&state);
            move || state.close()
        });
        let failing = thread::spawn({
            let state = Arc::clone(&state);
            move || state.fail(Error::corrupt("garbage"))
        });
        let told = pending.wait().unwrap_err().kind();
        let (has_closed, has_failed) = (closing.join().unwrap(), failing.join().unwrap());
        assert!(has_closed != has_failed, "one cause");
        let cause = if has_failed { ErrorKind::PeerCorrupt } else { ErrorKind::Closed };
        assert_eq!((told, state.why_over_now(None).kind()), (cause, cause));
    });
}
