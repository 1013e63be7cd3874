//! What the parent reads of a worker that may die at any step.

use super::*;
use crate::sync::AtomicU32;

#[test]
fn a_side_effect_is_seen_only_with_the_mark_that_tells_of_it() {
    model_up_to(PREEMPTIONS, || {
        let Rig { parent, worker } = rig(1, 1);
        let mut responder = worker.take(1);
        let effect = Arc::new(AtomicU32::new(0));
        let serving = thread::spawn({
            let effect = Arc::clone(&effect);
            move || {
                responder.begin();
                effect.store(1, Ordering::Relaxed);
                responder
            }
        });
        let is_done = effect.load(Ordering::Acquire) == 1;
        let stage = parent.mark(1).map(|mark| mark.stage);
        assert!(!is_done || stage == Some(Stage::Begun), "begun, but marked {stage:?}");
        answer(serving.join().unwrap());
    });
}

#[test]
fn a_mark_is_seen_with_the_time_of_its_own_request() {
    model_up_to(PREEMPTIONS, || {
        let Rig { parent, worker } = rig(1, 1);
        worker.sink.status.taken(1, 10);
        worker.sink.status.set_progress(1, 5);
        let status = worker.sink.status.clone();
        let taking = thread::spawn(move || status.taken(2, 20));
        if let Some(mark) = parent.mark(2) {
            assert_eq!((mark.since, mark.progress), (20, 0));
        }
        taking.join().unwrap();
    });
}

#[test]
fn the_end_of_a_request_leaves_the_mark_of_the_next_one_alone() {
    model_up_to(PREEMPTIONS, || {
        // Both requests have the same entry.
        let Rig { mut parent, worker } = rig(1, 1);
        let first = worker.take(1);
        let answering = thread::spawn(move || answer(first));
        assert_eq!(parent.receive(), (Kind::RESULT, 1));
        let second = worker.take(2);
        answering.join().unwrap();
        assert_eq!(parent.mark(2).map(|mark| mark.stage), Some(Stage::Taken));
        drop(second);
        assert_eq!(parent.mark(2), None, "it was never begun");
    });
}

#[test]
fn a_reply_is_seen_only_with_the_mark_that_its_request_was_answered() {
    model_up_to(PREEMPTIONS, || {
        let Rig { mut parent, worker } = rig(1, 1);
        let responder = worker.take(1);
        let answering = thread::spawn(move || answer(responder));
        assert_eq!(parent.receive(), (Kind::RESULT, 1));
        let stage = parent.mark(1).map(|mark| mark.stage);
        assert!(
            [Some(Stage::Answered), Some(Stage::Done)].contains(&stage),
            "a reply, but marked {stage:?}"
        );
        answering.join().unwrap();
    });
}
