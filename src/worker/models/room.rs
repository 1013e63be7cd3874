//! Threads that wait for room or for credit.

use super::*;
use crate::channel::testing::{LONGEST, config, consume, core_over, open_stream, sides};

#[test]
fn two_threads_that_wait_for_room_get_it_in_turn() {
    model_up_to(ONE, || {
        let Rig { mut parent, worker } = rig(2, 2);
        worker.fill();
        let [first, second] = [1, 2].map(|request| worker.take(request));
        let waiting = thread::spawn(move || first.send(&[1; LONGEST]).unwrap());
        let also_waiting = thread::spawn(move || answer(second));
        parent.empty();
        let mut found = [parent.receive(), parent.receive()];
        found.sort_by_key(|(_, request)| *request);
        assert_eq!(found, [(Kind::RESULT, 1), (Kind::RESULT, 2)]);
        waiting.join().unwrap();
        also_waiting.join().unwrap();
    });
}

#[test]
fn a_thread_that_is_cancelled_as_it_waits_for_room_wakes_the_next() {
    model_up_to(ONE, || {
        let Rig { mut parent, worker } = rig(2, 2);
        worker.fill();
        let [mut first, second] = [1, 2].map(|request| worker.take(request));
        let waiting = thread::spawn(move || {
            let sent = first.send_chunk(&byte(1)).map_err(|error| error.kind());
            assert!([Ok(()), Err(ErrorKind::Cancelled)].contains(&sent));
            // Not ended yet: the end would wake the other thread, too.
            first
        });
        let also_waiting = thread::spawn(move || answer(second));
        parent.cancel(1);
        parent.empty();
        also_waiting.join().unwrap();
        drop(waiting.join().unwrap());
        let mut found = Vec::new();
        while !found.contains(&(Kind::CANCEL, 1)) {
            found.push(parent.receive());
        }
        found.retain(|frame| *frame != (Kind::CHUNK, 1));
        assert_eq!(found, [(Kind::RESULT, 2), (Kind::CANCEL, 1)]);
    });
}

#[test]
fn a_credit_wakes_a_stream_that_waits_for_it() {
    model_up_to(PREEMPTIONS, || {
        // A window of one chunk.
        let config = crate::Config { stream_window: 64, ..config(1) };
        let (parent, worker) = sides(&config, [None, None]);
        let core = core_over(parent, &config, None);
        let worker = Worker::over(worker, &config, 1);
        let request = open_stream(&core);
        let mut responder = worker.take(request);
        responder.send_chunk(&byte(request)).unwrap();
        let streaming = thread::spawn(move || {
            responder.send_chunk(&byte(request)).unwrap();
            responder
        });
        consume(&core, request, 64);
        streaming.join().unwrap().end().unwrap();
    });
}

#[test]
fn a_cancel_ends_a_wait_for_credit() {
    model_up_to(PREEMPTIONS, || {
        let Rig { mut parent, worker } = rig(1, 1);
        let mut responder = worker.take(1);
        for _ in 0..3 {
            responder.send_chunk(&byte(1)).unwrap();
            assert_eq!(parent.receive(), (Kind::CHUNK, 1));
        }
        // The fourth chunk fills the window.
        responder.send_chunk(&byte(1)).unwrap();
        let streaming = thread::spawn(move || {
            let error = responder.send_chunk(&byte(1)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Cancelled);
            responder.fail(error);
        });
        parent.cancel(1);
        assert_eq!(parent.receive(), (Kind::CHUNK, 1));
        assert_eq!(parent.receive(), (Kind::CANCEL, 1));
        streaming.join().unwrap();
        assert!(parent.is_done(), "the end comes once");
    });
}
