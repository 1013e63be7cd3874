//! Tasks that wait, and the thread in the inbox, which wakes them.

use std::pin::pin;
use std::task::{Context, Poll, Wake, Waker};

use super::*;
use crate::ring::doorbell::Step;
use crate::sync::{BACKSTOP, Counter, Thread, current, park_timeout};
use crate::sys::clock::Deadline;
use crate::worker::shared_sink::SharedSink;
use crate::worker::shared_sink::looks::{has_others, look_after_others};

/// Wakes the thread that polls a task.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// An executor of one task, which polls it only when it is woken.
fn block_on<F: Future>(task: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(current())));
    let mut task = pin!(task);
    loop {
        if let Poll::Ready(output) = task.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        park_timeout(BACKSTOP);
    }
}

/// Counts the wakes of a task that is polled and woken by one thread.
#[derive(Default)]
struct Wakes(Counter);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// What the thread in the inbox does whenever the bell has woken it.
fn look(sink: &SharedSink) {
    if has_others(sink) {
        look_after_others(sink).unwrap();
    }
}

/// A model in which the thread in the inbox polls a task at this look for the first time, and then
/// whenever it is woken.
fn taker_polls_at(first_poll: u32) {
    model_up_to(PREEMPTIONS, move || {
        let Rig { mut parent, worker } = rig(1, 1);
        worker.fill();
        let responder = worker.take(1);
        let sink = worker.sink;
        let taking = thread::spawn(move || {
            let wakes = Arc::new(Wakes::default());
            let waker = Waker::from(Arc::clone(&wakes));
            let reply = byte(1);
            let mut task = pin!(responder.send_async(&reply));
            let mut looks = 0;
            let sent = sink.wait_until(Deadline::IDLE, |step| {
                if step == Step::Announce {
                    return Ok(None);
                }
                look(&sink);
                looks += 1;
                if looks == first_poll || wakes.0.swap(0, Ordering::Relaxed) > 0 {
                    let polled = task.as_mut().poll(&mut Context::from_waker(&waker));
                    return Ok(polled.is_ready().then_some(()));
                }
                Ok(None)
            });
            assert!(sent.unwrap().is_some());
        });
        parent.empty();
        assert_eq!(parent.receive(), (Kind::RESULT, 1));
        taking.join().unwrap();
    });
}

#[test]
fn a_task_that_waits_before_the_taker_looks_is_woken() {
    taker_polls_at(1);
}

#[test]
fn a_task_that_waits_as_the_taker_goes_to_sleep_is_woken() {
    // The second look is the last before the sleep.
    taker_polls_at(2);
}

#[test]
fn a_task_that_begins_to_wait_for_room_as_there_is_some_is_woken() {
    model_up_to(PREEMPTIONS, || {
        let Rig { mut parent, worker } = rig(1, 1);
        worker.fill();
        let responder = worker.take(1);
        let waiting = thread::spawn(move || block_on(responder.send_async(&byte(1))).unwrap());
        parent.empty();
        look(&worker.sink);
        assert_eq!(parent.receive(), (Kind::RESULT, 1));
        waiting.join().unwrap();
    });
}

#[test]
fn a_task_behind_one_that_is_given_up_gets_its_turn() {
    model_up_to(PREEMPTIONS, || {
        let Rig { mut parent, worker } = rig(2, 2);
        worker.fill();
        let [mut first, second] = [1, 2].map(|request| worker.take(request));
        let chunk = byte(1);
        let mut task = Box::pin(first.send_chunk_async(&chunk));
        let polled = task.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending(), "the ring is full");
        let waiting = thread::spawn(move || block_on(second.send_async(&byte(2))).unwrap());
        parent.empty();
        look(&worker.sink);
        drop(task);
        assert_eq!(parent.receive(), (Kind::RESULT, 2));
        waiting.join().unwrap();
    });
}

#[test]
fn a_task_that_waits_for_a_cancel_is_woken_by_it() {
    model_up_to(ONE, || {
        let Rig { mut parent, worker } = rig(2, 2);
        let responder = worker.take(1);
        let cancelled = responder.cancelled();
        let waiting = thread::spawn(move || {
            block_on(cancelled);
            drop(responder);
        });
        let taking = thread::spawn(move || answer(worker.inbox.recv().unwrap().responder));
        parent.cancel(1);
        assert_eq!(parent.receive(), (Kind::CANCEL, 1));
        parent.send(2);
        assert_eq!(parent.receive(), (Kind::RESULT, 2));
        waiting.join().unwrap();
        taking.join().unwrap();
    });
}
